"""The Changes service of `proto/spine/consumers/v1`: what became of consents, until acknowledged.

It runs in the consumers coordinator because all that there is to tell follows from that process's
own folds: nothing is queued that could be lost or get out of step with the log, and any coordinator
of the group can tell it. The index here is made again from the folds at each start.
"""

from __future__ import annotations

import asyncio
import heapq
import random
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from datetime import datetime
from hashlib import sha256
from itertools import chain, count, islice
from typing import Any, Final

from domains.consumers.changes import (
    RECEIVES,
    AcknowledgeChange,
    Change,
    Sent,
    changes,
    next_by_time,
    outstanding,
    send,
)
from spine import telemetry
from spine.consumers.v1 import consumers_pb2, consumers_pb2_grpc
from spine.coordinator import Coordinator, Handled, Order
from spine.domain import Actor
from spine.errors import NotPermitted, Pushback, Reason, Refused
from spine.event import LogRecord
from spine.gb import parse_mpxn
from spine.live import LiveFold
from spine.policy import Role
from spine.rows import SUBJECT_PREFIX, Applied
from spine.services import wire

IN_FLIGHT_MAX: Final = 1_000
LISTED_MAX: Final = 1_000
FOLLOW_POLL_S: Final = 0.2
METERS_A_TURN: Final = 50
OVERSEES: Final = frozenset({Role.GOVERNANCE, Role.CONSENT_SERVICE})


