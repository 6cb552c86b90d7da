"""Reading a file and reporting on it, without a server."""

import gzip
import io
import json
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from domains.metering import adapters
from domains.metering.adapters import Bucket
from spine.console import ingesting
from spine.errors import Bug, Invalid, Reason
from spine.ingest import CHUNK_ROWS, Balance, IngestReport, chunks, ingest_file
from tests.helpers.command_line import run

DATA = Path(__file__).parent.parent / "data"
PERSE = DATA / "perse" / "perse_meter_history_2024-01-01_2024-08-31.json.gz"
LCL = DATA / "lcl" / "lcl_MAC003718_2012-10-17_2013-06-30.csv.gz"
LONG_DAY = DATA / "synthetic" / "perse_50_periods.json"
MPAN = "1200000000011"


async def dry(path: Path, mpxn: str | None = None) -> IngestReport:
    return await ingest_file(path, "", Path(), mpxn=mpxn, dry_run=True)


async def test_a_dry_run_of_perse_counts_everything():
    report = await dry(PERSE)

    assert report.rows.as_dict() == {"total": 244, "taken": 244}
    assert report.half_hours.as_dict() == {"total": 11_710, "to_send": 11_710}
    assert report.by_quality == {"A": 11_520, "E": 190}
    assert str(report.total_kwh) == "216258.000"
    assert report.dry_run and not report.positions


async def test_a_dry_run_of_low_carbon_london_counts_everything():
    report = await dry(LCL, MPAN)

    assert report.rows.as_dict() == {
        "total": 12_318,
        "taken": 12_308,
        "duplicate_same": 9,
        "off_grid": 1,
    }
    assert report.half_hours.as_dict() == {"total": 12_310, "to_send": 12_308, "missing": 2}
    assert report.by_quality == {"": 12_308}


async def test_the_day_of_fifty_periods_loses_none():
    report = await dry(LONG_DAY)

    assert report.rows.as_dict() == {"total": 3, "taken": 3}
    assert report.half_hours.as_dict() == {"total": 146, "to_send": 146}
    assert report.by_quality == {"A": 144, "E": 2}
    assert report.total_wh == 149_627
    # From 2024-10-25T23:00Z to 2024-10-29T00:00Z.
    assert report.meter_days.as_dict() == {"total": 4, "to_send": 4}


async def test_the_same_content_has_one_reference_packed_or_not(tmp_path: Path):
    unpacked = tmp_path / "perse.json"
    unpacked.write_bytes(gzip.decompress(PERSE.read_bytes()))

    packed, plain = await dry(PERSE), await dry(unpacked)

    assert packed.source_digest == plain.source_digest == sha256(unpacked.read_bytes()).digest()
    assert packed.sender_reference == plain.sender_reference == packed.source_digest.hex()[:32]


async def test_a_workbook_is_known_by_its_own_bytes():
    path = DATA / "amr" / "amr_upload_data_files" / "banes-example-file.xlsx"

    report, text = await dry(path), await dry(path.with_suffix(".csv"))

    assert report.rows.as_dict() == text.rows.as_dict() == {"total": 5, "taken": 5}
    assert report.half_hours.as_dict() == {"total": 240, "to_send": 240}
    assert report.total_wh == text.total_wh == 1_114_429
    assert report.source_digest == sha256(path.read_bytes()).digest() != text.source_digest


async def test_nothing_usable_is_a_balanced_report_of_nothing_sent(tmp_path: Path):
    file = tmp_path / "nulls.csv"
    file.write_text("LCLid,stdorToU,DateTime,KWH/hh\nM1,Std,2013-01-01 00:00:00,Null\n")

    report = await dry(file, MPAN)

    assert report.rows.as_dict() == {"total": 1, "null": 1}
    assert report.half_hours.as_dict() == {"total": 1, "null": 1}
    assert report.meter_days.as_dict() == {"total": 0}
    assert report.lines()[3].endswith(" 0 = 0")


