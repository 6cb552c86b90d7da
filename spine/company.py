"""How long the access records of a server wait, so that requests share them while it is busy."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

from spine.watched_loop import WatchedLoop

# Above which share of the time the serving loop counts as busy; how long its records wait then.
BUSY: Final = 0.85
LONGER, SHORTER = 1.5, 0.8
LOOK_EVERY_S: Final = 0.1
WAIT_LEAST_S: Final = 0.01
WAIT_MOST_S: Final = 0.05


class Company:
    """How long the next record of a server waits for more requests, in seconds.

    A record costs every process that folds it about the same, however many requests it holds, and
    gRPC hands requests out one by one, some turns of its loop apart. So while the loop that
    serves has work, or is kept from it, records wait longer and longer, and the work of each
    request becomes less; while it has not, shorter and shorter, in the end for nobody. Looked at
    from that loop alone; `idle_s` is how long it had nothing to do so far.
    """

    def __init__(
        self, idle_s: Callable[[], float], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._idle_s, self._clock = idle_s, clock
        self._looked, self._idle = clock(), idle_s()
        self._wait_s = 0.0

    @classmethod
    def of_running_loop(cls) -> Company:
        """Of a `WatchedLoop`, which a process of the spine runs in; any other has nobody wait."""
        loop = asyncio.get_running_loop()
        return cls(lambda: loop.idle_s) if isinstance(loop, WatchedLoop) else cls(time.monotonic)

    def wait_s(self) -> float:
        """0, or from `WAIT_LEAST_S` to `WAIT_MOST_S`; what it is now is looked at now and then."""
        now = self._clock()
        passed_s = now - self._looked
        if passed_s >= LOOK_EVERY_S:
            idle = self._idle_s()
            busy = 1 - (idle - self._idle) / passed_s
            self._looked, self._idle = now, idle
            if busy > BUSY:
                self._wait_s = min(WAIT_MOST_S, max(WAIT_LEAST_S, self._wait_s * LONGER))
            elif self._wait_s:
                shorter_s = self._wait_s * SHORTER ** (passed_s / LOOK_EVERY_S)
                self._wait_s = shorter_s if shorter_s >= WAIT_LEAST_S else 0.0
        return self._wait_s
