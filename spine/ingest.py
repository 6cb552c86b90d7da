"""A readings file from the disk into the log, and the report of what became of everything in it.

The sending side of `Metering.RecordReadings`: an adapter reads the file, its meter-days go over the
wire in columns, and the file's own report is joined with the server's. If the server says "not
now", or an append is in doubt, all of it is sent again under the same header; what was recorded by
then is found to be a duplicate.

A file is known by the SHA-256 of its content, unpacked: packed again, it is still the same file.

A workbook (.xlsx) is read as the CSV that its first sheet might have been, a line for each row.
What formulas came to when the file was last saved is read; formulas themselves are not.
"""

from __future__ import annotations

import asyncio
import csv
import hashlib
import warnings
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any, Final
from zipfile import ZipFile

import numpy as np
from openpyxl import load_workbook

from domains.metering import adapters
from domains.metering.adapters import Bucket, Finding, MeterDays, Parsed, Tally
from domains.metering.readings import MPXN_BYTES
from spine.errors import Bug, Invalid, Reason
from spine.event import DataPosition
from spine.gb import parse_mpxn
from spine.metering.v1 import metering_pb2, metering_pb2_grpc
from spine.server import connect

CHUNK_ROWS: Final = 1_000
REFERENCE_CHARS: Final = 32
DEADLINE_S: Final = 1_800.0
# Of sending all of it; the pause before the next attempt doubles each time.
ATTEMPTS: Final = 5
FIRST_PAUSE_S: Final = 1.0
NOT_NOW: Final = "UNAVAILABLE"
ZIP_MAGIC: Final = b"PK\x03\x04"

# Buckets beyond those of the adapters: of a row of the file, and of what the server had to decide.
TAKEN: Final = "taken"
TO_SEND: Final = "to_send"
REPEATED: Final = "repeated"
REFUSED: Final[Mapping[str, str]] = {
    Reason.METER_NOT_REGISTERED: "unregistered",
    Reason.SENDER_NOT_APPOINTED: "wrong_sender",
    Reason.QUANTITY_NOT_FOR_METER: "wrong_quantity",
    Reason.READING_OUT_OF_RANGE: "implausible",
}

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Balance:
    """A total, and the same by bucket; Bug if the two differ. Empty buckets are left out."""

    total: int
    buckets: Mapping[str, int]

    def __post_init__(self) -> None:
        if self.total != sum(self.buckets.values()):
            raise Bug("the report of a readings file does not balance")

    def as_dict(self) -> dict[str, int]:
        """The total and every bucket."""
        return {"total": self.total, **self.buckets}

    def __str__(self) -> str:
        parts = (f"{count:,} {bucket}" for bucket, count in self.buckets.items())
        return f"{self.total:,} = {' + '.join(parts) or 0}"


@dataclass(frozen=True, slots=True)
class IngestReport:
    """What became of one file.

    `rows` are those of the file, `taken` meaning that the adapter could use them. `half_hours` are
    those from each meter's first stamp to its last, `meter_days` the rows sent; both say what the
    server recorded, `repeated` meaning that it had it already. `by_quality` and `total_wh` are of
    all half hours with a usable value, recorded or not. `positions` is where a read sees them.
    """

    file: str
    sender_reference: str
    source_digest: bytes
    dry_run: bool
    rows: Balance
    half_hours: Balance
    meter_days: Balance
    batches: Balance
    by_quality: Mapping[str, int]
    total_wh: int
    findings: tuple[Finding, ...]
    findings_left_out: int
    log_id: bytes = b""
    positions: tuple[DataPosition, ...] = ()

    @property
    def total_kwh(self) -> Decimal:
        """The sum of all usable values, exactly."""
        return Decimal(self.total_wh).scaleb(-3)

    def as_dict(self) -> dict[str, Any]:
        """For programs: plain values that JSON can hold; kWh as text, because they are exact."""
        return {
            "file": self.file,
            "sender_reference": self.sender_reference,
            "source_digest": self.source_digest.hex(),
            "dry_run": self.dry_run,
            "rows": self.rows.as_dict(),
            "half_hours": self.half_hours.as_dict(),
            "meter_days": self.meter_days.as_dict(),
            "batches": self.batches.as_dict(),
            "by_quality": dict(self.by_quality),
            "total_kwh": f"{self.total_kwh:f}",
            "findings": [
                {"reason": str(f.reason), "line": f.line, "message": f.message}
                for f in self.findings
            ],
            "findings_left_out": self.findings_left_out,
            "log_id": self.log_id.hex(),
            "positions": [
                {"topic": p.topic, "partition": p.partition, "offset": p.offset}
                for p in self.positions
            ],
        }

    def lines(self) -> list[str]:
        """For people: the balances, the totals, then a line for each finding."""
        qualities = ", ".join(f"{n:,} {code or 'unmarked'}" for code, n in self.by_quality.items())
        said = [
            f"{self.file}{' (dry run: nothing was sent)' if self.dry_run else ''}",
            f"  rows        {self.rows}",
            f"  half hours  {self.half_hours}",
            f"  meter-days  {self.meter_days}",
            f"  quality     {qualities or 'none'}",
            f"  energy      {self.total_kwh:,.3f} kWh",
        ]
        for finding in self.findings:
            place = "" if finding.line is None else f"line {finding.line}: "
            said.append(f"  {finding.reason}: {place}{finding.message}")
        if self.findings_left_out:
            said.append(f"  and {self.findings_left_out:,} more of the same kinds")
        return said


