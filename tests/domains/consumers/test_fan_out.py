"""A consent over several meters: what is ordered, what is still to be sent, what overtakes."""

from datetime import datetime
from typing import Any

import pytest

from domains.consumers.actions import METERS_MAX, Action
from domains.consumers.commands import (
    DeclineConsent,
    GrantConsent,
    NarrowConsent,
    RequestConsent,
    ResumeConsent,
    RevokeConsent,
    SuspendConsent,
    WithdrawConsent,
)
from domains.consumers.fan_out import (
    CONSENT_FAN_OUT,
    CompleteFanOut,
    FanOut,
    FanOutCompleted,
    FanOutOrdered,
    Order,
    OrderFanOut,
    tightens,
)
from domains.consumers.legs import legs, open_orders
from domains.consumers.tightenings import OrderTightening, TighteningOrdered
from spine.domain import Actor
from spine.errors import Reason
from tests.domains.consumers.home import (
    ADVISER,
    ANNA,
    BEN,
    COORDINATOR,
    NOW,
    REGULATOR,
    RIVAL,
    SERVICE,
    day,
    terms,
)
from tests.helpers.specification import given

METERS = ("1200012345678", "1200087654321")
NARROWER = terms(categories=("TARIFF",))


def order(action: str, by: Actor = ANNA, **changes: Any) -> OrderFanOut:
    return OrderFanOut(by, "k-1", action, **changes)


def first(action: str = "GRANT", by: Actor = ANNA, **changes: Any) -> OrderFanOut:
    named: dict[str, Any] = {"mpxns": METERS, "terms": terms()}
    return order(action, by, **(named | changes))


def request(**changes: Any) -> OrderFanOut:
    return first("REQUEST", ADVISER, **({"answer_by": day(7)} | changes))


def ordered(
    number: int,
    action: str,
    by: Actor = ANNA,
    answer_by: datetime | None = None,
    **changes: Any,
) -> FanOutOrdered:
    said: dict[str, Any] = {
        "mpxns": METERS,
        "terms": terms(),
        "channel": "",
        "evidence": "",
        "reason": "",
    }
    return FanOutOrdered(
        number,
        "k-1",
        action,
        answer_by=answer_by,
        actor_role=by.role,
        actor_party=by.party,
        ordered_at=NOW,
        **(said | changes),
    )


REQUESTED = ordered(1, "REQUEST", ADVISER, day(7))
GRANTED = ordered(1, "GRANT")
SUSPENDED = ordered(2, "SUSPEND", REGULATOR)
REVOKED = ordered(2, "REVOKE")


@pytest.mark.parametrize(
    ("events", "command", "reason"),
    [
        ((), first("FORGET"), Reason.CODE_UNKNOWN),
        ((), first(by=ADVISER), Reason.ROLE_NOT_ALLOWED),
        ((), order("REVOKE"), Reason.CONSENT_UNKNOWN),
        ((), first(terms=None), Reason.FIELD_MISSING),
        ((), first(by=BEN), Reason.CONSENT_NOT_YOURS),
        ((), first(terms=terms(purpose="NOSINESS")), Reason.CODE_UNKNOWN),
        ((), first(mpxns=()), Reason.FIELD_MISSING),
        ((), first(mpxns=tuple(map(str, range(METERS_MAX + 1)))), Reason.REQUEST_TOO_LARGE),
        ((), first(mpxns=(METERS[0], METERS[0])), Reason.FIELD_INVALID),
        ((), request(answer_by=None), Reason.FIELD_MISSING),
        ((), request(answer_by=day(6)), Reason.CONSENT_LAPSED),
        ((GRANTED,), order("REVOKE", BEN), Reason.CONSENT_NOT_YOURS),
        ((GRANTED,), order("WITHDRAW", RIVAL), Reason.CONSENT_NOT_YOURS),
        ((GRANTED, REVOKED), first(), Reason.CONSENT_REVOKED),
        ((GRANTED, REVOKED), order("RESUME", SERVICE), Reason.CONSENT_REVOKED),
        ((GRANTED,), request(), Reason.CONSENT_EXISTS),
        ((GRANTED,), first(terms=NARROWER), Reason.CONSENT_EXISTS),
        ((GRANTED,), first(mpxns=("1",)), Reason.CONSENT_EXISTS),
        ((GRANTED, SUSPENDED), first(), Reason.CONSENT_SUSPENDED),
        ((ordered(1, "REQUEST", ADVISER, NOW),), first(), Reason.CONSENT_LAPSED),
        ((REQUESTED,), first(terms=terms(history_from=day(2))), Reason.CONSENT_WIDER),
        ((REQUESTED,), first(mpxns=("1",)), Reason.CONSENT_WIDER),
        ((GRANTED,), order("DECLINE"), Reason.CONSENT_STATE),
        ((REQUESTED,), order("NARROW", terms=NARROWER), Reason.CONSENT_NOT_ANSWERED),
        ((GRANTED,), order("NARROW"), Reason.FIELD_MISSING),
        ((GRANTED,), order("NARROW", terms=terms(history_from=day(2))), Reason.CONSENT_WIDER),
        ((REQUESTED,), order("SUSPEND", SERVICE), Reason.CONSENT_NOT_ANSWERED),
        ((REQUESTED,), order("RESUME", SERVICE), Reason.CONSENT_NOT_ANSWERED),
        ((GRANTED, SUSPENDED), order("RESUME", SERVICE), Reason.ROLE_NOT_ALLOWED),
        ((GRANTED,), CompleteFanOut(ANNA, 1), Reason.ROLE_NOT_ALLOWED),
        ((GRANTED,), CompleteFanOut(COORDINATOR, 2), Reason.CONSENT_UNKNOWN),
    ],
)
def test_refusals(events: Any, command: Any, reason: Reason) -> None:
    given(CONSENT_FAN_OUT, *events).at(NOW).when(command).refused(reason)


