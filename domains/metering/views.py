"""What the registry and the stored readings answer, as of a position in the log."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import numpy as np

from domains.metering.events import MeteringPoint
from domains.metering.rows import (
    REFUSED_PREFIX,
    ROW_PREFIX,
    Versions,
    columns_as_of_each,
    columns_of,
    columns_of_each,
    spoken_of,
    versions,
    versions_of_each,
)
from spine.answer import Circumstances, Columns
from spine.domain import ReadableRows
from spine.gb import FOR_EVER, Interval, first_half_hour_from, half_hour_start

_KINDS: Final = (ROW_PREFIX, REFUSED_PREFIX)


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
    registered = () if since is None else (Interval(since, state.effective_to or FOR_EVER),)
    silent = (Interval(s.effective_from, s.effective_to or FOR_EVER) for s in silences)
    return Circumstances(at, registered, tuple(silent))


def readings_as_of(
    rows: ReadableRows, mpxn: str, quantity: str, interval: Interval, below_offset: int
) -> Columns:
    """The half hours that start in the interval as the log below an offset records them.

    The last version in log order wins for each half hour by itself: a later batch that holds only
    some half hours of a day leaves the others as they were.
    """
    first, count = _half_hours_of(interval)
    asked = rows, mpxn, quantity, first, count
    kept, refused = (versions(*asked, prefix).below(below_offset) for prefix in _KINDS)
    return columns_of(kept, first, count, refused)


def readings_of_each(
    rows: ReadableRows, mpxns: Sequence[str], quantity: str, interval: Interval, below_offset: int
) -> list[Columns]:
    """What `readings_as_of` gives of each of these meters, made side by side."""
    return columns_of_each(rows, mpxns, quantity, *_half_hours_of(interval), below_offset)


@dataclass(frozen=True, slots=True, eq=False)
class Said:
    """All that the log says of an interval of one meter, to be read as of many offsets.

    `offsets` are those at which it says something, in order.
    """

    first: int
    count: int
    kept: Versions
    refused: Versions
    offsets: tuple[int, ...]


def everything_said(rows: ReadableRows, mpxn: str, quantity: str, interval: Interval) -> Said:
    """All that the log says of an interval of one meter."""
    first, count = _half_hours_of(interval)
    kept, refused = (versions(rows, mpxn, quantity, first, count, prefix) for prefix in _KINDS)
    return _said(first, count, kept, refused)


def everything_said_of_each(
    rows: ReadableRows, mpxns: Sequence[str], quantity: str, interval: Interval
) -> list[Said]:
    """What `everything_said` gives of each of these meters, read side by side."""
    first, count = _half_hours_of(interval)
    kept, refused = (
        versions_of_each(rows, mpxns, quantity, first, count, prefix) for prefix in _KINDS
    )
    return [_said(first, count, *both) for both in zip(kept, refused, strict=True)]


def _said(first: int, count: int, kept: Versions, refused: Versions) -> Said:
    offsets = tuple(sorted({*kept.offsets.tolist(), *refused.offsets.tolist()}))
    return Said(first, count, kept, refused, offsets)


def as_of_each(said: Sequence[Said], below_offsets: Sequence[int]) -> list[Columns]:
    """What `readings_as_of` gives of each of these, which are of the same interval and at least
    one, each as of its own offset, made side by side.
    """
    kept, refused = [each.kept for each in said], [each.refused for each in said]
    return columns_as_of_each(kept, refused, below_offsets, said[0].first, said[0].count)


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

    Older versions are not looked into, so it costs little where nothing is new.
    """
    first, count = _half_hours_of(interval)
    kept = versions(rows, mpxn, quantity, first, count).below(below_offset)
    new = kept.take(np.flatnonzero(kept.offsets >= from_offset).tolist())
    said = np.flatnonzero(spoken_of(new, first, count))
    if not len(said):
        return None
    return Interval(
        half_hour_start(first + int(said[0])), half_hour_start(first + int(said[-1]) + 1)
    )


def _half_hours_of(interval: Interval) -> tuple[int, int]:
    """The first half hour that starts in the interval, and how many do."""
    first, end = first_half_hour_from(interval.start), first_half_hour_from(interval.end)
    return first, max(end - first, 0)
