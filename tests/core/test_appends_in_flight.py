"""Places for appends of readings: each is given back, whatever becomes of the append."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from domains.consumers.decider import CONSUMERS
from domains.metering import METERING
from spine.services.recording import APPENDS_IN_FLIGHT, NOTHING, Recorder


def recorder(offset_of: Any, write: Any) -> Recorder:
    folds: Any = {
        (domain.topic, 0): SimpleNamespace(
            listeners=[], stored=SimpleNamespace(fold=SimpleNamespace(domain=domain))
        )
        for domain in (CONSUMERS, METERING)
    }
    deliveries: Any = SimpleNamespace(offset_of=offset_of, remember=lambda *_: None)
    writer: Any = SimpleNamespace(write=write)
    return Recorder(folds, writer, deliveries, 1)


def batch(number: int) -> Any:
    return SimpleNamespace(batch_id=bytes([number]), partition=0)


async def test_a_place_is_given_back_also_where_the_file_of_deliveries_cannot_be_read() -> None:
    """Or after eight of them nobody could record anything again."""
    broken = True

    def offset_of(batch_id: bytes) -> int | None:
        if broken:
            raise OSError("no such file")
        return 5 if batch_id == b"\x01" else None

    async def write(*_: Any) -> Any:
        await asyncio.sleep(0)
        return SimpleNamespace(offset=6)

    takes = recorder(offset_of, write)
    async with asyncio.timeout(5):
        for number in range(APPENDS_IN_FLIGHT + 1):
            with pytest.raises(OSError, match="no such file"):
                await takes.send(batch(number), NOTHING)
        broken = False
        sent = [await takes.send(batch(n), NOTHING) for n in (1, *range(2, 40), 39)]
        offsets = [await each.offset for each in sent]
        await takes.drain()
        await asyncio.sleep(0.01)
    assert [each.new for each in sent] == [False, *[True] * 38, False]
    assert offsets == [5, *[6] * 39]
    assert takes._slots._value == APPENDS_IN_FLIGHT
