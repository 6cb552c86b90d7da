"""What a coordinator is asked to do and what became of it; which orders can share a record.

An order is a command with who gave it and under which key. Orders of one partition may stand in one
record, under one signature, each still accepted or refused alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from typing import Any, Final

from spine.domain import Actor

# Of the largest there are (consents), well below what a record may come to.
COMMANDS_PER_RECORD: Final = 500


@dataclass(frozen=True, slots=True)
class Order:
    """A command with who gave it and under which idempotency key.

    `method` and `party` scope the key; `digest` is the SHA-256 of the request, so that other
    content under the same key is a conflict. `id`: 16 bytes that name this command for ever.
    """

    subject: str
    command: Any
    actor: Actor
    method: str
    idempotency_key: str
    digest: bytes
    id: bytes = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        by = self.actor
        parts = (by.role, by.party, self.method, self.idempotency_key, self.subject)
        object.__setattr__(self, "id", sha256("\x1f".join(parts).encode()).digest()[:16])


@dataclass(frozen=True, slots=True)
class Handled:
    """Where the facts of a command stand. `replayed`: an earlier send of it had already applied."""

    topic: str
    partition: int
    offset: int
    entry: int
    replayed: bool
    changed: bool = True


@dataclass(frozen=True, slots=True)
class Rehearsed:
    """A subject's state and what a command would make of it at `now`."""

    before: Any
    after: Any
    now: datetime


def next_record(orders: Sequence[Order], places: list[int]) -> tuple[list[int], list[int]]:
    """The orders that can share the next record, and the rest: no subject stands in one twice."""
    taken: list[int] = []
    rest: list[int] = []
    subjects: set[str] = set()
    for place in places:
        subject = orders[place].subject
        if subject in subjects or len(taken) == COMMANDS_PER_RECORD:
            rest.append(place)
        else:
            subjects.add(subject)
            taken.append(place)
    return taken, rest
