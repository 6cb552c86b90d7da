"""What waits for whom, made from the folds of this process, and again at each start."""

from __future__ import annotations

import asyncio
import heapq
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from itertools import chain, count, islice
from typing import Final, Generic, TypeVar

from domains.consumers.changes import (
    PARTICIPANTS,
    Change,
    Waits,
    outstanding,
    takes_part,
    told_role,
)
from domains.consumers.deletions import Deletion, deletions
from domains.consumers.evolve import find_consent, is_bar
from domains.consumers.notices import next_by_time, told
from spine import telemetry
from spine.coordinator import Coordinator
from spine.domain import Actor
from spine.event import LogRecord
from spine.live import LiveFold
from spine.policy import MeterAccess, Role
from spine.rows import SUBJECT_PREFIX, Applied
from spine.services import wire
from spine.trust import AccreditationGranted, Participant, ParticipantAdmitted

METERS_A_TURN: Final = 50
GROUPS_MAX: Final = 10_000
# Counted before everything else that the process does has its turn.
COUNTED_A_TURN: Final = 2_000
# Moments that no longer count are dropped once there are so many of them, and as many as count.
SUPERSEDED_MAX: Final = 4_000
# After which a party that was not told may be.
_JOINING: Final = (ParticipantAdmitted, AccreditationGranted)
Item = TypeVar("Item", bound=Waits)


@dataclass(slots=True)
class Backlog:
    """How much a party has still to answer, in whatever role, since when the oldest of it, and
    until when the first.
    """

    party: str
    oldest: datetime
    first_due: datetime
    outstanding: int = 0
    overdue: int = 0


def _meters(live: LiveFold) -> Iterator[str]:
    """Every meter that a fold has by now."""
    rows = live.stored.fold.rows.scan(SUBJECT_PREFIX, SUBJECT_PREFIX + b"\xff")
    return (key.removeprefix(SUBJECT_PREFIX).decode() for key, _ in rows)


class Shelf(Generic[Item]):
    """Of one kind of thing, what each party has in each role still to answer, by meter.

    Roles are apart, so that whoever looks at the first so many meters of a receiver looks at none
    where something waits for the party in its other role only.
    """

    def __init__(
        self,
        tells: Callable[[str, MeterAccess, datetime], tuple[Item, ...]],
        answered: Callable[[Sequence[str]], Collection[str]],
        obliges: Callable[[Item], bool] = lambda item: True,
    ) -> None:
        self._tells, self._answered, self._obliges = tells, answered, obliges
        self._of: dict[Actor, dict[str, tuple[Item, ...]]] = {}
        self._receivers: dict[str, frozenset[Actor]] = {}
        # Few groups of receivers are those of many meters, and each is kept once.
        self._groups: dict[frozenset[Actor], frozenset[Actor]] = {}

    def put(self, meters: Sequence[tuple[str, MeterAccess]], now: datetime) -> None:
        """Take in how these meters stand; whether anything was answered is looked up once."""
        told = [(mpxn, self._tells(mpxn, access, now)) for mpxn, access in meters]
        answered = self._answered([each.id for _, items in told for each in items])
        for mpxn, items in told:
            self._keep(mpxn, outstanding(items, answered))

    def _keep(self, mpxn: str, found: Mapping[Actor, tuple[Item, ...]]) -> None:
        before = self._receivers.pop(mpxn, None)
        for receiver in before - found.keys() if before else ():
            meters = self._of[receiver]
            meters.pop(mpxn, None)
            if not meters:
                del self._of[receiver]
        for receiver, theirs in found.items():
            self._of.setdefault(receiver, {})[mpxn] = theirs
        if found:
            group = frozenset(found)
            if len(self._groups) >= GROUPS_MAX:
                self._groups.clear()
            self._receivers[mpxn] = self._groups.setdefault(group, group)

    def waiting(self, receiver: Actor) -> Mapping[str, tuple[Item, ...]]:
        """By meter, what a party has to answer in that role, the first first."""
        return self._of.get(Actor(told_role(receiver.role), receiver.party), {})

    async def backlogs(self, now: datetime) -> list[Backlog]:
        """Everybody who has something to answer, by party, each as it is when its turn comes.

        It may be as much as there are meters, so all else goes on while it is counted.
        """
        found: dict[str, Backlog] = {}
        # Of a receiver only once its turn has come: receivers may be many.
        meters = chain.from_iterable(tuple(self.waiting(each).values()) for each in tuple(self._of))
        for place, item in enumerate(chain.from_iterable(meters), start=1):
            if place % COUNTED_A_TURN == 0:
                await asyncio.sleep(0)
            if self._obliges(item):
                theirs = found.get(item.receiver)
                if theirs is None:
                    theirs = Backlog(item.receiver, item.since, item.due)
                    found[item.receiver] = theirs
                theirs.oldest = min(theirs.oldest, item.since)
                theirs.first_due = min(theirs.first_due, item.due)
                theirs.outstanding += 1
                theirs.overdue += item.overdue(now)
        return sorted(found.values(), key=lambda theirs: theirs.party)


