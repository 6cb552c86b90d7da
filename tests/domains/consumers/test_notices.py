"""A consent that stands is brought to mind each year, and before it ends; it ends all the same."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domains.consumers.acknowledgements import ACKNOWLEDGEMENTS
from domains.consumers.changes import AcknowledgeChange, Change, Notice
from domains.consumers.decider import CONSUMERS
from domains.consumers.events import (
    ConsentGranted,
    ConsentNarrowed,
    ConsentResumed,
    ConsentRevoked,
    ConsentSuspended,
    TenancyEnded,
    TenancyStarted,
)
from domains.consumers.notices import RENEWAL_BEFORE, next_by_time, notices, told
from domains.consumers.views import ShownState
from spine.consumers.v1 import consumers_pb2
from spine.domain import Actor, fold
from spine.errors import NotPermitted
from spine.policy import MeterAccess, Role, consent_refusal
from spine.services import announcing
from spine.services.webhooks import message
from tests.domains.consumers.test_changes import BEGUN, EXPIRES, HOUR, METER, MOVED_IN, granted
from tests.domains.consumers.test_outstanding import World

DAY = timedelta(days=1)
CONSUMER, ADVISER = Actor(Role.CONSUMER, "c-1"), Actor(Role.DATA_USER, "adviser")
LONG = EXPIRES + 4 * 365 * DAY


def lasting(until: datetime, since: datetime = BEGUN) -> ConsentGranted:
    """A consent from then until then."""
    asked = granted("k-1", since - BEGUN)
    return ConsentGranted(
        *(asked.consent_id, asked.data_user, asked.tenancy_id, asked.consumer_ref, asked.purpose),
        *(asked.categories, asked.history_from, since, until, since),
    )


def access(*events: Any) -> MeterAccess:
    state: MeterAccess = fold(CONSUMERS, (MOVED_IN, *events))
    return state


def said(*events: Any, now: datetime) -> set[tuple[str, str, datetime]]:
    return {(n.receiver, n.state, n.since) for n in notices(METER, access(*events), now)}


def year(number: int) -> datetime:
    return BEGUN.replace(year=BEGUN.year + number)


def reminder(at: datetime) -> tuple[str, str, datetime]:
    return "c-1", Notice.REMINDER, at


ENDS = LONG - RENEWAL_BEFORE
RENEWAL = {("c-1", Notice.RENEWAL, ENDS), ("adviser", Notice.RENEWAL, ENDS)}
HELD = ConsentSuspended("k-1", Role.CONSUMER, "HOLIDAY", BEGUN + 9 * HOUR)
STORIES: dict[str, tuple[tuple[Any, ...], datetime, set[tuple[str, str, datetime]]]] = {
    "nothing within the first year": ((lasting(LONG),), year(1) - HOUR, set()),
    "a reminder to the consumer after it": ((lasting(LONG),), year(1), {reminder(year(1))}),
    "one, and the latest": ((lasting(LONG),), year(3) + 9 * DAY, {reminder(year(3))}),
    "since it was narrowed, if it was": (
        (
            lasting(LONG),
            ConsentNarrowed("k-1", 2, ("HH_CONSUMPTION",), BEGUN, LONG, BEGUN + 99 * DAY),
        ),
        year(1) + 98 * DAY,
        set(),
    ),
    "since it was resumed, if it was": (
        (lasting(LONG), HELD, ConsentResumed("k-1", BEGUN + 99 * DAY)),
        year(1) + 99 * DAY,
        {reminder(year(1) + 99 * DAY)},
    ),
    "none of one that is suspended": ((lasting(LONG), HELD), year(1), set()),
    "none of one that is revoked": (
        (lasting(LONG), ConsentRevoked("k-1", year(1))),
        year(2),
        set(),
    ),
    "none after moving out": ((lasting(LONG), TenancyEnded("t-1", year(1))), year(1), set()),
    "none before its first day": ((granted("k-1", HOUR),), BEGUN - HOUR, set()),
    "renewal, not before its time": (
        (lasting(LONG),),
        ENDS - HOUR,
        {reminder(year(4))},
    ),
    "renewal, to both": ((lasting(LONG),), ENDS, {reminder(year(4))} | RENEWAL),
    "renewal, to its last moment": (
        (lasting(LONG),),
        LONG - timedelta(milliseconds=1),
        {reminder(year(4))} | RENEWAL,
    ),
    "nothing once it has expired": ((lasting(LONG),), LONG, set()),
    "no renewal of what lasts no longer": (
        (lasting(BEGUN + RENEWAL_BEFORE),),
        BEGUN + RENEWAL_BEFORE - HOUR,
        set(),
    ),
    "a renewal of what lasts a little longer": (
        (lasting(BEGUN + RENEWAL_BEFORE + HOUR),),
        BEGUN + HOUR,
        {(who, Notice.RENEWAL, BEGUN + HOUR) for who in ("c-1", "adviser")},
    ),
}


@pytest.mark.parametrize("story", STORIES)
def test_what_is_brought_to_mind(story: str) -> None:
    events, now, expected = STORIES[story]
    assert said(*events, now=now) == expected


def test_a_year_from_the_29th_of_february_ends_on_the_28th() -> None:
    leap = datetime(2028, 2, 29, 12, tzinfo=UTC)
    events = (TenancyStarted("t-1", "c-1", BEGUN), lasting(LONG + 3_000 * DAY, leap))
    state = fold(CONSUMERS, events)
    for at in (datetime(2029, 2, 28, 12, tzinfo=UTC), datetime(2032, 2, 29, 12, tzinfo=UTC)):
        (found,) = notices(METER, state, at)
        assert found.since == at


def the(state: Notice, by: Actor, now: datetime) -> Change:
    found = told(METER, access(lasting(LONG)), now)
    (one,) = (change for change in found if change.state is state and change.is_for(by))
    return one


def test_each_is_told_what_is_for_it_in_its_role() -> None:
    to_consumer, to_adviser = (
        the(Notice.RENEWAL, CONSUMER, ENDS),
        the(Notice.RENEWAL, ADVISER, ENDS),
    )
    assert to_consumer.id != to_adviser.id
    assert not to_consumer.is_for(ADVISER) and not to_adviser.is_for(CONSUMER)
    namesake = Actor(Role.DATA_USER, "c-1")
    assert not to_consumer.is_for(namesake)
    for by in (ADVISER, namesake):
        with pytest.raises(NotPermitted):
            command = AcknowledgeChange(by, to_consumer)
            ACKNOWLEDGEMENTS.decide(ACKNOWLEDGEMENTS.initial(), command, ENDS)
    found = told(METER, access(lasting(LONG)), ENDS)
    consumers = [change.state for change in found if change.is_for(CONSUMER)]
    assert consumers == [ShownState.ACTIVE, Notice.REMINDER, Notice.RENEWAL], "notices last"


def test_each_years_reminder_is_another() -> None:
    ids = {the(Notice.REMINDER, CONSUMER, year(n)).id for n in (1, 2, 3)}
    assert len(ids) == 3
    again = the(Notice.REMINDER, CONSUMER, year(2) - HOUR)
    assert again == the(Notice.REMINDER, CONSUMER, year(1)), "the same for all of its year"


def test_no_notice_is_ever_overdue_and_none_counts_as_outstanding() -> None:
    assert not the(Notice.REMINDER, CONSUMER, year(1)).overdue(LONG)
    world = World(lasting(LONG))
    for by in (ADVISER, CONSUMER):
        world.acknowledge(world.known.waiting(by)[METER][0].id)
    world.now = ENDS
    asyncio.run(world.known.look())
    assert world.waiting() == [("k-1", Notice.RENEWAL)]
    assert world.waiting(CONSUMER) == [("k-1", Notice.REMINDER), ("k-1", Notice.RENEWAL)]
    assert asyncio.run(world.known.backlogs()) == []
    first = world.known.waiting(CONSUMER)[METER][0]
    world.acknowledge(first.id)
    assert world.waiting(CONSUMER) == [("k-1", Notice.RENEWAL)]
    world.now = LONG
    asyncio.run(world.known.look())
    assert world.waiting(CONSUMER) == world.waiting() == [("k-1", ShownState.EXPIRED)]


def from_acknowledgement(acknowledged: list[datetime]) -> datetime:
    """The naive expiry: a consumer that has seen the reminder has renewed."""
    return max([LONG, *(at + 365 * DAY for at in acknowledged)])


def by_the_policy(acknowledged: list[datetime]) -> datetime:
    """When reads end, whatever was acknowledged: no fact of that reaches the meter's state."""
    facts = [
        ACKNOWLEDGEMENTS.decide(
            ACKNOWLEDGEMENTS.initial(), AcknowledgeChange(CONSUMER, the(kind, CONSUMER, at)), at
        )
        for at in acknowledged
        for kind in Notice
    ]
    assert not {type(fact) for (fact,) in facts} & set(CONSUMERS.events.values())
    state = access(lasting(LONG))
    (consent,) = state.consents
    live = consent_refusal(consent, state, LONG - timedelta(milliseconds=1)) is None
    return LONG if live and consent_refusal(consent, state, LONG) is not None else EXPIRES


