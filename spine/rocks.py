"""What a store and its readers ask of RocksDB, and of the history that a store names.

Whatever proves damaged on reading marks the store, so that its next start begins anew.
"""

from __future__ import annotations

import heapq
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, Final

import structlog
from rocksdict import (
    AccessType,
    BlockBasedOptions,
    Cache,
    DBCompressionType,
    Options,
    Rdict,
    ReadOptions,
    WriteBatch,
    WriteBufferManager,
)

from spine.codec import unpack
from spine.domain import HistoryLayout, Range, Row
from spine.errors import Pushback, Reason
from spine.history import FOLDER, HISTORY_ROW, History, HistoryFile, HistoryUnreadable
from spine.rows import Malformed

_log = structlog.get_logger()
READ_AND_WRITE: Final = AccessType.read_write()
WRITE_BUFFER_BYTES: Final = 32 << 20
CACHE_BUFFER_BYTES: Final = 8 << 20
# Of all stores of a process together, however many it has: rows that are not in a file yet, and
# blocks of files that were read.
WRITE_BUFFERS_BYTES: Final = 256 << 20
BLOCK_CACHE_BYTES: Final = 128 << 20
# Of what a store may keep in memory: 6 bits for each of the small rows that fit into it. A store
# takes it up when it is opened, and room for rows by as much at a time as is said here: of hundreds
# in a process, most with next to nothing to keep, each must leave room for the others.
MEMORY_FILTER_SHARE: Final = 0.005
ROOM_FOR_ROWS_BYTES: Final = 256 << 10
DAMAGE_MARK: Final = "damaged"
# What RocksDB says of its LOCK file. "lock" alone also stands in "block checksum mismatch".
LOCKED: Final = ("While lock file", "lock hold by current process")
# And of a file of rows that is not there.
MOVED: Final = "No such file or directory: While open a file"
REFRESHED_S: Final = 0.1


class DamagedStore(Exception):
    """The store cannot be opened or read; discard it and rebuild from the log."""


class FilesMoved(Pushback, DamagedStore):
    """The writer has merged a file of rows into others since a reader last caught up, and taken it
    away before the reader had opened it. The store is sound: refresh, and read again.
    """


# What makes the error of what RocksDB says of the store at a path.
Judge = Callable[[Path, Exception], DamagedStore]


def damage(path: Path, error: Exception) -> DamagedStore:
    """Mark the store, and say so."""
    (path / DAMAGE_MARK).touch()
    return DamagedStore(f"{path.name}: {error}")


def damage_of_another(
    db: Rdict, life: Path, seen: Iterable[tuple[str, int]], path: Path, error: Exception
) -> DamagedStore:
    """What a secondary makes of it: a file that is not there is FilesMoved, and marks nothing,
    unless the writer still names it. `seen` is what was `written` before it last caught up.
    """
    if MOVED not in str(error) or _is_lost(db, life, seen):
        return damage(path, error)
    _log.warning("store.moved", store=path.name, reason=str(error))
    return _moved()


def _moved() -> FilesMoved:
    message = "the readings were moved while they were read"
    return FilesMoved(Reason.DATA_BEHIND, message, retry_after_s=REFRESHED_S)


def _is_lost(db: Rdict, life: Path, seen: Iterable[tuple[str, int]]) -> bool:
    """A file that was merged goes only once the manifest says so, which makes that longer."""
    gone = any(not (life / file["name"].lstrip("/")).exists() for file in db.live_files())
    with suppress(FileNotFoundError):  # the store was begun anew
        return gone and not _goes_on(life, seen)
    return False


def _goes_on(life: Path, seen: Iterable[tuple[str, int]]) -> bool:
    """Whether the writer has moved rows to files since, or has begun another life: of this one
    whatever is missing may be on its way out.
    """
    begun_anew = latest_life(life.parent) != int(life.name)
    return begun_anew or _manifests(written(life)) != _manifests(seen)


class Onward:
    """What a reader has seen of one opening of a store by its writer, which only goes on from it.

    Where a file of rows is lost, RocksDB shows a secondary the newest state that has all its files,
    which is an older one, and goes on from there with what the log of writes holds.
    """

    def __init__(self) -> None:
        self._opening: object = None
        self._offset, self._files, self._manifests = -1, frozenset[int](), _manifests(())

    def check(
        self,
        db: Rdict,
        life: Path,
        seen: Iterable[tuple[str, int]],
        opening: object,
        offset: int,
        marked: Path,
    ) -> None:
        """DamagedStore, and it is marked, if it went back; `seen` is what was `written` before it
        was read. FilesMoved if the writer moved rows to files just then: it may look like that.
        """
        same, manifests, files = opening == self._opening, _manifests(seen), self._files
        if not same or manifests != self._manifests:
            files = frozenset(int(Path(file["name"]).stem) for file in db.live_files())
        if same and (offset < self._offset or self._names_less(life, files)):
            if _goes_on(life, seen):
                raise _moved()
            raise damage(marked, ValueError("it went back, so a file of rows is lost"))
        self._opening, self._manifests = opening, manifests
        self._offset, self._files = offset, files

    def _names_less(self, life: Path, files: frozenset[int]) -> bool:
        """Whether the newest are named no longer, though they are there: those that were merged go,
        and what they were merged into is newer.
        """
        newest = max(files, default=0)
        return any((life / f"{n:06}.sst").exists() for n in self._files if n > newest)


