"""What a request to object to a use, or to allow it again, says."""

from __future__ import annotations

from typing import Any

from domains.consumers.commands import AllowUse, ObjectToUse
from spine.policy import Role
from spine.services import terms, wire


def said(command: type[ObjectToUse] | type[AllowUse], request: Any) -> ObjectToUse | AllowUse:
    """The command of the caller. A consumer speaks for itself and may leave its reference out."""
    by = wire.caller()
    return command(
        by,
        wire.code(request.basis, "basis"),
        wire.code(request.purpose, "purpose"),
        terms.party(request, "consumer_ref", by, (Role.CONSUMER,)),
    )
