"""Meter-days of old, column by column: how rows of a readings store lie in Parquet, and back.

A file says what an analyst would ask for (which meter, which day, the 48 half hours in Wh), and
holds every byte of the rows it came from: as many versions of a day as the log has, each with its
place there, so that an answer as of any position stays what it was.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from domains.metering.readings import MPXN_BYTES, PRESENT_BYTES
from domains.metering.rows import DAY_SIGN, QUALITY_END, REFUSED_PREFIX, ROW_PREFIX, VALUES_END
from spine.domain import HistoryLayout
from spine.gb import PERIODS_PER_UTC_DAY

# Prefix, MPxN, quantity, day, offset, row: `rows._KEY`.
_KEY: Final = struct.Struct(f">2s{MPXN_BYTES}s2sIqI")
_POINT_BYTES: Final = 2 + MPXN_BYTES + 2
_DAY: Final = struct.Struct(">I")
NO_VALUES: Final = bytes(4 * PERIODS_PER_UTC_DAY)
_KINDS: Final = {ROW_PREFIX: "recorded", REFUSED_PREFIX: "refused"}
_PREFIXES: Final = {kind: prefix for prefix, kind in _KINDS.items()}
TYPES: Final = {
    "kind": "text",
    "mpxn": "text",
    "measurement_quantity": "text",
    "day": "day",
    "log_offset": "integer",
    "log_row": "integer",
    # Bit i (lowest first) of byte i // 8 is half hour i.
    "present": "bytes",
    "wh": "integers",
    # Of each half hour an index into `quality_codes`, which end in the unit separator.
    "quality": "bytes",
    "quality_codes": "text",
}


def to_columns(rows: Sequence[tuple[bytes, bytes]]) -> dict[str, Any]:
    """The columns of rows in key order. `wh` is one flat array, 48 a row; 0 where there is none."""
    keys = [_KEY.unpack(key) for key, _ in rows]
    values = b"".join(stored[PRESENT_BYTES:VALUES_END] or NO_VALUES for _, stored in rows)
    return {
        "kind": [_KINDS[key[0]] for key in keys],
        "mpxn": [key[1].rstrip(b"\x00").decode() for key in keys],
        "measurement_quantity": [key[2].decode() for key in keys],
        "day": [key[3] - DAY_SIGN for key in keys],
        "log_offset": [key[4] for key in keys],
        "log_row": [key[5] for key in keys],
        "present": [stored[:PRESENT_BYTES] for _, stored in rows],
        "wh": np.frombuffer(values, "<i4"),
        "quality": [stored[VALUES_END:QUALITY_END] for _, stored in rows],
        "quality_codes": [stored[QUALITY_END:].decode() for _, stored in rows],
    }


def to_rows(columns: Mapping[str, Any]) -> list[tuple[bytes, bytes]]:
    """The rows that those columns were made of."""
    values = np.ascontiguousarray(columns["wh"], "<i4").reshape(-1, PERIODS_PER_UTC_DAY)
    names = ("kind", "mpxn", "measurement_quantity", "day", "log_offset", "log_row")
    keys = zip(*(columns[name] for name in names), strict=True)
    said = zip(columns["present"], columns["quality"], columns["quality_codes"], strict=True)
    rows = []
    for (kind, mpxn, quantity, day, offset, row), (present, quality, codes), wh in zip(
        keys, said, values, strict=True
    ):
        key = _KEY.pack(
            _PREFIXES[kind], mpxn.encode(), quantity.encode(), day + DAY_SIGN, offset, row
        )
        stored = present
        if kind == _KINDS[ROW_PREFIX]:
            stored += wh.tobytes() + quality + codes.encode()
        rows.append((key, stored))
    return rows


def is_before(key: bytes, day: int) -> bool:
    """Whether the row is of a day before that one."""
    return _day(key) < day


def _day(key: bytes) -> int:
    """The day in a key, or in the beginning of one, since 1970-01-01."""
    stored: int = _DAY.unpack_from(key.ljust(_POINT_BYTES + _DAY.size, b"\x00"), _POINT_BYTES)[0]
    return stored - DAY_SIGN


def alike(start: bytes, end: bytes) -> dict[str, str]:
    """Kind, meter and quantity, where a range of keys begins with a day of one and ends there."""
    point = start[:_POINT_BYTES]
    if len(start) < _POINT_BYTES + _DAY.size or end[:_POINT_BYTES] != point:
        return {}
    prefix, mpxn, quantity = point[:2], point[2 : 2 + MPXN_BYTES], point[2 + MPXN_BYTES :]
    return {
        "kind": _KINDS[prefix],
        "mpxn": mpxn.rstrip(b"\x00").decode(),
        "measurement_quantity": quantity.decode(),
    }


LAYOUT: Final = HistoryLayout(
    prefixes=(ROW_PREFIX, REFUSED_PREFIX),
    types=TYPES,
    per_row=PERIODS_PER_UTC_DAY,
    columns=to_columns,
    rows=to_rows,
    is_before=is_before,
    alike=alike,
)
