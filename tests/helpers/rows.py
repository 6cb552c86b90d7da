"""The rows of a store, in memory: what a fold or a view needs of one, and nothing more."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence

from spine.domain import Range, Row


class MemoryRows:
    """A sorted map of bytes to bytes that satisfies `spine.domain.Rows`."""

    def __init__(self) -> None:
        self.by_key: dict[bytes, bytes] = {}
        self._keys: list[bytes] = []

    def get(self, key: bytes) -> bytes | None:
        return self.by_key.get(key)

    def get_many(self, keys: Sequence[bytes]) -> Sequence[bytes | None]:
        return [self.by_key.get(key) for key in keys]

    def put(self, key: bytes, value: bytes) -> None:
        if key not in self.by_key:
            insort(self._keys, key)
        self.by_key[key] = value

    def scan(self, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        for key in self._keys[bisect_left(self._keys, start) : bisect_left(self._keys, end)]:
            yield key, self.by_key[key]

    def scan_each(self, ranges: Sequence[Range]) -> list[list[Row]]:
        return [list(self.scan(*each)) for each in ranges]
