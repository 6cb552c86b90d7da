"""Which request an idempotency key stands for, across all subjects a coordinator decides on.

A repeated command is found in the log, in its subject's own partition. That the same key was used
for a request about another subject only a memory over all partitions can tell: this one. It is a
cache and may be deleted; then such a reuse goes unnoticed until the key is used again. So it
forgets by itself what is old.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Final

import structlog

from spine import rocks
from spine.errors import Conflict, Reason

CLAIMS_FOLDER: Final = "claims"
# What earlier builds kept them in.
OLD_FILES: Final = "claims.sqlite*"
# Nobody sends a command again after so long.
KEPT_S: Final = 30 * 86_400
_AT_S = struct.Struct(">q")
_log = structlog.get_logger()

# Role, party, method and key, and the SHA-256 of the request.
Claim = tuple[str, str, str, str, bytes]


class Claims:
    """Idempotency keys and the SHA-256 of the request each was first used for, of one log.

    What is too old to be sent again counts no more at once, and goes when its file is next merged.
    """

    def __init__(self, folder: Path, log_id: bytes, clock: Callable[[], float] = time.time) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob(OLD_FILES):
            old.unlink()
        self._prefix = log_id.hex()
        self._path = folder / CLAIMS_FOLDER
        self._db = rocks.open_cache(self._path, KEPT_S)
        self._clock = clock

    def claim(self, role: str, party: str, method: str, key: str, digest: bytes) -> None:
        """Bind a key to a request; Conflict(IDEMPOTENCY_CONFLICT) if it stands for another."""
        (conflict,) = self.claim_all([(role, party, method, key, digest)])
        if conflict is not None:
            raise conflict

    def claim_all(self, claims: Sequence[Claim]) -> list[Conflict | None]:
        """Many as by `claim`, one after the other, written together; what became of each."""
        found: list[Conflict | None] = []
        scopes = [self._scope(*claim[:-1]) for claim in claims]
        at_s = int(self._clock())
        known, new = self._known(scopes, at_s - KEPT_S), dict[bytes, bytes]()
        for scope, (*_, digest) in zip(scopes, claims, strict=True):
            if scope not in known:
                known[scope] = digest
                new[scope] = _AT_S.pack(at_s) + digest
            found.append(None if known[scope] == digest else _conflict())
        rocks.put_all(self._db, new)
        return found

    def _known(self, scopes: Sequence[bytes], since_s: int) -> dict[bytes, bytes]:
        """The digests that these scopes stand for already, if they were claimed since then."""
        try:
            stored = rocks.get_many(self._db, self._path, scopes)
        except rocks.DamagedStore as damage:
            _log.warning("claims.begun_anew", reason=str(damage))
            self._db.close()
            self._db = rocks.open_cache(self._path, KEPT_S)
            return {}
        rows = zip(scopes, stored, strict=True)
        kept = ((scope, row) for scope, row in rows if row and _AT_S.unpack_from(row)[0] >= since_s)
        return {scope: row[_AT_S.size :] for scope, row in kept}

    def _scope(self, role: str, party: str, method: str, key: str) -> bytes:
        """As long as the id of a command, and hashed as that is."""
        scope = "\x1f".join((self._prefix, role, party, method, key))
        return sha256(scope.encode()).digest()[:16]

    def close(self) -> None:
        """Let go of the files."""
        self._db.close()


def _conflict() -> Conflict:
    message = "this idempotency key was used for another request"
    return Conflict(Reason.IDEMPOTENCY_CONFLICT, message)
