"""What the rows of a partition's store hold, and what a fold says of each record it consumed.

Row keys begin with a prefix that names their kind. They are MessagePack; a store's digest covers
them, so a change of shape is a new version of the reducers.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from msgspec import Raw, Struct

from spine.domain import Domain, ReadableRows
from spine.errors import Reason
from spine.event import NO_PREDECESSOR, AccessRequest, SignerRole
from spine.policy import Decision, MeterAccess

HEAD_ROW: Final = b"\x00head"
GOVERNANCE_PREFIX: Final = b"g/"
SUBJECT_PREFIX: Final = b"s/"
APPLIED_PREFIX: Final = b"i/"
HELD_PREFIX: Final = b"h/"
CLOSED_PREFIX: Final = b"c/"
QUARANTINE_PREFIX: Final = b"q/"
HISTORY_PREFIX: Final = b"v/"
_PLACE: Final = struct.Struct(">qi")
# Records of governance, 2 to 3 KB each. A log with more is read as if none were remembered.
COPIES_REMEMBERED_MAX: Final = 8_192


class Malformed(Exception):
    """Bytes that no released schema explains, or that break its rules."""


class UnknownSchema(Exception):
    """A schema id, or a type of fact, that this build does not know."""


@dataclass(frozen=True, slots=True)
class Effect:
    """What `facts` of governance came to in a partition that has a copy of them: the rows that they
    wrote, whom they are about, and the events. They come to the same wherever the rows under the
    same keys were `before` what they were there.
    """

    governance: Domain
    facts: object
    role: SignerRole
    before: Sequence[bytes | None]
    rows: Sequence[tuple[bytes, bytes]]
    subjects: Sequence[str]
    events: Sequence[tuple[str, object]]

    def fits(
        self, governance: Domain, facts: object, role: SignerRole, before: Sequence[bytes | None]
    ) -> bool:
        """Whether it is also what these facts come to there. They are the same ones only if they
        were read once, so that no byte of them can differ.
        """
        alike = self.governance is governance and self.facts is facts and self.role is role
        return alike and self.before == before


@dataclass(frozen=True, slots=True)
class Reading:
    """How signed bytes become values, each a function of nothing but what it is given.

    `verify(public_key, message, signature)` says whether that key signed the message;
    `decode(framed)` gives a record value or raises Malformed or UnknownSchema; `decode_event(type,
    body)` the same for a fact. `effects`, by the offset of the home record, are for copies alone.
    """

    verify: Callable[[bytes, bytes, bytes], bool]
    decode: Callable[[bytes], object]
    decode_event: Callable[[str, bytes], object]
    effects: dict[int, Effect] = field(default_factory=dict, kw_only=True, compare=False)


@dataclass(frozen=True, slots=True)
class Tools(Reading):
    """The effects a fold is lent, so that it stays pure.

    `copied` reads what stands alike in every partition: it does the same, and remembers what came
    of it. `entries(framed)` gives the canonical Avro bytes of each request of an access record.
    """

    copied: Reading
    entries: Callable[[bytes], list[bytes]]
    pack: Callable[[object], bytes]
    unpack: Callable[[bytes, Any], Any]


class Counts(Struct, frozen=True):
    """The balance of rule 8, counted in entries: consumed is the sum of all the others."""

    consumed: int = 0
    applied: int = 0
    duplicate: int = 0
    void: int = 0
    quarantined: int = 0
    held: int = 0
    access: int = 0

    @property
    def balanced(self) -> bool:
        """Whether nothing was lost."""
        return self.consumed == (
            self.applied + self.duplicate + self.void + self.quarantined + self.held + self.access
        )


class Head(Struct, frozen=True):
    """What a fold knows of its whole partition. `now_ms`: rule 11; `last_copy`: home offset."""

    log_id: bytes
    generation: int
    partition_count: int
    root_key: bytes
    opening: bytes
    now_ms: int = 0
    last_copy: int = NO_PREDECESSOR
    next_offset: int = 0
    holes: int = 0
    closed: str = ""
    counts: Counts = Counts()

    def after(self, offset: int, counts: Counts) -> Head:
        """The same after the record at that offset; of what lies before it, what is not there is
        holes.
        """
        return Head(
            self.log_id,
            self.generation,
            self.partition_count,
            self.root_key,
            self.opening,
            self.now_ms,
            self.last_copy,
            offset + 1,
            self.holes + offset - self.next_offset,
            self.closed,
            counts,
        )


class Subject(Struct, frozen=True):
    """A row: the state of one subject and the position of its last applied command."""

    offset: int
    entry: int
    state: Any


class AppliedCommand(Struct, frozen=True):
    """A row: where a command id was applied, and the digest of the request that bore it."""

    offset: int
    entry: int
    request_digest: bytes


class After(Struct, frozen=True):
    """What the facts of a command came to: the state after them, that as it is packed into a row,
    and the events that they are.
    """

    state: Any
    packed: Raw
    events: Sequence[object]


@dataclass(frozen=True, slots=True)
class Refusal:
    """An entry that was not applied: void, quarantined or held, and by which rule."""

    entry: int
    outcome: str
    reason: Reason
    subject: str = ""


@dataclass(slots=True)
class Applied:
    """What one record did to the partition. `states`: of the domain's subjects, after it."""

    subjects: list[str] = field(default_factory=list)
    events: list[tuple[str, object]] = field(default_factory=list)
    states: dict[str, Any] = field(default_factory=dict)
    refusals: list[Refusal] = field(default_factory=list)
    duplicates: int = 0
    applied: int = 0
    access: int = 0
    governance: bool = False

    def counted(self, counts: Counts) -> Counts:
        """The balance with this record in it."""
        tally = {"void": 0, "quarantined": 0, "held": 0}
        for refusal in self.refusals:
            tally[refusal.outcome] += 1
        entries = self.applied + self.duplicates + self.access + len(self.refusals)
        return Counts(
            counts.consumed + entries,
            counts.applied + self.applied,
            counts.duplicate + self.duplicates,
            counts.void + tally["void"],
            counts.quarantined + tally["quarantined"],
            counts.held + tally["held"],
            counts.access + self.access,
        )


@dataclass(frozen=True, slots=True)
class Decided:
    """The fold's decision on one member of one logged request, and the state it rests on."""

    entry: int
    request: AccessRequest
    member: str
    decision: Decision
    now_ms: int
    policy_version: int
    access: MeterAccess = field(default_factory=MeterAccess)


def subject_history(
    rows: ReadableRows,
    unpack: Callable[[bytes, Any], Any],
    domain: Domain,
    subject: str,
    below: int,
    since: int = 0,
) -> Iterator[Subject]:
    """Every state of a subject whose command stands below that offset, oldest first.

    `since`: an offset, to leave out those before it.
    """
    name = subject.encode()
    for _, row in rows.scan(history_row(name, since, 0), history_row(name, below, 0)):
        yield Subject(*unpack(row, domain.row_type))


def history_row(subject: bytes, offset: int, entry: int) -> bytes:
    """The key under which a subject's state after one command is kept, for reads as of then."""
    return HISTORY_PREFIX + subject + b"\x00" + _PLACE.pack(offset, entry)


def rows_digest(rows: Iterator[tuple[bytes, bytes]]) -> bytes:
    """SHA-256 over rows in key order, lengths included."""
    digest = hashlib.sha256()
    for key, value in rows:
        digest.update(struct.pack(">II", len(key), len(value)) + key + value)
    return digest.digest()
