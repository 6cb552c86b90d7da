"""Whether every fold has what the log holds: holes are looked for once, and no doubt is a yes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from spine.errors import Pushback
from spine.fold import FaustFolds
from spine.log import Kafka
from spine.watchdog import Ahead

PLACES = 5
NEXT = 5


class Log:
    """Partitions that end behind the folds, with a record there or a hole."""

    def __init__(self, records: int) -> None:
        self.records = records
        self.looked = 0

    def ends(self, places: Any, within_s: float | None = None) -> dict[Any, int]:
        return dict.fromkeys(places, NEXT + 1)

    def read(self, *_: Any) -> Iterator[object]:
        self.looked += 1
        return iter([object()] * self.records)


def folds(log: Log) -> FaustFolds:
    """Folds that nothing reaches any more, over that log."""
    stored: list[Any] = [
        SimpleNamespace(topic="t", partition=partition, next_offset=NEXT)
        for partition in range(PLACES)
    ]
    made = FaustFolds("level", Kafka("nowhere:1"), stored, datadir=Path())
    for live in made.folds.values():
        live.by_faust = True

    async def run(work: Callable[[Any], Any]) -> Any:
        return work(log)

    reader: Any = SimpleNamespace(run=run)
    made._reader, made._ahead = reader, Ahead(reader)
    return made


async def test_what_was_found_to_be_a_hole_is_not_waited_for_again() -> None:
    log = Log(records=0)
    level = folds(log)
    await level.level(10)
    assert log.looked == PLACES
    await level.level(10)
    assert log.looked == PLACES
    for live in level.folds.values():
        live.stored.next_offset = NEXT - 1  # another stretch: nobody has looked there
    await level.level(10)
    assert log.looked == 2 * PLACES


async def test_a_record_that_is_not_folded_is_no_hole_and_is_looked_for_once() -> None:
    log = Log(records=1)
    level = folds(log)
    for _ in range(2):
        with pytest.raises(Pushback):
            await level.level(0.4)
    assert log.looked == PLACES


async def test_a_process_that_stops_meanwhile_does_not_say_that_it_is_level() -> None:
    level = folds(Log(records=1))
    asked = asyncio.create_task(level.level(0.4))
    await asyncio.sleep(0.05)
    level._reader = level._ahead = None
    with pytest.raises(Pushback):
        await asked