async def test_every_kind_of_value_has_its_bucket(tmp_path: Path):
    lines = ["LCLid,stdorToU,DateTime,KWH/hh"]
    lines += [
        f"M1,Std,2013-01-01 {stamp},{kwh}"
        for stamp, kwh in (
            ("00:00:00", "0.1"),
            ("00:00:00", "0.1"),
            ("00:00:00", "0.2"),
            ("00:10:00", "0.1"),
            ("00:30:00", "Null"),
            ("01:00:00", "-1"),
            ("02:00:00", "0.5"),
        )
    ]
    file = tmp_path / "mixed.csv"
    file.write_text("\n".join(lines))

    report = await dry(file, MPAN)

    assert report.rows.as_dict() == {
        "total": 7,
        "taken": 2,
        "duplicate_other": 1,
        "duplicate_same": 1,
        "off_grid": 1,
        "null": 1,
        "negative": 1,
    }
    assert report.half_hours.as_dict() == {
        "total": 5,
        "to_send": 2,
        "null": 1,
        "negative": 1,
        "missing": 1,
    }


async def test_the_report_is_json_and_lines(tmp_path: Path):
    report = await dry(LCL, "1200000000012")

    kept = json.loads(json.dumps(report.as_dict()))
    assert kept["rows"]["total"] == 12_318
    assert kept["findings"][0]["reason"] == "check_digit"
    assert kept["total_kwh"] == f"{report.total_wh / 1000:.3f}"
    text = "\n".join(report.lines())
    assert "rows        12,318 = 12,308 taken + 9 duplicate_same + 1 off_grid" in text
    assert "12,308 unmarked" in text
    assert "check_digit: the MPAN has a wrong check digit" in text


async def test_what_cannot_be_read_is_refused_with_its_reason(tmp_path: Path):
    with pytest.raises(Invalid) as no_meter:
        await dry(LCL)
    assert no_meter.value.reason is Reason.MPXN_REQUIRED
    with pytest.raises(Invalid) as bad_meter:
        await dry(LCL, "12")
    assert bad_meter.value.reason is Reason.MPXN_FORMAT
    web_page = tmp_path / "readings.csv"
    web_page.write_text("<!doctype html>")
    with pytest.raises(Invalid) as unknown:
        await dry(web_page)
    assert unknown.value.reason is Reason.FILE_UNRECOGNISED


def test_a_report_that_does_not_balance_is_a_bug():
    with pytest.raises(Bug):
        Balance(3, {"taken": 2})


def test_chunks_hold_the_columns_of_the_proto():
    parsed = adapters.read(PERSE.name, PERSE.read_bytes())
    days = parsed.meter_days
    (chunk,) = chunks(days)

    assert len(days) <= CHUNK_ROWS
    assert chunk.mpxns == b"".join(days.mpxns.tolist())
    first = np.frombuffer(chunk.present[:6], np.uint8)
    present = [bool(first[h // 8] >> (h % 8) & 1) for h in range(48)]
    assert present == days.present[0].tolist()
    first_day = datetime(2024, 1, 1, tzinfo=UTC)
    assert int.from_bytes(chunk.days[:4], "little") == first_day.timestamp() // 86_400
    assert np.frombuffer(chunk.values_wh, "<i4").sum() == days.total_wh
    assert len(chunk.quality) == 48 * len(days)
    assert parsed.report.half_hours.by_bucket[Bucket.RECORDED] == days.recorded


def test_the_command_says_in_one_line_what_is_no_readings_file(tmp_path: Path):
    page = tmp_path / "readings.csv"
    page.write_text("<html>")

    said = run("ingest", "readings", str(page), "--as", "nobody", "--dry-run")

    assert (said.code, said.out) == (7, "")
    assert said.reason == "FILE_UNRECOGNISED" and len(said.err.splitlines()) == 1


def test_no_bar_is_drawn_where_nobody_watches():
    said = run("ingest", "readings", str(PERSE), "--as", "nobody", "--dry-run")

    assert (said.code, said.err) == (0, "")
    assert "244 = 244 taken" in said.out and "\x1b" not in said.out


def test_the_bar_shows_bytes_rows_and_meter_days(monkeypatch: pytest.MonkeyPatch):
    watched = Console(file=io.StringIO(), force_terminal=True, width=120)
    monkeypatch.setattr(ingesting, "err", watched)

    ingesting.send(PERSE, "nobody", dry_run=True, show=True)

    assert isinstance(watched.file, io.StringIO)
    drawn = watched.file.getvalue()
    assert "28.0/28.0 kB" in drawn and "244 rows, 244 meter-days" in drawn
