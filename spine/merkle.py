"""RFC 6962 hashing, and the salted root over the entries of one access record.

The root lets one entry be shown, with its salt and path, while the others stay hidden: a salt is
derived from the record's seed, so showing one says nothing about the next.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Sequence
from typing import Final

# Begun once and copied for each hash, which takes less than to begin anew.
_LEAF: Final = hashlib.sha256(b"\x00")
_NODE: Final = hashlib.sha256(b"\x01")
_INDEX: Final = struct.Struct(">I").pack
# Of HMAC: the length of a block of SHA-256, and each byte as it is in the inner and outer key.
_BLOCK: Final = 64
_INNER, _OUTER = (bytes(byte ^ pad for byte in range(256)) for pad in (0x36, 0x5C))


def leaf_hash(data: bytes) -> bytes:
    """SHA-256(0x00 ‖ data), RFC 6962 section 2.1."""
    digest = _LEAF.copy()
    digest.update(data)
    return digest.digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """SHA-256(0x01 ‖ left ‖ right), RFC 6962 section 2.1."""
    digest = _NODE.copy()
    digest.update(left + right)
    return digest.digest()


def parents(hashes: Sequence[bytes]) -> list[bytes]:
    """`node_hash` of each two neighbours: the level above an even number of hashes."""
    above = []
    for left, right in zip(hashes[::2], hashes[1::2], strict=True):
        digest = _NODE.copy()
        digest.update(left + right)
        above.append(digest.digest())
    return above


def root(leaves: Sequence[bytes]) -> bytes:
    """The Merkle tree hash of leaf hashes; of none, SHA-256 of nothing."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    level = list(leaves)
    while len(level) > 1:  # the last of an odd number is a subtree of the level above as it is
        alone = [level.pop()] if len(level) % 2 else []
        level = parents(level) + alone
    return level[0]


def path(leaves: Sequence[bytes], index: int) -> tuple[bytes, ...]:
    """The audit path of one leaf, lowest sibling first (RFC 6962 section 2.1.1)."""
    if len(leaves) <= 1:
        return ()
    split = _split(len(leaves))
    if index < split:
        return (*path(leaves[:split], index), root(leaves[split:]))
    return (*path(leaves[split:], index - split), root(leaves[:split]))


def root_from_path(leaf: bytes, index: int, size: int, siblings: Sequence[bytes]) -> bytes:
    """The root that a leaf and its audit path lead to; ValueError if no tree has such a path."""
    if not 0 <= index < size:
        raise ValueError("no such leaf")
    if size == 1:
        if siblings:
            raise ValueError("audit path too long")
        return leaf
    if not siblings:
        raise ValueError("audit path too short")
    split = _split(size)
    *below, top = siblings
    if index < split:
        return node_hash(root_from_path(leaf, index, split, below), top)
    return node_hash(top, root_from_path(leaf, index - split, size - split, below))


def salt(seed: bytes, index: int) -> bytes:
    """The 16-byte salt of one entry: HMAC-SHA-256(seed, index), truncated."""
    return hmac.digest(seed, _INDEX(index), "sha256")[:16]


def salts(seed: bytes, count: int) -> list[bytes]:
    """The salts of the first entries, as `salt` gives each: what all have in common is hashed once
    (RFC 2104).
    """
    key = (hashlib.sha256(seed).digest() if len(seed) > _BLOCK else seed).ljust(_BLOCK, b"\x00")
    inner, outer = hashlib.sha256(key.translate(_INNER)), hashlib.sha256(key.translate(_OUTER))
    made = []
    for index in range(count):
        within, around = inner.copy(), outer.copy()
        within.update(_INDEX(index))
        around.update(within.digest())
        made.append(around.digest()[:16])
    return made


def salted_leaf(entry_salt: bytes, entry: bytes) -> bytes:
    """The leaf of one entry: its salt, then its Avro bytes."""
    return leaf_hash(entry_salt + entry)


def salted_root(seed: bytes, entries: Sequence[bytes]) -> bytes:
    """The root over all entries of a record, each under its own salt."""
    both = zip(salts(seed, len(entries)), entries, strict=True)
    return root([leaf_hash(entry_salt + entry) for entry_salt, entry in both])


def _split(size: int) -> int:
    """The largest power of two smaller than `size`."""
    return 1 << ((size - 1).bit_length() - 1)
