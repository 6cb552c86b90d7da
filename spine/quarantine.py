"""What a fold refused is kept apart, whole, in `quarantine.v1`, by the coordinator that owns it."""

from __future__ import annotations

import asyncio

import structlog

from spine.errors import Pushback
from spine.event import Header, LogRecord, Quarantined, RecordType
from spine.fold import LiveFold
from spine.rows import Applied
from spine.trust import QUARANTINE_TOPIC
from spine.writer import LogWriter

_log = structlog.get_logger()


class QuarantineKeeper:
    """Listens to the folds of one coordinator and appends what they quarantine.

    The key names topic, partition and offset, so that a record kept twice is seen to be one.
    """

    def __init__(self, writer: LogWriter) -> None:
        self._writer = writer
        self._tasks: set[asyncio.Task[None]] = set()

    def keep(self, live: LiveFold) -> None:
        """Keep what this fold quarantines from now on."""
        live.listeners.append(self._on_record)

    async def flush(self) -> None:
        """Wait until all that was found is kept."""
        await asyncio.gather(*self._tasks)

    def _on_record(self, record: LogRecord, applied: Applied) -> None:
        for refusal in applied.refusals:
            if refusal.outcome == "quarantined":
                kept = Quarantined(
                    record.topic,
                    record.partition,
                    record.offset,
                    refusal.entry,
                    record.append_ms,
                    str(refusal.reason),
                    record.key,
                    tuple(Header(name, value) for name, value in record.headers),
                    record.value,
                )
                task = asyncio.create_task(self._append(kept))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _append(self, kept: Quarantined) -> None:
        place = f"{kept.source_topic}-{kept.source_partition}-{kept.source_offset}"
        while True:
            try:
                await self._writer.write(
                    RecordType.QUARANTINE, QUARANTINE_TOPIC, 0, kept, key=place.encode()
                )
            except Pushback as pushback:
                await asyncio.sleep(pushback.retry_after_s)
            else:
                _log.warning("record.quarantined", place=place, rule=kept.rule)
                return
