"""A fold that stands still is ended; one that is outrun, and moves, is neither ended nor slowed."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Iterator
from types import SimpleNamespace
from typing import Any, TypeVar, cast

import pytest

from spine import telemetry, watchdog
from spine.errors import Pushback, Reason
from spine.live import LiveFold
from spine.watchdog import IN_LINE_FOR_S, STALLED_AFTER_S, Ahead, Watchdog

TOPIC, OTHER_TOPIC = "metering.events.v1", "consumers.events.v1"
PLACES = [(TOPIC, partition) for partition in range(6)]
LOOK_EVERY_S = 2.0
# A bulk record's fold on a busy machine, and what it took to fetch eight megabytes of them there.
FOLD_S = 0.02
ASKING_S = 5.0
T = TypeVar("T")


class Outrun:
    """A process with one line of records, a clock of its own, and the log that it reads."""

    def __init__(self, line: Collection[tuple[str, int]] = ()) -> None:
        self.now = 1_000.0
        self.line = deque(line)
        self.asked = list[tuple[str, int]]()
        self.ends_of = dict.fromkeys([*PLACES, (OTHER_TOPIC, 0)], 5)
        for place in line:
            self.ends_of[place] += 1
        self.holes = set[tuple[str, int]]()
        self.failures = list[BaseException]()
        self.folds = {place: self.fold(place) for place in PLACES}
        self.dog = self.watched_by(Ahead)

    def watched_by(self, ahead: Callable[[Any], Ahead]) -> Watchdog:
        return Watchdog(self.folds, cast(Any, self), ahead(self), self.failures.append)

    def fold(self, place: tuple[str, int]) -> LiveFold:
        stored: Any = SimpleNamespace(topic=place[0], partition=place[1], next_offset=5)
        made = LiveFold(stored)
        made.by_faust, made.moved_at = True, self.now
        return made

    def moves(self, place: tuple[str, int]) -> None:
        self.folds[place].stored.next_offset += 1
        self.folds[place].moved_at = self.now

    def works(self, seconds: float, share: float = 1.0) -> None:
        """Let time pass in which the line is folded, by that share of the processor."""
        end = self.now + seconds
        while self.line and self.now + FOLD_S / share <= end:
            self.now += FOLD_S / share
            self.moves(self.line.popleft())
        self.now = end

    async def run(self, work: Callable[[Any], T]) -> T:
        await asyncio.sleep(0)
        return work(self)

    def ends(
        self, places: Collection[tuple[str, int]], within_s: float | None = None
    ) -> dict[tuple[str, int], int]:
        return {place: self.ends_of[place] for place in places}

    def read(self, topic: str, partition: int, *_: int) -> Iterator[object]:
        self.asked.append((topic, partition))
        self.works(ASKING_S, share=0.5)
        return iter([] if (topic, partition) in self.holes else [object()])

    async def looked_at_for(self, seconds: float) -> float:
        """What the last look said; looked at as a process does, until then or until it ends."""
        end, still_s = self.now + seconds, 0.0
        while self.now < end and not self.failures:
            self.works(LOOK_EVERY_S)
            still_s = await self.dog.look()
        return still_s


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> list[Outrun]:
    """The clock of whichever process was made last."""
    made = list[Outrun]()
    begin = Outrun.__init__

    def kept(self: Outrun, *args: Any) -> None:
        made.append(self)
        begin(self, *args)

    monkeypatch.setattr(Outrun, "__init__", kept)
    told = SimpleNamespace(monotonic=lambda: made[-1].now)
    monkeypatch.setattr(watchdog, "time", told)
    return made


class Forgetful(Ahead):
    """As it was: the log is asked at every look."""

    def is_hole(self, live: LiveFold, end: int) -> bool:
        return False

    async def holds_more(self, live: LiveFold, end: int) -> bool:
        self._waits.clear()
        return await super().holds_more(live, end)


def bulk() -> list[tuple[str, int]]:
    """Bulk records of one partition, for more than a minute, and then one of each other."""
    return [PLACES[0]] * 4_000 + PLACES[1:]


async def test_a_process_that_is_outrun_goes_on_and_asks_the_log_once_of_each_fold() -> None:
    process = Outrun(bulk())
    await process.looked_at_for(200)
    assert not process.failures
    assert not process.line
    assert sorted(process.asked) == PLACES[1:]


async def test_the_old_watch_slows_that_process_and_ends_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watchdog, "ASKED_ABOUT_AFTER_S", 0.0)
    slowed = Outrun(bulk())
    slowed.dog = slowed.watched_by(Forgetful)
    began = slowed.now
    await slowed.looked_at_for(60)
    folded = (len(bulk()) - len(slowed.line)) * FOLD_S
    assert folded < 0.6 * (slowed.now - began), "it spends its time on asking"
    monkeypatch.setattr(watchdog, "IN_LINE_FOR_S", STALLED_AFTER_S)
    ended = Outrun(bulk())
    ended.dog = ended.watched_by(Forgetful)
    await ended.looked_at_for(200)
    assert "stands still" in str(ended.failures[0])
    assert ended.line, "and it had been moving all the time"


async def test_a_fold_that_nobody_moves_ends_the_process() -> None:
    process = Outrun()
    process.ends_of[PLACES[3]] += 1
    began = process.now
    await process.looked_at_for(STALLED_AFTER_S + 20)
    assert str(process.failures[0]) == f"{TOPIC}-3 stands still"
    assert process.asked == [PLACES[3]]
    assert process.now - began > STALLED_AFTER_S


@pytest.mark.parametrize("beside", ["another topic", "a fold that Faust does not move"])
async def test_what_moves_in_another_line_excuses_nobody(beside: str) -> None:
    process = Outrun()
    process.ends_of[PLACES[3]] += 1
    moving = PLACES[0]
    if beside == "another topic":
        moving = (OTHER_TOPIC, 0)
        process.folds[moving] = process.fold(moving)
    else:
        process.folds[moving].by_faust = False
    process.line = deque([moving] * 100_000)
    await process.looked_at_for(STALLED_AFTER_S + 20)
    assert [str(failure) for failure in process.failures] == [f"{TOPIC}-3 stands still"]


async def test_folds_that_stand_by_wait_in_one_line_whatever_their_topics() -> None:
    process = Outrun()
    process.ends_of[PLACES[3]] += 1
    moving = (OTHER_TOPIC, 0)
    process.folds[moving] = process.fold(moving)
    for live in process.folds.values():
        live.by_faust = False
    process.line = deque([moving] * 100_000)
    await process.looked_at_for(STALLED_AFTER_S + 20)
    assert not process.failures


async def test_it_is_said_within_seconds_that_a_fold_stands_still_and_its_line_too() -> None:
    """A process says by it that it does not serve, long before it ends."""
    process = Outrun([PLACES[0]] * 5)
    process.ends_of[PLACES[3]] += 1
    still_s = await process.looked_at_for(STALLED_AFTER_S - 5)
    assert not process.failures
    assert STALLED_AFTER_S / 2 < still_s < STALLED_AFTER_S


async def test_a_fold_that_is_passed_over_for_minutes_ends_the_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The process serves until then; the lag says so meanwhile."""
    lag_ms: dict[int, int] = {}

    def told(value: int, where: dict[str, Any]) -> None:
        lag_ms[where["partition"]] = value

    monkeypatch.setattr(telemetry, "view_lag_ms", SimpleNamespace(set=told))
    process = Outrun([PLACES[0]] * 100_000)
    process.ends_of[PLACES[3]] += 1
    began = process.now
    still_s = await process.looked_at_for(IN_LINE_FOR_S - 20)
    assert not process.failures
    assert still_s == pytest.approx(0.0, abs=1e-6)
    assert lag_ms[PLACES[3][1]] > STALLED_AFTER_S * 1000
    await process.looked_at_for(60)
    assert [str(failure) for failure in process.failures] == [f"{TOPIC}-3 stands still"]
    assert process.now - began > IN_LINE_FOR_S


