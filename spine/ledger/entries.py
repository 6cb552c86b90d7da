"""What the leaves of the trees say: one record of the log, one partition's head, one epoch. Pure.

These layouts are for ever; `tests/golden` holds their bytes. Integers are big-endian, lengths
precede what varies. No leaf holds a value or a key of the log: they enter by digest, so tiles can
be given to anybody, and a proof can show that a record stands where it stands without showing what
it says. DESIGN.md, "The ledger", explains the three.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from typing import Final

from spine.event import LogRecord
from spine.merkle import leaf_hash
from spine.merkle import root as root_of

RECORD_TAG: Final = b"energyos-leaf-v1\x00"
HEAD_TAG: Final = b"energyos-head-v1\x00"
EPOCH_TAG: Final = b"energyos-epoch-v1\x00"
HEADERS_TAG: Final = b"energyos-headers-v1\x00"
CONTENT_TAG: Final = b"energyos-content-v1\x00"
NO_VALUE: Final = bytes(32)
# Every so many epochs one lists the sizes of all partitions, so that none needs more to be read.
FULL_EVERY: Final = 256
ENTRY_BYTES_MAX: Final = 0xFFFF
_RECORD_PLACE: Final = struct.Struct(">iqq")
_LENGTH: Final = struct.Struct(">i")
# Begun once and copied, as most records have no key.
_NO_KEY: Final = sha256(CONTENT_TAG + _LENGTH.pack(-1))

Place = tuple[str, int]


@dataclass(frozen=True, slots=True)
class RecordLeaf:
    """One record: where it stands, when the broker took it, and digests of what it holds."""

    topic: str
    partition: int
    offset: int
    append_ms: int
    headers_digest: bytes
    content_digest: bytes

    def encode(self) -> bytes:
        """The bytes that the leaf hash covers."""
        place = _RECORD_PLACE.pack(self.partition, self.offset, self.append_ms)
        return _record_tag(self.topic) + place + self.headers_digest + self.content_digest

    @classmethod
    def decode(cls, raw: bytes) -> RecordLeaf:
        """The leaf in those bytes; ValueError for anything else."""
        rest = _tagged(raw, RECORD_TAG)
        topic, rest = _cut_text(rest)
        if len(rest) != 20 + 64:
            raise ValueError("not the leaf of a record")
        partition, offset, append_ms = _RECORD_PLACE.unpack(rest[:20])
        return cls(topic, partition, offset, append_ms, rest[20:52], rest[52:])

    @classmethod
    def of(cls, record: LogRecord) -> RecordLeaf:
        """The leaf of a record, as the log has it."""
        return cls.decode(record_entry(record))


def record_entry(record: LogRecord) -> bytes:
    """The bytes that the leaf hash of a record covers: `RecordLeaf.of(record).encode()`.

    Made for every record of the log, so in three hashes over joined parts and without an object.
    """
    value, key = record.value, record.key
    parts = [HEADERS_TAG]
    for name, content in record.headers:
        parts += (_header(name, len(content)), content)
    value_digest = NO_VALUE if value is None else sha256(value).digest()
    if key is None:
        content_digest = _NO_KEY.copy()
    else:
        content_digest = sha256(CONTENT_TAG + _LENGTH.pack(len(key)) + key)
    content_digest.update(value_digest)
    return b"".join(
        (
            _record_tag(record.topic),
            _RECORD_PLACE.pack(record.partition, record.offset, record.append_ms),
            sha256(b"".join(parts)).digest(),
            content_digest.digest(),
        )
    )


@lru_cache(1_024)
def _header(name: str, length: int) -> bytes:
    """What stands before a header's content: its name after the name's length, and its own."""
    encoded = name.encode("utf-8", "surrogatepass")
    return _LENGTH.pack(len(encoded)) + encoded + _LENGTH.pack(length)


@lru_cache(64)
def _record_tag(topic: str) -> bytes:
    return RECORD_TAG + _text(topic)


@dataclass(frozen=True, slots=True)
class Head:
    """How many records of a partition are in its tree, and the root over them."""

    topic: str
    partition: int
    size: int
    root: bytes

    @property
    def place(self) -> Place:
        """The topic-partition."""
        return self.topic, self.partition

    def encode(self) -> bytes:
        """The bytes that its leaf in the super-root covers."""
        numbers = struct.pack(">iq", self.partition, self.size)
        return HEAD_TAG + _text(self.topic) + numbers + self.root


def super_leaves(heads: Iterable[Head]) -> list[bytes]:
    """The leaf hashes of the super-root: the partitions in the order of topic and number."""
    return [leaf_hash(head.encode()) for head in sorted(heads, key=lambda head: head.place)]


def super_root(heads: Iterable[Head]) -> bytes:
    """One hash over the heads of all partitions."""
    return root_of(super_leaves(heads))


@dataclass(frozen=True, slots=True)
class Epoch:
    """One head of everything: when, over how many partitions, and which of them have grown.

    `sizes` lists the partitions that differ from the epoch before, or all where `number` is a
    multiple of FULL_EVERY.
    """

    number: int
    at_ms: int
    partitions: int
    super_root: bytes
    sizes: tuple[tuple[str, int, int], ...]

    def encode(self) -> bytes:
        """The bytes that its leaf covers."""
        numbers = struct.pack(">qqiH", self.number, self.at_ms, self.partitions, len(self.sizes))
        sizes = b"".join(_text(t) + struct.pack(">iq", p, size) for t, p, size in self.sizes)
        return EPOCH_TAG + numbers + self.super_root + sizes

    @classmethod
    def decode(cls, raw: bytes) -> Epoch:
        """The epoch in those bytes; ValueError for anything else."""
        rest = _tagged(raw, EPOCH_TAG)
        if len(rest) < 22 + 32:
            raise ValueError("not an epoch")
        number, at_ms, partitions, count = struct.unpack_from(">qqiH", rest)
        root, rest = rest[22:54], rest[54:]
        sizes = []
        for _ in range(count):
            topic, rest = _cut_text(rest)
            if len(rest) < 12:
                raise ValueError("not an epoch")
            sizes.append((topic, *struct.unpack_from(">iq", rest)))
            rest = rest[12:]
        if rest:
            raise ValueError("not an epoch")
        return cls(number, at_ms, partitions, root, tuple(sizes))


def epoch_after(
    number: int, at_ms: int, heads: Sequence[Head], before: Mapping[Place, int]
) -> Epoch:
    """The epoch that says what has grown since the partitions were of the sizes `before`."""
    grown = [
        (head.topic, head.partition, head.size)
        for head in sorted(heads, key=lambda head: head.place)
        if number % FULL_EVERY == 0 or head.size != before.get(head.place, -1)
    ]
    return Epoch(number, at_ms, len(heads), super_root(heads), tuple(grown))


def _text(text: str) -> bytes:
    encoded = text.encode()
    return struct.pack(">H", len(encoded)) + encoded


def _cut_text(raw: bytes) -> tuple[str, bytes]:
    if len(raw) < 2:
        raise ValueError("cut short")
    end = 2 + int.from_bytes(raw[:2], "big")
    if len(raw) < end:
        raise ValueError("cut short")
    return raw[2:end].decode(), raw[end:]


def _tagged(raw: bytes, tag: bytes) -> bytes:
    if not raw.startswith(tag):
        raise ValueError("another kind of leaf")
    return raw[len(tag) :]
