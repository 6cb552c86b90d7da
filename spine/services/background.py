"""What a coordinator does of its own accord, again and again until its process ends."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from typing import Final

import structlog

from spine import trust
from spine.log_thread import ReaderThread
from spine.quarantine import QuarantineKeeper
from spine.runtime import Process
from spine.store import StoreReader
from spine.writer import LogWriter

READINGS_PROCESS: Final = "readings"
LOOK_EVERY_S: Final = 5.0
_log = structlog.get_logger()


async def keep_quarantined(process: Process, writer: LogWriter, topics: Collection[str]) -> None:
    """Keep what the process's own folds of these topics quarantine (rule 8)."""
    assert process.folds is not None
    keeper = QuarantineKeeper(writer)
    reader = await asyncio.to_thread(process.runtime.reader)
    try:
        await keeper.start(process.folds, topics, reader)
    finally:
        await asyncio.to_thread(reader.close)
    process.on_end(keeper.flush)


def keep_quarantined_readings(process: Process, writer: LogWriter) -> None:
    """Keep what the readings process quarantined: it says so in its stores, and signs nothing."""
    runtime = process.runtime
    keeper, log = QuarantineKeeper(writer), ReaderThread(runtime.kafka)
    stores = {
        (trust.READINGS_TOPIC, p): StoreReader(
            runtime.stores(READINGS_PROCESS) / f"{trust.READINGS_TOPIC}-{p}",
            runtime.stores(process.name) / "readings" / str(p),
        )
        for p in range(runtime.partitions)
    }
    process.on_end(log.close)
    for store in stores.values():
        process.on_end(store.close)
    every(process, LOOK_EVERY_S, lambda: keeper.look(stores, log))


def every(process: Process, seconds: float, work: Callable[[], Awaitable[object]]) -> None:
    """Do the work now and then every so often. A failure is logged, and the next turn comes."""
    task = asyncio.create_task(_repeat(process.name, seconds, work))
    process.on_end(lambda: _end(task))


async def _repeat(name: str, seconds: float, work: Callable[[], Awaitable[object]]) -> None:
    while True:
        try:
            await work()
        except Exception as error:
            task = getattr(work, "__qualname__", "")
            _log.warning("background.failed", process=name, task=task, reason=str(error))
        await asyncio.sleep(seconds)


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait({task})
