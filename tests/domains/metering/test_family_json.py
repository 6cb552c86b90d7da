"""n3rgy and Perseus: both shapes of the one, instants and units of the other."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domains.metering import adapters
from domains.metering.adapters import Parsed
from spine.errors import Reason
from spine.gb import Mprn
from tests.domains.metering.test_family_shared import (
    DATA,
    HOME,
    assert_even,
    buckets,
    by_stamp,
    family,
    read,
    reasons,
    refused,
    span,
    unreadable,
)

V1, V2 = "n3rgy/get_consumption_data.json", "n3rgy/get-reading-type-consumption.json"
PERSEUS = "perseus/perseus_sample_readings.json"


def n3rgy(*values: object, **changes: Any) -> bytes:
    answer = {
        "resource": f"/{HOME}/electricity/consumption/1",
        "granularity": "halfhour",
        "unit": "kWh",
        "values": [{"value": 0.1, "timestamp": "2019-01-01 00:30"}, *values],
    }
    return json.dumps(answer | changes).encode()


def read_n3rgy(*values: object, **changes: Any) -> Parsed:
    return adapters.read("x.json", n3rgy(*values, **changes))


def perseus(**changes: Any) -> dict[str, Any]:
    reading = {
        "type": "Electricity",
        "from": "2012-02-20T13:00:00Z",
        "to": "2012-02-20T13:30:00Z",
        "energy": {"value": 976.0, "unitCode": "WHR"},
    }
    return reading | changes


def read_perseus(*readings: object) -> Parsed:
    return adapters.read("x.json", json.dumps([perseus(), *readings]).encode(), HOME)


# n3rgy


def test_n3rgy_version_1() -> None:
    parsed = read(V1)
    assert family(V1) == "n3rgy"
    assert buckets(parsed.report.rows) == buckets(parsed.report.half_hours) == {"recorded": 96}
    assert parsed.meter_days.total_wh == 51_891
    assert parsed.meter_days.count_by_quality() == {"": 96}
    assert set(parsed.meter_days.mpxns.tolist()) == {b"2234567891000"}
    assert span(parsed) == ("2019-01-01 00:00Z", "2019-01-02 23:30Z")
    assert reasons(parsed) == {"check_digit": 1}


def test_n3rgy_version_2() -> None:
    parsed = read(V2)
    assert family(V2) == "n3rgy"
    assert buckets(parsed.report.rows) == buckets(parsed.report.half_hours) == {"recorded": 31}
    assert parsed.meter_days.total_wh == 2_999
    assert set(parsed.meter_days.mpxns.tolist()) == {b"1234567891000"}
    assert span(parsed) == ("2012-04-27 08:30Z", "2012-04-27 23:30Z")


def test_n3rgy_stamps_are_ends() -> None:
    values = json.loads((DATA / V1).read_text(), parse_float=Decimal)["values"]
    expected = {}
    for value in values:
        end = datetime.fromisoformat(value["timestamp"]).replace(tzinfo=UTC)
        expected["2234567891000", end - timedelta(minutes=30)] = (int(value["value"] * 1000), "")
    assert by_stamp(read(V1).meter_days) == expected


@pytest.mark.parametrize(
    ("value", "bucket"),
    [
        ({"value": 0.2, "timestamp": "201901010100"}, "recorded"),
        ({"primaryValue": 0.2, "timestamp": "2019-01-01 01:00"}, "recorded"),
        ({"value": 0.1, "timestamp": "2019-01-01 00:30"}, "duplicate_same"),
        ({"value": 0.3, "timestamp": "2019-01-01 00:30"}, "duplicate_other"),
        ({"value": 0.1, "timestamp": "2019-01-01 00:45"}, "off_grid"),
        ({"value": None, "timestamp": "2019-01-01 01:00"}, "null"),
        ({"timestamp": "2019-01-01 01:00"}, "null"),
        ({"value": -1, "timestamp": "2019-01-01 01:00"}, "negative"),
        ({"value": 0.0001, "timestamp": "2019-01-01 01:00"}, "wrong_decimals"),
        ({"value": 1e99, "timestamp": "2019-01-01 01:00"}, "out_of_range"),
        ({"value": "0.1", "timestamp": "2019-01-01 01:00"}, "unreadable"),
        ({"value": float("nan"), "timestamp": "2019-01-01 01:00"}, "unreadable"),
        ({"value": 0.1, "timestamp": 201901010100}, "unreadable"),
        ({"value": 0.1, "timestamp": "tomorrow"}, "unreadable"),
        ([], "unreadable"),
    ],
)
def test_one_n3rgy_value(value: object, bucket: str) -> None:
    parsed = read_n3rgy(value)
    counts = {"recorded": 2} if bucket == "recorded" else {"recorded": 1, bucket: 1}
    assert buckets(parsed.report.rows) == counts
    assert parsed.report.balanced


def test_both_elements_of_a_meter_are_added() -> None:
    stamp = "2019-01-01 00:30"
    values = [{"primaryValue": 0.1, "secondaryValue": 0.025, "timestamp": stamp}]
    parsed = read_n3rgy(devices=[{"deviceId": "a", "values": values}])
    assert parsed.meter_days.total_wh == 125


def test_two_devices_are_one_metering_point() -> None:
    def device(*ends: str) -> dict[str, Any]:
        return {"values": [{"primaryValue": 0.1, "timestamp": f"2019-01-01 {end}"} for end in ends]}

    parsed = read_n3rgy(devices=[device("00:30", "01:00"), device("01:00", "01:30")])
    assert buckets(parsed.report.rows) == {"recorded": 3, "duplicate_same": 1}


@pytest.mark.parametrize(
    "changes",
    [
        {"resource": "/1234567890/gas/tariff/1"},
        {"resource": f"/mpxn/{HOME}/utility/electricity/readingtype/production"},
        {"resource": f"/{HOME}/electricity/tariff/1"},
        {"unit": "m3"},
        {"granularity": "day"},
    ],
)
def test_what_of_n3rgy_is_not_consumption(changes: dict[str, Any]) -> None:
    said = refused(Reason.FILE_UNRECOGNISED, lambda: read_n3rgy(**changes))
    assert "only if" in said


def test_n3rgy_files_that_cannot_be_read() -> None:
    refused(Reason.FILE_UNREADABLE, lambda: adapters.read("x", n3rgy()[:-1]))
    refused(Reason.FILE_UNREADABLE, lambda: read_n3rgy(values=1, timestamp=1))
    refused(Reason.FILE_UNREADABLE, lambda: read_n3rgy(devices=[1], timestamp=1))
    refused(Reason.FILE_EMPTY, lambda: adapters.read("x", n3rgy(devices=[], timestamp=1)))


def test_the_mpan_of_n3rgy_is_in_the_file_or_given() -> None:
    refused(Reason.FIELD_INVALID, lambda: adapters.read("x", n3rgy(), HOME))
    nameless = n3rgy(resource="/electricity/consumption/1")
    refused(Reason.MPXN_REQUIRED, lambda: adapters.read("x", nameless))
    assert adapters.read("x", nameless, HOME).meter_days.total_wh == 100
    refused(Reason.MPAN_FORMAT, lambda: read_n3rgy(resource="/123456789/electricity/consumption/1"))


# Perseus


def test_perseus_counts() -> None:
    parsed = read(PERSEUS, HOME)
    counts = {"recorded": 93, "wrong_decimals": 7}
    assert family(PERSEUS) == "perseus"
    assert parsed.report.rows.total == 100
    assert buckets(parsed.report.rows) == buckets(parsed.report.half_hours) == counts
    assert span(parsed) == ("2012-02-20 13:00Z", "2012-02-22 14:30Z")
    assert parsed.meter_days.count_by_quality() == {"": 93}


def test_perseus_is_its_file() -> None:
    expected = {}
    for reading in json.loads((DATA / PERSEUS).read_text(), parse_float=Decimal):
        start = datetime.fromisoformat(reading["from"].replace("Z", "+00:00"))
        value = reading["energy"]["value"]
        if value == int(value):
            expected[str(HOME), start] = (int(value), "")
    parsed = read(PERSEUS, HOME)
    assert by_stamp(parsed.meter_days) == expected
    assert parsed.meter_days.total_wh == sum(wh for wh, _ in expected.values()) == 39_863


@pytest.mark.parametrize(
    ("changes", "bucket"),
    [
        ({}, "duplicate_same"),
        ({"energy": {"value": 0.976, "unitCode": "KWH"}}, "duplicate_same"),
        ({"energy": {"value": 1, "unitCode": "WHR"}}, "duplicate_other"),
        ({"from": "2012-02-20T13:10:00Z", "to": "2012-02-20T13:40:00Z"}, "off_grid"),
        ({"to": "2012-02-20T14:00:00Z"}, "off_grid"),
        ({"energy": None}, "null"),
        ({"energy": {"value": None}}, "null"),
        ({"energy": {"value": 1, "unitCode": "J"}}, "unreadable"),
        ({"energy": {"value": "1", "unitCode": "WHR"}}, "unreadable"),
        ({"energy": {"value": float("inf"), "unitCode": "WHR"}}, "unreadable"),
        ({"energy": 1}, "unreadable"),
        ({"energy": {"value": -1, "unitCode": "WHR"}}, "negative"),
        ({"energy": {"value": 0.5, "unitCode": "WHR"}}, "wrong_decimals"),
        ({"energy": {"value": 1e12, "unitCode": "WHR"}}, "out_of_range"),
        ({"energy": {"value": 1e300, "unitCode": "WHR"}}, "out_of_range"),
        ({"energy": {"value": 1e-300, "unitCode": "WHR"}}, "wrong_decimals"),
        ({"from": "2012-02-20T13:00:00"}, "unreadable"),
        ({"from": None}, "unreadable"),
        ({"type": "Gas"}, "other_quantity"),
    ],
)
def test_one_perseus_reading(changes: dict[str, Any], bucket: str) -> None:
    parsed = read_perseus(perseus(**changes))
    assert buckets(parsed.report.rows) == {"recorded": 1, bucket: 1}
    assert parsed.meter_days.total_wh == 976


def test_perseus_files_that_cannot_be_read() -> None:
    whole = json.dumps([perseus()]).encode()
    refused(Reason.MPXN_REQUIRED, lambda: adapters.read("x", whole))
    refused(Reason.MPAN_FORMAT, lambda: adapters.read("x", whole, Mprn("3938424403")))
    refused(Reason.FILE_UNREADABLE, lambda: adapters.read("x", whole[:-2], HOME))
    assert unreadable(read_perseus([])) == [
        (2, "a reading is not an object, or names a field twice")
    ]


# Balances, whatever the file

junk: st.SearchStrategy[Any] = st.sampled_from(
    [None, 0, 0.1, -1, 1e99, "x", True, [], {}, "2019-01-01 01:00", float("nan"), float("inf")]
)


@settings(max_examples=50)
@given(st.lists(st.fixed_dictionaries({"value": junk, "timestamp": junk}) | junk, max_size=8))
def test_n3rgy_balances_whatever_its_values(values: list[object]) -> None:
    assert_even(read_n3rgy(*values), 1 + len(values))


fields = st.dictionaries(st.sampled_from(["type", "from", "to", "energy"]), junk, max_size=3)


@settings(max_examples=50)
@given(st.lists(fields.map(lambda changes: perseus(**changes)) | junk, max_size=8))
def test_perseus_balances_whatever_its_readings(readings: list[object]) -> None:
    assert_even(read_perseus(*readings), 1 + len(readings))
