"""AMR exports: a row a day, a row a reading, two councils; good files and broken ones."""

from __future__ import annotations

import csv
import io
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domains.metering import adapters
from domains.metering.adapters import Parsed
from domains.metering.adapters.day_rows import ENDS, STARTS
from spine.errors import Reason
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

DAY, READING, UPLOAD = (
    "amr/amr_data/row-per-day",
    "amr/amr_data/row-per-reading",
    "amr/amr_upload_data_files",
)
BATH, SHEFFIELD = f"{UPLOAD}/banes-example-file.csv", f"{UPLOAD}/example-sheffield-file.csv"
HIGHLANDS = "amr/amr_highlands/example.csv"
OTHER = "2200012767323"

# File, family, rows by bucket, half hours by bucket, Wh.
GOOD = [
    (f"{DAY}/valid.csv", "amr_row_per_day", {"recorded": 1},
     {"recorded": 10, "wrong_decimals": 38}, 9_900),
    (f"{DAY}/valid-no-header.csv", "amr_row_per_day", {"recorded": 1},
     {"recorded": 10, "wrong_decimals": 38}, 9_900),
    (f"{DAY}/duplicate-rows.csv", "amr_row_per_day", {"recorded": 1, "duplicate_other": 1},
     {"recorded": 48}, 0),
    (f"{DAY}/incomplete-row.csv", "amr_row_per_day", {"unreadable": 1}, {}, 0),
    (f"{DAY}/some-missing-readings.csv", "amr_row_per_day", {"recorded": 3},
     {"recorded": 25, "wrong_decimals": 99, "null": 20, "missing": 365 * 48}, 29_700),
    (f"{READING}/valid.csv", "amr_row_per_reading", {"recorded": 48}, {"recorded": 48}, 1_272_100),
    (f"{READING}/some-missing-readings.csv", "amr_row_per_reading", {"recorded": 94},
     {"recorded": 94}, 448_200),
    (HIGHLANDS, "amr_row_per_reading", {"recorded": 480}, {"recorded": 480}, 4_468_500),
    (f"{UPLOAD}/example-highlands-file.csv", "amr_row_per_reading", {"recorded": 48},
     {"recorded": 48}, 321_400),
    (f"{UPLOAD}/with-nulls-and-empty-lines.csv", "amr_row_per_reading", {"recorded": 15},
     {"recorded": 15}, 79_100),
    (f"{UPLOAD}/with-nulls-empty-lines-invalid-chars.csv", "amr_row_per_reading", {"recorded": 6},
     {"recorded": 6}, 22_000),
    (BATH, "bath_council", {"recorded": 5}, {"recorded": 240}, 1_114_429),
    (f"{UPLOAD}/banes-bad-example-missing-data-file.csv", "bath_council", {"recorded": 2},
     {"recorded": 95, "null": 1}, 450_138),
    (f"{UPLOAD}/banes-bad-example-missing-and-invalid-mpan-file.csv", "bath_council",
     {"unreadable": 3}, {}, 0),
    (SHEFFIELD, "sheffield_council", {"recorded": 2},
     {"recorded": 86, "wrong_decimals": 10}, 887_610),
    (f"{UPLOAD}/example-bad-sheffield-proper-file.csv", "sheffield_council", {"recorded": 88},
     {"recorded": 4_224}, 8_284_252),
]  # fmt: skip

EMPTY = [f"{DAY}/empty.csv", f"{DAY}/empty-msft.csv", f"{DAY}/empty-with-header.csv",
         f"{READING}/empty.csv", f"{READING}/empty-msft.csv", f"{READING}/empty-with-header.csv",
         "amr/amr_highlands/empty.csv"]  # fmt: skip


def read_for(path: str) -> Parsed:
    """The file, with a metering point if its family needs one."""
    return read(path, HOME if family(path) == "amr_row_per_day" else None)


# The sample files


@pytest.mark.parametrize(("path", "name", "rows", "half_hours", "wh"), GOOD)
def test_counts(
    path: str, name: str, rows: dict[str, int], half_hours: dict[str, int], wh: int
) -> None:
    parsed = read_for(path)
    assert family(path) == name
    assert buckets(parsed.report.rows) == rows
    assert buckets(parsed.report.half_hours) == half_hours
    assert parsed.meter_days.total_wh == wh
    assert_even(parsed, sum(rows.values()))


@pytest.mark.parametrize("path", EMPTY)
def test_a_file_without_readings_is_refused(path: str) -> None:
    refused(Reason.FILE_EMPTY, lambda: read(path, HOME))


def test_every_amr_sample_is_tried() -> None:
    there = {p.relative_to(DATA).as_posix() for p in (DATA / "amr").rglob("*") if p.is_file()}
    others = {BATH.replace(".csv", ".xlsx"), f"{UPLOAD}/energy_assets_invalid.csv"}
    assert there == {row[0] for row in GOOD} | {*EMPTY} | others


