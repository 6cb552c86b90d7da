"""One piece of work for all who ask for it before it begins."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable


class Together:
    """Whoever asks waits for a run that began after it asked; many who ask at once share one."""

    def __init__(self, work: Callable[[], Awaitable[None]]) -> None:
        self._work = work
        self._one_at_a_time = asyncio.Lock()
        self._next: asyncio.Task[None] | None = None

    async def __call__(self) -> None:
        """Return, or raise, as the next run does."""
        if self._next is None:
            self._next = asyncio.create_task(self._run())
        await asyncio.shield(self._next)

    async def _run(self) -> None:
        async with self._one_at_a_time:
            self._next = None  # who asks from here on asks for what comes later
            await self._work()
