"""Which group a meter belongs to, whether its day counts, and the file that others know."""

from __future__ import annotations

import csv
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from io import StringIO
from pathlib import Path

import pytest
from msgspec import structs

from domains.metering import adapters, feeders
from domains.metering.aggregates import NO_FEEDER
from domains.metering.events import Fuel, MeasurementQuantity, MeteringPoint
from domains.metering.feeder_file import COLUMNS, FeederDay, lines
from domains.metering.feeders import (
    FeederRing,
    feeders_of,
    gsp_group_of,
    interval_of,
    whole_day,
)
from domains.metering.rows import fold_batch
from spine.domain import Rows
from spine.errors import Invalid, Reason
from spine.gb import GspGroup, SettlementDate
from tests.helpers.rows import MemoryRows
from tests.helpers.samples import METER, OLD_DAY, readings_batch, withdrawn
from tests.helpers.standing import shipped_file, shipped_list

SAMPLES = Path(__file__).parents[2] / "data/lv-feeder"
POINT = MeteringPoint(registered_from=datetime(2020, 1, 1, tzinfo=UTC))
DAY = date(2025, 6, 1)
FEEDERS = ("SYNTHETIC-A-001-01", "SYNTHETIC-A-001-02", "SYNTHETIC-A-001-03")
MPANS = [f"10{n:011d}" for n in range(400)]
EXPECTED = [FEEDERS[2], FEEDERS[1], FEEDERS[1], FEEDERS[1]]  # for ever


# Groups


@pytest.mark.parametrize(
    ("point", "mpan", "group"),
    [
        (POINT, "1200000000003", "_C"),
        (structs.replace(POINT, gsp_group="_K"), "1200000000003", "_K"),
        (POINT, "2600000000003", ""),  # an independent distributor tells no region
        (structs.replace(POINT, gsp_group="_K"), "2600000000003", "_K"),
        (structs.replace(POINT, fuel=Fuel.GAS), "3938424403", ""),
        (structs.replace(POINT, gsp_group="_K"), "3938424403", ""),
        (structs.replace(POINT, measurement_quantity=MeasurementQuantity.ACTIVE_EXPORT), METER, ""),
        (MeteringPoint(), METER, ""),
        (structs.replace(POINT, effective_to=interval_of(DAY).start), METER, ""),
        (structs.replace(POINT, effective_to=interval_of(DAY).end), METER, "_C"),
    ],
)
def test_the_gsp_group_is_that_of_the_register_or_of_the_host(
    point: MeteringPoint, mpan: str, group: str
) -> None:
    assert gsp_group_of(mpan, point, DAY) == group


def test_a_synthetic_link_is_the_same_for_ever_and_spreads_meters() -> None:
    found = linked(FEEDERS)
    assert found == linked(FEEDERS[::-1])
    assert all(found.count(feeder) > 80 for feeder in FEEDERS)
    assert set(linked(())) == {NO_FEEDER}
    assert found[:4] == EXPECTED


def test_a_new_feeder_takes_meters_and_moves_no_other() -> None:
    for before, after in zip(linked(FEEDERS[:2]), linked(FEEDERS), strict=True):
        assert after in (before, FEEDERS[2])


def linked(names: tuple[str, ...]) -> list[str]:
    """The feeder of each MPAN."""
    return [ring.feeder_of(mpan) for ring in [FeederRing(names)] for mpan in MPANS]


def test_a_link_costs_one_hash_however_many_feeders_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ring = FeederRing(f"f{n}" for n in range(50))
    hashed: list[str] = []

    def counted(text: str) -> bytes:
        hashed.append(text)
        return text.encode()

    monkeypatch.setattr(feeders, "_point", counted)
    assert ring.feeder_of(MPANS[0]).startswith("f")
    assert hashed == MPANS[:1]


def test_the_shipped_feeders_say_that_they_are_synthetic() -> None:
    listed = shipped_list("metering", "lv_feeders")
    for group in GspGroup:
        assert len(feeders_of(group, listed, DAY)) == 2
    for entry in shipped_file("metering", "lv_feeders").listed:
        assert entry.code.startswith("SYNTHETIC-") and "SYNTHETIC" in entry.source
        assert entry.attribute("secondary_substation_name").startswith("SYNTHETIC")
    assert feeders_of("_A", listed, date(1996, 3, 31)) == ()


