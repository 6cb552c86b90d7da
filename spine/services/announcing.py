"""The Changes service of `proto/spine/consumers/v1`: what became of consents, until acknowledged.

It runs in the consumers coordinator because all that there is to tell follows from that process's
own folds: nothing is queued that could be lost or get out of step with the log, and any coordinator
of the group can tell it. The index here is made again from the folds at each start.
"""

from __future__ import annotations

import asyncio
import heapq
import random
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import datetime
from hashlib import sha256
from itertools import chain, islice
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
from spine import telemetry, trust
from spine.consumers.v1 import consumers_pb2, consumers_pb2_grpc
from spine.coordinator import Coordinator, Order
from spine.domain import Actor
from spine.errors import NotPermitted, Reason, Refused
from spine.event import LogRecord
from spine.gb import parse_mpxn
from spine.policy import Role
from spine.rows import SUBJECT_PREFIX, Applied
from spine.runtime import Process
from spine.server import Service
from spine.services import wire
from spine.services.background import every

IN_FLIGHT_MAX: Final = 1_000
LISTED_MAX: Final = 1_000
FOLLOW_POLL_S: Final = 0.2
LOOK_EVERY_S: Final = 1.0
COUNT_EVERY_S: Final = 10.0
ROWS_A_TURN: Final = 1_000
OVERSEES: Final = frozenset({Role.GOVERNANCE, Role.CONSENT_SERVICE})


