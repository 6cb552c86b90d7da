"""`cut`: many open streams, and consents revoked at random: how long a stream outlives its consent.

From the moment the revocation is acknowledged to the moment the stream has ended at its reader. A
stream that had ended before the acknowledgement came counts as 0.
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any, Final

import grpc

from loadtest.installation import CONSENTS_BY, expect
from loadtest.results import Bound, Result, percentile
from loadtest.serving import WEEK, Served
from loadtest.traffic import secure_channel
from spine.consumers.v1 import consumers_pb2, consumers_pb2_grpc
from spine.dsi.v1 import dsi_pb2, dsi_pb2_grpc
from spine.errors import Reason
from spine.policy import Basis
from spine.server import connect, error_from

STREAMS_A_CONNECTION: Final = 90
# Of a thousand that begin in one moment some would not be answered within their permits. How
# streams begin is not what is measured.
BEGIN_AT_ONCE: Final = 64
STREAM_S: Final = 600.0
CALL_S: Final = 20.0
PAUSE_S: Final = 0.1
CUT_S: Final = 20.0

TARGETS: Final = (Bound("p99_ms", most=100),)
GATES: Final = (Bound("p99_ms", most=2_000),)


def run(served: Served, streams: int, seed: int = 7) -> Result:
    """The scenario on a country that is served; its consents are gone afterwards."""
    return asyncio.run(_run(served, streams, seed))


async def _run(served: Served, streams: int, seed: int) -> Result:
    chosen = served.known[-streams:]
    ended: dict[int, float] = {}
    open_: set[int] = set()
    made: list[tuple[int, float]] = []
    begin = asyncio.Semaphore(BEGIN_AT_ONCE)
    async with asyncio.TaskGroup() as group:
        by_adviser: dict[int, list[int]] = {}
        for index in chosen:
            by_adviser.setdefault(served.adviser(index), []).append(index)
        for adviser, own in by_adviser.items():
            for start in range(0, len(own), STREAMS_A_CONNECTION):
                members = own[start : start + STREAMS_A_CONNECTION]
                group.create_task(
                    _readers(served, served.spine.advisers[adviser], members, begin, open_, ended)
                )
        group.create_task(_revoke(served, chosen, open_, ended, random.Random(seed), made))
    late = [max(0.0, ended[index] - acknowledged) * 1000 for index, acknowledged in made]
    return Result(
        "cut",
        len(chosen),
        {
            "p50_ms": percentile(late, 50),
            "p99_ms": percentile(late, 99),
            "worst_ms": max(late),
            "streams": len(chosen),
            "revocations": len(made),
        },
        TARGETS,
        GATES,
    )


async def _readers(
    served: Served,
    party: str,
    members: list[int],
    begin: asyncio.Semaphore,
    open_: set[int],
    ended: dict[int, float],
) -> None:
    spine = served.spine
    async with secure_channel(spine.target("dsi"), spine.identity(party)) as channel:
        stub = dsi_pb2_grpc.DsiStub(channel)
        await asyncio.gather(*(_reader(served, stub, i, begin, open_, ended) for i in members))


async def _reader(
    served: Served,
    stub: Any,
    index: int,
    begin: asyncio.Semaphore,
    open_: set[int],
    ended: dict[int, float],
) -> None:
    """Follow one meter until it is cut; the cut must say that the consent was revoked."""
    request = dsi_pb2.StreamReadingsRequest(
        mpxns=[served.mpans[index]],
        purpose="ENERGY_ADVICE",
        basis=Basis.CONSENT,
        interval=WEEK,
        follow=True,
    )
    try:
        async with begin:
            chunks = aiter(stub.StreamReadings(request, timeout=STREAM_S))
            async for chunk in chunks:
                if chunk.interval_complete:
                    break
            open_.add(index)
        async for _ in chunks:
            pass
    except grpc.aio.AioRpcError as error:
        ended[index] = time.perf_counter()
        reason = error_from(error).reason
        expect(reason == Reason.CONSENT_REVOKED, f"a stream ended with {reason or error.code()}")
        return
    expect(False, "a stream ended by itself")


async def _revoke(
    served: Served,
    chosen: list[int],
    open_: set[int],
    ended: dict[int, float],
    chance: random.Random,
    made: list[tuple[int, float]],
) -> None:
    """Revoke every consent at random once all streams are open."""
    spine = served.spine
    deadline = time.monotonic() + STREAM_S
    while len(open_) < len(chosen):
        expect(time.monotonic() < deadline, f"only {len(open_)} streams are open")
        await asyncio.sleep(PAUSE_S)
    order = list(chosen)
    chance.shuffle(order)
    async with connect(spine.target("consumers"), spine.identity(CONSENTS_BY)) as channel:
        stub = consumers_pb2_grpc.ConsumersStub(channel)
        for index in order:
            mpan = served.mpans[index]
            request = consumers_pb2.RevokeConsentRequest(
                idempotency_key=f"cut-{mpan}", consent_id=f"k-{mpan}", mpxns=[mpan]
            )
            await stub.RevokeConsent(request, timeout=CALL_S)
            made.append((index, time.perf_counter()))
            await asyncio.sleep(chance.random() * PAUSE_S)
    deadline = time.monotonic() + CUT_S
    while len(ended) < len(chosen):
        expect(time.monotonic() < deadline, f"{len(chosen) - len(ended)} streams were never cut")
        await asyncio.sleep(PAUSE_S)
