"""A store is exact after any kill, knows its log again, and comes back from it to one digest."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import Mock

import pytest
from rocksdict import AccessType, Options, Rdict, WriteBatch, WriteBufferManager

from domains.consumers.decider import CONSUMERS
from domains.governance.decider import GOVERNANCE
from spine import replay, rocks, trust
from spine.errors import Pushback
from spine.event import LogRecord
from spine.log import LogReader, LogUnfit
from spine.replay import BUILD_ROW, RECORDS_PER_COMMIT, StoredFold, rebuild
from spine.rocks import DAMAGE_MARK, DamagedStore
from spine.rows import HELD_PREFIX, rows_digest
from spine.store import (
    POSITION_ROW,
    MemoryRows,
    Store,
    StoreInUse,
    StorePosition,
    StoreReader,
)
from tests.helpers.records import (
    LOG_ID,
    METER,
    PARTITION,
    TOOLS,
    MemoryLog,
    Scene,
    command,
    moved_in,
)
from tests.helpers.stories import consumers_story

FLUSHED_WITHIN_S = 5.0
STORY = consumers_story()
END = len(STORY)


def position(offset: int) -> StorePosition:
    return StorePosition(LOG_ID, "t", 0, offset, bytes(32))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "store")
    yield store
    store.close()


# Rows and position


def killed(store: Store) -> Store:
    """The store as a process finds it that starts after this one was killed just now."""
    copy = store.path.with_name("after-the-kill")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(store.path, copy)
    for lock in copy.glob("*/LOCK"):
        lock.unlink()
    return Store(copy)


def test_rows_and_position_are_written_together_or_not_at_all(store: Store) -> None:
    store.put(b"a", b"1")
    store.commit(position(1))
    store.put(b"a", b"2")
    store.put(b"b", b"2")
    assert (store.get(b"a"), store.get(b"b")) == (b"2", b"2"), "a fold sees its own writes"
    after = killed(store)
    assert (after.get(b"a"), after.get(b"b")) == (b"1", None)
    assert after.position() == position(1)
    after.close()
    store.commit(position(2))
    after = killed(store)
    assert (after.get(b"a"), after.get(b"b")) == (b"2", b"2")
    assert after.position() == position(2)
    after.close()


def test_what_is_forgotten_was_never_there(store: Store) -> None:
    store.put(b"a", b"1")
    store.commit(position(1))
    store.put(b"a", b"2")
    store.forget_pending()
    assert store.get(b"a") == b"1"
    assert store.position() == position(1)


def test_a_scan_sees_pending_rows_in_order_and_each_row_once(store: Store) -> None:
    memory = MemoryRows()
    for key in (b"a", b"c", b"e"):
        store.put(key, b"old")
        memory.put(key, b"old")
    store.commit(position(1))
    for key in (b"b", b"c", b"f"):
        store.put(key, b"new")
        memory.put(key, b"new")
    ranges = ((b"", b"\xff"), (b"b", b"f"), (b"c", b"c"), (b"d", b"b"))
    for start, end in ranges:
        assert list(store.scan(start, end)) == list(memory.scan(start, end))
    assert store.scan_each(ranges) == memory.scan_each(ranges)


def test_a_reader_finds_each_of_many_ranges_whichever_comes_first(tmp_path: Path) -> None:
    store, memory = Store(tmp_path / "store"), MemoryRows()
    for key in (b"a", b"b1", b"b2", b"c", b"e"):
        store.put(key, key * 2)
        memory.put(key, key * 2)
    store.commit(position(1))
    reader = StoreReader(tmp_path / "store", tmp_path / "secondary")
    assert reader.refresh()
    ranges = ((b"e", b"f"), (b"f", b"g"), (b"b", b"c"), (b"d", b"e"), (b"b2", b"c1"), (b"", b"f"))
    found = reader.scan_each(ranges)
    assert found == memory.scan_each(ranges) == [list(reader.scan(*each)) for each in ranges]
    assert [len(rows) for rows in found] == [1, 0, 2, 0, 2, 5]
    reader.close()
    store.close()


def many(store: Store) -> list[tuple[bytes, bytes | None]]:
    return list(zip((b"a", b"b"), store.get_many((b"a", b"b")), strict=True))


def ranged(store: Store) -> list[tuple[bytes, bytes | None]]:
    return list(store.scan(b"a", b"c"))


@pytest.mark.parametrize(("read", "of"), [(many, "get_many"), (ranged, "scan_all")])
def test_a_row_is_not_missed_by_who_reads_during_a_commit(
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    read: Callable[[Store], object],
    of: str,
) -> None:
    """As another thread does. Rows that wait, asked for second, are no longer there."""
    for key in (b"a", b"b"):
        store.put(key, b"old")
    store.commit(position(1))
    store.put(b"b", b"new")
    stored = getattr(rocks, of)

    def committed_after(*args: Any) -> Any:
        found = stored(*args)
        store.commit(position(2))
        return found

    monkeypatch.setattr(rocks, of, committed_after)
    assert read(store) == [(b"a", b"old"), (b"b", b"new")]


def test_the_digest_is_of_the_rows_and_not_of_the_position(store: Store) -> None:
    store.put(b"a", b"1")
    store.commit(position(1))
    before = store.digest()
    assert before == rows_digest(iter([(b"a", b"1")]))
    store.commit(position(2))
    assert store.digest() == before
    store.put(b"a", b"2")
    store.commit(position(3))
    assert store.digest() != before


def test_the_digest_cannot_be_fooled_by_moving_a_border() -> None:
    assert rows_digest(iter([(b"ab", b"c")])) != rows_digest(iter([(b"a", b"bc")]))
    assert rows_digest(iter([(b"a", b"b"), (b"c", b"")])) != rows_digest(iter([(b"a", b"bc")]))


# Damage


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 0xFF
    path.write_bytes(bytes(content))


def flip_in_the_middle(life: Path) -> None:
    for table in life.glob("*.sst"):
        flip(table, table.stat().st_size // 3)


def remove_current(life: Path) -> None:
    (life / "CURRENT").unlink()


def truncate_manifest(life: Path) -> None:
    for manifest in life.glob("MANIFEST*"):
        manifest.write_bytes(manifest.read_bytes()[:20])


def remove_tables(life: Path) -> None:
    for table in life.glob("*.sst"):
        table.unlink()


DAMAGES = [flip_in_the_middle, remove_current, truncate_manifest, remove_tables]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_store_says_so_and_never_answers_less(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    path = tmp_path / "store"
    store = Store(path)
    for number in range(3_000):
        store.put(b"row %06d" % number, number.to_bytes(4) * 25)
    store.commit(position(1))
    store.close()
    damage(path / "1")
    with pytest.raises(DamagedStore):
        store = Store(path)
        try:
            assert len(list(store.scan(b"", b"\xff"))) < 3_000
        finally:
            store.close()
    if damage is flip_in_the_middle:
        assert (path / DAMAGE_MARK).exists()
        with pytest.raises(DamagedStore):
            Store(path)
    Store.discard_all(path)
    fresh = Store(path)
    assert list(fresh.scan(b"", b"\xff")) == [] and fresh.position() is None
    fresh.close()


def test_a_reader_seeks_only_where_it_does_not_stand_already(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "store")
    for key in (b"a1", b"a2", b"b1", b"x"):
        store.put(key, key)
    store.commit(position(1))
    reader, sought = StoreReader(tmp_path / "store", tmp_path / "secondary"), list[bytes]()
    assert reader.refresh()

    class Counting:
        def __init__(self, rows: Any) -> None:
            self._rows = rows

        def __getattr__(self, name: str) -> Any:
            return getattr(self._rows, name)

        def seek(self, key: bytes) -> None:
            sought.append(key)
            self._rows.seek(key)

    opened = reader._opened()
    seen = Mock(iter=lambda options: Counting(opened.iter(options)))
    monkeypatch.setattr(reader, "_opened", lambda: seen)
    ranges = [(b"m", b"n"), (b"b", b"c"), (b"a", b"b"), (b"c", b"d"), (b"y", b"z")]
    found = [[key for key, _ in rows] for rows in reader.scan_each(ranges)]
    assert found == [[], [b"b1"], [b"a1", b"a2"], [], []]
    assert sought == [b"a", b"y"]
    reader.close()
    store.close()


def test_a_damaged_row_is_an_error_and_no_absence(tmp_path: Path) -> None:
    path = tmp_path / "store"
    store = Store(path)
    for number in range(3_000):
        store.put(b"row %06d" % number, number.to_bytes(4) * 25)
    store.commit(position(1))
    store.close()
    flip_in_the_middle(path / "1")
    reader = StoreReader(path, tmp_path / "secondary")
    assert reader.refresh()
    found = 0
    with pytest.raises(DamagedStore):
        for number in range(3_000):
            found += reader.get(b"row %06d" % number) is not None
    assert 0 < found < 3_000
    with pytest.raises(DamagedStore):
        list(reader.scan(b"", b"\xff"))
    with pytest.raises(DamagedStore):
        reader.scan_each([(b"row 000000", b"row 000001"), (b"", b"\xff")])
    reader.close()


@dataclass
class ManyFiles:
    """A store of many files, of which a reader has few open."""

    path: Path
    keys: list[bytes]
    store: Store
    reader: StoreReader


@pytest.fixture
def many_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ManyFiles]:
    chosen = rocks.options

    def few_open(*, writes: bool) -> Options:
        made = chosen(writes=writes)
        made.set_disable_auto_compactions(True)
        made.set_max_open_files(40)
        return made

    monkeypatch.setattr(rocks, "options", few_open)
    path = tmp_path / "store"
    store, reader = Store(path), StoreReader(path, tmp_path / "secondary")
    keys = [b"row %06d" % number for number in range(1_200)]
    for file in range(60):
        for key in keys[file::60]:
            store.put(key, b"value")
        store.commit(position(file))
        store._db.flush()
    assert reader.refresh()
    made = ManyFiles(path, keys, store, reader)
    yield made
    reader.close()
    made.store.close()


@pytest.mark.parametrize("naive", [False, True])
def test_files_that_the_writer_merges_while_they_are_read_are_no_damage(
    many_files: ManyFiles, monkeypatch: pytest.MonkeyPatch, naive: bool
) -> None:
    """Those that a reader has not open yet go when they are merged."""
    path, keys, reader = many_files.path, many_files.keys, many_files.reader
    if naive:
        monkeypatch.setattr(rocks, "MOVED", "never said")
    many_files.store._db.compact_range(None, None)
    files, until = 60, time.monotonic() + 10
    while files > 30 and time.monotonic() < until:
        files = len(list((path / "1").glob("*.sst")))
    with pytest.raises(DamagedStore) as moved:
        reader.get_many(keys)
    assert isinstance(moved.value, Pushback) is not naive
    assert (path / DAMAGE_MARK).exists() is naive
    with pytest.raises(DamagedStore):
        list(reader.scan(b"", b"\xff"))
    assert (path / DAMAGE_MARK).exists() is naive
    assert reader.refresh() and list(reader.get_many(keys)) == [b"value"] * len(keys)


def test_a_file_that_is_lost_is_damage_and_no_file_that_moved(many_files: ManyFiles) -> None:
    """Or whoever reads it would be told for ever to ask again, and nobody begin it anew."""
    path, keys, reader = many_files.path, many_files.keys, many_files.reader
    sorted((path / "1").glob("*.sst"))[20].unlink()
    assert reader.refresh()
    with pytest.raises(DamagedStore) as lost:
        reader.get_many(keys)
    assert not isinstance(lost.value, Pushback)
    assert (path / DAMAGE_MARK).exists()


def never_checked(*_: object) -> None:
    """The naive variant of what is checked when a reader has caught up."""


@pytest.mark.parametrize("naive", [False, True])
@pytest.mark.parametrize("at_rest", [False, True])
def test_a_store_that_goes_back_is_damaged_and_answers_nobody(
    many_files: ManyFiles, monkeypatch: pytest.MonkeyPatch, at_rest: bool, naive: bool
) -> None:
    """Where a file is lost and others are written, RocksDB shows what was before that file, and
    what the log of writes holds since: in between rows are missing, and nothing says so.
    """
    if naive:
        monkeypatch.setattr(rocks.Onward, "check", never_checked)
    path, keys, store, reader = (
        many_files.path,
        many_files.keys,
        many_files.store,
        many_files.reader,
    )
    sorted((path / "1").glob("*.sst"))[20].unlink()
    store.put(b"row x", b"value")
    store.commit(position(60))
    store._db.flush()
    if not at_rest:  # and the position is not lower than it was
        store.commit(position(61))
        reader.close()  # as where it is opened anew for another reason
    for _ in range(3):
        assert reader.refresh() is naive
        assert (path / DAMAGE_MARK).exists() is not naive
    if naive:
        at = reader.position()
        assert at is not None and at.offset == (19 if at_rest else 61)
        assert reader.get(b"row x") is None and list(reader.get_many(keys)).count(None) == 800
    else:
        with pytest.raises(DamagedStore):
            reader.get(keys[0])


def test_a_store_that_is_put_back_or_begun_anew_does_not_go_back(many_files: ManyFiles) -> None:
    """RocksDB gives it the names that it had: that of the store, and of the manifest, too."""
    path, reader, openings = many_files.path, many_files.reader, set[frozenset[str]]()
    many_files.store.copy_to(path.parent / "kept")

    def put_back() -> Store:
        many_files.store.close()
        shutil.rmtree(path)
        shutil.copytree(path.parent / "kept", path / "1")
        many_files.store = Store(path)
        assert reader.refresh() and reader.position() == position(59)
        openings.add(rocks.openings(rocks.written(path / "1")))
        return many_files.store

    for _ in range(2):
        store = put_back()
        store.commit(position(60))
        store._db.flush()
        assert reader.refresh() and reader.position() == position(60)
    store = put_back()
    assert len(openings) == 1
    store.discard()
    assert reader.refresh() and reader.position() is None
    store.commit(position(0))
    assert reader.refresh() and reader.position() == position(0)
    assert not (path / DAMAGE_MARK).exists()


@pytest.mark.parametrize("naive", [False, True])
@pytest.mark.parametrize("caught_up", [False, True])
def test_files_that_go_because_the_store_is_begun_anew_are_no_damage(
    many_files: ManyFiles, monkeypatch: pytest.MonkeyPatch, caught_up: bool, naive: bool
) -> None:
    """The mark would be one of the new and sound life, which is there before the old one goes."""
    path, keys, store, reader = (
        many_files.path,
        many_files.keys,
        many_files.store,
        many_files.reader,
    )
    if naive:
        monkeypatch.setattr(rocks, "_goes_on", lambda life, seen: False)
    if caught_up:
        store.put(b"row x", b"value")
        store.commit(position(60))
        store._db.flush()
    (path / "2").mkdir()
    sorted((path / "1").glob("*.sst"))[20].unlink()
    if caught_up:
        latest, before = rocks.latest_life, iter([1])
        monkeypatch.setattr(rocks, "latest_life", lambda of: next(before, 0) or latest(of))
        assert not reader.refresh()
    else:
        with pytest.raises(DamagedStore):
            reader.get_many(keys)
    assert (path / DAMAGE_MARK).exists() is naive


def test_rows_that_move_to_a_file_while_a_reader_opens_are_no_damage(
    many_files: ManyFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it was told of the files is older than what it found of the log of writes."""
    store, reader = many_files.store, many_files.reader
    store.commit(position(60))
    assert reader.refresh()
    opened, seen = rocks.open_as, reader._onward
    seen._offset = 70  # as if it had seen what the log of writes no longer holds

    def moving(*given: Any) -> Rdict:
        db = opened(*given)
        store._db.flush()
        return db

    reader.close()
    with monkeypatch.context() as patch:
        patch.setattr(rocks, "open_as", moving)
        assert not reader.refresh()
    assert not (many_files.path / DAMAGE_MARK).exists()
    seen._offset = 60
    assert reader.refresh() and reader.position() == position(60)


