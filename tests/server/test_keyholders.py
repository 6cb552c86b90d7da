"""Whom a DSI server believes when it has seals opened, and for how long it waits."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from spine.consumers.v1 import seals_pb2, seals_pb2_grpc
from spine.dsi.keyholders import Keyholders
from spine.errors import Pushback, Reason
from spine.event import Sealed

SEALED = tuple(Sealed("k", bytes(12), b"x", f"notice/c-{number}") for number in range(2))
PLACE = (1, 23, 4)


@dataclass
class Coordinator(seals_pb2_grpc.SealsServicer):
    """Answers with these texts, or never."""

    texts: Sequence[str | None] | None
    after: asyncio.Event | None = None
    asked: list[Any] = field(default_factory=list)

    async def OpenSeals(self, request: Any, context: Any) -> Any:
        self.asked.append(request)
        if self.texts is None:
            await asyncio.Event().wait()
        if self.after is not None:
            await self.after.wait()
        opened = [{} if text is None else {"text": text} for text in self.texts or ()]
        return seals_pb2.OpenSealsResponse(opened=opened, digest=bytes(32))


@asynccontextmanager
async def keys_of(
    folder: Path, *coordinators: Coordinator
) -> AsyncIterator[tuple[Keyholders, list[str]]]:
    servers, addresses = [], []
    for coordinator in coordinators:
        server = grpc.aio.server()
        seals_pb2_grpc.add_SealsServicer_to_server(coordinator, server)
        addresses.append(f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}")
        await server.start()
        servers.append(server)
    runtime: Any = SimpleNamespace(settings=SimpleNamespace(data_dir=folder))
    keys = Keyholders(runtime, "dsi", addresses)

    for target in addresses:
        keys._channels._open[target, 0] = grpc.aio.insecure_channel(target)
    try:
        yield keys, addresses
    finally:
        await keys.close()
        for server in servers:
            await server.stop(None)


async def test_a_coordinator_that_hangs_starves_nobody_behind_it(tmp_path: Path) -> None:
    hangs, answers = Coordinator(None), Coordinator(["one", "two"])
    async with keys_of(tmp_path, hangs, answers) as (keys, (first, _)):
        opened = await keys.open(SEALED, PLACE, time.monotonic() + 20)
        assert opened.texts == ("one", "two")
        at = answers.asked[0].read
        assert (at.partition, at.offset, at.entry) == PLACE

        # The naive way: one after the other. The first has used up the time of all.
        assert await keys._ask(first, at, 2, 0.5) is None


async def test_who_opens_less_is_believed_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    less, least, whole = (
        Coordinator(texts) for texts in (["one", None], [None, None], ["one", "two"])
    )
    until = time.monotonic() + 20
    whole.after, asks, heard = asyncio.Event(), Keyholders._ask, list[str]()

    async def ask(self: Keyholders, target: str, *of: Any) -> Any:
        opened = await asks(self, target, *of)
        heard.append(target)
        if len(heard) == 2:  # the others have answered
            assert whole.after is not None
            whole.after.set()
        return opened

    monkeypatch.setattr(Keyholders, "_ask", ask)
    async with keys_of(tmp_path, least, less, whole) as (keys, _):
        assert (await keys.open(SEALED, PLACE, until)).texts == ("one", "two")
    async with keys_of(tmp_path, least, less) as (keys, _):
        assert (await keys.open(SEALED, PLACE, until)).texts == ("one", None)


async def test_while_our_own_key_is_away_who_was_asked_before_still_answers(tmp_path: Path) -> None:
    answers = Coordinator(["one", "two"])
    async with keys_of(tmp_path, answers) as (keys, addresses):
        keys._addresses = ("127.0.0.1:1", *addresses)
        assert (await keys.open(SEALED, PLACE, time.monotonic() + 20)).texts == ("one", "two")
        keys._addresses = ("127.0.0.1:1",)
        with pytest.raises(Pushback) as error:
            await keys.open(SEALED, PLACE, time.monotonic() + 20)
        assert error.value.reason is Reason.KEYS_NOT_AT_HAND


async def test_one_that_hangs_leaves_time_for_what_another_opened(tmp_path: Path) -> None:
    hangs, less = Coordinator(None), Coordinator(["one", None])
    async with keys_of(tmp_path, hangs, less) as (keys, _):
        until = time.monotonic() + 2
        assert (await keys.open(SEALED, PLACE, until)).texts == ("one", None)


async def test_an_answer_to_something_else_is_none(tmp_path: Path) -> None:
    async with keys_of(tmp_path, Coordinator(["one"])) as (keys, _):
        with pytest.raises(Pushback) as refused:
            await keys.open(SEALED, PLACE, time.monotonic() + 20)
    assert refused.value.reason is Reason.KEYS_NOT_AT_HAND


async def test_without_time_nobody_is_asked(tmp_path: Path) -> None:
    answers = Coordinator(["one", "two"])
    async with keys_of(tmp_path, answers) as (keys, _):
        with pytest.raises(Pushback) as refused:
            await keys.open(SEALED, PLACE, time.monotonic())
    assert refused.value.reason is Reason.PERMIT_EXPIRED and answers.asked == []
