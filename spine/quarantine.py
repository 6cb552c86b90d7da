"""What a fold refused is kept apart, whole, in `quarantine.v1`, by the coordinator that owns it."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Collection, Iterator
from typing import Final

import structlog

from spine.errors import Pushback
from spine.event import Header, LogRecord, Quarantined, RecordType
from spine.fold import FaustFolds, LiveFold
from spine.log import LogReader
from spine.rows import QUARANTINE_PREFIX, Applied
from spine.trust import QUARANTINE_TOPIC
from spine.writer import LogWriter

_log = structlog.get_logger()

MAX_KEPT_BYTES: Final = 900 << 10
MAX_KEPT_HEADERS: Final = 32
MAX_KEPT_HEADER_BYTES: Final = 2 << 10


class QuarantineKeeper:
    """Appends what the folds of one coordinator quarantine, now and while it was not running.

    The key names topic, partition, offset and entry, so that an entry kept twice is seen to be one.
    """

    def __init__(self, writer: LogWriter) -> None:
        self._writer = writer
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, folds: FaustFolds, topics: Collection[str], reader: LogReader) -> None:
        """Keep what these topics' folds quarantine from now on, and what is not kept yet."""
        owned = [live for (topic, _), live in folds.folds.items() if topic in topics]
        for live in owned:
            live.listeners.append(self._on_record)
        listed = [entry for live in owned for entry in _listed(live)]
        for kept in await asyncio.to_thread(lambda: list(_missed(listed, reader))):
            self._keep(kept)

    async def flush(self) -> None:
        """Wait until all that was found is kept."""
        await asyncio.gather(*self._tasks)

    def _on_record(self, record: LogRecord, applied: Applied) -> None:
        for refusal in applied.refusals:
            if refusal.outcome == "quarantined":
                self._keep(_quarantined(record, refusal.entry, str(refusal.reason)))

    def _keep(self, kept: Quarantined) -> None:
        task = asyncio.create_task(self._append(kept))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _append(self, kept: Quarantined) -> None:
        while True:
            try:
                await self._writer.write(
                    RecordType.QUARANTINE, QUARANTINE_TOPIC, 0, kept, key=_key(kept)
                )
            except Pushback as pushback:
                await asyncio.sleep(pushback.retry_after_s)
            else:
                _log.warning("record.quarantined", place=_key(kept).decode(), rule=kept.rule)
                return


_Entry = tuple[str, int, int, int, str]


def _listed(live: LiveFold) -> Iterator[_Entry]:
    """Topic, partition, offset, entry and rule of all that a store lists as quarantined."""
    stored = live.stored
    for row, rule in stored.store.scan(QUARANTINE_PREFIX, QUARANTINE_PREFIX + b"\xff" * 13):
        offset, entry = struct.unpack(">qi", row.removeprefix(QUARANTINE_PREFIX))
        yield stored.topic, stored.partition, offset, entry, stored.fold.tools.unpack(rule, str)


def _missed(listed: list[_Entry], reader: LogReader) -> Iterator[Quarantined]:
    """Of what is listed, what the quarantine topic does not hold. Blocking."""
    kept = {record.key for record in reader.read(QUARANTINE_TOPIC, 0, 0)}
    for topic, partition, offset, entry, rule in listed:
        record = next(reader.read(topic, partition, offset, offset + 1))
        found = _quarantined(record, entry, rule)
        if _key(found) not in kept:
            yield found


def _quarantined(record: LogRecord, entry: int, rule: str) -> Quarantined:
    """The record as it is kept; what is too large to be wrapped stays where it is in the log."""
    fits = record.value is None or len(record.value) <= MAX_KEPT_BYTES
    return Quarantined(
        record.topic,
        record.partition,
        record.offset,
        entry,
        record.append_ms,
        rule,
        record.key,
        tuple(
            Header(name.encode("utf-8", "replace").decode(), value or b"")
            for name, value in record.headers[:MAX_KEPT_HEADERS]
            if len(name) + len(value or b"") <= MAX_KEPT_HEADER_BYTES
        ),
        record.value if fits else None,
    )


def _key(kept: Quarantined) -> bytes:
    place = (kept.source_topic, kept.source_partition, kept.source_offset, kept.source_entry)
    return "-".join(map(str, place)).encode()
