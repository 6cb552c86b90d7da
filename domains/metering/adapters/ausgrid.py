"""Ausgrid solar homes: one home with panels on the roof, as CSV.

Source   Ausgrid's "Solar home electricity data"; github:pierre-haessig/ausgrid-solar-data,
         CC BY 4.0, customer/12/data_2011-2012.csv
Shape    a line for each half hour with the columns datetime, GC_kwh and GG_kwh
Zone     Australian Eastern Standard Time all year, ten hours before UTC: 48 readings on every day
         and no clock change (inferred; the file names no zone)
Stamps   the START of the half hour: the first is 00:00 (inferred)
Unit     kWh in the half hour, kept as whole Wh. Many values are sums in double precision, such as
         0.39799999999999996: the whole Wh that is meant is recorded and a finding says so
Quality  none given, so none is claimed
Meter    the file names none: the metering point must be given

GC, general consumption, is what the home took and is recorded as active import. GG is the gross
generation of the panels, metered on its own and neither export nor import at the boundary: its
values are counted as `other_quantity`, with one finding for the column, and are not recorded.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from domains.metering.adapters.collecting import Collector, Entry
from domains.metering.adapters.points import given_mpan
from domains.metering.adapters.report import NO_QUALITY, Bucket
from domains.metering.adapters.stamps import stamp_of
from domains.metering.adapters.tables import body_of, fits, header_of, placed, places, wh_in
from domains.metering.adapters.wrappings import Text
from spine.gb import Mpan, Mpxn, half_hour_of, on_the_grid

NAME = "ausgrid"
AHEAD_OF_UTC = timedelta(hours=10)
_WHAT = "an Ausgrid file"
_COLUMNS = ("datetime", "GC_kwh", "GG_kwh")


def looks_like(head: str) -> bool:
    """Whether a file that starts so is an Ausgrid home."""
    return places(header_of(head), *_COLUMNS) is not None


def read(text: Text, collector: Collector, mpxn: Mpxn | None = None) -> Iterator[None]:
    """Read a whole file for the metering point given."""
    mpan = given_mpan(mpxn, _WHAT)
    names, rows = body_of(text, _WHAT)
    at_stamp, at_used, at_made = placed(names, _WHAT, *_COLUMNS)
    collector.note_check_digit(mpan)
    made = 0
    for line, cells in collector.each(rows):
        yield
        if not fits(collector, line, cells, len(names)):
            continue
        if _read_row(collector, line, mpan, cells[at_stamp], cells[at_used]):
            made += bool(cells[at_made])
    message = f"{made} values of GG_kwh are gross generation, not import, and were not recorded"
    collector.set_aside(Bucket.OTHER_QUANTITY, made, message)


def _read_row(collector: Collector, line: int, mpan: Mpan, stamp: str, kwh: str) -> bool:
    """Whether the row could be read at all."""
    start = stamp_of(stamp)
    if start is None:
        collector.reject(line, Bucket.UNREADABLE, "the datetime cannot be read")
        return False
    start -= AHEAD_OF_UTC
    half_hour = half_hour_of(start) if on_the_grid(start) else None
    collector.take(line, mpan, [Entry(half_hour, wh_in(collector, line, kwh), NO_QUALITY, stamp)])
    return True
