"""Which request an idempotency key stands for, across all subjects a coordinator decides on.

A repeated command is found in the log, in its subject's own partition. That the same key was used
for a request about another subject only a memory over all partitions can tell: this one. It is a
cache and may be deleted; then such a reuse goes unnoticed until the key is used again. So it
forgets by itself what is old.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Sequence
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
ASKED_AT_ONCE: Final = 500

# Role, party, method and key, and the SHA-256 of the request.
Claim = tuple[str, str, str, str, bytes]


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
        (conflict,) = self.claim_all([(role, party, method, key, digest)])
        if conflict is not None:
            raise conflict

    def claim_all(self, claims: Sequence[Claim]) -> list[Conflict | None]:
        """Many as by `claim`, one after the other, in one transaction; what became of each."""
        found: list[Conflict | None] = []
        scopes = [self._scope(*claim[:-1]) for claim in claims]
        at_s, new = int(self._clock()), dict[str, bytes]()
        self._db.execute("BEGIN IMMEDIATE")
        with self._db:
            known = self._known(scopes)
            for scope, claim in zip(scopes, claims, strict=True):
                digest = claim[-1]
                if scope not in known:
                    known[scope] = new[scope] = digest
                found.append(None if known[scope] == digest else _conflict())
            rows = ((scope, digest, at_s) for scope, digest in new.items())
            self._db.executemany("INSERT OR IGNORE INTO claimed VALUES (?, ?, ?)", rows)
        self._forget_after(len(claims))
        return found

    def _known(self, scopes: Sequence[str]) -> dict[str, bytes]:
        """The digests that these scopes stand for already."""
        known: dict[str, bytes] = {}
        for start in range(0, len(scopes), ASKED_AT_ONCE):
            asked = scopes[start : start + ASKED_AT_ONCE]
            places = ",".join("?" * len(asked))
            query = f"SELECT scope, digest FROM claimed WHERE scope IN ({places})"
            known |= dict(self._db.execute(query, asked).fetchall())
        return known

    def _scope(self, role: str, party: str, method: str, key: str) -> str:
        return "\x1f".join((self._prefix, role, party, method, key))

    def _forget_after(self, claims: int) -> None:
        self._since_forgotten += claims
        if self._since_forgotten >= FORGET_EVERY:
            self.forget()

    def forget(self) -> None:
        """Forget the keys that were first used too long ago to be sent again."""
        self._since_forgotten = 0
        self._db.execute("DELETE FROM claimed WHERE at_s < ?", (int(self._clock()) - KEPT_S,))

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()


def _conflict() -> Conflict:
    message = "this idempotency key was used for another request"
    return Conflict(Reason.IDEMPOTENCY_CONFLICT, message)
