"""What can be queried in the stores of a run is what was sent: meter by meter, count by count."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Final

from domains.metering.rows import ROW_PREFIX
from domains.metering.views import readings_as_of
from loadtest.country import Country
from loadtest.deliveries import expected
from loadtest.installation import Installation, Note, expect
from spine import trust
from spine.gb import PERIODS_PER_UTC_DAY, Interval
from spine.murmur2 import murmur2_partition
from spine.store import StoreReader

# Meters that are compared day by day, and all that is compared of them.
SAMPLE: Final = 2_000
METER_DAYS_COMPARED: Final = 60_000


def check_stores(
    spine: Installation,
    country: Country,
    days: Sequence[date],
    recorded: int,
    folder: Path,
    note: Note,
    *,
    corrected: bool = True,
    members: Sequence[str] = ("readings",),
) -> None:
    """WrongAnswer unless the stores hold as many rows as were recorded, and of a sample of meters
    exactly the half hours, values and qualities that were sent last.

    Of a partition that several members have folded, the store counts that has come furthest.
    """
    partitions = spine.runtime.partitions
    readers: list[StoreReader] = []
    try:
        for p in range(partitions):
            readers.append(_furthest(spine, p, folder, members))
        count = 0
        for reader in readers:
            count += sum(1 for _ in reader.scan(ROW_PREFIX, ROW_PREFIX + b"\xff"))
        expect(count == recorded, f"the stores hold {count} rows, not {recorded}")
        step = max(1, country.meters // min(SAMPLE, METER_DAYS_COMPARED // len(days)))
        index = list(range(0, country.meters, step))
        for on in days:
            start = datetime(on.year, on.month, on.day, tzinfo=UTC)
            asked = Interval(start, start + timedelta(days=1))
            for done, (one, right) in enumerate(
                zip(index, expected(country, index, on, corrected=corrected), strict=True)
            ):
                mpan = country.block(one, one + 1).mpans[0].decode()
                rows = readers[murmur2_partition(mpan.encode(), partitions)]
                found = readings_as_of(rows, mpan, "AI", asked, 2**62)
                said = {
                    place: (known.value_wh, known.quality)
                    for place in range(PERIODS_PER_UTC_DAY)
                    if (known := found.at(place)) is not None
                }
                expect(said == right, f"the meter of index {one} reads otherwise than sent")
                note("comparing meters", done, len(index))
    finally:
        for reader in readers:
            reader.close()


def _furthest(
    spine: Installation, partition: int, folder: Path, members: Sequence[str]
) -> StoreReader:
    """The store of that partition, of these members, that has come furthest."""
    readers = [
        StoreReader(
            spine.runtime.stores(member) / f"{trust.READINGS_TOPIC}-{partition}",
            folder / member / str(partition),
        )
        for member in members
    ]
    found = {
        position.offset: reader
        for reader in readers
        if reader.refresh() and (position := reader.position()) is not None
    }
    expect(bool(found), "a store cannot be read")
    best = found[max(found)]
    for reader in readers:
        if reader is not best:
            reader.close()
    return best
