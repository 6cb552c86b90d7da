"""Objecting to a use, and allowing it again, between the wire and the commands."""

from __future__ import annotations

from typing import Any

from domains.consumers import preview, uses
from domains.consumers.commands import AllowUse, ObjectToUse
from spine.admission import is_dry_run
from spine.consumers.v1 import consumers_pb2
from spine.coordinator import Coordinator
from spine.gb import parse_mpxn
from spine.in_force import policy_in_force
from spine.policy import Role
from spine.services import terms, wire


async def carry_out(
    meters: Coordinator,
    log_id: bytes,
    kind: type[ObjectToUse] | type[AllowUse],
    request: Any,
) -> Any:
    """The answer to such a request. A consumer speaks for itself and may leave its reference out.

    Of a dry run it says what would be shut or opened, and nothing is written.
    """
    mpxn, by = str(parse_mpxn(request.mpxn)), wire.caller()
    command = kind(
        by,
        wire.code(request.basis, "basis"),
        wire.code(request.purpose, "purpose"),
        terms.party(request, "consumer_ref", by, (Role.CONSUMER,)),
    )
    if is_dry_run(request):
        done = await meters.rehearse(mpxn, command, by)
        version = policy_in_force(meters.live(mpxn).stored.fold)
        found = uses.concerned(done.before, done.after, version)
        return consumers_pb2.UseResponse(uses=[_shown(one) for one in found])
    handled = await meters.handle(wire.order(request, kind.__name__, mpxn, command, by))
    return consumers_pb2.UseResponse(**wire.recorded(log_id, handled))


def _shown(one: uses.Use) -> Any:
    made = consumers_pb2.Use(reader=one.reader, role=one.role, category=one.category)
    made.metered_from.FromDatetime(one.metered.start)
    if one.metered.end < preview.FOR_EVER:
        made.metered_to.FromDatetime(one.metered.end)
    return made
