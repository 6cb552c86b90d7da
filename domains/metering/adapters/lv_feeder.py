"""Low voltage feeder aggregates: known, and refused whole, for they are of no metering point.

Source   distributors' open smart meter data; SSEN's in github:centre-for-ai-and-climate/weave, MIT,
         weave_tests/fixtures/ssen/lv_feeder_files
Shape    a line for each feeder and half hour with the columns dataset_id, lv_feeder_id,
         aggregated_device_count_active and total_consumption_active_import among others
Zone     UTC, said by the `Z` of each stamp
Stamps   the END of the half hour: a day's first is 00:30 (inferred)
Unit     Wh of all the homes on the feeder together
Quality  none given

A reading here is what one metering point measured, and reading it needs a basis for that point. The
sum over a feeder belongs to the network and is published without one; kept as readings of a made-up
meter it would stand under rules that do not fit it. So such a file is recognised and refused.
"""

from __future__ import annotations

from collections.abc import Iterator

from domains.metering.adapters.collecting import Collector
from domains.metering.adapters.tables import header_of, places
from domains.metering.adapters.wrappings import Text
from spine.errors import Invalid, Reason
from spine.gb import Mpxn

NAME = "lv_feeder"
_COLUMNS = (
    "dataset_id",
    "lv_feeder_id",
    "aggregated_device_count_active",
    "total_consumption_active_import",
)


def looks_like(head: str) -> bool:
    """Whether a file that starts so holds aggregates of feeders."""
    return places(header_of(head), *_COLUMNS) is not None


def read(text: Text, collector: Collector, mpxn: Mpxn | None = None) -> Iterator[None]:
    """Refuse the file, whatever metering point is given."""
    message = (
        "the file holds sums over the homes of low voltage feeders, which are readings of no "
        "metering point; nothing of it was recorded"
    )
    raise Invalid(Reason.FILE_AGGREGATED, message, field="file")