def test_a_web_page_named_csv_is_refused() -> None:
    said = refused(
        Reason.FILE_UNRECOGNISED, lambda: read(f"{UPLOAD}/energy_assets_invalid.csv", HOME)
    )
    assert "web page" in said


def test_the_rows_that_cannot_be_read_and_why() -> None:
    assert unreadable(read(f"{UPLOAD}/banes-bad-example-missing-and-invalid-mpan-file.csv")) == [
        (2, "an MPAN is exactly 13 digits"),
        (3, "the row names no MPAN"),
        (4, "a spreadsheet has cut the MPAN down to a rounded number"),
    ]
    assert unreadable(read(f"{DAY}/incomplete-row.csv", HOME)) == [
        (2, "the row has 3 cells, the header 51")
    ]


def test_a_day_that_stands_there_twice() -> None:
    parsed = read(f"{DAY}/duplicate-rows.csv", HOME)
    assert buckets(parsed.report.values) == {
        "recorded": 48, "duplicate_same": 9, "duplicate_other": 1, "wrong_decimals": 38,
    }  # fmt: skip


def test_qualities_of_a_row_per_reading() -> None:
    days = read(f"{READING}/some-missing-readings.csv").meter_days
    assert days.count_by_quality() == {"A": 57, "E": 37}
    assert read(HIGHLANDS).meter_days.count_by_quality() == {"A": 432, "E": 48}
    assert len(set(read(HIGHLANDS).meter_days.mpxns.tolist())) == 10


def test_a_row_per_reading_is_stamped_at_its_end() -> None:
    expected = {}
    lines = (DATA / HIGHLANDS).read_text().splitlines()[1:]
    for row in csv.DictReader(lines):
        end = datetime.strptime(row["ReadDatetime"], "%d %b %Y %H:%M:%S").replace(tzinfo=UTC)
        wh = int(Decimal(row["kWh"]) * 1000)
        expected[row["MPR"], end - timedelta(minutes=30)] = (wh, row["ReadType"][0])
    parsed = read(HIGHLANDS)
    assert by_stamp(parsed.meter_days) == expected
    assert span(read(f"{READING}/valid.csv")) == ("2019-08-26 00:00Z", "2019-08-26 23:30Z")


def test_bath_is_its_file() -> None:
    expected = {}
    for row in csv.DictReader(io.StringIO((DATA / BATH).read_text())):
        for n, end in enumerate(ENDS):
            start = datetime(2019, 11, 13, tzinfo=UTC) + timedelta(minutes=30 * n)
            expected[row["M1_Code1"], start] = (int(Decimal(row[f"[{end}]"]) * 1000), "")
    assert by_stamp(read(BATH).meter_days) == expected


def test_sheffield_is_its_file_and_every_day_has_48() -> None:
    path = f"{UPLOAD}/example-bad-sheffield-proper-file.csv"
    expected = {}
    for row in csv.DictReader(io.StringIO((DATA / path).read_text())):
        day = datetime.strptime(row["ConsumptionDate"], "%d/%m/%Y").replace(tzinfo=UTC)
        for n in range(48):
            start = day + timedelta(minutes=30 * n)
            expected[row["MPAN"], start] = (int(Decimal(row[f"kWh_{n + 1}"]) * 1000), "")
    parsed = read(path)
    assert by_stamp(parsed.meter_days) == expected
    assert parsed.meter_days.present.all()
    assert span(parsed) == ("2019-08-05 00:00Z", "2019-10-31 23:30Z")


# Single rows

DAY_HEADER = ",".join(("Site Id", "Meter Number", "Reading Date", *STARTS))


def day_row(date: str, *kwhs: str, meter: str = "K1") -> str:
    return ",".join(("1", meter, date, *kwhs, *["0.5"] * (48 - len(kwhs))))


def read_days(*rows: str, header: str = DAY_HEADER) -> Parsed:
    return adapters.read("x.csv", "\n".join((header, *rows)).encode(), HOME)


def read_readings(*rows: str, first: str = "sep=,\n") -> Parsed:
    lines = (f"{first}MPR,ReadDatetime,kWh,ReadType", *rows)
    return adapters.read("x.csv", "\n".join(lines).encode())


@pytest.mark.parametrize(
    "date",
    ["12/11/18", "12/11/2018", "12 Nov 2018 00:00:00", "Nov 12 2018 12:00AM", "2018-11-12"],
)
def test_the_five_date_styles(date: str) -> None:
    parsed = read_days(day_row(date))
    assert span(parsed) == ("2018-11-12 00:00Z", "2018-11-12 23:30Z")


