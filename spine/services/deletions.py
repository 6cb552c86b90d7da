"""The Deletions service of `proto/spine/consumers/v1`: what data users have to delete, and did."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from itertools import chain, islice
from typing import Any, Final

from domains.consumers.deletions import DELETES, ConfirmDeletion, Deletion
from spine.consumers.v1 import consumers_pb2, consumers_pb2_grpc
from spine.coordinator import Coordinator
from spine.domain import Actor
from spine.errors import Invalid, NotPermitted, Pushback, Reason, Refused
from spine.gb import parse_mpxn
from spine.policy import Role
from spine.services import wire
from spine.services.announcing import LISTED_MAX, OVERSEES
from spine.services.outstanding import Outstanding

Owed = tuple[Deletion, datetime | None]
SEES: Final = DELETES | {Role.CONSUMER}


class DeletionsService(consumers_pb2_grpc.DeletionsServicer):
    """Takes confirmations, and shows what is owed to whom it concerns."""

    def __init__(self, known: Outstanding, home: Coordinator, log_id: bytes) -> None:
        self._known, self._home, self._log_id = known, home, log_id

    async def ConfirmDeletion(self, request: Any, context: Any) -> Any:
        """The caller has deleted what it got under a consent that is over."""
        by = wire.caller()
        if by.role not in DELETES:
            raise NotPermitted(Reason.ROLE_NOT_ALLOWED, "this role has nothing to delete")
        wire.idempotency_key(request)
        mpxn = str(parse_mpxn(request.mpxn))
        consent_id = wire.identifier(request.consent_id, "consent_id")
        owed = next(
            (each for each, _ in self._known.owed(mpxn, by) if each.consent_id == consent_id), None
        )
        if owed is None:
            if not self._known.had(mpxn, consent_id, by):
                raise Refused(Reason.CONSENT_UNKNOWN, "the caller had no such consent there")
            raise Refused(Reason.CONSENT_STATE, "the consent is not over, or opened nothing")
        command = ConfirmDeletion(by, owed)
        handled = await self._home.handle(
            wire.order(request, "ConfirmDeletion", owed.id, command, by)
        )
        self._known.take_in(mpxn)
        return consumers_pb2.CommandResponse(**wire.recorded(self._log_id, handled))

    async def ListDeletions(self, request: Any, context: Any) -> Any:
        """What the caller owes, or what is owed for its consents at a meter."""
        by = wire.caller()
        if by.role not in SEES:
            raise NotPermitted(Reason.ROLE_NOT_ALLOWED, "this role is shown no deletions")
        now = wire.now()
        found = list(
            islice(
                (
                    _shown(each, at, now)
                    for each, at in await self._asked(request, by)
                    if not request.overdue or (at is None and each.overdue(now))
                ),
                LISTED_MAX + 1,
            )
        )
        return consumers_pb2.ListDeletionsResponse(
            deletions=found[:LISTED_MAX], more=len(found) > LISTED_MAX
        )

    async def ListDeletionsOwed(self, request: Any, context: Any) -> Any:
        """Who owes confirmations, and how many of them are late."""
        if wire.caller().role not in OVERSEES:
            raise NotPermitted(Reason.ROLE_NOT_ALLOWED, "this role does not oversee data users")
        await self._level()
        now = wire.now()
        return consumers_pb2.ListDeletionsOwedResponse(
            owed=[
                consumers_pb2.DeletionsOwed(
                    data_user=theirs.party,
                    outstanding=theirs.outstanding,
                    overdue=theirs.overdue,
                    first_due=wire.stamp(theirs.first_due),
                )
                for theirs in await self._known.deletions.backlogs(now)
            ]
        )

    async def _asked(self, request: Any, by: Actor) -> Iterable[Owed]:
        if request.only_mpxn:
            return self._known.owed(str(parse_mpxn(request.only_mpxn)), by)
        if by.role == Role.CONSUMER:
            raise Invalid(Reason.FIELD_MISSING, "only_mpxn is required", field="only_mpxn")
        await self._level()
        theirs = self._known.deletions.waiting(by)
        return ((each, None) for each in chain.from_iterable(theirs.values()))

    async def _level(self) -> None:
        """Take in all that is folded; Pushback(STARTING) until every meter was looked at."""
        if not self._known.complete:
            raise Pushback(Reason.STARTING, "what is owed is still being looked up")
        await self._known.look()


def _shown(each: Deletion, confirmed_at: datetime | None, now: datetime) -> Any:
    return consumers_pb2.Deletion(
        mpxn=each.mpxn,
        consent_id=each.consent_id,
        data_user=each.data_user,
        purpose=each.purpose,
        since=wire.stamp(each.since),
        due=wire.stamp(each.due),
        overdue=confirmed_at is None and each.overdue(now),
        confirmed_at=None if confirmed_at is None else wire.stamp(confirmed_at),
    )
