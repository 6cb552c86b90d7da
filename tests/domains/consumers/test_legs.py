"""What is sent to the meters of a consent while a meter, or home itself, takes no facts."""

from __future__ import annotations

from collections.abc import Awaitable
from copy import deepcopy
from dataclasses import replace
from functools import reduce
from types import SimpleNamespace
from typing import Any, cast

import pytest

from domains.consumers.actions import Action
from domains.consumers.commands import (
    NarrowConsent,
    ResumeConsent,
    RevokeConsent,
    SuspendConsent,
    WithdrawConsent,
)
from domains.consumers.decider import CONSUMERS
from domains.consumers.evolve import find_consent
from domains.consumers.fan_out import CONSENT_FAN_OUT, FanOutOrdered, OrderFanOut
from domains.consumers.legs import open_orders
from domains.consumers.tightenings import OrderTightening
from spine.consumers.v1 import consumers_pb2
from spine.domain import Actor, Domain
from spine.errors import NotPermitted, Pushback, Reason, Refused
from spine.in_force import under_policy
from spine.orders import Handled, Order, Rehearsed
from spine.policy import Role
from spine.policy_data import POLICY_DATA, POLICY_DATA_V1
from spine.services.consumers import ConsumersService
from spine.services.legs import FanOuts
from tests.domains.consumers.home import (
    ADVISER,
    ANNA,
    HOME,
    NOW,
    OTHER_SUPPLIER,
    RIVAL,
    SERVICE,
    day,
    granted,
    terms,
)

A, B, X = "1200012345678", "1200087654321", "1200011112222"


class Memory:
    """A coordinator whose log is a dictionary. Subjects that are `closed` take no facts."""

    def __init__(self, domain: Domain, policy: int = 1) -> None:
        self.domain, self.policy = domain, policy
        self.states: dict[str, Any] = {}
        self.applied: dict[bytes, Handled] = {}
        self.closed: set[str] = set()
        self.admitted: set[str] = {ADVISER.party}

    def begin(self, subject: str, *events: Any) -> None:
        self.states[subject] = reduce(self.domain.evolve, events, self.state(subject))

    def state(self, subject: str) -> Any:
        return self.states.get(subject, self.domain.initial())

    def earlier(self, order: Order) -> Handled | None:
        applied = self.applied.get(order.id)
        return applied and replace(applied, replayed=True)

    def live(self, subject: str) -> Any:
        policy = SimpleNamespace(version=self.policy)
        fold = SimpleNamespace(
            standing=lambda _: SimpleNamespace(policy=policy),
            participant=lambda party: party if party in self.admitted else None,
        )
        return SimpleNamespace(stored=SimpleNamespace(fold=fold))

    async def level(self, subject: str) -> None:
        pass

    async def rehearse(self, subject: str, command: Any, by: Actor) -> Rehearsed:
        if subject in self.closed:
            raise Pushback(Reason.METER_CLOSED, "closed", retry_after_s=60)
        if by == ADVISER and by.party not in self.admitted:
            raise NotPermitted(Reason.PARTICIPANT_UNKNOWN, "the organisation is not accredited")
        before = self.state(subject)
        given = under_policy(self.live(subject).stored.fold, command)
        events = self.domain.decide(before, given, NOW)
        return Rehearsed(before, reduce(self.domain.evolve, events, before), NOW)

    async def handle(self, order: Order) -> Handled:
        if (earlier := self.earlier(order)) is not None:
            return earlier
        found = await self.rehearse(order.subject, order.command, order.actor)
        changed = found.before != found.after
        handled = Handled(self.domain.topic, 0, len(self.applied), 0, False, changed)
        if changed:
            self.states[order.subject] = found.after
            self.applied[order.id] = handled
        return handled


class Consents(FanOuts):
    """The consents of one home, as its coordinator orders them and sees their legs through."""

    def __init__(self, *mpxns: str) -> None:
        self.meters: Any = Memory(CONSUMERS)
        self.home: Any = Memory(CONSENT_FAN_OUT)
        for mpxn in mpxns:
            self.meters.begin(mpxn, *HOME, granted())
        super().__init__(cast(Any, self.meters), cast(Any, self.home), "consumers")

    def stands(self, *mpxns: str) -> list[str]:
        found = (find_consent(self.meters.state(mpxn), "k-1") for mpxn in mpxns)
        return ["" if one is None else str(one.state) for one in found]


