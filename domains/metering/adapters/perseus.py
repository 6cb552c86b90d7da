"""Perseus: half hours from a home as a smart data scheme passes them on, as JSON.

Source   Icebreaker One's Perseus demonstrator; github:icebreakerone/perseus-demo-energy, MIT,
         resource/data/sample_data.json
Shape    a list of `{"type": "Electricity", "from", "to", "takenAt", "energy", "cumulative"}`
Zone     UTC, said by the `Z` of each instant
Stamps   both: `from` is the START and `to` the end, which must be the next half hour
Unit     Wh (`unitCode` `WHR`) or kWh (`KWH`); `energy` is recorded, `cumulative` is not read
Quality  none given, so none is claimed
Meter    the file names none: the metering point must be given

A value finer than a whole Wh is `wrong_decimals`: seven of the hundred in the sample are off by
0.0001 Wh, as left by taking one cumulative value from the next, and nothing here rounds. A file
that breaks off keeps the readings before the break; the rest is one `unreadable` row.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from typing import Any

from domains.metering.adapters.collecting import Collector, Entry
from domains.metering.adapters.documents import members_of, no_object
from domains.metering.adapters.points import given_mpan
from domains.metering.adapters.report import DIGITS_MAX, NO_QUALITY, Bucket, wh_of
from domains.metering.adapters.stamps import stamp_of
from domains.metering.adapters.wrappings import Text
from spine.gb import HALF_HOUR, Mpan, Mpxn, half_hour_of, on_the_grid

NAME = "perseus"
_WHAT = "a Perseus file"
_FIELDS = ('"from"', '"to"', '"energy"', '"unitCode"')
# How far a unit's decimal point stands from that of the kWh.
_FROM_KWH = {"WHR": -3, "KWH": 0}


def looks_like(head: str) -> bool:
    """Whether a file that starts so is a list of Perseus readings."""
    return head.lstrip().startswith("[") and all(name in head for name in _FIELDS)


def read(text: Text, collector: Collector, mpxn: Mpxn | None = None) -> Iterator[None]:
    """Read a whole file for the metering point given."""
    mpan = given_mpan(mpxn, _WHAT)
    collector.note_check_digit(mpan)
    for line, reading in enumerate(collector.each(members_of(text, (), _WHAT, "readings")), 1):
        yield
        if isinstance(reading, dict):
            _read_one(collector, line, mpan, reading)
        else:
            collector.reject(line, Bucket.UNREADABLE, no_object(reading, "a reading"))


def _read_one(collector: Collector, line: int, mpan: Mpan, reading: dict[str, Any]) -> None:
    if reading.get("type") != "Electricity":
        collector.reject(line, Bucket.OTHER_QUANTITY, "the reading is not of electricity")
        return
    start, end = _instant(reading.get("from")), _instant(reading.get("to"))
    if start is None or end is None:
        collector.reject(line, Bucket.UNREADABLE, "from or to cannot be read")
        return
    on_it = on_the_grid(start) and end - start == HALF_HOUR
    half_hour = half_hour_of(start) if on_it else None
    label = f"{reading['from']} to {reading['to']}"
    wh = _wh(reading.get("energy"))
    collector.take(line, mpan, [Entry(half_hour, wh, NO_QUALITY, label)])


def _instant(text: object) -> datetime | None:
    """A UTC instant; without its Z it is none."""
    if not isinstance(text, str) or not text.endswith("Z"):
        return None
    return stamp_of(text.removesuffix("Z").removesuffix(".000"))


def _wh(energy: object) -> int | Bucket:
    if not isinstance(energy, dict):
        return Bucket.NULL if energy is None else Bucket.UNREADABLE
    value, unit = energy.get("value"), energy.get("unitCode")
    if value is None:
        return Bucket.NULL
    if not isinstance(value, Decimal) or unit not in _FROM_KWH:
        return Bucket.UNREADABLE
    if not value.is_finite():
        return Bucket.UNREADABLE
    if value and abs(value.adjusted()) > DIGITS_MAX:
        return wh_of(value)  # far out of range or far too fine in any unit
    return wh_of(value.scaleb(_FROM_KWH[unit]))
