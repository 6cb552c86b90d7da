"""Everybody whom a consent concerns is told how it stands, in order, until they acknowledge it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from domains.consumers.acknowledgements import ACKNOWLEDGEMENTS
from domains.consumers.changes import (
    FIRST_RETRY,
    LAST_RETRY,
    OVERDUE_AFTER,
    AcknowledgeChange,
    Change,
    ChangeAcknowledged,
    Sent,
    decide,
    next_by_time,
    outstanding,
    send,
)
from domains.consumers.decider import CONSUMERS
from domains.consumers.events import (
    AgentAppointed,
    ConsentGranted,
    ConsentLapsed,
    ConsentNarrowed,
    ConsentRequested,
    ConsentResumed,
    ConsentRevoked,
    ConsentSuspended,
    ConsentTermsRecorded,
    ConsentWithdrawn,
    SupplyStarted,
    TenancyEnded,
    TenancyStarted,
)
from domains.consumers.record import RecordTerms
from domains.consumers.views import ShownState
from spine.domain import Actor, fold
from spine.errors import NotPermitted, Reason
from spine.policy import Role
from tests.helpers.changes import changes

METER = "1200000000003"
BEGUN = datetime(2026, 1, 1, tzinfo=UTC)
NOW = BEGUN + timedelta(days=40)
EXPIRES = BEGUN + timedelta(days=365)
HOUR = timedelta(hours=1)
ANSWER_BY = BEGUN + timedelta(days=14)
MOVED_IN = TenancyStarted("t-1", "c-1", BEGUN)
SERVED = AgentAppointed("collector", Role.DATA_SERVICE, BEGUN)


def granted(consent_id: str, after: timedelta, data_user: str = "adviser") -> ConsentGranted:
    at = BEGUN + after
    return ConsentGranted(
        consent_id,
        data_user,
        "t-1",
        "c-1",
        "ENERGY_ADVICE",
        ("HH_CONSUMPTION",),
        BEGUN,
        at,
        EXPIRES,
        at,
    )


def told(*events: Any, now: datetime = NOW) -> tuple[Change, ...]:
    """What is told to others than the consumer."""
    found = changes(METER, fold(CONSUMERS, (MOVED_IN, *events)), now)
    return tuple(change for change in found if change.told_as is not Role.CONSUMER)


def told_consumer(*events: Any, now: datetime = NOW) -> tuple[Change, ...]:
    found = changes(METER, fold(CONSUMERS, (MOVED_IN, *events)), now)
    return tuple(change for change in found if change.is_for(ANNA))


def states(found: Iterable[Change]) -> list[tuple[str, str]]:
    return [(change.receiver, change.state) for change in found]


def requested(consent_id: str, after: timedelta) -> ConsentRequested:
    at = BEGUN + after
    asked = granted(consent_id, after)
    return ConsentRequested(
        asked.consent_id,
        asked.data_user,
        asked.tenancy_id,
        asked.consumer_ref,
        asked.purpose,
        asked.categories,
        asked.history_from,
        asked.valid_from,
        asked.expires,
        ANSWER_BY,
        at,
    )


ANNA = Actor(Role.CONSUMER, "c-1")
REVOKED = ConsentRevoked("k-1", BEGUN + 3 * HOUR)
STORIES: dict[str, tuple[tuple[Any, ...], datetime, list[tuple[str, ShownState]]]] = {
    "a grant is told to the data user": (
        (SERVED, granted("k-1", HOUR)),
        NOW,
        [("adviser", ShownState.ACTIVE)],
    ),
    "a revocation to the data service too": (
        (SERVED, granted("k-1", HOUR), REVOKED),
        NOW,
        [("adviser", ShownState.REVOKED), ("collector", ShownState.REVOKED)],
    ),
    "a withdrawal only to others": (
        (SERVED, granted("k-1", HOUR), ConsentWithdrawn("k-1", BEGUN + 2 * HOUR)),
        NOW,
        [("collector", ShownState.WITHDRAWN)],
    ),
    "expiry, of which there is no event": (
        (granted("k-1", HOUR),),
        EXPIRES,
        [("adviser", ShownState.EXPIRED)],
    ),
    "the end of the tenancy": (
        (granted("k-1", HOUR), TenancyEnded("t-1", BEGUN + 5 * HOUR)),
        NOW,
        [("adviser", ShownState.ENDED)],
    ),
    "what was asked for and never granted, to no data service": (
        (SERVED, requested("k-1", HOUR), ConsentWithdrawn("k-1", BEGUN + 2 * HOUR)),
        NOW,
        [],
    ),
    "a request nobody answered, not before its lapse is recorded": (
        (SERVED, requested("k-1", HOUR)),
        ANSWER_BY,
        [],
    ),
    "and then once": (
        (SERVED, requested("k-1", HOUR), ConsentLapsed("k-1", ANSWER_BY)),
        NOW,
        [("adviser", ShownState.LAPSED)],
    ),
    "a bar, which is nobody's consent": ((SERVED, REVOKED), NOW, []),
    "a service appointed later holds nothing of before": (
        (
            granted("k-1", HOUR),
            REVOKED,
            AgentAppointed("collector", Role.DATA_SERVICE, BEGUN + 9 * HOUR),
        ),
        NOW,
        [("adviser", ShownState.REVOKED)],
    ),
}


@pytest.mark.parametrize("story", STORIES)
def test_who_is_told_what(story: str) -> None:
    events, now, expected = STORIES[story]
    assert states(told(*events, now=now)) == expected


SUSPENDED = ConsentSuspended("k-1", Role.GOVERNANCE, "INQUIRY", BEGUN + 2 * HOUR)
TO_THE_CONSUMER: dict[str, tuple[tuple[Any, ...], datetime, ShownState]] = {
    "a request that waits for its answer": (
        (requested("k-1", HOUR),),
        BEGUN + HOUR,
        ShownState.REQUESTED,
    ),
    "and that it was not answered in time": (
        (requested("k-1", HOUR), ConsentLapsed("k-1", ANSWER_BY)),
        NOW,
        ShownState.LAPSED,
    ),
    "what was given in its name": ((granted("k-1", HOUR),), NOW, ShownState.ACTIVE),
    "and taken back": ((granted("k-1", HOUR), REVOKED), NOW, ShownState.REVOKED),
    "a suspension": ((granted("k-1", HOUR), SUSPENDED), NOW, ShownState.SUSPENDED),
    "its lifting": (
        (granted("k-1", HOUR), SUSPENDED, ConsentResumed("k-1", BEGUN + 3 * HOUR)),
        NOW,
        ShownState.ACTIVE,
    ),
    "that the data user gave it up": (
        (granted("k-1", HOUR), ConsentWithdrawn("k-1", BEGUN + 2 * HOUR)),
        NOW,
        ShownState.WITHDRAWN,
    ),
    "expiry": ((granted("k-1", HOUR),), EXPIRES, ShownState.EXPIRED),
    "the end with the tenancy": (
        (granted("k-1", HOUR), TenancyEnded("t-1", BEGUN + 5 * HOUR)),
        NOW,
        ShownState.ENDED,
    ),
}


@pytest.mark.parametrize("story", TO_THE_CONSUMER)
def test_the_consumer_is_told_what_became_of_its_consent(story: str) -> None:
    events, now, expected = TO_THE_CONSUMER[story]
    (change,) = told_consumer(*events, now=now)
    assert (change.consent_id, change.state) == ("k-1", expected)
    assert decide(fold(ACKNOWLEDGEMENTS, ()), AcknowledgeChange(ANNA, change), NOW)
    assert not change.is_for(Actor(Role.CONSUMER, "c-2"))
    assert not change.is_for(Actor(Role.DATA_USER, "c-1"))


def test_a_consumer_is_told_nothing_of_a_bar_and_no_others_consent() -> None:
    assert told_consumer(REVOKED) == ()
    left = TenancyEnded("t-1", BEGUN + HOUR)
    came = TenancyStarted("t-2", "c-2", BEGUN + 2 * HOUR)
    theirs = replace(granted("k-2", 3 * HOUR), tenancy_id="t-2", consumer_ref="c-2")
    assert told_consumer(left, came, theirs) == ()
    assert [change.receiver for change in told(left, came, theirs)] == ["adviser"]


SUPPLIED = SupplyStarted("north", BEGUN)
SHARED = ConsentTermsRecorded(
    "k-1", RecordTerms(onward_sharing=True, recipients=("north",)), BEGUN + HOUR
)
IN_EACH_STATE: tuple[tuple[Any, ...], ...] = (
    (requested("k-1", HOUR),),
    (granted("k-1", HOUR),),
    (granted("k-1", HOUR), SUSPENDED),
    (granted("k-1", HOUR), REVOKED),
    (granted("k-1", HOUR), ConsentWithdrawn("k-1", BEGUN + 2 * HOUR)),
    (granted("k-1", HOUR), TenancyEnded("t-1", BEGUN + 5 * HOUR)),
)


def told_naively(*events: Any) -> set[tuple[str, str]]:
    """As if the meter's supplier were told as its data services are, because it holds readings."""
    as_service = AgentAppointed("north", Role.DATA_SERVICE, BEGUN)
    return {*states(told(*events, as_service))} - {*states(told(*events))}