def tighten(command: Any, *mpxns: str, key: str = "key-1") -> Order:
    order = OrderTightening(command.by, command, mpxns)
    return Order("k-1", order, command.by, type(command).__name__, key, b"digest")


@pytest.mark.parametrize("mpxns", [(A, B), (B, A)])
async def test_a_closed_meter_keeps_a_revocation_from_no_other(mpxns: tuple[str, ...]) -> None:
    """Whatever its place: the leg to it stays missing, and is sent once it is open again."""
    consents = Consents(A, B, X)
    consents.meters.closed.add(B)
    revoke = tighten(RevokeConsent(ANNA, "k-1"), *mpxns)
    assert await consents.takes_away(revoke)
    await consents.home.handle(revoke)
    await consents.send("k-1", ending=True)
    assert consents.stands(A, B, X) == ["REVOKED", "ACTIVE", "ACTIVE"]
    assert len(open_orders(consents.home.state("k-1"))) == 1
    consents.meters.closed.clear()
    await consents.send("k-1", ending=True)
    assert consents.stands(A, B, X) == ["REVOKED", "REVOKED", "ACTIVE"]
    assert not open_orders(consents.home.state("k-1"))


async def test_what_is_refused_at_every_open_meter_waits_for_the_closed_one() -> None:
    consents = Consents(B)
    consents.meters.closed.add(B)
    assert await consents.takes_away(tighten(RevokeConsent(ANNA, "k-1"), A, B))
    assert not await consents.takes_away(tighten(RevokeConsent(ANNA, "k-1"), A, X))


async def test_a_stranger_leaves_no_order_at_a_home_by_naming_a_closed_meter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    consents = Consents(B)
    consents.meters.closed.add(B)
    stranger = Actor(Role.CONSUMER, "c-stranger")
    for key, by in (("theirs", stranger), ("own", ANNA)):
        revoke = tighten(RevokeConsent(by, "k-1"), B, X, key=key)
        assert await consents.takes_away(revoke) == (by == ANNA)
    suspend = SuspendConsent(SERVICE, "k-1", "CHECK")
    assert await consents.takes_away(tighten(suspend, B, X, key="service"))
    monkeypatch.setattr(FanOuts, "_may_concern", lambda *_: True)
    naive = tighten(RevokeConsent(stranger, "k-1"), B, X, key="naive")
    assert await consents.takes_away(naive), "a naive home takes it from anybody"


async def test_whose_grant_is_on_its_way_to_a_closed_meter_has_its_revocation_ordered_too() -> None:
    """The meter knows of no tenancy yet; naively the grant arrives there, and nothing after it."""
    consents = Consents()
    grant = OrderFanOut(ANNA, "k-1", Action.GRANT, (A, B), terms())
    await consents.home.handle(Order("k-1", grant, ANNA, "GrantConsent", "grant", b"digest"))
    consents.meters.closed.add(B)
    assert await consents.takes_away(tighten(RevokeConsent(ANNA, "k-1"), B, X))
    stranger = Actor(Role.CONSUMER, "c-stranger")
    assert not await consents.takes_away(tighten(RevokeConsent(stranger, "k-1"), B, X))


async def test_an_organisation_leaves_no_order_at_a_home_by_naming_a_closed_meter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At B the consent is the adviser's, as far as was folded; at A and X a grant is on its way."""
    consents = Consents(B)
    grant = OrderFanOut(ANNA, "k-1", Action.GRANT, (A, X), terms())
    consents.meters.closed.update((A, B, X))
    for meters in ((B, X), (A, X)):
        for by in (RIVAL, OTHER_SUPPLIER, ADVISER):
            withdraw = tighten(WithdrawConsent(by, "k-1"), *meters, key=f"{by.party}/{meters}")
            assert await consents.takes_away(withdraw) == (by == ADVISER), meters
        await consents.home.handle(Order("k-1", grant, ANNA, "GrantConsent", "grant", b"digest"))
    monkeypatch.setattr(FanOuts, "_may_concern", lambda *_: True)
    naive = tighten(WithdrawConsent(RIVAL, "k-1"), B, X, key="naive")
    assert await consents.takes_away(naive), "a naive home takes it from any organisation"