# Whole days


def filled(*, estimated: bool = False, absent: bool = False) -> Rows:
    """One day of METER, as one batch gave it: 47 or 48 half hours, one estimated or none."""
    batch = readings_batch(METER, 3)
    rows = MemoryRows()
    batch = replace(batch, quality=bytes([0, int(estimated)] + [0] * 46))
    if not absent:
        batch = replace(batch, present=b"\xff" * 6)
    assert fold_batch(batch, 10, rows)
    return rows


def test_a_day_counts_if_each_half_hour_has_an_actual_reading() -> None:
    day = date(1970, 1, 1) + timedelta(days=OLD_DAY)
    found = whole_day(filled(), 11, METER, day)
    assert found is not None and len(found) == 48
    assert whole_day(filled(), 10, METER, day) is None
    assert whole_day(filled(absent=True), 11, METER, day) is None
    assert whole_day(filled(estimated=True), 11, METER, day) is None
    assert whole_day(filled(), 11, METER, day + timedelta(days=1)) is None


def test_what_was_withdrawn_counts_no_more_but_did_before() -> None:
    day, rows = date(1970, 1, 1) + timedelta(days=OLD_DAY), filled()
    assert fold_batch(withdrawn(METER, 3, 4, 5), 20, rows)
    assert whole_day(rows, 20, METER, day) is not None
    assert whole_day(rows, 21, METER, day) is None


@pytest.mark.parametrize("changed", [date(2026, 3, 29), date(2026, 10, 25)])
def test_utc_days_hold_each_half_hour_of_a_long_and_a_short_local_day_once(changed: date) -> None:
    local = SettlementDate(changed)
    around = [changed + timedelta(days=n) for n in (-1, 0, 1)]
    starts = [half.start for day in around for half in interval_of(day).half_hours()]
    within = [start for start in starts if start in local.interval]
    assert len(set(within)) == len(within) == local.periods in (46, 50)
    assert all(len(list(interval_of(day).half_hours())) == 48 for day in around)


# The file

FEEDER_DAY = FeederDay(
    "000200200402",
    "Scottish and Southern Electricity Networks",
    "SSEN",
    "004",
    "DUNCRAIG ROAD, NORTH",
    "02",
    "",
    date(2024, 2, 12),
    15,
    tuple(range(2_331, 2_331 + 48)),
    datetime(2024, 2, 14, 0, 7, 6, 298_000, tzinfo=UTC),
)


def test_the_columns_are_those_of_the_sample() -> None:
    for sample in sorted(SAMPLES.glob("*.csv")):
        with sample.open(newline="") as opened:
            assert tuple(next(csv.reader(opened))) == COLUMNS


def test_a_line_is_one_that_a_distributor_might_have_written() -> None:
    with (SAMPLES / "ssen_2024-02-12_head.csv").open(newline="") as opened:
        theirs = next(csv.DictReader(opened))
    rows = list(csv.DictReader(StringIO("".join(lines([FEEDER_DAY])))))
    ours = rows[0]
    another = {
        "secondary_substation_name",
        "aggregated_device_count_reactive",
        "total_consumption_reactive_import",
        "insert_time",
        "last_modified_time",
    }
    assert {name for name in COLUMNS if ours[name] != theirs[name]} == another
    assert ours["secondary_substation_name"] == "DUNCRAIG ROAD, NORTH"
    assert ours["insert_time"] == ours["last_modified_time"] == "2024-02-14T00:07:06.298Z"
    stamps = [row["data_collection_log_timestamp"] for row in rows]
    assert (len(stamps), stamps[-1]) == (48, "2024-02-13T00:00:00.000Z")


def test_the_file_is_known_for_what_it_is_and_is_no_reading() -> None:
    with pytest.raises(Invalid) as refused:
        adapters.read("export.csv", "".join(lines([FEEDER_DAY])).encode())
    assert refused.value.reason is Reason.FILE_AGGREGATED