def test_the_supplier_of_the_meter_is_no_holder_and_learns_of_nobody_elses_consent() -> None:
    """That its customer had let somebody in, it would learn from the end of that alone."""
    for events in IN_EACH_STATE:
        assert not {who for who, _ in states(told(SUPPLIED, *events))} & {"north"}
    assert told_naively(SUPPLIED, granted("k-1", HOUR), REVOKED) == {("north", ShownState.REVOKED)}


def test_a_supplier_is_told_as_a_data_user_and_as_a_recipient() -> None:
    own = granted("k-1", HOUR, "north")
    assert states(told(SUPPLIED, own, REVOKED)) == [("north", ShownState.REVOKED)]
    shared = told(SUPPLIED, granted("k-1", HOUR), SHARED, REVOKED)
    assert states(shared) == [("adviser", ShownState.REVOKED), ("north", ShownState.REVOKED)]
    supplier = Actor(Role.SUPPLIER, "north")
    assert [change.is_for(supplier) for change in shared] == [False, True]


def test_no_consumer_has_to_acknowledge_and_everybody_else_does() -> None:
    late = NOW + timedelta(days=3_000)
    (theirs,), (adviser,) = told_consumer(granted("k-1", HOUR)), told(granted("k-1", HOUR))
    assert (theirs.obliges, theirs.overdue(late)) == (False, False)
    assert (adviser.obliges, adviser.overdue(late)) == (True, True)


