"""Publications of groups as large as there are: each fits into a record, and everybody gets in."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from io import BytesIO

import fastavro
import numpy as np
import pytest

from domains.metering import aggregates
from domains.metering.aggregates import METER_BYTES, METERS_MIN, MOVE_BYTES, Meter, room_of
from domains.metering.bundle_table import live_bundles
from domains.metering.publications import (
    FIGURES_MAX,
    AggregateFigure,
    AggregatesPublished,
    FeederBundles,
    fold_publication,
    publication_problem,
)
from spine import log
from spine.event import DataPosition
from tests.helpers.aggregates import DAY, published
from tests.helpers.records import CODEC
from tests.helpers.rows import MemoryRows

METERS = 2_500_000
PARTITIONS = 100
NAMES = tuple(f"SYNTHETIC-A-{n:04d}-{n:013d}" for n in range(FIGURES_MAX))
POSITIONS = tuple(DataPosition("metering.readings.v1", n, 1 << 40) for n in range(2 * PARTITIONS))


def a_day(live: int, feeders: int, new: int, moved: int = 0) -> AggregatesPublished:
    """The largest publication there may be of so many live bundles, new and moved ones."""
    names = NAMES[:feeders]
    bits = b"\xff" * -(-(live + new) // 8)
    bundle = (9_999_999_999_999,) * METERS_MIN
    shares = [range(at, max(new, moved), feeders) for at in range(feeders)]
    return AggregatesPublished(
        topic="metering.aggregates.v1",
        partition=0,
        gsp_group="_A",
        day=DAY,
        meters_min=METERS_MIN,
        previous=1 << 40,
        published_at=published().published_at,
        positions=POSITIONS,
        first_bundle=1 << 30,
        retired=b"\xff" * -(-live // 8),
        bundles=tuple(
            FeederBundles(
                name,
                (bundle,) * sum(n < new for n in share),
                tuple((1 << 31) - 1 - n for n in share if n < moved),
            )
            for name, share in zip(names, shares, strict=True)
        ),
        apart=bits,
        left_out=bits,
        figures=tuple(AggregateFigure(group, METERS, b"\xff" * 384) for group in ("_A", *names)),
        suppressed=(),
    )


def growth(feeders: int) -> Iterator[tuple[int, int]]:
    """Live bundles before a day and new ones on it, until all meters are in one."""
    live = 0
    while live < METERS // METERS_MIN:
        room = room_of("_A", NAMES[:feeders], live) // METER_BYTES
        new = min(room // METERS_MIN, METERS // METERS_MIN - live)
        assert new > 0
        yield live, new
        live += new


@pytest.mark.parametrize(("feeders", "days"), [(10, 25), (FIGURES_MAX, 60)])
def test_the_largest_group_gets_in_day_by_day_and_each_day_fits(feeders: int, days: int) -> None:
    grown = list(growth(feeders))
    assert len(grown) <= days
    for live, new in (grown[0], grown[len(grown) // 2], grown[-2], grown[-1]):
        assert len(CODEC.encode(a_day(live, feeders, new))) < log.MAX_VALUE_BYTES


def test_a_day_on_which_all_move_fits() -> None:
    live = METERS // METERS_MIN
    moved = room_of("_A", NAMES, live) // MOVE_BYTES
    assert len(CODEC.encode(a_day(live, FIGURES_MAX, 0, moved))) < log.MAX_VALUE_BYTES


def test_bundles_named_one_by_one_would_not_fit() -> None:
    numbers = {"type": "array", "items": "int"}
    named = BytesIO()
    fastavro.schemaless_writer(named, fastavro.parse_schema(numbers), range(METERS // METERS_MIN))
    assert len(named.getvalue()) > log.MAX_VALUE_BYTES


def test_everybody_is_bundled_in_the_end_and_moves_with_the_feeder(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A small record and a small group: the same as a large record and a large group."""
    small = 6_000
    monkeypatch.setattr(aggregates, "ROOM_BYTES", small)
    first, second = ("f1", "f2", "f3"), ("g1", "g2", "g3")
    rows, values = MemoryRows(), np.ones(48, np.int64)

    def publish(number: int, feeders: tuple[str, ...]) -> AggregatesPublished:
        meters = [Meter(f"{n:013d}", feeders[n % 3], values) for n in range(3_000)]
        record = published(rows, meters, DAY + timedelta(days=number), feeders=feeders)
        assert record == published(rows, meters[::-1], record.day, feeders=feeders)
        assert publication_problem(record, 4) == ""
        assert len(CODEC.encode(record)) < small + 500
        assert fold_publication(record, number, rows)
        return record

    counts = [publish(number, first).figures[0].devices for number in range(6)]
    assert counts == sorted(counts) and counts[0] < counts[1] < counts[-1] == 3_000
    bundled = [mpxn for bundle in live_bundles(rows, "_A") for mpxn in bundle.mpxns]
    assert sorted(bundled) == [f"{n:013d}" for n in range(3_000)]
    assert {f.devices for f in publish(6, first).figures} == {3_000, 1_000}
    assert {f.devices for f in publish(7, second).figures} == {3_000, 1_000}
    assert {bundle.feeder for bundle in live_bundles(rows, "_A")} == {"g1", "g2", "g3"}