class Outstanding:
    """What every receiver has not acknowledged, by meter, as the folds of this process have it.

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
        self._of: dict[str, dict[str, tuple[Change, ...]]] = {}
        self._receivers: dict[str, frozenset[str]] = {}
        self._by_time: list[tuple[datetime, str]] = []
        self._timed: dict[str, datetime] = {}
        self._unread: list[Iterator[str]] = []
        self._changed: set[str] = set()

    def watch(self, folds: Iterable[LiveFold], acknowledged: LiveFold) -> None:
        """Look at every meter that there is, and from now on at each of which a fold says more."""
        for live in folds:
            live.listeners.append(self._on_facts)
            rows = live.stored.fold.rows.scan(SUBJECT_PREFIX, SUBJECT_PREFIX + b"\xff")
            self._unread.append(key.removeprefix(SUBJECT_PREFIX).decode() for key, _ in rows)
        acknowledged.listeners.append(self._on_acknowledged)

    @property
    def complete(self) -> bool:
        """Whether every meter there was at the start has been looked at."""
        return not self._unread

    async def look(self, turns: int | None = None) -> None:
        """Take in what has changed by what was folded or by time alone; so many turns, or all."""
        for _ in count() if turns is None else range(turns):
            while self._by_time and self._by_time[0][0] <= self._now():
                self._changed.add(heapq.heappop(self._by_time)[1])
            meters = [self._changed.pop() for _ in range(min(len(self._changed), METERS_A_TURN))]
            if not meters and self._unread:
                meters = list(islice(self._unread[-1], METERS_A_TURN))
                if not meters:
                    self._unread.pop()
            elif not meters:
                return
            for mpxn in meters:
                self.take_in(mpxn)
            await asyncio.sleep(0)

    def waiting(self, receiver: str) -> Mapping[str, tuple[Change, ...]]:
        """By meter, what a receiver has to acknowledge, the oldest first."""
        return self._of.get(receiver, {})

    def receivers(self) -> list[tuple[str, list[Change]]]:
        """Everybody who has something to acknowledge, and what."""
        found = sorted(self._of.items())
        return [(who, list(chain.from_iterable(of.values()))) for who, of in found if of]

    def told(self, mpxn: str, change_id: str, by: Actor) -> Change | None:
        """A change that is told to that party in that role or was acknowledged by it."""
        for change in changes(mpxn, self._meters.state(mpxn), self._now()):
            if change.id == change_id and change.is_for(by):
                return change
        return None

    async def count(self) -> None:
        """Measure how much waits, and for how long."""
        number, oldest = 0, None
        for theirs in self._of.values():
            for waiting in theirs.values():
                number += len(waiting)
                oldest = min(oldest or waiting[0].since, waiting[0].since)
        telemetry.changes_outstanding.set(number)
        age_s = 0.0 if oldest is None else (self._now() - oldest).total_seconds()
        telemetry.changes_oldest_s.set(age_s)

    def _on_facts(self, record: LogRecord, applied: Applied) -> None:
        self._changed.update(subject for subject, _ in applied.events)

    def _on_acknowledged(self, record: LogRecord, applied: Applied) -> None:
        self._changed.update(getattr(event, "mpxn", "") for _, event in applied.events)

    def take_in(self, mpxn: str) -> None:
        """Look at a meter again, whose access or acknowledgements may have changed."""
        access, now = self._meters.state(mpxn), self._now()
        if not access.consents:
            return
        found = outstanding(changes(mpxn, access, now), self._is_acknowledged)
        for receiver in self._receivers.pop(mpxn, frozenset()) - found.keys():
            self._of[receiver].pop(mpxn, None)
        for receiver, theirs in found.items():
            self._of.setdefault(receiver, {})[mpxn] = theirs
        if found:
            self._receivers[mpxn] = frozenset(found)
        moment = next_by_time(access, now)
        if moment is not None and self._timed.get(mpxn) != moment:
            self._timed[mpxn] = moment
            heapq.heappush(self._by_time, (moment, mpxn))

    def _is_acknowledged(self, change_id: str) -> bool:
        return self._acknowledgements.state(change_id).decided_at is not None


class ChangesService(consumers_pb2_grpc.ChangesServicer):
    """Tells each receiver what is for it."""

    def __init__(
        self,
        known: Outstanding,
        acknowledgements: Coordinator,
        has_webhook: Callable[[str], bool] = lambda party: False,
    ) -> None:
        self._known, self._acknowledgements = known, acknowledgements
        self._has_webhook = has_webhook
        self._following: dict[Actor, object] = {}

    async def FollowChanges(self, request: Any, context: Any) -> AsyncIterator[Any]:
        """At each meter the first change that waits, and again while it does."""
        by, this = self._receiver(), object()
        sent: dict[str, Sent] = {}
        self._following[by] = this  # and the call that was open until now ends
        try:
            while self._following.get(by) is this:
                waiting = self._known.waiting(by.party)
                sent = {mpxn: sent[mpxn] for mpxn in sent if mpxn in waiting}
                for mpxn in list(islice(waiting, IN_FLIGHT_MAX)):
                    change, now = self._first(mpxn, by), wire.now()
                    if change is None:
                        continue
                    sending = send(sent.get(mpxn), change, now, random.random())
                    if sending is not None:
                        sent[mpxn] = sending
                        yield _told(change, now, sending.times)
                await asyncio.sleep(FOLLOW_POLL_S)
        finally:
            if self._following.get(by) is this:
                del self._following[by]

    async def AcknowledgeChange(self, request: Any, context: Any) -> Any:
        """The caller has taken in the first change that waits at the meter."""
        by, mpxn = self._receiver(), str(parse_mpxn(request.mpxn))
        change_id = wire.identifier(request.change_id, "change_id")
        change = self._known.told(mpxn, change_id, by)
        if change is None:
            raise Refused(Reason.CHANGE_UNKNOWN, "the meter has no such change for the caller")
        self._known.take_in(mpxn)
        if change in self._mine(mpxn, by)[1:]:
            raise Refused(Reason.CHANGE_OUT_OF_ORDER, "an earlier change comes first")
        handled = await acknowledge(self._known, self._acknowledgements, by, change)
        return consumers_pb2.AcknowledgeChangeResponse(
            record=wire.record_ref(handled), replayed=handled.replayed
        )

    async def ListChanges(self, request: Any, context: Any) -> Any:
        """What the caller has not acknowledged."""
        by = self._receiver()
        await self._known.look()
        now = wire.now()
        waiting = chain.from_iterable(self._known.waiting(by.party).values())
        asked = (c for c in waiting if c.is_for(by) and (c.overdue(now) or not request.overdue))
        found = list(islice(asked, LISTED_MAX + 1))
        return consumers_pb2.ListChangesResponse(
            changes=[_told(change, now) for change in found[:LISTED_MAX]],
            more=len(found) > LISTED_MAX,
        )

    async def ListReceivers(self, request: Any, context: Any) -> Any:
        """Who has something to acknowledge, and how much of it is overdue."""
        if wire.caller().role not in OVERSEES:
            raise NotPermitted(Reason.ROLE_NOT_ALLOWED, "this role does not oversee receivers")
        self._check_complete()
        await self._known.look()
        now = wire.now()
        return consumers_pb2.ListReceiversResponse(
            receivers=[
                consumers_pb2.Receiver(
                    party=party,
                    outstanding=len(theirs),
                    overdue=sum(change.overdue(now) for change in theirs),
                    oldest=wire.stamp(min(change.since for change in theirs)),
                    webhook=self._has_webhook(party),
                )
                for party, theirs in self._known.receivers()
            ]
        )

    def _mine(self, mpxn: str, by: Actor) -> list[Change]:
        """What waits for the caller at a meter, the oldest first."""
        waiting = self._known.waiting(by.party).get(mpxn, ())
        return [change for change in waiting if change.is_for(by)]

    def _first(self, mpxn: str, by: Actor) -> Change | None:
        return next(iter(self._mine(mpxn, by)), None)

    def _receiver(self) -> Actor:
        by = wire.caller()
        if by.role not in RECEIVES:
            raise NotPermitted(Reason.ROLE_NOT_ALLOWED, "this role is told of no changes")
        self._check_complete()
        return by

    def _check_complete(self) -> None:
        if not self._known.complete:
            raise Pushback(Reason.STARTING, "what there is to tell is still being looked up")


async def acknowledge(known: Outstanding, home: Coordinator, by: Actor, change: Change) -> Handled:
    """Record that a receiver has taken a change in, however it was told."""
    digest = sha256(change.id.encode()).digest()
    command = AcknowledgeChange(by, change)
    handled = await home.handle(
        Order(change.id, command, by, "AcknowledgeChange", change.id, digest)
    )
    known.take_in(change.mpxn)
    return handled


def _told(change: Change, now: datetime, times: int = 0) -> Any:
    return consumers_pb2.ChangeTold(
        change_id=change.id,
        mpxn=change.mpxn,
        consent_id=change.consent_id,
        version=change.version,
        state=change.state,
        since=wire.stamp(change.since),
        overdue=change.overdue(now),
        times=times,
    )
