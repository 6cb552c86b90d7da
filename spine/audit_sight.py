"""What a request sees of the folded topics of its partition at the positions that it names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from msgspec import Struct

from spine import trust
from spine.audit_turns import NO_HONEST_SERVER, Found
from spine.domain import ReadableRows
from spine.event import DataPosition
from spine.replay import StoredFold
from spine.verdict import Verdict, unread_below

SEEN: Final = frozenset({*trust.DATA_TOPICS, trust.CONSUMER_LOG})


class Sight(Struct, frozen=True):
    """What requests of one record see that name the same positions.

    `wrong`: what every answer as of them comes to, if they can be none.
    """

    vector: tuple[DataPosition, ...]
    wrong: Found | None
    rows: Mapping[str, ReadableRows]
    below: Mapping[str, int]

    @classmethod
    def of(
        cls, vector: tuple[DataPosition, ...], folds: Mapping[str, StoredFold], partition: int
    ) -> Sight:
        """From folds as they stand just after the record that holds the requests."""
        for position in vector:
            if (wrong := _wrong(position, folds, partition)) is not None:
                return cls(vector, wrong, {}, {})
        rows = {p.topic: folds[p.topic].store for p in vector}
        return cls(vector, None, rows, {p.topic: p.offset for p in vector})

    def unread(self, folds: Mapping[str, StoredFold], member: str) -> str:
        """Why another build may know more of that meter below these positions."""
        for position in self.vector:
            if why := unread_below(folds[position.topic].fold, member, position.offset):
                return why
        return ""


def _wrong(position: DataPosition, folds: Mapping[str, StoredFold], partition: int) -> Found | None:
    if position.topic not in SEEN:
        return Verdict.CANNOT_TELL, f"no view of {position.topic} is at hand", ""
    if position.partition != partition:
        why = "the request names positions of another partition"
        return Verdict.DIFFERENT, why, NO_HONEST_SERVER
    head = folds[position.topic].fold.head
    assert head is not None
    if head.next_offset < position.offset:
        return Verdict.CANNOT_TELL, f"{position.topic} does not reach that far any more", ""
    return None