@pytest.mark.parametrize(
    ("ends", "extends"), [(by_the_policy, False), (from_acknowledgement, True)]
)
def test_to_acknowledge_a_notice_extends_nothing(
    ends: Callable[[list[datetime]], datetime], extends: bool
) -> None:
    assert (ends([ENDS, ENDS + DAY]) != ends([])) is extends
    assert ends([]) == LONG


@given(st.integers(0, 5 * 366), st.integers(31, 5 * 365), st.integers(0, 5 * 366))
def test_whoever_wakes_when_time_next_tells_something_misses_nothing(
    opens: int, lasts: int, days: int
) -> None:
    since = BEGUN + opens * DAY
    state = access(lasting(since + lasts * DAY, since))
    now = BEGUN + days * DAY
    awake = next_by_time(state, now)
    until = LONG + 9 * 365 * DAY if awake is None else awake
    for part in range(8):
        between = now + (until - now) * part / 8
        assert told(METER, state, between) == told(METER, state, now)


def by_age(found: tuple[Change, ...]) -> list[Change]:
    """The naive order: a notice stands before every change that came after it."""
    return sorted(found, key=lambda change: change.since)


def test_a_notice_that_is_not_taken_keeps_its_receiver_from_no_change() -> None:
    revoked = ConsentRevoked("k-2", ENDS + DAY)
    world = World(lasting(LONG), granted("k-2", 2 * HOUR), revoked)
    world.acknowledge(world.known.waiting(ADVISER)[METER][0].id)
    world.now = ENDS + 2 * DAY
    world.known.take_in(METER)
    found = world.known.waiting(ADVISER)[METER]
    assert by_age(found)[0].state is Notice.RENEWAL
    assert world.waiting() == [("k-2", ShownState.REVOKED), ("k-1", Notice.RENEWAL)]


