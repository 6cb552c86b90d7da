"""Requests that were decided in one record, for whoever answers several of them at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from spine.policy import Permit
from spine.rows import Decided


@dataclass(slots=True, eq=False)
class Beside:
    """Permitted requests for half hours of one meter each that are yet to be answered, by request
    id; and what is ready of their answers.
    """

    decided: dict[bytes, Decided] = field(default_factory=dict)
    answers: dict[bytes, Any] = field(default_factory=dict)

    def add(self, members: Sequence[Decided]) -> None:
        """Let a request that is handed out be among them, if it is such a one."""
        first = members[0]
        permitted = len(members) == 1 and isinstance(first.decision, Permit)
        if permitted and first.request.measurement_quantity:
            self.decided[first.request.request_id] = first

    def leave_out(self, request_id: bytes) -> None:
        """Nobody waits for the answer to that one any more."""
        self.decided.pop(request_id, None)
        self.answers.pop(request_id, None)