class Outstanding:
    """What every receiver has not acknowledged, by meter, as the folds of this process have it."""

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

    async def watch(self, process: Process) -> None:
        """Know what there is to tell now, and from now on whatever comes."""
        assert process.folds is not None
        lives = [process.folds[trust.CONSUMER_LOG, p] for p in range(process.runtime.partitions)]
        for live in lives:
            live.listeners.append(self._changed)
        self._acknowledgements.live("").listeners.append(self._acknowledged)
        for live in lives:
            rows = live.stored.fold.rows.scan(SUBJECT_PREFIX, SUBJECT_PREFIX + b"\xff")
            for number, (key, _) in enumerate(rows):
                self.take_in(key.removeprefix(SUBJECT_PREFIX).decode())
                if number % ROWS_A_TURN == 0:
                    await asyncio.sleep(0)

    def waiting(self, receiver: str) -> Mapping[str, tuple[Change, ...]]:
        """By meter, what a receiver has to acknowledge, the oldest first."""
        return self._of.get(receiver, {})

    def receivers(self) -> list[tuple[str, list[Change]]]:
        """Everybody who has something to acknowledge, and what."""
        return [(who, list(chain(*of.values()))) for who, of in sorted(self._of.items()) if of]

    def told(self, mpxn: str, change_id: str, receiver: str) -> Change | None:
        """A change that is told to that receiver or was acknowledged by it."""
        for change in changes(mpxn, self._meters.state(mpxn), self._now()):
            if (change.id, change.receiver) == (change_id, receiver):
                return change
        return None

    async def look(self) -> None:
        """Take in what time alone has changed."""
        while self._by_time and self._by_time[0][0] <= self._now():
            self.take_in(heapq.heappop(self._by_time)[1])

    async def count(self) -> None:
        """Measure how much waits, and for how long."""
        waiting = [change for _, theirs in self.receivers() for change in theirs]
        oldest = min((change.since for change in waiting), default=None)
        telemetry.changes_outstanding.set(len(waiting))
        age_s = 0.0 if oldest is None else (self._now() - oldest).total_seconds()
        telemetry.changes_oldest_s.set(age_s)

    def _changed(self, record: LogRecord, applied: Applied) -> None:
        for mpxn in {subject for subject, _ in applied.events}:
            self.take_in(mpxn)

    def _acknowledged(self, record: LogRecord, applied: Applied) -> None:
        for _, event in applied.events:
            if mpxn := getattr(event, "mpxn", ""):
                self.take_in(mpxn)

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

    def __init__(self, known: Outstanding, acknowledgements: Coordinator) -> None:
        self._known, self._acknowledgements = known, acknowledgements

    async def FollowChanges(self, request: Any, context: Any) -> AsyncIterator[Any]:
        """At each meter the first change that waits, and again while it does."""
        by = _receiver()
        sent: dict[str, Sent] = {}
        while True:
            waiting = self._known.waiting(by.party)
            sent = {mpxn: sent[mpxn] for mpxn in sent if mpxn in waiting}
            for mpxn, (change, *_) in list(islice(waiting.items(), IN_FLIGHT_MAX)):
                now = wire.now()
                sending = send(sent.get(mpxn), change, now, random.random())
                if sending is not None and self._still(by, change):
                    sent[mpxn] = sending
                    yield _told(change, now, sending.times)
            await asyncio.sleep(FOLLOW_POLL_S)

    async def AcknowledgeChange(self, request: Any, context: Any) -> Any:
        """The caller has taken in the first change that waits at the meter."""
        by, mpxn = _receiver(), str(parse_mpxn(request.mpxn))
        change_id = wire.identifier(request.change_id, "change_id")
        change = self._known.told(mpxn, change_id, by.party)
        if change is None:
            raise Refused(Reason.CHANGE_UNKNOWN, "the meter has no such change for the caller")
        waiting = self._known.waiting(by.party).get(mpxn, ())
        if change in waiting[1:]:
            raise Refused(Reason.CHANGE_OUT_OF_ORDER, "an earlier change comes first")
        command = AcknowledgeChange(by, change)
        digest = sha256(change_id.encode()).digest()
        order = Order(change_id, command, by, "AcknowledgeChange", change_id, digest)
        handled = await self._acknowledgements.handle(order)
        return consumers_pb2.AcknowledgeChangeResponse(
            record=wire.record_ref(handled), replayed=handled.replayed
        )

    async def ListChanges(self, request: Any, context: Any) -> Any:
        """What the caller has not acknowledged."""
        by, now = _receiver(), wire.now()
        waiting = chain(*self._known.waiting(by.party).values())
        asked = (c for c in waiting if c.overdue(now) or not request.overdue)
        found = list(islice(asked, LISTED_MAX + 1))
        return consumers_pb2.ListChangesResponse(
            changes=[_told(change, now) for change in found[:LISTED_MAX]],
            more=len(found) > LISTED_MAX,
        )

    async def ListReceivers(self, request: Any, context: Any) -> Any:
        """Who has something to acknowledge, and how much of it is overdue."""
        if wire.caller().role not in OVERSEES:
            raise NotPermitted(Reason.ROLE_NOT_ALLOWED, "this role does not oversee receivers")
        now = wire.now()
        return consumers_pb2.ListReceiversResponse(
            receivers=[
                consumers_pb2.Receiver(
                    party=party,
                    outstanding=len(theirs),
                    overdue=sum(change.overdue(now) for change in theirs),
                    oldest=wire.stamp(min(change.since for change in theirs)),
                )
                for party, theirs in self._known.receivers()
            ]
        )

    def _still(self, by: Actor, change: Change) -> bool:
        """Whether it waits still: the receiver may have been slow to take what came before it."""
        return change in self._known.waiting(by.party).get(change.mpxn, ())[:1]


def _receiver() -> Actor:
    by = wire.caller()
    if by.role not in RECEIVES:
        raise NotPermitted(Reason.ROLE_NOT_ALLOWED, "this role is told of no changes")
    return by


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


async def announcing(
    process: Process, meters: Coordinator, acknowledgements: Coordinator
) -> Service:
    """The service; by the time this returns, all that waits is known."""
    known = Outstanding(meters, acknowledgements)
    await known.watch(process)
    every(process, LOOK_EVERY_S, known.look)
    every(process, COUNT_EVERY_S, known.count)
    return Service(
        consumers_pb2.DESCRIPTOR.services_by_name["Changes"].full_name,
        consumers_pb2_grpc.add_ChangesServicer_to_server,
        ChangesService(known, acknowledgements),
    )
