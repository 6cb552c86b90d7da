"""Rows and the position they were computed from, written in one batch (rule 7).

A store can be deleted at any time: it comes back from the log with the same logical content, which
`digest` shows. RocksDB through rocksdict; one process writes a store, others open it read-only as a
secondary.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice, zip_longest
from pathlib import Path
from typing import Final

import structlog
from rocksdict import AccessType, Checkpoint, Rdict, WriteBatch

from spine import rocks
from spine.codec import pack, unpack
from spine.domain import HistoryLayout, Range, ReadableRows, Row
from spine.history import FOLDER, HISTORY_ROW, History, HistoryFile, forget_unnamed
from spine.history import write as write_history
from spine.rocks import DAMAGE_MARK, LOCKED, DamagedStore
from spine.rows import Malformed, rows_digest

_log = structlog.get_logger()
POSITION_ROW: Final = b"\xff\xffposition"
FIRST_LIFE: Final = "1"
KEYS_AT_ONCE: Final = 10_000


@dataclass(frozen=True, slots=True)
class StorePosition:
    """How far a store has come: log, topic-partition, offset and digest of the last record."""

    log_id: bytes
    topic: str
    partition: int
    offset: int
    record_digest: bytes


class StoreInUse(Exception):
    """Another process writes the store; it is sound, and nobody else's to touch."""


