"""Workbooks, the list of sample files, and files that are readings of nothing."""

from __future__ import annotations

import hashlib
import io
import re
import zipfile
from datetime import date, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openpyxl import Workbook

from domains.metering import adapters
from domains.metering.adapters import Parsed
from domains.metering.adapters.stamps import stamp_of
from domains.metering.adapters.tables import LINE_CHARS_MAX, rows_of
from domains.metering.adapters.wrappings import decoded
from spine import workbook
from spine.errors import Invalid, Reason
from spine.gb import Mpxn
from spine.workbook import csv_of
from tests.domains.metering.test_family_shared import DATA, HOME, buckets, by_stamp, refused


def as_text(name: str, data: bytes) -> bytes:
    if not data.startswith(workbook.MAGIC):
        return data
    return b"".join(csv_of(name, io.BytesIO(data)))


def read_book(name: str, data: bytes, mpxn: Mpxn | None = None) -> Parsed:
    """As `spine ingest readings` reads a file."""
    return adapters.read(name, as_text(name, data), mpxn)


HEADER = ["MPR", "ReadDatetime", "kWh", "ReadType"]


def book(*rows: list[Any]) -> bytes:
    made = Workbook()
    sheet = made.active
    assert sheet is not None
    for row in rows:
        sheet.append(row)
    out = io.BytesIO()
    made.save(out)
    return out.getvalue()


def test_every_sample_file_is_listed_and_the_one_listed() -> None:
    readme = (DATA / "README.md").read_text()
    listed = dict(re.findall(r"\| `([^`]+)` \| `([0-9a-f]{64})` \|", readme))
    licensed = set(re.findall(r"^\| `([^`]+)` \| \d+ \| \d+ \| ", readme, re.M))
    there = {
        path.relative_to(DATA).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for family in ("amr", "ausgrid", "lv-feeder", "n3rgy", "perseus", "sgsc")
        for path in (DATA / family).rglob("*")
        if path.is_file()
    }
    assert there.items() <= listed.items()
    assert there.keys() <= licensed


def test_cells_of_a_workbook() -> None:
    data = book(
        ["a", 1.0, 0.1, 2200012767323.0, None],
        [],
        [datetime(2019, 11, 13), date(2019, 11, 14), True, 0.25, "two\nlines"],  # noqa: DTZ001
    )
    assert as_text("x", data).decode().splitlines() == [
        "a,1,0.1,2200012767323",
        "",
        "2019-11-13 00:00:00,2019-11-14 00:00:00,True,0.25,two lines",
    ]


def test_numbers_kept_as_numbers() -> None:
    stamp = datetime(2019, 8, 26, 0, 30)  # noqa: DTZ001
    parsed = read_book("x.xlsx", book(HEADER, [float(HOME), stamp, 0.1, "Actual"]))
    assert parsed.meter_days.total_wh == 100
    parsed = read_book("x.xlsx", book(HEADER, [1.23405e12, stamp, 0.1, "Actual"]))
    assert buckets(parsed.report.rows) == {"recorded": 1}  # 1234050000000: a check digit's matter


def test_a_workbook_says_the_same_as_its_csv() -> None:
    path = DATA / "amr/amr_upload_data_files/banes-example-file.csv"
    made = path.with_suffix(".xlsx")
    text, sheet = read_book(path.name, path.read_bytes()), read_book(made.name, made.read_bytes())
    assert by_stamp(sheet.meter_days) == by_stamp(text.meter_days)
    assert sheet.report == text.report


def test_lines_of_a_workbook_are_its_rows() -> None:
    parsed = read_book("x.xlsx", book(HEADER, [], [str(HOME), "soon", 0.1, "Actual"]))
    (finding,) = parsed.report.findings
    assert finding.line == 3


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("empty.xlsx", book(), Reason.FILE_EMPTY),
        ("header.xlsx", book(HEADER), Reason.FILE_EMPTY),
        ("other.xlsx", book(["a", "b"], [1, 2]), Reason.FILE_UNRECOGNISED),
        ("cut.xlsx", book(HEADER)[:-50], Reason.FILE_UNREADABLE),
        ("magic.xlsx", b"PK\x03\x04", Reason.FILE_UNREADABLE),
        ("sep.csv", b"sep=;\n\n", Reason.FILE_EMPTY),
        ("sep16.csv", "sep=,\r\n".encode("utf-16"), Reason.FILE_EMPTY),
        ("columns.csv", b"MPR,ReadDatetime,kWh\n", Reason.FILE_UNRECOGNISED),
        ("page16.csv", "<html>".encode("utf-16"), Reason.FILE_UNRECOGNISED),
    ],
)
def test_what_is_not_readings(name: str, data: bytes, reason: Reason) -> None:
    assert refused(reason, lambda: read_book(name, data)).count(". ") == 0