def test_a_store_in_use_is_sound_and_left_alone(tmp_path: Path, opened: Open) -> None:
    fold = opened()
    rebuild(fold, LOG)
    expected = settled(fold)
    with pytest.raises(StoreInUse):
        Store(tmp_path / "fold")
    assert settled(fold) == expected
    assert not (tmp_path / "fold" / DAMAGE_MARK).exists()


def test_damage_that_speaks_of_a_block_is_no_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def corrupt(*_: object, **__: object) -> None:
        raise Exception("Corruption: block checksum mismatch in /a/lock/000009.sst")

    monkeypatch.setattr("spine.rocks.Rdict", corrupt)
    with pytest.raises(DamagedStore):
        Store(tmp_path / "store")


def test_a_reader_sees_commits_and_the_next_life_of_a_discarded_store(tmp_path: Path) -> None:
    path = tmp_path / "store"
    reader = StoreReader(path, tmp_path / "secondary")
    assert not reader.refresh()
    with pytest.raises(DamagedStore):  # a store that is not there has no rows to be absent
        reader.get(b"a")
    store = Store(path)
    store.put(b"a", b"1")
    assert reader.refresh() and reader.get(b"a") is None
    store.commit(position(1))
    assert reader.get(b"a") is None, "it sees what it saw until it refreshes"
    assert reader.refresh() and reader.get(b"a") == b"1"
    assert reader.position() == position(1)
    store.discard()
    store.put(b"b", b"2")
    store.commit(position(0))
    assert reader.refresh()
    assert (reader.get(b"a"), reader.get(b"b")) == (None, b"2")
    assert list(reader.scan(b"", POSITION_ROW)) == [(b"b", b"2")]
    store.close()
    reader.close()


