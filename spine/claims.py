"""Which request an idempotency key stands for, across all subjects a coordinator decides on.

A repeated command is found in the log, in its subject's own partition. That the same key was used
for a request about another subject only a memory over all partitions can tell: this one. It is a
cache and may be deleted; then such a reuse goes unnoticed until the key is used again. So it
forgets by itself what is old.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from spine.errors import Conflict, Reason

CLAIMS_FILE: Final = "claims.sqlite"
_TABLE: Final = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = OFF;
DROP TABLE IF EXISTS claims;
CREATE TABLE IF NOT EXISTS claimed (
    scope TEXT PRIMARY KEY, digest BLOB NOT NULL, at_s INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS by_age ON claimed (at_s);
"""
# Nobody sends a command again after so long. Forgetting is done at the start and every so often.
KEPT_S: Final = 30 * 86_400
FORGET_EVERY: Final = 10_000


class Claims:
    """Idempotency keys and the SHA-256 of the request each was first used for, of one log."""

    def __init__(self, folder: Path, log_id: bytes, clock: Callable[[], float] = time.time) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._prefix = log_id.hex()
        self._db = sqlite3.connect(folder / CLAIMS_FILE, isolation_level=None)
        self._db.executescript(_TABLE)
        self._clock, self._since_forgotten = clock, 0
        self.forget()

    def claim(self, role: str, party: str, method: str, key: str, digest: bytes) -> None:
        """Bind a key to a request; Conflict(IDEMPOTENCY_CONFLICT) if it stands for another."""
        scope = "\x1f".join((self._prefix, role, party, method, key))
        row = (scope, digest, int(self._clock()))
        self._db.execute("INSERT OR IGNORE INTO claimed VALUES (?, ?, ?)", row)
        self._since_forgotten += 1
        if self._since_forgotten >= FORGET_EVERY:
            self.forget()
        query = "SELECT digest FROM claimed WHERE scope = ?"
        ((claimed,),) = self._db.execute(query, (scope,)).fetchall()
        if claimed != digest:
            raise Conflict(
                Reason.IDEMPOTENCY_CONFLICT, "this idempotency key was used for another request"
            )

    @contextmanager
    def together(self) -> Iterator[None]:
        """Many claims as one transaction, which costs little more than one of them."""
        self._db.execute("BEGIN")
        try:
            yield
        finally:
            self._db.execute("COMMIT")

    def forget(self) -> None:
        """Forget the keys that were first used too long ago to be sent again."""
        self._since_forgotten = 0
        self._db.execute("DELETE FROM claimed WHERE at_s < ?", (int(self._clock()) - KEPT_S,))

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()
