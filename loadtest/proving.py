"""`ledger`: how soon after its append a record can be proved, and what the ledger costs the reads.

The published checkpoint is looked at from outside, as an auditor would. The cost is that of pairs
of runs, one with the ledger and its witnesses, one with all of them stopped; each begins when
nothing is left to prove.
"""

from __future__ import annotations

import asyncio
import signal
import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from loadtest.asking import week_reader
from loadtest.installation import WITNESSES, Installation, expect
from loadtest.reads import CALLERS
from loadtest.results import Bound, Result, percentile
from loadtest.serving import Served
from loadtest.traffic import by_callers
from spine import trust
from spine.errors import NotFound
from spine.ledger.entries import Place, RecordLeaf
from spine.ledger.library import Library
from spine.ledger.note import Checkpoint

LOOK_S: Final = 0.02
ALL_PROVED_S: Final = 120.0

TARGETS: Final = (Bound("proof_lag_p99_ms", most=1_000), Bound("cost_of_reads", most=0.03))


class Lag:
    """Looks at what the ledger publishes; how old each record was when a head first covered it.

    Looking takes time of the machine, so nobody looks while the cost of the ledger is measured.
    """

    def __init__(self, spine: Installation) -> None:
        self._library = Library(spine.data_dir / "ledger" / "public")
        self._covered: dict[Place, int] = {}
        self._size = 0
        self.found_ms: list[float] = []

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Look all the time, from another thread, for the length of a with block."""
        stop = threading.Event()

        def watch() -> None:
            while not stop.wait(LOOK_S):
                self.look()

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def look(self) -> None:
        """Take in what was published since the last look; of the first, only how far it is."""
        seen_ms = time.time() * 1000
        try:
            size = Checkpoint.parse(self._library.note().text).size
        except NotFound:
            return
        if size == self._size:
            return
        sizes = self._library.sizes(size)
        if self._size:
            self.found_ms += [seen_ms - at for at in self._appended(sizes)]
        self._size, self._covered = size, self._covered | sizes

    def _appended(self, sizes: dict[Place, int]) -> Iterator[int]:
        for place, size in sizes.items():
            tree = self._library.tree(place)
            for index in range(self._covered.get(place, 0), size):
                yield RecordLeaf.decode(tree.entry(index, size)).append_ms

    @property
    def covered(self) -> dict[Place, int]:
        """How many records of each partition are under the published head."""
        return self._covered


def run(served: Served, pairs: int, seconds: float) -> Result:
    """The scenario on a country that is served."""
    served.spine.start(*WITNESSES, "ledger")
    return asyncio.run(_run(served, pairs, seconds))


async def _run(served: Served, pairs: int, seconds: float) -> Result:
    spine = served.spine
    with_it: list[float] = []
    without: list[float] = []
    lag = Lag(spine)
    async with week_reader(served) as ask:
        if not served.rows:
            await ask.learn()
        for pair in range(pairs):
            # The order turns with each pair, so that a drift of the machine favours neither.
            for on in (True, False) if pair % 2 else (False, True):
                await asyncio.to_thread(_all_proved, served, lag)
                if on:
                    with_it.append((await by_callers(ask, CALLERS, seconds)).per_s)
                else:
                    with _stopped(spine, (*WITNESSES, "ledger")):
                        without.append((await by_callers(ask, CALLERS, seconds)).per_s)
        await asyncio.to_thread(_all_proved, served, lag)
        before = len(lag.found_ms)  # what waited for a ledger that was stopped does not count
        with lag.watching():
            await by_callers(ask, CALLERS, 2 * seconds)
        await asyncio.to_thread(_all_proved, served, lag)
    lags = lag.found_ms[before:]
    costs = [1 - on / off for on, off in zip(with_it, without, strict=True)]
    return Result(
        "ledger",
        len(served.mpans),
        {
            "records_proved": len(lags),
            "proof_lag_p50_ms": percentile(lags, 50),
            "proof_lag_p99_ms": percentile(lags, 99),
            "pairs": pairs,
            "calls_per_s_with_it": statistics.median(with_it),
            "calls_per_s_without": statistics.median(without),
            "cost_of_reads": statistics.median(costs),
        },
        TARGETS,
        notes=["the ledger, its witnesses, the broker and the callers share the same cores"],
    )


def _all_proved(served: Served, lag: Lag) -> None:
    """Return once every record of the log is under the published head."""
    runtime, deadline = served.spine.runtime, time.monotonic() + ALL_PROVED_S
    places = [(topic, p) for topic in trust.METER_KEYED for p in range(runtime.partitions)]
    reader = runtime.reader()
    try:
        while True:
            ends = reader.ends(places)
            lag.look()
            if all(lag.covered.get(place, 0) >= end for place, end in ends.items()):
                return
            expect(time.monotonic() < deadline, "the ledger does not catch up")
            time.sleep(LOOK_S)
    finally:
        reader.close()


@contextmanager
def _stopped(spine: Installation, names: Sequence[str]) -> Iterator[None]:
    """These processes get no time for the length of a with block."""
    for name in names:
        spine.process(name).send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for name in names:
            spine.process(name).send_signal(signal.SIGCONT)
