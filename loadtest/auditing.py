"""`audit`: every read that was made, judged again from the log; and the parts of that work alone.

The audit is the command as an auditor runs it, its start included, with two processes. Its second
run before the reads and the one after them tell what a decision takes from what the start and the
rest of the log take. Beside it, on one core: the same bytes merely read and decoded, and the facts
of the bulk records folded with every rule on. The leaves of the ledger are hashed by as many
processes as audit, a topic-partition at a time.
"""

from __future__ import annotations

import asyncio
import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

from loadtest.asking import week_reader
from loadtest.country import Country
from loadtest.installation import CONSENTS_BY, expect
from loadtest.loading import registrations
from loadtest.reads import CALLERS
from loadtest.results import Bound, Result
from loadtest.serving import Served
from loadtest.traffic import Patience, by_callers
from spine import trust
from spine.codec import Codec
from spine.console.jobs import processes
from spine.event import TYPE_HEADER, Facts, LogRecord, RecordType
from spine.ledger.entries import record_entry
from spine.ledger.tree import TILE_WIDTH, Growing
from spine.merkle import leaf_hash
from spine.metering.v1 import metering_pb2_grpc
from spine.server import connect
from spine.verdict import Verdict

JOBS: Final = 2
AUDIT_S: Final = 900.0
# To grow the trees of a small log once takes no longer than to ask processes for it.
ROUNDS: Final = 10
# How long each process is kept busy before, so that all have started.
START_S: Final = 3.0
# Records of at least so many facts count as bulk.
BULK_FACTS: Final = 100
# Metering points that are registered one after the other, each in a record of its own.
SINGLE_FACTS: Final = 300

TARGETS: Final = (
    Bound("entries_per_s", least=20_000),
    Bound("facts_folded_per_s", least=50_000),
    Bound("leaves_per_s", least=200_000),
)
GATES: Final = ()


def run(served: Served, seconds: float) -> Result:
    """The scenario on a country that is served."""
    asyncio.run(_register_singly(served))
    _audited(served)  # the first run of a command is slower, and would flatter the difference
    before = _audited(served)
    asyncio.run(_read(served, seconds))
    audited = _audited(served)
    records, bare_s = _bare(served)
    return Result(
        "audit",
        len(served.mpans),
        {
            "entries": audited.entries,
            "entries_per_s": audited.entries / audited.seconds,
            "audit_s": audited.seconds,
            "audit_cpu_s": audited.cpu_s,
            **audited.beyond(before),
            "bare_read_and_decode_s": bare_s,
            "ratio_to_bare_read": bare_s / audited.seconds,
            **_leaves(records),
            **_folded(served, records),
        },
        TARGETS,
        GATES,
        [
            f"{JOBS} processes, their start included; all else by one",
            "before the reads: the same command, its second run; a further entry: the difference",
            f"leaves by {JOBS} processes once they have started, the same {ROUNDS} times over",
            f"bulk: records of at least {BULK_FACTS} facts; single: a record for each fact, as "
            f"of {SINGLE_FACTS} metering points that are registered one after the other",
            "facts folded per_s: of the time that passed, beside all else that ran on these cores; "
            "per_cpu_s: of the time that the one thread which folds was at work",
        ],
    )


def further_meters(country: Country) -> Iterator[Any]:
    """Registrations of metering points outside the country: no answer changes by them."""
    count = country.meters + SINGLE_FACTS
    return registrations(replace(country, meters=count).block(country.meters, count))


async def _register_singly(served: Served) -> None:
    """Have facts that share their record with no other."""
    spine, patience = served.spine, Patience()
    async with connect(spine.target("metering"), spine.identity(CONSENTS_BY)) as channel:
        stub = metering_pb2_grpc.MeteringStub(channel)
        for request in further_meters(served.country):
            await patience.until_answered(stub.RegisterMeteringPoint, request)


async def _read(served: Served, seconds: float) -> None:
    """Have something to audit: reads of one meter-week, by many callers."""
    async with week_reader(served) as ask:
        if not served.rows:
            await ask.learn()
        await by_callers(ask, CALLERS, seconds)


@dataclass(frozen=True, slots=True)
class _Audit:
    """One run of the command: decisions judged, and what it took in time and in CPU."""

    entries: int
    seconds: float
    cpu_s: float

    def beyond(self, before: _Audit) -> dict[str, float]:
        """What the entries took that came after another run; what both had to do is left out.

        Where that took less than two runs of the same vary by, it is not known, and not said.
        """
        entries, seconds = self.entries - before.entries, self.seconds - before.seconds
        cpu_s = self.cpu_s - before.cpu_s
        figures = {"before_the_reads_s": before.seconds}
        if cpu_s > 0 and seconds > 0:
            figures["cpu_us_per_further_entry"] = cpu_s / entries * 1e6
            figures["further_entries_per_s"] = entries / seconds
        return figures


