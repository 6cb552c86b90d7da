"""What waits for a receiver is known at once: by what happens, by time, and after a restart."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any

import pytest

from domains.consumers.changes import OVERDUE_AFTER, Acknowledgement
from domains.consumers.decider import CONSUMERS
from domains.consumers.events import ConsentRevoked
from domains.consumers.views import ShownState
from domains.consumers.webhooks import Webhook
from spine.domain import Actor, fold
from spine.policy import Role
from spine.rows import Applied
from spine.services import announcing
from spine.services.outstanding import Outstanding
from spine.services.pushing import Outcome
from spine.services.webhooks import Deliveries
from tests.domains.consumers.test_changes import (
    EXPIRES,
    HOUR,
    METER,
    MOVED_IN,
    NOW,
    REVOKED,
    SERVED,
    granted,
)
from tests.helpers.records import BY_CONSUMERS


class Folded:
    """The states of a coordinator's fold, which a test sets."""

    def __init__(self, nothing: Any) -> None:
        self.states: dict[str, Any] = defaultdict(lambda: nothing)

    def state(self, subject: str) -> Any:
        return self.states[subject]


class World:
    """One meter, its acknowledgements, and a clock."""

    def __init__(self, *events: Any) -> None:
        self.meters, self.taken = Folded(CONSUMERS.initial()), Folded(Acknowledgement())
        self.now = NOW
        self.events: tuple[Any, ...] = (MOVED_IN, SERVED)
        self.known = self.started()
        self.happen(*events)

    def started(self) -> Outstanding:
        meters: Any = self.meters
        taken: Any = self.taken
        return Outstanding(meters, taken, lambda: self.now)

    def happen(self, *events: Any) -> None:
        self.events += events
        self.meters.states[METER] = fold(CONSUMERS, self.events)
        self.known.take_in(METER)

    def acknowledge(self, change_id: str) -> None:
        self.taken.states[change_id] = Acknowledgement(self.now)
        self.known.take_in(METER)

    def waiting(self, receiver: str = "adviser") -> list[tuple[str, str]]:
        found = self.known.waiting(receiver).get(METER, ())
        return [(change.consent_id, change.state) for change in found]


def test_an_acknowledged_change_no_longer_waits_and_the_other_receiver_still_does() -> None:
    world = World(granted("k-1", HOUR), REVOKED)
    (change,) = world.known.waiting("adviser")[METER]
    world.acknowledge(change.id)
    assert world.waiting() == []
    assert world.waiting("collector") == [("k-1", ShownState.REVOKED)]
    assert [who for who, _ in world.known.receivers()] == ["collector"]


async def test_who_follows_from_elsewhere_ends_the_call_that_was_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Or one receiver could hold every call that the coordinator has."""
    monkeypatch.setattr(announcing, "FOLLOW_POLL_S", 0)
    callers = {"adviser": Actor(Role.DATA_USER, "adviser"), "other": Actor(Role.DATA_USER, "other")}
    world = World(granted("k-1", HOUR))
    nothing: Any = None
    service = announcing.ChangesService(world.known, nothing)

    def follow(who: str) -> AsyncIterator[Any]:
        monkeypatch.setattr("spine.services.wire.caller", lambda: callers[who])
        return service.FollowChanges(nothing, nothing)

    first = follow("adviser")
    assert (await anext(first)).times == 1
    bystander = follow("other")
    waits = asyncio.ensure_future(anext(bystander))
    await asyncio.sleep(0)
    second = follow("adviser")
    assert (await anext(second)).times == 1
    with pytest.raises(StopAsyncIteration):
        await anext(first)
    await asyncio.sleep(0)
    assert not waits.done(), "another party's call goes on"
    waits.cancel()


async def test_who_is_held_is_sent_nothing_and_all_of_it_afterwards() -> None:
    world = World(granted("k-1", HOUR))
    held, posted = {"adviser"}, []
    adviser = Webhook(Actor(Role.DATA_USER, "adviser"), "https://adviser.example/")

    class Fake:
        """One webhook, and a way there on which everything is refused."""

        routes = frozenset({adviser})

        async def post(self, url: str, headers: Any, body: bytes) -> Outcome:
            posted.append((url, json.loads(body)["data"]["state"]))
            return Outcome.REFUSED

    fake: Any = Fake()
    for skipped, expected in ((held, []), (set(), [(adviser.url, "ACTIVE")])):
        sends = Deliveries(world.known, fake, fake, fake, BY_CONSUMERS, "c", skipped.__contains__)
        sends.pusher.turn()
        await sends.pusher.settled()
        assert posted == expected


async def test_a_meter_is_looked_at_apart_from_its_fold_and_only_once_it_said_more() -> None:
    world = World(granted("k-1", HOUR))
    world.acknowledge(world.known.waiting("adviser")[METER][0].id)
    world.events += (REVOKED,)
    world.meters.states[METER] = fold(CONSUMERS, world.events)
    record: Any = None
    world.known._on_facts(record, Applied(events=[(METER, REVOKED)]))
    assert world.waiting() == [], "the fold does not wait for it"
    await world.known.look()
    assert world.waiting() == [("k-1", ShownState.REVOKED)]


def test_expiry_is_told_by_the_clock_alone() -> None:
    world = World(granted("k-1", HOUR))
    world.acknowledge(world.known.waiting("adviser")[METER][0].id)
    world.now = EXPIRES
    assert world.waiting() == [], "who only listens to events never tells it"
    asyncio.run(world.known.look())
    assert world.waiting() == [("k-1", ShownState.EXPIRED)]


def test_a_receiver_that_is_away_for_weeks_finds_everything_in_order_after_a_restart() -> None:
    world = World(granted("k-2", HOUR), granted("k-1", 2 * HOUR))
    world.happen(REVOKED, ConsentRevoked("k-2", REVOKED.decided_at + HOUR))
    world.now += timedelta(weeks=5)
    before = world.waiting()
    assert before == [("k-1", ShownState.REVOKED), ("k-2", ShownState.REVOKED)]
    world.known = world.started()
    world.known.take_in(METER)
    assert world.waiting() == before
    assert all(change.overdue(world.now) for change in world.known.waiting("adviser")[METER])


def test_it_is_overdue_after_72_hours_and_no_longer_once_acknowledged() -> None:
    world = World(granted("k-1", HOUR))
    (change,) = world.known.waiting("adviser")[METER]
    at: datetime = change.since + OVERDUE_AFTER
    assert not change.overdue(at)
    assert change.overdue(at + timedelta(seconds=1))
    world.now = at + timedelta(seconds=1)
    world.acknowledge(change.id)
    assert world.known.receivers() == []