class MemoryRows:
    """Rows that live as long as the process: for what is folded once and thrown away."""

    def __init__(self) -> None:
        self._rows: dict[bytes, bytes] = {}

    def get(self, key: bytes) -> bytes | None:
        """The value of a row."""
        return self._rows.get(key)

    def get_many(self, keys: Sequence[bytes]) -> Sequence[bytes | None]:
        """The values of many rows, in the order of their keys."""
        return [self._rows.get(key) for key in keys]

    def put(self, key: bytes, value: bytes) -> None:
        """Write a row."""
        self._rows[key] = value

    def scan(self, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Rows with start <= key < end, in key order."""
        return iter(sorted((k, v) for k, v in self._rows.items() if start <= k < end))

    def scan_each(self, ranges: Sequence[Range]) -> list[list[Row]]:
        """What `scan` gives of each of these ranges of keys."""
        return [list(self.scan(*each)) for each in ranges]


class Store:
    """The one writer of a store. `put` is pending until `commit` writes it with the position.

    What proves damaged on reading is marked, so that the next start rebuilds it. Each life of a
    store is a numbered folder under `path`; `discard` starts the next one, so that a reader of the
    old one notices.
    """

    def __init__(self, path: Path, layout: HistoryLayout | None = None) -> None:
        self.path, self._layout = path, layout
        path.mkdir(parents=True, exist_ok=True)
        self._open(rocks.latest_life(path) or 1)

    def _open(self, life: int) -> None:
        self._pending: dict[bytes, bytes] = {}
        self._life = life
        if self.is_damaged:
            raise DamagedStore(f"{self.path.name}: marked as damaged")
        try:
            self._db = rocks.open_as(self.path / str(life), rocks.options(writes=True))
        except Exception as error:
            if any(words in str(error) for words in LOCKED):
                raise StoreInUse(f"{self.path.name} has another writer") from error
            raise DamagedStore(f"{self.path.name}: {error}") from error
        self._history = rocks.history(self._db, self.path, self._life, self._layout)

    @staticmethod
    def discard_all(path: Path) -> None:
        """Drop the files of a store that cannot even be opened; the next life has a new number."""
        life = rocks.latest_life(path) or 0
        (path / str(life + 1)).mkdir(parents=True)
        (path / DAMAGE_MARK).unlink(missing_ok=True)
        shutil.rmtree(path / str(life), ignore_errors=True)

    def discard(self) -> None:
        """Start again with an empty store."""
        self.close()
        self.discard_all(self.path)
        self._open(self._life + 1)

    def get(self, key: bytes) -> bytes | None:
        """The value of a row, pending writes included."""
        pending = self._pending.get(key)  # once: another thread may read during a commit
        return rocks.get(self._db, self.path, key) if pending is None else pending

    def get_many(self, keys: Sequence[bytes]) -> Sequence[bytes | None]:
        """The values of many rows, in the order of their keys, pending writes included."""
        # Before what is written: another thread may read during a commit, as by `get`.
        pending = [self._pending.get(key) for key in keys] if self._pending else ()
        found = rocks.get_many(self._db, self.path, keys)
        if not pending:
            return found
        both = zip(pending, found, strict=True)
        return [stored if waits is None else waits for waits, stored in both]

    def put(self, key: bytes, value: bytes) -> None:
        """Write a row with the next commit."""
        self._pending[key] = value

    @property
    def pending(self) -> int:
        """How many rows wait for the next commit."""
        return len(self._pending)

    def scan(self, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Rows with start <= key < end, in key order, pending writes included."""
        waiting = self._pending.copy()  # before what is written, and at once, as by `get`
        stored = self._stored(start, end)
        if not waiting:
            return stored
        pending = sorted((k, v) for k, v in waiting.items() if start <= k < end)
        return rocks.merged(pending, stored)

    def scan_each(self, ranges: Sequence[Range]) -> list[list[Row]]:
        """What `scan` gives of each of these ranges of keys."""
        return [list(self.scan(*each)) for each in ranges]

    def _stored(self, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Committed rows, wherever they lie."""
        return rocks.scan_all(self._db, self._history, self.path, start, end)

    def move_to_history(self, before_day: int) -> HistoryFile | None:
        """Hand rows of days before that one over to a file; None if there are none.

        Whoever reads meanwhile, or after a kill in the middle, finds each row at least once: the
        file is written and compared first, then named in the store, and then the rows go.
        """
        if self._layout is None:
            return None
        position = self.position()
        if position is None or self._pending:
            return None
        said = {
            "log_id": position.log_id.hex(),
            "topic": position.topic,
            "partition": str(position.partition),
            "below_offset": str(position.offset + 1),
            "record_digest": position.record_digest.hex(),
        }
        folder, old = self.path / str(self._life) / FOLDER, partial(self._old, before_day)
        forget_unnamed(folder, self.history)
        written = write_history(folder, self._layout, old(), before_day, said)
        if written is None:
            return None
        check = History(folder, self._layout, [written])
        same = all(one == other for one, other in zip_longest(check.scan(b"", b"\xff"), old()))
        check.close()
        if not same:
            raise DamagedStore(f"{self.path.name}: its history does not give back its rows")
        files = (*self.history, written)
        self._db.put(HISTORY_ROW, pack(files))
        self._history = rocks.history(
            self._db, self.path, self._life, self._layout, known=self._history
        )
        keys = (key for key, _ in old())
        while some := list(islice(keys, KEYS_AT_ONCE)):
            batch = WriteBatch(raw_mode=True)
            for key in some:
                batch.delete(key)
            self._db.write(batch)
        self._db.flush()
        self._db.compact_range(None, None)
        return written

    def _old(self, before_day: int) -> Iterator[tuple[bytes, bytes]]:
        """Rows that still lie in the store itself, of days before that one."""
        assert self._layout is not None
        for prefix in self._layout.prefixes:
            for key, value in rocks.scan(self._db, self.path, prefix, prefix + b"\xff"):
                if self._layout.is_before(key, before_day):
                    yield key, value

    @property
    def history(self) -> tuple[HistoryFile, ...]:
        """The files that rows of old days were handed over to."""
        return self._history.files if self._history else ()

    def commit(self, position: StorePosition) -> None:
        """Write all pending rows and the position, or nothing."""
        rocks.put_all(self._db, self._pending | {POSITION_ROW: pack(position)})
        self._pending.clear()

    def make_room(self) -> None:
        """Have what was written moved to a file: a store that rests leaves the memory that all
        stores of the process share to those that do not.
        """
        self._db.flush(wait=False)

    @property
    def is_damaged(self) -> bool:
        """Whether something in it proved damaged: whoever opens it again begins anew."""
        return (self.path / DAMAGE_MARK).exists()

    def mark_damaged(self) -> None:
        """Have the next start discard the store: a row is not what was once written."""
        (self.path / DAMAGE_MARK).touch()

    def copy_to(self, folder: Path) -> None:
        """Copy all committed rows to a folder that is not there yet, as a store opens them."""
        Checkpoint(self._db).create_checkpoint(str(folder))
        if (history := self.path / str(self._life) / FOLDER).exists():
            shutil.copytree(history, folder / FOLDER)

    def forget_pending(self) -> None:
        """Drop what was not committed."""
        self._pending.clear()

    def position(self) -> StorePosition | None:
        """How far the committed rows have come; None for a new store."""
        return read_position(self)

    def digest(self) -> bytes:
        """SHA-256 over all committed rows in key order; the position row is not part of it."""
        return rows_digest(self._stored(b"", POSITION_ROW))

    def close(self) -> None:
        """Let go of the files."""
        if self._history:
            self._history.close()
        self._db.close()


class StoreReader:
    """A read-only secondary of a store that another process writes. `refresh` catches up.

    What proves damaged is marked for that process; a `bystander` marks nothing of the store's.
    """

    def __init__(
        self,
        path: Path,
        secondary: Path,
        layout: HistoryLayout | None = None,
        *,
        bystander: bool = False,
    ) -> None:
        self._path, self._secondary, self._layout = path, secondary, layout
        self._marked = secondary if bystander else path
        self._db: Rdict | None = None
        self._history: History | None = None
        self._life, self._begun_as = 0, b""
        self._constants: dict[bytes, bytes] = {}
        self._seen: frozenset[tuple[str, int]] = frozenset()
        self._opened_as: frozenset[str] = frozenset()
        self._position: StorePosition | None = None
        self._onward = rocks.Onward()

    def refresh(self) -> bool:
        """See what the writer has written since; False while there is no readable store.

        Its files are looked at first: to catch up with nothing takes RocksDB far longer. It is
        opened anew where a secondary would go on showing what it had read: once the writer has
        opened the store again, and when it comes to rest. How far a secondary may see it learns
        from the log of writes, and what has gone out of that between two looks it never reads.
        """
        try:
            life = rocks.latest_life(self._path)
            if self._db is None or life != self._life:
                self.close()
                self._open(life or 1)
                self._check()
            written = rocks.written(self._path / str(self._life))
            if written != self._seen:
                opened_again = rocks.openings(written) != self._opened_as
                if self._identity() != self._begun_as or opened_again or rocks.at_rest(written):
                    self.close()
                    self._open(self._life)
                else:
                    self._opened().try_catch_up_with_primary()
                    self._name_history()
                self._seen, self._position = written, None
                self._check()
        except Exception as error:
            _log.warning("store.unreadable", store=self._path.name, reason=str(error))
            self.close()
            return False
        return True

    def _open(self, life: int) -> None:
        shutil.rmtree(self._secondary, ignore_errors=True)
        self._secondary.mkdir(parents=True)
        access = AccessType.secondary(str(self._secondary))
        self._life, self._constants, self._position = life, {}, None
        # Before it is opened: what happens meanwhile is seen at the next look.
        self._begun_as, self._seen = self._identity(), rocks.written(self._path / str(life))
        self._opened_as = rocks.openings(self._seen)
        self._db = rocks.open_as(self._path / str(life), rocks.options(writes=False), access)
        self._name_history()

    def _check(self) -> None:
        """DamagedStore, and nobody is answered, if it went back while its writer has it open."""
        life, at = self._path / str(self._life), self.position()
        # What is put back from a snapshot has the names that it had.
        opening = (self._life, (life / "IDENTITY").stat().st_mtime_ns, self._opened_as)
        read = self._opened(), life, self._seen, opening
        self._onward.check(*read, -1 if at is None else at.offset, self._marked)

    def _name_history(self) -> None:
        stored = self._opened(), self._marked, self._life, self._layout
        self._history = rocks.history(*stored, self._path, self._history, self._judge)

    def _identity(self) -> bytes:
        """What RocksDB calls this store: another if it was removed and begun anew in its place."""
        return (self._path / str(self._life) / "IDENTITY").read_bytes()

    def constant(self, key: bytes) -> bytes | None:
        """The value of a row that is written once in a life of the store; None before it is."""
        found = self._constants.get(key) or self.get(key)
        if found is not None:
            self._constants[key] = found
        return found

    def get(self, key: bytes) -> bytes | None:
        """The value of a row as of the last refresh."""
        return rocks.get(self._opened(), self._marked, key, self._judge)

    def get_many(self, keys: Sequence[bytes]) -> Sequence[bytes | None]:
        """The values of many rows, in the order of their keys, as of the last refresh."""
        return rocks.get_many(self._opened(), self._marked, keys, self._judge)

    def scan(self, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Rows with start <= key < end, in key order, as of the last refresh."""
        return rocks.scan_all(self._opened(), self._history, self._marked, start, end, self._judge)

    def scan_each(self, ranges: Sequence[Range]) -> list[list[Row]]:
        """What `scan` gives of each of these ranges of keys, by one look into the store."""
        return rocks.scan_each(self._opened(), self._history, self._marked, ranges, self._judge)

    def _judge(self, marked: Path, error: Exception) -> DamagedStore:
        life = self._path / str(self._life)
        return rocks.damage_of_another(self._opened(), life, self._seen, marked, error)

    def _opened(self) -> Rdict:
        if self._db is None:
            raise DamagedStore(f"{self._path.name} is not open")
        return self._db

    def position(self) -> StorePosition | None:
        """How far the rows of the last refresh have come; read once in a refresh."""
        if self._position is None or self._db is None:
            self._position = read_position(self)
        return self._position

    def close(self) -> None:
        """Let go of the files."""
        if self._history is not None:
            self._history.close()
            self._history = None
        if self._db is not None:
            self._db.close()
            self._db = None


def read_position(rows: ReadableRows) -> StorePosition | None:
    """The position that stands with the rows; None for a new store."""
    stored = rows.get(POSITION_ROW)
    if stored is None:
        return None
    try:
        position: StorePosition = unpack(stored, StorePosition)
    except Malformed as error:
        raise DamagedStore(f"the position cannot be read: {error}") from error
    return position
