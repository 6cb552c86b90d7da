"""A reader of the log on a thread of its own, for hosts that must not block."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from spine.errors import Pushback, Reason
from spine.log import Kafka, LogReader
from spine.log_client import FETCH_BYTES

T = TypeVar("T")


class ReaderThread:
    """A reader on a thread of its own: one user at a time, also when a user is cancelled."""

    def __init__(self, kafka: Kafka, fetch_bytes: int = FETCH_BYTES) -> None:
        self._kafka, self._fetch_bytes = kafka, fetch_bytes
        self._reader: LogReader | None = None
        self._closed = False
        self._thread = ThreadPoolExecutor(1, "log-reader")

    async def run(self, work: Callable[[LogReader], T]) -> T:
        """What the work gives, done on the reader's thread; Pushback(LOG_UNREACHABLE) once it is
        closed, as for who still waits for an answer while the process stops.
        """
        if self._closed:
            raise Pushback(Reason.LOG_UNREACHABLE, "the process stops")
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._do, work)

    def _do(self, work: Callable[[LogReader], T]) -> T:
        if self._reader is None:
            self._reader = LogReader(self._kafka, self._fetch_bytes)
        return work(self._reader)

    async def close(self) -> None:
        """Disconnect, after whatever is under way, be it only connecting."""
        self._closed = True
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._thread, self._disconnect)
        self._thread.shutdown(wait=False)

    def _disconnect(self) -> None:
        if self._reader is not None:
            self._reader.close()
