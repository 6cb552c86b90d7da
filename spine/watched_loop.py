"""An event loop that knows how long it had nothing to do."""

from __future__ import annotations

import asyncio
import selectors
import time


class _Selector(selectors.DefaultSelector):
    """Adds up how long it waited; a look that waits for nothing is part of the work."""

    waited_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is not None and timeout <= 0:
            return super().select(timeout)
        began = time.monotonic()
        try:
            return super().select(timeout)
        finally:
            self.waited_s += time.monotonic() - began


class WatchedLoop(asyncio.SelectorEventLoop):
    """asyncio's own loop on a POSIX system, that tells its idle time."""

    def __init__(self) -> None:
        self._waits = _Selector()
        super().__init__(self._waits)

    @property
    def idle_s(self) -> float:
        """Seconds since its start in which it waited for something to happen.

        All else is work, and time in which work was there and another thread or process had the
        core: a loop that is kept from its work is as busy as one that does it.
        """
        return self._waits.waited_s
