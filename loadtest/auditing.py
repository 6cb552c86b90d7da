"""`audit`: every read that was made, judged again from the log; and the parts of that work alone.

The audit is the command as an auditor runs it, its start included, with two processes. Beside it,
on one core: the same bytes merely read and decoded, the facts of the bulk records folded with every
rule on, and the leaves of the ledger hashed.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from loadtest.asking import week_reader
from loadtest.installation import expect
from loadtest.reads import CALLERS
from loadtest.results import Bound, Result
from loadtest.serving import Served
from loadtest.traffic import by_callers
from spine import trust
from spine.event import TYPE_HEADER, Facts, LogRecord, RecordType
from spine.ledger.entries import record_entry
from spine.ledger.tree import Growing
from spine.merkle import leaf_hash
from spine.verdict import Verdict

JOBS: Final = 2
AUDIT_S: Final = 900.0
# Records of at least so many facts count as bulk.
BULK_FACTS: Final = 100

TARGETS: Final = (
    Bound("entries_per_s", least=20_000),
    Bound("facts_folded_per_s", least=50_000),
    Bound("leaves_per_s", least=200_000),
)
GATES: Final = ()


def run(served: Served, seconds: float) -> Result:
    """The scenario on a country that is served."""
    asyncio.run(_read(served, seconds))
    began = time.perf_counter()
    judged = _audited(served)
    audit_s = time.perf_counter() - began
    records, bare_s = _bare(served)
    leaves_per_s = _leaves(records)
    return Result(
        "audit",
        len(served.mpans),
        {
            "entries": judged,
            "entries_per_s": judged / audit_s,
            "audit_s": audit_s,
            "bare_read_and_decode_s": bare_s,
            "ratio_to_bare_read": bare_s / audit_s,
            "leaves_per_s": leaves_per_s,
            **_folded(served, records),
        },
        TARGETS,
        GATES,
        [
            f"{JOBS} processes, their start included; all else on one core",
            f"bulk: records of at least {BULK_FACTS} facts; single: a record for each fact",
        ],
    )


async def _read(served: Served, seconds: float) -> None:
    """Have something to audit: reads of one meter-week, by many callers."""
    async with week_reader(served) as ask:
        if not served.rows:
            await ask.learn()
        await by_callers(ask, CALLERS, seconds)


def _audited(served: Served) -> int:
    """How many decisions the command judged; WrongAnswer unless it says SAME of each."""
    done = subprocess.run(
        [sys.executable, "-m", "spine", "audit", "--all", "--json", "--jobs", str(JOBS)],
        env=served.spine.environment(),
        capture_output=True,
        text=True,
        timeout=AUDIT_S,
        check=False,
    )
    expect(done.returncode == 0, f"the audit found a difference: {done.stderr[-300:]}")
    counts: dict[str, int] = json.loads(done.stdout)["counts"]
    judged = counts.pop(Verdict.SAME)
    expect(not any(counts.values()), f"the audit says {counts}")
    return judged


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
    """Facts a second that folds in memory apply, of single and of bulk records, where there are."""
    runtime = served.spine.runtime
    folds: dict[tuple[str, int], Any] = {}
    single, bulk = _Rate(), _Rate()
    for record in records:
        place = (record.topic, record.partition)
        fold = folds.get(place) or folds.setdefault(place, runtime.memory_fold(*place))
        facts = 0
        if record.header(TYPE_HEADER) == RecordType.FACTS.encode():
            value = runtime.codec.decode(record.value or b"")
            assert isinstance(value, Facts)
            facts = sum(len(command.facts) for command in value.commands)
        with (bulk if facts >= BULK_FACTS else single if facts == 1 else _Rate()).timed(facts):
            fold.apply(record)
    rates = {"facts_folded_per_s": bulk, "single_facts_folded_per_s": single}
    return {name: rate.per_s for name, rate in rates.items() if rate.count}


@dataclass(slots=True)
class _Rate:
    count: int = 0
    seconds: float = 0.0

    @contextmanager
    def timed(self, count: int) -> Iterator[None]:
        begun = time.perf_counter()
        yield
        self.count, self.seconds = self.count + count, self.seconds + time.perf_counter() - begun

    @property
    def per_s(self) -> float:
        return self.count / self.seconds


def _leaves(records: list[LogRecord]) -> float:
    """Leaves a second made, hashed and put into a tree, their tiles kept nowhere."""
    tree = Growing.empty()
    begun = time.perf_counter()
    for record in records:
        tree.append(leaf_hash(record_entry(record)))
    return len(records) / (time.perf_counter() - begun)
