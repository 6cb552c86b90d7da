"""Meter-days while a file is read: those touched last at hand, all others on a shelf.

What became of a half hour has to be known until the file ends, for its value may come again any
number of lines later. A `Window` holds so many days as one row of plain cells each; the older half
moves to the shelf when it is full, and a day comes back when its meter and date do. Whoever reads a
large file hands in a shelf that lies on a disk, so that memory does not grow with the file.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from typing import Protocol

import numpy as np
import numpy.typing as npt

from spine.gb import PERIODS_PER_UTC_DAY

# A half hour without a value.
NOTHING = -1
_VALUES_END = 4 * PERIODS_PER_UTC_DAY
_CODES_END = _VALUES_END + PERIODS_PER_UTC_DAY
_NO_DAY = array("i", (NOTHING,)) * PERIODS_PER_UTC_DAY
_NO_CELLS = bytes(PERIODS_PER_UTC_DAY)

Key = tuple[str, int]


class Shelf(Protocol):
    """Days by metering point and number since 1970-01-01, for as long as one file is read."""

    def get(self, mpxn: str, day: int) -> bytes | None:
        """What was put there last, if anything."""

    def put(self, days: Iterable[tuple[str, int, bytes]]) -> None:
        """Keep days, in place of what stood there."""

    def days(self) -> Iterator[tuple[str, int, bytes]]:
        """All of them, by metering point and day."""


class MemoryShelf:
    """A shelf for what is small."""

    def __init__(self) -> None:
        self._days: dict[Key, bytes] = {}

    def get(self, mpxn: str, day: int) -> bytes | None:
        """See `Shelf`."""
        return self._days.get((mpxn, day))

    def put(self, days: Iterable[tuple[str, int, bytes]]) -> None:
        """See `Shelf`."""
        for mpxn, day, cells in days:
            self._days[mpxn, day] = cells

    def days(self) -> Iterator[tuple[str, int, bytes]]:
        """See `Shelf`."""
        for mpxn, day in sorted(self._days):
            yield mpxn, day, self._days[mpxn, day]


class Taken:
    """Days that leave a window, as arrays: a row each, sorted by metering point and day.

    `fresh` says of each half hour whether its value came since the day was last taken.
    """

    def __init__(self, keys: list[Key], values: bytes, codes: bytes, fresh: bytes) -> None:
        shape = (len(keys), PERIODS_PER_UTC_DAY)
        self.keys = keys
        self.values: npt.NDArray[np.int32] = np.frombuffer(values, "=i4").reshape(shape)
        self.codes: npt.NDArray[np.uint8] = np.frombuffer(codes, np.uint8).reshape(shape)
        self.fresh: npt.NDArray[np.bool_] = np.frombuffer(fresh, np.bool_).reshape(shape)


class Window:
    """The days touched last; each has a place, where its 48 half hours begin in every vector.

    `values` is Wh or `NOTHING`; `codes` the number of a quality code; `lost` why a half hour that
    was named has no value, 0 for none; `fresh` 1 for a value that has not left the window yet.
    """

    def __init__(self, days_max: int, shelf: Shelf) -> None:
        self._days_max, self._shelf = days_max, shelf
        self._shelved = False
        self._places: dict[Key, int] = {}  # touched last stands last
        self._free: list[int] = []
        self._last_mpxn, self._last_day, self._last_place = "", 0, 0
        self.values = array("i")
        self.codes, self.lost, self.fresh = bytearray(), bytearray(), bytearray()

    @property
    def full(self) -> bool:
        """Whether days should be taken out before the next row is read."""
        return len(self._places) >= self._days_max

    def place(self, mpxn: str, day: int) -> int:
        """Where that day begins; it is brought in if it is not here."""
        if day == self._last_day and mpxn == self._last_mpxn:
            return self._last_place
        key = (mpxn, day)
        place = self._places.pop(key, -1)
        if place < 0:
            place = self._bring(key)
        self._places[key] = place
        self._last_mpxn, self._last_day, self._last_place = mpxn, day, place
        return place

    def _bring(self, key: Key) -> int:
        stored = self._shelf.get(*key) if self._shelved else None
        if stored is None:
            values, codes, lost = _NO_DAY, _NO_CELLS, _NO_CELLS
        else:
            values = array("i", stored[:_VALUES_END])
            codes, lost = stored[_VALUES_END:_CODES_END], stored[_CODES_END:]
        if not self._free:
            place = len(self.values)
            self.values.extend(values)
            for vector, cells in ((self.codes, codes), (self.lost, lost), (self.fresh, _NO_CELLS)):
                vector.extend(cells)
            return place
        place = self._free.pop()
        end = place + PERIODS_PER_UTC_DAY
        self.values[place:end] = values
        self.codes[place:end], self.lost[place:end] = codes, lost
        self.fresh[place:end] = _NO_CELLS
        return place

    def take(self, *, everything: bool) -> Taken:
        """Move days to the shelf: all, or the half that was not touched for longest.

        Returned are those of them that hold a fresh value.
        """
        count = len(self._places) if everything else (len(self._places) + 1) // 2
        leaving = sorted(key for key, _ in zip(self._places, range(count), strict=False))
        self._last_mpxn = ""
        self._shelf.put((*key, self._cells(self._places[key])) for key in leaving)
        self._shelved = self._shelved or bool(leaving)
        fresh = [key for key in leaving if 1 in self._day(self.fresh, self._places[key])]
        places = [self._places[key] for key in fresh]
        taken = Taken(
            fresh,
            b"".join(self.values[p : p + PERIODS_PER_UTC_DAY].tobytes() for p in places),
            b"".join(self._day(self.codes, p) for p in places),
            b"".join(self._day(self.fresh, p) for p in places),
        )
        self._free += [self._places.pop(key) for key in leaving]
        return taken

    def _day(self, vector: bytearray, place: int) -> bytearray:
        return vector[place : place + PERIODS_PER_UTC_DAY]

    def _cells(self, place: int) -> bytes:
        values = self.values[place : place + PERIODS_PER_UTC_DAY].tobytes()
        return values + self._day(self.codes, place) + self._day(self.lost, place)


def named(cells: bytes) -> tuple[npt.NDArray[np.bool_], bytes]:
    """Of a day on the shelf: which half hours have a value, and why each of the others has none."""
    return np.frombuffer(cells, "=i4", PERIODS_PER_UTC_DAY) != NOTHING, cells[_CODES_END:]