@pytest.mark.parametrize(
    ("events", "command"),
    [
        ((GRANTED,), first()),
        ((REQUESTED,), request()),
        ((GRANTED,), order("NARROW", terms=terms())),
        ((GRANTED,), order("RESUME", SERVICE)),
        ((GRANTED, SUSPENDED), order("SUSPEND", SERVICE)),
        ((GRANTED, REVOKED), order("REVOKE")),
        ((GRANTED, REVOKED), order("WITHDRAW", ADVISER)),
        ((GRANTED, REVOKED), CompleteFanOut(COORDINATOR, 1)),
    ],
)
def test_what_is_already_so(events: Any, command: Any) -> None:
    given(CONSENT_FAN_OUT, *events).at(NOW).when(command).nothing()


def test_from_request_to_completion() -> None:
    home = given(CONSENT_FAN_OUT).at(NOW).when(request()).then(REQUESTED)
    assert open_orders(home.state) == (REQUESTED,)
    answer = ordered(2, "GRANT", mpxns=METERS[:1])
    granted = home.when(first(mpxns=METERS[:1])).then(answer)
    granted.when(first(mpxns=METERS)).refused(Reason.CONSENT_EXISTS)
    assert open_orders(granted.state) == (REQUESTED, answer)
    done = granted.when(CompleteFanOut(COORDINATOR, 1)).then(FanOutCompleted(1, "REQUEST", NOW))
    assert open_orders(done.state) == (answer,)
    done.when(CompleteFanOut(COORDINATOR, 1)).nothing()


def test_an_end_overtakes_all_that_is_under_way() -> None:
    home = given(CONSENT_FAN_OUT, GRANTED, SUSPENDED).at(NOW)
    revoked = ordered(3, "REVOKE")
    ended = home.when(order("REVOKE")).then(revoked)
    assert open_orders(ended.state) == (revoked,)


def test_a_suspension_overtakes_what_loosens_and_waits_for_what_narrows() -> None:
    narrowed = ordered(2, "NARROW", terms=NARROWER)
    home = given(CONSENT_FAN_OUT, GRANTED, narrowed).at(NOW)
    held = ordered(3, "SUSPEND", SERVICE, terms=NARROWER, reason="complaint")
    suspended = home.when(order("SUSPEND", SERVICE, reason="complaint")).then(held)
    assert open_orders(suspended.state) == (narrowed, held)
    lifted = ordered(4, "RESUME", SERVICE, terms=NARROWER)
    resumed = suspended.when(order("RESUME", SERVICE)).then(lifted)
    assert open_orders(resumed.state) == (narrowed, held, lifted)


@pytest.mark.parametrize(
    ("action", "command"),
    [
        ("REQUEST", RequestConsent(ANNA, "k-1", terms(), day(7))),
        ("GRANT", GrantConsent(ANNA, "k-1", terms(), "web", "e-1")),
        ("DECLINE", DeclineConsent(ANNA, "k-1")),
        ("SUSPEND", SuspendConsent(ANNA, "k-1", "complaint")),
        ("RESUME", ResumeConsent(ANNA, "k-1")),
        ("REVOKE", RevokeConsent(ANNA, "k-1")),
        ("WITHDRAW", WithdrawConsent(ANNA, "k-1")),
    ],
)
def test_every_order_says_exactly_what_to_send_to_each_meter(action: str, command: Any) -> None:
    said = ordered(1, action, answer_by=day(7), channel="web", evidence="e-1", reason="complaint")
    assert legs(FanOut((Order(said),)), said) == tuple((mpxn, command) for mpxn in METERS)


