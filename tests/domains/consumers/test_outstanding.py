"""What waits for a receiver is known at once: by what happens, by time, and after a restart."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from datetime import datetime, timedelta
from functools import partial
from itertools import islice
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace

from domains.consumers import notices
from domains.consumers.changes import OVERDUE_AFTER, Acknowledgement, Change
from domains.consumers.decider import CONSUMERS
from domains.consumers.events import AgentAppointed, ConsentRevoked, ConsentTermsRecorded
from domains.consumers.record import RecordTerms
from domains.consumers.views import ShownState
from domains.consumers.webhooks import Webhook
from spine.consumers.v1 import consumers_pb2
from spine.domain import Actor, fold
from spine.errors import Invalid
from spine.policy import Role
from spine.rows import Applied
from spine.services import announcing, outstanding, pushing
from spine.services.outstanding import METERS_A_TURN, Outstanding
from spine.services.pushing import Outcome
from spine.services.webhooks import Deliveries, message
from spine.signing import sign, verify
from spine.trust import Accreditation, AccreditationGranted, Participant, ParticipantAdmitted
from spine.webhook import is_genuine, signed_headers
from tests.domains.consumers.test_changes import (
    ANNA,
    BEGUN,
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

JOINED_AS_USER = AccreditationGranted(Role.DATA_USER, "DSI", "", (), BEGUN, None)
ADVISER, COLLECTOR = Actor(Role.DATA_USER, "adviser"), Actor(Role.DATA_SERVICE, "collector")


class Folded:
    """The states of a coordinator's fold, which a test sets. All are admitted but `strangers`."""

    def __init__(self, nothing: Any) -> None:
        self.known: dict[str, Any] = defaultdict(lambda: nothing)
        self.strangers: set[str] = set()
        self.roles: dict[str, tuple[str, ...]] = {}
        self.listeners: list[Any] = []
        self.next_offset = 0

    @property
    def stored(self) -> Any:
        rows = SimpleNamespace(scan=self.scan)
        return SimpleNamespace(fold=SimpleNamespace(participant=self.participant, rows=rows))

    def live(self, subject: str) -> Any:
        return self

    def scan(self, begin: bytes, end: bytes) -> Any:
        return ((begin + meter.encode(), b"") for meter in tuple(self.known))

    def participant(self, party: str) -> Participant | None:
        if party in self.strangers:
            return None
        held = (Accreditation(r, "DSI", "", (), BEGUN, None) for r in self.roles.get(party, ()))
        return Participant(party, accreditations=tuple(held))

    def state(self, subject: str) -> Any:
        return self.known[subject]

    def states(self, subjects: Sequence[str]) -> list[Any]:
        return [self.known[subject] for subject in subjects]


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
        self.meters.known[METER] = fold(CONSUMERS, self.events)
        self.known.take_in(METER)

    def acknowledge(self, change_id: str) -> None:
        self.taken.known[change_id] = Acknowledgement(self.now)
        self.known.take_in(METER)

    def waiting(self, receiver: Actor = ADVISER) -> list[tuple[str, str]]:
        found = self.known.waiting(receiver).get(METER, ())
        return [(change.consent_id, change.state) for change in found]


def test_an_acknowledged_change_no_longer_waits_and_the_other_receiver_still_does() -> None:
    world = World(granted("k-1", HOUR), REVOKED)
    (change,) = world.known.waiting(ADVISER)[METER]
    world.acknowledge(change.id)
    assert world.waiting() == []
    assert world.waiting(COLLECTOR) == [("k-1", ShownState.REVOKED)]
    (behind,) = asyncio.run(world.known.backlogs())
    assert (behind.party, behind.outstanding, behind.overdue) == ("collector", 1, 1)


SENT_ON = ConsentTermsRecorded(
    "k-1", RecordTerms(onward_sharing=True, recipients=("partner", "made-up")), BEGUN + HOUR
)


async def behind(world: World) -> list[str]:
    """Who is overdue in the end, once all others have acknowledged."""
    world.now += timedelta(days=90)
    owing = [*await world.known.backlogs(), *await world.known.deletions.backlogs(world.now)]
    return sorted(theirs.party for theirs in owing if theirs.overdue)


