"""Calls that come at once are accepted side by side, and the port stays one server's."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from pathlib import Path
from typing import Any

import grpc
import pytest

from spine.dsi.v1 import dsi_pb2, dsi_pb2_grpc
from spine.identity import Authority
from spine.listening import Limits
from spine.policy import Role
from spine.server import Service, SpineServer, build_server, connect
from spine.whereabouts import announce, remembered_port, try_to_bind

CONNECTIONS = 64
# On a busy machine calls may come one by one, and be accepted so.
ATTEMPTS = 5


class Turns(dsi_pb2_grpc.DsiServicer):
    """In which turns of the event loop how many calls reach it."""

    def __init__(self) -> None:
        self.turn, self.reached = 0, Counter[int]()

    async def GetMeteringPoint(self, request: Any, context: Any) -> Any:
        self.reached[self.turn] += 1
        return dsi_pb2.GetMeteringPointResponse()

    async def count(self) -> None:
        """Count the turns, until cancelled."""
        while True:
            self.turn += 1
            await asyncio.sleep(0)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.open_or_create(tmp_path_factory.mktemp("spine") / "identities")


def server_of(authority: Authority, turns: Turns, accepting: int, port: int = 0) -> SpineServer:
    """A server that accepts so many calls side by side."""
    service = Service("spine.dsi.v1.Dsi", dsi_pb2_grpc.add_DsiServicer_to_server, turns)
    own = authority.issue_server(Role.DSI, "dsi-1")
    return build_server(own, [service], port=port, limits=Limits(accepting=accepting))


def own_connection(target: str, folder: Path) -> grpc.aio.Channel:
    """A connection that no other channel shares."""
    return connect(target, folder, [("grpc.use_local_subchannel_pool", 1)])


async def takes_few_turns(channels: list[grpc.aio.Channel], turns: Turns) -> bool:
    """Whether a call over each, all at once, are accepted in less than half as many turns."""
    turns.reached.clear()
    asked = dsi_pb2.GetMeteringPointRequest()
    calls = [
        dsi_pb2_grpc.DsiStub(channel).GetMeteringPoint(asked, timeout=20) for channel in channels
    ]
    counting = asyncio.create_task(turns.count())
    await asyncio.gather(*calls)
    counting.cancel()
    assert turns.reached.total() == CONNECTIONS
    return len(turns.reached) < CONNECTIONS / 2


@pytest.mark.parametrize(("accepting", "side_by_side"), [(4, True), (1, False)], ids=["4", "naive"])
async def test_calls_are_accepted_side_by_side(
    authority: Authority, accepting: int, side_by_side: bool
) -> None:
    """The naive server accepts one call, and then the next."""
    turns = Turns()
    server = server_of(authority, turns, accepting)
    await server.start()
    folder = authority.issue_client(Role.DATA_USER, "ADVISER").folder
    channels = [own_connection(f"127.0.0.1:{server.port}", folder) for _ in range(CONNECTIONS)]
    try:
        for channel in channels:
            await channel.channel_ready()
        few_turns = [await takes_few_turns(channels, turns) for _ in range(ATTEMPTS)]
    finally:
        for channel in channels:
            await channel.close(None)
        await server.stop(0)
    assert any(few_turns) is side_by_side


async def test_a_port_is_shared_with_nobody_although_gRPC_would(authority: Authority) -> None:
    server = server_of(authority, Turns(), 4)
    await server.start()
    try:
        with pytest.raises(RuntimeError, match=f"127.0.0.1:{server.port}"):
            server_of(authority, Turns(), 4, server.port)
        with socket.socket() as naive:  # what gRPC does by itself
            naive.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            naive.bind(("127.0.0.1", server.port))
    finally:
        await server.stop(0)


async def test_a_port_that_was_left_can_be_taken_at_once(authority: Authority) -> None:
    first = server_of(authority, Turns(), 4)
    await first.start()
    folder = authority.issue_client(Role.DATA_USER, "ADVISER").folder
    async with connect(f"127.0.0.1:{first.port}", folder) as channel:
        stub = dsi_pb2_grpc.DsiStub(channel)
        await stub.GetMeteringPoint(dsi_pb2.GetMeteringPointRequest(), timeout=20)
        await first.stop(0)
    second = server_of(authority, Turns(), 4, first.port)
    assert second.port == first.port
    await second.start()
    await second.stop(0)


@pytest.mark.parametrize("host", ["127.0.0.2", "0.0.0.0"])
async def test_a_port_is_taken_up_again_if_it_is_free_where_the_server_listens(
    authority: Authority, tmp_path: Path, host: str
) -> None:
    """Whoever looks at 127.0.0.1, wherever the server listens, takes a port that is not free."""
    with socket.socket() as other:
        other.bind(("127.0.0.2", 0))
        other.listen()
        port = other.getsockname()[1]
        announce(tmp_path, "dsi", host, port)
        naive = remembered_port(tmp_path, "dsi", "127.0.0.1")
        assert naive == port
        own = authority.issue_server(Role.DSI, "dsi-1")
        with pytest.raises(RuntimeError, match="cannot listen"):
            build_server(own, [], host=host, port=naive)
        assert remembered_port(tmp_path, "dsi", host) == 0
    assert remembered_port(tmp_path, "dsi", host) == port


def test_an_address_of_a_name_that_is_none_of_this_machines_takes_no_port_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As that of IPv6 is on a machine without: a service would come back at another port each time.

    192.0.2.1 is set aside for documentation, so nobody has it.
    """
    told = socket.getaddrinfo

    def of_a_name(host: str, port: int, **how: Any) -> Any:
        addresses = ("192.0.2.1", "127.0.0.1") if host == "both.test" else (host,)
        return [found for address in addresses for found in told(address, port, **how)]

    monkeypatch.setattr(socket, "getaddrinfo", of_a_name)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        announce(tmp_path, "dsi", "both.test", port)
        assert remembered_port(tmp_path, "dsi", "both.test") == 0, "who listens here still does"
    assert remembered_port(tmp_path, "dsi", "both.test") == port
    with pytest.raises(OSError, match="assign requested address"):
        try_to_bind("192.0.2.1", port)
