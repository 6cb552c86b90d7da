"""The Changes service of `proto/spine/consumers/v1`: what became of consents, until acknowledged.

It runs in the consumers coordinator because all that there is to tell follows from that process's
own folds: nothing is queued that could be lost or get out of step with the log, and any coordinator
of the group can tell it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from hashlib import sha256
from itertools import chain, islice
from typing import Any, Final

from domains.consumers.changes import (
    RECEIVES,
    AcknowledgeChange,
    Change,
    Sent,
    send,
)
from spine.consumers.v1 import consumers_pb2, consumers_pb2_grpc
from spine.coordinator import Coordinator
from spine.domain import Actor
from spine.errors import NotPermitted, Pushback, Reason, Refused
from spine.gb import parse_mpxn
from spine.orders import Handled, Order
from spine.policy import Role
from spine.services import wire
from spine.services.outstanding import Outstanding

IN_FLIGHT_MAX: Final = 1_000
LISTED_MAX: Final = 1_000
FOLLOW_POLL_S: Final = 0.2
# What waits for a consumer is made anew at each look.
CONSUMER_POLL_TURNS: Final = 10
OVERSEES: Final = frozenset({Role.GOVERNANCE, Role.CONSENT_SERVICE})


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
        pause_s = FOLLOW_POLL_S * (CONSUMER_POLL_TURNS if by.role == Role.CONSUMER else 1)
        try:
            while self._following.get(by) is this:
                waiting = self._known.waiting(by)
                sent = {mpxn: sent[mpxn] for mpxn in sent if mpxn in waiting}
                meters = list(islice(waiting, IN_FLIGHT_MAX))
                random.shuffle(meters)  # or two receivers could find by it what both are told of
                for mpxn in meters:
                    change, now = next(iter(waiting.get(mpxn, ())), None), wire.now()
                    if change is None:
                        continue
                    sending = send(sent.get(mpxn), change, now, random.random())
                    if sending is not None:
                        sent[mpxn] = sending
                        yield _told(change, now, sending.times)
                await asyncio.sleep(pause_s)
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
        if not change.is_notice and change in self._mine(mpxn, by)[1:]:
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
        waiting = chain.from_iterable(self._known.waiting(by).values())
        asked = (change for change in waiting if change.overdue(now) or not request.overdue)
        found = list(islice(asked, LISTED_MAX + 1))
        return consumers_pb2.ListChangesResponse(
            changes=[_told(change, now) for change in found[:LISTED_MAX]],
            more=len(found) > LISTED_MAX,
        )

    async def ListReceivers(self, request: Any, context: Any) -> Any:
        """Who has something to acknowledge, and how much of it is overdue; a page by party."""
        if wire.caller().role not in OVERSEES:
            raise NotPermitted(Reason.ROLE_NOT_ALLOWED, "this role does not oversee receivers")
        self._check_complete()
        after = request.after and wire.identifier(request.after, "after")
        await self._known.look()
        behind = (each for each in await self._known.backlogs() if each.party > after)
        found = list(islice(behind, LISTED_MAX + 1))
        return consumers_pb2.ListReceiversResponse(
            more=len(found) > LISTED_MAX,
            receivers=[
                consumers_pb2.Receiver(
                    party=theirs.party,
                    outstanding=theirs.outstanding,
                    overdue=theirs.overdue,
                    oldest=wire.stamp(theirs.oldest),
                    webhook=self._has_webhook(theirs.party),
                )
                for theirs in found[:LISTED_MAX]
            ],
        )

    def _mine(self, mpxn: str, by: Actor) -> list[Change]:
        """What waits for the caller at a meter, the first first."""
        return [*self._known.waiting(by).get(mpxn, ())]

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