def latest_life(path: Path) -> int | None:
    """The number of the latest life of a store; None if it has none."""
    with os.scandir(path) as children:
        return max((int(c.name) for c in children if c.name.isdecimal()), default=None)


def written(life: Path) -> frozenset[tuple[str, int]]:
    """The files that only grow, and grow with every write: write-ahead logs and manifests."""
    found = set()
    with os.scandir(life) as files:
        for file in files:
            if file.name.endswith(".log") or file.name.startswith("MANIFEST-"):
                with suppress(FileNotFoundError):  # a log goes when its rows are in a file
                    found.add((file.name, file.stat().st_size))
    return frozenset(found)


def at_rest(written: Iterable[tuple[str, int]]) -> bool:
    """Whether all that was written is in files of rows, and nothing in a log of writes."""
    return not any(size for name, size in written if name.endswith(".log"))


def openings(written: Iterable[tuple[str, int]]) -> frozenset[str]:
    """What of those files tells one opening of the store by its writer from another."""
    return frozenset(name for name, _ in _manifests(written))


def _manifests(written: Iterable[tuple[str, int]]) -> frozenset[tuple[str, int]]:
    return frozenset(file for file in written if file[0].startswith("MANIFEST-"))


def get(db: Rdict, path: Path, key: bytes, judge: Judge = damage) -> bytes | None:
    """The value of a row."""
    try:
        found: bytes | None = db.get(key)
    except Exception as error:
        raise judge(path, error) from error
    return found


def get_many(
    db: Rdict, path: Path, keys: Sequence[bytes], judge: Judge = damage
) -> Sequence[bytes | None]:
    """The values of many rows, in the order of their keys."""
    try:
        found: Any = db.get(list(keys))
    except Exception as error:
        raise judge(path, error) from error
    values: list[bytes | None] = found
    return values


def put_all(db: Rdict, rows: Mapping[bytes, bytes]) -> None:
    """Write these rows, or none of them."""
    batch = WriteBatch(raw_mode=True)
    for key in sorted(rows):  # each is put beside the one before it, at a third of the cost
        batch.put(key, rows[key])
    db.write(batch)


def history(
    db: Rdict,
    marked: Path,
    life: int,
    layout: HistoryLayout | None,
    path: Path | None = None,
    known: History | None = None,
    judge: Judge = damage,
) -> History | None:
    """The history that a store names, `known` if it is still that one; a store whose history is
    not there is damaged.
    """
    stored = None if layout is None else get(db, marked, HISTORY_ROW, judge)
    if stored is None:
        return None
    assert layout is not None
    try:
        files = unpack(stored, tuple[HistoryFile, ...])
        if known is not None and known.files == files:
            return known
        found = History((path or marked) / str(life) / FOLDER, layout, files)
    except (Malformed, HistoryUnreadable) as error:
        if latest_life(path or marked) != life:  # it was begun anew meanwhile, and is sound
            raise DamagedStore(f"{marked.name}: {error}") from error
        raise damage(marked, error) from error
    if known is not None:
        known.close()
    return found


def scan_all(
    db: Rdict,
    history: History | None,
    path: Path,
    start: bytes,
    end: bytes,
    judge: Judge = damage,
) -> Iterator[tuple[bytes, bytes]]:
    """Rows in key order, from the store itself and from its history."""
    stored = scan(db, path, start, end, judge)
    if history is None or not history.meets(start, end):
        return stored
    return merged(stored, _sound(history.scan(start, end), path))


def _sound(rows: Iterator[tuple[bytes, bytes]], path: Path) -> Iterator[tuple[bytes, bytes]]:
    try:
        yield from rows
    except HistoryUnreadable as error:
        raise damage(path, error) from error


def merged(*sources: Iterable[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes]]:
    """Rows of several sources in key order; where two have one, the first source's counts."""
    last = None
    for key, value in heapq.merge(*sources, key=lambda row: row[0]):
        if key != last:
            yield key, value
        last = key


