"""Advisers who read a meter's week, each over a connection of its own, and compare every answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from loadtest.echo import METHOD
from loadtest.serving import Served
from loadtest.traffic import Patience, channels

LEARNERS: Final = 32


class WeekReader:
    """Reads the week of a meter by its index, or of the next that is known by a number."""

    def __init__(self, served: Served, calls: list[Any]) -> None:
        self._served = served
        self.requests = [served.request(i).SerializeToString() for i in range(len(served.mpans))]
        self.patience = Patience()
        self._calls = calls

    def call(self, index: int) -> Any:
        """The raw GetReadings of the adviser whom the occupier of that meter lets read."""
        return self._calls[self._served.adviser(index)]

    async def __call__(self, number: int) -> None:
        """The meters that have readings, one after the other and again."""
        await self.read(self._served.known[number % len(self._served.known)])

    async def read(self, index: int) -> None:
        """WrongAnswer unless the answer holds exactly what is known of the meter."""
        self._served.right(index, await self._answer(index))

    async def learn(self) -> dict[bytes, bytes]:
        """Read every meter once and compare it value by value; the answers by their requests."""
        answers: dict[bytes, bytes] = {}
        waiting = iter(self._served.known)

        async def learner() -> None:
            for index in waiting:
                raw = await self._answer(index)
                self._served.learn(index, raw)
                answers[self.requests[index]] = raw

        await asyncio.gather(*(learner() for _ in range(LEARNERS)))
        return answers

    async def _answer(self, index: int) -> bytes:
        call, request = self.call(index), self.requests[index]
        raw: bytes = await self.patience.until_answered(call, request)
        return raw


@asynccontextmanager
async def week_reader(served: Served, target: str = "") -> AsyncIterator[WeekReader]:
    """The advisers, connected to the DSI or to another server for the length of a with block."""
    identities = (served.spine.identity(party) for party in served.spine.advisers)
    async with channels(target or served.spine.target("dsi"), identities) as held:
        yield WeekReader(served, [channel.unary_unary(METHOD) for channel in held])