def test_each_receiver_is_told_the_oldest_first() -> None:
    found = told(granted("k-2", HOUR), granted("k-1", 2 * HOUR), REVOKED)
    assert [change.consent_id for change in found] == ["k-2", "k-1"]
    by_name = sorted(found, key=lambda change: change.consent_id)
    assert [c.since for c in by_name] != sorted(c.since for c in found), "the naive order differs"


def test_the_id_is_the_same_until_the_consent_changes() -> None:
    before = told(granted("k-1", HOUR))
    assert told(granted("k-1", HOUR), now=NOW + HOUR) == before
    paused = (
        ConsentSuspended("k-1", Role.CONSUMER, "HOLIDAY", BEGUN + 2 * HOUR),
        ConsentResumed("k-1", BEGUN + 3 * HOUR),
    )
    narrowed = ConsentNarrowed("k-1", 2, ("HH_CONSUMPTION",), BEGUN, NOW + HOUR, BEGUN + 2 * HOUR)
    again = told(granted("k-1", HOUR), *paused)
    assert states(again) == states(before), "by its state alone it would not be told again"
    ids = {found[0].id for found in (before, again, told(granted("k-1", HOUR), narrowed))}
    assert len(ids) == 3


def test_two_receivers_cannot_tell_each_others_ids() -> None:
    found = told(SERVED, granted("k-1", HOUR), REVOKED)
    assert len({change.id for change in found}) == 2


def test_nothing_is_dropped_however_long_a_receiver_is_away() -> None:
    (change,) = told(granted("k-1", HOUR), REVOKED, now=NOW + timedelta(days=3_000))
    assert change == told(granted("k-1", HOUR), REVOKED, now=REVOKED.decided_at)[0]
    assert not change.overdue(change.since + OVERDUE_AFTER)
    assert change.overdue(change.since + OVERDUE_AFTER + timedelta(milliseconds=1))


def test_what_time_will_change_is_known_beforehand() -> None:
    access = fold(CONSUMERS, (MOVED_IN, granted("k-1", HOUR)))
    assert next_by_time(access, BEGUN) == BEGUN + HOUR
    assert next_by_time(access, NOW) == EXPIRES
    assert next_by_time(access, EXPIRES) is None


ADVISER = Actor(Role.DATA_USER, "adviser")


def by_outstanding(found: tuple[Change, ...], acknowledged: set[str]) -> list[Change]:
    return list(outstanding(found, acknowledged).get(ADVISER, ()))


def by_cursor(found: tuple[Change, ...], acknowledged: set[str]) -> list[Change]:
    """The naive receiver's place in the list: whatever changes before it is never told."""
    return list(found[len(acknowledged) :])


Waiting = Callable[[tuple[Change, ...], set[str]], list[Change]]


