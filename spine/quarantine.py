"""What a fold refused is kept apart, whole, in `quarantine.v1`, by the coordinator that owns it."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Collection, Iterator

import structlog

from spine.errors import Pushback
from spine.event import Header, LogRecord, Quarantined, RecordType
from spine.fold import FaustFolds, LiveFold
from spine.log import LogReader
from spine.rows import QUARANTINE_PREFIX, Applied
from spine.trust import QUARANTINE_TOPIC
from spine.writer import LogWriter

_log = structlog.get_logger()


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
        for kept in await asyncio.to_thread(lambda: list(_missed(owned, reader))):
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


def _missed(owned: list[LiveFold], reader: LogReader) -> Iterator[Quarantined]:
    """What the stores list as quarantined and the topic does not hold. Blocking."""
    kept = {record.key for record in reader.read(QUARANTINE_TOPIC, 0, 0)}
    for live in owned:
        stored = live.stored
        for row, rule in stored.store.scan(QUARANTINE_PREFIX, QUARANTINE_PREFIX + b"\xff" * 13):
            offset, entry = struct.unpack(">qi", row.removeprefix(QUARANTINE_PREFIX))
            record = next(reader.read(stored.topic, stored.partition, offset, offset + 1))
            found = _quarantined(record, entry, stored.fold.tools.unpack(rule, str))
            if _key(found) not in kept:
                yield found


def _quarantined(record: LogRecord, entry: int, rule: str) -> Quarantined:
    return Quarantined(
        record.topic,
        record.partition,
        record.offset,
        entry,
        record.append_ms,
        rule,
        record.key,
        tuple(Header(name, value) for name, value in record.headers),
        record.value,
    )


def _key(kept: Quarantined) -> bytes:
    place = (kept.source_topic, kept.source_partition, kept.source_offset, kept.source_entry)
    return "-".join(map(str, place)).encode()
