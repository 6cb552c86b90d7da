"""Which GSP group and which low voltage feeder a metering point belongs to, and how it reads.

The GSP group is the one that the register has, or else that of the host distributor whose id begins
the MPAN. The link to a feeder is SYNTHETIC: which home hangs on which feeder is known to its
distributor only. Here the feeders are a list of standing data (`lv_feeders`, made up), each at many
points of a ring of hashes, and a meter is on that feeder of its GSP group whose point comes next
after its own. So no list of who lives where is kept; a feeder that is added takes meters from
others, and none moves otherwise. Whoever has true links puts them here: the rules of `aggregates`
take any.
"""

from __future__ import annotations

import hashlib
from bisect import bisect
from collections.abc import Iterable
from datetime import UTC, date, datetime, time, timedelta
from typing import Final

import numpy as np

from domains.metering.aggregates import NO_FEEDER, Ints, Meter
from domains.metering.events import Fuel, MeasurementQuantity, MeteringPoint
from domains.metering.views import readings_as_of
from spine.codelist import CodeList
from spine.domain import ReadableRows
from spine.gb import MPAN_DIGITS, Interval, Mpan

# The quality code of a value that no meter sent.
ESTIMATED: Final = "E"
_LINK: Final = b"energyos-synthetic-link-v1\x00"
_POINTS: Final = 64  # of each feeder on the ring, so that feeders come out about as large


def interval_of(day: date) -> Interval:
    """A UTC day: always 48 half hours, whatever clocks do."""
    start = datetime.combine(day, time(), UTC)
    return Interval(start, start + timedelta(days=1))


def feeders_of(gsp_group: str, lv_feeders: CodeList, day: date) -> tuple[str, ...]:
    """The feeders of a GSP group that are listed on that day, in order."""
    listed = lv_feeders.on(day)
    return tuple(entry.code for entry in listed if entry.attribute("gsp_group") == gsp_group)


class FeederRing:
    """The synthetic rule for these feeders: a hash and a search for each meter, however many."""

    def __init__(self, feeders: Iterable[str]) -> None:
        points = sorted(
            (_point(f"{feeder}\x00{number}"), feeder)
            for feeder in feeders
            for number in range(_POINTS)
        )
        self._points = [point for point, _ in points]
        self._feeders = [feeder for _, feeder in points]

    def feeder_of(self, mpxn: str) -> str:
        """The feeder that the rule gives a meter; none if there are none."""
        if not self._feeders:
            return NO_FEEDER
        return self._feeders[bisect(self._points, _point(mpxn)) % len(self._feeders)]


def _point(text: str) -> bytes:
    return hashlib.sha256(_LINK + text.encode()).digest()


def gsp_group_of(mpxn: str, point: MeteringPoint, day: date) -> str:
    """The GSP group of an electricity meter that counts import; nothing if there is none.

    A meter that ended before the day has none either. It never has another: neither the register
    nor the number changes.
    """
    counted = (point.fuel, point.measurement_quantity)
    if counted != (Fuel.ELECTRICITY, MeasurementQuantity.ACTIVE_IMPORT):
        return ""
    ended = point.effective_to is not None and point.effective_to <= interval_of(day).start
    if not point.registered or ended or len(mpxn) != MPAN_DIGITS:
        return ""
    return point.gsp_group or Mpan(mpxn).host_gsp_group or ""


def meter_of(rows: ReadableRows, below: int, mpxn: str, ring: FeederRing, day: date) -> Meter:
    """The meter with its readings of that day, as the log below an offset has them."""
    return Meter(mpxn, ring.feeder_of(mpxn), whole_day(rows, below, mpxn, day))


def whole_day(rows: ReadableRows, below: int, mpxn: str, day: date) -> Ints | None:
    """The 48 half hours of a UTC day, in Wh; None unless each of them is an actual reading."""
    quantity = MeasurementQuantity.ACTIVE_IMPORT
    found = readings_as_of(rows, mpxn, quantity, interval_of(day), below)
    if not found.present.all():
        return None
    if ESTIMATED in {found.qualities[place] for place in np.unique(found.quality).tolist()}:
        return None
    return found.values_wh