@pytest.mark.parametrize("naive", [False, True])
def test_a_reader_notices_a_store_that_was_removed_and_begun_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, naive: bool
) -> None:
    """Under the same name, so that RocksDB alone never looks at it again."""
    if naive:
        monkeypatch.setattr(StoreReader, "_identity", lambda _: b"")
    path = tmp_path / "store"
    lost = Store(path)
    reader = StoreReader(path, tmp_path / "secondary")
    assert reader.refresh() and reader.position() is None
    lost.close()
    shutil.rmtree(path)
    anew = Store(path)
    anew.put(b"a", b"1")
    anew.commit(position(1))
    assert reader.refresh()
    assert reader.position() == (None if naive else position(1))
    anew.close()
    reader.close()


# A fold and its store


Open = Callable[..., StoredFold]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    """Opens the fold of the test's one store, as a process does that starts; closes the last."""
    folds: list[StoredFold] = []

    def open_fold(
        log_id: bytes = LOG_ID, version: int = 1, schema_set: bytes = b"set", name: str = "fold"
    ) -> StoredFold:
        close()
        fold = StoredFold(
            tmp_path / name,
            trust.CONSUMER_LOG,
            PARTITION,
            log_id,
            TOOLS,
            replace(CONSUMERS, version=version),
            GOVERNANCE,
            schema_set,
        )
        folds.append(fold)
        return fold

    def close() -> None:
        while folds:
            folds.pop().close()

    yield open_fold
    close()


