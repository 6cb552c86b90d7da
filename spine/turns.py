"""One at a time about each subject: so that what one process decides about it does not race."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager


class Turns:
    """Whose turn it is, by subject. Whoever waits holds nothing, so nobody waits in a circle."""

    def __init__(self) -> None:
        self._over: dict[str, asyncio.Event] = {}

    @asynccontextmanager
    async def about(self, subjects: Collection[str]) -> AsyncIterator[None]:
        """Have the turn of all these subjects, each named once, for the length of a with block."""
        while taken := self._over.keys() & subjects:
            await self._over[taken.pop()].wait()
        over = asyncio.Event()
        self._over.update(dict.fromkeys(subjects, over))
        try:
            yield
        finally:
            for subject in subjects:
                del self._over[subject]
            over.set()
