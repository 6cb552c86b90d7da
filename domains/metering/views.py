"""What the registry and the stored readings answer, as of a position in the log."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from domains.metering.events import MeteringPoint
from domains.metering.rows import versions
from spine.answer import Recorded
from spine.domain import ReadableRows
from spine.gb import HALF_HOUR, PERIODS_PER_UTC_DAY, Interval, half_hour_of, half_hour_start


@dataclass(frozen=True, slots=True)
class MeteringPointView:
    """A metering point as a reader sees it. Instants are UTC; no `effective_to` while it lasts."""

    mpxn: str
    fuel: str
    gsp_group: str
    energy_direction: str
    measurement_quantity: str
    registered_from: datetime
    effective_to: datetime | None


def metering_point_view(mpxn: str, state: MeteringPoint) -> MeteringPointView | None:
    """The view of a point in this state; None if it was never registered."""
    if state.registered_from is None:
        return None
    return MeteringPointView(
        mpxn,
        state.fuel,
        state.gsp_group,
        state.energy_direction,
        state.measurement_quantity,
        state.registered_from,
        state.effective_to,
    )


def readings_as_of(
    rows: ReadableRows, mpxn: str, quantity: str, interval: Interval, below_offset: int
) -> dict[datetime, Recorded]:
    """The half hours that start in the interval, by start, as the log below an offset records them.

    The last version in log order wins for each half hour by itself: a later batch that holds only
    some half hours of a day leaves the others as they were. Half hours never recorded are left out.
    """
    first, end = _first_from(interval.start), _first_from(interval.end)
    found: dict[int, Recorded] = {}
    for version in versions(rows, mpxn, quantity, _days(first, end), below_offset):
        for half_hour, value_wh, quality in version.cells():
            if first <= half_hour < end:
                found[half_hour] = Recorded(value_wh, quality, version.offset, version.row)
    return {half_hour_start(half_hour): found[half_hour] for half_hour in sorted(found)}


def recorded_between(
    rows: ReadableRows,
    mpxn: str,
    quantity: str,
    interval: Interval,
    from_offset: int,
    below_offset: int,
) -> Interval | None:
    """The stretch of the interval that has versions from one offset on and below another, if any.

    Only the keys of older versions are read, so it costs little where nothing is new.
    """
    first, end = _first_from(interval.start), _first_from(interval.end)
    said = [
        half_hour
        for version in versions(rows, mpxn, quantity, _days(first, end), below_offset)
        if version.offset >= from_offset
        for half_hour, _, _ in version.cells()
        if first <= half_hour < end
    ]
    if not said:
        return None
    return Interval(half_hour_start(min(said)), half_hour_start(max(said) + 1))


def _days(first: int, end: int) -> range:
    return range(first // PERIODS_PER_UTC_DAY, (end - 1) // PERIODS_PER_UTC_DAY + 1)


def _first_from(instant: datetime) -> int:
    """The first half hour that starts at this instant or after it."""
    return half_hour_of(instant + HALF_HOUR - datetime.resolution)
