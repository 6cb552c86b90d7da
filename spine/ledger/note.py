"""Checkpoints as signed notes, and what witnesses add to them. Pure: who signs is handed in.

C2SP signed-note (text, blank line, signature lines; Ed25519 is type 0x01), tlog-checkpoint (origin,
size, root) and tlog-cosignature (type 0x04: a witness signs the note's text under a time).
"""

from __future__ import annotations

import hashlib
import re
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

ED25519: Final = 0x01
COSIGNATURE: Final = 0x04
# Verifiers must accept 16 signatures; a note of more than this is nobody's.
SIGNATURES_MAX: Final = 64
NOTE_BYTES_MAX: Final = 64 << 10
SIZE_MAX: Final = (1 << 63) - 1
_MARK: Final = "\u2014 "
_CONTROL: Final = re.compile("[\x00-\x09\x0b-\x1f]")

Sign = Callable[[bytes], bytes]
Verify = Callable[[bytes, bytes, bytes], bool]


@dataclass(frozen=True, slots=True)
class PublishedHead:
    """The value of a record of the checkpoints topic: a signed note, as it was published."""

    note: str


class MalformedNote(ValueError):
    """Text that is no signed note, or no checkpoint."""


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """A public key as notes name it: `kind` is ED25519 for a log, COSIGNATURE for a witness."""

    name: str
    kind: int
    public: bytes

    @property
    def id(self) -> bytes:
        """SHA-256(name, newline, kind, key), its first four bytes."""
        return _key_id(self.name, self.kind, self.public)

    def __str__(self) -> str:
        key = b64encode(bytes([self.kind]) + self.public).decode()
        return f"{self.name}+{self.id.hex()}+{key}"

    @classmethod
    def parse(cls, text: str) -> VerifierKey:
        """A key as written `<name>+<id>+<key>`; MalformedNote if it is not one of ours."""
        try:
            name, key_id, encoded = text.strip().split("+", 2)
            raw = b64decode(encoded, validate=True)
        except (ValueError, Base64Error):
            raise MalformedNote("a verifier key reads <name>+<id>+<key>") from None
        if len(raw) != 33 or raw[0] not in (ED25519, COSIGNATURE) or not _is_name(name):
            raise MalformedNote("not an Ed25519 key of a log or a witness")
        key = cls(name, raw[0], raw[1:])
        if key.id.hex() != key_id:
            raise MalformedNote("the key's id is not that of its bytes")
        return key


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature line: whose it says it is, and the bytes."""

    name: str
    key_id: bytes
    blob: bytes

    def line(self) -> str:
        """As it stands in a note."""
        return f"{_MARK}{self.name} {b64encode(self.key_id + self.blob).decode()}\n"


@dataclass(frozen=True, slots=True)
class Note:
    """A text, which ends in a newline, and who signed it."""

    text: str
    signatures: tuple[Signature, ...]

    def __str__(self) -> str:
        return f"{self.text}\n" + "".join(signature.line() for signature in self.signatures)

    @classmethod
    def parse(cls, raw: str) -> Note:
        """A signed note; MalformedNote for anything else."""
        if len(raw) > NOTE_BYTES_MAX or _CONTROL.search(raw):
            raise MalformedNote("too long, or with control characters")
        text, blank, signed = raw.rpartition("\n\n")
        lines = signed.splitlines(keepends=True)
        if not blank or not lines or len(lines) > SIGNATURES_MAX:
            raise MalformedNote("a note is a text, a blank line and signatures")
        return cls(f"{text}\n", tuple(map(parse_signature, lines)))

    def with_signatures(self, more: Iterable[Signature]) -> Note:
        """The same text, signed by more."""
        return Note(self.text, tuple(dict.fromkeys((*self.signatures, *more))))

    def signed_by(self, key: VerifierKey, verify: Verify) -> int | None:
        """When that key signed it (0 where the kind of key says no time); None if it did not."""
        for signature in self.signatures:
            if (signature.name, signature.key_id) != (key.name, key.id):
                continue
            if key.kind == ED25519:
                if verify(key.public, self.text.encode(), signature.blob):
                    return 0
            elif len(signature.blob) == 72:
                at = int.from_bytes(signature.blob[:8], "big")
                if verify(key.public, cosigned(self.text, at), signature.blob[8:]):
                    return at
        return None


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The head of a tree: which log, how many leaves, and their root."""

    origin: str
    size: int
    root: bytes

    def text(self) -> str:
        """What is signed."""
        return f"{self.origin}\n{self.size}\n{b64encode(self.root).decode()}\n"

    @classmethod
    def parse(cls, text: str) -> Checkpoint:
        """The head in a note's text; MalformedNote if it is none, or holds anything more."""
        lines = text.split("\n")
        try:
            origin, size, root, end = lines
            head = cls(origin, int(size), b64decode(root, validate=True))
        except (ValueError, Base64Error):
            raise MalformedNote("a checkpoint is three lines") from None
        if end or head.text() != text or len(head.root) != 32 or not 0 <= head.size <= SIZE_MAX:
            raise MalformedNote("not the one way to write a checkpoint")
        return head


def parse_signature(line: str) -> Signature:
    """A signature line; MalformedNote for anything else."""
    try:
        name, encoded = line.removesuffix("\n").removeprefix(_MARK).split(" ")
        raw = b64decode(encoded, validate=True)
    except (ValueError, Base64Error):
        raise MalformedNote("a signature line reads mark, name, signature") from None
    # Base64 has bits to spare at its end, and a line is written in one way only.
    whole = len(raw) > 4 and b64encode(raw).decode() == encoded
    if not (line.startswith(_MARK) and line.endswith("\n") and whole and _is_name(name)):
        raise MalformedNote("a signature line reads mark, name, signature")
    return Signature(name, raw[:4], raw[4:])


def sign(text: str, key: VerifierKey, signer: Sign) -> Signature:
    """The log's signature over a note's text."""
    return Signature(key.name, key.id, signer(text.encode()))


def cosign(text: str, at: int, key: VerifierKey, signer: Sign) -> Signature:
    """A witness's cosignature at `at`, seconds since 1970."""
    return Signature(key.name, key.id, at.to_bytes(8, "big") + signer(cosigned(text, at)))


def cosigned(text: str, at: int) -> bytes:
    """What a witness signs: the time and the whole text."""
    return f"cosignature/v1\ntime {at}\n{text}".encode()


@lru_cache(64)
def _key_id(name: str, kind: int, public: bytes) -> bytes:
    return hashlib.sha256(f"{name}\n".encode() + bytes([kind]) + public).digest()[:4]


def _is_name(name: str) -> bool:
    return name.split() == [name] and "+" not in name  # one word, not empty
