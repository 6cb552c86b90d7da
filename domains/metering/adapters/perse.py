"""Perse meter history: the half-hourly record of a metered supply, as JSON.

Source   Perse's meter history API; github:Energy-Sparks/energy-sparks, MIT,
         spec/fixtures/perse/meter_history_v2_realtime-data.json
Shape    `{"meta": …, "data": […]}` with one object for each settlement day, which has Date, MPAN,
         MeasurementQuantity, P1 to P50 and UT1 to UT50
Zone     local days in London: 46 periods on the spring change, 50 on the autumn change, else 48;
         periods that the day has not are null and are no values
Stamps   period n is the nth half hour from local midnight, named by its START
Unit     kWh, read as decimals and kept as whole Wh; `AI` (active import) only
Quality  UTn as given: A actual, E estimated

A file that breaks off keeps the days before the break; the rest is one `unreadable` row.
"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from domains.metering.adapters.collecting import Collector, Entry
from domains.metering.adapters.documents import members_of, no_object
from domains.metering.adapters.points import none_given
from domains.metering.adapters.report import NO_QUALITY, QUANTITY, Bucket, wh_of
from domains.metering.adapters.wrappings import Text
from spine.errors import Invalid, Reason
from spine.gb import Mpan, Mpxn, SettlementDate

NAME = "perse"
PERIODS_MAX = 50
_WHAT = "a Perse meter history"
_FIELDS = ('"MPAN"', '"MeasurementQuantity"', '"P1"', '"Date"')


def looks_like(head: str) -> bool:
    """Whether a file that starts so is a Perse meter history."""
    return head.lstrip().startswith("{") and all(name in head for name in _FIELDS)


def read(text: Text, collector: Collector, mpxn: Mpxn | None = None) -> Iterator[None]:
    """Read a whole file; it names its own meters, so that `mpxn` must be left out."""
    none_given(mpxn, "a Perse file")
    for line, day in enumerate(collector.each(members_of(text, ("data",), _WHAT, "days")), 1):
        yield
        _read_day(collector, line, day)


def _read_day(collector: Collector, line: int, day: object) -> None:
    if not isinstance(day, dict):
        collector.reject(line, Bucket.UNREADABLE, no_object(day, "a day"))
        return
    try:
        mpan = Mpan(_text(day, "MPAN"))
        date = SettlementDate.parse(_text(day, "Date"))
        quantity = _text(day, "MeasurementQuantity")
    except Invalid as invalid:
        collector.reject(line, Bucket.UNREADABLE, invalid.message)
        return
    if quantity != QUANTITY:
        message = "only AI, active import, is recorded; this day is of another quantity"
        collector.reject(line, Bucket.OTHER_QUANTITY, message)
        return
    collector.take(line, mpan, _entries(day, date))


def _text(day: dict[str, Any], name: str) -> str:
    value = day.get(name)
    if not isinstance(value, str):
        raise Invalid(Reason.FIELD_MISSING, f"{name} is missing or is not text", field=name)
    return value


def _entries(day: dict[str, Any], date: SettlementDate) -> list[Entry]:
    """The values of the day's own periods, and any value that stands at a period beyond them."""
    periods = date.periods
    return [
        Entry(
            half_hour=date.first_half_hour + n - 1 if n <= periods else None,
            wh=_wh(day.get(f"P{n}"), flag := day.get(f"UT{n}")),
            quality=flag or NO_QUALITY,
            label=f"{date} P{n}",
        )
        for n in range(1, PERIODS_MAX + 1)
        if n <= periods or day.get(f"P{n}") is not None
    ]


def _wh(kwh: object, flag: object) -> int | Bucket:
    if kwh is None:
        return Bucket.NULL
    if not isinstance(kwh, Decimal) or not (flag is None or isinstance(flag, str)):
        return Bucket.UNREADABLE
    return wh_of(kwh)
