"""`bulk`: a supplier streams the readings of all its meters, in sets of a thousand.

Each set is one request and one access entry; each meter's chunk is decided by its own place in the
log. A first pass compares every chunk value by value; the timed passes compare the bytes with it.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final

from loadtest.country import SUPPLIERS
from loadtest.installation import expect
from loadtest.results import Bound, Result
from loadtest.serving import DAYS, WEEK, Served
from loadtest.traffic import secure_channel
from spine.dsi.v1 import dsi_pb2, dsi_pb2_grpc
from spine.policy import Basis

SET: Final = 1_000
CALL_S: Final = 600.0
SUPPLIER: Final = 0

TARGETS: Final = (Bound("meter_days_per_s", least=100_000),)
GATES: Final = ()


def run(served: Served, passes: int = 2) -> Result:
    """The scenario on a country that is served."""
    return asyncio.run(_run(served, passes))


async def _run(served: Served, passes: int) -> Result:
    spine, sets = served.spine, sets_of(served)
    own = [i for members in sets for i in members]
    index = {served.mpans[i]: i for i in own}
    known: dict[str, bytes] = {}
    async with secure_channel(spine.target("dsi"), spine.identity(SUPPLIERS[SUPPLIER])) as channel:
        stub = dsi_pb2_grpc.DsiStub(channel)
        for members in sets:
            async for chunk in stream_set(stub, served, members):
                served.check(index[chunk.mpxn], chunk.rows, DAYS)
                known[chunk.mpxn] = _bytes(chunk)
        cpu, started, meters = spine.cpu_s("dsi"), time.perf_counter(), 0
        for _ in range(passes):
            for members in sets:
                async for chunk in stream_set(stub, served, members):
                    meters += 1
                    expect(_bytes(chunk) == known[chunk.mpxn], "a chunk differs from the first")
        took, cpu = time.perf_counter() - started, spine.cpu_s("dsi") - cpu
    expect(meters == passes * len(own), "a metering point was left out")
    days = meters * len(DAYS)
    return Result(
        "bulk",
        len(own),
        {
            "meter_days_per_s": days / took,
            "dsi_cpu_us_per_meter_day": cpu / days * 1e6,
            "meter_days": days,
            "days_per_chunk": len(DAYS),
        },
        TARGETS,
        GATES,
        ["a chunk is one meter's week: 7 meter-days"],
    )


def sets_of(served: Served) -> list[list[int]]:
    """The meters of one supplier by their indexes, a thousand to a set."""
    block = served.country.block(0, served.country.meters)
    own = [i for i in served.known if block.supplier[i] == SUPPLIER]
    return [own[start : start + SET] for start in range(0, len(own), SET)]


def stream_set(stub: Any, served: Served, members: list[int]) -> Any:
    """The open call for the week of these meters, as their supplier's duty."""
    request = dsi_pb2.StreamReadingsRequest(
        mpxns=[served.mpans[i] for i in members],
        purpose="SETTLEMENT",
        basis=Basis.LEGAL_OBLIGATION,
        interval=WEEK,
    )
    return stub.StreamReadings(request, timeout=CALL_S)


def _bytes(chunk: Any) -> bytes:
    expect(not chunk.refused and chunk.interval_complete, "a metering point was refused")
    rows: bytes = dsi_pb2.GetReadingsResponse(rows=chunk.rows).SerializeToString()
    return rows
