"""What the group gives a process is opened beside all else that it folds, and only while it is its
own; a log that does not answer for a while is asked again.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from domains.consumers.decider import CONSUMERS
from domains.governance.decider import GOVERNANCE
from spine import fold, replay, telemetry, trust
from spine.errors import Pushback, Reason
from spine.event import LogRecord
from spine.fold import FaustFolds
from spine.log import Kafka
from spine.log_thread import ReaderThread
from spine.replay import StoredFold
from spine.rocks import DamagedStore, damage
from spine.store import StoreInUse
from tests.helpers.records import LOG_ID, PARTITION, TOOLS, MemoryLog
from tests.helpers.stories import consumers_story

STORY, LATER = consumers_story()[:-2], consumers_story()[-2:]
PLACE, OTHER = (trust.CONSUMER_LOG, PARTITION), (trust.CONSUMER_LOG, PARTITION + 1)
SOON_S = 5.0


class SlowLog(MemoryLog):
    """A log that gives its second record only when told to, or does not answer a few times."""

    def __init__(self, *records: LogRecord) -> None:
        super().__init__(*records)
        self.reached, self.go_on = threading.Event(), threading.Event()
        self.unanswered = 0

    def close(self) -> None:
        """Disconnect."""

    def read(
        self, topic: str, partition: int, start: int, end: int | None = None
    ) -> Iterator[LogRecord]:
        for record in super().read(topic, partition, start, end):
            if self.unanswered:
                self.unanswered -= 1
                raise Pushback(Reason.LOG_UNREACHABLE, "the log does not answer")
            if record.offset == 1:
                self.reached.set()
                self.go_on.wait(SOON_S)
            yield record


class Taking:
    """The folds of a process whose group is what a test says, over that log."""

    def __init__(self, folder: Path, log: SlowLog) -> None:
        self.folder, self.log = folder, log
        self.failures = list[BaseException]()
        self.opened = list[StoredFold]()
        self.folds = FaustFolds(
            "taking",
            Kafka("nowhere:1"),
            [],
            datadir=folder,
            opens={place: partial(self.open, place) for place in (PLACE, OTHER)},
            on_failure=self.failures.append,
        )
        self.folds._reader, self.folds._opener = (ReaderThread(Kafka("nowhere:1")) for _ in "12")
        nobody: Any = SimpleNamespace(add=lambda live: None, close=lambda: asyncio.sleep(0))
        self.folds._followers = nobody

    def open(self, place: tuple[str, int]) -> StoredFold:
        path = self.folder / str(place[1])
        args = (path, *place, LOG_ID, TOOLS, CONSUMERS, GOVERNANCE, b"set")
        self.opened.append(StoredFold(*args))
        return self.opened[-1]

    async def given(self, *places: tuple[str, int]) -> None:
        """What the group says from now on."""
        given = [SimpleNamespace(topic=topic, partition=partition) for topic, partition in places]
        await self.folds._on_assigned(None, given)

    async def until_reached(self) -> None:
        assert await asyncio.to_thread(self.log.reached.wait, SOON_S)

    async def settled(self) -> None:
        async with asyncio.timeout(2 * SOON_S):
            while self.folds._tasks:
                await asyncio.sleep(0.01)

    def reopened(self, place: tuple[str, int]) -> int:
        """Where the store of a place that nobody has open stands."""
        again = self.open(place)
        again.close()
        return again.next_offset


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> SlowLog:
    made = SlowLog(*STORY)
    monkeypatch.setattr("spine.log_thread.LogReader", lambda *_: made)
    monkeypatch.setattr(fold, "HEAL_AFTER_ASSIGNMENT_S", ())
    monkeypatch.setattr(fold, "OPEN_AGAIN_S", 0.01)
    monkeypatch.setattr(replay, "RECORDS_PER_COMMIT", 1)
    return made


@pytest.fixture
def taking(tmp_path: Path, log: SlowLog) -> Iterator[Taking]:
    made = Taking(tmp_path, log)
    yield made
    log.go_on.set()
    made.folds.close()
    assert made.failures == []


@pytest.mark.parametrize("how", ["apart", "naive"])
async def test_others_are_read_on_while_a_store_is_rebuilt(
    taking: Taking, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    if how == "naive":
        assert taking.folds._reader is not None
        monkeypatch.setattr(taking.folds._opener, "run", taking.folds._reader.run)
    await taking.given(OTHER)
    await taking.settled()
    await taking.given(OTHER, PLACE)
    await taking.until_reached()
    read_on = asyncio.create_task(taking.folds._heal(taking.folds[OTHER]))
    done, _ = await asyncio.wait([read_on], timeout=0.5)
    assert bool(done) == (how == "apart")
    taking.log.go_on.set()
    await read_on
    await taking.settled()
    assert taking.folds[PLACE].next_offset == len(STORY)
    assert taking.folds.claims.keys() == {PLACE, OTHER}
    await taking.folds.stop()


@pytest.mark.parametrize("while_it", ["is rebuilt", "is handed over"])
async def test_what_is_given_away_while_it_is_opened_is_neither_kept_nor_claimed(
    taking: Taking, monkeypatch: pytest.MonkeyPatch, while_it: str
) -> None:
    """And whoever is given it again can open it."""
    if while_it == "is handed over":  # the rebuild itself notices nothing
        rebuild = replay.rebuild
        monkeypatch.setattr(fold, "rebuild", lambda stored, log, progress: rebuild(stored, log))
    await taking.given(PLACE)
    await taking.until_reached()
    await taking.given()
    taking.log.go_on.set()
    await taking.settled()
    assert not taking.folds.folds and not taking.folds.claims
    assert taking.reopened(PLACE) == (len(STORY) if while_it == "is handed over" else 2)
    await taking.given(PLACE)
    await taking.settled()
    assert taking.folds[PLACE].next_offset == len(STORY)
    assert taking.folds.claims.keys() == {PLACE}
    await taking.folds.stop()


async def test_what_comes_back_is_claimed_anew(
    taking: Taking, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or who had it in between, and claimed it later, would never let go."""
    times = iter(range(1_000, 2_000))
    monkeypatch.setattr(fold, "_now_ms", lambda: next(times))
    taking.log.go_on.set()
    await taking.given(PLACE, OTHER)
    await taking.settled()
    first = dict(taking.folds.claims)
    await taking.given(OTHER)
    between = next(times)
    await taking.given(PLACE, OTHER)
    await taking.settled()
    assert first[PLACE] < between < taking.folds.claims[PLACE]
    assert taking.folds.claims[OTHER] == first[OTHER]
    await taking.folds.stop()


