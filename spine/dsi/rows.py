"""Half hours as the DSI sends them: one message each, or column by column."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Any, Final

import numpy as np
from google.protobuf import timestamp_pb2
from numpy.typing import NDArray

from spine.answer import ABSENT, Absent, Columns, HalfHour, HalfHours, Ints
from spine.dsi.columns import (
    HALF_HOUR_S,
    LENGTH_DELIMITED,
    PARTS_KEPT,
    columns_of_each,
    field,
    of_a_run,
    row_of_version,
    stretches,
)
from spine.dsi.v1 import dsi_pb2
from spine.encoded import Encoded
from spine.errors import Invalid, Reason
from spine.gb import half_hour_of, on_the_grid
from spine.services import wire

# A page of a leap year, the longest there is; and what a source's quality code may be.
ROWS_MAX: Final = 17_568
QUALITY_CHARS_MAX: Final = 16
# What comes before a half hour: the number of its field, and its length, for which one byte is
# enough up to that many.
HEAD_BYTES: Final = 2
ROW_BYTES_MAX: Final = 127
STARTS_KEPT: Final = 16
VARINT_BITS: Final = 7
VARINT_MORE: Final = 1 << VARINT_BITS
_COLUMNS: Final = dsi_pb2.MemberChunk.DESCRIPTOR.fields_by_name["columns"].number
_FIELDS: Final = dsi_pb2.HalfHour.DESCRIPTOR.fields_by_name
_VALUE, _VERSION = (_FIELDS[name].number for name in ("value_wh", "version"))
# What each of several half hours says of something, in rows as wide as the longest, (n, width); and
# how many bytes of each are in use, (n,).
Parts = tuple[NDArray[np.uint8], Ints]


def put_half_hours(answer: Any, rows: Sequence[HalfHour], in_columns: bool) -> None:
    """Put half hours into the field of a response that they are asked for in."""
    if not isinstance(rows, HalfHours):
        return
    if in_columns:
        (columns,) = columns_of_each([rows])
        answer.columns.MergeFromString(columns)
    else:
        answer.MergeFromString(_written(rows, _number_of(answer.DESCRIPTOR, "rows")))


def page_with(answer: Any, rows: Sequence[HalfHour], in_columns: bool) -> Encoded:
    """A GetReadingsResponse that says all but its half hours, with them, as the library writes it:
    `rows` come before its other fields, `columns` after them.
    """
    described, page = answer.DESCRIPTOR, answer.SerializeToString()
    if isinstance(rows, HalfHours) and in_columns:
        (columns,) = columns_of_each([rows])
        page = b"".join((page, *field(_number_of(described, "columns"), columns)))
    elif isinstance(rows, HalfHours):
        page = _written(rows, _number_of(described, "rows")) + page
    return Encoded(type(answer), page)


@cache
def _number_of(described: Any, name: str) -> int:
    number: int = described.fields_by_name[name].number
    return number


def _written(rows: HalfHours, number: int) -> bytes:
    """A message for each half hour, as a field of that number, all of them side by side.

    Each is put together from what it says of its start, of its value and of its run, parts that
    stand beside one another, each as wide as the longest of its kind; of each row is sent what is
    in use. To set the fields of a message takes many times as long.
    """
    if not len(rows):
        return b""
    edges = _edges(rows)
    counts = np.diff(edges)
    of_run, run_sizes = _side_by_side([_of_run(rows, begin) for begin in edges[:-1]])
    of_value, value_sizes = _values(rows.columns.values_wh)
    value_sizes[rows.absent != 0] = 0
    parts = (
        _starts(rows.columns.first, len(rows)),
        (of_value, value_sizes),
        (of_run.repeat(counts, 0), run_sizes.repeat(counts)),
    )
    shape = len(rows), HEAD_BYTES + sum(octets.shape[1] for octets, _ in parts)
    sent, in_use = np.empty(shape, np.uint8), np.ones(shape, np.bool_)
    lengths = np.sum([sizes for _, sizes in parts], 0)
    assert lengths.max() <= ROW_BYTES_MAX
    sent[:, 0], sent[:, 1] = number << 3 | LENGTH_DELIMITED, lengths
    begin = HEAD_BYTES
    for octets, sizes in parts:
        places = slice(begin, begin + octets.shape[1])
        sent[:, places] = octets
        np.less(np.arange(octets.shape[1]), sizes[:, None], out=in_use[:, places])
        begin = places.stop
    return sent[in_use].tobytes()


def _of_run(rows: HalfHours, place: int) -> bytes:
    """What a half hour shares with the others of its run."""
    why = int(rows.absent[place])
    if why:
        return _absent(why)
    columns = rows.columns
    row = row_of_version(int(columns.rows[place]))
    quality = columns.qualities[int(columns.quality[place])]
    return _recorded(quality, int(columns.offsets[place]), len(row)) + row


@cache
def _absent(why: int) -> bytes:
    return dsi_pb2.HalfHour(absent=f"ABSENT_{ABSENT[why]}").SerializeToString()


@lru_cache(PARTS_KEPT)
def _recorded(quality: str, offset: int, row_size: int) -> bytes:
    """The same of what is recorded, but for the row, of so many bytes, with which it ends."""
    said = dsi_pb2.HalfHour(quality=quality).SerializeToString()
    version = dsi_pb2.Version(offset=offset).SerializeToString()
    return said + bytes([_VERSION << 3 | LENGTH_DELIMITED, len(version) + row_size]) + version


@lru_cache(STARTS_KEPT)
def _starts(first: int, count: int) -> Parts:
    """What they say of their starts: the same of many meters."""
    starts = (
        timestamp_pb2.Timestamp(seconds=half_hour * HALF_HOUR_S)
        for half_hour in range(first, first + count)
    )
    return _side_by_side([dsi_pb2.HalfHour(start=start).SerializeToString() for start in starts])


def _values(values_wh: Ints) -> Parts:
    """What they say of their values: seven bits a byte, and in each but the last the eighth set."""
    left = values_wh.astype(np.uint64)  # of a negative one all 64 bits are sent
    most = max(1, -(-int(left.max()).bit_length() // VARINT_BITS))
    octets, sizes = np.empty((len(left), 1 + most), np.uint8), np.full(len(left), 2)
    octets[:, 0] = _VALUE << 3
    for place in range(1, 1 + most):
        octets[:, place] = left & np.uint64(VARINT_MORE - 1)
        left >>= np.uint64(VARINT_BITS)
        more = left != 0
        octets[more, place] |= VARINT_MORE
        sizes += more
    return octets, sizes


def _side_by_side(parts: Sequence[bytes]) -> Parts:
    sizes = np.array([len(part) for part in parts])
    width = int(sizes.max())
    padded = b"".join([part.ljust(width, b"\x00") for part in parts])
    return np.frombuffer(padded, np.uint8).reshape(len(parts), width), sizes


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
