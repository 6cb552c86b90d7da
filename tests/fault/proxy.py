"""A TCP proxy on loopback that can be slow, silent or cut: what a network does to a connection."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from types import TracebackType
from typing import Self

CHUNK = 64 << 10


class Proxy:
    """Forwards one port to another, in a thread of its own.

    `delay_s` holds back what the target answers; while `mute`, its answers do not come through, and
    while `silent` nothing does, but connections stay open; `cut` ends all connections, and refuses
    new ones until `mend`.
    """

    def __init__(self, port: int, target: int) -> None:
        self.port, self.target = port, target
        self.delay_s = 0.0
        self.silent = self.mute = False
        self._refusing = False
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"proxy-{port}")

    def __enter__(self) -> Self:
        self._thread.start()
        opened = asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self._server = asyncio.run_coroutine_threadsafe(opened, self._loop).result(5)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(5)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    def cut(self) -> None:
        """End every connection and let nobody in."""
        self._refusing = True
        self._loop.call_soon_threadsafe(self._end_all)

    def mend(self) -> None:
        """Let connections in again, and forward as before."""
        self._refusing = self.silent = self.mute = False
        self.delay_s = 0.0

    def _end_all(self) -> None:
        for writer in list(self._writers):
            writer.transport.abort()

    async def _close(self) -> None:
        self._server.close()
        self._end_all()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refusing:
            writer.transport.abort()
            return
        try:
            back, forth = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.transport.abort()
            return
        both = {writer, forth}
        self._writers |= both
        try:
            await asyncio.gather(
                self._pump(reader, forth, answers=False), self._pump(back, writer, answers=True)
            )
        finally:
            self._writers -= both
            for each in both:
                each.transport.abort()

    async def _pump(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, answers: bool
    ) -> None:
        """Forward until either side ends; what is held back keeps its order and its distance."""
        held: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        sending = asyncio.create_task(self._send(held, sink, answers=answers))
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while data := await source.read(CHUNK):
                wait_s = self.delay_s if answers else 0.0
                held.put_nowait((time.monotonic() + wait_s, data))
        held.put_nowait((0.0, b""))
        await sending
        sink.transport.abort()

    async def _send(
        self,
        held: asyncio.Queue[tuple[float, bytes]],
        sink: asyncio.StreamWriter,
        *,
        answers: bool,
    ) -> None:
        while True:
            due, data = await held.get()
            if not data:
                return
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            while self.silent or (self.mute and answers):
                await asyncio.sleep(0.05)
            with contextlib.suppress(OSError):
                sink.write(data)
                await sink.drain()
