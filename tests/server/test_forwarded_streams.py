"""Streams that a server passes on to another are open for long, and keep out no other call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, aclosing, contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from spine.dsi import forwarding, members
from spine.dsi.channels import Channels
from spine.dsi.forwarding import Forwarder
from spine.dsi.members import MISSED_MAX, Peer
from spine.dsi.v1 import dsi_pb2, members_pb2, members_pb2_grpc
from spine.identity import Authority, Caller
from spine.listening import Limits
from spine.policy import Role
from spine.server import Service, build_server

LOG = bytes(32)
A_CONNECTION, STREAMS = 4, 10


class Other(members_pb2_grpc.MembersServicer):
    """Answers once on each stream, and leaves it open."""

    async def Standing(self, request: Any, context: Any) -> Any:
        return members_pb2.StandingResponse(member="dsi-2", log_id=LOG)

    async def ForwardStream(self, requests: Any, context: Any) -> AsyncIterator[Any]:
        async for _ in requests:
            yield members_pb2.ForwardResponse()


class OneConnection(Peer):
    """Naive: streams go over the connection of all other calls."""

    @contextmanager
    def streaming(self) -> Iterator[Any]:
        yield self.stub


@pytest.mark.parametrize(("made", "opened"), [(Peer, STREAMS), (OneConnection, A_CONNECTION)])
async def test_open_streams_keep_no_other_call_from_a_server(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, made: Callable[..., Peer], opened: int
) -> None:
    """With the naive peer the streams of which a connection is full make it look gone."""
    monkeypatch.setattr(members, "STREAMS_A_CONNECTION", A_CONNECTION)
    monkeypatch.setattr(members, "ANSWER_S", 0.5)
    adviser = Caller(Role.DATA_USER, "ADVISER", b"")
    monkeypatch.setattr(forwarding, "current_caller", lambda: adviser)
    authority = Authority.open_or_create(tmp_path / "identities")
    server = build_server(
        authority.issue_server(Role.DSI, "dsi-2"),
        [Service("spine.dsi.v1.Members", members_pb2_grpc.add_MembersServicer_to_server, Other())],
        limits=Limits(streams_per_connection=A_CONNECTION),
    )
    await server.start()
    channels = Channels(authority.issue_server(Role.DSI, "dsi-1").folder)
    peer = made(channels, f"127.0.0.1:{server.port}")
    await peer.ask(LOG, "dsi-1")
    passports: Any = SimpleNamespace(issue=lambda *_: members_pb2.ForwardRequest())
    forwarder, request = Forwarder(passports), dsi_pb2.StreamReadingsRequest()
    try:
        async with AsyncExitStack() as held:
            for _ in range(opened):
                stream = forwarder.stream(peer, "StreamReadings", request, 20.0)
                await held.enter_async_context(aclosing(stream))
                async with asyncio.timeout(5):
                    assert await anext(stream)
            for _ in range(MISSED_MAX):
                await peer.ask(LOG, "dsi-1")
            assert peer.gone.is_set() is (made is OneConnection)
        await peer.ask(LOG, "dsi-1")
        assert not peer.gone.is_set()
        assert not peer._streams.total()
    finally:
        await channels.close()
        await server.stop(0)
