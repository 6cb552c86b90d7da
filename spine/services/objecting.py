"""Objecting to a use, and allowing it again, between the wire and the commands."""

from __future__ import annotations

from typing import Any

from domains.consumers import commands, uses
from spine.admission import is_dry_run
from spine.consumers.v1 import consumers_pb2, consumers_pb2_grpc
from spine.coordinator import Coordinator
from spine.errors import Reason
from spine.gb import FOR_EVER, parse_mpxn
from spine.in_force import policy_in_force, reader_refusal
from spine.policy import Role
from spine.services import terms, wire


class Objecting(consumers_pb2_grpc.ConsumersServicer):
    """The methods of the Consumers service about uses that need no consent."""

    _meters: Coordinator
    _log_id: bytes

    async def ObjectToUse(self, request: Any, context: Any) -> Any:
        """The occupier shuts a use that needs no consent."""
        return await self._about_use(commands.ObjectToUse, request)

    async def AllowUse(self, request: Any, context: Any) -> Any:
        """The occupier takes its objection back."""
        return await self._about_use(commands.AllowUse, request)

    async def _about_use(
        self, kind: type[commands.ObjectToUse] | type[commands.AllowUse], request: Any
    ) -> Any:
        """Carried out; of a dry run, what would be shut or opened, and nothing is written.

        A consumer speaks for itself and may leave its reference out.
        """
        mpxn, by = str(parse_mpxn(request.mpxn)), wire.caller()
        command = kind(
            by,
            wire.code(request.basis, "basis"),
            wire.code(request.purpose, "purpose"),
            terms.party(request, "consumer_ref", by, (Role.CONSUMER,)),
        )
        if is_dry_run(request):
            done = await self._meters.rehearse(mpxn, command, by)
            fold = self._meters.live(mpxn).stored.fold
            found = uses.concerned(done.before, done.after, policy_in_force(fold))
            about, now = (command.basis, command.purpose), done.now
            return consumers_pb2.UseResponse(
                uses=[
                    _shown(one, reader_refusal(fold, one.reader, *about, now, one.role))
                    for one in found
                ]
            )
        order = wire.order(request, kind.__name__, mpxn, command, by)
        handled = await self._meters.handle(order)
        return consumers_pb2.UseResponse(**wire.recorded(self._log_id, handled))


def _shown(one: uses.Use, refusal: Reason | None) -> Any:
    made = consumers_pb2.Use(
        reader=one.reader, role=one.role, category=one.category, reads_refused=refusal or ""
    )
    made.metered_from.FromDatetime(one.metered.start)
    if one.metered.end < FOR_EVER:
        made.metered_to.FromDatetime(one.metered.end)
    return made
