"""Smart Grid Smart City: smart-metered homes of the trial around Sydney and Newcastle, as CSV.

Source   "Smart-Grid Smart-City Customer Trial Data", data.gov.au; the data are CC BY 3.0 AU
Shape    a line for each reading with the columns customer_id, reading_datetime and
         general_supply_kwh
Zone     Australian Eastern Standard Time all year, ten hours before UTC: both clock-change days
         have 48 readings at 48 different stamps, which no local clock gives (inferred; the file
         names no zone)
Stamps   the START of the half hour (inferred)
Unit     kWh in the half hour, kept as whole Wh
Quality  none given, so none is claimed
Meter    the file knows only its own `customer_id`: the metering point must be given. It is that
         of the file's first household; rows of any other are `other_meter` and not recorded, so a
         file of several is split first and each part given its own metering point
"""

from __future__ import annotations

from collections.abc import Iterator

from domains.metering.adapters.ausgrid import AHEAD_OF_UTC
from domains.metering.adapters.collecting import Collector, Entry
from domains.metering.adapters.points import given_mpan
from domains.metering.adapters.report import NO_QUALITY, Bucket
from domains.metering.adapters.stamps import stamp_of
from domains.metering.adapters.tables import body_of, fits, header_of, placed, places, wh_in
from domains.metering.adapters.wrappings import Text
from spine.gb import Mpxn, half_hour_of, on_the_grid

NAME = "smart_grid_smart_city"
_WHAT = "a Smart Grid Smart City file"
_COLUMNS = ("customer_id", "reading_datetime", "general_supply_kwh")


def looks_like(head: str) -> bool:
    """Whether a file that starts so is of Smart Grid Smart City homes."""
    return places(header_of(head), *_COLUMNS) is not None


def read(text: Text, collector: Collector, mpxn: Mpxn | None = None) -> Iterator[None]:
    """Read the first household of a file for the metering point given."""
    mpan = given_mpan(mpxn, _WHAT)
    names, rows = body_of(text, _WHAT)
    columns = placed(names, _WHAT, *_COLUMNS)
    collector.note_check_digit(mpan)
    household = ""
    for line, cells in collector.each(rows):
        yield
        if not fits(collector, line, cells, len(names)):
            continue
        customer, stamp, kwh = (cells[place] for place in columns)
        household = household or customer
        start = stamp_of(stamp)
        if customer != household:
            message = "the row is of another household than the first one"
            collector.reject(line, Bucket.OTHER_METER, message)
        elif start is None:
            collector.reject(line, Bucket.UNREADABLE, "the reading_datetime cannot be read")
        else:
            start -= AHEAD_OF_UTC
            half_hour = half_hour_of(start) if on_the_grid(start) else None
            wh = wh_in(collector, line, kwh)
            collector.take(line, mpan, [Entry(half_hour, wh, NO_QUALITY, stamp)])