async def test_an_organisation_does_not_bar_the_grant_of_another_that_is_on_its_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever knew the id could put a bar up at the meter before the grant arrives there."""
    consents = Consents()
    grant = OrderFanOut(ANNA, "k-1", Action.GRANT, (A, B), terms())
    await consents.home.handle(Order("k-1", grant, ANNA, "GrantConsent", "grant", b"digest"))
    await consents.check_known(A, WithdrawConsent(ADVISER, "k-1"))
    with pytest.raises(NotPermitted) as refused:
        await consents.check_known(A, WithdrawConsent(RIVAL, "k-1"))
    assert refused.value.reason is Reason.NOT_PERMITTED
    monkeypatch.setattr(FanOuts, "_is_own_by_order", lambda *_: True)
    await consents.check_known(A, WithdrawConsent(RIVAL, "k-1"))
    bar = Order(A, WithdrawConsent(RIVAL, "k-1"), RIVAL, "WithdrawConsent", "bar", b"digest")
    await consents.meters.handle(bar)
    await consents.send("k-1", ending=False)
    assert consents.stands(A, B) == ["WITHDRAWN", ""], "naively the grant is kept out for ever"


async def test_a_narrowing_of_the_whole_reaches_a_meter_that_was_narrowed_by_itself() -> None:
    """The naive leg repeats the whole scope, which is wider than what is left at such a meter."""
    meters = (A, B, X)
    narrower = terms(expires=day(9))
    whole = OrderFanOut(ANNA, "k-1", Action.NARROW, meters, narrower)
    naive = NarrowConsent(ANNA, "k-1", narrower.categories, narrower.history_from, narrower.expires)

    def reads() -> list[Any]:
        found = (find_consent(consents.meters.state(mpxn), "k-1") for mpxn in meters)
        return [(one.categories, one.expires) for one in found if one is not None]

    consents = Consents(*meters)
    first = OrderFanOut(ANNA, "k-1", Action.GRANT, meters, terms())
    for order in (first, tighten(NarrowConsent(ANNA, "k-1", ("TARIFF",)), A, B).command):
        await consents.home.handle(Order("k-1", order, ANNA, "x", str(order), b"digest"))
        await consents.send("k-1", ending=False)
    with pytest.raises(Refused) as wider:
        await consents.meters.rehearse(A, naive, ANNA)
    assert wider.value.reason is Reason.CONSENT_WIDER
    await consents.home.handle(Order("k-1", whole, ANNA, "x", "whole", b"digest"))
    sent = await consents.send("k-1", ending=False)
    assert not any(done.error for done in sent.values())
    assert reads() == [(("TARIFF",), day(9))] * 2 + [(("HH_CONSUMPTION", "TARIFF"), day(9))]


def call(consents: Consents, command: Any, *mpxns: str, key: str) -> Awaitable[Any]:
    """The call of the service that gives this command to these meters of the consent."""
    action = type(command).__name__.removesuffix("Consent").upper()
    answers: Any = SimpleNamespace(
        meters=consents.meters,
        log_id=b"log",
        leg=lambda _, done, by: consumers_pb2.Leg(mpxn=done.mpxn),
    )
    service = ConsumersService(answers, consents, consents.home, cast(Any, None))
    request = consumers_pb2.ResumeConsentRequest(idempotency_key=key, consent_id="k-1", mpxns=mpxns)
    return service._consent(request, OrderFanOut(command.by, "k-1", action, mpxns), command)


async def test_a_resumption_is_not_undone_by_a_suspension_that_was_ordered_before() -> None:
    """The naive call goes straight to the meters, and a suspension still missing follows it."""
    suspend, resume = SuspendConsent(SERVICE, "k-1", "CHECK"), ResumeConsent(SERVICE, "k-1")

    async def left_open() -> Consents:
        """The process stops between the order and its legs."""
        consents = Consents(A, B, X)
        await consents.home.handle(tighten(suspend, A, B))
        return consents

    naive = await left_open()
    for mpxn in (A, B):
        await naive.meters.handle(Order(mpxn, resume, SERVICE, "ResumeConsent", "r", b""))
    await naive.send("k-1", ending=False)
    assert naive.stands(A, B, X) == ["SUSPENDED", "SUSPENDED", "ACTIVE"]

    consents = await left_open()
    await call(consents, resume, A, B, key="r")
    await consents.send("k-1", ending=False)
    assert consents.stands(A, B, X) == ["ACTIVE"] * 3

    consents = await left_open()
    consents.meters.closed.add(B)
    with pytest.raises(Pushback):
        await call(consents, resume, A, B, key="r")
    consents.meters.closed.clear()
    await consents.send("k-1", ending=False)
    assert consents.stands(B) == ["SUSPENDED"]
    await call(consents, resume, A, B, key="r")
    assert consents.stands(A, B, X) == ["ACTIVE"] * 3


async def test_a_suspension_is_not_undone_by_a_resumption_that_was_ordered_before() -> None:
    """It finds the meter suspended still; the naive call answers that it is already so."""
    suspend = SuspendConsent(SERVICE, "k-1", "CHECK")

    async def left_open() -> Consents:
        consents = Consents(A, B)
        first = OrderFanOut(ANNA, "k-1", Action.GRANT, (A, B), terms())
        hold = OrderFanOut(SERVICE, "k-1", Action.SUSPEND, reason="CHECK")
        lift = OrderFanOut(SERVICE, "k-1", Action.RESUME)
        for order in (first, hold, lift):
            if order is lift:
                await consents.send("k-1", ending=False)
            await consents.home.handle(Order("k-1", order, order.by, order.action, "k", b""))
        assert consents.stands(A, B) == ["SUSPENDED"] * 2
        return consents

    naive = await left_open()
    await naive.meters.handle(Order(B, suspend, SERVICE, "SuspendConsent", "s", b""))
    await naive.send("k-1", ending=False)
    assert naive.stands(A, B) == ["ACTIVE", "ACTIVE"]

    consents = await left_open()
    await call(consents, suspend, B, key="s")
    await consents.send("k-1", ending=False)
    assert consents.stands(A, B) == ["ACTIVE", "SUSPENDED"]


async def test_a_grant_reaches_a_meter_that_learns_of_the_policy_after_home(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By the policy before, its no is none: the naive way takes it for the answer."""
    newer: Any = deepcopy(dict(POLICY_DATA_V1)) | {"version": 99}
    newer["bases"]["CONSENT"]["purposes"].append("ASTROLOGY")
    asked = OrderFanOut(ANNA, "k-1", Action.GRANT, (A, B), terms(purpose="ASTROLOGY"))

    async def granted_at_home() -> Consents:
        consents = Consents()
        for mpxn in (A, B):
            consents.meters.begin(mpxn, *HOME)
        consents.home.policy = 99
        with monkeypatch.context() as build:
            build.setitem(POLICY_DATA, 99, newer)
            await consents.home.handle(Order("k-1", asked, ANNA, "GrantConsent", "k", b""))
        return consents

    async def reasons(consents: Consents) -> set[Any]:
        sent = await consents.send("k-1", ending=False)
        return {done.error and (type(done.error), done.error.reason) for done in sent.values()}

    consents = await granted_at_home()
    with monkeypatch.context() as build:
        build.setitem(POLICY_DATA, 99, newer)
        assert await reasons(consents) == {(Pushback, Reason.FOLD_BEHIND)}
    consents.meters.policy = 99  # and now a build that has yet to learn it
    assert await reasons(consents) == {(Pushback, Reason.POLICY_VERSION_STATE)}
    monkeypatch.setitem(POLICY_DATA, 99, newer)
    assert await reasons(consents) == {None}
    assert consents.stands(A, B) == ["ACTIVE", "ACTIVE"]

    naive = await granted_at_home()
    with monkeypatch.context() as without:
        without.setattr("spine.services.legs._undecided", lambda error, untold: None)
        assert await reasons(naive) == {(Refused, Reason.CODE_UNKNOWN)}
    naive.meters.policy = 99
    assert await reasons(naive) == set()
    assert naive.stands(A, B) == ["", ""]


