"""Publications of a small GSP group, for tests that need one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime
from typing import Final

import numpy as np

from domains.metering.aggregates import Meter
from domains.metering.publications import AggregatesPublished, before_next, publication
from spine import trust
from spine.domain import ReadableRows
from spine.event import DataPosition
from tests.helpers.rows import MemoryRows

DAY: Final = date(2025, 6, 1)
FEEDERS: Final = ("SYNTHETIC-A-001-01", "SYNTHETIC-A-001-02")
POSITIONS: Final = tuple(
    DataPosition(topic, 0, 9)
    for topic in (trust.READINGS_TOPIC, trust.METERING_TOPIC, trust.METERING_REFERENCE)
)


def meters(
    numbers: Iterable[int], feeder: str = FEEDERS[0], without: Sequence[int] = ()
) -> list[Meter]:
    """Meters of a feeder: half hour h of meter n is 100 n + h Wh; none of those `without`."""
    return [
        Meter(
            f"10000000{n:05d}",
            feeder,
            None if n in without else 100 * n + np.arange(48, dtype=np.int64),
        )
        for n in numbers
    ]


def published(
    rows: ReadableRows | None = None,
    found: Sequence[Meter] | None = None,
    day: date = DAY,
    meters_min: int = 5,
    gsp_group: str = "_A",
    feeders: Sequence[str] = FEEDERS,
) -> AggregatesPublished:
    """The next publication after these rows; of six meters on one feeder if none are given."""
    counted = meters(range(1, 7)) if found is None else found
    return publication(
        before_next(rows or MemoryRows(), gsp_group, counted),
        gsp_group,
        day,
        feeders,
        counted,
        meters_min=meters_min,
        made_at=datetime(2025, 6, 3, 4, 5, tzinfo=UTC),
        positions=POSITIONS,
    )
