"""AMR, one row a reading: a supplier's or council's export, as CSV or .xlsx.

Source   supplier uploads and the Highland Council's in github:Energy-Sparks/energy-sparks, MIT,
         spec/fixtures/amr_data/row-per-reading, amr_highlands and amr_upload_data_files
Shape    MPR, ReadDatetime (`03 Dec 2019 00:00:00` and the other styles of `stamps`), kWh, ReadType,
         mostly under a line `sep=,` and now and then in UTF-16, whole or mangled
Zone     UTC all year (inferred: no sample spans a clock change, and none names a zone)
Stamps   the END of the half hour: a day runs from 00:30 to 00:00 of the next, and the origin reads
         them so
Unit     kWh in the half hour, kept as whole Wh
Quality  ReadType: Actual is A, Estimated is E, anything else is kept as given
Meter    the MPAN of each row; a file may hold many
"""

from __future__ import annotations

from collections.abc import Iterator

from domains.metering.adapters.collecting import Collector, Entry
from domains.metering.adapters.points import mpan_in, none_given
from domains.metering.adapters.report import NO_QUALITY, Bucket
from domains.metering.adapters.stamps import stamp_of
from domains.metering.adapters.tables import body_of, fits, header_of, placed, places, wh_in
from domains.metering.adapters.wrappings import Text
from spine.errors import Invalid
from spine.gb import Mpxn, half_hour_of, on_the_grid

NAME = "amr_row_per_reading"
_WHAT = "an AMR file of a row a reading"
_COLUMNS = ("MPR", "ReadDatetime", "kWh", "ReadType")
_QUALITY = {"actual": "A", "estimated": "E", "": NO_QUALITY}


def looks_like(head: str) -> bool:
    """Whether a file that starts so has a row for each reading."""
    return places(header_of(head), *_COLUMNS) is not None


def read(text: Text, collector: Collector, mpxn: Mpxn | None = None) -> Iterator[None]:
    """Read a whole file; it names its own meters, so that `mpxn` must be left out."""
    none_given(mpxn, _WHAT)
    names, rows = body_of(text, _WHAT)
    columns = placed(names, _WHAT, *_COLUMNS)
    for line, cells in collector.each(rows):
        yield
        if fits(collector, line, cells, len(names)):
            mpr, stamp, kwh, kind = (cells[place] for place in columns)
            _read_row(collector, line, mpr, stamp, kwh, kind)


def _read_row(collector: Collector, line: int, mpr: str, stamp: str, kwh: str, kind: str) -> None:
    try:
        mpan = mpan_in(mpr)
    except Invalid as invalid:
        collector.reject(line, Bucket.UNREADABLE, invalid.message)
        return
    end = stamp_of(stamp)
    if end is None:
        collector.reject(line, Bucket.UNREADABLE, "the ReadDatetime cannot be read")
        return
    half_hour = half_hour_of(end) - 1 if on_the_grid(end) else None
    quality = _QUALITY.get(kind.lower(), kind)
    wh = wh_in(collector, line, kwh)
    collector.take(line, mpan, [Entry(half_hour, wh, quality, f"the one to {stamp}")])
