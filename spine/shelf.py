"""Days of a large readings file on a disk while it is read: the shelf of `adapters.window`.

A temporary SQLite database without a name. SQLite keeps it in its cache while it is small, and in a
file that is already unlinked when it is not, so that nothing of it is left when the process ends.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from typing import Final, Self

CACHE_KIB: Final = 8_192


class DiskShelf:
    """See `domains.metering.adapters.window.Shelf`. One thread at a time."""

    def __init__(self) -> None:
        self._db = sqlite3.connect("", check_same_thread=False, isolation_level=None)
        self._db.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        self._db.execute("PRAGMA journal_mode = OFF")
        self._db.execute("PRAGMA synchronous = OFF")
        self._db.execute(
            "CREATE TABLE days (mpxn TEXT, day INTEGER, cells BLOB, PRIMARY KEY (mpxn, day))"
            " WITHOUT ROWID"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    def get(self, mpxn: str, day: int) -> bytes | None:
        """What was put there last, if anything."""
        found = self._db.execute(
            "SELECT cells FROM days WHERE mpxn = ? AND day = ?", (mpxn, day)
        ).fetchone()
        return None if found is None else bytes(found[0])

    def put(self, days: Iterable[tuple[str, int, bytes]]) -> None:
        """Keep days, in place of what stood there."""
        self._db.execute("BEGIN")
        self._db.executemany("INSERT OR REPLACE INTO days VALUES (?, ?, ?)", days)
        self._db.execute("COMMIT")

    def days(self) -> Iterator[tuple[str, int, bytes]]:
        """All of them, by metering point and day."""
        yield from self._db.execute("SELECT mpxn, day, cells FROM days ORDER BY mpxn, day")
