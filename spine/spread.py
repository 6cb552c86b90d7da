"""Governance facts to every partition of every topic, in order, until all are in (rule 12).

The home record's bytes and signature travel unchanged. Sending one twice does no harm, so after a
crash the spreader begins again from what it knows to have been acknowledged.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from spine import trust
from spine.codec import Codec, tools
from spine.domain import Domain
from spine.event import NO_PREDECESSOR, LogRecord
from spine.log import LogReader, partition_counts
from spine.opening import write_copy
from spine.partition import PartitionFold
from spine.rows import Applied
from spine.signing import verify
from spine.store import MemoryRows
from spine.writer import LogWriter

Place = tuple[str, int]


class Spreader:
    """Sends the home's applied records to all other partitions of the log."""

    def __init__(
        self, writer: LogWriter, governance: Domain, partition_count: int, progress: Path
    ) -> None:
        self._writer, self._governance, self._progress = writer, governance, progress
        self.targets: tuple[Place, ...] = tuple(
            (topic, partition)
            for topic, count in partition_counts(partition_count).items()
            for partition in range(count)
            if topic != trust.GOVERNANCE_TOPIC
        )
        self._due: dict[int, LogRecord] = {}
        self._sent = self._read_progress()
        self._spreading = asyncio.Lock()

    def load(self, reader: LogReader, codec: Codec) -> None:
        """Find out from the home log what there is to spread. Blocking."""
        home = PartitionFold(
            trust.GOVERNANCE_TOPIC,
            0,
            self._writer.log_id,
            tools(codec, verify),
            MemoryRows(),
            None,
            self._governance,
        )
        for record in reader.read(trust.GOVERNANCE_TOPIC, 0, 0):
            self.note(record, home.apply(record))

    def note(self, record: LogRecord, applied: Applied) -> None:
        """A home record was folded; if it applied, its copies are due. Noting it twice is once."""
        if applied.governance:
            self._due[record.offset] = record

    @property
    def complete(self) -> bool:
        """Whether every partition holds every copy due."""
        return self.holding(max(self._due, default=NO_PREDECESSOR)) == len(self.targets)

    def holding(self, home_offset: int) -> int:
        """How many partitions are known to hold the copies up to that home record."""
        return sum(self._last(place) >= home_offset for place in self.targets)

    async def spread(self) -> int:
        """Send every copy that is missing; returns the number of partitions that hold them all.

        Pushback(INDETERMINATE) if one was not acknowledged; the next call begins again there.
        """
        async with self._spreading:
            due = [self._due[offset] for offset in sorted(self._due)]
            sending = (self._send(place, due) for place in self.targets)
            try:
                results = await asyncio.gather(*sending, return_exceptions=True)
            finally:
                self._keep()
        for failure in results:
            if isinstance(failure, BaseException):
                raise failure
        return len(self.targets)

    async def _send(self, place: Place, due: list[LogRecord]) -> None:
        previous = NO_PREDECESSOR
        for record in due:
            if record.offset > self._last(place):
                await write_copy(self._writer, *place, record, previous)
                self._sent[_name(place)] = record.offset
            previous = record.offset

    def _last(self, place: Place) -> int:
        return self._sent.get(_name(place), NO_PREDECESSOR)

    def _read_progress(self) -> dict[str, int]:
        try:
            kept = json.loads(self._progress.read_text())
        except (FileNotFoundError, ValueError):
            return {}
        if kept.get("log_id") != self._writer.log_id.hex():
            return {}
        return dict(kept["sent"])

    def _keep(self) -> None:
        self._progress.parent.mkdir(parents=True, exist_ok=True)
        draft = self._progress.with_suffix(".new")
        kept = {"log_id": self._writer.log_id.hex(), "sent": self._sent}
        draft.write_text(json.dumps(kept))
        draft.replace(self._progress)


def _name(place: Place) -> str:
    return f"{place[0]}-{place[1]}"
