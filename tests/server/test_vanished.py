"""A caller that vanishes without a word keeps its stream, and a place with it, for a while only."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from spine.dsi.v1 import dsi_pb2, dsi_pb2_grpc
from spine.identity import Authority
from spine.listening import Limits
from spine.policy import Role
from spine.server import Service, build_server, connect
from tests.helpers.line import line_to

NAME = dsi_pb2.DESCRIPTOR.services_by_name["Dsi"].full_name
FOR_GOOD_MS = 2**31 - 1


class Dsi(dsi_pb2_grpc.DsiServicer):
    """Streams on which nothing comes."""

    def __init__(self) -> None:
        self.begun, self.ended = asyncio.Event(), asyncio.Event()

    async def StreamReadings(self, request: Any, context: Any) -> AsyncIterator[Any]:
        self.begun.set()
        try:
            await asyncio.Event().wait()
            yield dsi_pb2.StreamReadingsResponse()
        finally:
            self.ended.set()


async def ends_for_who_vanished(folder: Path, limits: Limits, within_s: float) -> bool:
    """Whether the stream of a caller ends in that time after its line was cut."""
    authority = Authority.open_or_create(folder / "identities")
    client, dsi = authority.issue_client(Role.DATA_USER, "ACME").folder, Dsi()
    service = Service(NAME, dsi_pb2_grpc.add_DsiServicer_to_server, dsi)
    server = build_server(authority.issue_server(Role.DSI, "dsi-1"), [service], limits=limits)
    await server.start()
    try:
        async with (
            line_to(server.port) as (line, port),
            connect(f"127.0.0.1:{port}", client) as channel,
        ):
            call = dsi_pb2_grpc.DsiStub(channel).StreamReadings(
                dsi_pb2.StreamReadingsRequest(), timeout=600
            )
            reading = asyncio.ensure_future(call.read())
            await asyncio.wait_for(dsi.begun.wait(), 20)
            line.whole.clear()
            try:
                await asyncio.wait_for(dsi.ended.wait(), within_s)
                return True
            except TimeoutError:
                return False
            finally:
                call.cancel()
                reading.cancel()
    finally:
        await server.stop(0)


async def test_the_stream_of_who_vanished_ends(tmp_path: Path) -> None:
    asked = Limits(are_you_there_every_ms=1_000, there_within_ms=1_000)
    assert await ends_for_who_vanished(tmp_path, asked, within_s=30)


async def test_or_it_would_stay_as_long_as_it_may(tmp_path: Path) -> None:
    """The naive server asks nobody."""
    never = Limits(are_you_there_every_ms=FOR_GOOD_MS)
    assert not await ends_for_who_vanished(tmp_path, never, within_s=5)
