"""Low Carbon London: one smart-metered home of the 2011 to 2014 trial, as CSV.

Source   London Datastore, UK Power Networks, Low Carbon London; CC BY 4.0
Shape    a line for each reading with the columns LCLid, DateTime and KWH/hh among others
Zone     UTC all year. The file names none, but both clock-change days have 48 readings at 48
         different stamps, which no local clock gives: the series does not follow clock time
Stamps   the START of the half hour, in UTC (inferred; the trial's notes do not say)
Unit     kWh in the half hour, or the text `Null`; kept as whole Wh
Quality  none given, so none is claimed
Meter    the file knows only its own `LCLid`: the metering point must be given, and rows of any
         other household than the first are not recorded

Known quirks, each in its bucket. The trial's export repeats one midnight reading a month with the
same value (`duplicate_same`). A stamp off the half-hour grid is `off_grid` whether or not a value
stands there, so that a row counts once: the one `Null` of the sample is such a row. A few values
went through single precision on their way (1.042 became 1.0420001): where the text is exactly what
single precision prints for a whole number of Wh, that number is recorded and a finding says so;
any other value finer than a Wh is `wrong_decimals`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, Decimal

import numpy as np

from domains.metering.adapters.collecting import Collector, Entry
from domains.metering.adapters.points import given_mpan
from domains.metering.adapters.report import NO_QUALITY, Bucket, Note, decimal_of, wh_of
from domains.metering.adapters.tables import body_of, fits, header_of, placed, places
from domains.metering.adapters.wrappings import Text
from spine.gb import FIRST_DATE, LAST_DATE, Mpxn, half_hour_of, on_the_grid

NAME = "low_carbon_london"
_WHAT = "a Low Carbon London file"
_COLUMNS = ("LCLid", "DateTime", "KWH/hh")
_WHOLE_WH = Decimal("0.001")
# What single precision holds for certain; it prints one more.
_SINGLE_DIGITS = 8
_STAMP = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)(\.\d{1,9})?", re.ASCII)


def looks_like(head: str) -> bool:
    """Whether a file that starts so is a Low Carbon London household."""
    return places(_names(header_of(head)), *_COLUMNS) is not None


def _names(header: list[str]) -> list[str]:
    """The Datastore's own header has words after KWH/hh."""
    return [name.partition(" ")[0] for name in header]


def read(text: Text, collector: Collector, mpxn: Mpxn | None = None) -> Iterator[None]:
    """Read a whole file for the metering point given."""
    mpan = given_mpan(mpxn, _WHAT)
    names, rows = body_of(text, _WHAT)
    columns = placed(_names(names), _WHAT, *_COLUMNS)
    collector.note_check_digit(mpan)
    household = ""
    for line, cells in collector.each(rows):
        yield
        if not fits(collector, line, cells, len(names)):
            continue
        name, stamp, kwh = (cells[place] for place in columns)
        household = household or name
        if name != household:
            message = "the row is of another household than the first one"
            collector.reject(line, Bucket.OTHER_METER, message)
            continue
        _read_row(collector, line, mpan, stamp, kwh)


def _read_row(collector: Collector, line: int, mpxn: Mpxn, stamp: str, kwh: str) -> None:
    start = _start(stamp)
    if start is None:
        collector.reject(line, Bucket.UNREADABLE, "the DateTime cannot be read")
        return
    wh = _wh(kwh)
    if wh is Bucket.WRONG_DECIMALS and (meant := _single_precision(kwh)) is not None:
        wh = meant
        collector.find(Note.SINGLE_PRECISION, f"{kwh} kWh is {meant} Wh in single precision", line)
    half_hour = half_hour_of(start) if on_the_grid(start) else None
    collector.take(line, mpxn, [Entry(half_hour, wh, NO_QUALITY, stamp)])


def _start(stamp: str) -> datetime | None:
    """The stamp as a UTC instant; the Datastore's own files add seven zeros to the seconds."""
    match = _STAMP.fullmatch(stamp)
    if match is None:
        return None
    try:
        start = datetime.fromisoformat(match[1]).replace(tzinfo=UTC)
    except ValueError:
        return None
    if match[2] and int(match[2][1:]):
        start = start.replace(microsecond=1)  # off the grid, however little
    return start if FIRST_DATE <= start.date() <= LAST_DATE else None


def _wh(kwh: str) -> int | Bucket:
    if kwh.lower() in ("null", ""):
        return Bucket.NULL
    value = decimal_of(kwh)
    return Bucket.UNREADABLE if value is None else wh_of(value)


def _single_precision(kwh: str) -> int | None:
    """The whole Wh that single precision prints as this text, if there is one."""
    whole = Decimal(kwh).quantize(_WHOLE_WH, ROUND_HALF_EVEN)
    printed = f"{float(np.float32(whole)):.{_SINGLE_DIGITS}g}"
    return int(whole.scaleb(3)) if printed == kwh else None
