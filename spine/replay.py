"""A partition folded into a store: checked at the start, exact after any kill, rebuilt when in
doubt.

`StoredFold` is the part that both hosts share. Faust delivers records to it (`fold.py`), an auditor
reads them (`audit.py`). What it is given is a hint; the position that stands with the rows is the
truth.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Protocol

import structlog

from spine.domain import Domain, HistoryLayout
from spine.event import LogRecord
from spine.log import LogUnfit
from spine.partition import PartitionFold
from spine.reducers import Folded, folded_by
from spine.rocks import DamagedStore
from spine.rows import HELD_PREFIX, Applied, Malformed, Tools
from spine.store import Store, StorePosition

BUILD_ROW: Final = b"\x00build"
# What is folded is written after so many records, or rows, which are kept in memory until then:
# a bulk record of facts comes to a thousand. More at once take no less work, and nothing else in
# the process goes on while they are sorted, or are written.
RECORDS_PER_COMMIT: Final = 256
ROWS_PER_COMMIT: Final = 1 << 15
_log = structlog.get_logger()

Progress = Callable[[int, int], None]
OnRecord = Callable[[LogRecord, Applied], None]


class RangeReader(Protocol):
    """What a fold reads with: `spine.log.LogReader`, or a log in memory."""

    def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        """First offset, and the one after the last."""

    def read(
        self, topic: str, partition: int, start: int, end: int | None = None
    ) -> Iterator[LogRecord]:
        """Records with start <= offset < end, in order."""


def folded_in(build: bytes | None) -> Folded | None:
    """The versions of the reducers that a store's build row names; None if there is no such row."""
    if build is None:
        return None
    version, governance, _ = build.split(b".", 2)
    return int(version), int(governance)