@pytest.mark.parametrize("naive", [False, True])
async def test_names_that_a_consumer_made_up_are_nobody_to_wait_for(
    monkeypatch: pytest.MonkeyPatch, naive: bool
) -> None:
    """Each grant might name 20 fresh ones, which are kept and overdue for ever."""
    if naive:
        monkeypatch.setattr(outstanding, "takes_part", lambda *of: True)
    world = World()
    world.meters.strangers = {"made-up"}
    world.happen(granted("k-1", HOUR), SENT_ON, REVOKED)
    assert set(await behind(world)) - {"made-up"} == {"adviser", "collector", "partner"}
    assert ("made-up" in await behind(world)) is naive
    world.meters.strangers = {"made-up", "fake-user"}
    world.happen(granted("k-2", 4 * HOUR, "fake-user"), ConsentRevoked("k-2", BEGUN + 5 * HOUR))
    assert ("fake-user" in await behind(world)) is naive
    kept = {receiver.party for receiver in world.known._changes._of}
    assert kept.isdisjoint(world.meters.strangers) is not naive
    assert await world.known.deletions.backlogs(world.now), "the adviser was a participant"
    assert {each.party for each in world.known.deletions._of} == {"adviser"}


@pytest.mark.parametrize(
    ("held", "told"),
    [
        ((), True),
        ((Role.SUPPLIER,), True),
        ((Role.DATA_USER, Role.DATA_SERVICE), True),
        ((Role.DATA_SERVICE,), False),
    ],
)
def test_a_recipient_that_is_a_data_service_only_is_told_as_that(
    held: tuple[str, ...], told: bool
) -> None:
    """It could never answer as a data user. A data user goes on being told, whatever it holds."""
    world = World()
    world.meters.roles = {"partner": held, "adviser": (Role.DATA_SERVICE,)}
    world.happen(granted("k-1", HOUR), SENT_ON, REVOKED)
    partner = Actor(Role.DATA_USER, "partner")
    assert bool(world.waiting(partner)) is told
    assert world.waiting() == [("k-1", ShownState.REVOKED)]
    as_service = Actor(Role.DATA_SERVICE, "partner")
    assert world.waiting(as_service) == []
    world.happen(AgentAppointed("partner", Role.DATA_SERVICE, BEGUN))
    assert world.waiting(as_service) == [("k-1", ShownState.REVOKED)]


@pytest.mark.parametrize("joined", [ParticipantAdmitted("P"), JOINED_AS_USER])
async def test_who_takes_part_later_is_told_what_waits_by_then(joined: Any) -> None:
    """The naive index looks at no meter where nothing happens, so a restart would have to."""
    world = World()
    meters: Any = world.meters
    world.known.watch([meters], meters)
    await world.known.look()
    world.meters.strangers = {"partner"}
    world.happen(granted("k-1", HOUR), SENT_ON, REVOKED)
    partner = Actor(Role.DATA_USER, "partner")
    world.meters.strangers = set()
    applied, record = Applied(events=[("party/partner", joined)]), SimpleNamespace()
    for listener in world.meters.listeners[:2]:
        listener(record, applied)
    await world.known.look()
    assert world.waiting(partner) == [], "nothing happened at the meter"
    await world.known.look_again()
    assert world.waiting(partner) == [("k-1", ShownState.REVOKED)]
    assert world.known.complete and world.known._joined == []


async def test_receivers_are_listed_by_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(announcing, "LISTED_MAX", 2)
    monkeypatch.setattr("spine.services.wire.caller", lambda: Actor(Role.GOVERNANCE, "board"))
    nothing: Any = None
    world = World(granted("k-1", HOUR), SENT_ON, REVOKED)
    service, after, pages = announcing.ChangesService(world.known, nothing), "", []
    while True:
        request = consumers_pb2.ListReceiversRequest(after=after)
        page = await service.ListReceivers(request, nothing)
        pages.append([each.party for each in page.receivers])
        if not page.more:
            break
        after = pages[-1][-1]
    assert pages == [["adviser", "collector"], ["made-up", "partner"]]
    with pytest.raises(Invalid):
        bad = consumers_pb2.ListReceiversRequest(after="no such party!")
        await service.ListReceivers(bad, nothing)


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


