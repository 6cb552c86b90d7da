"""Personal data sealed with AES-256-GCM, one key for each subject, in a vault apart from the log.

The log is kept for ever and people have a right to be forgotten: what is sealed can be read as long
as the subject's key is in the vault, and by nobody once it is destroyed. A key goes by a random id,
so that a sealed value says nothing about its subject; only the vault knows which is whose.
"""

from __future__ import annotations

import hmac
import os
import sqlite3
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Final, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from spine.errors import Invalid, Reason, Refused
from spine.event import Sealed

VAULT_FILE: Final = "vault.sqlite"
KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
BUSY_TIMEOUT_S: Final = 10.0

_TABLES: Final = """
CREATE TABLE IF NOT EXISTS keys (
    key_id TEXT PRIMARY KEY, subject TEXT NOT NULL UNIQUE, key BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS destroyed (subject TEXT PRIMARY KEY);
CREATE TABLE IF NOT EXISTS secret (one INTEGER PRIMARY KEY CHECK (one = 1), value BLOB NOT NULL);
"""


@dataclass(frozen=True, slots=True)
class Opened:
    """What was sealed for a subject, in its order; None is what the subject's key does not open.

    `digest`, 32 bytes, tells these texts from all others under the subject's key: whoever lacks the
    key can try no names on it, and once the key is destroyed nobody can. `shut` has the reason of
    each text that is None, and is empty beside the others: KEYS_NOT_AT_HAND, it was sealed with
    another key than the one that is here (a vault was lost, and with another one the digest is
    another); SEAL_DAMAGED, with this one, and is not as it was.
    """

    texts: tuple[str | None, ...] = field(repr=False)
    digest: bytes
    shut: tuple[str, ...]

    @property
    def strange(self) -> bool:
        """Whether any of it was sealed with another key."""
        return Reason.KEYS_NOT_AT_HAND in self.shut


