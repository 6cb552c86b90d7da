"""From the cost of one unit to the country, by arithmetic alone: what `DESIGN.md` says of sizes.

Reads the figures of the last recorded run (`results.json`) and prints the chapter "Sizing" of
DESIGN.md; a test compares the two. Nothing here is measured at the size it speaks of: it is what
the measured costs come to if they stay as they are, which `growth` is there to check.
"""

from __future__ import annotations

import json
import math
import sys
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

HERE: Final = Path(__file__).parent
KEPT: Final = HERE / "results.json"
DESIGN: Final = HERE.parent / "DESIGN.md"
BEGIN: Final = "<!-- sizing: made by `python -m loadtest.sizing`, from loadtest/results.json -->"
END: Final = "<!-- end of sizing -->"

DAYS_13_MONTHS: Final = 396
SECONDS_A_DAY: Final = 86_400
# A core is bought for what it does at its busiest, with a third to spare.
SPARE: Final = 1.5
CORES_A_NODE: Final = 8
REPLICAS: Final = 3
# Rented: a node of 8 cores and 64 GB, and a terabyte of solid state disk, pounds a month.
POUNDS_A_NODE: Final = 300
POUNDS_A_TB: Final = 80


@dataclass(frozen=True, slots=True)
class Country:
    """What has to be carried."""

    meters: int = 32_000_000
    consents: int = 5_000_000
    reads_per_s: float = 1_160
    hours_of_delivery: float = 4

    def times(self, factor: int) -> Country:
        """So many times as much of everything."""
        return Country(
            self.meters * factor,
            self.consents * factor,
            self.reads_per_s * factor,
            self.hours_of_delivery,
        )


@dataclass(frozen=True, slots=True)
class Unit:
    """What one of each costs: microseconds of one core, and bytes."""

    meter_day_in_us: float
    meter_day_fold_us: float
    read_us: float
    fact_us: float
    meter_day_log_bytes: float
    meter_day_store_bytes: float
    read_log_bytes: float
    rebuild_per_s: float
    passed_over_per_s: float

    @classmethod
    def of(cls, figures: Mapping[str, Mapping[str, float]]) -> Unit:
        """From the figures of a run, by scenario."""
        day, reads = figures["gb-day"], figures["reads"]
        return cls(
            1e6 / day["in_meter_days_per_s"],
            day["fold_cpu_us_per_meter_day"],
            reads["dsi_cpu_ms_per_call"] * 1_000,
            1e6 / figures["registry"]["facts_per_s"],
            day["log_bytes_per_meter_day"],
            day["store_bytes_per_meter_day"],
            figures["access"]["bytes_per_read_together"],
            figures["rebuild"]["meter_days_per_s"],
            figures["access"]["reads_passed_over_per_s"],
        )


@dataclass(frozen=True, slots=True)
class Size:
    """What it takes."""

    in_cores: float
    fold_cores: float
    read_cores: float
    partitions: int
    nodes: int
    log_tb: float
    access_tb: float
    store_tb: float
    rebuild_hours: float
    access_rebuild_hours: float
    load_hours: float
    pounds_a_month: float


def size(country: Country, unit: Unit) -> Size:
    """The size of an installation for a country, by the measured cost of each unit."""
    per_s = country.meters / (country.hours_of_delivery * 3_600)
    in_cores = per_s * unit.meter_day_in_us / 1e6 * SPARE
    fold_cores = per_s * unit.meter_day_fold_us / 1e6 * SPARE
    read_cores = country.reads_per_s * unit.read_us / 1e6 * SPARE
    meter_days = country.meters * DAYS_13_MONTHS
    log_tb = meter_days * unit.meter_day_log_bytes * REPLICAS / 1e12
    reads = country.reads_per_s * DAYS_13_MONTHS * SECONDS_A_DAY
    access_tb = reads * unit.read_log_bytes * REPLICAS / 1e12
    store_tb = meter_days * unit.meter_day_store_bytes / 1e12
    nodes = max(3, math.ceil((in_cores + fold_cores + read_cores) / CORES_A_NODE) + 3)
    # One fold is one core: so many partitions that the slowest still has a third to spare, and a
    # store that is lost comes back within an hour, of readings or of who may read them.
    readings_s, access_s = meter_days / unit.rebuild_per_s, reads / unit.passed_over_per_s
    partitions = 128
    while max(readings_s, access_s) / partitions > 3_600 and partitions < 4_096:
        partitions *= 2
    return Size(
        in_cores,
        fold_cores,
        read_cores,
        partitions,
        nodes,
        log_tb,
        access_tb,
        store_tb,
        readings_s / partitions / 3_600,
        access_s / partitions / 3_600,
        (2 * country.meters + country.consents) * unit.fact_us / 1e6 / 3_600,
        nodes * POUNDS_A_NODE + (log_tb + access_tb + store_tb) * POUNDS_A_TB,
    )


