"""How long the access records of a server wait, so that requests share them while it is busy."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

# Above and below which share of a core the serving thread counts as busy and as idle, and how long
# the records of a busy one wait for company.
BUSY, IDLE = 0.65, 0.5
LOOK_EVERY_S: Final = 0.1
WAIT_LEAST_S: Final = 0.01
WAIT_MOST_S: Final = 0.2


class Company:
    """How long the next record of a server waits for more requests, in seconds.

    A record costs every process that folds it about the same, however many requests it holds, and
    gRPC hands requests out one by one, some turns of its loop apart. So while the thread that
    serves is busy, records wait longer and longer, and the work of each request becomes less; as
    soon as it is not, they wait for nobody. Looked at from that thread alone.
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
        """0, or from `WAIT_LEAST_S` to `WAIT_MOST_S`; changed by a step once in `LOOK_EVERY_S`."""
        now = self._clock()
        if now - self._looked >= LOOK_EVERY_S:
            used = self._cpu_s()
            busy = (used - self._used) / (now - self._looked)
            self._looked, self._used = now, used
            if busy > BUSY:
                self._wait_s = min(WAIT_MOST_S, max(WAIT_LEAST_S, self._wait_s * 1.5))
            elif busy < IDLE:
                self._wait_s = self._wait_s / 2 if self._wait_s > WAIT_LEAST_S else 0.0
        return self._wait_s
