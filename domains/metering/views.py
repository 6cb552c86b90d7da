"""What the registry and the stored readings answer, as of a position in the log."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import numpy as np

from domains.metering.events import MeteringPoint
from domains.metering.rows import REFUSED_PREFIX, Version, columns_of, spoken_of, versions
from spine.answer import Circumstances, Columns
from spine.domain import ReadableRows
from spine.gb import PERIODS_PER_UTC_DAY, Interval, first_half_hour_from, half_hour_start

EVERY_OFFSET: Final = 1 << 62
_FOR_EVER: Final = datetime(9999, 12, 31, tzinfo=UTC)


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


def circumstances(state: MeteringPoint, at: datetime) -> Circumstances:
    """What the registry knows that explains why a half hour has no value, seen from `at`."""
    since, silences = state.registered_from, state.silences
    registered = () if since is None else (Interval(since, state.effective_to or _FOR_EVER),)
    silent = (Interval(s.effective_from, s.effective_to or _FOR_EVER) for s in silences)
    return Circumstances(at, registered, tuple(silent))


def readings_as_of(
    rows: ReadableRows, mpxn: str, quantity: str, interval: Interval, below_offset: int
) -> Columns:
    """The half hours that start in the interval as the log below an offset records them.

    The last version in log order wins for each half hour by itself: a later batch that holds only
    some half hours of a day leaves the others as they were.
    """
    first, end = first_half_hour_from(interval.start), first_half_hour_from(interval.end)
    said = (rows, mpxn, quantity, _days(first, end), below_offset)
    refused = versions(*said, REFUSED_PREFIX)
    return columns_of(versions(*said), first, max(end - first, 0), refused)


@dataclass(frozen=True, slots=True, eq=False)
class Said:
    """All that the log says of an interval of one meter, to be read as of many offsets.

    `offsets` are those at which it says something, in order.
    """

    first: int
    count: int
    kept: tuple[Version, ...]
    refused: tuple[Version, ...]
    offsets: tuple[int, ...]

    def as_of(self, below_offset: int) -> Columns:
        """What `readings_as_of` gives of it."""
        kept, refused = (
            [version for version in versions if version.offset < below_offset]
            for versions in (self.kept, self.refused)
        )
        return columns_of(kept, self.first, self.count, refused)


def everything_said(rows: ReadableRows, mpxn: str, quantity: str, interval: Interval) -> Said:
    """All that the log says of an interval of one meter."""
    first, end = first_half_hour_from(interval.start), first_half_hour_from(interval.end)
    said = (rows, mpxn, quantity, _days(first, end), EVERY_OFFSET)
    kept, refused = tuple(versions(*said)), tuple(versions(*said, REFUSED_PREFIX))
    offsets = tuple(sorted({version.offset for version in (*kept, *refused)}))
    return Said(first, max(end - first, 0), kept, refused, offsets)


def recorded_at(rows: ReadableRows, mpxn: str, quantity: str, interval: Interval) -> list[int]:
    """The offsets of all batches that say something of the days of the interval."""
    return list(everything_said(rows, mpxn, quantity, interval).offsets)


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
    first, end = first_half_hour_from(interval.start), first_half_hour_from(interval.end)
    kept = versions(rows, mpxn, quantity, _days(first, end), below_offset)
    new = [version for version in kept if version.offset >= from_offset]
    if not new:
        return None
    said = np.flatnonzero(spoken_of(new, first, max(end - first, 0)))
    if not len(said):
        return None
    return Interval(
        half_hour_start(first + int(said[0])), half_hour_start(first + int(said[-1]) + 1)
    )


def _days(first: int, end: int) -> range:
    return range(first // PERIODS_PER_UTC_DAY, (end - 1) // PERIODS_PER_UTC_DAY + 1)
