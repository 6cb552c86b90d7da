"""Meter-days as rows of a store, versioned by their place in the log.

One put for each meter-day and no Python for a half hour. A row explains itself: with its key it
holds all that one batch said of one day. Nothing is overwritten, so that a read as of any position
finds what the log said up to there.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
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
from spine.answer import ABSENT, Absent, Columns
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
_KEY_PLACE = struct.Struct(">IqI")  # day, offset and row: the end of a key
VALUES_END = PRESENT_BYTES + PERIODS_PER_UTC_DAY * VALUE_BYTES
QUALITY_END = VALUES_END + PERIODS_PER_UTC_DAY


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


def recorded_batch(rows: ReadableRows, batch_id: bytes) -> int | None:
    """The offset at which the batch of that id was folded; None if it was not."""
    stored = rows.get(BATCH_PREFIX + batch_id)
    return None if stored is None else int(struct.unpack(">q", stored)[0])


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


@dataclass(frozen=True, slots=True)
class Version:
    """One stored meter-day: what one batch said of one day, and the batch's place in the log."""

    day: int
    offset: int
    row: int
    stored: bytes


def columns_of(
    kept: Iterable[Version], first: int, count: int, refused: Iterable[Version] = ()
) -> Columns:
    """The half hours [first, first + count) as these versions say, a later one over an earlier.

    Where there is no value, what the log says instead: withdrawn, or quarantined after that.
    """
    present, instead = np.zeros(count, np.bool_), np.zeros(count, np.uint8)
    values, quality, offsets, places = (np.zeros(count, np.int64) for _ in range(4))
    names: dict[str, int] = {}
    for codes, group in groupby(kept, _codes):
        alike = list(group)
        stored = np.frombuffer(b"".join(v.stored for v in alike), np.uint8).reshape(len(alike), -1)
        said = np.unpackbits(stored[:, :PRESENT_BYTES], axis=1, bitorder="little").view(np.bool_)
        days, offset, row = np.array([(v.day, v.offset, v.row) for v in alike]).T[:, :, None]
        half_hours = days * PERIODS_PER_UTC_DAY - first + np.arange(PERIODS_PER_UTC_DAY)
        said = said & (half_hours >= 0) & (half_hours < count)
        where = half_hours[said]  # of places that repeat, the last assigned counts
        if not codes:
            known = present[where] | (instead[where] == _WITHDRAWN)
            where, at = where[known], np.broadcast_to(offset, said.shape)[said][known]
            present[where], instead[where], offsets[where] = False, _WITHDRAWN, at
            continue
        present[where], instead[where] = True, 0
        values[where] = np.ascontiguousarray(stored[:, PRESENT_BYTES:VALUES_END]).view("<i4")[said]
        texts = codes.decode().split(_CODE_END)[:-1]
        numbers = np.array([names.setdefault(text, len(names)) for text in texts], np.int64)
        quality[where] = numbers[stored[:, VALUES_END:QUALITY_END][said]]
        offsets[where] = np.broadcast_to(offset, said.shape)[said]
        places[where] = np.broadcast_to(row, said.shape)[said]
    for mark in refused:
        bits = np.unpackbits(np.frombuffer(mark.stored, np.uint8), bitorder="little")
        where = np.flatnonzero(bits) + mark.day * PERIODS_PER_UTC_DAY - first
        where = where[(where >= 0) & (where < count)]
        later = ~present[where] & (offsets[where] < mark.offset)
        instead[where[later]] = _QUARANTINED
    return Columns(first, present, values, quality, tuple(names), offsets, places, instead)


def spoken_of(kept: Iterable[Version], first: int, count: int) -> NDArray[np.bool_]:
    """Which half hours [first, first + count) these versions give a value or withdraw."""
    spoken = np.zeros(count, np.bool_)
    for version in kept:
        mask = np.frombuffer(version.stored, np.uint8, PRESENT_BYTES)
        where = np.flatnonzero(np.unpackbits(mask, bitorder="little"))
        where += version.day * PERIODS_PER_UTC_DAY - first
        spoken[where[(where >= 0) & (where < count)]] = True
    return spoken


def _codes(version: Version) -> bytes:
    return version.stored[QUALITY_END:]


def versions(
    rows: ReadableRows,
    mpxn: str,
    quantity: str,
    days: range,
    below_offset: int,
    prefix: bytes = ROW_PREFIX,
) -> Iterator[Version]:
    """The versions of those UTC days from below an offset in the log; of each day in log order.

    With `REFUSED_PREFIX`, what was refused of them: `stored` is the mask then.
    """
    point = prefix + mpxn.encode().ljust(MPXN_BYTES, b"\x00") + quantity.encode()
    bounds = (struct.pack(">I", day + DAY_SIGN) for day in (days.start, days.stop))
    start, end = (point + day for day in bounds)
    for key, stored in rows.scan(start, end):
        sorting_day, offset, row = _KEY_PLACE.unpack_from(key, len(point))
        if offset < below_offset:
            yield Version(sorting_day - DAY_SIGN, offset, row, stored)