def test_a_message_says_whether_it_is_a_change_or_a_notice() -> None:
    found = told(METER, access(lasting(LONG)), ENDS)
    kinds = {
        change.state: json.loads(message(change, LONG))["type"]
        for change in found
        if change.is_for(ADVISER)
    }
    assert kinds == {"ACTIVE": "consent.changed", "RENEWAL": "consent.notice"}


async def test_a_consumer_follows_what_is_for_it_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(lasting(LONG))
    world.now = ENDS
    await world.known.look()
    nothing: Any = None
    service = announcing.ChangesService(world.known, nothing)
    monkeypatch.setattr("spine.services.wire.now", lambda: world.now)
    shown: dict[str, list[str]] = {}
    for by in (CONSUMER, ADVISER, Actor(Role.CONSUMER, "c-2"), Actor(Role.CONSUMER, "adviser")):
        monkeypatch.setattr("spine.services.wire.caller", lambda by=by: by)
        answer = await service.ListChanges(consumers_pb2.ListChangesRequest(), nothing)
        shown[str(by)] = [change.state for change in answer.changes]
    assert shown == {
        str(CONSUMER): ["ACTIVE", "REMINDER", "RENEWAL"],
        str(ADVISER): ["ACTIVE", "RENEWAL"],
        str(Actor(Role.CONSUMER, "c-2")): [],
        str(Actor(Role.CONSUMER, "adviser")): [],
    }
    monkeypatch.setattr("spine.services.wire.caller", lambda: CONSUMER)
    told_first = await anext(service.FollowChanges(nothing, nothing))
    assert (told_first.state, told_first.overdue, told_first.times) == ("ACTIVE", False, 1)
    world.acknowledge(told_first.change_id)
    then = await anext(service.FollowChanges(nothing, nothing))
    assert (then.state, then.overdue, then.times) == ("REMINDER", False, 1)
