"""Meter-days as rows of a store, versioned by their place in the log.

One put for each meter-day and no Python for a half hour. A row explains itself: with its key it
holds all that one batch said of one day. Nothing is overwritten, so that a read as of any position
finds what the log said up to there.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import accumulate, chain, compress, pairwise
from operator import itemgetter
from typing import Final

import numpy as np
from numpy.typing import NDArray

from domains.metering.readings import (
    MPXN_BYTES,
    PRESENT_BYTES,
    VALUE_BYTES,
    ReadingsBatch,
    energy_of,
    speaks_of_rows,
)
from domains.metering.withdrawals import ReadingsWithdrawn, without_values
from spine.answer import ABSENT, Absent, Columns, Ints
from spine.domain import ReadableRows, Rows
from spine.gb import PERIODS_PER_UTC_DAY

ROW_PREFIX: Final = b"r/"
BATCH_PREFIX: Final = b"b/"
REFUSED_PREFIX: Final = b"x/"
_WITHDRAWN, _QUARANTINED = (ABSENT.index(why) for why in (Absent.WITHDRAWN, Absent.QUARANTINED))
DAY_SIGN: Final = 0x8000_0000  # added, so that days before 1970 sort before those after
_CODE_END: Final = "\x1f"

_KEY = np.dtype(
    [
        ("prefix", "S2"),
        ("mpxn", "u1", MPXN_BYTES),
        ("quantity", "S2"),
        ("day", ">u4"),
        ("offset", ">i8"),
        ("row", ">u4"),
    ]
)
_DAY: Final = PERIODS_PER_UTC_DAY
VALUES_END = PRESENT_BYTES + PERIODS_PER_UTC_DAY * VALUE_BYTES
QUALITY_END = VALUES_END + PERIODS_PER_UTC_DAY
ALL_PRESENT: Final = 0xFF  # of each byte of a mask
_WHOLE: Final = bytes([ALL_PRESENT]) * PRESENT_BYTES
_CODES: Final = itemgetter(slice(QUALITY_END, None))


def fold_batch(record: ReadingsBatch | ReadingsWithdrawn, offset: int, rows: Rows) -> bool:
    """Put one row per meter-day, versioned by its place in the log; False if the batch is known.

    A row never overwrites another: a later batch for the same day is a further version. The row of
    a withdrawal is one without codes, and so without values.
    """
    batch = without_values(record) if isinstance(record, ReadingsWithdrawn) else record
    seen = BATCH_PREFIX + batch.batch_id
    if rows.get(seen) is not None:
        return False
    put = rows.put
    for key, value in zip(_row_keys(batch, offset), _row_values(batch), strict=True):
        put(key, value)
    put(seen, struct.pack(">q", offset))
    return True


def note_refused(record: ReadingsBatch | ReadingsWithdrawn, offset: int, rows: Rows) -> None:
    """Keep which half hours a batch was to have values for that was refused: the mask alone."""
    if isinstance(record, ReadingsBatch) and speaks_of_rows(record):
        for row, key in enumerate(_row_keys(record, offset, REFUSED_PREFIX)):
            rows.put(key, record.present[row * PRESENT_BYTES : (row + 1) * PRESENT_BYTES])


def _row_keys(batch: ReadingsBatch, offset: int, prefix: bytes = ROW_PREFIX) -> list[bytes]:
    """Prefix, MPxN (13), quantity (2), day (4, 2^31 added), offset (8), row (4), big-endian."""
    keys = np.empty(batch.rows, _KEY)
    keys["prefix"] = prefix
    keys["mpxn"] = np.frombuffer(batch.mpxns, np.uint8).reshape(batch.rows, MPXN_BYTES)
    keys["quantity"] = batch.measurement_quantity.encode()
    keys["day"] = np.frombuffer(batch.days, "<u4") ^ np.uint32(DAY_SIGN)
    keys["offset"] = offset
    keys["row"] = np.arange(batch.rows)
    whole: list[bytes] = keys.view(f"V{_KEY.itemsize}").tolist()
    return whole


def _row_values(batch: ReadingsBatch) -> list[bytes]:
    """Mask (6), Wh (192), quality (48) as in the batch, then every code and its end mark."""
    codes = "".join(code + _CODE_END for code in batch.quality_codes).encode()
    packed = np.empty((batch.rows, QUALITY_END + len(codes)), np.uint8)
    for start, end, vector in (
        (0, PRESENT_BYTES, batch.present),
        (PRESENT_BYTES, VALUES_END, energy_of(batch)),
        (VALUES_END, QUALITY_END, batch.quality),
    ):
        packed[:, start:end] = np.frombuffer(vector, np.uint8).reshape(batch.rows, end - start)
    packed[:, QUALITY_END:] = np.frombuffer(codes, np.uint8)
    whole: list[bytes] = packed.view(f"V{packed.shape[1]}").ravel().tolist()
    return whole


@dataclass(frozen=True, slots=True, eq=False)
class Versions:
    """Stored meter-days of one meter by day, and of each day in log order.

    A version is what one batch said of one day: `stored`, and the batch's place in the log.
    """

    days: Ints
    offsets: Ints
    rows: Ints
    stored: Sequence[bytes]

    def __len__(self) -> int:
        return len(self.stored)

    def take(self, places: Sequence[int]) -> Versions:
        """Those at these places."""
        at = np.array(places, np.int64)
        stored = [self.stored[place] for place in places]
        return Versions(self.days[at], self.offsets[at], self.rows[at], stored)

    def part(self, start: int, end: int) -> Versions:
        """Those from a place on and before another, in arrays of their own."""
        on = slice(start, end)
        days, offsets, rows = (all_of[on].copy() for all_of in (self.days, self.offsets, self.rows))
        return Versions(days, offsets, rows, self.stored[on])

    def below(self, offset: int | Ints) -> Versions:
        """Those from below an offset in the log, or each from below its own."""
        if not len(self):
            return self
        earlier = self.offsets < offset
        return self if earlier.all() else self.take(np.flatnonzero(earlier).tolist())


_NONE: Final = np.zeros(0, np.int64)
NO_VERSIONS: Final = Versions(_NONE, _NONE, _NONE, ())


def columns_of(kept: Versions, first: int, count: int, refused: Versions = NO_VERSIONS) -> Columns:
    """The half hours [first, first + count) as these versions say, a later one over an earlier.

    Where there is no value, what the log says instead: withdrawn, or quarantined after that. All
    versions are of days that these half hours are part of.
    """
    first_day, days = _days_around(first, count)
    numbers, marks = np.zeros((4, days * _DAY), np.int64), np.zeros((2, days * _DAY), np.uint8)
    values, quality, offsets, places = numbers.reshape(4, days, _DAY)
    instead, present = marks.reshape(2, days, _DAY)
    present = present.view(np.bool_)
    names: dict[str, int] = {}
    for codes, alike in _at_once(_that_count(kept)):
        # Of each day one, as most often: its place is its number, and nothing need be looked up.
        on = slice(None) if len(alike) == days else alike.days - first_day
        stored = np.frombuffer(b"".join(alike.stored), np.uint8).reshape(len(alike), -1)
        masks = stored[:, :PRESENT_BYTES]
        said = np.unpackbits(masks, axis=1, bitorder="little").view(np.bool_)
        if not codes:
            known = said & (present[on] | (instead[on] == _WITHDRAWN))
            present[on] &= ~known
            instead[on] = np.where(known, _WITHDRAWN, instead[on])
            offsets[on] = np.where(known, alike.offsets[:, None], offsets[on])
            continue
        present[on] |= said
        instead[on] *= ~said
        partly = np.flatnonzero((masks != ALL_PRESENT).any(axis=1))
        on_partly = alike.days[partly] - first_day
        for column, new in (
            (values, np.ascontiguousarray(stored[:, PRESENT_BYTES:VALUES_END]).view("<i4")),
            (quality, _renumbered(stored[:, VALUES_END:QUALITY_END], codes, names)),
            (offsets, alike.offsets[:, None]),
            (places, alike.rows[:, None]),
        ):
            before = column[on_partly]
            column[on] = new
            column[on_partly] = np.where(said[partly], new[partly], before)
    for day, offset, mask in zip(refused.days, refused.offsets, refused.stored, strict=True):
        on = day - first_day
        said = np.unpackbits(np.frombuffer(mask, np.uint8), bitorder="little").view(np.bool_)
        instead[on][said & ~present[on] & (offsets[on] < offset)] = _QUARANTINED
    asked = slice(first - first_day * _DAY, first - first_day * _DAY + count)
    values, quality, offsets, places = numbers[:, asked]
    instead, present = marks[:, asked]
    texts = tuple(names)
    return Columns(first, present.view(np.bool_), values, quality, texts, offsets, places, instead)


def _renumbered(
    quality: NDArray[np.uint8], codes: bytes, names: dict[str, int]
) -> NDArray[np.uint8] | Ints:
    """Qualities by the numbers that their names have in an answer; new names get the next."""
    texts = codes.decode().split(_CODE_END)[:-1]
    numbers = [names.setdefault(text, len(names)) for text in texts]
    return quality if numbers == [*range(len(numbers))] else np.array(numbers, np.int64)[quality]


def _that_count(kept: Versions) -> Versions:
    """These versions but for those of which a later one, that has a value for each half hour of
    the day, leaves nothing.
    """
    followed = _followed(kept)
    if not followed:
        return kept
    counts = np.ones(len(kept), np.bool_)
    for place in reversed(followed):
        later = kept.stored[place + 1]
        whole = later.startswith(_WHOLE) and len(later) > QUALITY_END
        counts[place] = counts[place + 1] and not whole
    stored = list(compress(kept.stored, counts.tolist()))
    return Versions(kept.days[counts], kept.offsets[counts], kept.rows[counts], stored)


def _followed(kept: Versions) -> list[int]:
    """The places of versions after which another of the same day comes."""
    followed: list[int] = np.flatnonzero(kept.days[1:] == kept.days[:-1]).tolist()
    return followed


def _at_once(kept: Versions) -> Iterator[tuple[bytes, Versions]]:
    """Versions with the same codes and of different days, in the order in which they count.

    Most often that is all of them: one version of each day.
    """
    codes = list(map(_CODES, kept.stored))
    kinds = sorted(set(codes))
    if len(kinds) == 1 and not _followed(kept):
        yield kinds[0], kept
        return
    earlier = np.arange(len(kept)) - np.searchsorted(kept.days, kept.days)  # versions of the day
    for number in range(int(earlier.max(initial=-1)) + 1):
        places = np.flatnonzero(earlier == number).tolist()
        for kind in kinds:
            alike = [p for p in places if codes[p] == kind] if len(kinds) > 1 else places
            if alike:
                yield kind, kept.take(alike)


def spoken_of(kept: Versions, first: int, count: int) -> NDArray[np.bool_]:
    """Which half hours [first, first + count) these versions give a value or withdraw."""
    first_day, days = _days_around(first, count)
    spoken = np.zeros((days, _DAY), np.bool_)
    for day, stored in zip(kept.days, kept.stored, strict=True):
        mask = np.frombuffer(stored, np.uint8, PRESENT_BYTES)
        spoken[day - first_day] |= np.unpackbits(mask, bitorder="little").view(np.bool_)
    start = first - first_day * _DAY
    return spoken.reshape(-1)[start : start + count]


def _days_around(first: int, count: int) -> tuple[int, int]:
    """The first of the UTC days that hold the half hours [first, first + count), and how many."""
    first_day = first // _DAY
    return first_day, -(-(first + count) // _DAY) - first_day


def versions(
    rows: ReadableRows,
    mpxn: str,
    quantity: str,
    first: int,
    count: int,
    prefix: bytes = ROW_PREFIX,
) -> Versions:
    """The versions of the UTC days that hold the half hours [first, first + count).

    With `REFUSED_PREFIX`, what was refused of them: `stored` is the mask then.
    """
    return _versions(rows.scan(*_bounds(mpxn, quantity, first, count, prefix)))


def _bounds(mpxn: str, quantity: str, first: int, count: int, prefix: bytes) -> tuple[bytes, bytes]:
    """Between which keys the rows of those days stand."""
    point = prefix + mpxn.encode().ljust(MPXN_BYTES, b"\x00") + quantity.encode()
    start, end = _day_keys(first, count)
    return point + start, point + end


@lru_cache(64)
def _day_keys(first: int, count: int) -> tuple[bytes, bytes]:
    """How the first of those days stands in a key, and the one after the last."""
    first_day, days = _days_around(first, count)
    return struct.pack(">I", first_day + DAY_SIGN), struct.pack(">I", first_day + days + DAY_SIGN)


def _versions(found: Iterable[tuple[bytes, bytes]]) -> Versions:
    keys, stored = [], []
    for key, value in found:
        keys.append(key)
        stored.append(value)
    if not keys:
        return NO_VERSIONS
    said = np.frombuffer(b"".join(keys), _KEY)
    days, offsets, places = (said[name].astype(np.int64) for name in ("day", "offset", "row"))
    return Versions(days - DAY_SIGN, offsets, places, stored)


def columns_of_each(
    rows: ReadableRows, mpxns: Sequence[str], quantity: str, first: int, count: int, below: int
) -> list[Columns]:
    """The half hours [first, first + count) of each of these meters as of an offset in the log.

    As `columns_of` gives them of one, made side by side: as if the days of each meter came after
    those of the meter before.
    """
    _, days = _days_around(first, count)
    kept, refused = (
        _one_after_the_other(rows, mpxns, quantity, first, count, prefix).below(below)
        for prefix in (ROW_PREFIX, REFUSED_PREFIX)
    )
    every = columns_of(kept, 0, len(mpxns) * days * _DAY, refused)
    return _parts(every, len(mpxns), first, count)


def _parts(every: Columns, meters: int, first: int, count: int) -> list[Columns]:
    """The half hours [first, first + count) of each meter, of all days of one after the other."""
    first_day, days = _days_around(first, count)
    begin = first - first_day * _DAY
    return [every.part(number * days * _DAY + begin, count, first) for number in range(meters)]


def _one_after_the_other(
    rows: ReadableRows, mpxns: Sequence[str], quantity: str, first: int, count: int, prefix: bytes
) -> Versions:
    """The versions of all these meters; the days of each follow on those of the one before."""
    found = rows.scan_each([_bounds(mpxn, quantity, first, count, prefix) for mpxn in mpxns])
    alone = _versions(chain.from_iterable(found))
    first_day, days = _days_around(first, count)
    before = np.repeat(np.arange(len(mpxns)) * days, [len(said) for said in found])
    return replace(alone, days=alone.days - first_day + before)


def versions_of_each(
    rows: ReadableRows, mpxns: Sequence[str], quantity: str, first: int, count: int, prefix: bytes
) -> list[Versions]:
    """What `versions` gives of each of these meters, read side by side."""
    found = rows.scan_each([_bounds(mpxn, quantity, first, count, prefix) for mpxn in mpxns])
    every = _versions(chain.from_iterable(found))
    edges = pairwise(accumulate(map(len, found), initial=0))
    return [every.part(*edge) if edge[0] < edge[1] else NO_VERSIONS for edge in edges]


def columns_as_of_each(
    kept: Sequence[Versions],
    refused: Sequence[Versions],
    below: Sequence[int],
    first: int,
    count: int,
) -> list[Columns]:
    """The half hours [first, first + count) of each of several meters, each as of its own offset in
    the log: as `columns_of` gives them of what stands below it, made side by side. Each may be kept
    without the others.
    """
    _, days = _days_around(first, count)
    ends = np.array(below, np.int64)
    said, not_taken = (_joined(each, ends, first, count) for each in (kept, refused))
    every = columns_of(said, 0, len(kept) * days * _DAY, not_taken)
    return [part.alone() for part in _parts(every, len(kept), first, count)]


def _joined(each: Sequence[Versions], below: Ints, first: int, count: int) -> Versions:
    """Those of each from below its own offset; days follow on those of the one before."""
    counts = [len(one) for one in each]
    if not any(counts):
        return NO_VERSIONS
    first_day, days = _days_around(first, count)
    moved = np.repeat(np.arange(len(each)) * days - first_day, counts)
    joined = Versions(
        np.concatenate([one.days for one in each]) + moved,
        np.concatenate([one.offsets for one in each]),
        np.concatenate([one.rows for one in each]),
        [*chain.from_iterable(one.stored for one in each)],
    )
    return joined.below(np.repeat(below, counts))
