"""`ledger`: how soon after its append a record can be proved, and what the ledger costs the reads.

The published checkpoint is looked at from outside, as an auditor would. The cost is that of pairs
of runs, one with the ledger and its witnesses, one with all of them stopped. The two of a pair are
cut into turns, one side's between the other's, so that a drift of the machine favours neither; each
turn begins when nothing is left to prove or to index, or a turn with the ledger would pay for what
came in while it was stopped. Beside the calls, which vary from turn to turn by more than the ledger
takes, stands what it takes itself: the CPU of its processes, and what the broker takes more.
"""

from __future__ import annotations

import asyncio
import signal
import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Final

import psutil

from loadtest.asking import week_reader
from loadtest.installation import BROKER, WITNESSES, Installation, expect
from loadtest.reads import CALLERS
from loadtest.results import Bound, Figures, Result, percentile
from loadtest.serving import Served
from loadtest.traffic import Call, Patience, by_callers
from spine import trust
from spine.errors import NotFound
from spine.ledger.entries import Place, RecordLeaf
from spine.ledger.library import Library
from spine.ledger.note import Checkpoint
from spine.ledger.v1 import ledger_pb2, ledger_pb2_grpc
from spine.murmur2 import murmur2_partition
from spine.server import connect

LOOK_S: Final = 0.02
ALL_PROVED_S: Final = 120.0
# Whether the ledger is on in each turn of a pair; with each pair the sides change places.
TURNS: Final = (True, False, False, True)
OF_THE_LEDGER: Final = (*WITNESSES, "ledger")

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
    served.spine.start(*OF_THE_LEDGER)
    return asyncio.run(_run(served, pairs, seconds))


@dataclass(slots=True)
class Side:
    """What was answered with the ledger on, or off, and the CPU seconds used meanwhile."""

    calls: int = 0
    seconds: float = 0.0
    ledger_cpu_s: float = 0.0
    broker_cpu_s: float = 0.0

    def __add__(self, other: Side) -> Side:
        return Side(
            self.calls + other.calls,
            self.seconds + other.seconds,
            self.ledger_cpu_s + other.ledger_cpu_s,
            self.broker_cpu_s + other.broker_cpu_s,
        )

    @property
    def per_s(self) -> float:
        """Calls a second."""
        return self.calls / self.seconds


def cost(pairs: Sequence[tuple[Side, Side]], cores: int) -> Figures:
    """What the ledger costs, by pairs of runs with it and without.

    `cost_of_reads` is the median of the pairs' shares of calls a second that were lost, with the
    quartiles beside it. `ledger_share_of_cores` is the share of the machine's CPU that its
    processes took, and the broker more than without it.
    """
    costs = [1 - on.per_s / off.per_s for on, off in pairs]
    on = sum((each for each, _ in pairs), Side())
    off = sum((each for _, each in pairs), Side())
    own = on.ledger_cpu_s / on.seconds
    of_broker = on.broker_cpu_s / on.seconds - off.broker_cpu_s / off.seconds
    return {
        "pairs": len(pairs),
        "calls_per_s_with_it": statistics.median(each.per_s for each, _ in pairs),
        "calls_per_s_without": statistics.median(each.per_s for _, each in pairs),
        "cost_of_reads": statistics.median(costs),
        "cost_of_reads_p25": percentile(costs, 25),
        "cost_of_reads_p75": percentile(costs, 75),
        "ledger_cpu_ms_per_s": own * 1000,
        "broker_cpu_ms_per_s_for_it": of_broker * 1000,
        "ledger_share_of_cores": (own + of_broker) / cores,
    }


async def _run(served: Served, pairs: int, seconds: float) -> Result:
    spine = served.spine
    measured: list[tuple[Side, Side]] = []
    lag = Lag(spine)
    async with week_reader(served) as ask:
        if not served.rows:
            await ask.learn()
        for pair in range(pairs):
            sides = {True: Side(), False: Side()}
            for turn in TURNS:
                on = turn if pair % 2 else not turn
                await _all_taken(served, lag)
                with nullcontext() if on else _stopped(spine, OF_THE_LEDGER):
                    sides[on] += await _turn(spine, ask, seconds / 2)
            measured.append((sides[True], sides[False]))
        await _all_taken(served, lag)
        before = len(lag.found_ms)  # what waited for a ledger that was stopped does not count
        with lag.watching():
            await by_callers(ask, CALLERS, 2 * seconds)
        await _all_taken(served, lag)
    lags = lag.found_ms[before:]
    return Result(
        "ledger",
        len(served.mpans),
        {
            "records_proved": len(lags),
            "proof_lag_p50_ms": percentile(lags, 50),
            "proof_lag_p99_ms": percentile(lags, 99),
            **cost(measured, psutil.cpu_count() or 1),
        },
        TARGETS,
        notes=[
            "the ledger, its witnesses, the broker and the callers share the same cores",
            f"each run of a pair in two turns of {seconds / 2:g} s, one side's between the other's",
            "the ledger's process keeps the index of reads too, which is stopped with it",
        ],
    )


async def _turn(spine: Installation, ask: Call, seconds: float) -> Side:
    """Reads for so long; what was answered and used."""
    begun = _cpu(spine)
    taken = await by_callers(ask, CALLERS, seconds)
    used = [now - then for now, then in zip(_cpu(spine), begun, strict=True)]
    return Side(len(taken.latencies_ms), taken.seconds, *used)


def _cpu(spine: Installation) -> tuple[float, float]:
    """CPU seconds so far, of the ledger's processes and of the broker."""
    return sum(map(spine.cpu_s, OF_THE_LEDGER)), spine.cpu_s(BROKER)


async def _all_taken(served: Served, lag: Lag) -> None:
    """Return once every record of the log is under the published head and in the index of reads."""
    await asyncio.to_thread(_all_proved, served, lag)
    spine, partitions = served.spine, served.spine.runtime.partitions
    one_of_each = {murmur2_partition(mpxn.encode(), partitions): mpxn for mpxn in served.mpans}
    async with connect(spine.target("ledger"), spine.identity(spine.advisers[0])) as channel:
        ledger = ledger_pb2_grpc.LedgerStub(channel)
        for mpxn in one_of_each.values():  # who asks for reads has them indexed first
            request = ledger_pb2.ListReadsRequest(mpxn=mpxn, page_size=1)
            await Patience(ALL_PROVED_S).until_answered(ledger.ListReads, request)


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