def last_told(waits: Waiting, steps: list[tuple[int, bool]]) -> tuple[dict[str, str], list[Change]]:
    """A receiver that now and then acknowledges the first that waits, over consents that change."""
    grants = tuple(granted(f"k-{n}", n * HOUR) for n in range(3))
    events: list[Any] = list(grants)
    taken: dict[str, str] = {}
    acknowledged: set[str] = set()
    done: set[int] = set()
    found = told(*events)
    for number, (which, acknowledges) in enumerate(steps):
        if which not in done and not acknowledges:
            done.add(which)
            events.append(ConsentRevoked(f"k-{which}", BEGUN + timedelta(hours=10 + number)))
        found = told(*events)
        if acknowledges and (waiting := waits(found, acknowledged)):
            acknowledged.add(waiting[0].id)
            taken[waiting[0].consent_id] = waiting[0].state
    while waiting := waits(found, acknowledged):
        acknowledged.add(waiting[0].id)
        taken[waiting[0].consent_id] = waiting[0].state
    return taken, list(found)


@given(st.lists(st.tuples(st.integers(0, 2), st.booleans()), max_size=12))
def test_whatever_happens_between_acknowledgements_the_last_state_arrives(
    steps: list[tuple[int, bool]],
) -> None:
    taken, found = last_told(by_outstanding, steps)
    assert taken == {change.consent_id: change.state for change in found}


def test_a_place_in_a_list_loses_a_revocation() -> None:
    steps = [(0, True), (0, False), (0, True), (0, True), (0, True)]
    taken, found = last_told(by_cursor, steps)
    assert taken != {change.consent_id: change.state for change in found}
    taken, found = last_told(by_outstanding, steps)
    assert taken == {change.consent_id: change.state for change in found}


def test_it_is_sent_again_with_growing_waits_and_the_next_one_at_once() -> None:
    (change,) = told(granted("k-1", HOUR))
    sent: Sent | None = None
    waits, now = [], NOW
    for _ in range(12):
        sent = send(sent, change, now, jitter=0)
        assert sent is not None
        assert send(sent, change, sent.again_at - timedelta(milliseconds=1), jitter=0) is None
        waits.append(sent.again_at - now)
        now = sent.again_at
    assert waits[:3] == [FIRST_RETRY, 2 * FIRST_RETRY, 4 * FIRST_RETRY]
    assert waits[-1] == LAST_RETRY
    (other,) = told(granted("k-1", HOUR), REVOKED)
    assert send(sent, other, NOW, jitter=0) == Sent(other.id, 1, NOW + FIRST_RETRY)
    assert send(None, change, NOW, jitter=1) == Sent(change.id, 1, NOW + FIRST_RETRY / 2)


def test_a_party_in_two_roles_is_told_in_each_what_is_for_it() -> None:
    both = AgentAppointed("adviser", Role.DATA_SERVICE, BEGUN)
    as_user, as_service = Actor(Role.DATA_USER, "adviser"), Actor(Role.DATA_SERVICE, "adviser")
    found = told(both, granted("k-1", HOUR), REVOKED)
    assert [change.receiver for change in found] == ["adviser", "adviser"], "by name they are one"
    assert found[0].id != found[1].id
    for mine, by, other in ((found[0], as_user, as_service), (found[1], as_service, as_user)):
        assert mine.is_for(by) and not mine.is_for(other)
        assert decide(fold(ACKNOWLEDGEMENTS, ()), AcknowledgeChange(by, mine), NOW)
        with pytest.raises(NotPermitted):
            decide(fold(ACKNOWLEDGEMENTS, ()), AcknowledgeChange(other, mine), NOW)


def test_only_the_receiver_acknowledges_and_once_is_enough() -> None:
    (change,) = told(granted("k-1", HOUR), REVOKED)
    nobody = fold(ACKNOWLEDGEMENTS, ())
    taken = decide(nobody, AcknowledgeChange(Actor(Role.DATA_USER, "adviser"), change), NOW)
    assert taken == (ChangeAcknowledged("adviser", METER, "k-1", 1, "REVOKED", NOW),)
    once = fold(ACKNOWLEDGEMENTS, taken)
    assert decide(once, AcknowledgeChange(Actor(Role.DATA_USER, "adviser"), change), NOW) == ()
    assert fold(ACKNOWLEDGEMENTS, (*taken, *taken)) == once
    for by in (Actor(Role.DATA_USER, "rival"), Actor(Role.CONSUMER, "adviser")):
        with pytest.raises(NotPermitted) as refused:
            decide(nobody, AcknowledgeChange(by, change), NOW)
        assert refused.value.reason is Reason.ROLE_NOT_ALLOWED
