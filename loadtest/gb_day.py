"""`gb-day`: a day of readings through the whole product, and the `ceiling` beside it.

In: every sender at once streams its deliveries to the metering coordinator, which judges, signs and
appends them; each report is compared with what must come of it. The messages are made before the
clock starts, as who sends readings has them ready. Then the log is all there is: the bare loop runs
over it, the readings process folds it into its stores, and what can be queried there is compared
with what was sent, meter by meter and count by count.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from pathlib import Path
from typing import Final

import numpy as np

from loadtest.ceiling import Bare, bare_loop
from loadtest.checking import check_stores
from loadtest.country import CLOCK_CHANGES, Country
from loadtest.deliveries import BLOCK, Delivery, deliveries, second
from loadtest.installation import Installation, Note, expect, installation
from loadtest.loading import Loader
from loadtest.ready import Ready, made_ready
from loadtest.registers import append_registers
from loadtest.results import Bound, Result
from spine import trust
from spine.gb import PERIODS_PER_UTC_DAY, SettlementDate
from spine.metering.v1 import metering_pb2
from spine.server import connect
from spine.store import StoreReader

CALL_S: Final = 600.0
RECORD_READINGS: Final = "/spine.metering.v1.Metering/RecordReadings"
REPORT: Final = metering_pb2.RecordReadingsReport
LOOK_S: Final = 0.02
FOLD_S: Final = 3_600.0
# Of larger countries the registers are bulk records: by commands they would take hours.
BY_COMMANDS_MAX: Final = 1_000_000
DIRECT: Final = (
    "registers as bulk records, signed with the coordinators' keys without them; of the "
    "coordinators only metering runs then, and has learnt what it keeps at hand"
)

# Enough of them that a small country, too, takes a while to fold.
ORDINARY_DAYS: Final = tuple(
    day
    for day in (date(2024, 7, 1) + timedelta(days=n) for n in range(540))
    if SettlementDate(day).periods == PERIODS_PER_UTC_DAY
)

TARGETS: Final = (
    Bound("ratio_to_ceiling", least=0.6),
    Bound("fold_meter_days_per_s", least=110_000),
    Bound("in_meter_days_per_s", least=100_000),
    Bound("resident_mb_max", most=1_500),
)
GATES: Final = ()


def days_of(count: int) -> tuple[date, ...]:
    """The UTC days of a run: one ordinary one, or both clock changes and then ordinary ones."""
    return (*CLOCK_CHANGES, *ORDINARY_DAYS)[:count] if count > 1 else ORDINARY_DAYS[:1]


@dataclass
class Progress:
    """Counts what was done of what there is to do, under one name at a time."""

    note: Note
    done: int = 0

    def step(self, name: str, count: int, total: int) -> None:
        """So many more are done."""
        self.done += count
        self.note(name, self.done, total)


@dataclass
class Day:
    """What one run sent and found."""

    learning_s: float | None = None
    rows: int = 0
    recorded: int = 0
    in_s: float = 0.0
    in_cpu_s: float = 0.0
    calls: int = 0
    repeated: int = 0
    fold_rows: int = 0
    fold_s: float = 0.0
    fold_cpu_s: float = 0.0
    log_bytes: int = 0
    store_bytes: int = 0
    resident: dict[str, int] = field(default_factory=dict)

    @property
    def fold_cpu_us(self) -> float:
        """Microseconds of CPU for a meter-day, of those folded while CPU was counted."""
        return self.fold_cpu_s / self.fold_rows * 1e6


def run(meters: int, folder: Path, note: Note, days: int = 1) -> Result:
    """The whole scenario in one installation of its own."""
    country = Country(meters)
    chosen = days_of(days)
    with installation(folder, ["metering"], lambda text: note(text, 0, 0)) as spine:
        day = Day()
        if meters <= BY_COMMANDS_MAX:
            load_registers(spine, country, note)
        else:
            day.learning_s = append_registers(spine, country, note)
        asyncio.run(ingest(spine, country, chosen, day, note))
        day.resident |= spine.resident()
        spine.stop(*spine.processes)  # the fold has the cores to itself, and so has the loop
        note("the bare loop", 0, 0)
        bare = bare_loop(spine, folder / "bare")
        expect(bare.rows == day.recorded, f"the log holds {bare.rows} rows, not {day.recorded}")
        fold(spine, bare, day, note)
        check_stores(spine, country, chosen, day.recorded, folder / "look", note)
        day.log_bytes = size_of(folder / "kafka", f"{trust.READINGS_TOPIC}-*")
        day.store_bytes = size_of(spine.runtime.stores("readings"), f"{trust.READINGS_TOPIC}-*")
    return _result(meters, day, bare)


def load_registers(spine: Installation, country: Country, note: Note) -> None:
    """Supplies, appointments and registrations, before anything is timed."""
    loader = Loader(spine, country)
    total = 2 * country.meters
    supplied = asyncio.run(loader.supply(lambda n: note("supplies and appointments", n, total)))
    asyncio.run(loader.register(lambda n: note("registrations", supplied + n, total)))


def _result(meters: int, day: Day, bare: Bare) -> Result:
    fold_rate = day.fold_rows / day.fold_s
    learning = {} if day.learning_s is None else {"learning_s": day.learning_s}
    return Result(
        "gb-day",
        meters,
        {
            "meter_days": day.recorded,
            "in_meter_days_per_s": day.rows / day.in_s,
            "in_s": day.in_s,
            "in_metering_cpu_us_per_meter_day": day.in_cpu_s / day.rows * 1e6,
            "calls": day.calls,
            "calls_repeated": day.repeated,
            "fold_meter_days_per_s": fold_rate,
            "fold_s": day.fold_s,
            "fold_cpu_us_per_meter_day": day.fold_cpu_us,
            "ceiling_meter_days_per_s": bare.rows_per_s,
            "ratio_to_ceiling": fold_rate / bare.rows_per_s,
            "bytes_per_meter_day": bare.bytes / bare.rows,
            "log_bytes_per_meter_day": day.log_bytes / day.recorded,
            "store_bytes_per_meter_day": day.store_bytes / day.recorded,
            "resident_mb_max": max(day.resident.values()) / 1e6,
        }
        | learning,
        TARGETS,
        GATES,
        [DIRECT] if learning else [],
    )


# In


async def ingest(
    spine: Installation, country: Country, days: Sequence[date], day: Day, note: Note
) -> None:
    """All deliveries of these days, every sender at once; then what is late or corrected.

    The clock runs while they are sent. Their messages were made before.
    """
    total = country.meters * len(days)
    progress = Progress(note)
    with tempfile.TemporaryFile(dir=spine.data_dir) as file:
        made = Progress(note)
        ready = made_ready(_counted(_deliveries(country, days), made, total), file)
        started, cpu_s = time.perf_counter(), spine.cpu_s("metering")
        await asyncio.gather(
            *(
                _sender(spine, sender, calls, day, progress, total)
                for sender, calls in ready.items()
            )
        )
        day.in_s += time.perf_counter() - started
        day.in_cpu_s += spine.cpu_s("metering") - cpu_s


def _deliveries(country: Country, days: Sequence[date]) -> Iterator[Delivery]:
    """All deliveries in time: each day's, then what is late of it and what is corrected. The very
    first is sent twice, whatever the rates say: a small run would repeat none.
    """
    first = True
    for on in days:
        for start in range(0, country.meters, BLOCK):
            for delivery in deliveries(country, start, on):
                yield replace(delivery, repeated=first or delivery.repeated)
                first = False
    for on in days:
        yield from second(country, on)


def _counted(made: Iterator[Delivery], progress: Progress, total: int) -> Iterator[Delivery]:
    for delivery in made:
        yield delivery
        progress.step("making messages", len(delivery.rows), total)


async def _sender(
    spine: Installation,
    sender: str,
    calls: Sequence[Ready],
    day: Day,
    progress: Progress,
    total: int,
) -> None:
    async with connect(spine.target("metering"), spine.identity(sender)) as channel:
        record = channel.stream_unary(RECORD_READINGS, None, REPORT.FromString)
        for ready in calls:
            for again in (False, True) if ready.repeated else (False,):
                report = await record(ready.messages(), timeout=CALL_S)
                ready.due.check(report, again)
                day.calls += 1
                day.repeated += again
                day.rows += ready.due.rows
            day.recorded += ready.due.recorded
            progress.step("in", ready.due.rows, total)


# Log to queryable


class Watcher:
    """How far the readings process has come, seen from outside as the DSI sees it."""

    def __init__(
        self,
        spine: Installation,
        folder: Path,
        records: dict[int, list[tuple[int, int]]],
        members: Sequence[str],
    ):
        self._at = dict.fromkeys(records, 0)
        self._stores = {
            (p, member): spine.runtime.stores(member) / f"{trust.READINGS_TOPIC}-{p}"
            for p in records
            for member in members
        }
        self._readers = {
            (p, member): StoreReader(store, folder / member / str(p))
            for (p, member), store in self._stores.items()
        }
        self._offsets = {p: np.array([o for o, _ in found]) for p, found in records.items()}
        self._rows = {
            p: np.concatenate([[0], np.cumsum([n for _, n in found])]).astype(np.int64)
            for p, found in records.items()
        }
        self.total = sum(int(rows[-1]) for rows in self._rows.values())

    def rows(self) -> int:
        """Rows that can be queried now."""
        for (p, member), reader in self._readers.items():
            if self._at[p] < self._rows[p][-1] and any(self._stores[p, member].glob("*/CURRENT")):
                position = reader.position() if reader.refresh() else None
                if position is not None:
                    place = int(np.searchsorted(self._offsets[p], position.offset, "right"))
                    self._at[p] = max(self._at[p], int(self._rows[p][place]))
        return sum(self._at.values())

    def close(self) -> None:
        """Let go of the stores."""
        for reader in self._readers.values():
            reader.close()


def fold(
    spine: Installation,
    bare: Bare,
    day: Day,
    note: Note,
    members: Sequence[str] = ("readings",),
) -> None:
    """Start the readings processes on the log and watch it become queryable.

    The clock runs from the first rows that can be queried, which is after the process has started,
    to the last; rows of the first look are not counted.
    """
    started = time.perf_counter()
    for member in members:
        spine.launch(member)
        spine.runtime.stores(member).mkdir(parents=True, exist_ok=True)
    watcher = Watcher(spine, spine.data_dir / "watch", bare.records, members)
    begun, counted, now = 0.0, 0, 0
    cpu_s = 0.0
    try:
        while now < watcher.total:
            now = watcher.rows()
            at = time.perf_counter()
            if now and not begun:
                begun, counted, cpu_s = at, now, sum(map(spine.cpu_s, members))
            expect(at - started < FOLD_S, f"only {now} of {watcher.total} rows can be queried")
            for member in members:
                expect(spine.processes[member].poll() is None, spine.tail(member))
            note("log to queryable", now, watcher.total)
            time.sleep(LOOK_S)
    finally:
        watcher.close()
    day.fold_s, day.fold_rows = time.perf_counter() - begun, now - counted
    day.fold_cpu_s = sum(map(spine.cpu_s, members)) - cpu_s
    day.resident |= spine.resident()


def size_of(folder: Path, name: str) -> int:
    """Bytes on the disk of whatever is below folders of that name."""
    found = (file for place in folder.rglob(name) if place.is_dir() for file in place.rglob("*"))
    return sum(file.stat().st_blocks * 512 for file in found if file.is_file())
