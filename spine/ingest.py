"""A readings file from the disk into the log, and the report of what became of everything in it.

The sending side of `Metering.RecordReadings`: an adapter reads the file, its meter-days go over the
wire in columns while it is read, and the file's own report is joined with the server's. Memory does
not grow with the file. If the server says "not now", or an append is in doubt, the file is read
from the start and sent again under the same header; what was recorded by then is found to be a
duplicate, because the same file always gives the same chunks.

What a file is shows before anything is sent: it is read once for its digest, and its first
meter-days must be there. Of a row that cannot be read only later, its bucket tells.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from domains.metering.adapters import Bucket, Finding, MeterDays, Reading, Tally
from domains.metering.gas import Conversion, conversion_of
from domains.metering.readings import MPXN_BYTES
from spine.errors import Bug, Reason
from spine.event import DataPosition
from spine.gb import Mpxn, parse_mpxn
from spine.metering.v1 import metering_pb2, metering_pb2_grpc
from spine.readings_file import ReadingsFile
from spine.server import connect
from spine.shelf import DiskShelf

CHUNK_ROWS: Final = 2_000
REFERENCE_CHARS: Final = 32
DEADLINE_S: Final = 1_800.0
# Of sending all of it; the pause before the next attempt doubles each time.
ATTEMPTS: Final = 5
FIRST_PAUSE_S: Final = 1.0
NOT_NOW: Final = "UNAVAILABLE"

# Buckets beyond those of the adapters: of a row of the file, and of what the server had to decide.
TAKEN: Final = "taken"
TO_SEND: Final = "to_send"
REPEATED: Final = "repeated"
REFUSED: Final[Mapping[str, str]] = {
    Reason.METER_NOT_REGISTERED: "unregistered",
    Reason.SENDER_NOT_APPOINTED: "wrong_sender",
    Reason.QUANTITY_NOT_FOR_METER: "wrong_quantity",
    Reason.READING_OUT_OF_RANGE: "implausible",
    Reason.READING_IN_FUTURE: "not_over",
}


@dataclass(frozen=True, slots=True)
class Step:
    """How far it got: bytes of the file as it lies on the disk, rows and meter-days read."""

    bytes_read: int
    bytes_total: int
    rows: int
    meter_days: int


Progress = Callable[[Step], None]


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
    calorific_value: str | None = None,
    sender_reference: str | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> IngestReport:
    """Read a file and record what is in it with the metering coordinator at `host:port`.

    `calorific_value`, in MJ/m3, is for a file that counts gas by volume; others leave it alone.
    `progress` is called now and then, from any thread. A dry run reads the file only.
    Invalid for a file or metering point that cannot be read (`adapters.Reading`), OSError for one
    that cannot be opened; a failed call is raised as it is, for `spine.server.error_from`.
    """
    point = None if mpxn is None else parse_mpxn(mpxn)
    conversion = None if calorific_value is None else conversion_of(calorific_value)
    delivery = _Delivery(path, point, conversion, sender_reference, progress)
    await asyncio.to_thread(delivery.identify)
    pause_s = FIRST_PAUSE_S
    for last in (False,) * (ATTEMPTS - 1) + (True,):
        with DiskShelf() as shelf:
            try:
                answer = await delivery.attempt(shelf, target, identity_dir, dry_run, last)
            finally:
                await delivery.settle()
            if answer is not None:
                return delivery.report(None if dry_run else answer)
        await asyncio.sleep(pause_s)
        pause_s *= 2
    raise Bug("the last attempt gave neither an answer nor an error")


class _Delivery:
    """One file on its way: read from the start at each attempt, and counted as it is sent."""

    def __init__(
        self,
        path: Path,
        mpxn: Mpxn | None,
        conversion: Conversion | None,
        reference: str | None,
        progress: Progress | None,
    ) -> None:
        self._file = ReadingsFile(path, self._watch)
        self._name, self._mpxn, self._reference = path.name, mpxn, reference or ""
        self._conversion, self._progress = conversion, progress
        self._reading: Reading | None = None
        self._days: Iterator[MeterDays] = iter(())
        self._step: asyncio.Future[MeterDays | None] | None = None
        self._failed: Exception | None = None
        self._bytes_read = self._rows_sent = self._half_hours = self._total_wh = 0
        self._by_quality: Counter[str] = Counter()

    def identify(self) -> None:
        """Find out what the file is known by."""
        digest = self._file.identify()
        self._reference = self._reference or digest.hex()[:REFERENCE_CHARS]

    def _watch(self, bytes_read: int) -> None:
        self._bytes_read = bytes_read
        if self._progress is not None:
            rows = 0 if self._reading is None else self._reading.rows
            self._progress(Step(bytes_read, self._file.size, rows, self._rows_sent))

    async def attempt(
        self, shelf: DiskShelf, target: str, identity_dir: Path, dry_run: bool, last: bool
    ) -> Any | None:
        """Read and send all of it; None if the server says "not now" and it is not the last."""
        self._rows_sent = self._half_hours = self._total_wh = 0
        self._by_quality.clear()
        self._reading = await asyncio.to_thread(
            partial(
                Reading,
                self._name,
                self._file.content,
                self._mpxn,
                shelf,
                conversion=self._conversion,
            )
        )
        self._days = self._reading.meter_days()
        first = await self._next()
        if dry_run or first is None:
            while first is not None:
                first = await self._next()
            return metering_pb2.RecordReadingsReport()
        async with connect(target, identity_dir) as channel:
            stub = metering_pb2_grpc.MeteringStub(channel)
            call = stub.RecordReadings(self._requests(first), timeout=DEADLINE_S)
            code = (await call.code()).name
            if self._failed is not None:
                raise self._failed
            return None if code == NOT_NOW and not last else await call

    async def _requests(self, first: MeterDays) -> AsyncIterator[Any]:
        """A file that fails in between ends the call; what was sent by then is recorded."""
        header = _header(first, self._reference, self._file.digest)
        yield metering_pb2.RecordReadingsRequest(header=header)
        days: MeterDays | None = first
        while days is not None:
            for chunk in chunks(days, first.quality_codes):
                yield metering_pb2.RecordReadingsRequest(chunk=chunk)
            try:
                days = await self._next()
            except Exception as error:  # raised where the call is; gRPC would only log it
                self._failed = error
                return

    async def _next(self) -> MeterDays | None:
        """The next meter-days, read in a thread; None at the end."""
        self._step = asyncio.ensure_future(asyncio.to_thread(self._read_on))
        return await asyncio.shield(self._step)

    async def settle(self) -> None:
        """Wait for the thread that a call left behind."""
        if self._step is not None:
            await asyncio.gather(self._step, return_exceptions=True)

    def _read_on(self) -> MeterDays | None:
        for days in self._days:
            if len(days):
                self._rows_sent += len(days)
                self._half_hours += days.recorded
                self._total_wh += days.total_wh
                self._by_quality.update(days.count_by_quality())
                self._watch(self._bytes_read)
                return days
        return None

    def report(self, answer: Any | None) -> IngestReport:
        """The file's own report with the server's answer; None for a dry run."""
        assert self._reading is not None
        found = self._reading.report()
        if answer is None:
            half_hours = {TO_SEND: self._half_hours}
            meter_days = _filled({TO_SEND: self._rows_sent})
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
            file=self._name,
            sender_reference=self._reference,
            source_digest=self._file.digest,
            dry_run=dry_run,
            rows=_balance(found.rows, {TAKEN: found.rows.by_bucket[Bucket.RECORDED]}),
            half_hours=_balance(found.half_hours, half_hours),
            meter_days=Balance(self._rows_sent, meter_days),
            batches=Balance(sum(batches.values()), batches),
            by_quality={code: n for code, n in sorted(self._by_quality.items()) if n},
            total_wh=self._total_wh,
            findings=found.findings,
            findings_left_out=found.findings_left_out,
            log_id=token.log_id,
            positions=tuple(DataPosition(p.topic, p.partition, p.offset) for p in token.positions),
        )


def _header(days: MeterDays, reference: str, digest: bytes) -> Any:
    conversion = days.conversion or Conversion(0, 0)
    return metering_pb2.ReadingsHeader(
        sender_reference=reference,
        source_digest=digest,
        measurement_quantity=days.quantity,
        quality_codes=days.quality_codes,
        calorific_value_kj_m3=conversion.calorific_value_kj_m3,
        factor_e5=conversion.factor_e5,
    )


def chunks(days: MeterDays, codes_said: tuple[str, ...] | None = None) -> Iterator[Any]:
    """The meter-days as `ReadingsChunk`s; their codes unless the header has said them.

    The same days always give the same chunks.
    """
    codes = () if codes_said in (None, days.quality_codes) else days.quality_codes
    volumes = days.volumes_dm3
    for start in range(0, len(days), CHUNK_ROWS):
        rows = slice(start, start + CHUNK_ROWS)
        yield metering_pb2.ReadingsChunk(
            mpxns=days.mpxns[rows].astype(f"S{MPXN_BYTES}").tobytes(),
            days=days.days[rows].astype("<i4").tobytes(),
            present=np.packbits(days.present[rows], axis=1, bitorder="little").tobytes(),
            values_wh=b"" if volumes is not None else _vector(days.values_wh[rows]),
            values_dm3=b"" if volumes is None else _vector(volumes[rows]),
            quality=days.quality[rows].astype(np.uint8).tobytes(),
            quality_codes=codes,
        )


def _vector(values: npt.NDArray[np.int32]) -> bytes:
    return values.astype("<i4").tobytes()


# Reporting


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
