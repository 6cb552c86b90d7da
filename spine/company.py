"""How long the access records of a server wait, so that requests share them while it is busy."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

from spine.watched_loop import WatchedLoop

# Above which share of the time the serving loop counts as busy all the time, and as having work.
BUSY: Final = 0.95
WORKING: Final = 0.5
LONGER, SHORTER = 1.5, 0.8
LOOK_EVERY_S: Final = 0.1
WAIT_LEAST_S: Final = 0.01
WAIT_MOST_S: Final = 0.05
# How far apart records leave while there is work, and some time without.
APART_S: Final = 0.025


class Company:
    """How long the next record of a server waits for more requests, in seconds.

    A record costs every process that folds it about the same, however many requests it holds, and
    gRPC hands requests out one by one, some turns of its loop apart. So while the loop that
    serves has work, or is kept from it, records leave at certain moments, those of all partitions
    at the same ones: they are sent together, and fetched together. While it has nothing but work
    they wait longer and longer, and the work of each request becomes less, which all others wait
    for. While there is little, or no other read `under_way`, none waits. Looked at from that loop
    alone; `idle_s` is how long it had nothing to do so far.
    """

    def __init__(
        self, idle_s: Callable[[], float], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.under_way = 0
        self._idle_s, self._clock = idle_s, clock
        self._looked, self._idle = clock(), idle_s()
        self._busy, self._wait_s = 0.0, 0.0

    @classmethod
    def of_running_loop(cls) -> Company:
        """Of a `WatchedLoop`, which a process of the spine runs in; any other has nobody wait."""
        loop = asyncio.get_running_loop()
        return cls(lambda: loop.idle_s) if isinstance(loop, WatchedLoop) else cls(time.monotonic)

    def wait_s(self) -> float:
        """Up to `WAIT_MOST_S`; what there is to do is looked at now and then."""
        now = self._clock()
        if now - self._looked >= LOOK_EVERY_S:
            self._look(now)
        if self._wait_s:
            return self._wait_s
        return until_next(APART_S, now) if self._busy > WORKING and self.under_way > 1 else 0.0

    def _look(self, now: float) -> None:
        passed_s, idle = now - self._looked, self._idle_s()
        self._busy = 1 - (idle - self._idle) / passed_s
        self._looked, self._idle = now, idle
        if self._busy > BUSY:
            self._wait_s = min(WAIT_MOST_S, max(WAIT_LEAST_S, self._wait_s * LONGER))
        elif self._wait_s:
            shorter_s = self._wait_s * SHORTER ** (passed_s / LOOK_EVERY_S)
            self._wait_s = shorter_s if shorter_s >= WAIT_LEAST_S else 0.0


def until_next(apart_s: float, now: float) -> float:
    """How long it is until the next of moments that far apart, which are the same for all who ask;
    0 if they are not apart.
    """
    return apart_s - now % apart_s if apart_s else 0.0
