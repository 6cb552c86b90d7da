"""Whether every fold has what the log holds: holes are looked for once, and no doubt is a yes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from spine.errors import Pushback, Reason
from spine.fold import FaustFolds
from spine.log import Kafka
from spine.log_thread import ReaderThread
from spine.rocks import DamagedStore
from spine.runtime import Process
from spine.services import background
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


async def test_who_waits_while_the_reader_is_closed_is_told_to_come_again() -> None:
    """The executor's own error would be told as one that nobody foresaw."""
    level = folds(Log(records=1))
    closed = ReaderThread(Kafka("nowhere:1"))
    await closed.close()
    level._ahead = Ahead(closed)
    with pytest.raises(Pushback):
        await level.level(0.4)
    with pytest.raises(RuntimeError):
        closed._thread.submit(int)


@pytest.mark.parametrize("error", [DamagedStore("a row"), Pushback(Reason.STARTING, "")])
@pytest.mark.parametrize("damaged", [True, False])
async def test_damage_that_is_met_beside_the_folds_ends_the_process_if_it_is_theirs(
    damaged: bool, error: Exception
) -> None:
    """Or it went on with a store that it knew to be damaged. What others write is not its own."""
    failures, ending = list[BaseException](), list[Callable[[], Any]]()
    level = folds(Log(records=0))
    level._on_failure = failures.append
    for live in level.folds.values():
        store: Any = SimpleNamespace(is_damaged=damaged and live.place == ("t", 3))
        live.stored.store = store
    process: Any = SimpleNamespace(name="metering", folds=level, on_end=ending.append)
    process.met = partial(Process.met, process)

    async def learn() -> None:
        raise error

    background.once(process, learn)
    await asyncio.sleep(0.01)
    for end in ending:
        await end()
    ends = damaged and isinstance(error, DamagedStore)
    assert failures == [error] * ends
