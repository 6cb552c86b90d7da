"""Sheffield: the council's export of its schools, as CSV or .xlsx.

Source   council uploads in github:Energy-Sparks/energy-sparks, MIT,
         spec/fixtures/amr_upload_data_files/example-*sheffield-*
Shape    a row for each meter and day with the columns MPAN, ConsumptionDate (dd/mm/yyyy), kWh_1 to
         kWh_48 and kVArh_1 to kVArh_48; others, such as siteRef or a nameless one, may stand
         between them, for columns are found by name
Zone     UTC days of always 48 half hours (inferred; `day_rows` says why)
Stamps   column n is the nth half hour of the day
Unit     kWh, kept as whole Wh; kVArh are reactive energy, counted as `other_quantity` where there
         are any, with one finding for them all
Quality  none given, so none is claimed
Meter    the MPAN of each row
"""

from __future__ import annotations

from collections.abc import Iterator

from domains.metering.adapters.collecting import Collector
from domains.metering.adapters.day_rows import COLUMNS, take_day
from domains.metering.adapters.points import mpan_in, none_given
from domains.metering.adapters.report import Bucket
from domains.metering.adapters.stamps import date_of
from domains.metering.adapters.tables import body_of, fits, header_of, placed, places
from domains.metering.adapters.wrappings import Text
from spine.errors import Invalid
from spine.gb import Mpxn

NAME = "sheffield_council"
_WHAT = "a Sheffield file"
_COLUMNS = ("MPAN", "ConsumptionDate", *(f"kWh_{n}" for n in range(1, COLUMNS + 1)))
_REACTIVE = "kVArh_"


def looks_like(head: str) -> bool:
    """Whether a file that starts so is the council's export."""
    return places(header_of(head), *_COLUMNS) is not None


def read(text: Text, collector: Collector, mpxn: Mpxn | None = None) -> Iterator[None]:
    """Read a whole file; it names its own meters, so that `mpxn` must be left out."""
    none_given(mpxn, _WHAT)
    names, rows = body_of(text, _WHAT)
    at_mpan, at_date, *at_kwh = placed(names, _WHAT, *_COLUMNS)
    at_reactive = [place for place, name in enumerate(names) if name.startswith(_REACTIVE)]
    reactive = 0
    for line, cells in collector.each(rows):
        yield
        if not fits(collector, line, cells, len(names)):
            continue
        try:
            mpan = mpan_in(cells[at_mpan])
        except Invalid as invalid:
            collector.reject(line, Bucket.UNREADABLE, invalid.message)
            continue
        take_day(collector, line, mpan, cells[at_date], [cells[place] for place in at_kwh])
        if date_of(cells[at_date]) is not None:
            reactive += sum(bool(cells[place]) for place in at_reactive)
    message = f"{reactive} values of reactive energy (kVArh) were not recorded"
    collector.set_aside(Bucket.OTHER_QUANTITY, reactive, message)