def log_of(*records: LogRecord) -> LogReader:
    return cast(LogReader, MemoryLog(*records))


LOG = log_of(*STORY)


def settled(fold: StoredFold) -> tuple[int, bytes]:
    """How far it came, and to what."""
    at = fold.store.position()
    assert at is not None
    assert at.offset + 1 == fold.next_offset
    return at.offset, fold.store.digest()


def test_live_and_replayed_come_to_the_same_digest(opened: Open) -> None:
    live = opened()
    for record in STORY:
        live.apply(record)
    expected = settled(live)
    replayed = opened(name="replayed")
    assert replayed.catch_up(LOG) == END
    assert settled(replayed) == expected


def test_what_is_behind_the_position_is_a_duplicate(opened: Open) -> None:
    fold = opened()
    assert len(fold.apply_all(STORY)) == END
    before = settled(fold)
    assert fold.apply_all(STORY) == []
    assert fold.apply(STORY[3]) is None
    assert settled(fold) == before
    assert fold.fold.head is not None and fold.fold.head.counts.balanced


@pytest.mark.parametrize("at", [1, 4, END - 1])
def test_a_gap_is_read_from_the_log_before_going_on(opened: Open, at: int) -> None:
    whole = opened(name="whole")
    whole.catch_up(LOG)
    expected = settled(whole)
    fold = opened()
    fold.apply_all(STORY[:at])
    arriving = STORY[-1]
    fold.catch_up(LOG, arriving.offset)
    fold.apply(arriving)
    assert settled(fold) == expected
    assert fold.fold.head is not None and fold.fold.head.holes == 0


