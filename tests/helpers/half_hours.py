"""Half hours one by one: the slow and obvious way, against which the columns are held."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Sequence
from datetime import datetime

import numpy as np

from domains.metering.views import readings_as_of
from spine.answer import ABSENT, Columns, HalfHour, HalfHours, Recorded
from spine.domain import ReadableRows
from spine.event import epoch_ms
from spine.gb import Interval, half_hour_of, half_hour_start


def read_back(
    rows: ReadableRows, mpxn: str, quantity: str, interval: Interval, below_offset: int
) -> dict[datetime, Recorded]:
    """What is recorded in the interval, by start; half hours never recorded are left out."""
    columns = readings_as_of(rows, mpxn, quantity, interval, below_offset)
    found = ((place, columns.at(place)) for place in range(len(columns.present)))
    return {half_hour_start(columns.first + place): one for place, one in found if one}


def in_columns(rows: Sequence[HalfHour]) -> HalfHours:
    """Consecutive half hours of one meter as an answer holds them."""
    first = half_hour_of(rows[0].start) if rows else 0
    said = [row.recorded or Recorded(0, "", 0, 0) for row in rows]
    qualities = tuple(dict.fromkeys(one.quality for one in said))
    columns = Columns(
        first,
        np.array([row.recorded is not None for row in rows], np.bool_),
        np.array([one.value_wh for one in said], np.int64),
        np.array([qualities.index(one.quality) for one in said], np.int64),
        qualities,
        np.array([one.offset for one in said], np.int64),
        np.array([one.row for one in said], np.int64),
        np.zeros(len(said), np.uint8),
    )
    absent = np.array([ABSENT.index(row.absent) for row in rows], np.uint8)
    return HalfHours(rows[0].mpxn if rows else "", columns, absent)


def digest_row_by_row(rows: Iterable[HalfHour]) -> bytes:
    """The digest as its definition reads."""
    digest = hashlib.sha256(b"energyos-half-hours-v1\x00")
    for row in rows:
        mpxn = row.mpxn.encode()
        digest.update(struct.pack(">B", len(mpxn)) + mpxn)
        digest.update(struct.pack(">q", epoch_ms(row.start)))
        if row.recorded is not None:
            quality = row.recorded.quality.encode()
            digest.update(struct.pack(">BqB", 1, row.recorded.value_wh, len(quality)) + quality)
            digest.update(struct.pack(">qi", row.recorded.offset, row.recorded.row))
        else:
            reason = str(row.absent).encode()
            digest.update(struct.pack(">BB", 0, len(reason)) + reason)
    return digest.digest()
