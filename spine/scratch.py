"""A store for what is folded once and thrown away: as long as its rows are few they stay in memory.

To make the files of a store and to have them on the disk takes longer than to fold a small log.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from typing import Final

from spine.codec import pack
from spine.store import POSITION_ROW, Store, StorePosition

# An audit has the rows of five topics at a time. They are half a KB each, of a meter with many
# consents more.
ROWS_IN_MEMORY: Final = 1 << 15
BYTES_IN_MEMORY: Final = 1 << 24
# So many new keys are sooner put in their place one by one.
FEW: Final = 32


class ScratchStore(Store):
    """A store that writes nothing before it has many rows, or large ones, and then is one like any
    other.

    Until then what is pending is all there is, and a commit adds the position to it.
    """

    def _open(self, life: int) -> None:
        self._life, self._history = life, None
        self._pending, self._in_memory, self._bytes = {}, True, 0
        self._keys: list[bytes] = []
        self._new: list[bytes] = []

    def _write(self) -> None:
        """Go on in files: what is in memory is pending there."""
        rows = self._pending
        super()._open(self._life)
        self._pending, self._in_memory = rows, False
        self._keys, self._new = [], []

    def get(self, key: bytes) -> bytes | None:
        """The value of a row."""
        return self._pending.get(key) if self._in_memory else super().get(key)

    def get_many(self, keys: Sequence[bytes]) -> Sequence[bytes | None]:
        """The values of many rows, in the order of their keys."""
        if not self._in_memory:
            return super().get_many(keys)
        get = self._pending.get
        return [get(key) for key in keys]

    def put(self, key: bytes, value: bytes) -> None:
        """Write a row."""
        if self._in_memory:
            self._bytes += len(value)  # also of what is written over: it is to be a bound
            if key not in self._pending:
                self._new.append(key)
        self._pending[key] = value

    def scan(self, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Rows with start <= key < end, in key order, as they are when this is called."""
        return self._stored(start, end) if self._in_memory else super().scan(start, end)

    def _stored(self, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        if not self._in_memory:
            return super()._stored(start, end)
        keys, rows = self._in_order(), self._pending
        found = keys[bisect_left(keys, start) : bisect_left(keys, end)]
        return iter([(key, rows[key]) for key in found])

    def _in_order(self) -> list[bytes]:
        """All keys; a scan that comes soon after another sorts only what is new."""
        if len(self._new) > FEW:
            self._keys += self._new
            self._keys.sort()
        else:
            for key in self._new:
                insort(self._keys, key)
        self._new.clear()
        return self._keys

    def commit(self, position: StorePosition) -> None:
        """Write the position; and all rows with it, once they are many."""
        if self._in_memory:
            self.put(POSITION_ROW, pack(position))
            if len(self._pending) < ROWS_IN_MEMORY and self._bytes < BYTES_IN_MEMORY:
                return
            self._write()
        super().commit(position)

    def close(self) -> None:
        """Let go of the rows, or of the files."""
        if self._in_memory:
            self._open(self._life)
        else:
            super().close()
