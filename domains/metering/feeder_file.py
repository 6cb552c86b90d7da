"""Published figures as a file, in the column layout of the distributors' open feeder data.

Source   as `adapters/lv_feeder.py` says; the sample in tests/data/lv-feeder has this very header
Shape    a line for each group and half hour. A suppressed group has no line, as there
Zone     UTC, said by the `Z` of each stamp
Stamps   the END of the half hour
Unit     Wh of all the meters of the group together

Metered reactive energy, a second register and places are not known here: their columns are empty.
A GSP group stands as a data set of its own without substation or feeder. The feeders shipped are
SYNTHETIC, and their dataset ids say so.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from io import StringIO
from typing import Final

from domains.metering.feeders import interval_of
from spine.gb import HALF_HOUR

COLUMNS: Final = (
    "dataset_id",
    "dno_name",
    "dno_alias",
    "secondary_substation_id",
    "secondary_substation_name",
    "lv_feeder_id",
    "lv_feeder_name",
    "substation_geo_location",
    "aggregated_device_count_active",
    "primary_consumption_active_import",
    "secondary_consumption_active_import",
    "total_consumption_active_import",
    "aggregated_device_count_reactive",
    "total_consumption_reactive_import",
    "data_collection_log_timestamp",
    "insert_time",
    "last_modified_time",
)


@dataclass(frozen=True, slots=True)
class FeederDay:
    """The figure of a group on a UTC day, with the names of the group."""

    dataset_id: str
    dno_name: str
    dno_alias: str
    secondary_substation_id: str
    secondary_substation_name: str
    lv_feeder_id: str
    lv_feeder_name: str
    day: date
    devices: int
    values_wh: Sequence[int]
    published_at: datetime


def lines(days: Iterable[FeederDay]) -> Iterator[str]:
    """The file, line by line, the header first."""
    yield _line(COLUMNS)
    for day in days:
        yield from map(_line, _rows(day))


def _rows(day: FeederDay) -> Iterator[tuple[str, ...]]:
    start = interval_of(day.day).start
    inserted = _stamp(day.published_at)
    for number, value in enumerate(day.values_wh, 1):
        yield (
            day.dataset_id,
            day.dno_name,
            day.dno_alias,
            day.secondary_substation_id,
            day.secondary_substation_name,
            day.lv_feeder_id,
            day.lv_feeder_name,
            "",
            _number(day.devices),
            _number(value),
            "",
            _number(value),
            "",
            "",
            _stamp(start + number * HALF_HOUR),
            inserted,
            inserted,
        )


def _number(value: int) -> str:
    """With one decimal, as in the sample."""
    return f"{value}.0"


def _stamp(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%S.") + f"{at.microsecond // 1000:03d}Z"


def _line(cells: Sequence[str]) -> str:
    out = StringIO()
    csv.writer(out, lineterminator="\n").writerow(cells)
    return out.getvalue()
