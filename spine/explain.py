"""Why a recorded decision or answer is not the one made again: the first event that explains it.

A server whose fold was behind, or ahead, of the place it wrote into its outcome decided on another
state of the same partition. That state is looked for: the event between it and the place explains
the difference. If there is none, what was missing or refused below the place is named instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from spine.event import AccessOutcome, AccessRequest, LogRecord
from spine.replay import RangeReader, StoredFold
from spine.rows import Applied
from spine.verdict import Rebuilt, answered_otherwise, decided_otherwise

ODDITIES_NAMED: Final = 3


@dataclass(frozen=True, slots=True)
class Doubt:
    """A decision recorded otherwise than it was made again at that offset."""

    offset: int
    request: AccessRequest
    member: str
    at_ms: int
    clock_sure: bool
    outcome: AccessOutcome


@dataclass(slots=True)
class Oddities:
    """What is missing from a topic-partition, and what its fold did not take, in log order."""

    place: str
    next_offset: int = 0
    found: list[tuple[int, str]] = field(default_factory=list)

    def note(self, record: LogRecord, applied: Applied) -> None:
        """Look at the next record; what is neither gap nor refusal costs nothing."""
        if record.offset != self.next_offset:
            last = record.offset - 1
            gap = f"offset {last} is" if last == self.next_offset else f"offsets up to {last} are"
            self.found.append((self.next_offset, f"{gap} missing"))
        self.next_offset = record.offset + 1
        for refusal in applied.refusals:
            self.found.append((record.offset, f"{refusal.outcome}, {refusal.reason}"))

    def below(self, offset: int) -> str:
        """The first of them below an offset, as a sentence; empty if there is none."""
        here = [f"{self.place}@{at} ({what})" for at, what in self.found if at < offset]
        more = f" and {len(here) - ODDITIES_NAMED} more" if len(here) > ODDITIES_NAMED else ""
        return "; ".join(here[:ODDITIES_NAMED]) + more


@dataclass(slots=True)
class _Trail:
    """One doubt while its partition is folded again."""

    doubt: Doubt
    agreed: bool = False
    turned: str = ""
    later: str = ""

    def look(self, record: LogRecord, applied: Applied, stored: StoredFold) -> None:
        doubt = self.doubt
        if not applied.governance and doubt.member not in applied.subjects:
            return
        judged = stored.fold.judge(doubt.request, doubt.member, doubt.at_ms, doubt.clock_sure)
        agrees = not decided_otherwise(judged, doubt.outcome)
        if record.offset < doubt.offset:
            if agrees:
                self.turned = ""
            elif self.agreed:
                self.turned = _named(stored, record, applied, doubt.member)
            self.agreed = agrees
        elif agrees and not self.later:
            self.later = _named(stored, record, applied, doubt.member)

    def told(self, oddities: Oddities) -> str:
        if self.turned:
            return f"it is the decision before {self.turned}"
        if self.later:
            return f"it is the decision after {self.later}"
        odd = oddities.below(self.doubt.offset)
        return f"no state of the partition gives it{odd and ': '}{odd}"


def explain_decisions(
    stored: StoredFold, reader: RangeReader, doubts: Sequence[Doubt], oddities: Oddities
) -> list[str]:
    """For each doubt, the event between the state it was decided on and its place in the log.

    `stored` is an empty fold of the consumer log; one pass serves all doubts.
    """
    trails = [_Trail(doubt) for doubt in doubts]

    def look(record: LogRecord, applied: Applied) -> None:
        for trail in trails:
            trail.look(record, applied, stored)

    stored.catch_up(reader, on_record=look)
    return [trail.told(oddities) for trail in trails]


def explain_answer(
    rebuild_below: Callable[[int], Rebuilt],
    said_at: Iterable[int],
    named: int,
    outcome: AccessOutcome,
    oddities: Oddities,
) -> str:
    """The record between the rows an answer was made of and the position it names.

    `said_at` are the offsets at which something was said of what was asked; `rebuild_below` makes
    the answer from what stands below an offset.
    """
    for place in sorted(set(said_at)):
        behind = place < named
        if not answered_otherwise(rebuild_below(place if behind else place + 1), outcome):
            side = "before" if behind else "after"
            return f"it is the answer {side} {oddities.place}@{place}"
    odd = oddities.below(named)
    return f"no state of {oddities.place} gives it{odd and ': '}{odd}"


def _named(stored: StoredFold, record: LogRecord, applied: Applied, member: str) -> str:
    events = [
        type(event).__name__
        for subject, event in applied.events
        if applied.governance or subject == member
    ]
    return f"{stored.topic}-{stored.partition}@{record.offset} ({', '.join(events)})"
