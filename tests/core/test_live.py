"""A fold in motion: what is read on beside a stream leaves others of the process their turns."""

from __future__ import annotations

import asyncio
import math
from types import SimpleNamespace
from typing import Any

import pytest

from spine import live
from spine.event import LogRecord
from spine.live import LiveFold, heal
from spine.rows import Applied

RECORDS = 40


class Stored:
    """A fold that says of each record that it came next."""

    topic, partition = "t", 0

    def __init__(self) -> None:
        self.next_offset, self.folded = 0, list[int]()

    def apply(self, record: LogRecord) -> Applied:
        self.folded.append(record.offset)
        self.next_offset = record.offset + 1
        return Applied(applied=1)


class Log:
    """Both the log and the thread that reads it."""

    def __init__(self, records: list[LogRecord]) -> None:
        self._records = records

    def read(self, topic: str, partition: int, start: int, end: int | None) -> Any:
        return (each for each in self._records if start <= each.offset < (end or RECORDS))

    async def run(self, work: Any) -> Any:
        return work(self)


@pytest.mark.parametrize(("turn_s", "turns"), [(-1.0, RECORDS), (math.inf, 0)])
def test_others_have_their_turn_while_bulk_records_are_read_on(
    monkeypatch: pytest.MonkeyPatch, turn_s: float, turns: int
) -> None:
    """And each record is folded once, though two read on. In the naive variant others have none."""
    monkeypatch.setattr(live, "TURN_S", turn_s)
    records: Any = [
        SimpleNamespace(topic="t", offset=n, header=lambda _: None) for n in range(RECORDS)
    ]
    stored: Any = Stored()
    taken = 0

    async def others() -> None:
        nonlocal taken
        while stored.next_offset < RECORDS:
            await asyncio.sleep(0)
            taken += stored.next_offset < RECORDS

    async def together() -> None:
        beside = asyncio.create_task(others())
        reader: Any = Log(records)
        moving = LiveFold(stored)
        await asyncio.gather(heal(reader, moving), heal(reader, moving))
        await beside

    asyncio.run(together())
    assert stored.folded == list(range(RECORDS))
    assert taken >= turns - 2 if turns else taken == 0
