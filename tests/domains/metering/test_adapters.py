"""Readings files in: counts against the files themselves, bad input, and balances that hold."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import re
from collections import Counter
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domains.metering import adapters
from domains.metering.adapters import Bucket, MeterDays, Note, Parsed, documents, report
from spine.errors import Invalid, Reason
from spine.gb import Mpan, Mprn

DATA = Path(__file__).parents[2] / "data"
PERSE = DATA / "perse/perse_meter_history_2024-01-01_2024-08-31.json.gz"
LCL = DATA / "lcl/lcl_MAC003718_2012-10-17_2013-06-30.csv.gz"
LONG_DAY = DATA / "synthetic/perse_50_periods.json"
HOME = Mpan("1200000000011")
EPOCH = date(1970, 1, 1)

LCL_HEADER = "LCLid,stdorToU,DateTime,KWH/hh,Acorn,Acorn_grouped"


def read(path: Path, mpxn: Mpan | None = None) -> Parsed:
    return adapters.read(path.name, path.read_bytes(), mpxn)


def by_stamp(days: MeterDays) -> dict[tuple[str, datetime], tuple[int, str]]:
    """The columns again as one entry for each half hour."""
    readings = {}
    for row, column in zip(*np.nonzero(days.present), strict=True):
        start = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(
            days=int(days.days[row]), minutes=30 * int(column)
        )
        code = days.quality_codes[days.quality[row, column]]
        readings[days.mpxns[row].decode(), start] = (int(days.values_wh[row, column]), code)
    return readings


def buckets(tally: report.Tally) -> dict[str, int]:
    return {bucket.value: count for bucket, count in tally.by_bucket.items() if count}


def reasons(parsed: Parsed) -> Counter[str]:
    return Counter(finding.reason.value for finding in parsed.report.findings)


def lcl(*rows: str, header: str = LCL_HEADER, end: str = "\n") -> bytes:
    return end.join((header, *rows, "")).encode()


def lcl_row(stamp: str, kwh: str, household: str = "MAC1") -> str:
    return f"{household},Std,{stamp},{kwh},ACORN-A,Affluent"


def read_lcl(*rows: str) -> Parsed:
    return adapters.read("home.csv", lcl(*rows), HOME)


def perse_day(day: str = "2024-01-01", periods: int = 48, **changes: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {"Date": day, "MPAN": str(HOME), "MeasurementQuantity": "AI"}
    fields |= {f"P{n}": n / 8 if n <= periods else None for n in range(1, 51)}
    fields |= {f"UT{n}": "A" if n <= periods else None for n in range(1, 51)}
    return fields | changes


def perse(*days: object) -> bytes:
    return json.dumps({"meta": {}, "data": days}).encode()


def read_perse(*days: object) -> Parsed:
    return adapters.read("meter.json", perse(*days), None)


def refused(reason: Reason, make: Callable[[], object]) -> str:
    with pytest.raises(Invalid) as caught:
        make()
    assert caught.value.reason is reason
    return caught.value.message


# The sample files


def test_the_sample_files_are_the_listed_ones() -> None:
    readme = (DATA / "README.md").read_text()
    listed = dict(re.findall(r"\| `([^`]+)` \| `([0-9a-f]{64})` \|", readme))
    there = {path.relative_to(DATA).as_posix(): path for path in (PERSE, LCL, LONG_DAY)}
    assert there.keys() <= listed.keys()
    for name, path in there.items():
        assert hashlib.sha256(path.read_bytes()).hexdigest() == listed[name], name


def expected_of_perse(path: Path) -> dict[tuple[str, datetime], tuple[int, str]]:
    """The file by another way: count half hours in UTC from each local midnight."""
    text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    london = ZoneInfo("Europe/London")
    readings = {}
    for day in json.loads(text, parse_float=Decimal)["data"]:
        midnight = datetime.fromisoformat(day["Date"]).replace(tzinfo=london).astimezone(UTC)
        for n in range(1, 51):
            if day[f"P{n}"] is not None:
                start = midnight + timedelta(minutes=30 * (n - 1))
                readings[day["MPAN"], start] = (int(day[f"P{n}"] * 1000), day[f"UT{n}"])
    return readings


def test_perse_counts() -> None:
    parsed = read(PERSE)
    assert buckets(parsed.report.rows) == {"recorded": 244}
    assert buckets(parsed.report.values) == {"recorded": 11_710}
    assert buckets(parsed.report.half_hours) == {"recorded": 11_710}
    assert parsed.report.balanced
    assert parsed.report.findings == ()
    days = parsed.meter_days
    assert days.count_by_quality() == {"A": 11_520, "E": 190}
    assert days.total_wh == 216_258_000
    assert days.quantity == "AI"
    assert set(days.mpxns.tolist()) == {b"2000027391990"}


def test_perse_is_its_file_in_utc_without_a_gap() -> None:
    readings = by_stamp(read(PERSE).meter_days)
    assert readings == expected_of_perse(PERSE)
    starts = sorted(start for _, start in readings)
    assert starts[0] == datetime(2024, 1, 1, tzinfo=UTC)
    assert starts[-1] == datetime(2024, 8, 31, 22, 30, tzinfo=UTC)
    assert {after - before for before, after in pairwise(starts)} == {timedelta(minutes=30)}


def test_perse_spring_day_is_46_half_hours() -> None:
    """The local day is 00:00Z to 23:00Z; the UTC day takes two periods from the next local day."""
    days = read(PERSE).meter_days
    source = {d["Date"]: d for d in json.loads(gzip.decompress(PERSE.read_bytes()))["data"]}
    row = days.days.tolist().index((date(2024, 3, 31) - EPOCH).days)
    spring, after = source["2024-03-31"], source["2024-04-01"]
    assert spring["P46"] is not None
    assert spring["P47"] is None
    local = [*(spring[f"P{n}"] for n in range(1, 47)), after["P1"], after["P2"]]
    assert days.values_wh[row].tolist() == [round(kwh * 1000) for kwh in local]
    assert days.present[row].all()


def test_the_autumn_day_is_50_half_hours() -> None:
    """Values tell their place: period n of day i is i + n/1000 kWh."""
    parsed = read(LONG_DAY)
    assert buckets(parsed.report.values) == {"recorded": 48 + 50 + 48}
    assert parsed.meter_days.total_wh == 149_627
    readings = by_stamp(parsed.meter_days)
    assert readings == expected_of_perse(LONG_DAY)

    def at(day: int, hour: int, minute: int = 0) -> tuple[int, str]:
        return readings[str(HOME), datetime(2024, 10, day, hour, minute, tzinfo=UTC)]

    assert at(26, 23) == (1001, "A")  # local midnight
    assert at(27, 0) == (1003, "A")  # 01:00 BST
    assert at(27, 1) == (1005, "E")  # 01:00 GMT, the hour that comes twice
    assert at(27, 1, 30) == (1006, "E")
    assert at(27, 2) == (1007, "A")
    assert at(27, 23, 30) == (1050, "A")
    assert at(28, 0) == (2001, "A")
    assert len(readings) == 146


def test_lcl_counts() -> None:
    parsed = read(LCL, HOME)
    rows = {"recorded": 12_308, "duplicate_same": 9, "off_grid": 1}
    assert parsed.report.rows.total == 12_318
    assert buckets(parsed.report.rows) == buckets(parsed.report.values) == rows
    assert parsed.report.half_hours.total == 12_310
    assert buckets(parsed.report.half_hours) == {"recorded": 12_308, "missing": 2}
    assert parsed.report.balanced
    assert parsed.report.findings_left_out == 0
    assert reasons(parsed) == {
        "duplicate_same": 9,
        "off_grid": 1,
        "missing": 2,
        "single_precision": 6,
    }
    assert parsed.meter_days.count_by_quality() == {"": 12_308}


def test_lcl_findings_name_the_known_quirks() -> None:
    findings = read(LCL, HOME).report.findings
    (off_grid,) = (f for f in findings if f.reason is Bucket.OFF_GRID)
    assert off_grid.line == 2984
    assert "2012-12-18 15:24:01" in off_grid.message
    assert "null" in off_grid.message
    missing = [f.message for f in findings if f.reason is Bucket.MISSING]
    assert missing == [
        "nothing from 2012-12-09 07:00Z to 2012-12-09 07:30Z",
        "nothing from 2013-02-19 19:30Z to 2013-02-19 20:00Z",
    ]
    doubles = [f.message for f in findings if f.reason is Bucket.DUPLICATE_SAME]
    assert all(" 00:00:00 stands here twice with the same value" in m for m in doubles)


def test_lcl_is_its_file_in_utc() -> None:
    expected = {}
    for row in csv.DictReader(io.StringIO(gzip.decompress(LCL.read_bytes()).decode())):
        if row["KWH/hh"] != "Null":
            start = datetime.fromisoformat(row["DateTime"]).replace(tzinfo=UTC)
            wh = int((Decimal(row["KWH/hh"]) * 1000).to_integral_value())
            expected[str(HOME), start] = (wh, "")
    parsed = read(LCL, HOME)
    assert by_stamp(parsed.meter_days) == expected
    assert parsed.meter_days.total_wh == sum(wh for wh, _ in expected.values()) == 2_625_029


@pytest.mark.parametrize("day", [date(2012, 10, 28), date(2013, 3, 31)])
def test_lcl_clock_change_days_have_48_readings(day: date) -> None:
    days = read(LCL, HOME).meter_days
    row = days.days.tolist().index((day - EPOCH).days)
    assert days.present[row].all()


def test_columns_have_their_types_and_order() -> None:
    days = read(PERSE).meter_days
    assert [
        days.mpxns.dtype, days.days.dtype, days.present.dtype, days.values_wh.dtype,
        days.quality.dtype,
    ] == [np.dtype("S13"), np.int32, np.bool_, np.int32, np.uint8]  # fmt: skip
    assert days.present.shape == days.values_wh.shape == days.quality.shape == (len(days), 48)
    assert (np.diff(days.days) == 1).all()
    assert not days.values_wh[~days.present].any()


# Single rows


@pytest.mark.parametrize(
    ("kwh", "wh"),
    [("0", 0), ("0.001", 1), (".5", 500), ("1.5290000", 1529), ("-0", 0), ("1e-3", 1),
     ("1000000", 1_000_000_000), (" 0.25 ", 250)],
)  # fmt: skip
def test_a_value_is_whole_wh_exactly(kwh: str, wh: int) -> None:
    parsed = read_lcl(lcl_row("2013-01-01 00:00:00", kwh))
    assert parsed.meter_days.total_wh == wh
    assert buckets(parsed.report.rows) == {"recorded": 1}


@pytest.mark.parametrize(
    ("stamp", "kwh", "bucket"),
    [
        ("2013-01-01 00:00:00", "Null", "null"),
        ("2013-01-01 00:00:00", "", "null"),
        ("2013-01-01 00:00:00", "-0.001", "negative"),
        ("2013-01-01 00:00:00", "0.0005", "wrong_decimals"),
        ("2013-01-01 00:00:00", "1e-99", "wrong_decimals"),
        ("2013-01-01 00:00:00", "1.0420002", "wrong_decimals"),
        ("2013-01-01 00:00:00", "0.00" + "1" * 40, "wrong_decimals"),
        ("2013-01-01 00:00:00", "1000000.001", "out_of_range"),
        ("2013-01-01 00:00:00", "1e99", "out_of_range"),
        ("2013-01-01 00:00:00", "NaN", "unreadable"),
        ("2013-01-01 00:00:00", "Infinity", "unreadable"),
        ("2013-01-01 00:00:00", "1_0", "unreadable"),
        ("2013-01-01 00:00:00", "१", "unreadable"),
        ("2013-01-01 00:00:00", "0\x00.1", "unreadable"),
        ("2013-01-01 00:15:00", "0.1", "off_grid"),
        ("2013-01-01 00:00:01", "0.1", "off_grid"),
        ("2013-01-01 00:00:00.0000001", "0.1", "off_grid"),
        ("2013-02-29 00:00:00", "0.1", "unreadable"),
        ("2013-01-01 24:00:00", "0.1", "unreadable"),
        ("2013-01-01T00:00:00", "0.1", "unreadable"),
        ("9999-01-01 00:00:00", "0.1", "unreadable"),
        ("", "0.1", "unreadable"),
    ],
)
def test_a_value_that_is_not_recorded(stamp: str, kwh: str, bucket: str) -> None:
    good = lcl_row("2013-01-01 00:30:00", "0.1")
    parsed = read_lcl(lcl_row(stamp, kwh), good)
    assert buckets(parsed.report.rows) == {"recorded": 1, bucket: 1}
    (finding,) = parsed.report.findings
    assert (finding.reason, finding.line) == (bucket, 2)
    assert parsed.meter_days.recorded == 1


def test_single_precision_is_recorded_and_said() -> None:
    parsed = read_lcl(lcl_row("2013-01-01 00:00:00", "1.0420001"))
    assert parsed.meter_days.total_wh == 1042
    assert reasons(parsed) == {Note.SINGLE_PRECISION: 1}


@given(st.integers(0, 99_999))
def test_single_precision_of_every_reading_is_told(wh: int) -> None:
    printed = f"{float(np.float32(wh / 1000)):.8g}"
    assert read_lcl(lcl_row("2013-01-01 00:00:00", printed)).meter_days.total_wh == wh


def test_of_two_values_the_first_stays() -> None:
    stamp, other = "2013-01-01 00:00:00", "2013-01-01 00:30:00"
    parsed = read_lcl(
        lcl_row(stamp, "0.1"), lcl_row(stamp, "0.100"), lcl_row(stamp, "0.2"),
        lcl_row(stamp, "Null"), lcl_row(other, "Null"), lcl_row(other, "0.3"),
    )  # fmt: skip
    assert buckets(parsed.report.rows) == {
        "recorded": 2, "duplicate_same": 1, "duplicate_other": 1, "null": 2,
    }  # fmt: skip
    assert buckets(parsed.report.half_hours) == {"recorded": 2}
    assert parsed.meter_days.total_wh == 400
    assert reasons(parsed)["duplicate_other"] == 1


def test_half_hours_between_two_readings_are_missing() -> None:
    parsed = read_lcl(
        lcl_row("2013-01-01 00:00:00", "0.1"),
        lcl_row("2013-01-01 01:00:00", "Null"),
        lcl_row("2013-01-02 00:00:00", "0.1"),
    )
    assert parsed.report.half_hours.total == 49
    assert buckets(parsed.report.half_hours) == {"recorded": 2, "null": 1, "missing": 46}
    assert reasons(parsed) == {"null": 1, "missing": 2}


def test_rows_of_other_shapes() -> None:
    parsed = read_lcl(
        lcl_row("2013-01-01 00:00:00", "0.1"),
        "",
        "MAC1,Std,2013-01-01 00:30:00",
        lcl_row("2013-01-01 00:30:00", "0.1", "MAC2"),
        LCL_HEADER,
    )
    assert buckets(parsed.report.rows) == {"recorded": 1, "unreadable": 1, "other_meter": 2}
    assert [f.line for f in parsed.report.findings] == [4, 5, 6]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("header", [LCL_HEADER, LCL_HEADER.replace("hh", "hh (per half hour) ")])
def test_line_ends_and_the_datastores_own_header(end: str, header: str) -> None:
    data = lcl(lcl_row("2013-01-01 00:00:00.0000000", " 0.1 "), header=header, end=end)
    parsed = adapters.read("home.csv", b"\xef\xbb\xbf" + data, HOME)
    assert parsed.meter_days.total_wh == 100


@pytest.mark.parametrize(
    ("changes", "rows", "values"),
    [
        ({}, {"recorded": 1}, {"recorded": 48}),
        ({"P3": None}, {"recorded": 1}, {"recorded": 47, "null": 1}),
        ({"P3": -1}, {"recorded": 1}, {"recorded": 47, "negative": 1}),
        ({"P3": 0.0001}, {"recorded": 1}, {"recorded": 47, "wrong_decimals": 1}),
        ({"P3": 1e12}, {"recorded": 1}, {"recorded": 47, "out_of_range": 1}),
        ({"P3": float("nan")}, {"recorded": 1}, {"recorded": 47, "unreadable": 1}),
        ({"P3": float("-inf")}, {"recorded": 1}, {"recorded": 47, "unreadable": 1}),
        ({"P3": "1"}, {"recorded": 1}, {"recorded": 47, "unreadable": 1}),
        ({"P3": True}, {"recorded": 1}, {"recorded": 47, "unreadable": 1}),
        ({"UT3": 1}, {"recorded": 1}, {"recorded": 47, "unreadable": 1}),
        ({"UT3": "A;B"}, {"recorded": 1}, {"recorded": 47, "unreadable": 1}),
        ({"UT3": None}, {"recorded": 1}, {"recorded": 48}),
        ({"P49": 1}, {"recorded": 1}, {"recorded": 48, "off_grid": 1}),
        ({f"P{n}": None for n in range(1, 49)}, {"null": 1}, {"null": 48}),
        ({"Date": "2024-10-27"}, {"recorded": 1}, {"recorded": 48, "null": 2}),
        ({"Date": "2024-03-31"}, {"recorded": 1}, {"recorded": 46, "off_grid": 2}),
        ({"Date": "01/01/2024"}, {"unreadable": 1}, {}),
        ({"Date": None}, {"unreadable": 1}, {}),
        ({"MPAN": "123"}, {"unreadable": 1}, {}),
        ({"MPAN": 1200000000011}, {"unreadable": 1}, {}),
        ({"MeasurementQuantity": "AE"}, {"other_quantity": 1}, {}),
        ({"MeasurementQuantity": None}, {"unreadable": 1}, {}),
    ],
)
def test_one_perse_day(
    changes: dict[str, Any], rows: dict[str, int], values: dict[str, int]
) -> None:
    parsed = read_perse(perse_day(**changes))
    assert buckets(parsed.report.rows) == rows
    assert buckets(parsed.report.values) == values
    assert parsed.report.balanced
    rejected = sum(values.values()) - values.get("recorded", 0)
    assert len(parsed.report.findings) == (rejected if values else 1)


def test_a_perse_day_twice() -> None:
    first, again = perse_day(), perse_day(P1=9, UT2="E")
    parsed = read_perse(first, first, again, [1], perse_day("2024-01-03"))
    assert buckets(parsed.report.rows) == {
        "recorded": 2, "duplicate_same": 1, "duplicate_other": 1, "unreadable": 1,
    }  # fmt: skip
    assert buckets(parsed.report.values) == {
        "recorded": 96, "duplicate_same": 48 + 46, "duplicate_other": 2,
    }  # fmt: skip
    assert buckets(parsed.report.half_hours) == {"recorded": 96, "missing": 48}


def test_a_field_named_twice_is_not_guessed_at() -> None:
    text = perse(perse_day()).replace(b'"P1": 0.125', b'"P1": 0.125, "P1": 0.25')
    assert buckets(adapters.read("x", text).report.rows) == {"unreadable": 1}


def test_several_meters_in_one_file() -> None:
    other = "2040015001169"
    parsed = read_perse(perse_day(MPAN=other), perse_day(), perse_day("2024-01-02"))
    assert parsed.meter_days.mpxns.tolist() == [b"1200000000011"] * 2 + [other.encode()]
    assert parsed.report.half_hours.total == 144


def test_a_wrong_check_digit_is_a_finding_and_recorded() -> None:
    parsed = read_perse(perse_day(MPAN="1234567890123"), perse_day(MPAN="1234567890123"))
    assert reasons(parsed)[Note.CHECK_DIGIT] == 1
    assert parsed.meter_days.recorded == 48
    lcl_file = lcl(lcl_row("2013-01-01 00:00:00", "0.1"))
    assert reasons(adapters.read("x", lcl_file, Mpan("1234567890123"))) == {Note.CHECK_DIGIT: 1}


def test_an_unknown_quality_code_is_a_finding_and_kept() -> None:
    parsed = read_perse(perse_day(UT1="Q7", UT2="Q7", UT3="EA13"))
    assert parsed.meter_days.count_by_quality() == {"A": 45, "EA13": 1, "Q7": 2}
    assert reasons(parsed) == {Note.QUALITY_UNKNOWN: 1}


def test_more_codes_than_a_column_holds() -> None:
    dates = [date(2024, 1, 1) + timedelta(n) for n in range(6)]
    days = [perse_day(str(day)) for day in dates]
    for i, day in enumerate(days):
        day |= {f"UT{n}": f"Z{i * 48 + n}" for n in range(1, 49)}
    parsed = read_perse(*days)
    assert buckets(parsed.report.values) == {"recorded": 255, "unreadable": 33}


def test_findings_have_a_limit_and_the_counts_do_not() -> None:
    parsed = read_lcl(*[lcl_row("2013-01-01 00:00:00", "Null")] * (report.FINDINGS_MAX + 5))
    assert len(parsed.report.findings) == report.FINDINGS_MAX
    assert parsed.report.findings_left_out == 5
    assert buckets(parsed.report.rows) == {"null": report.FINDINGS_MAX + 5}


def test_no_finding_repeats_the_metering_point() -> None:
    parsed = read_perse(perse_day(MPAN="1234567890123", P1=None), perse_day(MPAN="12345678901234"))
    assert len(parsed.report.findings) == 3
    assert not any("12345678" in finding.message for finding in parsed.report.findings)


# Whole files


@pytest.mark.parametrize("path", [PERSE, LCL, LONG_DAY])
def test_recognised_from_the_first_bytes(path: Path) -> None:
    data = path.read_bytes()
    name = "low_carbon_london" if path is LCL else "perse"
    for start in (data[: adapters.HEAD_BYTES], data):
        adapter = adapters.recognise("any.name", start)
        assert adapter is not None
        assert adapter.name == name
        assert adapter.needs_mpxn == (path is LCL)


NOT_READINGS = {
    "empty.csv": (b"", Reason.FILE_EMPTY, "empty"),
    "blank.csv": (b" \r\n\n", Reason.FILE_EMPTY, "empty"),
    "bom.csv": (b"\xef\xbb\xbf", Reason.FILE_EMPTY, "empty"),
    "page.csv": (b"\n<!DOCTYPE html><html>", Reason.FILE_UNRECOGNISED, "web page"),
    "columns.csv": (b"LCLid,DateTime,kWh\n", Reason.FILE_UNRECOGNISED, "columns"),
    "other.json": (b'{"data": []}', Reason.FILE_UNRECOGNISED, "columns"),
    "noise.bin": (bytes(range(256)), Reason.FILE_UNRECOGNISED, "columns"),
    "cut.json": (perse(perse_day())[:-3], Reason.FILE_UNREADABLE, "JSON"),
    "nodata.json": (json.dumps(perse_day()).encode(), Reason.FILE_UNREADABLE, "list of days"),
    "cut.csv.gz": (LCL.read_bytes()[:-100], Reason.FILE_UNREADABLE, "damaged"),
    "bad.csv.gz": (b"\x1f\x8bgarbage", Reason.FILE_UNREADABLE, "damaged"),
}  # fmt: skip


@pytest.mark.parametrize("name", NOT_READINGS)
def test_what_is_not_readings_is_refused_with_a_sentence(name: str) -> None:
    data, reason, words = NOT_READINGS[name]
    given = HOME if name == "cut.csv.gz" else None
    assert words in refused(reason, lambda: adapters.read(name, data, given))


@pytest.mark.parametrize(
    "rest",
    [b"", b"]", b"]}x", b"]}\xe9", b',{"P1":', b",]}", b'],"data":[]}', b"," + b"[" * 99_999],
)
def test_a_document_that_breaks_off_keeps_what_stood_before(rest: bytes) -> None:
    whole = perse(perse_day(), perse_day("2024-01-02"))
    parsed = adapters.read("x", whole[:-2] + rest)
    assert_even(parsed, 3)
    assert buckets(parsed.report.rows) == {"recorded": 2, "unreadable": 1}
    (finding,) = parsed.report.findings
    assert finding.line == 3 and "not whole JSON" in finding.message


def test_a_document_in_any_pieces_is_the_same_document() -> None:
    whole = perse(perse_day(), perse_day("2024-01-02", P1=1.25), 12, None).decode()
    wanted = [*documents.walk(lambda: iter([whole]), {(), ("data",)})]
    for size in (1, 2, 7, 1000):
        pieces = [whole[at : at + size] for at in range(0, len(whole), size)]
        assert [*documents.walk(lambda pieces=pieces: iter(pieces), {(), ("data",)})] == wanted  # type: ignore[misc]


def test_gzip_in_pieces_members_and_padding() -> None:
    packed = gzip.compress(b"a" * 200_000) + gzip.compress(b"b") + bytes(5)
    for size in (1, 1000, len(packed)):
        pieces = (packed[at : at + size] for at in range(0, len(packed), size))
        assert b"".join(adapters.unpacked("x", pieces)) == b"a" * 200_000 + b"b"
    refused(Reason.FILE_UNREADABLE, lambda: [*adapters.unpacked("x", iter([packed + b"x"]))])


def test_the_metering_point_is_asked_for_where_the_file_has_none() -> None:
    data = lcl(lcl_row("2013-01-01 00:00:00", "0.1"))
    assert "MPAN" in refused(Reason.MPXN_REQUIRED, lambda: adapters.read("x", data))
    refused(Reason.MPAN_FORMAT, lambda: adapters.read("x", data, Mprn("3938424403")))
    refused(Reason.FIELD_INVALID, lambda: adapters.read("x", perse(perse_day()), HOME))


# Balances, whatever the file

cells = st.sampled_from(
    ["0.1", "0.2", "Null", "", "-1", "0.0001", "1e9", "x", "a,b", "\x00", '"',
     "2013-01-01 00:00:00", "2013-01-01 00:30:00", "2013-01-01 00:31:00", "2013-01-05 00:00:00",
     "MAC1", "MAC2", "\ufffd"]
)  # fmt: skip
lcl_rows = st.tuples(cells, cells, cells, cells) | st.tuples(
    st.just("MAC1"),
    st.just("Std"),
    st.integers(0, 99).map(lambda n: str(datetime(2013, 1, 1, tzinfo=UTC) + n * timedelta(0, 900))),
    cells,
).map(lambda row: (row[0], row[1], row[2].removesuffix("+00:00"), row[3]))


def assert_even(parsed: Parsed, rows: int) -> None:
    """The balances, taken again from outside."""
    report_, days = parsed.report, parsed.meter_days
    assert report_.balanced
    assert report_.rows.total == sum(report_.rows.by_bucket.values()) == rows
    assert report_.values.total == sum(report_.values.by_bucket.values())
    assert report_.half_hours.total == sum(report_.half_hours.by_bucket.values())
    recorded = report_.values.by_bucket[Bucket.RECORDED]
    assert recorded == report_.half_hours.by_bucket[Bucket.RECORDED] == days.present.sum()
    assert days.present.any(axis=1).all()
    assert len({*zip(days.mpxns.tolist(), days.days.tolist(), strict=True)}) == len(days)


@given(st.lists(lcl_rows, min_size=1, max_size=60))
def test_lcl_balances_whatever_its_rows(rows: list[tuple[str, ...]]) -> None:
    lines = [",".join((*row, "ACORN-A", "Affluent")) for row in rows]
    assert_even(read_lcl(*lines), len(lines))


@settings(max_examples=40)
@given(st.data())
def test_lcl_balances_whatever_its_bytes(data: st.DataObject) -> None:
    body = bytearray(b"\n".join(gzip.decompress(LCL.read_bytes()).splitlines()[:80]))
    first = body.index(b"\n") + 1
    for _ in range(data.draw(st.integers(1, 20))):
        body[data.draw(st.integers(first, len(body) - 1))] = data.draw(st.integers(0, 255))
    lines = bytes(body).replace(b"\r", b"\n").decode("utf-8-sig", "replace").split("\n")[1:]
    parsed = adapters.read("x", bytes(body), HOME)
    assert_even(parsed, sum(bool(line.strip()) for line in lines))


perse_values: st.SearchStrategy[Any] = st.sampled_from(
    [None, 0, 1, 0.125, 0.0001, -1, 1e99, "x", True, [], {}, float("nan"), float("inf"), "A", "E"]
)
perse_fields = st.sampled_from(
    ["Date", "MPAN", "MeasurementQuantity", *(f"{k}{n}" for k in ("P", "UT") for n in (1, 48, 50))]
)
perse_days = st.builds(
    lambda day, changes: perse_day(day, **changes),
    st.sampled_from(["2024-01-01", "2024-01-02", "2024-03-31", "2024-10-27"]),
    st.dictionaries(perse_fields, perse_values, max_size=5),
)


@settings(max_examples=50)
@given(st.lists(perse_days | st.sampled_from([None, 1, "x", []]), max_size=6))
def test_perse_balances_whatever_its_days(days: list[object]) -> None:
    head = perse_day("2024-02-01")  # so that the file is recognised
    assert_even(read_perse(head, *days), 1 + len(days))


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    with pytest.raises(Invalid):
        adapters.read("x", data, HOME)
