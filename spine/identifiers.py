"""Identifiers that one party has and no other: what names a thing, sealed for that party alone.

Deterministic authenticated encryption (AES-SIV, RFC 5297) under one key of the installation, bound
to the kind of thing and the party. So there is no table to keep: every server makes the same text
of the same thing, the text of one party opens for no other, and two have nothing to compare. The
key is apart from Kafka, like those that seal names; the log goes on naming things as it did.

    text    mtr_, cst_, tny_, ast_ or chg_, then base64url of: key id (1 byte), sealed
    sealed  SIV (16 bytes) and the thing as UTF-8, filled up with NUL to 16 bytes (a meter) or 64

All texts of a kind are of one length, so that an MPAN cannot be told from an MPRN. What is only
ever handed back (cursors, positions) is sealed with a nonce, so that not even equality shows.
"""

from __future__ import annotations

import base64
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from enum import StrEnum
from hashlib import sha256
from pathlib import Path
from typing import Final, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV

from spine.errors import Invalid, NotFound, Pushback, Reason

KEY_FILE: Final = "identifiers.key"
KEY_BYTES: Final = 64
NONCE_BYTES: Final = 16
METER_BYTES: Final = 16
NAME_BYTES: Final = 64
# What is handed back is filled up to a multiple of this: its length tells next to nothing.
CHUNK_BYTES: Final = 240


class Kind(StrEnum):
    """What is named or sealed; also how a text of it begins."""

    METER = "mtr"
    CONSENT = "cst"
    TENANCY = "tny"
    ASSET = "ast"
    CHANGE = "chg"
    CURSOR = "cur"
    POSITIONS = "pos"
    DIGEST = "dig"


NAMES: Final = (Kind.METER, Kind.CONSENT, Kind.TENANCY, Kind.ASSET, Kind.CHANGE)


class Identifiers:
    """Makes and opens identifiers under one key. Pure but for nonces; any thread may call."""

    def __init__(self, key: bytes, nonce: Callable[[int], bytes] = os.urandom) -> None:
        self._sealed, self._nonce = AESSIV(key), nonce
        self._key_id = sha256(b"energyos-identifiers-v1\0" + key).digest()[:1]

    @classmethod
    def of(cls, data_dir: Path, key_file: Path | None = None) -> Self:
        """Under the key in that file, or else that of the data folder, made on first use.

        Pushback(STARTING) if there is none and none can be made: then nobody is told anything else.
        """
        path = key_file or data_dir / "keys" / KEY_FILE
        if not path.exists():
            try:
                _make(path)
            except OSError:
                raise Pushback(Reason.STARTING, "no key of identifiers here yet") from None
        return cls(path.read_bytes())

    @classmethod
    def kept(cls, data_dir: Path, key_file: Path | None = None) -> Self:
        """The same, but NotFound(IDENTIFIER_UNKNOWN) if there is none: for who only looks."""
        path = key_file or data_dir / "keys" / KEY_FILE
        if not path.exists():
            message = "no identifier was ever made under a key of this data folder"
            raise NotFound(Reason.IDENTIFIER_UNKNOWN, message)
        return cls(path.read_bytes())

    def close(self, kind: Kind, party: str, name: str) -> str:
        """The party's identifier of what has that name, of at most 64 bytes without NUL."""
        return _text(kind, self._key_id + self._seal(kind, party, name.encode(), _width(kind)))

    def open(self, kind: Kind, party: str, text: str) -> str | None:
        """The name of what this identifier stands for; None if it was not made for that party.

        Invalid(IDENTIFIER_UNKNOWN)  the text is none of that kind, or of a key no longer in use
        """
        sealed = self._of_our_key(kind, text)
        try:
            named = self._sealed.decrypt(sealed, [kind.encode(), party.encode()])
            return named.rstrip(b"\0").decode()
        except (InvalidTag, ValueError):
            return None

    def close_once(self, kind: Kind, party: str, content: bytes) -> bytes:
        """Content that comes back; sealed another way each time."""
        nonce = self._nonce(NONCE_BYTES)
        framed = len(content).to_bytes(4) + content
        width = -(-len(framed) // CHUNK_BYTES) * CHUNK_BYTES
        return self._key_id + nonce + self._seal(kind, party, framed, width, nonce)

    def open_once(self, kind: Kind, party: str, sealed: bytes) -> bytes | None:
        """The content; None if it was not sealed for that party, or under another key."""
        nonce = sealed[1 : 1 + NONCE_BYTES]
        try:
            framed = self._sealed.decrypt(
                sealed[1 + NONCE_BYTES :], [kind.encode(), party.encode(), nonce]
            )
        except (InvalidTag, ValueError):
            return None
        return framed[4 : 4 + int.from_bytes(framed[:4])]

    def close_text(self, kind: Kind, party: str, content: str) -> str:
        """`close_once` for a text."""
        return _text(kind, self.close_once(kind, party, content.encode()))

    def open_text(self, kind: Kind, party: str, text: str) -> str | None:
        """`open_once` for a text."""
        try:
            sealed = _bytes(kind, text)
        except ValueError:
            return None
        opened = self.open_once(kind, party, sealed)
        return None if opened is None else opened.decode()

    def close_bytes(self, kind: Kind, party: str, content: bytes) -> bytes:
        """Content that is only compared, the same each time; an auditor can open it."""
        return self._key_id + self._seal(kind, party, content, len(content))

    def _seal(self, kind: Kind, party: str, content: bytes, width: int, *nonce: bytes) -> bytes:
        padded = content.ljust(width, b"\0")
        return self._sealed.encrypt(padded, [kind.encode(), party.encode(), *nonce])

    def _of_our_key(self, kind: Kind, text: str) -> bytes:
        try:
            raw = _bytes(kind, text)
        except ValueError:
            raw = b""
        if raw[:1] != self._key_id or len(raw) != 1 + 16 + _width(kind):
            message = f"no identifier that begins with {kind}_ and is in use"
            raise Invalid(Reason.IDENTIFIER_UNKNOWN, message)
        return raw[1:]


def _make(path: Path) -> None:
    """Put a new key there, readable by its owner only; one that is there meanwhile stays."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        fresh = Path(scratch) / KEY_FILE
        descriptor = os.open(fresh, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(os.urandom(KEY_BYTES))
            file.flush()
            os.fsync(descriptor)
        with suppress(FileExistsError):  # another process was first: its key is the key
            path.hardlink_to(fresh)


def _width(kind: Kind) -> int:
    return METER_BYTES if kind is Kind.METER else NAME_BYTES


def _text(kind: Kind, sealed: bytes) -> str:
    return f"{kind}_{base64.urlsafe_b64encode(sealed).decode()}"


def _bytes(kind: Kind, text: str) -> bytes:
    """What stands behind the prefix; ValueError if it is not written the one way to write it."""
    if not text.startswith(f"{kind}_"):
        raise ValueError
    sealed = base64.b64decode(text[4:].encode("ascii"), altchars=b"-_", validate=True)
    if _text(kind, sealed) != text:
        raise ValueError
    return sealed
