"""Half hours as the DSI sends them in columns: of several meters, written side by side.

To hand the library one value, or run, after the other takes several times as long as to put
together what it would write, from parts that it has written once.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from functools import cache, lru_cache
from itertools import chain, pairwise
from typing import Final

import numpy as np
from google.protobuf import timestamp_pb2
from numpy.typing import NDArray

from spine.answer import ABSENT, HalfHours, Ints
from spine.dsi.v1 import dsi_pb2
from spine.gb import HALF_HOUR

HALF_HOUR_S: Final = HALF_HOUR // timedelta(seconds=1)
# How a message stands in a field of another: its length comes first.
LENGTH_DELIMITED: Final = 2
# Of each kind; a year has 17,520 half hours, and some 200 bytes are kept for one.
PARTS_KEPT: Final = 1 << 16
# Values that are not negative are written as even numbers. So no value of one byte is this one; and
# of no value below this many Wh, as those of most homes are, is it the second of two.
NO_BYTE: Final = 0x7F
SHORT_VALUES: Final = NO_BYTE << 6
# Quality and version of what is absent.
NOTHING: Final = -1
_FIELDS: Final = dsi_pb2.HalfHourColumns.DESCRIPTOR.fields_by_name
_VALUES, _RUNS = (_FIELDS[name].number for name in ("values_wh", "runs"))
_VERSION: Final = dsi_pb2.HalfHourRun.DESCRIPTOR.fields_by_name["version"].number


def columns_of_each(answers: Sequence[HalfHours]) -> list[bytes]:
    """A HalfHourColumns of each: its values, and runs of half hours that are absent alike or
    recorded by the same version.
    """
    return [
        b"".join((_begins(rows.columns.first), *_values(rows), runs))
        for rows, runs in zip(answers, _runs_of_each(answers), strict=True)
    ]


@lru_cache(PARTS_KEPT)
def _begins(half_hour: int) -> bytes:
    start = timestamp_pb2.Timestamp(seconds=half_hour * HALF_HOUR_S)
    return dsi_pb2.HalfHourColumns(start=start).SerializeToString()


def _values(rows: HalfHours) -> Sequence[bytes]:
    """The values of a message in columns."""
    values = rows.columns.values_wh
    if not rows.whole:
        values = values[rows.absent == 0]
    if not len(values) or values.view(np.uint64).max() >= SHORT_VALUES:  # so are negative ones
        return (dsi_pb2.HalfHourColumns(values_wh=values.tolist()).SerializeToString(),)
    packed = _short_values().take(values).tobytes().translate(None, bytes([NO_BYTE]))
    return field(_VALUES, packed)


def field(number: int, value: bytes) -> tuple[bytes, bytes]:
    """A message, or packed numbers, as a field of that number of another message."""
    return _head(number, len(value)), value


@lru_cache(PARTS_KEPT)
def _head(number: int, size: int) -> bytes:
    """What comes before so many bytes in a field."""
    written = dsi_pb2.HalfHourRun(half_hours=size).SerializeToString()
    return bytes([number << 3 | LENGTH_DELIMITED]) + (written[1:] or bytes(1))


@cache
def _short_values() -> NDArray[np.uint16]:
    """Each short value in two bytes, of which the second may be none."""
    written = (
        dsi_pb2.HalfHourColumns(values_wh=[value]).SerializeToString()[2:]
        for value in range(SHORT_VALUES)
    )
    filled = b"".join(each.ljust(2, bytes([NO_BYTE])) for each in written)
    return np.frombuffer(filled, np.uint16)


def _runs_of_each(answers: Sequence[HalfHours]) -> list[bytes]:
    """The runs of each."""
    if not answers:
        return []
    starts = np.cumsum([0, *map(len, answers)])
    compared = [np.concatenate(column) for column in zip(*map(of_a_run, answers), strict=True)]
    edges = stretches(starts, *compared)
    absent, *_ = alike = [column.take(edges[:-1]) for column in compared]
    for numbers in alike[1:]:
        numbers[absent != 0] = NOTHING
    before = np.searchsorted(edges, starts).tolist()  # runs of the answers before each
    why, quality, offsets, rows = (column.tolist() for column in alike)
    named = [(*rows.columns.qualities, "") for rows in answers]
    texts = [
        text[number]
        for text, places in zip(named, pairwise(before), strict=True)
        for number in quality[slice(*places)]
    ]
    of_batch = list(map(row_of_version, rows))
    begins = map(_run, np.diff(edges).tolist(), why, texts, offsets, map(len, of_batch))
    parts = list(chain.from_iterable(zip(begins, of_batch, strict=True)))
    return [b"".join(parts[2 * begin : 2 * end]) for begin, end in pairwise(before)]


@lru_cache(PARTS_KEPT)
def _run(half_hours: int, why: int, quality: str, offset: int, row_size: int) -> bytes:
    """A run that is absent for that reason; or recorded, but for the row, of so many bytes, with
    which its version ends.
    """
    if why:
        reason = f"ABSENT_{ABSENT[why]}"
        run = dsi_pb2.HalfHourRun(half_hours=half_hours, absent=reason).SerializeToString()
        return b"".join(field(_RUNS, run))
    run = dsi_pb2.HalfHourRun(half_hours=half_hours, quality=quality).SerializeToString()
    version = dsi_pb2.Version(offset=offset).SerializeToString()
    run += _head(_VERSION, len(version) + row_size) + version
    return _head(_RUNS, len(run) + row_size) + run


@lru_cache(PARTS_KEPT)
def row_of_version(row: int) -> bytes:
    """The row of a version, as the end of it; nothing for `NOTHING`."""
    return b"" if row == NOTHING else dsi_pb2.Version(row=row).SerializeToString()


def of_a_run(rows: HalfHours) -> tuple[NDArray[np.uint8], Ints, Ints, Ints]:
    """What the half hours of a run have in common: reason; quality, offset and row."""
    columns = rows.columns
    return rows.absent, columns.quality, columns.offsets, columns.rows


def stretches(
    starts: Ints | list[int], absent: NDArray[np.uint8], quality: Ints, offsets: Ints, rows: Ints
) -> Ints:
    """Where stretches begin that are absent alike or recorded by the same version, the end last;
    of answers that begin, and end, at `starts`.
    """
    differs = offsets[1:] != offsets[:-1]
    differs |= rows[1:] != rows[:-1]
    differs |= quality[1:] != quality[:-1]
    if np.count_nonzero(absent):
        differs &= absent[1:] == 0
        differs |= absent[1:] != absent[:-1]
    edge = np.empty(len(absent) + 1, np.bool_)
    edge[1:-1] = differs
    edge[starts] = True
    return np.flatnonzero(edge)