async def test_a_log_that_ends_in_a_hole_is_asked_about_once_and_is_no_lag() -> None:
    process = Outrun()
    process.holes.add(PLACES[3])
    process.ends_of[PLACES[3]] += 1
    assert await process.looked_at_for(600) == 0.0
    assert not process.failures
    assert process.asked == [PLACES[3]]
    process.ends_of[PLACES[3]] += 1  # further on there may be a record: it is looked for
    assert await process.looked_at_for(600) == 0.0
    assert process.asked == [PLACES[3]] * 2
    process.holes.clear()
    process.ends_of[PLACES[3]] += 1
    await process.looked_at_for(STALLED_AFTER_S + 20)
    assert process.failures


async def test_of_many_who_ask_at_once_one_asks_the_log() -> None:
    process = Outrun()
    process.ends_of[PLACES[3]] += 1
    ahead, live = Ahead(cast(Any, process)), process.folds[PLACES[3]]
    found = await asyncio.gather(*(ahead.holds_more(live, 6) for _ in range(50)))
    assert found == [True] * 50
    assert process.asked == [PLACES[3]]
    assert not await ahead.holds_more(live, live.next_offset), "there is nothing to ask about"
    assert process.asked == [PLACES[3]]


async def test_a_log_that_does_not_say_what_it_holds_is_no_excuse(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    process = Outrun()

    def silent(*_: Any) -> Iterator[object]:
        raise Pushback(Reason.LOG_UNREACHABLE, "the log does not answer")

    monkeypatch.setattr(process, "read", silent)
    process.ends_of[PLACES[3]] += 1
    await process.looked_at_for(STALLED_AFTER_S + 20)
    assert process.failures


async def test_a_fold_that_moves_while_the_log_is_asked_stands_no_longer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    process = Outrun()
    process.ends_of[PLACES[3]] += 2
    read = process.read

    def moved(*where: Any) -> Iterator[object]:
        process.moves(PLACES[3])
        return read(*where)

    monkeypatch.setattr(process, "read", moved)
    while not process.asked:
        still_s = await process.looked_at_for(LOOK_EVERY_S)
    assert still_s == 0.0


async def test_a_place_that_was_given_away_and_comes_back_begins_anew() -> None:
    process = Outrun()
    process.ends_of[PLACES[3]] += 1
    await process.looked_at_for(STALLED_AFTER_S - 10)
    away = process.folds.pop(PLACES[3])
    await process.looked_at_for(600)
    process.folds[PLACES[3]] = away
    assert await process.looked_at_for(LOOK_EVERY_S) == 0.0
    assert not process.failures
