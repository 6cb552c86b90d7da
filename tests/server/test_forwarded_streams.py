"""Streams that a server passes on to another are open for long, and keep out no other call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    aclosing,
    asynccontextmanager,
    contextmanager,
)
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

from spine.dsi import channels as opening
from spine.dsi import forwarding, members
from spine.dsi.channels import Channels
from spine.dsi.forwarding import Forwarder, PeerGone
from spine.dsi.members import MISSED_MAX, Peer
from spine.dsi.v1 import dsi_pb2, members_pb2, members_pb2_grpc
from spine.identity import Authority, Caller
from spine.listening import Limits
from spine.policy import Role
from spine.server import Service, build_server
from tests.helpers.line import Line, line_to

LOG = bytes(32)
A_CONNECTION, STREAMS = 4, 10
WAIT_S = 20.0


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


@dataclass
class Between:
    """A server that passes streams on, the other as it knows it, and the line between the two."""

    peer: Peer
    line: Line
    forwarder: Forwarder

    async def opened(self, held: AsyncExitStack) -> Any:
        """A stream on which one answer has come."""
        stream = self.forwarder.stream(
            self.peer, "StreamReadings", dsi_pb2.StreamReadingsRequest(), WAIT_S
        )
        await held.enter_async_context(aclosing(stream))
        async with asyncio.timeout(WAIT_S):
            assert await anext(stream)
        return stream


@pytest.fixture
def between(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Callable[..., Peer]], AbstractAsyncContextManager[Between]]:
    monkeypatch.setattr(members, "STREAMS_A_CONNECTION", A_CONNECTION)
    monkeypatch.setattr(members, "ANSWER_S", WAIT_S)
    adviser = Caller(Role.DATA_USER, "ADVISER", b"")
    monkeypatch.setattr(forwarding, "current_caller", lambda: adviser)
    authority = Authority.open_or_create(tmp_path / "identities")

    @asynccontextmanager
    async def two(made: Callable[..., Peer]) -> AsyncIterator[Between]:
        add = members_pb2_grpc.add_MembersServicer_to_server
        server = build_server(
            authority.issue_server(Role.DSI, "dsi-2"),
            [Service("spine.dsi.v1.Members", add, Other())],
            limits=Limits(streams_per_connection=A_CONNECTION),
        )
        await server.start()
        channels = Channels(authority.issue_server(Role.DSI, "dsi-1").folder)
        passports: Any = SimpleNamespace(issue=lambda *_: members_pb2.ForwardRequest())
        try:
            async with line_to(server.port) as (line, port):
                peer = made(channels, f"127.0.0.1:{port}")
                await peer.ask(LOG, "dsi-1")
                yield Between(peer, line, Forwarder(passports))
                await channels.close()
        finally:
            await server.stop(0)

    return two


@pytest.mark.parametrize(("made", "opened"), [(Peer, STREAMS), (OneConnection, A_CONNECTION)])
async def test_open_streams_keep_no_other_call_from_a_server(
    between: Any, made: Callable[..., Peer], opened: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the naive peer the streams of which a connection is full make it look gone."""
    async with between(made) as two:
        async with AsyncExitStack() as held:
            for _ in range(opened):
                await two.opened(held)
            if made is OneConnection:
                monkeypatch.setattr(members, "ANSWER_S", 0.5)
            for _ in range(MISSED_MAX):
                await two.peer.ask(LOG, "dsi-1")
            assert two.peer.gone.is_set() is (made is OneConnection)
        monkeypatch.setattr(members, "ANSWER_S", WAIT_S)
        await two.peer.ask(LOG, "dsi-1")
        assert not two.peer.gone.is_set()
        assert not two.peer._streams.total()


async def test_a_connection_that_takes_its_time_ends_no_stream(between: Any) -> None:
    """The first streams fill one connection; the next needs another while the server is busy."""
    async with between(Peer) as two, AsyncExitStack() as held:
        streams = [await two.opened(held) for _ in range(A_CONNECTION)]
        two.line.slow_s = 0.5
        streams.append(await two.opened(held))
        for stream in streams:
            async with asyncio.timeout(WAIT_S):
                assert await anext(stream)


async def test_a_connection_that_never_comes_is_not_waited_for_once_the_server_is_gone(
    between: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor would it give itself up by then."""
    monkeypatch.setattr(opening, "PATIENT", opening._options(60_000))
    async with between(Peer) as two, AsyncExitStack() as held:
        two.line.slow_s = 60.0
        waiting = asyncio.create_task(two.opened(held))
        await asyncio.sleep(0.1)
        two.peer.lost()
        with pytest.raises(PeerGone):
            async with asyncio.timeout(WAIT_S):
                await waiting


async def test_nor_does_one_that_fails(between: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The naive connection is given up before it is there; the stream that waits for it fails, and
    no other.
    """
    monkeypatch.setattr(opening, "PATIENT", opening.CHANNEL)
    async with between(Peer) as two, AsyncExitStack() as held:
        streams = [await two.opened(held) for _ in range(A_CONNECTION)]
        two.line.slow_s = 0.5
        with pytest.raises(PeerGone):
            await two.opened(held)
        assert not two.peer.gone.is_set()
        for stream in streams:
            async with asyncio.timeout(WAIT_S):
                assert await anext(stream)
