"""Which partition a key belongs to: Kafka's default partitioner, of one key or of many. Pure."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt

# Of the keys that were asked for last: the same one is asked for several times in a row.
HASHES_KEPT_MAX: Final = 16_384
# Fewer keys than this are hashed sooner one by one.
COLUMN_KEYS_MIN: Final = 16


def murmur2_partition(key: bytes, partitions: int) -> int:
    """The partition Kafka's default partitioner gives a key: murmur2, sign bit cleared, modulo."""
    return (_murmur2(key) & 0x7FFFFFFF) % partitions if partitions > 1 else 0


def murmur2_partitions(keys: Sequence[bytes], partitions: int) -> list[int]:
    """The partition of each key, as `murmur2_partition` gives it; at once if all are as long as
    the first, as those of a bulk record are.
    """
    length = len(keys[0]) if keys else 0
    if len(keys) < COLUMN_KEYS_MIN or not length or any(len(key) != length for key in keys):
        return [murmur2_partition(key, partitions) for key in keys]
    hashes = murmur2_column(np.frombuffer(b"".join(keys), np.uint8).reshape(len(keys), length))
    homes: list[int] = partitions_of_hashes(hashes, partitions).tolist()
    return homes


def murmur2_column(keys: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint32]:
    """Kafka's murmur2 of keys of one length, (n, length); uint32 wraps as the hash wants it."""
    length = keys.shape[1]
    whole = length - length % 4
    words = np.ascontiguousarray(keys[:, :whole]).view("<u4").astype(np.uint32)
    m = np.uint32(0x5BD1_E995)
    hashes = np.full(len(keys), 0x9747_B28C ^ length, np.uint32)
    for word in words.T:
        mixed = word * m
        mixed ^= mixed >> np.uint32(24)
        hashes = (hashes * m) ^ (mixed * m)
    if length > whole:
        for place, octet in enumerate(keys[:, whole:].T):
            hashes ^= octet.astype(np.uint32) << np.uint32(8 * place)
        hashes *= m
    hashes ^= hashes >> np.uint32(13)
    hashes *= m
    return hashes ^ (hashes >> np.uint32(15))


def partitions_of_hashes(hashes: npt.NDArray[np.uint32], partitions: int) -> npt.NDArray[np.int64]:
    """The partition of each hash, (n,): sign bit cleared, modulo."""
    return (hashes & np.uint32(0x7FFF_FFFF)).astype(np.int64) % partitions


@lru_cache(HASHES_KEPT_MAX)
def _murmur2(key: bytes) -> int:
    mask = 0xFFFFFFFF
    m = 0x5BD1E995
    length = len(key)
    h = (0x9747B28C ^ length) & mask
    whole = length - length % 4
    for (k,) in struct.iter_unpack("<I", key[:whole]):
        k = (k * m) & mask
        k ^= k >> 24
        h = ((h * m) & mask) ^ ((k * m) & mask)
    rest = key[whole:]
    if rest:
        h ^= int.from_bytes(rest, "little")
        h = (h * m) & mask
    h ^= h >> 13
    h = (h * m) & mask
    return h ^ (h >> 15)