class Consumers:
    """What each consumer has still to take in, made when it is asked for.

    There are as many consumers as homes, few look and none has to, so all that is kept of one is at
    which meters it ever had a consent.
    """

    def __init__(self, tells: Callable[[str], Iterable[Change]]) -> None:
        self._tells = tells
        self._meters: dict[str, tuple[str, ...]] = {}

    def put(self, mpxn: str, access: MeterAccess) -> None:
        """Take in whose consents the meter has."""
        for consumer in {each.consumer_ref for each in access.consents if not is_bar(each)}:
            known = self._meters.get(consumer, ())
            if mpxn not in known:
                self._meters[consumer] = (*known, mpxn)

    def waiting(self, consumer: Actor) -> Mapping[str, tuple[Change, ...]]:
        """By meter, what that consumer has not acknowledged, the first first."""
        found: dict[str, tuple[Change, ...]] = {}
        for mpxn in self._meters.get(consumer.party, ()):
            if theirs := tuple(change for change in self._tells(mpxn) if change.is_for(consumer)):
                found[mpxn] = theirs
        return found


class Outstanding:
    """What every party has still to acknowledge or confirm, as the folds of this process have it.

    A fold only says which meter to look at again; `look` does it, a few meters at a time, so that
    however much changes at once, nobody waits for it but who asks for changes.
    """

    def __init__(
        self,
        meters: Coordinator,
        acknowledgements: Coordinator,
        now: Callable[[], datetime] = wire.now,
    ) -> None:
        self._now = now
        self._meters, self._acknowledgements = meters, acknowledgements
        self._changes: Shelf[Change] = Shelf(
            self._told_participants, self._acknowledged, lambda change: change.obliges
        )
        self._consumers = Consumers(self._unacknowledged)
        self.deletions: Shelf[Deletion] = Shelf(self._owed_by_participants, self._acknowledged)
        self._by_time: list[tuple[datetime, str]] = []
        self._timed: dict[str, datetime] = {}
        self._unread: list[Iterator[str]] = []
        # Meters to look at again, with what their access has become where a fold has said so.
        self._changed: OrderedDict[str, MeterAccess | None] = OrderedDict()
        self._joined: list[LiveFold] = []

    def watch(self, folds: Iterable[LiveFold], acknowledged: LiveFold) -> None:
        """Look at every meter that there is, and from now on at each of which a fold says more."""
        for live in folds:
            live.listeners.append(self._on_facts)
            live.listeners.append(partial(self._on_governance, live))
            self._unread.append(_meters(live))
        acknowledged.listeners.append(self._on_acknowledged)

    @property
    def complete(self) -> bool:
        """Whether every meter there was at the start has been looked at."""
        return not self._unread

    async def look(self, turns: int | None = None) -> None:
        """Take in what has changed by what was folded or by time alone; so many turns, or all."""
        for _ in count() if turns is None else range(turns):
            while self._by_time and self._by_time[0][0] <= self._now():
                moment, mpxn = heapq.heappop(self._by_time)
                if self._timed.get(mpxn) == moment:  # or a clock that was set back hides it
                    del self._timed[mpxn]
                self._changed.setdefault(mpxn)
            due = min(len(self._changed), METERS_A_TURN)
            meters = [self._changed.popitem(last=False) for _ in range(due)]
            if not meters and self._unread:
                meters = [(mpxn, None) for mpxn in islice(self._unread[-1], METERS_A_TURN)]
                if not meters:
                    self._unread.pop()
            elif not meters:
                return
            now = self._now()
            self._look_at(meters, now)
            await asyncio.sleep(0)

    async def look_again(self) -> None:
        """Look at every meter again once somebody takes part who maybe was not told for that.

        Whoever asks for changes does not wait for it.
        """
        while self._joined:
            for place, mpxn in enumerate(_meters(self._joined.pop(0)), start=1):
                self.take_in(mpxn)
                if place % METERS_A_TURN == 0:
                    await asyncio.sleep(0)

    def waiting(self, receiver: Actor) -> Mapping[str, tuple[Change, ...]]:
        """By meter, what a party has to acknowledge in that role, the first first."""
        if receiver.role == Role.CONSUMER:
            return self._consumers.waiting(receiver)
        return self._changes.waiting(receiver)

    async def backlogs(self) -> list[Backlog]:
        """Everybody who has to acknowledge a change. No consumer has to, and nobody a notice."""
        return await self._changes.backlogs(self._now())

    def owed(self, mpxn: str, by: Actor) -> list[tuple[Deletion, datetime | None]]:
        """What that party is shown of deletions at a meter, and when each was confirmed."""
        found = deletions(mpxn, self._meters.state(mpxn), self._now())
        confirmed = self._acknowledgements.state
        return [(each, confirmed(each.id).decided_at) for each in found if each.is_shown_to(by)]

    def told(self, mpxn: str, change_id: str, by: Actor) -> Change | None:
        """A change that is told to that party in that role or was acknowledged by it."""
        for change in told(mpxn, self._meters.state(mpxn), self._now()):
            if change.id == change_id and change.is_for(by):
                return change
        return None

    def had(self, mpxn: str, consent_id: str, by: Actor) -> bool:
        """Whether that party is the data user of such a consent at the meter, live or over."""
        consent = find_consent(self._meters.state(mpxn), consent_id)
        return consent is not None and not is_bar(consent) and consent.data_user == by.party

    async def count(self) -> None:
        """Measure how much waits, and for how long."""
        now = self._now()
        changes, owed = await self.backlogs(), await self.deletions.backlogs(now)
        oldest = min((theirs.oldest for theirs in changes), default=now)
        telemetry.changes_outstanding.set(sum(theirs.outstanding for theirs in changes))
        telemetry.changes_oldest_s.set((now - oldest).total_seconds())
        telemetry.deletions_overdue.set(sum(theirs.overdue for theirs in owed))

    def _on_facts(self, record: LogRecord, applied: Applied) -> None:
        for subject, _ in applied.events:
            self._changed[subject] = applied.states.get(subject)

    def _on_governance(self, live: LiveFold, record: LogRecord, applied: Applied) -> None:
        joined = any(isinstance(event, _JOINING) for _, event in applied.events)
        if joined and live not in self._joined:
            self._joined.append(live)

    def _on_acknowledged(self, record: LogRecord, applied: Applied) -> None:
        for _, event in applied.events:
            self._changed.setdefault(getattr(event, "mpxn", ""))

    def take_in(self, mpxn: str) -> None:
        """Look at a meter again, whose access or acknowledgements may have changed."""
        self._look_at([(mpxn, None)], self._now())

    def _look_at(self, meters: Iterable[tuple[str, MeterAccess | None]], now: datetime) -> None:
        """The same of several, with the access that a fact has just left, if it is known."""
        known = ((mpxn, access or self._meters.state(mpxn)) for mpxn, access in meters)
        concerned = [(mpxn, access) for mpxn, access in known if access.consents]
        self._changes.put(concerned, now)
        self.deletions.put(concerned, now)
        for mpxn, access in concerned:
            self._consumers.put(mpxn, access)
            moment = next_by_time(access, now)
            if moment is not None and self._timed.get(mpxn) != moment:
                self._timed[mpxn] = moment
                heapq.heappush(self._by_time, (moment, mpxn))
        if len(self._by_time) > 2 * len(self._timed) + SUPERSEDED_MAX:
            self._by_time = [(moment, mpxn) for mpxn, moment in self._timed.items()]
            heapq.heapify(self._by_time)

    def _participant(self, mpxn: str, party: str) -> Participant | None:
        return self._meters.live(mpxn).stored.fold.participant(party)

    def _told_participants(
        self, mpxn: str, access: MeterAccess, now: datetime
    ) -> tuple[Change, ...]:
        """What there is to tell of a meter to others than its consumers. Names that anybody may
        make up are not kept: nobody would ever acknowledge for them.
        """
        return tuple(
            change
            for change in told(mpxn, access, now, PARTICIPANTS)
            if takes_part(change, access, self._participant(mpxn, change.receiver))
        )

    def _owed_by_participants(
        self, mpxn: str, access: MeterAccess, now: datetime
    ) -> tuple[Deletion, ...]:
        found = deletions(mpxn, access, now)
        return tuple(each for each in found if self._participant(mpxn, each.receiver) is not None)

    def _unacknowledged(self, mpxn: str) -> Iterator[Change]:
        found = told(mpxn, self._meters.state(mpxn), self._now())
        acknowledged = self._acknowledged([change.id for change in found])
        return (change for change in found if change.id not in acknowledged)

    def _acknowledged(self, ids: Sequence[str]) -> Collection[str]:
        """Those of these changes and deletions that their receivers have answered."""
        states = zip(ids, self._acknowledgements.states(ids), strict=True)
        return {told_id for told_id, state in states if state.decided_at is not None}
