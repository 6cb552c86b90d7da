"""`bulk`: a supplier streams a month of all its meters in columns, in sets of a thousand.

Each set is one request and one access entry for each partition; each meter's chunk, 31 days, is
decided by its own place in the log, and a message holds as many chunks as it may. A first pass
compares every chunk value by value; the timed passes compare the bytes with it.

The country is the supplier's own meters, with tenancies and consents. The month is appended signed
with the coordinator's key and without it, as in `growth`, corrections after the days.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from loadtest.country import QUALITY_CODES, SUPPLIERS, Country, Meters, day_number
from loadtest.deliveries import BLOCK, sent
from loadtest.direct import wait_until_folded
from loadtest.gb_day import ORDINARY_DAYS
from loadtest.growing import append
from loadtest.installation import Installation, Note, expect, installation
from loadtest.results import Bound, Result
from loadtest.serving import populate
from loadtest.traffic import secure_channel
from spine import trust
from spine.console.client import interval
from spine.dsi.chunks import MAX_MEMBERS_PER_MESSAGE
from spine.dsi.v1 import dsi_pb2, dsi_pb2_grpc
from spine.gb import PERIODS_PER_UTC_DAY
from spine.policy import Basis

SET: Final = 1_000
CALL_S: Final = 600.0
SUPPLIER: Final = 0
MONTH: Final = ORDINARY_DAYS[:31]
_BEGIN: Final = datetime(MONTH[0].year, MONTH[0].month, MONTH[0].day, tzinfo=UTC)

TARGETS: Final = (Bound("meter_days_per_s", least=100_000),)
GATES: Final = ()


@dataclass(frozen=True)
class OneSupplier(Country):
    """Of a country, the metering points of one supplier."""

    def block(self, start: int, end: int) -> Meters:
        """Those of these indexes that it supplies: a row is no index less the first."""
        meters = super().block(start, end)
        return meters.take(meters.supplier == SUPPLIER)


def run(meters: int, folder: Path, note: Note, passes: int = 2) -> Result:
    """The scenario over about so many meters of one supplier, in an installation of its own."""
    country = OneSupplier(meters * len(SUPPLIERS))
    with installation(folder, ["metering"], lambda text: note(text, 0, 0)) as spine:
        populate(spine, country, note)
        for corrections in (False, True):
            asyncio.run(append(spine, country, MONTH, note, corrections=corrections))
        wait_until_folded(spine, "readings", [trust.READINGS_TOPIC], note)
        note("bulk", 0, 0)
        return asyncio.run(_run(spine, country, passes))


async def _stream_month(stub: Any, mpxns: list[str]) -> AsyncIterator[Any]:
    month = interval(_BEGIN, _BEGIN + timedelta(days=len(MONTH)))
    call = stream_set(stub, mpxns, month, members_per_message=MAX_MEMBERS_PER_MESSAGE)
    async for message in call:
        for chunk in message.members or [message]:
            yield chunk


async def _run(spine: Installation, country: Country, passes: int) -> Result:
    known: dict[str, bytes] = {}
    expected = 0
    async with secure_channel(spine.target("dsi"), spine.identity(SUPPLIERS[SUPPLIER])) as channel:
        stub = dsi_pb2_grpc.DsiStub(channel)
        for start in range(0, country.meters, BLOCK):
            right = Recorded.of(country, start)
            for members in in_sets(list(right.place_of)):
                async for chunk in _stream_month(stub, members):
                    right.check(chunk)
                    known[chunk.mpxn] = _digest(chunk)
            expected += len(right.place_of)
            expect(len(known) == expected, "a metering point was left out")
        sets = in_sets(list(known))
        cpu, started, meters = spine.cpu_s("dsi"), time.perf_counter(), 0
        for _ in range(passes):
            for members in sets:
                async for chunk in _stream_month(stub, members):
                    meters += 1
                    expect(_digest(chunk) == known[chunk.mpxn], "a chunk differs from the first")
        took, cpu = time.perf_counter() - started, spine.cpu_s("dsi") - cpu
    expect(meters == passes * len(known), "a metering point was left out")
    days = meters * len(MONTH)
    return Result(
        "bulk",
        len(known),
        {
            "meter_days_per_s": days / took,
            "dsi_cpu_us_per_meter_day": cpu / days * 1e6,
            "meter_days_per_cpu_s_of_dsi": days / cpu,
            "meter_days": days,
            "days_per_chunk": len(MONTH),
        },
        TARGETS,
        GATES,
        [f"a chunk is one meter's month in columns: {len(MONTH)} meter-days"],
    )


def in_sets(mpxns: list[str]) -> list[list[str]]:
    """A thousand to a set."""
    return [mpxns[start : start + SET] for start in range(0, len(mpxns), SET)]


def stream_set(stub: Any, mpxns: list[str], asked: Any, *, members_per_message: int = 0) -> Any:
    """The open call for an interval of these meters, as their supplier's duty; in columns if
    several members are to come in a message.
    """
    request = dsi_pb2.StreamReadingsRequest(
        mpxns=mpxns,
        purpose="SETTLEMENT",
        basis=Basis.LEGAL_OBLIGATION,
        interval=asked,
        in_columns=members_per_message > 0,
        members_per_message=members_per_message,
    )
    return stub.StreamReadings(request, timeout=CALL_S)


def _digest(chunk: Any) -> bytes:
    expect(not chunk.refused and chunk.interval_complete, "a metering point was refused")
    return hashlib.sha256(chunk.columns.SerializeToString()).digest()


@dataclass(frozen=True)
class Recorded:
    """What must be known in the end of a block's registered metering points, a row each, by half
    hours of the month: a quality of -1 where there is no value.
    """

    place_of: dict[str, int]
    values_wh: npt.NDArray[np.int32]
    quality: npt.NDArray[np.int8]

    @classmethod
    def of(cls, country: Country, start: int) -> Recorded:
        """Made again from the country alone."""
        meters = country.block(start, start + BLOCK)
        registered = meters.take(meters.registered)
        shape = len(registered), len(MONTH), PERIODS_PER_UTC_DAY
        values, quality = np.zeros(shape, np.int32), np.full(shape, -1, np.int8)
        for place, on in enumerate(MONTH):
            _put_day(country, start, on, values[:, place], quality[:, place])
        names = [mpan.decode() for mpan in registered.mpans.tolist()]
        flat = len(registered), -1
        return cls(
            {name: row for row, name in enumerate(names)},
            values.reshape(flat),
            quality.reshape(flat),
        )

    def check(self, chunk: Any) -> None:
        """WrongAnswer unless a chunk says exactly this of its meter."""
        row, columns = self.place_of[chunk.mpxn], chunk.columns
        expect(columns.start.seconds == day_number(MONTH[0]) * 86_400, "it begins at another time")
        runs = [run.half_hours for run in columns.runs]
        codes = [-1 if run.absent else QUALITY_CODES.index(run.quality) for run in columns.runs]
        right = self.quality[row]
        same = np.array_equal(np.repeat(codes, runs), right) and np.array_equal(
            np.array(columns.values_wh), self.values_wh[row][right >= 0]
        )
        expect(same, "a meter of the supplier reads otherwise than sent")


def _put_day(
    country: Country,
    start: int,
    on: date,
    values: npt.NDArray[np.int32],
    quality: npt.NDArray[np.int8],
) -> None:
    """What was sent of a day, and over it what was corrected."""
    what = sent(country, start, on)
    row_of = np.cumsum(what.meters.registered) - 1
    for version, chosen in ((0, what.recorded), (1, what.recorded & what.corrected)):
        said = country.day(what.meters.take(chosen), on, version)
        rows = row_of[chosen]
        values[rows] = np.where(said.present, said.values_wh, values[rows])
        quality[rows] = np.where(said.present, said.quality.astype(np.int8), quality[rows])
