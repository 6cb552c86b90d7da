"""Bath and North East Somerset: the council's export of its schools, as CSV or .xlsx.

Source   council uploads in github:Energy-Sparks/energy-sparks, MIT,
         spec/fixtures/amr_upload_data_files/banes-*
Shape    a row for each site and day with the columns ID, Date (`Nov 13 2019 12:00AM`), Location,
         Type, PostCode, Units, Total Units, [00:30] to [24:00], M1_Code1 and M1_Code2
Zone     UTC days of always 48 half hours (inferred; `day_rows` says why)
Stamps   a column is named by the END of its half hour, the last being [24:00]
Unit     kWh, kept as whole Wh; a row whose Units are another or whose Type is not Electricity is
         `other_quantity`
Quality  none given, so none is claimed
Meter    the MPAN in M1_Code1; one that is missing, too short or cut to a rounded number by a
         spreadsheet makes its row `unreadable`
"""

from __future__ import annotations

from collections.abc import Iterator

from domains.metering.adapters.collecting import Collector
from domains.metering.adapters.day_rows import ENDS, take_day
from domains.metering.adapters.points import mpan_in, none_given
from domains.metering.adapters.report import Bucket
from domains.metering.adapters.tables import body_of, fits, header_of, placed, places
from domains.metering.adapters.wrappings import Text
from spine.errors import Invalid
from spine.gb import Mpxn

NAME = "bath_council"
_WHAT = "a Bath and North East Somerset file"
_COLUMNS = ("M1_Code1", "Date", "Type", "Units", *(f"[{end}]" for end in ENDS))


def looks_like(head: str) -> bool:
    """Whether a file that starts so is the council's export."""
    return places(header_of(head), *_COLUMNS) is not None


def read(text: Text, collector: Collector, mpxn: Mpxn | None = None) -> Iterator[None]:
    """Read a whole file; it names its own meters, so that `mpxn` must be left out."""
    none_given(mpxn, _WHAT)
    names, rows = body_of(text, _WHAT)
    columns = placed(names, _WHAT, *_COLUMNS)
    for line, cells in collector.each(rows):
        yield
        if fits(collector, line, cells, len(names)):
            _read_row(collector, line, *(cells[place] for place in columns))


def _read_row(
    collector: Collector, line: int, code: str, date: str, kind: str, units: str, *kwhs: str
) -> None:
    if kind != "Electricity" or units != "kWh":
        collector.reject(line, Bucket.OTHER_QUANTITY, "the row is not electricity in kWh")
        return
    try:
        mpan = mpan_in(code)
    except Invalid as invalid:
        collector.reject(line, Bucket.UNREADABLE, invalid.message)
        return
    take_day(collector, line, mpan, date, kwhs)