async def test_a_request_reaches_a_meter_that_learns_of_its_sender_after_home(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = OrderFanOut(ADVISER, "k-1", Action.REQUEST, (A, B), terms(), answer_by=day(7))

    async def requested_at_home() -> Consents:
        consents = Consents()
        for mpxn in (A, B):
            consents.meters.begin(mpxn, *HOME)
        consents.meters.admitted.clear()
        await consents.home.handle(Order("k-1", asked, ADVISER, "RequestConsent", "k", b""))
        return consents

    naive = await requested_at_home()
    with monkeypatch.context() as without:
        without.setattr("spine.services.legs._undecided", lambda error, untold: None)
        await naive.send("k-1", ending=False)
    consents = await requested_at_home()
    sent = await consents.send("k-1", ending=False)
    assert {type(done.error) for done in sent.values()} == {Pushback}
    for each in (naive, consents):
        each.meters.admitted.add(ADVISER.party)
        await each.send("k-1", ending=False)
    assert consents.stands(A, B) == ["REQUESTED", "REQUESTED"]
    assert naive.stands(A, B) == ["", ""]
    suspended = await requested_at_home()
    suspended.home.admitted.clear()  # both were told the same since: now the no is the answer
    await suspended.send("k-1", ending=False)
    assert not open_orders(suspended.home.state("k-1"))


async def test_a_code_that_no_policy_has_is_refused_for_good() -> None:
    """Where the meter knows the policy of home, its no is the answer."""
    consents = Consents()
    consents.meters.begin(A, *HOME)
    ordered = FanOutOrdered(
        1,
        "k-1",
        "GRANT",
        (A,),
        terms(purpose="NOSINESS"),
        None,
        "",
        "",
        "",
        ANNA.role,
        ANNA.party,
        NOW,
    )
    consents.home.begin("k-1", ordered)
    sent = await consents.send("k-1", ending=False)
    assert [done.error and done.error.reason for done in sent.values()] == [Reason.CODE_UNKNOWN]
    assert not open_orders(consents.home.state("k-1"))


@pytest.mark.parametrize("whole", [False, True])
async def test_a_revocation_bites_while_home_takes_no_order(whole: bool) -> None:
    """The call is answered "not now"; sent again when home is back, it finds what it did."""
    consents = Consents(A, B, X)
    if whole:
        first = OrderFanOut(ANNA, "k-1", Action.GRANT, (A, B, X), terms())
        await consents.home.handle(Order("k-1", first, ANNA, "GrantConsent", "g", b""))
        await consents.send("k-1", ending=False)
    named = (A, B, X) if whole else (A, B)
    consents.home.closed.add("k-1")
    with pytest.raises(Pushback):
        await call(consents, RevokeConsent(ANNA, "k-1"), *named, key="r")
    assert consents.stands(*named) == ["REVOKED"] * len(named)
    consents.home.closed.clear()
    if not whole:
        again = await call(consents, RevokeConsent(ANNA, "k-1"), *named, key="r")
        assert again.replayed and len(again.legs) == 2
    assert consents.stands(A, B, X) == ["REVOKED", "REVOKED", "REVOKED" if whole else "ACTIVE"]


async def test_a_resumption_waits_for_home() -> None:
    consents = Consents(A, B)
    first = OrderFanOut(ANNA, "k-1", Action.GRANT, (A, B), terms())
    hold = OrderFanOut(SERVICE, "k-1", Action.SUSPEND, reason="CHECK")
    for order in (first, hold):
        await consents.home.handle(Order("k-1", order, order.by, order.action, "k", b""))
        await consents.send("k-1", ending=False)
    consents.home.closed.add("k-1")
    with pytest.raises(Pushback):
        await call(consents, ResumeConsent(SERVICE, "k-1"), A, B, key="r")
    assert consents.stands(A, B) == ["SUSPENDED"] * 2