async def test_a_process_that_stops_does_not_wait_for_a_rebuild(taking: Taking) -> None:
    """And lets go of the store, which goes on from there when it is opened again."""
    await taking.given(PLACE, OTHER)
    await taking.until_reached()
    stopping = asyncio.create_task(taking.folds.stop())
    await asyncio.sleep(0.05)
    taking.log.go_on.set()
    await stopping
    assert not taking.folds.folds and not taking.folds.claims
    assert taking.reopened(PLACE) == 2
    assert len(taking.opened) == 2, "nothing else is opened any more"


async def test_a_log_that_does_not_answer_is_asked_again_and_others_are_opened_meanwhile(
    taking: Taking,
) -> None:
    taking.log.unanswered = 3
    taking.log.go_on.set()
    await taking.given(PLACE, OTHER)
    await taking.settled()
    assert taking.failures == []
    assert [stored.partition for stored in taking.opened] == [3, 4, 3, 3, 3]
    assert taking.folds[PLACE].next_offset == len(STORY)
    await taking.folds.stop()


async def test_what_the_log_does_not_answer_for_has_a_lag_until_it_is_opened(
    taking: Taking, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else nothing but a log line would tell of it: the process folds all others, and serves."""
    told = dict[tuple[Any, Any], list[int]]()

    def tell(lag_ms: int, where: dict[str, Any]) -> None:
        told.setdefault((where["topic"], where["partition"]), []).append(lag_ms)

    async def look() -> float:
        return 0.0

    monkeypatch.setattr(telemetry, "view_lag_ms", SimpleNamespace(set=tell))
    monkeypatch.setattr(fold, "WATCH_EVERY_S", 0.01)
    dog: Any = SimpleNamespace(look=look)
    taking.log.unanswered = 10
    taking.log.go_on.set()
    watching = asyncio.create_task(taking.folds._watch(dog))
    await taking.given(PLACE, OTHER)
    await taking.settled()
    await asyncio.sleep(0.05)
    watching.cancel()
    *waited, opened = told[PLACE]
    assert waited == sorted(waited) and waited[-1] >= 50 and opened == 0
    assert told.keys() == {PLACE} and taking.folds.folds.keys() == {PLACE, OTHER}
    await taking.folds.stop()


async def test_a_store_that_a_reader_marks_as_damaged_ends_the_process_that_writes_it(
    taking: Taking, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or reads of it would fail until somebody starts that process again."""

    async def look() -> float:
        return 0.0

    monkeypatch.setattr(fold, "WATCH_EVERY_S", 0.01)
    dog: Any = SimpleNamespace(look=look)
    taking.log.go_on.set()
    await taking.given(PLACE, OTHER)
    await taking.settled()
    watching = asyncio.create_task(taking.folds._watch(dog))
    await asyncio.sleep(0.05)
    assert not taking.failures
    damage(taking.folds[OTHER].stored.store.path, ValueError("lost"))
    await asyncio.sleep(0.05)
    watching.cancel()
    assert {type(each) for each in taking.failures} == {DamagedStore}
    taking.failures.clear()
    await taking.folds.stop()


async def test_what_catches_up_after_its_log_was_silent_has_no_lag_meanwhile(
    taking: Taking, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To rebuild a store may take minutes, and nothing stands still then."""
    told = list[int]()
    gauge = SimpleNamespace(set=lambda lag_ms, where: told.append(lag_ms))
    monkeypatch.setattr(telemetry, "view_lag_ms", gauge)
    taking.log.unanswered = 1
    await taking.given(PLACE)
    await taking.until_reached()
    await asyncio.sleep(0.01)
    taking.folds._unopened.tell({PLACE})
    assert told == [0]
    taking.folds._unopened.add(PLACE)
    taking.folds._unopened.tell({PLACE})
    assert len(told) == 2, "what is silent again counts anew"
    taking.log.go_on.set()
    await taking.settled()
    await taking.folds.stop()


@pytest.mark.parametrize(
    "error", [OSError("read-only"), DamagedStore("again"), StoreInUse("it is")]
)
async def test_a_store_that_cannot_be_opened_ends_the_process(
    taking: Taking, error: Exception
) -> None:
    """Only a log that does not answer is asked again: that passes, and a restart brings nothing."""

    def open_store(*_: Any) -> StoredFold:
        raise error

    taking.folds._opens = {PLACE: open_store}
    await taking.given(PLACE)
    await taking.settled()
    assert taking.failures == [error]
    taking.failures.clear()
    await taking.folds.stop()


async def test_faust_is_not_trusted_with_a_fold_that_it_went_past(
    taking: Taking, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until the log has answered what was left out, or Faust gives something new."""
    monkeypatch.setattr(fold, "HEAL_AFTER_ASSIGNMENT_S", (0.0, 0.2))
    taking.log.go_on.set()
    await taking.given(PLACE)
    while PLACE not in taking.folds.claims:
        await asyncio.sleep(0.01)
    for record in LATER:
        taking.log.keep(record)
    taking.log.unanswered = 3
    await taking.folds._deliver(LATER[-1])
    await taking.settled()
    live = taking.folds[PLACE]
    assert (live.next_offset, live.by_faust) == (len(STORY), False)
    await taking.given(PLACE)
    await taking.settled()
    assert (live.next_offset, live.by_faust) == (len(STORY) + len(LATER), True)
    await taking.folds.stop()


async def test_what_is_another_s_now_follows_the_log_by_itself(taking: Taking) -> None:
    taking.log.go_on.set()
    await taking.given(PLACE, OTHER)
    await taking.settled()
    assert taking.folds[PLACE].by_faust and taking.folds[OTHER].by_faust
    await taking.given(OTHER)
    assert not taking.folds[PLACE].by_faust
    await taking.settled()
    assert not taking.folds[PLACE].by_faust and taking.folds[OTHER].by_faust
    await taking.folds.stop()


async def test_a_record_after_a_gap_that_the_log_does_not_fill_yet_is_not_folded(
    taking: Taking,
) -> None:
    """The fold follows the log by itself until Faust gives it something new again."""
    taking.log.go_on.set()
    await taking.given(PLACE)
    await taking.settled()
    live = taking.folds[PLACE]
    assert live.by_faust
    for record in LATER:
        taking.log.keep(record)
    taking.log.unanswered = 1
    await taking.folds._deliver(LATER[-1])
    assert live.next_offset == len(STORY)
    assert not live.by_faust
    await taking.folds._deliver(LATER[-1])
    assert live.next_offset == len(STORY) + len(LATER)
    assert live.stored.fold.head is not None and live.stored.fold.head.holes == 0
    assert live.by_faust
    await taking.folds.stop()
