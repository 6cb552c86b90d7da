"""`growth`: log to queryable at one size after another, over as many days as it takes to last.

The batches are signed with the key of the metering coordinator and appended without it, for the log
and the fold cannot tell: so ten million meters need no registers. What the coordinator does at the
other end is `gb-day`'s to measure. `ceiling` is the bare loop over such a log, alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Final

from domains.metering.readings import Delivery as Sender
from domains.metering.readings import batch_from_columns
from loadtest.ceiling import bare_loop
from loadtest.checking import check_stores
from loadtest.country import Country
from loadtest.deliveries import BLOCK, SENDER_OF_ALL, as_batches
from loadtest.direct import ToAppend, append_all
from loadtest.gb_day import Day, days_of, fold
from loadtest.installation import Installation, Note, expect, installation
from loadtest.results import Bound, Result
from spine import trust
from spine.event import RecordType, SignerRole

RESIDENT_MB_MAX: Final = 1_500

TARGETS: Final = (
    Bound("ratio_to_ceiling", least=0.6),
    Bound("fold_meter_days_per_s", least=110_000),
    Bound("resident_mb_max", most=RESIDENT_MB_MAX),
)
GATES: Final = (
    Bound("ratio_to_ceiling", least=0.25),
    Bound("resident_mb_max", most=RESIDENT_MB_MAX),
)


def run(meters: int, folder: Path, note: Note, days: int) -> Result:
    """The fold beside the bare loop, at this size."""
    country = Country(meters)
    chosen = days_of(days)
    with installation(folder, [], lambda text: note(text, 0, 0)) as spine:
        spine.stop("consumers", "governance")
        recorded = asyncio.run(append(spine, country, chosen, note))
        note("the bare loop", 0, 0)
        bare = bare_loop(spine, folder / "bare")
        expect(bare.rows == recorded, f"the log holds {bare.rows} rows, not {recorded}")
        day = Day(recorded=recorded)
        fold(spine, bare, day, note)
        check_stores(spine, country, chosen, recorded, folder / "look", note, corrected=False)
        rate = day.fold_rows / day.fold_s
        return Result(
            "growth",
            meters,
            {
                "meter_days": recorded,
                "fold_meter_days_per_s": rate,
                "fold_us_per_meter_day": 1e6 / rate,
                "fold_s": day.fold_s,
                "fold_cpu_us_per_meter_day": day.fold_cpu_us,
                "ceiling_meter_days_per_s": bare.rows_per_s,
                "ratio_to_ceiling": rate / bare.rows_per_s,
                "resident_mb_max": max(day.resident.values()) / 1e6,
            },
            TARGETS,
            GATES,
        )


def ceiling(meters: int, folder: Path, note: Note, days: int) -> Result:
    """The bare loop alone; also without its store, which is all that reading and Avro cost."""
    with installation(folder, [], lambda text: note(text, 0, 0)) as spine:
        spine.stop("consumers", "governance")
        recorded = asyncio.run(append(spine, Country(meters), days_of(days), note))
        note("the bare loop", 0, 0)
        bare = bare_loop(spine, folder / "bare")
        taken_apart = bare_loop(spine, folder / "none", store=False)
        expect(bare.rows == recorded, f"the log holds {bare.rows} rows, not {recorded}")
        figures = {
            "meter_days": recorded,
            "ceiling_meter_days_per_s": bare.rows_per_s,
            "without_store_meter_days_per_s": taken_apart.rows_per_s,
            "bytes_per_meter_day": bare.bytes / bare.rows,
        }
        return Result("ceiling", meters, figures)


async def append(
    spine: Installation,
    country: Country,
    days: Sequence[date],
    note: Note,
    *,
    corrections: bool = False,
) -> int:
    """Sign and append a country's days, or their corrections; how many meter-days were recorded."""
    done = 0

    def batches() -> Iterator[ToAppend]:
        nonlocal done
        partitions, total = spine.runtime.partitions, country.meters * len(days)
        for on in days:
            for start in range(0, country.meters, BLOCK):
                sender = Sender(SENDER_OF_ALL, f"{on}-{start}{'-again' if corrections else ''}")
                for partition, rows in as_batches(
                    country, start, on, partitions, corrections=corrections
                ):
                    batch = batch_from_columns(
                        rows, partition, sender, registration_position=0, consumer_log_position=0
                    )
                    yield ToAppend(
                        SignerRole.METERING,
                        RecordType.READINGS,
                        trust.READINGS_TOPIC,
                        partition,
                        batch,
                    )
                    done += len(rows)
                note("filling the log", done, total)

    await append_all(spine, batches())
    return done
