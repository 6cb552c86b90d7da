"""What senders of readings sent before, so that their reports tell new from repeated.

A cache and not a record: it may be deleted at any time. A batch that is sent again is then appended
again and reported as recorded, and every fold of the readings passes over it by its batch id. Of a
delivery that was refused in part by the clock it tells where its batches were cut; without it, what
was recorded then is recorded once more, as a further version with the same values. What it must
never do is to know of a batch that the log does not hold; `Deliveries.check` sees to that.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any, Final

import structlog

from domains.metering.readings import Delivery, ReadingsBatch
from domains.metering.withdrawals import ReadingsWithdrawn
from spine import trust
from spine.codec import Codec
from spine.errors import Conflict, Reason
from spine.log import LogReader
from spine.rows import Malformed, UnknownSchema

_log = structlog.get_logger()


class Deliveries:
    """Batch ids and references in one SQLite file, which one process uses.

    It is started afresh if it is damaged, of another log, or of a log that does not hold the last
    batch it remembers of a partition: a log has one history, so that one answers for all before it.
    """

    def __init__(self, path: Path, log_id: bytes) -> None:
        self._path, self._log_id = path, log_id
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._open()
        except sqlite3.DatabaseError as error:
            self._start_afresh(str(error))

    def _open(self) -> None:
        self._db = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        self._db.executescript(_TABLES)
        self._db.execute("INSERT OR IGNORE INTO log VALUES (1, ?)", (self._log_id,))
        if self._db.execute("SELECT id FROM log").fetchone() != (self._log_id,):
            raise sqlite3.DatabaseError("it is of another log")

    def _start_afresh(self, reason: str) -> None:
        _log.warning("deliveries.afresh", reason=reason)
        self._db.close()
        for suffix in ("", "-wal", "-shm"):
            self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
        self._open()

    def check(self, reader: LogReader, codec: Codec) -> None:
        """Forget everything unless the log holds the last batch of each partition. Blocking."""
        heads = self._run("SELECT part, at, batch FROM heads")
        if not all(_holds(reader, codec, *head) for head in heads):
            self._start_afresh("the log does not hold what it remembers")

    def claim(
        self, delivery: Delivery, taken: str = "this sender_reference was used for another source"
    ) -> None:
        """Bind the sender's reference to its source; Conflict(IDEMPOTENCY_CONFLICT) with the words
        `taken` if it is bound to another.
        """
        key = _named(delivery)
        source = (*key, delivery.source_digest)
        self._run("INSERT OR IGNORE INTO sources VALUES (?, ?, ?)", source)
        query = "SELECT digest FROM sources WHERE party = ? AND reference = ?"
        ((digest,),) = self._run(query, key)
        if digest != delivery.source_digest:
            raise Conflict(Reason.IDEMPOTENCY_CONFLICT, taken)

    def cut(self, delivery: Delivery, at: int) -> None:
        """What of the delivery had not ended by that half hour, since 1970, was refused."""
        self._run("INSERT OR IGNORE INTO cuts VALUES (?, ?, ?)", (*_named(delivery), at))

    def cuts(self, delivery: Delivery) -> list[int]:
        """All that was said by `cut` of the delivery, ascending."""
        query = "SELECT at FROM cuts WHERE party = ? AND reference = ? ORDER BY at"
        return [at for (at,) in self._run(query, _named(delivery))]

    def offset_of(self, batch_id: bytes) -> int | None:
        """Where a batch was appended, if that is remembered."""
        found = self._run("SELECT at FROM batches WHERE batch = ?", (batch_id,))
        return int(found[0][0]) if found else None

    def remember(self, batch_id: bytes, partition: int, offset: int) -> None:
        """The batch has been appended there."""
        self._run("INSERT OR REPLACE INTO batches VALUES (?, ?, ?)", (batch_id, partition, offset))
        self._run(
            "INSERT INTO heads VALUES (?, ?, ?) ON CONFLICT (part)"
            " DO UPDATE SET at = excluded.at, batch = excluded.batch WHERE excluded.at > at",
            (partition, offset, batch_id),
        )

    def _run(self, query: str, values: tuple[object, ...] = ()) -> list[tuple[Any, ...]]:
        """The rows; a file that proves damaged is given up for an empty one."""
        try:
            return self._db.execute(query, values).fetchall()
        except sqlite3.DatabaseError as error:
            self._start_afresh(str(error))
            return self._db.execute(query, values).fetchall()

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()


_TABLES: Final = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = OFF;
CREATE TABLE IF NOT EXISTS log (one INTEGER PRIMARY KEY, id BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS batches (batch BLOB PRIMARY KEY, part INTEGER, at INTEGER) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS heads (part INTEGER PRIMARY KEY, at INTEGER, batch BLOB);
CREATE TABLE IF NOT EXISTS cuts (party TEXT, reference TEXT, at INTEGER,
    PRIMARY KEY (party, reference, at)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS sources (party TEXT, reference TEXT, digest BLOB NOT NULL,
    PRIMARY KEY (party, reference)) WITHOUT ROWID;
"""


def _named(delivery: Delivery) -> tuple[str, str]:
    return delivery.sender, delivery.sender_reference


def _holds(reader: LogReader, codec: Codec, partition: int, offset: int, batch_id: bytes) -> bool:
    start, end = reader.bounds(trust.READINGS_TOPIC, partition)
    if not start <= offset < end:
        return False
    record = next(reader.read(trust.READINGS_TOPIC, partition, offset, offset + 1))
    try:
        batch = codec.decode(record.value or b"")
    except (Malformed, UnknownSchema):
        return False
    if not isinstance(batch, ReadingsBatch | ReadingsWithdrawn):
        return False
    return batch.batch_id == batch_id
