"""How long the access records of a server wait, so that requests share them while it is busy."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

# Above which share of a core the serving thread counts as busy, and how long its records wait then.
BUSY: Final = 0.65
LONGER, SHORTER = 1.5, 0.8
LOOK_EVERY_S: Final = 0.1
WAIT_LEAST_S: Final = 0.01
WAIT_MOST_S: Final = 0.2


class Company:
    """How long the next record of a server waits for more requests, in seconds.

    A record costs every process that folds it about the same, however many requests it holds, and
    gRPC hands requests out one by one, some turns of its loop apart. So while the thread that
    serves is busy, records wait longer and longer, and the work of each request becomes less; while
    it is not, shorter and shorter, in the end for nobody. Looked at from that thread alone.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        cpu_s: Callable[[], float] = time.thread_time,
    ) -> None:
        self._clock, self._cpu_s = clock, cpu_s
        self._looked, self._used = clock(), cpu_s()
        self._wait_s = 0.0

    def wait_s(self) -> float:
        """0, or from `WAIT_LEAST_S` to `WAIT_MOST_S`; what it is now is looked at now and then."""
        now = self._clock()
        passed_s = now - self._looked
        if passed_s >= LOOK_EVERY_S:
            used = self._cpu_s()
            busy = (used - self._used) / passed_s
            self._looked, self._used = now, used
            if busy > BUSY:
                self._wait_s = min(WAIT_MOST_S, max(WAIT_LEAST_S, self._wait_s * LONGER))
            elif self._wait_s:
                shorter_s = self._wait_s * SHORTER ** (passed_s / LOOK_EVERY_S)
                self._wait_s = shorter_s if shorter_s >= WAIT_LEAST_S else 0.0
        return self._wait_s