def test_a_kill_between_records_is_made_good(opened: Open, tmp_path: Path) -> None:
    whole = opened(name="whole")
    whole.catch_up(LOG)
    expected = settled(whole)
    for at in range(1, END):
        fold = opened(name=f"killed-{at}")
        fold.apply_all(STORY[:at])
        fold.fold.apply(STORY[at])
        assert fold.store.position() is not None
        fold.store.forget_pending()
        again = opened(name=f"killed-{at}")
        assert again.next_offset == at
        rebuild(again, LOG)
        assert settled(again) == expected


def test_a_store_without_its_position_in_the_same_write_would_double(opened: Open) -> None:
    """Naive: rows now, position later. The kill in between makes the fold see a record twice."""
    fold = opened()
    fold.apply_all(STORY[:3])
    here = fold.store.position()
    assert here is not None
    fold.fold.apply(STORY[3])
    fold.store.commit(here)
    again = opened()
    rebuild(again, LOG)
    doubled = settled(again)
    whole = opened(name="whole")
    whole.catch_up(LOG)
    assert doubled[0] == settled(whole)[0]
    assert doubled[1] != settled(whole)[1]


def test_a_deleted_store_comes_back(opened: Open, tmp_path: Path) -> None:
    fold = opened()
    rebuild(fold, LOG)
    expected = settled(fold)
    opened(name="another")
    shutil.rmtree(tmp_path / "fold")
    again = opened()
    rebuild(again, LOG)
    assert settled(again) == expected


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_store_comes_back_by_itself(
    opened: Open, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    fold = opened()
    rebuild(fold, LOG)
    expected = settled(fold)
    opened(name="another")
    damage(tmp_path / "fold" / "1")
    again = opened()
    rebuild(again, LOG)
    try:
        assert settled(again) == expected
    except DamagedStore:  # found only on reading on: it is marked, and the next start rebuilds it
        again = opened()
        rebuild(again, LOG)
        assert settled(again) == expected


@pytest.mark.parametrize("part", [0.02, 0.3, 0.6, 0.9])
def test_a_flipped_byte_of_the_write_ahead_log_costs_records_and_no_truth(
    opened: Open, tmp_path: Path, part: float
) -> None:
    """A killed process leaves its last writes there; what follows the damage is folded again."""
    fold = opened()
    fold.apply_all(STORY)
    expected = settled(fold)
    shutil.copytree(tmp_path / "fold", tmp_path / "killed")
    (ahead,) = (f for f in (tmp_path / "killed" / "1").glob("*.log") if f.stat().st_size)
    flip(ahead, int(ahead.stat().st_size * part))
    again = opened(name="killed")
    assert again.next_offset < END, "what was damaged is not taken for sound"
    rebuild(again, LOG)
    assert settled(again) == expected


def other_record_there() -> LogReader:
    last = STORY[-1]
    return log_of(*STORY[:-1], replace(last, append_ms=last.append_ms + 1))


def hole_there() -> LogReader:
    log = MemoryLog(*STORY[:-1])
    log.leave_hole(trust.CONSUMER_LOG, PARTITION)
    return cast(LogReader, log)


@pytest.mark.parametrize(
    ("log", "why"),
    [
        (other_record_there, "another record"),
        (hole_there, "another record"),
        (lambda: log_of(*STORY[:-1]), "does not hold"),
        (lambda: log_of(), "does not hold"),
    ],
    ids=["another record", "a hole", "shorter", "empty"],
)
def test_a_log_that_is_not_the_one_it_stands_on_is_folded_anew(
    opened: Open, log: Callable[[], LogReader], why: str
) -> None:
    fold = opened()
    rebuild(fold, LOG)
    there = log()
    assert why in fold.check(there)
    assert fold.store.position() is None and fold.next_offset == 0
    rebuild(fold, there)
    rebuilt = fold.next_offset, fold.store.digest()
    fresh = opened(name="fresh")
    rebuild(fresh, there)
    assert (fresh.next_offset, fresh.store.digest()) == rebuilt


def test_the_same_log_is_left_alone(opened: Open) -> None:
    fold = opened()
    assert fold.check(LOG) == "", "nothing to compare yet"
    rebuild(fold, LOG)
    assert fold.check(LOG) == ""
    assert opened().check(LOG) == ""


def test_a_store_of_another_log_is_folded_anew(opened: Open) -> None:
    rebuild(opened(), LOG)
    fold = opened(log_id=bytes(32))
    assert fold.check(LOG) == "it is of another log"
    rebuild(fold, LOG)
    assert fold.fold.head is None, "nothing of it was signed for that log"


def test_another_reducer_version_folds_anew(opened: Open) -> None:
    rebuild(opened(), LOG)
    assert "another version" in opened(version=2).check(LOG)


def test_another_build_folds_anew_only_if_something_is_held(opened: Open) -> None:
    fold = opened()
    fold.apply_all(STORY[:6])
    assert not list(fold.store.scan(HELD_PREFIX, HELD_PREFIX + b"\xff"))
    assert opened(schema_set=b"newer").check(LOG) == ""
    fold = opened()
    rebuild(fold, LOG)
    assert list(fold.store.scan(HELD_PREFIX, HELD_PREFIX + b"\xff"))
    newer = opened(schema_set=b"newer")
    assert "may understand" in newer.check(LOG)
    rebuild(newer, LOG)
    assert newer.store.get(BUILD_ROW) == b"1.1.newer"
    assert newer.check(LOG) == ""


def test_a_log_that_lost_its_beginning_is_refused(opened: Open) -> None:
    rebuild(opened(), LOG)
    cut = MemoryLog(*STORY)
    cut.cut(trust.CONSUMER_LOG, PARTITION, below=5)
    kept = opened()
    rebuild(kept, cast(LogReader, cut))
    assert kept.next_offset == END, "a store that stands further on needs no more of it"
    cut.cut(trust.CONSUMER_LOG, PARTITION, below=END)
    with pytest.raises(LogUnfit):
        rebuild(opened(), cast(LogReader, cut))
    with pytest.raises(LogUnfit):
        rebuild(opened(name="fresh"), cast(LogReader, cut))


def test_catching_up_commits_as_it_goes_and_says_how_far_it_is(opened: Open) -> None:
    scene = Scene()
    for number in range(RECORDS_PER_COMMIT * 2):
        scene.facts(command(METER, moved_in(f"t-{number}"), previous=(0, 0)))
    records = scene.log.records
    fold = opened()
    seen: list[tuple[int, int]] = []
    assert fold.catch_up(log_of(*records), progress=lambda *at: seen.append(at)) == len(records)
    assert seen == [(RECORDS_PER_COMMIT, len(records)), (2 * RECORDS_PER_COMMIT, len(records))]
    assert fold.catch_up(log_of(*records)) == 0


@pytest.mark.parametrize("how", ["room was made", "it was closed"])
@pytest.mark.parametrize("sees", [True, False])
def test_a_reader_sees_what_came_into_a_file_between_two_of_its_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, sees: bool
) -> None:
    """The naive reader catches up as ever, and is shown what it had read."""
    at_rest = rocks.at_rest
    if not sees:
        monkeypatch.setattr(rocks, "at_rest", lambda written: False)
    path = tmp_path / "store"
    store, reader = Store(path), StoreReader(path, tmp_path / "look")
    store.put(b"row", b"old")
    store.commit(position(0))
    assert reader.refresh() and reader.get(b"row") == b"old"
    store.put(b"row", b"new")
    store.commit(position(1))
    if how == "room was made":
        store.make_room()
        deadline = time.monotonic() + 20
        while not at_rest(rocks.written(path / "1")) or in_memory_only(store):
            assert time.monotonic() < deadline
            time.sleep(0.01)
    else:
        store.close()
    assert reader.refresh()
    assert (reader.get(b"row"), reader.position()) == (
        (b"new", position(1)) if sees else (b"old", position(0))
    )
    reader.close()
    if how == "room was made":
        store.close()


