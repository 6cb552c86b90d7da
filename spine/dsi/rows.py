"""Half hours as the DSI sends them: one message each, or column by column."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any, Final

import numpy as np
from google.protobuf import timestamp_pb2

from spine.answer import ABSENT, Absent, Columns, HalfHour, HalfHours
from spine.dsi.columns import (
    HALF_HOUR_S,
    LENGTH_DELIMITED,
    PARTS_KEPT,
    columns_of_each,
    field,
    of_a_run,
    stretches,
)
from spine.dsi.v1 import dsi_pb2
from spine.errors import Invalid, Reason
from spine.gb import half_hour_of, on_the_grid
from spine.services import wire

# A page of a leap year, the longest there is; and what a source's quality code may be.
ROWS_MAX: Final = 17_568
QUALITY_CHARS_MAX: Final = 16
# Up to so many bytes the length of a message is one byte.
ROW_BYTES_MAX: Final = 127
_COLUMNS: Final = dsi_pb2.MemberChunk.DESCRIPTOR.fields_by_name["columns"].number


def put_half_hours(answer: Any, rows: Sequence[HalfHour], in_columns: bool) -> None:
    """Put half hours into the field of a response that they are asked for in."""
    if not isinstance(rows, HalfHours):
        return
    if in_columns:
        (columns,) = columns_of_each([rows])
        answer.columns.MergeFromString(columns)
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


def half_hours_in_columns(answers: Sequence[Sequence[HalfHour]]) -> list[bytes]:
    """The field of a MemberChunk that each of these is sent in, as the library writes it; nothing
    for those without half hours.
    """
    written = iter(columns_of_each([rows for rows in answers if isinstance(rows, HalfHours)]))
    return [
        b"".join(field(_COLUMNS, next(written))) if isinstance(rows, HalfHours) else b""
        for rows in answers
    ]


def _edges(rows: HalfHours) -> list[int]:
    """Where stretches begin that are absent alike or recorded by the same version; the end last."""
    edges: list[int] = stretches([0, len(rows)], *of_a_run(rows)).tolist()
    return edges


def _quality(rows: HalfHours, place: int) -> str:
    columns = rows.columns
    return columns.qualities[int(columns.quality[place])]


def _version(rows: HalfHours, place: int) -> Any:
    columns = rows.columns
    return dsi_pb2.Version(offset=int(columns.offsets[place]), row=int(columns.rows[place]))


def half_hours_in(mpxn: str, columns: Any) -> HalfHours:
    """The half hours of an answer whose columns a caller hands back; Invalid if it is no answer."""
    start = wire.instant(columns.start, "columns.start")
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
