"""Homes of Australian trials, and aggregates that belong to no home."""

from __future__ import annotations

import csv
import gzip
import io
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from domains.metering import adapters
from spine.errors import Reason
from spine.gb import Mprn
from tests.domains.metering.test_family_shared import (
    DATA,
    HOME,
    buckets,
    by_stamp,
    family,
    read,
    reasons,
    refused,
    span,
    unreadable,
)

AUSGRID = "ausgrid/ausgrid_customer12_2011-07-01_2012-03-11.csv.gz"
SGSC = "sgsc/sgsc_2_households_2012-09-17_2012-10-10.csv.gz"
FEEDERS = [
    "lv-feeder/ssen_2024-02-12_head.csv",
    "lv-feeder/ssen_2024-02-12_for_location_lookup.csv",
]
TEN_HOURS = timedelta(hours=10)


def rows(path: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(gzip.decompress((DATA / path).read_bytes()).decode())))


def utc(stamp: str) -> datetime:
    """An Australian standard time as the instant it is."""
    return datetime.fromisoformat(stamp).replace(tzinfo=UTC) - TEN_HOURS


def test_ausgrid_counts() -> None:
    parsed = read(AUSGRID, HOME)
    assert family(AUSGRID) == "ausgrid"
    assert parsed.report.rows.total == parsed.report.half_hours.total == 12_240
    assert buckets(parsed.report.rows) == buckets(parsed.report.half_hours) == {"recorded": 12_240}
    assert buckets(parsed.report.values) == {"recorded": 12_240, "other_quantity": 12_240}
    assert parsed.meter_days.total_wh == 8_187_038
    assert parsed.meter_days.quantity == "AI"
    assert span(parsed) == ("2011-06-30 14:00Z", "2012-03-11 13:30Z")
    assert reasons(parsed) == {"double_precision": 100, "set_aside": 1}
    assert parsed.report.findings_left_out == 2_976 - 100


def test_ausgrid_is_its_import_in_standard_time() -> None:
    expected = {}
    for row in rows(AUSGRID):
        wh = int((Decimal(row["GC_kwh"]) * 1000).to_integral_value())
        expected[str(HOME), utc(row["datetime"])] = (wh, "")
    assert by_stamp(read(AUSGRID, HOME).meter_days) == expected


def test_only_what_double_precision_left_is_told_apart_from_a_finer_value() -> None:
    def wh(kwh: str) -> int | str:
        data = f"datetime,GC_kwh,GG_kwh\n2011-07-01 00:00:00,{kwh},0\n".encode()
        parsed = adapters.read("x", data, HOME)
        taken = parsed.meter_days.total_wh if parsed.meter_days.recorded else None
        return next(iter(buckets(parsed.report.half_hours))) if taken is None else taken

    assert wh("0.39799999999999996") == 398
    assert wh("2.4459999999999997") == 2446
    assert wh("0.3980001") == "wrong_decimals"
    assert wh("0.39800000001000001") == "wrong_decimals"
    assert wh("-0.39799999999999996") == "negative"
    assert wh("0.39799999999999999999999") == "wrong_decimals"


def test_smart_grid_smart_city_counts() -> None:
    parsed = read(SGSC, HOME)
    assert family(SGSC) == "smart_grid_smart_city"
    assert parsed.report.rows.total == 1_108
    assert buckets(parsed.report.rows) == {"recorded": 968, "other_meter": 140}
    assert buckets(parsed.report.half_hours) == {"recorded": 968, "missing": 40}
    assert parsed.meter_days.total_wh == 174_513
    assert [f.message for f in parsed.report.findings if f.reason == "missing"] == [
        "nothing from 2012-09-24 02:30Z to 2012-09-24 22:30Z"
    ]


def test_smart_grid_smart_city_is_its_first_home_in_standard_time() -> None:
    expected = {
        (str(HOME), utc(row["reading_datetime"])): (
            int(Decimal(row["general_supply_kwh"]) * 1000),
            "",
        )
        for row in rows(SGSC)
        if row["customer_id"] == "10006414"
    }
    assert by_stamp(read(SGSC, HOME).meter_days) == expected
    day = [start for _, start in expected if (start + TEN_HOURS).date().isoformat() == "2012-10-07"]
    assert len(day) == 48


def test_the_second_home_alone() -> None:
    lines = gzip.decompress((DATA / SGSC).read_bytes()).decode().splitlines()
    second = [lines[0], *(line for line in lines if line.startswith("10006704"))]
    parsed = adapters.read("x", "\n".join(second).encode(), HOME)
    assert buckets(parsed.report.rows) == {"recorded": 140}
    assert buckets(parsed.report.half_hours) == {"recorded": 140, "missing": 4}


@pytest.mark.parametrize(
    ("row", "bucket"),
    [
        ("1,2012-01-01 00:00:00,0.10", "duplicate_same"),
        ("1,2012-01-01 00:00:00,0.2", "duplicate_other"),
        ("1,2012-01-01 00:20:00,0.1", "off_grid"),
        ("1,2012-01-01 00:30:00,", "null"),
        ("1,2012-01-01 00:30:00,-1", "negative"),
        ("1,2012-01-01 00:30:00,x", "unreadable"),
        ("1,yesterday,0.1", "unreadable"),
        ("1,2012-01-01 00:30:00", "unreadable"),
        ("2,2012-01-01 00:30:00,0.1", "other_meter"),
    ],
)
def test_one_row(row: str, bucket: str) -> None:
    lines = ["customer_id,reading_datetime,general_supply_kwh", "1,2012-01-01 00:00:00,0.1", row]
    parsed = adapters.read("x", "\n".join(lines).encode(), HOME)
    assert buckets(parsed.report.rows) == {"recorded": 1, bucket: 1}
    assert all(line == 3 for line, _ in unreadable(parsed))


@pytest.mark.parametrize("path", [AUSGRID, SGSC])
def test_the_metering_point_is_asked_for(path: str) -> None:
    refused(Reason.MPXN_REQUIRED, lambda: read(path))
    refused(Reason.MPAN_FORMAT, lambda: read(path, Mprn("3938424403")))


@pytest.mark.parametrize("path", FEEDERS)
@pytest.mark.parametrize("mpxn", [None, HOME])
def test_feeders_are_no_metering_points(path: str, mpxn: None) -> None:
    assert family(path) == "lv_feeder"
    said = refused(Reason.FILE_AGGREGATED, lambda: read(path, mpxn))
    assert "no metering point" in said
