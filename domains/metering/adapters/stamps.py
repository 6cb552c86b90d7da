"""Dates and times as suppliers write them. No style names a zone: the adapter knows it.

Five styles of a date, each alone or with a time behind it:

- `12/11/18` and `12/11/2019`, the day always first, two digits of a year always after 2000;
- `03 Dec 2019` and `Nov 13 2019`, month names in English whatever the machine's language is;
- `2019-11-13`.

A time is `00:30`, `00:30:00` or `12:00AM`; `24:00` is the midnight that ends the day.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache

from spine.gb import FIRST_DATE, LAST_DATE, PERIODS_PER_UTC_DAY

_EPOCH = date(1970, 1, 1)
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAY, _NAME, _YEAR = r"(?P<day>\d{1,2})", r"(?P<name>[A-Za-z]{3,9})", r"(?P<year>\d{4})"
_DATES = (
    rf"{_DAY}/(?P<month>\d{{1,2}})/(?P<year>\d{{4}}|\d\d)",
    rf"{_DAY} {_NAME} {_YEAR}",
    rf"{_NAME} {{1,2}}{_DAY} {_YEAR}",
    rf"{_YEAR}-(?P<month>\d\d)-(?P<day>\d\d)",
)
_TIME = r"(?P<hour>\d{1,2}):(?P<minute>\d\d)(:(?P<second>\d\d))?( ?(?P<half>[AaPp])[Mm])?"
_STYLES = tuple(re.compile(rf"{style}([ T]{{1,2}}{_TIME})?", re.ASCII) for style in _DATES)


# The stamps of a year, which come again for each metering point of a file.
@lru_cache(maxsize=1 << 15)
def stamp_of(text: str) -> datetime | None:
    """The stamp as it stands, counted as UTC, or nothing if it is of no known style."""
    for style in _STYLES:
        if match := style.fullmatch(text):
            return _stamp(match.groupdict())
    return None


def date_of(text: str) -> date | None:
    """The date, or nothing; a time behind it must be midnight."""
    stamp = stamp_of(text)
    midnight = stamp is not None and stamp.time() == datetime.min.time() and "24:" not in text
    return stamp.date() if stamp is not None and midnight else None


def first_of(day: date) -> int:
    """The half hour, counted from 1970-01-01, with which a day of always 48 begins."""
    return (day - _EPOCH).days * PERIODS_PER_UTC_DAY


def _stamp(parts: dict[str, str | None]) -> datetime | None:
    year, hour = int(parts["year"] or 0), int(parts["hour"] or 0)
    minute, second = int(parts["minute"] or 0), int(parts["second"] or 0)
    midnight_after = (hour, minute, second) == (24, 0, 0) and not parts["half"]
    if half := parts["half"]:
        if not 1 <= hour <= 12:
            return None
        hour = hour % 12 + (12 if half in "pP" else 0)
    try:
        stamp = datetime(
            year + (2000 if year < 100 else 0),
            _month(parts),
            int(parts["day"] or 0),
            0 if midnight_after else hour,
            minute,
            second,
            tzinfo=UTC,
        )
    except ValueError:
        return None
    if not FIRST_DATE <= stamp.date() < LAST_DATE:
        return None
    return stamp + timedelta(days=1) if midnight_after else stamp


def _month(parts: dict[str, str | None]) -> int:
    """1 to 12, by number or by name; 0 if the name is no month's."""
    name = parts.get("name")
    if name is None:
        return int(parts["month"] or 0)
    short = name[:3].lower()
    return _MONTHS.index(short) + 1 if short in _MONTHS else 0