ROWS: Final = (
    ("cores taking readings in, within four hours", "in_cores", "{:,.1f}"),
    ("cores folding them", "fold_cores", "{:,.1f}"),
    ("cores of the servers that answer reads", "read_cores", "{:,.1f}"),
    ("partitions, for a lost store to be back within the hour", "partitions", "{:,}"),
    ("nodes of 8 cores, three of them for the log", "nodes", "{:,}"),
    ("terabytes of readings in the log, three copies", "log_tb", "{:,.1f}"),
    ("terabytes of who read what in the log, three copies", "access_tb", "{:,.1f}"),
    ("terabytes of stores, one copy", "store_tb", "{:,.1f}"),
    ("hours until one lost store of readings is back", "rebuild_hours", "{:,.1f}"),
    ("the same of who may read, past all that was read", "access_rebuild_hours", "{:,.1f}"),
    ("hours to load registrations, supplies and consents by one process", "load_hours", "{:,.1f}"),
    ("pounds a month, rented", "pounds_a_month", "{:,.0f}"),
)


def chapter(kept: Mapping[str, Any]) -> str:
    """The chapter as it stands in DESIGN.md, markers included."""
    unit = Unit.of(kept["figures"])
    one, ten = size(Country(), unit), size(Country().times(10), unit)
    lines = [
        BEGIN,
        "From the figures of the run in [loadtest/RESULTS.md](loadtest/RESULTS.md), on two cores",
        "with the broker on them: 32 million meters for 13 months, 5 million consents, 1,160",
        "reads/s, a day delivered within four hours. Every core has a third to spare. The second",
        "column is ten times all of it.",
        "",
        "| what it takes | a country | ten times |",
        "|---|---|---|",
    ]
    for label, field, form in ROWS:
        values = (form.format(getattr(each, field)) for each in (one, ten))
        lines.append(f"| {label} | {' | '.join(values)} |")
    lines += ["", _breaks_first(one, ten), "", _from_the_log(one, ten), END]
    return "\n".join(lines)


def _breaks_first(one: Size, ten: Size) -> str:
    if ten.partitions >= 4_096:
        first = "the count of partitions, which is fixed when the log is created"
    elif ten.read_cores > ten.in_cores + ten.fold_cores:
        first = "the servers that answer reads, which scale by adding more of them"
    else:
        first = "the coordinator that takes readings in, one process for each of its partitions"
    past_reads = ten.access_rebuild_hours > ten.rebuild_hours
    lost = "passes over who read what" if past_reads else "folds the readings"
    said = (
        f"What breaks first at ten times: {first}. Whoever expects that much creates the log"
        f" with {ten.partitions:,} partitions, so that a lost store {lost} within the hour:"
        f" {one.partitions:,} cannot be made more later."
    )
    return textwrap.fill(said, 120)


def _from_the_log(one: Size, ten: Size) -> str:
    hours, ten_hours = (each.access_rebuild_hours * each.partitions for each in (one, ten))
    said = (
        "These are hours from the first record on; from a snapshot (`spine snapshot`) only what"
        " came since it is folded. Each server that answers reads has a fold of every partition: to"
        f" pass over what was read takes one that lost all its stores {hours:,.0f} hours of one"
        f" core without a snapshot, {ten_hours:,.0f} at ten times. That is the fold alone; to fetch"
        " and decompress the records comes on top."
    )
    return textwrap.fill(said, 120)


def main() -> None:
    """Write the chapter into DESIGN.md between its markers."""
    made = chapter(json.loads(KEPT.read_text()))
    text = DESIGN.read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    DESIGN.write_text(before + made + after)
    sys.stdout.write(made + "\n")


if __name__ == "__main__":
    main()