class Vault:
    """The keys of this installation's subjects. Its calls block on the disk; any thread may call.

    A key is on the disk before anything is sealed with it. A destroyed one is overwritten there.
    """

    def __init__(self, path: Path, db: sqlite3.Connection) -> None:
        self.path = path
        self._db = db
        self._lock = threading.Lock()

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open the vault in this file; made on first use, readable by its owner only."""
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        path.chmod(0o600)
        db = sqlite3.connect(
            path, timeout=BUSY_TIMEOUT_S, check_same_thread=False, isolation_level=None
        )
        # No write-ahead log: a destroyed key would live on in it.
        db.execute("PRAGMA journal_mode = DELETE")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA secure_delete = ON")
        db.executescript(_TABLES)
        return cls(path, db)

    @classmethod
    def look_into(cls, path: Path) -> Self:
        """The vault in this file, to open seals and change nothing.

        Invalid(FILE_UNREADABLE) if there is none that can be read.
        """
        uri = f"{path.resolve().as_uri()}?mode=ro"
        try:
            db = sqlite3.connect(
                uri, timeout=BUSY_TIMEOUT_S, check_same_thread=False, isolation_level=None, uri=True
            )
            db.execute("SELECT 1 FROM keys LIMIT 1")
        except sqlite3.Error:
            message = f"{path} is no vault that can be read"
            raise Invalid(Reason.FILE_UNREADABLE, message, field="vault") from None
        return cls(path, db)

    def seal(self, subject: str, context: str, plaintext: bytes) -> Sealed:
        """Seal it under the subject's key, which is made on first use, and bind it to `context`.

        Refused(SUBJECT_ERASED) if the subject's key was destroyed.
        """
        key_id, key = self._key_for(subject)
        nonce = os.urandom(NONCE_BYTES)
        sealed = AESGCM(key).encrypt(nonce, plaintext, context.encode())
        return Sealed(key_id, nonce, sealed, context)

    def unseal(self, sealed: Sealed) -> bytes | None:
        """What was sealed; None if its key is gone, or if it is not what that key sealed."""
        with self._lock:
            row = self._db.execute(
                "SELECT key FROM keys WHERE key_id = ?", (sealed.key_id,)
            ).fetchone()
        return None if row is None else _opened(row[0], sealed)

    def open_for(self, subject: str, sealed: Sequence[Sealed]) -> Opened | None:
        """What was sealed for the subject; None if the vault has no key for any of it: nothing else
        would tell an auditor with the lost key that the digest of such an answer is under another.

        Refused(SUBJECT_ERASED) if its key was destroyed.
        """
        with self._lock:
            held = self._find(subject)
        if held is None:
            return None
        key_id, key = held
        if all(each.key_id != key_id for each in sealed):
            return None
        plain = [_opened(key, each) for each in sealed]
        texts = tuple(None if one is None else one.decode("utf-8", "replace") for one in plain)
        shut = tuple(
            "" if one is not None else _why_shut(each, key_id)
            for each, one in zip(sealed, plain, strict=True)
        )
        return Opened(texts, _keyed(key, bare_digest(sealed, plain)), shut)

    def keyed(self, subject: str, digest: bytes) -> bytes:
        """32 bytes for a digest of what is sealed for the subject, the same while its key is there.

        Who knows all else of a request can try names on a bare digest, long after they were erased.
        Refused(SUBJECT_ERASED) if the subject's key was destroyed.
        """
        return _keyed(self._key_for(subject)[1], digest)

    def destroy(self, subject: str) -> bool:
        """Destroy the subject's key, for ever; returns whether there was one.

        Nothing is sealed for the subject from then on.
        """
        return self.destroy_all([subject]) > 0

    def destroy_all(self, subjects: Sequence[str]) -> int:
        """Destroy these subjects' keys in one go; how many there were."""
        rows = [(subject,) for subject in subjects]
        with self._lock, self._db:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.executemany("INSERT OR IGNORE INTO destroyed VALUES (?)", rows)
            return self._db.executemany("DELETE FROM keys WHERE subject = ?", rows).rowcount

    def token(self, *scope: str) -> str:
        """16 hex digits that look random and are the same for the same scope: ids for retries."""
        message = b"".join(len(part).to_bytes(4) + part for part in (s.encode() for s in scope))
        return hmac.digest(self._secret, message, sha256)[:8].hex()

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._db.close()

    def _key_for(self, subject: str) -> tuple[str, bytes]:
        with self._lock:
            held = self._find(subject)
            if held is None:
                fresh = (os.urandom(16).hex(), subject, os.urandom(KEY_BYTES))
                self._db.execute("INSERT OR IGNORE INTO keys VALUES (?, ?, ?)", fresh)
                held = self._find(subject)
        assert held is not None
        return held

    def _find(self, subject: str) -> tuple[str, bytes] | None:
        """The subject's key and its id, if there is one; Refused if it was destroyed."""
        find = "SELECT key_id, key FROM keys WHERE subject = ?"
        row = self._db.execute(find, (subject,)).fetchone()
        if row is not None:
            return row[0], row[1]
        gone = "SELECT 1 FROM destroyed WHERE subject = ?"
        if self._db.execute(gone, (subject,)).fetchone() is not None:
            raise Refused(Reason.SUBJECT_ERASED, "the subject was erased")
        return None

    @cached_property
    def _secret(self) -> bytes:
        with self._lock:
            self._db.execute("INSERT OR IGNORE INTO secret VALUES (1, ?)", (os.urandom(KEY_BYTES),))
            secret: bytes = self._db.execute("SELECT value FROM secret").fetchone()[0]
            return secret


def bare_digest(sealed: Sequence[Sealed], plain: Sequence[bytes | None]) -> bytes:
    """SHA-256 over what sealed fields were opened to. For ever, and never to be shown as it is:
    whoever knows the rest of them can try names on it.

    A field: length (4) and context; then 1, length (4) and the text, or 0 if it does not open.
    """
    digest = sha256(b"energyos-opened-v1\0")
    for each, text in zip(sealed, plain, strict=True):
        context = each.context.encode()
        digest.update(len(context).to_bytes(4) + context)
        digest.update(b"\0" if text is None else b"\1" + len(text).to_bytes(4) + text)
    return digest.digest()


def _keyed(key: bytes, digest: bytes) -> bytes:
    return hmac.digest(key, b"digest\0" + digest, sha256)


def _why_shut(sealed: Sealed, key_id: str) -> Reason:
    return Reason.SEAL_DAMAGED if sealed.key_id == key_id else Reason.KEYS_NOT_AT_HAND


def _opened(key: bytes, sealed: Sealed) -> bytes | None:
    try:
        return AESGCM(key).decrypt(sealed.nonce, sealed.ciphertext, sealed.context.encode())
    except (InvalidTag, ValueError):
        return None
