"""What an audit says: one line for a decision, one balance for a partition, and what was asked for.

Pure. `audit` fills them in, the command line shows them.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Self

from msgspec import Struct

from spine.reducers import NOT_AT_HAND
from spine.rows import Counts, Decided
from spine.verdict import Verdict


class Line(Struct, frozen=True):
    """One decision on one meter, with what was recorded of it and what the audit says.

    Of an outcome without a decision, `at` is when the outcome was appended, and the party is not
    known. `explained`, of what differs: the first event that explains it, and what each side saw.
    """

    verdict: Verdict
    why: str
    at: datetime
    partition: int
    offset: int
    entry: int
    request_id: bytes
    member: str
    party: str = ""
    role: str = ""
    method: str = ""
    purpose: str = ""
    basis: str = ""
    decision: str = ""
    reason: str = ""
    consent_id: str = ""
    release: str = ""
    rows: int = 0
    explained: str = ""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which decisions are judged; whatever is empty does not narrow.

    Everything is folded all the same: a decision rests on what came before it. A party is not known
    of an outcome without a decision, so a selection by party leaves those out.
    """

    party: str = ""
    member: str = ""
    since: datetime | None = None
    place: tuple[int, int, int | None] | None = None
    request_id: bytes = b""

    def wants(self, decided: Decided, at: datetime, partition: int, offset: int) -> bool:
        """Whether this decision, appended at `at`, is one of them."""
        request = decided.request
        return (
            self.party in ("", request.party)
            and self.request_id in (b"", request.request_id)
            and self._wants(decided.member, at, (partition, offset, decided.entry))
        )

    def wants_outcome(
        self, request_id: bytes, member: str, at: datetime, place: tuple[int, int, int]
    ) -> bool:
        """Whether an outcome without a decision, appended at `at`, is one of them."""
        if self.party or self.request_id not in (b"", request_id):
            return False
        return self._wants(member, at, place)

    def _wants(self, member: str, at: datetime, place: tuple[int, int, int]) -> bool:
        return (
            self.member in ("", member)
            and (self.since is None or self.since <= at)
            and (
                self.place is None
                or (self.place[:2] == place[:2] and self.place[2] in (None, place[2]))
            )
        )


EVERYTHING: Final = Selection()


@dataclass(frozen=True, slots=True)
class Balance:
    """What a fold consumed of one topic-partition (rule 8), and where it ended."""

    topic: str
    partition: int
    next_offset: int
    holes: int
    closed: str
    counts: Counts


@dataclass(slots=True)
class AuditReport:
    """All verdicts counted; the lines that are not SAME; the balance of every partition.

    `inadmissible` counts access records that no DSI server validly signed: they decide nothing.
    """

    counts: Counter[str] = field(default_factory=Counter)
    findings: list[Line] = field(default_factory=list)
    balances: list[Balance] = field(default_factory=list)
    inadmissible: int = 0

    @property
    def ok(self) -> bool:
        """Whether no answer differs and every fold's balance is even."""
        balanced = all(balance.counts.balanced for balance in self.balances)
        return not self.counts[Verdict.DIFFERENT] and balanced

    @property
    def not_at_hand(self) -> int:
        """Decisions not judged because they name reducers of another build, which only who signed
        them knows of: none is expected where no build was exchanged.
        """
        return sum(
            line.verdict is Verdict.CANNOT_TELL and line.why.startswith(NOT_AT_HAND)
            for line in self.findings
        )

    def add(self, other: Self) -> None:
        """Take in what was found elsewhere."""
        self.counts.update(other.counts)
        self.findings.extend(other.findings)
        self.balances.extend(other.balances)
        self.inadmissible += other.inadmissible
