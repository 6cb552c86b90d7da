"""Half hours in columns, written as the bytes of their message (`HalfHourColumns` of the DSI).

A month of one meter is 1,488 values and some thirty runs. To hand them to a message one by one
costs as much as all else that is done for them; so they are written here as protobuf writes them,
and the message is made of the bytes. `tests/core/test_packed.py` holds them against the library's.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise
from typing import Final

import numpy as np

from spine.answer import ABSENT, HalfHours, Ints
from spine.dsi.v1 import dsi_pb2

SEPTET: Final = 7
# Fields by number and wire type: 0 is a number, 2 are bytes behind their length.
_VALUES, _RUNS = 2 << 3 | 2, 3 << 3 | 2
_HALF_HOURS, _ABSENT, _QUALITY, _VERSION = 1 << 3, 2 << 3, 3 << 3 | 2, 4 << 3 | 2
_OFFSET, _ROW = 1 << 3, 2 << 3


def edges(rows: HalfHours) -> list[int]:
    """Where stretches begin that are absent alike or recorded by the same version; the end last."""
    columns, absent = rows.columns, rows.absent
    differs = columns.offsets[1:] != columns.offsets[:-1]
    differs |= columns.rows[1:] != columns.rows[:-1]
    differs |= columns.quality[1:] != columns.quality[:-1]
    if absent.any():
        differs &= absent[1:] == 0
        differs |= absent[1:] != absent[:-1]
    return [0, *(np.flatnonzero(differs) + 1).tolist(), len(rows)] if len(rows) else [0]


def packed_columns(rows: HalfHours) -> bytes:
    """An answer's HalfHourColumns, apart from its start."""
    columns, absent = rows.columns, rows.absent
    values = columns.values_wh[absent == 0] if absent.any() else columns.values_wh
    packed = [_field(_VALUES, packed_numbers(values))] if len(values) else []
    found = edges(rows)
    begins = np.array(found[:-1], np.int64)
    said = (absent, columns.quality, columns.offsets, columns.rows)
    runs = zip(pairwise(found), *(column[begins].tolist() for column in said), strict=True)
    for (begin, end), why, quality, offset, row in runs:
        if why:
            packed.append(_absent_run(end - begin, why))
        else:
            at = _number(_ROW, row)
            packed.append(_run_up_to_row(end - begin, columns.qualities[quality], offset, len(at)))
            packed.append(at)
    return b"".join(packed)


def packed_numbers(numbers: Ints) -> bytes:
    """Signed numbers one after the other, each in as many septets as the largest needs.

    The lowest septet first, all but the last with the high bit; zigzag, so that small negative
    numbers are small. Who reads them does not mind septets that add nothing, and so none is cut.
    """
    left = ((numbers << 1) ^ (numbers >> 63)).view(np.uint64)
    septets = -(-int(left.max() | 1).bit_length() // SEPTET)
    octets = np.empty((len(left), septets), np.uint8)
    for place in range(septets):
        octets[:, place] = (left >> SEPTET * place) & 0x7F
    octets[:, :-1] |= 0x80
    return octets.tobytes()


@lru_cache(8_192)
def _run_up_to_row(half_hours: int, quality: str, offset: int, row_bytes: int) -> bytes:
    """A run of recorded half hours but for the row, which so many bytes say. Batches hold many
    meters, so that the same beginning comes up again and again.
    """
    code = quality.encode()
    said = _number(_HALF_HOURS, half_hours) + (_field(_QUALITY, code) if code else b"")
    version = _number(_OFFSET, offset)
    said += _number(_VERSION, len(version) + row_bytes, always=True) + version
    return _number(_RUNS, len(said) + row_bytes) + said


@lru_cache(1_024)
def _absent_run(half_hours: int, why: int) -> bytes:
    absent = dsi_pb2.Absent.Value(f"ABSENT_{ABSENT[why]}")
    return _field(_RUNS, _number(_HALF_HOURS, half_hours) + _number(_ABSENT, absent))


def _field(tag: int, content: bytes) -> bytes:
    return _number(tag, len(content)) + content


@lru_cache(8_192)
def _number(tag: int, number: int, *, always: bool = False) -> bytes:
    """A field's tag and a number; 0 goes without saying, unless it is the length of something."""
    return _varint(tag) + _varint(number) if number or always else b""


def _varint(number: int) -> bytes:
    octets = bytearray()
    while number > 0x7F:
        octets.append(number & 0x7F | 0x80)
        number >>= SEPTET
    octets.append(number)
    return bytes(octets)
