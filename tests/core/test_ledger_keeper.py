"""What the ledger's process does where its log is another one, or not to be looked at: no heads.

The real keeper, over a log that is a list and a broker that takes everything.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from spine import trust
from spine.errors import Pushback, Reason
from spine.event import LogRecord
from spine.files import write_whole
from spine.ledger import book as books
from spine.ledger import process, published
from spine.ledger.cosigning import Cosigned, Witnesses
from spine.ledger.note import Checkpoint, PublishedHead
from spine.ledger.process import Keeper
from spine.log import Kafka, LogUnfit
from spine.opening import LogIdentity
from spine.signing import verify
from tests.helpers.ledger import PLACES, open_book, record, sealed
from tests.helpers.records import CODEC

WAIT_S = 30.0
# So many rounds of the event loop and its threads that whatever is due would have happened.
ROUNDS = 40
Place = tuple[str, int]
IDENTITY = LogIdentity.new(bytes(32), 2, datetime(2026, 1, 1, tzinfo=UTC))


@dataclass
class Log:
    """What its readers are told, and the heads that were published in it."""

    records: list[LogRecord] = field(default_factory=list)
    rewritten: bool = False
    ends_at: int | None = None
    looks: int = 0
    fails: Exception | None = None
    answers: bool = False
    heads: list[bytes] = field(default_factory=list)
    appended_ms: list[int] = field(default_factory=list)
    behind_ms: int = 0

    def write(self) -> None:
        self.records.append(record(len(self.records)))

    async def append(self, topic: str, partition: int, *given: Any) -> None:
        self.heads.append(given[-1])
        self.appended_ms.append(time.time_ns() // 1_000_000 - self.behind_ms)

    def published(self) -> list[LogRecord]:
        """The topic of the heads, with the times at which each was appended."""
        place, times = (trust.CHECKPOINTS_TOPIC, 0), enumerate(self.appended_ms)
        return [LogRecord(*place, n, at, None, (), self.heads[n]) for n, at in times]

    def follower(self, kafka: Kafka, begin: dict[Place, int]) -> Follower:
        return Follower(self, begin[PLACES[0]])

    def reader(self, kafka: Kafka) -> Reader:
        return Reader(self)


@dataclass
class Follower:
    log: Log
    next: int

    def poll(self, timeout_ms: int) -> list[LogRecord]:
        came = self.log.records[self.next :]
        self.next += len(came)
        return came

    def read_to_end(self, places: Iterable[Place]) -> list[Place]:
        return [place for place in places if self.next == self.log.ends_at]

    def close(self) -> None:
        """Nothing is held."""


@dataclass
class Reader:
    log: Log

    def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        return 0, len(self.log.heads)

    def offset_at(self, topic: str, partition: int, epoch_ms: int) -> int:
        return sum(each.append_ms < epoch_ms for each in self.log.published())

    def read(self, topic: str, partition: int, start: int) -> list[LogRecord]:
        return self.log.published()[start:]

    def found_at(self, offsets: dict[Place, int]) -> Iterator[tuple[Place, LogRecord | None]]:
        self.log.looks += 1
        says = "rewritten" if self.log.rewritten else ""
        for place, offset in offsets.items():
            if self.log.fails is None or self.log.answers:
                yield place, record(offset, place, says)
        if self.log.fails is not None:
            raise self.log.fails

    def close(self) -> None:
        """Nothing is held."""


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Iterator[Log]:
    log = Log()
    log.write()
    monkeypatch.setattr(process, "LogFollower", log.follower)
    monkeypatch.setattr(process, "PointReader", log.reader)
    monkeypatch.setattr(process, "ANSWERED_S", 0.001)
    monkeypatch.setattr(process, "CHECK_LOG_EVERY_S", 0.01)
    yield log


def keeper_of(log: Log, tmp_path: Path) -> Keeper:
    """A keeper of that log which needs no witness."""
    return Keeper(
        tmp_path / "ledger",
        Kafka("nowhere:1"),
        IDENTITY,
        PLACES,
        CODEC,
        log,  # type: ignore[arg-type]
        Witnesses(dict, 0),
        epoch_s=0.001,
    )


@asynccontextmanager
async def kept(log: Log, tmp_path: Path) -> AsyncIterator[Keeper]:
    """It runs, and has published its first head."""
    keeper = keeper_of(log, tmp_path)
    await keeper.start()
    try:
        await until(lambda: size_published(keeper) == 1)
        yield keeper
    finally:
        await keeper.stop()


def size_published(keeper: Keeper) -> int:
    assert keeper.book is not None
    note = keeper.book.published
    return Checkpoint.parse(note.text).size if note else 0


async def until(what: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not what():
            await asyncio.sleep(0.005)


async def signs_nothing_more(keeper: Keeper, log: Log) -> None:
    """Whatever comes in now is under no head, sealed or published."""
    assert keeper.book is not None
    await until(lambda: all(task.done() for task in keeper._tasks))  # what was under way ended
    before = keeper.book.size, size_published(keeper), len(log.heads)
    for _ in range(ROUNDS):
        log.write()
        await asyncio.sleep(0.005)
    assert (keeper.book.size, size_published(keeper), len(log.heads)) == before
    with pytest.raises(LogUnfit):
        keeper.sign("anything else\n")


def unwritable(path: Path, content: bytes, *, sync: bool) -> None:
    raise OSError(28, "No space left on device")


# What it reads


@pytest.mark.parametrize(("many", "heads"), [(process.MANY, 2), (0, 3)])
async def test_a_head_covers_what_came_since_the_client_last_asked(
    log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, many: int, heads: int
) -> None:
    """A poll gives what was asked for beforehand; the naive reader seals that and pauses."""

    def one(follower: Follower, timeout_ms: int) -> list[LogRecord]:
        came = follower.log.records[follower.next :][:1]
        follower.next += len(came)
        return came

    monkeypatch.setattr(Follower, "poll", one)
    async with kept(log, tmp_path) as keeper:
        monkeypatch.setattr(process, "MANY", many)
        log.write()
        log.write()
        assert keeper.book is not None
        book = keeper.book
        await until(lambda: any(h.size == 3 for h in book.sealed.heads) if book.sealed else False)
        assert book.size == heads


# The look fails


async def test_it_goes_on_while_looks_find_the_log_as_it_was(log: Log, tmp_path: Path) -> None:
    async with kept(log, tmp_path) as keeper:
        log.write()
        await until(lambda: size_published(keeper) == 2 and log.looks > 3)
        assert keeper.keeps


@pytest.mark.parametrize("disk", ["whole", "full"])
async def test_a_log_that_differs_ends_the_heads_on_a_full_disk_too(
    log: Log, tmp_path: Path, disk: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with kept(log, tmp_path) as keeper:
        if disk == "full":
            monkeypatch.setattr(
                Path, "mkdir", lambda *given, **how: unwritable(given[0], b"", sync=True)
            )
        log.rewritten = True
        await until(lambda: not keeper.keeps)
        assert "no longer holds the record at" in keeper.refusal
        await signs_nothing_more(keeper, log)
    assert (tmp_path / "ledger" / "evidence").exists() == (disk == "whole")


SILENT = Pushback(Reason.LOG_UNREACHABLE, "the log does not answer")


@pytest.mark.parametrize("failure", [SILENT, OSError(5, "Input/output error"), KeyError("a topic")])
async def test_where_no_look_succeeds_for_long_no_head_is_sealed_until_one_does(
    log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    async with kept(log, tmp_path) as keeper:
        log.fails = failure
        looks = log.looks
        log.write()
        await until(lambda: size_published(keeper) == 2 and log.looks > looks + 2)
        assert not keeper.unchecked, "it is not yet long"
        monkeypatch.setattr(process, "UNCHECKED_FOR_S", 0.0)
        await until(lambda: keeper.unchecked)
        assert keeper.book is not None
        sealed_then = keeper.book.size
        for _ in range(ROUNDS):
            log.write()
            await asyncio.sleep(0.005)
        assert keeper.book.size == sealed_then and keeper.keeps
        monkeypatch.setattr(process, "UNCHECKED_FOR_S", WAIT_S)
        log.fails = None
        await until(lambda: size_published(keeper) > sealed_then)
        assert not keeper.unchecked


async def test_a_partition_that_answers_is_judged_while_another_is_silent(
    log: Log, tmp_path: Path
) -> None:
    async with kept(log, tmp_path) as keeper:
        log.fails, log.answers, log.rewritten = SILENT, True, True
        await until(lambda: not keeper.keeps)
        assert "no longer holds the record at" in keeper.refusal


async def test_no_head_is_sealed_of_what_was_read_before_the_refusal(
    log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads, go_on = threading.Event(), threading.Event()

    def slow(follower: Follower, timeout_ms: int) -> list[LogRecord]:
        reads.set()
        assert go_on.wait(WAIT_S)
        return [record(1)]

    async with kept(log, tmp_path) as keeper:
        monkeypatch.setattr(Follower, "poll", slow)
        await until(reads.is_set)
        log.rewritten = True
        await until(lambda: not keeper.keeps)
        go_on.set()
        await until(lambda: keeper._tasks[0].done())
        assert keeper.book is not None
        assert keeper.book.places[PLACES[0]] == 2, "it was read"
        assert (keeper.book.size, size_published(keeper), len(log.heads)) == (1, 1, 1)


async def test_no_head_is_published_that_was_cosigned_as_the_refusal_came(
    log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def slow(*given: Any) -> Cosigned:
        asked.set()
        await go_on.wait()
        return Cosigned()

    async with kept(log, tmp_path) as keeper:
        monkeypatch.setattr(Witnesses, "cosign", slow)
        log.write()
        async with asyncio.timeout(WAIT_S):
            await asked.wait()
        log.rewritten = True
        await until(lambda: not keeper.keeps)
        go_on.set()
        await until(lambda: keeper._tasks[1].done())
        assert keeper.book is not None and keeper.book.size == 2, "it was sealed before"
        assert (size_published(keeper), len(log.heads)) == (1, 1)


async def test_a_witness_that_accuses_without_end_does_not_fill_the_disk(
    log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "ACCUSATIONS_MAX", 3)

    def says(keeper: Keeper, what: str) -> None:
        keeper._pending = keeper.book.sealed if keeper.book is not None else None
        keeper._sound(Cosigned(forks=[f"bad: {what}"]))

    async with kept(log, tmp_path) as keeper:
        for number in range(10):
            says(keeper, str(number))
            says(keeper, str(number))
        assert len(list((tmp_path / "ledger/evidence").iterdir())) == 3
        keeper._sound(Cosigned(forks=["honest: a fork"]))
        assert len(list((tmp_path / "ledger/evidence").iterdir())) == 4, "it hides no other's"
        assert keeper.keeps


# What was signed, and is gone


@pytest.mark.parametrize("naive", [False, True])
async def test_trees_that_are_gone_and_a_log_without_its_end_are_noticed(
    log: Log, tmp_path: Path, naive: bool
) -> None:
    """The naive keeper goes on making trees, and signs nothing of anybody ever after."""
    log.records = [record(n) for n in range(5)]
    async with kept(log, tmp_path):
        pass
    shutil.rmtree(tmp_path / "ledger/public/partitions")
    del log.records[3:]
    log.ends_at = None if naive else 3
    keeper = keeper_of(log, tmp_path)
    await keeper.start()
    try:
        if naive:
            await until(lambda: log.looks > 5)
            assert keeper.keeps and keeper.book is not None and keeper.book.missing == PLACES[:1]
            log.records += [record(3), record(4)]  # the log has it all the same: it goes on
            await until(lambda: keeper.book is not None and not keeper.book.missing)
            log.ends_at = 5
        else:
            await until(lambda: not keeper.keeps)
            assert "v1-0 ends after 3 records of the 5 signed" in keeper.refusal
            assert list((tmp_path / "ledger/evidence").glob("log-differs-*"))
    finally:
        await keeper.stop()


async def backed_up_and_gone_on(log: Log, tmp_path: Path) -> Keeper:
    """A folder that was copied after its first epoch, and has published its second."""
    async with kept(log, tmp_path):
        pass
    shutil.copytree(tmp_path / "ledger", tmp_path / "backup")
    async with kept(log, tmp_path) as keeper:
        log.write()
        await until(lambda: size_published(keeper) == 2)
    return keeper


async def put_back(log: Log, tmp_path: Path) -> Keeper:
    """A keeper that began with the copy of its folder."""
    shutil.rmtree(tmp_path / "ledger")
    shutil.copytree(tmp_path / "backup", tmp_path / "ledger")
    again = keeper_of(log, tmp_path)
    await again.start()
    await again.stop()
    return again


@pytest.mark.parametrize("last", [0, published.LAST])
async def test_a_folder_that_was_put_back_is_noticed_whatever_the_clocks_say(
    log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: int
) -> None:
    """The naive keeper looks at nothing but what came after its last epoch, by its own clock."""
    monkeypatch.setattr(published, "LAST", last)
    log.behind_ms = 3_600_000
    await backed_up_and_gone_on(log, tmp_path)
    again = await put_back(log, tmp_path)
    assert ("epoch 2 was published" in again.refusal) is (last > 0)


@pytest.mark.parametrize("replayed", [0, 3])
async def test_old_heads_that_stand_there_again_hide_no_newer_one(
    log: Log, tmp_path: Path, replayed: int
) -> None:
    """A folder that was put back, and whoever did it published its head once more, after all."""
    keeper = await backed_up_and_gone_on(log, tmp_path)
    statement = keeper.sign("a statement of ours\n")
    for value in [log.heads[0]] * replayed + [CODEC.encode(PublishedHead(str(statement))), b"?"]:
        await log.append("", 0, value)
    # The naive keeper goes by the last one under its key, which may be an old one or no head.
    last = CODEC.decode(log.heads[-3 if replayed else -2])
    assert isinstance(last, PublishedHead)
    assert (last.note == str(statement)) or "\n1\n" in last.note
    again = keeper_of(log, tmp_path)
    await again.start()
    await again.stop()
    assert not again.refusal, "this is the newer folder"
    again = await put_back(log, tmp_path)
    assert "epoch 2 was published, this folder ends at 1" in again.refusal


async def test_work_that_ends_unforeseen_is_said_and_not_only_stopped(
    log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with kept(log, tmp_path) as keeper:
        monkeypatch.setattr(books, "write_whole", unwritable)
        log.write()
        await until(lambda: not keeper.keeps)
        assert "No space left" in keeper.refusal


def test_what_contradicts_is_said_whether_its_evidence_can_be_kept_or_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    book = open_book(tmp_path)
    made = sealed(book, [record(0)])
    before = open_book(tmp_path / "before")
    shutil.copytree(tmp_path / "public", tmp_path / "again" / "public")
    shutil.copy(tmp_path / "state.json", tmp_path / "again")
    shutil.rmtree(tmp_path / "again" / "public" / "partitions")
    again = open_book(tmp_path / "again")
    monkeypatch.setattr(books, "write_whole", unwritable)
    with pytest.raises(LogUnfit, match="another root"):
        again.append(record(0, says="rewritten"))
    with pytest.raises(LogUnfit, match="no longer holds the record"):
        book.check_log(book.last_leaves(), lambda leaf: None)
    with pytest.raises(LogUnfit, match="rolled back"):
        before.check_published(made.note, verify)


def test_what_two_threads_find_at_once_is_kept_of_both_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has its name before the other has its file, as where a disk is slow."""
    book, together = open_book(tmp_path), threading.Barrier(2)

    def slow(path: Path, content: bytes, *, sync: bool) -> None:
        together.wait(WAIT_S)
        write_whole(path, content, sync=sync)

    monkeypatch.setattr(books, "write_whole", slow)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda who: book.keep_evidence("fork", {"who": who}), ("one", "other")))
    monkeypatch.undo()
    for number in range(12):
        book.keep_evidence("fork", {"who": number})
    kept = [
        json.loads(path.read_text())["who"] for path in sorted((tmp_path / "evidence").iterdir())
    ]
    assert set(kept[:2]) == {"one", "other"}
    assert kept[2:] == list(range(12))
