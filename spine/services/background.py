"""What a coordinator does of its own accord, again and again until its process ends."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from spine.runtime import Process

_log = structlog.get_logger()


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
