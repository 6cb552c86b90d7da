"""Governance facts to every partition of every topic, in order, until all are in (rule 12).

The home record's bytes and signature travel unchanged. Sending one twice does no harm, so after a
crash the spreader begins again from what it knows to have been acknowledged. A copy signed by a key
that its partition has not been told of is refused there: none is sent, and none counted as held.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Final

from spine import trust
from spine.codec import Codec, tools
from spine.domain import Domain
from spine.errors import Pushback, Reason
from spine.event import NO_PREDECESSOR, TYPE_HEADER, LogRecord, RecordType
from spine.files import write_whole
from spine.log import LogReader, partition_counts
from spine.opening import write_copy
from spine.partition import PartitionFold
from spine.rows import Applied
from spine.signing import verify
from spine.store import MemoryRows
from spine.trust import SigningKeyAuthorised, SigningKeyRevoked, key_subject
from spine.writer import LogWriter

Place = tuple[str, int]
_TRUST_RECORDS: Final = (RecordType.OPENING.encode(), RecordType.COPY.encode())


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
        self._keys: dict[tuple[int, str], bool] = {}
        self._sent = self._read_progress()
        self._spreading = asyncio.Lock()

    def load(self, reader: LogReader, codec: Codec) -> None:
        """Find out from the log what there is to spread, and what is where already. Blocking."""
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
        for place in self.targets:
            if _name(place) not in self._sent:
                self._sent[_name(place)] = self._read_back(place, reader, codec)

    def _read_back(self, place: Place, reader: LogReader, codec: Codec) -> int:
        """The home offset of the last copy that a partition accepted."""
        log_id, lent = self._writer.log_id, tools(codec, verify)
        fold = PartitionFold(*place, log_id, lent, MemoryRows(), None, self._governance)
        for record in reader.read(*place, 0):
            if record.header(TYPE_HEADER) in _TRUST_RECORDS:
                fold.apply(record)
        return NO_PREDECESSOR if fold.head is None else fold.head.last_copy

    def note(self, record: LogRecord, applied: Applied) -> None:
        """A home record was folded; if it applied, its copies are due. Noting it twice is once."""
        if not applied.governance:
            return
        self._due[record.offset] = record
        for subject, event in applied.events:
            if isinstance(event, SigningKeyAuthorised | SigningKeyRevoked):
                known = isinstance(event, SigningKeyAuthorised)
                self._keys[record.offset, subject] = known

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
            known = min(map(self._last, self.targets))
            due = [self._due[offset] for offset in sorted(self._due) if offset > known]
            if not due:
                return len(self.targets)
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
        for record in due:
            previous = self._last(place)
            if record.offset > previous:
                if not self._is_known_at(place):
                    message = "a partition has not been told of our key; its predecessor must do it"
                    raise Pushback(Reason.KEY_NOT_SEEN, message)
                await write_copy(self._writer, *place, record, previous)
                self._sent[_name(place)] = record.offset

    def _is_known_at(self, place: Place) -> bool:
        """Whether the copies that a partition holds tell it of our signing key."""
        ours, last = key_subject(self._writer.signer.kid), self._last(place)
        said = [
            (offset, known)
            for (offset, subject), known in self._keys.items()
            if subject == ours and offset <= last
        ]
        return bool(said) and max(said)[1]

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
        kept = {"log_id": self._writer.log_id.hex(), "sent": self._sent}
        write_whole(self._progress, json.dumps(kept).encode(), sync=False)


def _name(place: Place) -> str:
    return f"{place[0]}-{place[1]}"
