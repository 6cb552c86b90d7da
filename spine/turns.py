"""One at a time about each subject: so that what one process decides about it does not race."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager


class Turns:
    """Who asks first about a subject is first, however many subjects each asks for.

    Whoever asks stands behind all who asked before about any of its subjects, so nobody waits in a
    circle, and a bulk about a meter lets a revocation in before its next record.
    """

    def __init__(self) -> None:
        self._last: dict[str, asyncio.Future[None]] = {}

    @asynccontextmanager
    async def about(self, subjects: Collection[str]) -> AsyncIterator[None]:
        """Have the turn of all these subjects, each named once, for the length of a with block."""
        over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        before = {self._last[subject] for subject in subjects if subject in self._last}
        self._last.update(dict.fromkeys(subjects, over))
        try:
            if before:
                await asyncio.wait(before)
            yield
        finally:
            if still := [each for each in before if not each.done()]:
                # It gave up while it waited. Whoever stands behind it still waits for those before.
                gone = asyncio.gather(*still)
                gone.add_done_callback(lambda _: self._end(subjects, over))
            else:
                self._end(subjects, over)

    def _end(self, subjects: Collection[str], over: asyncio.Future[None]) -> None:
        for subject in subjects:
            if self._last[subject] is over:
                del self._last[subject]
        over.set_result(None)
