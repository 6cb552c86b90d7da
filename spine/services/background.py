"""What a coordinator does of its own accord, once or again and again, until its process ends."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection

import structlog

from spine.quarantine import QuarantineKeeper
from spine.runtime import Process
from spine.writer import LogWriter

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


Work = Callable[[], Awaitable[object]]


def once(process: Process, work: Work) -> None:
    """Do the work beside all else. A failure is logged; a damaged store of the process's folds ends
    it, as the folds do that meet one.
    """
    task = asyncio.create_task(_try(process, work))
    process.on_end(lambda: _end(task))


def every(process: Process, seconds: float, work: Work) -> None:
    """Do the work now and then every so often. A failure is as by `once`; the next turn comes."""
    task = asyncio.create_task(_repeat(process, seconds, work))
    process.on_end(lambda: _end(task))


async def _repeat(process: Process, seconds: float, work: Work) -> None:
    while True:
        await _try(process, work)
        await asyncio.sleep(seconds)


async def _try(process: Process, work: Work) -> None:
    try:
        await work()
    except Exception as error:
        task = getattr(work, "__qualname__", "")
        _log.warning("background.failed", process=process.name, task=task, reason=str(error))
        process.met(error)


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait({task})