def in_memory_only(store: Store) -> bool:
    """Whether rows are on their way into a file yet."""
    return store._db.property_value("rocksdb.num-immutable-mem-table") != "0"


@pytest.mark.parametrize("sees", [True, False])
@pytest.mark.parametrize("looked_before", [True, False])
def test_a_reader_sees_what_was_written_just_before_its_store_was_opened_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sees: bool, looked_before: bool
) -> None:
    """The naive reader keeps its secondary, which shows the row as it had read it: at its last
    look, or when it was opened itself.
    """
    if not sees:
        monkeypatch.setattr(rocks, "openings", lambda written: frozenset())
        monkeypatch.setattr(rocks, "at_rest", lambda written: False)
    path = tmp_path / "store"
    stores, reader = [Store(path)], StoreReader(path, tmp_path / "look")

    def write_and_open_again() -> None:
        stores[0].put(b"row", b"new")
        stores[0].commit(position(1))
        stores[0].close()
        stores[0] = Store(path)

    stores[0].put(b"row", b"old")
    stores[0].commit(position(0))
    if looked_before:
        assert reader.refresh() and reader.get(b"row") == b"old"
        write_and_open_again()
    else:
        name_history = reader._name_history

        def opened() -> None:
            name_history()
            monkeypatch.setattr(reader, "_name_history", name_history)
            write_and_open_again()

        monkeypatch.setattr(reader, "_name_history", opened)
        assert reader.refresh()
    for _ in range(2):
        stores[0].commit(position(2))
        assert reader.refresh()
        assert reader.get(b"row") == (b"new" if sees else b"old")
    reader.close()
    stores[0].close()