def scan(
    db: Rdict, path: Path, start: bytes, end: bytes, judge: Judge = damage
) -> Iterator[tuple[bytes, bytes]]:
    """Rows in key order, as they are when this is called."""
    bounded = ReadOptions()
    bounded.set_iterate_upper_bound(end)
    rows = db.iter(bounded)
    rows.seek(start)
    return _rows(rows, path, end, judge)


def scan_each(
    db: Rdict,
    history: History | None,
    path: Path,
    ranges: Sequence[Range],
    judge: Judge = damage,
) -> list[list[Row]]:
    """What `scan_all` gives of each of these ranges; one iterator goes from one to the next, in the
    order of their keys, and seeks only where it does not stand there already.
    """
    if history is not None and any(history.meets(*each) for each in ranges):
        return [list(scan_all(db, history, path, *each, judge)) for each in ranges]
    found: list[list[Row]] = [[] for _ in ranges]
    rows, passed, key = db.iter(ReadOptions()), b"", None
    for place in sorted(range(len(ranges)), key=ranges.__getitem__):
        (start, end), put = ranges[place], found[place].append
        if key is None or key < start or start < passed:
            rows.seek(start)
            key = rows.key()
        while key is not None and key < end:
            put((key, rows.value()))
            rows.next()
            key = rows.key()
        if key is None:
            _sound_end(rows, path, judge)
        passed = max(start, end)
    return found


def _rows(rows: Any, path: Path, end: bytes, judge: Judge) -> Iterator[tuple[bytes, bytes]]:
    while rows.valid():
        key, value = rows.key(), rows.value()
        if key >= end:
            return
        yield key, value
        rows.next()
    _sound_end(rows, path, judge)


def _sound_end(rows: Any, path: Path, judge: Judge) -> None:
    """An iterator just ends at a damaged block, and only its status tells."""
    try:
        rows.status()
    except Exception as error:
        raise judge(path, error) from error


@cache
def _write_buffers() -> WriteBufferManager:
    return WriteBufferManager(WRITE_BUFFERS_BYTES, allow_stall=False)


@cache
def _block_cache() -> Cache:
    return Cache(BLOCK_CACHE_BYTES)


def open_as(path: Path, chosen: Options, access: AccessType = READ_AND_WRITE) -> Rdict:
    """A database that is opened by these options, also when it is opened again.

    rocksdict takes those of the rows from the file that RocksDB keeps of them unless they are named
    for the rows, too; and that file knows neither the filter nor which cache is shared.
    """
    rows = {"default": chosen}
    return Rdict(str(path), options=chosen, column_families=rows, access_type=access)


def open_cache(path: Path, kept_s: int) -> Rdict:
    """Rows that nothing is lost without, opened to be written; those older than that go as their
    files are merged. What is damaged is begun anew.

    DamagedStore if not even that opens, or another writer has it.
    """
    chosen = options(writes=True)
    chosen.set_write_buffer_size(CACHE_BUFFER_BYTES)

    def opened() -> Rdict:
        return open_as(path, chosen, AccessType.with_ttl(kept_s))

    if (path / DAMAGE_MARK).exists():
        shutil.rmtree(path)
    try:
        return opened()
    except Exception as error:
        if any(words in str(error) for words in LOCKED):
            raise DamagedStore(f"{path.name} has another writer") from error
        shutil.rmtree(path)
        return opened()


def options(*, writes: bool) -> Options:
    """How a store is opened; to be written, or by a secondary."""
    made = Options(raw_mode=True)
    made.create_if_missing(True)
    made.set_max_open_files(256)
    # A fold writes in bursts, each row once: let memory and the first level take them up, and a
    # thread of its own merge them, before anything waits. What is merged soon is not compressed.
    # Keys share long beginnings.
    made.set_compression_per_level([DBCompressionType.none(), *[DBCompressionType.lz4()] * 6])
    # Most keys asked for are of what never happened: a duplicate, a closed meter.
    tables = BlockBasedOptions()
    tables.set_bloom_filter(10, False)
    tables.set_block_cache(_block_cache())
    made.set_block_based_table_factory(tables)
    made.set_max_background_jobs(2)
    made.set_write_buffer_size(WRITE_BUFFER_BYTES)
    made.set_arena_block_size(ROOM_FOR_ROWS_BYTES)
    if writes:  # a secondary cannot make room: what it holds would have each writer flush for it
        made.set_write_buffer_manager(_write_buffers())
        # For those keys, too; or a fold that catches up looks for most of them in vain, in each row
        # that is not in a file yet.
        made.set_memtable_whole_key_filtering(True)
        made.set_memtable_prefix_bloom_ratio(MEMORY_FILTER_SHARE)
    made.set_max_write_buffer_number(4)
    made.set_level_zero_file_num_compaction_trigger(8)  # of twice as many, half as often
    made.set_level_zero_slowdown_writes_trigger(40)
    made.set_level_zero_stop_writes_trigger(64)
    return made
