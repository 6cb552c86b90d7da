"""Files that do not fit in memory: constant memory, exact counts, meter-days before the end."""

from __future__ import annotations

import asyncio
import gzip
import io
import random
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from datetime import date, timedelta
from pathlib import Path

import pytest
from openpyxl import Workbook

from domains.metering import adapters
from domains.metering.adapters import MeterDays, Reading, Report, collecting
from domains.metering.adapters.window import MemoryShelf, Shelf
from spine.errors import Invalid, Reason
from spine.ingest import Step, chunks, ingest_file
from spine.readings_file import ReadingsFile
from spine.shelf import DiskShelf
from tests.domains.metering.test_family_shared import by_stamp

HEADER = "MPAN,ConsumptionDate," + ",".join(f"kWh_{n}" for n in range(1, 49))
DAY = date(2023, 1, 1)


def day_lines(meters: int, days: int) -> Iterator[str]:
    """A Sheffield file line by line, meter by meter."""
    yield HEADER
    for meter in range(meters):
        for day in range(days):
            kwhs = ",".join(f"0.{(day + n) % 1000:03}" for n in range(48))
            yield f"12{meter:011},{DAY + timedelta(days=day):%d/%m/%Y},{kwhs}"


def write(path: Path, meters: int) -> Path:
    with path.open("w") as file:
        file.writelines(f"{line}\n" for line in day_lines(meters, 365))
    return path


def reading_lines(seed: int) -> list[str]:
    """Readings of a few meters in no order: some twice, some other, null, off the grid or wrong."""
    rng = random.Random(seed)
    kwhs = ["0.1", "0.2", "", "-1", "x", "0.0001"]
    minutes = ["00", "30", "30", "10"]
    return ["MPR,ReadDatetime,kWh,ReadType"] + [
        f"120000000001{rng.randrange(4)},2023-01-{rng.randrange(1, 9):02} "
        f"{rng.randrange(24):02}:{rng.choice(minutes)},{rng.choice(kwhs)},"
        f"{rng.choice(['Actual', 'Estimated', 'Odd'])}"
        for _ in range(1500)
    ]


def windows(data: bytes, shelf: Shelf, days: int) -> tuple[list[MeterDays], Report]:
    reading = Reading("x", lambda: iter([data]), None, shelf, days)
    return [*reading.meter_days()], reading.report()


# Memory