@pytest.mark.parametrize(("rows", "bounded"), [(40, True), (1 << 60, False)])
def test_catching_up_with_bulk_records_keeps_few_rows_in_memory(
    opened: Open, monkeypatch: pytest.MonkeyPatch, rows: int, bounded: bool
) -> None:
    """Naive: writes after so many records, however many facts each holds."""
    monkeypatch.setattr(replay, "ROWS_PER_COMMIT", rows)
    scene, kept = Scene(), list[int]()
    for number in range(20):
        together = [command(f"c-{number}-{n}", moved_in(f"t-{number}-{n}")) for n in range(10)]
        scene.facts(*together)
    fold = opened()
    fold.catch_up(log_of(*scene.log.records), on_record=lambda *_: kept.append(fold.store.pending))
    of_one_record = 60
    assert (max(kept) < rows + of_one_record) and (max(kept) < 100) is bounded


def test_stores_of_a_process_share_what_they_keep_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or each more store would take as much again."""
    bound = 16 << 20
    buffers = WriteBufferManager(bound, allow_stall=False)
    monkeypatch.setattr(rocks, "_write_buffers", lambda: buffers)

    def kept(options: Callable[[], Options], folder: str) -> int:
        """Bytes that so opened stores keep in memory, 3 MB of rows written to each."""
        stores = [Rdict(str(tmp_path / folder / str(n)), options=options()) for n in range(12)]
        try:
            for first in range(0, 30_000, 1_000):
                for store in stores:
                    batch = WriteBatch(raw_mode=True)
                    for key in range(first, first + 1_000):
                        batch.put(key.to_bytes(8, "big"), b"x" * 92)
                    store.write(batch)
            until = time.monotonic() + FLUSHED_WITHIN_S
            while (held := sum(map(in_memory, stores))) > 1.5 * bound:
                if time.monotonic() > until:
                    break
                time.sleep(0.05)
            return held
        finally:
            for store in stores:
                store.close()

    # A write that passes the bound has a buffer flushed behind it, so a little more is held, and
    # what is being flushed counts until it is.
    assert kept(partial(rocks.options, writes=True), "shared") < 1.5 * bound
    assert kept(partial(rocks.options, writes=False), "naive") > 2 * bound


def opened_by_the_way(
    path: Path, chosen: Options, access: AccessType = rocks.READ_AND_WRITE
) -> Rdict:
    """Naive: names options for the database and none for its rows."""
    return Rdict(str(path), options=chosen, access_type=access)


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("naive", [False, True])
def test_a_store_that_was_opened_before_has_its_filters_and_the_shared_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, naive: bool, again: bool
) -> None:
    """Or each look for what is not there reads blocks, and each store keeps blocks of its own."""
    if naive:
        monkeypatch.setattr(rocks, "open_as", opened_by_the_way)
    if again:
        Store(tmp_path / "store").close()
    store = Store(tmp_path / "store")
    store.put(b"key", b"value")
    store.commit(StorePosition(bytes(32), "t", 0, 0, bytes(32)))
    store._db.flush()
    reader = StoreReader(tmp_path / "store", tmp_path / "reader")
    assert reader.refresh() and reader.get(b"key") == b"value"
    lost = naive and again
    assert (filter_bytes(store._db) == 0) is lost
    assert (cache_bytes(store._db) == rocks.BLOCK_CACHE_BYTES) is not lost
    assert (cache_bytes(reader._opened()) == rocks.BLOCK_CACHE_BYTES) is not naive
    reader.close()
    store.close()


@pytest.mark.parametrize("again", [False, True])
def test_rows_that_are_in_no_file_yet_have_a_filter(tmp_path: Path, again: bool) -> None:
    """Or each look for what is not there goes through them. It counts from the first row on."""
    if again:
        Store(tmp_path / "store").close()
    store = Store(tmp_path / "store")
    filter_of = rocks.MEMORY_FILTER_SHARE * rocks.WRITE_BUFFER_BYTES
    assert in_memory(store._db) < filter_of
    store.put(b"key", b"value")
    store.commit(position(0))
    assert filter_of < in_memory(store._db) < 2 * filter_of
    options = max((tmp_path / "store" / "1").glob("OPTIONS-*")).read_text()
    assert "memtable_whole_key_filtering=true" in options
    assert store.get_many([b"key", b"other", POSITION_ROW + b"-"]) == [b"value", None, None]
    store.close()


def test_rows_are_written_in_the_order_of_their_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Naive: as they come, each at another place of what is in memory, at three times the cost."""
    written = list[tuple[bytes, bytes]]()

    class Batch:
        def __init__(self, raw_mode: bool) -> None:
            assert raw_mode

        def put(self, key: bytes, value: bytes) -> None:
            written.append((key, value))

    monkeypatch.setattr(rocks, "WriteBatch", Batch)
    rows = {b"s/2": b"b", b"i/9": b"i", b"s/1": b"a", b"\x00head": b"h"}
    store = SimpleNamespace(write=lambda batch: None)
    rocks.put_all(cast(Rdict, store), rows)
    assert written == sorted(rows.items())


def filter_bytes(store: Rdict) -> int:
    """Bytes of filters in its files."""
    said = str(store.property_value("rocksdb.aggregated-table-properties"))
    (filters,) = (each for each in said.split(";") if "filter block size" in each)
    return int(filters.partition("=")[2])


def cache_bytes(store: Rdict) -> int:
    """How many bytes of blocks it, or who shares its cache, may keep."""
    return int(str(store.property_value("rocksdb.block-cache-capacity")))


def in_memory(store: Rdict) -> int:
    """Bytes of rows that go on to be added to, and are in no file."""
    return int(str(store.property_value("rocksdb.cur-size-active-mem-table")))


def test_a_store_that_has_caught_up_leaves_that_memory_to_others(opened: Open) -> None:
    scene = Scene()
    for number in range(RECORDS_PER_COMMIT):
        scene.facts(command(METER, moved_in(f"t-{number}"), previous=(0, 0)))
    log = log_of(*scene.log.records)
    naive = opened(name="naive")
    naive.catch_up(log)
    kept = in_memory(naive.store._db)
    fold = opened()
    rebuild(fold, log)
    assert in_memory(fold.store._db) < kept / 2