@pytest.mark.parametrize(
    ("row", "rows", "values"),
    [
        (day_row("12/11/18"), {"recorded": 1}, {"recorded": 48}),
        (day_row("12/11/18", "", "Null"), {"recorded": 1}, {"recorded": 46, "null": 2}),
        (day_row("12/11/18", "-1", "x"), {"recorded": 1},
         {"recorded": 46, "negative": 1, "unreadable": 1}),
        (day_row("12/11/18", "0.0005"), {"recorded": 1}, {"recorded": 47, "wrong_decimals": 1}),
        (day_row("12/11/18", *[""] * 48), {"null": 1}, {"null": 48}),
        (day_row("31/02/18"), {"unreadable": 1}, {}),
        (day_row("12/11/18 00:30"), {"unreadable": 1}, {}),
        (day_row("11/13/18"), {"unreadable": 1}, {}),
        (day_row(""), {"unreadable": 1}, {}),
        (day_row("12/11/18") + ",1", {"unreadable": 1}, {}),
        ("", {}, {}),
        ("," * 50, {}, {}),
    ],
)  # fmt: skip
def test_one_day(row: str, rows: dict[str, int], values: dict[str, int]) -> None:
    parsed = read_days(row, day_row("14/11/18"))
    expected = {**rows, "recorded": rows.get("recorded", 0) + 1}
    assert buckets(parsed.report.rows) == expected
    expected = {**values, "recorded": values.get("recorded", 0) + 48}
    assert buckets(parsed.report.values) == expected


def test_rows_of_another_meter_are_not_recorded() -> None:
    parsed = read_days(day_row("12/11/18"), day_row("13/11/18", meter="K2"))
    assert buckets(parsed.report.rows) == {"recorded": 1, "other_meter": 1}


@pytest.mark.parametrize(
    ("row", "bucket"),
    [
        (f"{HOME},26 Aug 2019 01:00:00,0.1,Actual", "recorded"),
        (f"{HOME},27/08/2019 00:00,0.1,estimated", "recorded"),
        (f"{HOME},26 Aug 2019 24:00,0.1,", "recorded"),
        (f"{HOME},26 Aug 2019 00:30:00,0.1,Actual", "duplicate_same"),
        (f"{HOME},26 Aug 2019 00:30:00,0.1,Estimated", "duplicate_other"),
        (f"{HOME},26 Aug 2019 00:45:00,0.1,Actual", "off_grid"),
        (f"{HOME},26 Aug 2019 01:00:00,,Actual", "null"),
        (f"{HOME},26 Aug 2019 01:00:00,-1,Actual", "negative"),
        (f"{HOME},26 Aug 2019 01:00:00,1e99,Actual", "out_of_range"),
        (f"{HOME},26 Aug 2019 01:00:00,0.1,Provisional", "unreadable"),
        (f"{HOME},26 Aux 2019 01:00:00,0.1,Actual", "unreadable"),
        (f"{HOME},26 Aug 2019 25:00:00,0.1,Actual", "unreadable"),
        (f"{HOME},26 Aug 2019 13:00PM,0.1,Actual", "unreadable"),
        ("123456789,26 Aug 2019 01:00:00,0.1,Actual", "unreadable"),
        (f"{HOME},26 Aug 2019 01:00:00,0.1", "unreadable"),
        (f"{HOME},26 Aug 2019 01:00:00,0.1\x00,Actual", "unreadable"),
    ],
)
def test_one_reading(row: str, bucket: str) -> None:
    parsed = read_readings(f"{HOME},26 Aug 2019 00:30:00,0.1,Actual", row)
    counts = {"recorded": 2} if bucket == "recorded" else {"recorded": 1, bucket: 1}
    assert buckets(parsed.report.rows) == counts
    assert all(line == 4 for line, _ in unreadable(parsed))


def bath(**changes: str) -> bytes:
    row = {"Date": "Nov 13 2019 12:00AM", "Type": "Electricity", "Units": "kWh"}
    row |= {f"[{end}]": "0.5" for end in ENDS} | {"M1_Code1": OTHER} | changes
    return "\n".join((",".join(row), ",".join(row.values()))).encode()


@pytest.mark.parametrize(
    ("changes", "bucket"),
    [
        ({"Type": "Gas"}, "other_quantity"),
        ({"Units": "m3"}, "other_quantity"),
        ({"Date": "yesterday"}, "unreadable"),
        ({"M1_Code1": ""}, "unreadable"),
        ({}, "recorded"),
    ],
)
def test_one_row_of_bath(changes: dict[str, str], bucket: str) -> None:
    assert buckets(adapters.read("x", bath(**changes)).report.rows) == {bucket: 1}