async def test_consumers_who_never_look_are_neither_kept_nor_counted() -> None:
    """The naive index keeps what waits for each of them for ever, and calls it overdue."""
    world = World()
    told = fold(CONSUMERS, (MOVED_IN, granted("k-1", HOUR)))
    for number in range(50):
        world.meters.known[f"m-{number}"] = told
        world.known.take_in(f"m-{number}")
    for mpxn, theirs in dict(world.known.waiting(ADVISER)).items():
        world.taken.known[theirs[0].id] = Acknowledgement(world.now)
        world.known.take_in(mpxn)
    world.now += timedelta(days=90)
    assert len(world.known.waiting(ANNA)) == 50
    assert await world.known.backlogs() == []
    assert world.known._changes._of == {}, "the renewal comes later"
    naive: outstanding.Shelf[Change] = outstanding.Shelf(notices.told, world.known._acknowledged)
    for number in range(50):
        naive.put([(f"m-{number}", told)], world.now)
    assert [theirs.outstanding for theirs in await naive.backlogs(world.now)] == [50]


def test_a_consumer_is_told_until_it_acknowledges_and_after_a_restart() -> None:
    world = World(granted("k-1", HOUR))
    (change,) = world.known.waiting(ANNA)[METER]
    assert change.state is ShownState.ACTIVE
    world.acknowledge(change.id)
    assert world.waiting(ANNA) == [] and world.known.waiting(ANNA) == {}
    world.happen(REVOKED)
    assert world.waiting(ANNA) == [("k-1", ShownState.REVOKED)]
    assert world.waiting() == [("k-1", ShownState.REVOKED)], "each acknowledges for itself"
    world.known = world.started()
    world.known.take_in(METER)
    assert world.waiting(ANNA) == [("k-1", ShownState.REVOKED)]
    world.now = EXPIRES
    assert world.waiting(Actor(Role.CONSUMER, "c-2")) == []


async def posted(world: World, withheld: Callable[[Actor], bool]) -> list[Any]:
    """What one turn sends to the adviser's webhook, where everything is refused."""
    found: list[Any] = []

    class Fake:
        """One webhook, and a way there."""

        routes = frozenset({Webhook(ADVISER, "https://adviser.example/")})

        async def post(self, url: str, headers: Any, body: bytes) -> Outcome:
            found.append(json.loads(body)["data"])
            return Outcome.REFUSED

    fake: Any = Fake()
    sends = Deliveries(world.known, fake, fake, fake, BY_CONSUMERS, "c", withheld)
    sends.pusher.turn()
    await sends.pusher.settled()
    return found


async def test_who_is_held_is_sent_nothing_and_all_of_it_afterwards() -> None:
    world = World(granted("k-1", HOUR))
    assert await posted(world, {ADVISER}.__contains__) == []
    (sent,) = await posted(world, set[Actor]().__contains__)
    assert sent["state"] == "ACTIVE"


def test_a_message_to_another_is_found_by_whom_it_names_and_not_by_its_signature() -> None:
    (change,) = World(granted("k-1", HOUR)).known.waiting(ADVISER)[METER]
    body, sent_at = message(change, NOW), int(NOW.timestamp())
    headers = signed_headers(change.id, sent_at, body, partial(sign, BY_CONSUMERS.private))
    assert is_genuine(headers, body, BY_CONSUMERS.public_key, sent_at, verify), "to whomever"
    data = json.loads(body)["data"]
    assert (data["receiver"], data["told_as"]) == ("adviser", "data_user")
    renamed = body.replace(b'"receiver":"adviser"', b'"receiver":"rival"')
    assert not is_genuine(headers, renamed, BY_CONSUMERS.public_key, sent_at, verify)


def in_both_roles(world: World, meters: int) -> None:
    """So many meters where the adviser is told something as a data service, and one more where it
    is as a data user.
    """
    serves = AgentAppointed("adviser", Role.DATA_SERVICE, BEGUN)
    told = (MOVED_IN, serves, granted("k-1", HOUR, "rival"), REVOKED)
    for number in range(meters):
        world.meters.known[f"m-{number}"] = fold(CONSUMERS, told)
        world.known.take_in(f"m-{number}")
    world.meters.known["m-last"] = fold(CONSUMERS, (MOVED_IN, granted("k-9", HOUR)))
    world.known.take_in("m-last")


