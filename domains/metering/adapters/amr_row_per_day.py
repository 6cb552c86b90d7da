"""AMR, one row a day: a logger's export with a column for each half hour, as CSV or .xlsx.

Source   supplier uploads in github:Energy-Sparks/energy-sparks, MIT,
         spec/fixtures/amr_data/row-per-day
Shape    Site Id, Meter Number, Reading Date (dd/mm/yy and the other styles of `stamps`), then the
         columns 00:00 to 23:30; a file without its header is known by those 51 cells
Zone     UTC days of always 48 half hours (inferred; `day_rows` says why)
Stamps   a column is named by the START of its half hour
Unit     kWh in the half hour; the three samples with values hold pulses times a factor, such as
         4.465528, of which all but a few are finer than a whole Wh and so `wrong_decimals`
Quality  none given, so none is claimed
Meter    the file knows only a logger's own number: the metering point must be given, and rows of
         any other meter than the first are `other_meter`
"""

from __future__ import annotations

from collections.abc import Iterator

from domains.metering.adapters.collecting import Collector
from domains.metering.adapters.day_rows import COLUMNS, STARTS, take_day
from domains.metering.adapters.points import given_mpan
from domains.metering.adapters.report import Bucket, decimal_of
from domains.metering.adapters.stamps import date_of
from domains.metering.adapters.tables import body_of, fits, header_of, places
from domains.metering.adapters.wrappings import Text
from spine.errors import Invalid, Reason
from spine.gb import Mpxn

NAME = "amr_row_per_day"
_WHAT = "an AMR file of a row a day"
_NAMES = ("Meter Number", "Reading Date", *STARTS)
# Where they stand in a file without a header.
_PLACES = [1, 2, *range(3, 3 + COLUMNS)]


def looks_like(head: str) -> bool:
    """Whether a file that starts so has a row for each day, with or without column names."""
    first = header_of(head)
    return places(first, *_NAMES) is not None or _is_a_day(first)


def _is_a_day(cells: list[str]) -> bool:
    """Whether the first row is itself of readings."""
    return (
        len(cells) == 3 + COLUMNS
        and date_of(cells[2]) is not None
        and all(not kwh or decimal_of(kwh) is not None for kwh in cells[3:])
    )


def read(text: Text, collector: Collector, mpxn: Mpxn | None = None) -> Iterator[None]:
    """Read a whole file for the metering point given."""
    first = header_of(next(text(), ""))
    found = places(first, *_NAMES)
    names, rows = body_of(text, _WHAT, header=found is not None)
    mpan = given_mpan(mpxn, _WHAT)
    if found is None and not _is_a_day(first):
        message = f"the file has not each column of {_WHAT} once"
        raise Invalid(Reason.FILE_UNRECOGNISED, message, field="file")
    at_meter, at_date, *at_kwh = found or _PLACES
    collector.note_check_digit(mpan)
    meter = ""
    for line, cells in collector.each(rows):
        yield
        if not fits(collector, line, cells, len(names)):
            continue
        meter = meter or cells[at_meter]
        if cells[at_meter] != meter:
            message = "the row is of another meter than the first one"
            collector.reject(line, Bucket.OTHER_METER, message)
            continue
        take_day(collector, line, mpan, cells[at_date], [cells[place] for place in at_kwh])