def _audited(served: Served) -> _Audit:
    """What the command took; WrongAnswer unless it says SAME of each decision."""
    began, cpu_s = time.perf_counter(), _cpu_of_children_s()
    done = subprocess.run(
        [sys.executable, "-m", "spine", "audit", "--all", "--json", "--jobs", str(JOBS)],
        env=served.spine.environment(),
        capture_output=True,
        text=True,
        timeout=AUDIT_S,
        check=False,
    )
    seconds, cpu_s = time.perf_counter() - began, _cpu_of_children_s() - cpu_s
    expect(done.returncode == 0, f"the audit found a difference: {done.stderr[-300:]}")
    counts: dict[str, int] = json.loads(done.stdout)["counts"]
    judged = counts.pop(Verdict.SAME)
    expect(not any(counts.values()), f"the audit says {counts}")
    return _Audit(judged, seconds, cpu_s)


def _cpu_of_children_s() -> float:
    """CPU seconds of all processes started here that have ended, and of those they started."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _bare(served: Served) -> tuple[list[LogRecord], float]:
    """Every record that the audit reads, and the seconds of one core to read and decode them."""
    runtime, records = served.spine.runtime, []
    reader = runtime.reader()
    begun = time.perf_counter()
    for topic in trust.METER_KEYED:
        for partition in range(runtime.partitions):
            for record in reader.read(topic, partition, 0):
                runtime.codec.decode(record.value or b"")
                records.append(record)
    took = time.perf_counter() - begun
    reader.close()
    return records, took


def _folded(served: Served, records: list[LogRecord]) -> dict[str, float]:
    """Facts a second that folds in memory decode, verify and apply, of single records and of bulk
    records, where there are: of the time that passed, and of that which this thread was at work.
    """
    runtime = served.spine.runtime
    # Another codec than the folds have, which would not decode again what it decoded last.
    counting = Codec(runtime.codec.schemas, runtime.domains)
    folds: dict[tuple[str, int], Any] = {}
    single, bulk = _Rate(), _Rate()
    for record in records:
        place = (record.topic, record.partition)
        fold = folds.get(place) or folds.setdefault(place, runtime.memory_fold(*place))
        facts = 0
        if record.header(TYPE_HEADER) == RecordType.FACTS.encode():
            value = counting.decode(record.value or b"")
            assert isinstance(value, Facts)
            facts = sum(len(command.facts) for command in value.commands)
        with (bulk if facts >= BULK_FACTS else single if facts == 1 else _Rate()).timed(facts):
            fold.apply(record)
    expect(single.count > 0, "no fact has a record of its own")
    figures: dict[str, float] = {}
    for name, rate in {"facts_folded": bulk, "single_facts_folded": single}.items():
        if rate.count:
            figures[f"{name}_per_s"] = rate.count / rate.seconds
            figures[f"{name}_per_cpu_s"] = rate.count / rate.cpu_s
    return figures


@dataclass(slots=True)
class _Rate:
    count: int = 0
    seconds: float = 0.0
    cpu_s: float = 0.0

    @contextmanager
    def timed(self, count: int) -> Iterator[None]:
        begun, cpu_s = time.perf_counter(), time.thread_time()
        yield
        self.cpu_s += time.thread_time() - cpu_s
        self.seconds += time.perf_counter() - begun
        self.count += count


def _leaves(records: list[LogRecord]) -> dict[str, float]:
    """Leaves a second made, hashed and put into the tree of their topic-partition, by all processes
    together and by one; their start is left out, and tiles are kept nowhere.
    """
    by_place: dict[tuple[str, int], list[LogRecord]] = {}
    for record in records:
        by_place.setdefault((record.topic, record.partition), []).append(record)
    logs = sorted(by_place.values(), key=len, reverse=True)
    # No copies of this process: threads of grpc's own run in it, which Python does not count.
    with processes(JOBS, partial(_take, logs), "spawn") as pool:
        list(pool.map(time.sleep, [START_S] * JOBS))
        begun = time.perf_counter()
        leaves = sum(pool.map(_grow, range(len(logs))))
        together_s = time.perf_counter() - begun
    _take(logs)
    begun, cpu_s = time.perf_counter(), time.thread_time()
    for number in range(len(logs)):
        _grow(number)
    alone_s, cpu_s = time.perf_counter() - begun, time.thread_time() - cpu_s
    return {
        "leaves_per_s": leaves / together_s,
        "leaves_per_s_of_one": leaves / alone_s,
        "cpu_us_per_leaf_of_one": cpu_s / leaves * 1e6,
    }


# What a process that hashes leaves was given when it started.
_given: list[list[LogRecord]] = []


def _take(logs: list[list[LogRecord]]) -> None:
    _given[:] = logs


def _grow(number: int) -> int:
    """Grow one tree, again and again; how many leaves that were."""
    log = _given[number]
    for _ in range(ROUNDS):
        tree = Growing.empty()
        for begin in range(0, len(log), TILE_WIDTH):  # as many at once as a tree in a folder takes
            records = log[begin : begin + TILE_WIDTH]
            tree.extend([leaf_hash(record_entry(record)) for record in records])
    return len(log) * ROUNDS