def sliced_before_it_is_known_for_whom(world: World, meters: int) -> list[str]:
    """The naive turn: the first so many meters of the party, and of these the ones in that role."""
    waiting: dict[str, list[Change]] = {}
    for role in (Role.DATA_SERVICE, Role.DATA_USER):
        for mpxn, found in world.known.waiting(Actor(role, "adviser")).items():
            waiting.setdefault(mpxn, []).extend(found)
    looked_at = islice(waiting.items(), meters)
    return [mpxn for mpxn, found in looked_at if any(change.is_for(ADVISER) for change in found)]


async def test_what_waits_for_a_party_in_another_role_stands_before_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pushing, "LOOKED_AT_MAX", 5)
    monkeypatch.setattr(announcing, "IN_FLIGHT_MAX", 5)
    world = World()
    in_both_roles(world, 5)
    assert sliced_before_it_is_known_for_whom(world, 5) == []
    (sent,) = await posted(world, set[Actor]().__contains__)
    assert (sent["mpxn"], sent["consent_id"]) == ("m-last", "k-9")
    nothing: Any = None
    service = announcing.ChangesService(world.known, nothing)
    monkeypatch.setattr("spine.services.wire.caller", lambda: ADVISER)
    followed = await anext(service.FollowChanges(nothing, nothing))
    assert (followed.mpxn, followed.consent_id) == ("m-last", "k-9")


class Unforgetting(dict[str, datetime]):
    """The naive memory of when to wake: a moment stays in it that has come."""

    def __delitem__(self, mpxn: str) -> None:
        """Keep it."""


@pytest.mark.parametrize("naive", [False, True])
async def test_a_clock_that_is_set_back_hides_nothing(naive: bool) -> None:
    """The index wakes at the expiry, and by the clock it looks at then that is still to come."""
    world = World(granted("k-1", HOUR))
    world.acknowledge(world.known.waiting(ADVISER)[METER][0].id)
    world.now = EXPIRES - HOUR
    await world.known.look()
    if naive:
        world.known._timed = Unforgetting(world.known._timed)
    readings = iter([EXPIRES])

    def set_back() -> datetime:
        return next(readings, EXPIRES - HOUR)

    world.known._now = set_back
    await world.known.look()
    readings = iter([EXPIRES] * 99)
    await world.known.look()
    told = [state for _, state in world.waiting() if state is ShownState.EXPIRED]
    assert bool(told) is not naive


@pytest.mark.parametrize("naive", [False, True])
async def test_others_have_their_turn_while_deletions_are_counted(
    monkeypatch: pytest.MonkeyPatch, naive: bool
) -> None:
    monkeypatch.setattr(outstanding, "COUNTED_A_TURN", 1 << 30 if naive else 10)
    world = World()
    told = fold(CONSUMERS, (MOVED_IN, granted("k-1", HOUR), REVOKED))
    for number in range(100):
        world.meters.known[f"m-{number}"] = told
        world.known.take_in(f"m-{number}")
    turns: list[int] = []

    async def other() -> None:
        while True:
            turns.append(1)
            await asyncio.sleep(0)

    beside = asyncio.ensure_future(other())
    (owed,) = await world.known.deletions.backlogs(world.now)
    beside.cancel()
    assert (owed.party, owed.outstanding, owed.oldest) == ("adviser", 100, REVOKED.decided_at)
    assert len(turns) == (0 if naive else 10)