@pytest.mark.parametrize(
    ("changed", "left"),
    [
        ({"categories": ("TARIFF",)}, (("TARIFF",), None, None)),
        ({"history_from": day(4)}, (None, day(4), None)),
        ({"expires": day(9)}, (None, None, day(9))),
        ({"expires": day(9), "history_from": day(4)}, (None, day(4), day(9))),
    ],
)
def test_a_narrowing_of_the_whole_sends_no_more_than_it_changed(changed: Any, left: Any) -> None:
    """Also when a later order has changed the rest."""
    said = ordered(2, "NARROW", terms=terms(**changed))
    later = ordered(3, "NARROW", terms=terms(**({"categories": ("HH_CONSUMPTION",)} | changed)))
    for orders in ((GRANTED, said), (GRANTED, said, later)):
        sent = legs(FanOut(tuple(map(Order, orders))), said)
        assert sent == tuple((mpxn, NarrowConsent(ANNA, "k-1", *left)) for mpxn in METERS)


def tightening(command: Any, *mpxns: str) -> OrderTightening:
    return OrderTightening(command.by, command, mpxns or METERS)


def less(number: int, action: str, by: Actor = ANNA, **changes: Any) -> TighteningOrdered:
    said: dict[str, Any] = {"categories": (), "history_from": None, "expires": None, "reason": ""}
    return TighteningOrdered(
        number,
        "k-1",
        action,
        METERS,
        actor_role=by.role,
        actor_party=by.party,
        ordered_at=NOW,
        **(said | changes),
    )


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (DeclineConsent(ANNA, "k-1"), less(1, "DECLINE")),
        (SuspendConsent(SERVICE, "k-1", "x"), less(1, "SUSPEND", SERVICE, reason="x")),
        (RevokeConsent(BEN, "k-1"), less(1, "REVOKE", BEN)),
        (WithdrawConsent(RIVAL, "k-1"), less(1, "WITHDRAW", RIVAL)),
        (NarrowConsent(ANNA, "k-1", ("TARIFF",)), less(1, "NARROW", categories=("TARIFF",))),
        (NarrowConsent(ANNA, "k-1", expires=day(9)), less(1, "NARROW", expires=day(9))),
    ],
)
def test_a_tightening_is_ordered_without_terms_and_sent_as_it_came(command: Any, said: Any) -> None:
    """Whose consent it is, each meter judges: home need not know of it."""
    home = given(CONSENT_FAN_OUT).at(NOW).when(tightening(command)).then(said)
    assert open_orders(home.state) == (said,)
    assert legs(home.state, said) == tuple((mpxn, command) for mpxn in METERS)
    done = home.when(CompleteFanOut(COORDINATOR, 1)).then(FanOutCompleted(1, said.action, NOW))
    assert open_orders(done.state) == ()
    done.when(CompleteFanOut(COORDINATOR, 1)).nothing()
    done.when(first()).then(ordered(2, "GRANT"))


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (tightening(ResumeConsent(SERVICE, "k-1")), Reason.CODE_UNKNOWN),
        (OrderTightening(BEN, RevokeConsent(ANNA, "k-1"), METERS), Reason.CODE_UNKNOWN),
        (tightening(RevokeConsent(ADVISER, "k-1")), Reason.ROLE_NOT_ALLOWED),
        (tightening(RevokeConsent(ANNA, "")), Reason.FIELD_MISSING),
        (OrderTightening(ANNA, RevokeConsent(ANNA, "k-1"), ()), Reason.FIELD_MISSING),
        (tightening(RevokeConsent(ANNA, "k-1"), METERS[0], METERS[0]), Reason.FIELD_INVALID),
    ],
)
def test_what_cannot_be_ordered_as_a_tightening(command: Any, reason: Reason) -> None:
    given(CONSENT_FAN_OUT, GRANTED).at(NOW).when(command).refused(reason)


def test_orders_count_together_and_an_end_of_the_whole_leaves_a_tightening_to_be_sent() -> None:
    """It may name meters at which the same id was given one by one."""
    home = given(CONSENT_FAN_OUT, GRANTED).at(NOW)
    held = home.when(tightening(SuspendConsent(SERVICE, "k-1", ""))).then(
        less(2, "SUSPEND", SERVICE)
    )
    revoked = ordered(3, "REVOKE")
    ended = held.when(order("REVOKE")).then(revoked)
    assert open_orders(ended.state) == (less(2, "SUSPEND", SERVICE), revoked)
    assert tightens(tightening(RevokeConsent(ANNA, "k-1")))


def test_an_action_loosens_or_tightens() -> None:
    loosening = {action for action in Action if not tightens(order(action))}
    assert loosening == {Action.REQUEST, Action.GRANT, Action.RESUME}
