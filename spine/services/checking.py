"""Publications made again: whether each figure is what the log, read as far, comes to.

The topic is folded anew, record by record. Before each publication is folded, it is made again from
what came before it and from the log below the positions that it names.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from datetime import date
from pathlib import Path
from typing import Final

from domains.metering.publications import (
    AggregatesPublished,
    before_next,
    publication,
    publication_problem,
)
from spine import trust
from spine.domain import ReadableRows
from spine.event import TYPE_HEADER, DataPosition, LogRecord, RecordType
from spine.replay import RangeReader
from spine.rows import Malformed, UnknownSchema
from spine.runtime import Runtime
from spine.services.evidence import Evidence, Group, evidence

SAME: Final = "SAME"
DIFFERENT: Final = "DIFFERENT"
NO_METERS: Final = Group((), ())


@dataclass(frozen=True, slots=True)
class Checked:
    """A publication that counts. `differs` names the groups and parts that came out otherwise."""

    gsp_group: str
    day: date
    offset: int
    verdict: str
    differs: tuple[str, ...]


class Maker:
    """Makes publications again from one fold of the log."""

    def __init__(self, found: Evidence) -> None:
        self._found = found
        self._asked: tuple[date, tuple[DataPosition, ...]] | None = None
        self._groups: dict[str, Group] = {}

    def again(self, said: AggregatesPublished, rows: ReadableRows) -> AggregatesPublished:
        """What it should say, following on what these rows have folded."""
        asked = (said.day, said.positions)
        if asked != self._asked:  # the groups of a day are published with the same positions
            self._asked, self._groups = asked, self._found.groups(*asked)
        group = self._groups.get(said.gsp_group, NO_METERS)
        return publication(
            before_next(rows, said.gsp_group, group.meters),
            said.gsp_group,
            said.day,
            group.feeders,
            group.meters,
            meters_min=said.meters_min,
            made_at=said.published_at,
            positions=said.positions,
        )


def check_publications(
    runtime: Runtime, reader: RangeReader, scratch: Path, day: date | None = None
) -> Iterator[Checked]:
    """Every publication in the log, or those of one day, made again. Blocking.

    What the folds pass over is no publication and is not shown.
    """
    fold = runtime.memory_fold(trust.AGGREGATES_TOPIC, 0)
    end = reader.bounds(trust.AGGREGATES_TOPIC, 0)[1]
    with evidence(runtime.stored_fold, scratch, reader, runtime.partitions) as found:
        maker = Maker(found)
        for record in reader.read(trust.AGGREGATES_TOPIC, 0, 0, end):
            said = _publication(runtime, record)
            if said is None or day not in (None, said.day):
                fold.apply(record)
                continue
            again = maker.again(said, fold.rows)
            if fold.apply(record).applied:
                differs = differences(said, again)
                verdict = DIFFERENT if differs else SAME
                yield Checked(said.gsp_group, said.day, record.offset, verdict, differs)


def _publication(runtime: Runtime, record: LogRecord) -> AggregatesPublished | None:
    """The publication in a record, whoever signed it; None if it holds none that can be made."""
    if record.value is None or record.header(TYPE_HEADER) != RecordType.READINGS.encode():
        return None
    try:
        value = runtime.codec.decode(record.value)
    except (Malformed, UnknownSchema):
        return None
    if not isinstance(value, AggregatesPublished):
        return None
    return None if publication_problem(value, runtime.partitions) else value


def differences(said: AggregatesPublished, again: AggregatesPublished) -> tuple[str, ...]:
    """The groups whose figure or reason is another, and the other parts that are."""
    ours, theirs = _cells(said), _cells(again)
    parts = [f.name for f in fields(said) if f.name not in ("figures", "suppressed")]
    return (
        *sorted(name for name in {*ours, *theirs} if ours.get(name) != theirs.get(name)),
        *(name for name in parts if getattr(said, name) != getattr(again, name)),
    )


def _cells(record: AggregatesPublished) -> dict[str, object]:
    """What is said of each group."""
    figures: dict[str, object] = {cell.group: cell for cell in record.figures}
    return figures | {cell.group: cell for cell in record.suppressed}