def test_a_zip_that_is_no_workbook() -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("readings.csv", "MPR\n")
    refused(Reason.FILE_UNREADABLE, lambda: read_book("x.zip", out.getvalue()))


def test_a_workbook_with_too_much_text(monkeypatch: pytest.MonkeyPatch) -> None:
    data = book(HEADER, *[[f"{n:0100}"] * 4 for n in range(100)])
    assert len(as_text("x", data).splitlines()) == 101

    monkeypatch.setattr(workbook, "TEXTS_BYTES_MAX", 10_000)
    refused(Reason.REQUEST_TOO_LARGE, lambda: as_text("x", data))


def test_a_sheet_of_any_length_comes_in_pieces() -> None:
    far = Workbook()
    assert far.active is not None
    far.active.cell(70_000, 1, "x")
    out = io.BytesIO()
    far.save(out)
    pieces = [*csv_of("x", out)]
    assert len(pieces) > 1 and max(map(len, pieces)) < 70_000
    assert len(b"".join(pieces).splitlines()) == 70_000


def text_of(data: bytes, size: int) -> str:
    return "".join(decoded(data[at : at + size] for at in range(0, len(data), size)))


@pytest.mark.parametrize("size", [1, 3, 10_000])
def test_wrappings_come_off_in_any_pieces(size: int) -> None:
    text = "MPR,ReadDatetime\r\n1200000000011,\u00e9\n" * 400
    mangled = "\ufffd\ufffd".encode() + text.encode().replace(b"", b"\0")
    for data in (text.encode(), text.encode("utf-8-sig"), text.encode("utf-16"), mangled):
        assert text_of(data, size) == text
    assert text_of(b"a,\x00b,c,d", size) == "a,\x00b,c,d"  # a single NUL is no mangled text


def test_lines_keep_their_numbers() -> None:
    text = 'sep=;\r\n\r\na;b\r\n;\n\rc;"d;e"\n'
    for size in (1, 2, len(text)):
        pieces = (text[at : at + size] for at in range(0, len(text), size))
        assert list(rows_of(pieces)) == [(3, ["a", "b"]), (6, ["c", "d;e"])]


def test_a_line_without_end_costs_its_own_row_only() -> None:
    long = "1," * LINE_CHARS_MAX
    pieces = ["a,b\n1,", long, long, "\r", "\n2,3\n", long]
    assert list(rows_of(pieces)) == [(1, ["a", "b"]), (2, ["\0"]), (3, ["2", "3"]), (4, ["\0"])]


@pytest.mark.parametrize(
    ("text", "stamp"),
    [
        ("12/11/18", "2018-11-12 00:00:00"),
        ("1/2/2019 3:04", "2019-02-01 03:04:00"),
        ("03 Dec 2019 23:59:59", "2019-12-03 23:59:59"),
        ("3 September 2019", "2019-09-03 00:00:00"),
        ("Nov 13 2019 12:00AM", "2019-11-13 00:00:00"),
        ("Nov  3 2019 12:30PM", "2019-11-03 12:30:00"),
        ("Nov 13 2019 1:30 pm", "2019-11-13 13:30:00"),
        ("2019-11-13T24:00", "2019-11-14 00:00:00"),
    ],
)
def test_stamps(text: str, stamp: str) -> None:
    assert str(stamp_of(text)) == f"{stamp}+00:00"


@pytest.mark.parametrize(
    "text",
    ["", "13", "31/02/2019", "12/13/2019", "00/01/2019", "1 Foo 2019", "2019-1-1", "2019/01/01",
     "2019-01-01 24:01", "2019-01-01 0:60", "1/1/2019 0:00AM", "1/1/2019 13:00PM", "1/1/1900",
     "1/1/9999", "१/1/2019", "2019-01-01 00:00Z"],
)  # fmt: skip
def test_no_stamps(text: str) -> None:
    assert stamp_of(text) is None


@given(st.text(max_size=30))
def test_any_text_is_a_stamp_or_none(text: str) -> None:
    stamp_of(text)


@given(st.binary(max_size=300), st.sampled_from([b"", b"PK\x03\x04", b"\xff\xfe", b"sep=,\n"]))
def test_any_bytes_are_refused_with_a_reason(data: bytes, start: bytes) -> None:
    with pytest.raises(Invalid):
        read_book("x", start + data, HOME)
