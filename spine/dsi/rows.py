"""Half hours as the DSI sends them: one message each, or column by column."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from functools import cache, lru_cache
from itertools import pairwise
from typing import Any, Final

import numpy as np
from google.protobuf import timestamp_pb2
from numpy.typing import NDArray

from spine.answer import ABSENT, Absent, Columns, HalfHour, HalfHours, Ints
from spine.dsi.v1 import dsi_pb2
from spine.errors import Invalid, Reason
from spine.gb import HALF_HOUR, half_hour_of, on_the_grid
from spine.services import wire

HALF_HOUR_S: Final = HALF_HOUR // timedelta(seconds=1)
# A page of a leap year, the longest there is; and what a source's quality code may be.
ROWS_MAX: Final = 17_568
QUALITY_CHARS_MAX: Final = 16
# How a message stands in a field of another: its length, which up to 127 is one byte, comes first.
LENGTH_DELIMITED: Final = 2
ROW_BYTES_MAX: Final = 127
# Of each kind; a year has 17,520 half hours, and some 200 bytes are kept for one.
PARTS_KEPT: Final = 1 << 16
# Values below this, in Wh, take at most so many bytes; so do all half hours of most homes.
SHORT_BYTES: Final = 2
SHORT_VALUES: Final = 1 << 7 * SHORT_BYTES - 1
_FIELDS: Final = dsi_pb2.HalfHourColumns.DESCRIPTOR.fields_by_name
_VALUES, _RUNS = (_FIELDS[name].number for name in ("values_wh", "runs"))
_VERSION: Final = dsi_pb2.HalfHourRun.DESCRIPTOR.fields_by_name["version"].number
_COLUMNS: Final = dsi_pb2.MemberChunk.DESCRIPTOR.fields_by_name["columns"].number


def put_half_hours(answer: Any, rows: Sequence[HalfHour], in_columns: bool) -> None:
    """Put half hours into the field of a response that they are asked for in."""
    if not isinstance(rows, HalfHours):
        return
    if in_columns:
        answer.columns.MergeFromString(_columns(rows))
    else:
        _put_rows(answer, rows)


def _put_rows(answer: Any, rows: HalfHours) -> None:
    """A message for each, put together from what it says of its start, its value and its run.

    Protocol Buffers read one message after another as one message, so that each part is written
    by the library, and only once: in a country's answers the same parts come again and again. To
    set the fields of each message one by one takes several times as long.
    """
    begins_with = _frames(answer.DESCRIPTOR.fields_by_name["rows"].number)
    first, values_wh = rows.columns.first, rows.columns.values_wh.tolist()
    parts: list[bytes] = []
    for begin, end in pairwise(_edges(rows)):
        alike = _alike(rows, begin).SerializeToString()
        starts = map(_start, range(first + begin, first + end))
        if rows.absent[begin]:
            for start in starts:
                parts += (begins_with[len(start) + len(alike)], start, alike)
        else:
            for start, value in zip(starts, map(_value, values_wh[begin:end]), strict=True):
                size = len(start) + len(value) + len(alike)
                parts += (begins_with[size], start, value, alike)
    answer.MergeFromString(b"".join(parts))


def _alike(rows: HalfHours, place: int) -> Any:
    """What a half hour shares with the others of its run."""
    why = ABSENT[rows.absent[place]]
    if why is not None:
        return dsi_pb2.HalfHour(absent=f"ABSENT_{why}")
    return dsi_pb2.HalfHour(quality=_quality(rows, place), version=_version(rows, place))


@lru_cache
def _frames(field: int) -> list[bytes]:
    """What comes before a message of so many bytes, by that number, in a field of another."""
    return [bytes([field << 3 | LENGTH_DELIMITED, size]) for size in range(ROW_BYTES_MAX + 1)]


@lru_cache(PARTS_KEPT)
def _start(half_hour: int) -> bytes:
    start = timestamp_pb2.Timestamp(seconds=half_hour * HALF_HOUR_S)
    return dsi_pb2.HalfHour(start=start).SerializeToString()


@lru_cache(PARTS_KEPT)
def _value(value_wh: int) -> bytes:
    return dsi_pb2.HalfHour(value_wh=value_wh).SerializeToString()


def half_hours_in_columns(rows: Sequence[HalfHour]) -> bytes:
    """The field of a MemberChunk that half hours are sent in, as the library writes it."""
    if not isinstance(rows, HalfHours):
        return b""
    columns = _columns(rows)
    return head(_COLUMNS, len(columns)) + columns


def _columns(rows: HalfHours) -> bytes:
    """Values, and runs of half hours that are absent alike or recorded by the same version.

    Put together from parts that the library has written, as rows are: to hand it one value, or run,
    after the other takes longer.
    """
    columns = rows.columns
    values = columns.values_wh if rows.whole else columns.values_wh[rows.absent == 0]
    return b"".join([_begins(columns.first), *_values(values), *_runs(rows)])


@lru_cache(PARTS_KEPT)
def _begins(half_hour: int) -> bytes:
    start = timestamp_pb2.Timestamp(seconds=half_hour * HALF_HOUR_S)
    return dsi_pb2.HalfHourColumns(start=start).SerializeToString()


def _values(values: Ints) -> Sequence[bytes]:
    """The values of a message in columns, as the library writes them."""
    if not len(values) or values.min() < 0 or values.max() >= SHORT_VALUES:
        return (dsi_pb2.HalfHourColumns(values_wh=values.tolist()).SerializeToString(),)
    written = _short_values().take(values).view(np.uint8)
    said = written != 0
    said[::SHORT_BYTES] = True
    packed = written.compress(said).tobytes()
    return head(_VALUES, len(packed)), packed


@lru_cache(PARTS_KEPT)
def head(field: int, size: int) -> bytes:
    """What comes before so many bytes, from one on, in a field of a message."""
    written = dsi_pb2.HalfHourRun(half_hours=size).SerializeToString()
    return bytes([field << 3 | LENGTH_DELIMITED]) + written[1:]


@cache
def _short_values() -> NDArray[np.uint16]:
    """Each value that takes at most two bytes; where it takes one, the other is 0."""
    every = dsi_pb2.HalfHourColumns(values_wh=range(SHORT_VALUES)).SerializeToString()
    in_one = SHORT_VALUES >> 7
    in_two = SHORT_VALUES - in_one
    said = np.frombuffer(every[-in_one - SHORT_BYTES * in_two :], np.uint8)
    written = np.zeros((SHORT_VALUES, SHORT_BYTES), np.uint8)
    written[:in_one, 0] = said[:in_one]
    written[in_one:] = said[in_one:].reshape(in_two, SHORT_BYTES)
    return written.view(np.uint16).ravel()


def _runs(rows: HalfHours) -> list[bytes]:
    """The runs of a message in columns."""
    begins_with, begins_version = _frames(_RUNS), _frames(_VERSION)
    columns, edges = rows.columns, _edges(rows)
    begins = np.array(edges[:-1], np.int64)
    of_each = rows.absent, columns.quality, columns.offsets, columns.rows
    said = (column.take(begins).tolist() for column in of_each)
    parts: list[bytes] = []
    for (begin, end), why, quality, offset, row in zip(pairwise(edges), *said, strict=True):
        if why:
            run = _absent_run(end - begin, why)
            parts += (begins_with[len(run)], run)
        else:
            alike = _recorded_run(end - begin, columns.qualities[quality])
            at, of_batch = _offset(offset), _row(row)
            version = begins_version[len(at) + len(of_batch)]
            size = len(alike) + len(version) + len(at) + len(of_batch)
            parts += (begins_with[size], alike, version, at, of_batch)
    return parts


@lru_cache(PARTS_KEPT)
def _absent_run(half_hours: int, why: int) -> bytes:
    run = dsi_pb2.HalfHourRun(half_hours=half_hours, absent=f"ABSENT_{ABSENT[why]}")
    return run.SerializeToString()


@lru_cache(PARTS_KEPT)
def _recorded_run(half_hours: int, quality: str) -> bytes:
    return dsi_pb2.HalfHourRun(half_hours=half_hours, quality=quality).SerializeToString()


@lru_cache(PARTS_KEPT)
def _offset(offset: int) -> bytes:
    return dsi_pb2.Version(offset=offset).SerializeToString()


@lru_cache(PARTS_KEPT)
def _row(row: int) -> bytes:
    return dsi_pb2.Version(row=row).SerializeToString()


def _edges(rows: HalfHours) -> list[int]:
    """Where stretches begin that are absent alike or recorded by the same version; the end last."""
    columns, absent = rows.columns, rows.absent
    differs = columns.offsets[1:] != columns.offsets[:-1]
    differs |= columns.rows[1:] != columns.rows[:-1]
    differs |= columns.quality[1:] != columns.quality[:-1]
    if not rows.whole:
        differs &= absent[1:] == 0
        differs |= absent[1:] != absent[:-1]
    return [0, *(np.flatnonzero(differs) + 1).tolist(), len(rows)] if len(rows) else [0]


def _quality(rows: HalfHours, place: int) -> str:
    columns = rows.columns
    return columns.qualities[int(columns.quality[place])]


def _version(rows: HalfHours, place: int) -> Any:
    columns = rows.columns
    return dsi_pb2.Version(offset=int(columns.offsets[place]), row=int(columns.rows[place]))


def half_hours_in(mpxn: str, columns: Any) -> HalfHours:
    """The half hours of an answer whose columns a caller hands back; Invalid if it is no answer."""
    start = wire.instant(columns.start, "columns")
    counts = np.array([run.half_hours for run in columns.runs], np.int64)
    recorded = np.array([not run.absent for run in columns.runs], np.bool_)
    total = int(counts.sum())
    if not on_the_grid(start) or not 0 < total <= ROWS_MAX or (counts <= 0).any():
        message = f"an answer has 1 to {ROWS_MAX:,} half hours, from one on"
        raise Invalid(Reason.FIELD_INVALID, message, field="columns")
    if any(run.absent not in dsi_pb2.Absent.values() for run in columns.runs):
        raise Invalid(Reason.FIELD_INVALID, "there is no such reason", field="columns")
    if any(len(run.quality) > QUALITY_CHARS_MAX for run in columns.runs):
        raise Invalid(Reason.FIELD_INVALID, "there is no such quality", field="columns")
    if len(columns.values_wh) != int(counts[recorded].sum()):
        message = "there are as many values as recorded half hours"
        raise Invalid(Reason.FIELD_INVALID, message, field="columns")
    names = [dsi_pb2.Absent.Name(run.absent).removeprefix("ABSENT_") for run in columns.runs]
    absent = [
        0 if run else ABSENT.index(Absent(name)) for run, name in zip(recorded, names, strict=True)
    ]
    qualities = tuple(dict.fromkeys(run.quality for run in columns.runs))
    present = np.repeat(recorded, counts)
    values = np.zeros(total, np.int64)
    values[present] = columns.values_wh
    return HalfHours(
        mpxn,
        Columns(
            first=half_hour_of(start),
            present=present,
            values_wh=values,
            quality=np.repeat([qualities.index(run.quality) for run in columns.runs], counts),
            qualities=qualities,
            offsets=np.repeat([run.version.offset for run in columns.runs], counts),
            rows=np.repeat([run.version.row for run in columns.runs], counts),
            instead=np.zeros(total, np.uint8),
        ),
        np.repeat(np.array(absent, np.uint8), counts),
    )