def peak_bytes(work: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def streamed(path: Path) -> None:
    asyncio.run(ingest_file(path, "", Path(), dry_run=True))


def read_whole(path: Path) -> None:
    adapters.read(path.name, path.read_bytes())


def grows(path: Path, read: Callable[[Path], None]) -> bool:
    """Whether four times the file takes more than a fifth more memory."""
    small, large = write(path / "small.csv", 2), write(path / "large.csv", 8)
    assert 3.9 < large.stat().st_size / small.stat().st_size < 4.1
    read(small)  # whatever is cached once
    return peak_bytes(lambda: read(large)) > 1.2 * peak_bytes(lambda: read(small))


def test_memory_does_not_grow_with_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(collecting, "WINDOW_DAYS", 256)
    assert not grows(tmp_path, streamed)


def test_read_whole_it_does_grow(tmp_path: Path):
    assert grows(tmp_path, read_whole)


# Counts


@pytest.mark.parametrize("days", [1, 2, 7, 1000])
@pytest.mark.parametrize("shelf_type", [MemoryShelf, DiskShelf])
def test_a_small_window_counts_and_records_the_same(shelf_type: type[Shelf], days: int):
    for seed in range(3):
        data = "\n".join(reading_lines(seed)).encode()
        whole = adapters.read("x", data)
        shelf = shelf_type()
        with shelf if isinstance(shelf, DiskShelf) else nullcontext():
            parts, report = windows(data, shelf, days)

        assert (report.rows, report.values) == (whole.report.rows, whole.report.values)
        assert report.half_hours == whole.report.half_hours
        assert sorted(map(str, report.findings)) == sorted(map(str, whole.report.findings))
        together = {cell: value for part in parts for cell, value in by_stamp(part).items()}
        assert together == by_stamp(whole.meter_days)
        assert sum(part.recorded for part in parts) == len(together)  # none is sent twice


def test_without_the_shelf_a_duplicate_far_away_is_not_seen():
    """The naive window forgets: then the second value would be recorded over the first."""

    class Forgetful(MemoryShelf):
        def get(self, mpxn: str, day: int) -> bytes | None:
            return None

    first = "1200000000011,01/01/2023," + ",".join(["0.1"] * 48)
    between = [*day_lines(1, 50)][1:]
    data = "\n".join([HEADER, first, *between, first]).encode()

    _, kept = windows(data, MemoryShelf(), 4)
    assert kept.rows.by_bucket == {"recorded": 51, "duplicate_same": 1}
    parts, _ = windows(data, Forgetful(), 1 << 30)  # never full: nothing is forgotten
    assert sum(part.recorded for part in parts) == 51 * 48
    with pytest.raises(Exception, match="does not balance"):
        windows(data, Forgetful(), 4)


def test_meter_days_leave_before_the_file_is_read():
    read = 0

    def content() -> Iterator[bytes]:
        nonlocal read
        for read, line in enumerate(day_lines(1, 1000)):  # noqa: B007
            yield f"{line}\n".encode()

    reading = Reading("x", content, None, MemoryShelf(), 100)
    first = next(reading.meter_days())

    assert len(first) == 50
    assert read < 150


def test_each_chunk_says_the_codes_that_the_header_did_not():
    lines = ["MPR,ReadDatetime,kWh,ReadType"]
    lines += [
        f"1200000000011,2023-01-{day:02} 12:00,0.1,{'Actual' if day < 9 else 'Estimated'}"
        for day in range(1, 17)
    ]
    parts, _ = windows("\n".join(lines).encode(), MemoryShelf(), 4)
    said = parts[0].quality_codes

    codes = [tuple(chunk.quality_codes) for part in parts for chunk in chunks(part, said)]

    assert said == ("A",)
    assert codes[0] == () and codes[-1] == ("A", "E")


# Faults that show late, and what is seen meanwhile


async def test_a_row_that_cannot_be_read_late_costs_itself_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(collecting, "WINDOW_DAYS", 16)
    path = tmp_path / "late.csv"
    path.write_text("\n".join([*day_lines(1, 300), "garbage"]))

    report = await ingest_file(path, "", Path(), dry_run=True)

    assert report.rows.as_dict() == {"total": 301, "taken": 300, "unreadable": 1}
    (finding,) = (f for f in report.findings if f.reason == "unreadable")
    assert finding.line == 302


async def test_a_gzip_file_damaged_late_is_refused_before_anything_is_sent(tmp_path: Path):
    path = tmp_path / "late.csv.gz"
    path.write_bytes(gzip.compress("\n".join(day_lines(1, 300)).encode())[:-4])
    steps: list[Step] = []

    with pytest.raises(Invalid) as damaged:
        await ingest_file(path, "nowhere:1", Path(), progress=steps.append)

    assert damaged.value.reason is Reason.FILE_UNREADABLE
    assert not any(step.meter_days for step in steps)


def test_a_file_changed_between_its_digest_and_its_rows_is_noticed(tmp_path: Path):
    path = tmp_path / "readings.csv"
    path.write_text("before")
    file = ReadingsFile(path)
    file.identify()
    path.write_text("after")

    with pytest.raises(Invalid, match="changed while it was read"):
        [*file.content()]


async def test_progress_counts_bytes_rows_and_meter_days(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(collecting, "WINDOW_DAYS", 64)
    path = write(tmp_path / "readings.csv", 1)
    steps: list[Step] = []

    await ingest_file(path, "", Path(), dry_run=True, progress=steps.append)

    assert {step.bytes_total for step in steps} == {path.stat().st_size}
    assert steps[-1].bytes_read == path.stat().st_size
    assert any(0 < step.rows < 365 for step in steps)
    assert any(0 < step.meter_days < 365 for step in steps)


def test_a_packed_workbook_is_the_workbook(tmp_path: Path):
    book, out = Workbook(), io.BytesIO()
    assert book.active is not None
    book.active.append(["a", 1])
    book.save(out)
    plain, packed = tmp_path / "plain.xlsx", tmp_path / "packed.xlsx.gz"
    plain.write_bytes(out.getvalue())
    packed.write_bytes(gzip.compress(out.getvalue()))

    files = [ReadingsFile(plain), ReadingsFile(packed)]

    assert [b"".join(file.content()) for file in files] == [b"a,1\n"] * 2
    assert files[0].identify() == files[1].identify()