def test_reactive_energy_is_counted_and_not_recorded() -> None:
    names = ["MPAN", "ConsumptionDate", *(f"kWh_{n}" for n in range(1, 49)), "kVArh_1", "kVArh_2"]
    good = [OTHER, "13/11/2019", *["0.5"] * 48, "0.1", ""]
    bad = [OTHER, "", *["0.5"] * 48, "0.1", "0.1"]
    parsed = adapters.read("x", "\n".join(map(",".join, (names, good, bad))).encode())
    assert buckets(parsed.report.rows) == {"recorded": 1, "unreadable": 1}
    assert buckets(parsed.report.values) == {"recorded": 48, "other_quantity": 1}
    assert reasons(parsed) == {"set_aside": 1, "unreadable": 1}


@pytest.mark.parametrize("path", [HIGHLANDS, BATH, SHEFFIELD])
def test_a_file_that_names_its_mpans_takes_no_other(path: str) -> None:
    refused(Reason.FIELD_INVALID, lambda: read(path, HOME))


def test_a_meter_without_an_mpan_needs_one() -> None:
    refused(Reason.MPXN_REQUIRED, lambda: read(f"{DAY}/valid.csv"))


@pytest.mark.parametrize("path", [row[0] for row in GOOD])
def test_no_finding_repeats_a_metering_point(path: str) -> None:
    parsed = read_for(path)
    meters = {mpxn.decode() for mpxn in parsed.meter_days.mpxns.tolist()}
    assert not any(meter in f.message for meter in meters for f in parsed.report.findings)


# Wrappings

PLAIN = f"sep=,\nMPR,ReadDatetime,kWh,ReadType\n{HOME},26 Aug 2019 00:30:00,0.1,Actual\n"


@pytest.mark.parametrize(
    "data",
    [
        PLAIN.encode("utf-8-sig"),
        PLAIN.encode("utf-16"),
        b"\xfe\xff" + PLAIN.encode("utf-16-be"),
        PLAIN.encode("utf-16-le"),
        "\ufffd\ufffd".encode() + PLAIN.encode("utf-16-le"),
        PLAIN.replace("\n", "\r\n").encode(),
        PLAIN.replace("\n", "\r").encode(),
        PLAIN.replace("\n", "\r\n", 1).replace("Type\n", "Type\r", 1).encode(),
        PLAIN.replace("sep=,\n", "").encode(),
        PLAIN.replace(",", ";").encode(),
        PLAIN.replace(",", "\t").encode(),
        PLAIN.replace("0.1", '"0.1"').encode(),
    ],
)
def test_one_reading_in_many_wrappings(data: bytes) -> None:
    assert by_stamp(adapters.read("x.csv", data).meter_days) == {
        (str(HOME), datetime(2019, 8, 26, tzinfo=UTC)): (100, "A")
    }


def test_columns_in_another_order_and_twice() -> None:
    swapped = f"kWh,MPR,Note,ReadType,ReadDatetime\n0.1,{HOME},,Actual,26 Aug 2019 00:30\n"
    assert adapters.read("x", swapped.encode()).meter_days.total_wh == 100
    twice = PLAIN.replace("ReadType", "ReadType,kWh").encode()
    refused(Reason.FILE_UNRECOGNISED, lambda: adapters.read("x", twice))


# Balances, whatever the file

cells = st.sampled_from(
    ["0.1", "", "Null", "-1", "0.0001", "1e9", "x", "\x00", '"', str(HOME), "Actual", "Estimated",
     "26 Aug 2019 00:30:00", "26/08/2019 01:00", "26 Aug 2019 00:31:00", "12/11/18", "\ufffd"]
)  # fmt: skip


@settings(max_examples=60)
@given(st.lists(st.lists(cells, min_size=3, max_size=5), max_size=20))
def test_a_row_per_reading_balances_whatever_its_rows(rows: list[list[str]]) -> None:
    lines = [",".join(row) for row in rows]
    good = f"{HOME},26 Aug 2019 00:30:00,0.1,Actual"
    filled = sum(bool("".join(row).replace('"', "").strip()) or '"' in line
                 for row, line in zip(rows, lines, strict=True))  # fmt: skip
    parsed = read_readings(good, *lines)
    assert_even(parsed, parsed.report.rows.total)
    assert abs(parsed.report.rows.total - 1 - filled) <= sum('"' in line for line in lines)


@settings(max_examples=40)
@given(st.lists(st.tuples(cells, st.lists(cells, min_size=1, max_size=3)), max_size=8))
def test_a_row_per_day_balances_whatever_its_rows(rows: list[tuple[str, list[str]]]) -> None:
    lines = [day_row(date, *kwhs) for date, kwhs in rows if '"' not in date + "".join(kwhs)]
    assert_even(read_days(day_row("01/01/18"), *lines), 1 + len(lines))