class StoredFold:
    """One topic-partition, its reducer and its store.

    `build` names what this build understands: reducer versions and schema set. A store of another
    reducer version, or one that holds records which another build could not read, is rebuilt.
    `open_store`: for a store of another kind.
    """

    def __init__(
        self,
        path: Path,
        topic: str,
        partition: int,
        log_id: bytes,
        tools: Tools,
        domain: Domain | None,
        governance: Domain,
        schema_set: bytes,
        open_store: Callable[[Path, HistoryLayout | None], Store] = Store,
    ) -> None:
        self.topic, self.partition, self.log_id = topic, partition, log_id
        self._args = (tools, domain, governance)
        self.schema_set = schema_set
        self._build = b"%d.%d." % folded_by(domain, governance) + schema_set
        try:
            self.store = open_store(path, domain.history if domain else None)
        except DamagedStore as damage:
            _log.warning("store.damaged", store=path.name, reason=str(damage))
            Store.discard_all(path)
            self.store = open_store(path, domain.history if domain else None)
        try:
            self._begin()
        except DamagedStore as damage:
            _log.warning("store.damaged", store=path.name, reason=str(damage))
            self.store.discard()
            self._begin()

    def _begin(self) -> None:
        tools, domain, governance = self._args
        position = self.store.position()
        self.next_offset = 0 if position is None else position.offset + 1
        checked = replace(tools, unpack=self._unpack)
        self.fold = PartitionFold(
            self.topic, self.partition, self.log_id, checked, self.store, domain, governance
        )
        if position is None:
            self.store.put(BUILD_ROW, self._build)

    def _unpack(self, row: bytes, kind: Any) -> Any:
        """A row of the store; one that is not what a fold writes means that the store is damaged.

        The store is marked, so that the process, which ends, begins anew with an empty one.
        """
        try:
            return self._args[0].unpack(row, kind)
        except Malformed as error:
            self.store.mark_damaged()
            raise DamagedStore(f"{self.store.path.name}: {error}") from error

    def check(self, reader: RangeReader) -> str:
        """Check the store against the log; discard it if it is of another log, build or history.

        Returns why it was discarded, or an empty string.
        """
        try:
            reason = self._misfit(reader)
        except DamagedStore as damage:
            reason = str(damage)
        if reason:
            _log.warning("store.rebuild", topic=self.topic, partition=self.partition, reason=reason)
            self.store.discard()
            self._begin()
        return reason

    def _misfit(self, reader: RangeReader) -> str:
        position = self.store.position()
        if position is None:
            return ""
        here = (self.log_id, self.topic, self.partition)
        if (position.log_id, position.topic, position.partition) != here:
            return "it is of another log"
        build = self.store.get(BUILD_ROW) or b""
        if build.split(b".")[:2] != self._build.split(b".")[:2]:
            return "it was folded by another version of the reducers"
        held = next(self.store.scan(HELD_PREFIX, HELD_PREFIX + b"\xff"), None)
        if held is not None and build != self._build:
            return "it holds records that this build may understand"
        start, end = reader.bounds(self.topic, self.partition)
        if not start <= position.offset < end:
            return "the log does not hold the record it stands on"
        here_again = reader.read(self.topic, self.partition, position.offset, position.offset + 1)
        last = next(here_again, None)
        if last is None or last.digest() != position.record_digest:
            return "the log holds another record where it stands"
        return ""

    def apply(self, record: LogRecord) -> Applied | None:
        """Fold the next record and commit it; None if it is behind. Gaps are not its own."""
        if record.offset < self.next_offset:
            return None
        applied = self.fold.apply(record)
        self._commit(record)
        return applied

    def catch_up(
        self,
        reader: RangeReader,
        end: int | None = None,
        progress: Progress | None = None,
        on_record: OnRecord | None = None,
    ) -> int:
        """Read and fold what is missing up to `end` (the present end if None); returns how many.

        `on_record` is called after each record is folded and before the next.
        """
        count, last, uncommitted = 0, None, 0
        started = self.next_offset
        target = reader.bounds(self.topic, self.partition)[1] if end is None else end
        for record in reader.read(self.topic, self.partition, self.next_offset, target):
            applied = self.fold.apply(record)
            if on_record is not None:
                on_record(record, applied)
            self.next_offset = record.offset + 1
            count, last, uncommitted = count + 1, record, uncommitted + 1
            if uncommitted >= RECORDS_PER_COMMIT or self.store.pending >= ROWS_PER_COMMIT:
                self._commit(last)
                uncommitted = 0
                if progress is not None:
                    progress(self.next_offset - started, target - started)
        if last is not None and uncommitted:
            self._commit(last)
        return count

    def apply_all(self, records: Iterable[LogRecord]) -> list[tuple[LogRecord, Applied]]:
        """Fold records one by one, each committed; those folded before are passed over."""
        done = ((record, self.apply(record)) for record in records)
        return [(record, applied) for record, applied in done if applied is not None]

    def _commit(self, record: LogRecord) -> None:
        self.store.commit(
            StorePosition(self.log_id, self.topic, self.partition, record.offset, record.digest())
        )
        self.next_offset = record.offset + 1

    def close(self) -> None:
        """Let go of the store."""
        self.store.close()


def rebuild(
    fold: StoredFold, reader: RangeReader, attempts: int = 2, *, progress: Progress | None = None
) -> None:
    """Check and catch up; a store that proves damaged on the way is discarded once and rebuilt.

    `progress` is called after each part, with what is folded by then and what was to be folded.
    """
    in_parts = list[tuple[int, int]]()

    def told(done: int, of: int) -> None:
        in_parts.append((done, of))
        if progress is not None:
            progress(done, of)

    for attempt in range(attempts):
        fold.check(reader)
        try:
            started = time.monotonic()
            count = fold.catch_up(reader, progress=told)
        except (DamagedStore, LogUnfit):
            if attempt + 1 == attempts:
                raise
            fold.store.discard()
            fold._begin()
            continue
        if in_parts:
            fold.store.make_room()
        _log.info(
            "fold.caught_up",
            topic=fold.topic,
            partition=fold.partition,
            records=count,
            seconds=round(time.monotonic() - started, 3),
        )
        return