async def test_the_first_due_is_not_the_oldest_where_terms_differ(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The naive overview adds one term to the oldest end, and names a day that is too late."""
    monkeypatch.setattr(
        "domains.consumers.deletions.term",
        lambda purpose, since: 2 * HOUR if purpose == "RESEARCH" else 30 * 24 * HOUR,
    )
    world = World()
    earlier = (MOVED_IN, granted("k-1", HOUR), REVOKED)
    short = replace(granted("k-2", HOUR), purpose="RESEARCH")
    later = replace(REVOKED, consent_id="k-2", decided_at=REVOKED.decided_at + HOUR)
    for mpxn, events in (("m-1", earlier), ("m-2", (MOVED_IN, short, later))):
        world.meters.known[mpxn] = fold(CONSUMERS, events)
        world.known.take_in(mpxn)
    (owed,) = await world.known.deletions.backlogs(world.now)
    assert (owed.outstanding, owed.oldest) == (2, REVOKED.decided_at)
    assert owed.first_due == REVOKED.decided_at + 3 * HOUR


async def test_a_meter_is_looked_at_apart_from_its_fold_and_only_once_it_said_more() -> None:
    world = World(granted("k-1", HOUR))
    world.acknowledge(world.known.waiting(ADVISER)[METER][0].id)
    world.events += (REVOKED,)
    world.meters.known[METER] = fold(CONSUMERS, world.events)
    record: Any = None
    world.known._on_facts(record, Applied(events=[(METER, REVOKED)]))
    assert world.waiting() == [], "the fold does not wait for it"
    await world.known.look()
    assert world.waiting() == [("k-1", ShownState.REVOKED)]


def test_expiry_is_told_by_the_clock_alone() -> None:
    world = World(granted("k-1", HOUR))
    world.acknowledge(world.known.waiting(ADVISER)[METER][0].id)
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
    assert all(change.overdue(world.now) for change in world.known.waiting(ADVISER)[METER])


def test_it_is_overdue_after_72_hours_and_no_longer_once_acknowledged() -> None:
    world = World(granted("k-1", HOUR))
    (change,) = world.known.waiting(ADVISER)[METER]
    at: datetime = change.since + OVERDUE_AFTER
    assert not change.overdue(at)
    assert change.overdue(at + timedelta(seconds=1))
    world.now = at + timedelta(seconds=1)
    world.acknowledge(change.id)
    assert asyncio.run(world.known.backlogs()) == []


async def test_who_answers_the_last_while_all_is_counted_is_not_missed_for_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(outstanding, "COUNTED_A_TURN", 1)
    world = World(granted("k-1", HOUR), REVOKED)
    counting = asyncio.ensure_future(world.known.backlogs())
    await asyncio.sleep(0)
    world.acknowledge(world.known.waiting(COLLECTOR)[METER][0].id)
    assert [theirs.party for theirs in await counting] == ["adviser"]


async def test_what_changed_first_is_looked_at_first_however_much_comes_after() -> None:
    """Or a revocation would wait until a load of registers has ended."""
    nobody: Any = None
    seen: list[str] = []

    class Looked(Outstanding):
        def _look_at(self, meters: Iterable[tuple[str, Any]], now: datetime) -> None:
            seen.extend(mpxn for mpxn, _ in meters)

    known = Looked(nobody, nobody)

    def folded(*meters: str) -> None:
        applied: Any = SimpleNamespace(events=[(mpxn, None) for mpxn in meters], states={})
        known._on_facts(nobody, applied)

    async def load() -> None:
        for turn in range(20):
            folded(*(f"{turn}-{place}" for place in range(METERS_A_TURN + 10)))
            await asyncio.sleep(0)

    folded("revoked")
    loading = asyncio.create_task(load())
    await asyncio.sleep(0)
    await known.look()
    await loading
    assert seen.index("revoked") < METERS_A_TURN


@pytest.mark.parametrize("naive", [False, True])
async def test_moments_that_no_longer_count_are_not_kept_until_they_come(
    monkeypatch: pytest.MonkeyPatch, naive: bool
) -> None:
    """Else each change of a meter's next moment, which may be years off, would add one."""
    moments = [NOW + timedelta(days=1_000 - number) for number in range(300)]
    later = moments[0] + HOUR
    told = iter(moments)
    monkeypatch.setattr(outstanding, "next_by_time", lambda *of: next(told, later))
    monkeypatch.setattr(outstanding, "SUPERSEDED_MAX", 10_000 if naive else 10)
    world = World(granted("k-1", HOUR))
    for _ in moments[1:]:
        world.known.take_in(METER)
    assert len(world.known._by_time) <= 12 or naive
    assert naive == (len(world.known._by_time) == len(moments))
    assert world.known._by_time[0] == (moments[-1], METER)
    world.now = moments[-1]
    await world.known.look()
    assert world.known._timed == {METER: later}