async def ingest_file(
    path: Path,
    target: str,
    identity_dir: Path,
    *,
    mpxn: str | None = None,
    sender_reference: str | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> IngestReport:
    """Read a file and record what is in it with the metering coordinator at `host:port`.

    `progress(done, total)` counts meter-days as they are sent. A dry run reads the file only.
    Invalid for a file or metering point that cannot be read (`adapters.read`), OSError for one that
    cannot be opened; a failed call is raised as it is, for `spine.server.error_from`.
    """
    data = await asyncio.to_thread(_content, path)
    parsed = await asyncio.to_thread(
        adapters.read,
        path.name,
        await asyncio.to_thread(as_text, path.name, data),
        None if mpxn is None else parse_mpxn(mpxn),
    )
    digest = hashlib.sha256(data).digest()
    reference = sender_reference or digest.hex()[:REFERENCE_CHARS]
    answer = metering_pb2.RecordReadingsReport()
    if not dry_run and len(parsed.meter_days):
        header = _header(parsed.meter_days, reference, digest)
        answer = await _send(target, identity_dir, header, parsed.meter_days, progress)
    return _joined(path.name, reference, digest, parsed, None if dry_run else answer)


def _content(path: Path) -> bytes:
    """The file, unpacked. One that is too large even packed is not read at all."""
    if path.stat().st_size > adapters.FILE_BYTES_MAX:
        raise _too_large(path.name)
    return adapters.unpack(path.name, path.read_bytes())


def _too_large(name: str) -> Invalid:
    message = f"{name} holds more than {adapters.FILE_BYTES_MAX // 1024**2} MiB; split it"
    return Invalid(Reason.REQUEST_TOO_LARGE, message, field="file")


# Workbooks


def as_text(name: str, data: bytes) -> bytes:
    """The first sheet of a workbook as CSV in UTF-8, line n being row n; other data as they are."""
    if not data.startswith(ZIP_MAGIC):
        return data
    try:
        with ZipFile(BytesIO(data)) as parts:
            if sum(part.file_size for part in parts.infolist()) > adapters.FILE_BYTES_MAX:
                raise _too_large(name)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of styles and print areas, which are not read
            return _csv_of(name, data)
    except Invalid:
        raise
    except Exception as error:  # openpyxl raises whatever the damage happens to lead to
        message = f"{name} is a ZIP file but no workbook that can be read"
        raise Invalid(Reason.FILE_UNREADABLE, message, field="file") from error


def _csv_of(name: str, data: bytes) -> bytes:
    out = StringIO()
    writer = csv.writer(out, lineterminator="\n")
    width = 0
    for cells in _rows_of(data):
        while cells and not cells[-1]:
            cells.pop()
        width = width or len(cells)
        if cells:
            writer.writerow(cells + [""] * (width - len(cells)))
        else:
            out.write("\n")
        if out.tell() > adapters.FILE_BYTES_MAX:
            raise _too_large(name)
    return out.getvalue().encode()


def _rows_of(data: bytes) -> Iterator[list[str]]:
    book = load_workbook(BytesIO(data), read_only=True, data_only=True)
    try:
        for row in book.worksheets[0].iter_rows(values_only=True):
            yield [_cell(value) for value in row]
    finally:
        book.close()


def _cell(value: object) -> str:
    """The shortest text that names the value; a whole number has no point, as an MPAN has none."""
    match value:
        case None:
            return ""
        case float():
            return str(int(value)) if value.is_integer() else repr(value)
        case datetime():
            return value.isoformat(" ", "seconds")
        case date():
            return value.isoformat()
        case _:
            return " ".join(str(value).split())


# Sending


async def _send(
    target: str, identity_dir: Path, header: Any, days: MeterDays, progress: Progress | None
) -> Any:
    pause_s = FIRST_PAUSE_S
    async with connect(target, identity_dir) as channel:
        stub = metering_pb2_grpc.MeteringStub(channel)
        for attempt in range(1, ATTEMPTS + 1):
            call = stub.RecordReadings(_requests(header, days, progress), timeout=DEADLINE_S)
            if (await call.code()).name != NOT_NOW or attempt == ATTEMPTS:
                break
            await asyncio.sleep(pause_s)
            pause_s *= 2
        return await call


async def _requests(header: Any, days: MeterDays, progress: Progress | None) -> AsyncIterator[Any]:
    yield metering_pb2.RecordReadingsRequest(header=header)
    done = 0
    for chunk in chunks(days):
        yield metering_pb2.RecordReadingsRequest(chunk=chunk)
        done = min(done + CHUNK_ROWS, len(days))
        if progress is not None:
            progress(done, len(days))


def _header(days: MeterDays, reference: str, digest: bytes) -> Any:
    return metering_pb2.ReadingsHeader(
        sender_reference=reference,
        source_digest=digest,
        measurement_quantity=days.quantity,
        quality_codes=days.quality_codes,
    )


def chunks(days: MeterDays) -> Iterator[Any]:
    """The meter-days as `ReadingsChunk`s. The same days always give the same chunks."""
    for start in range(0, len(days), CHUNK_ROWS):
        rows = slice(start, start + CHUNK_ROWS)
        yield metering_pb2.ReadingsChunk(
            mpxns=days.mpxns[rows].astype(f"S{MPXN_BYTES}").tobytes(),
            days=days.days[rows].astype("<i4").tobytes(),
            present=np.packbits(days.present[rows], axis=1, bitorder="little").tobytes(),
            values_wh=days.values_wh[rows].astype("<i4").tobytes(),
            quality=days.quality[rows].astype(np.uint8).tobytes(),
        )


# Reporting


def _joined(
    name: str, reference: str, digest: bytes, parsed: Parsed, answer: Any | None
) -> IngestReport:
    """The file's own report with the server's answer; None for a dry run."""
    report, days = parsed.report, parsed.meter_days
    if answer is None:
        half_hours = {TO_SEND: days.recorded}
        meter_days = _filled({TO_SEND: len(days)})
        answer = metering_pb2.RecordReadingsReport()
        dry_run = True
    else:
        half_hours = _decided(
            answer.half_hours_recorded, answer.half_hours_duplicate, answer.half_hours_refused
        )
        meter_days = _decided(answer.rows_recorded, answer.rows_duplicate, answer.rows_refused)
        dry_run = False
    batches = _decided(answer.batches_recorded, answer.batches_duplicate, {})
    token = answer.positions
    return IngestReport(
        file=name,
        sender_reference=reference,
        source_digest=digest,
        dry_run=dry_run,
        rows=_balance(report.rows, {TAKEN: report.rows.by_bucket[Bucket.RECORDED]}),
        half_hours=_balance(report.half_hours, half_hours),
        meter_days=Balance(len(days), meter_days),
        batches=Balance(sum(batches.values()), batches),
        by_quality=days.count_by_quality(),
        total_wh=days.total_wh,
        findings=report.findings,
        findings_left_out=report.findings_left_out,
        log_id=token.log_id,
        positions=tuple(DataPosition(p.topic, p.partition, p.offset) for p in token.positions),
    )


def _decided(recorded: int, duplicate: int, refused: Mapping[str, int]) -> dict[str, int]:
    """The server's counts by bucket; a reason that this build has no word for stands as it is."""
    named = {REFUSED.get(reason, reason.lower()): refused[reason] for reason in sorted(refused)}
    counts = {Bucket.RECORDED.value: recorded, REPEATED: duplicate, **named}
    return _filled(counts)


def _filled(counts: Mapping[str, int]) -> dict[str, int]:
    return {bucket: count for bucket, count in counts.items() if count}


def _balance(tally: Tally, of_recorded: Mapping[str, int]) -> Balance:
    """A tally of the file, in which other buckets take the place of its `recorded`."""
    rest = {bucket.value: tally.by_bucket[bucket] for bucket in Bucket}
    del rest[Bucket.RECORDED.value]
    return Balance(tally.total, _filled({**of_recorded, **rest}))
