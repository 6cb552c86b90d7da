"""A line between a caller and a server, which can be cut or slow."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress


class Line:
    """What carries bytes between a caller and a server, until it is cut: then nothing comes
    through, and neither of them is told. A connection made while it is slow takes a while.
    """

    def __init__(self, port: int) -> None:
        self._to, self.whole, self.slow_s = port, asyncio.Event(), 0.0
        self.whole.set()
        self._carrying: set[asyncio.Task[None]] = set()

    def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Somebody calls."""
        carrying = asyncio.create_task(self._connect(reader, writer))
        self._carrying.add(carrying)
        carrying.add_done_callback(self._carrying.discard)

    async def end(self) -> None:
        """Close every connection."""
        for carrying in self._carrying:
            carrying.cancel()
        await asyncio.gather(*self._carrying, return_exceptions=True)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with AsyncExitStack() as held:
            held.push_async_callback(_closed, writer)
            await asyncio.sleep(self.slow_s)
            answers, onward = await asyncio.open_connection("127.0.0.1", self._to)
            held.push_async_callback(_closed, onward)
            with suppress(ConnectionError):
                async with asyncio.TaskGroup() as both:
                    for ends in ((reader, onward), (answers, writer)):
                        both.create_task(self._carry(*ends))

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while said := await reader.read(1 << 16):
            await self.whole.wait()
            writer.write(said)
        writer.close()


async def _closed(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()


@asynccontextmanager
async def line_to(port: int) -> AsyncIterator[tuple[Line, int]]:
    """A line to that port of this machine, and the port that it is called by."""
    line = Line(port)
    listening = await asyncio.start_server(line.connected, "127.0.0.1")
    try:
        yield line, listening.sockets[0].getsockname()[1]
    finally:
        listening.close()
        await line.end()
