"""Which meter-days may enter the log: judged in columns before they are appended.

Pure. They are judged at stated positions of the registry and the consumer log. What is let through
is never judged by these rules again: they are the coordinator's, and a fold trusts its signature.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Final, Generic, TypeVar

import numpy as np
import numpy.typing as npt
from msgspec.structs import replace

from domains.metering.adapters.report import MeterDays
from domains.metering.events import Fuel, MeasurementQuantity, MeteringPoint
from domains.metering.gas import VOLUME_DM3_MAX
from domains.metering.readings import MPXN_BYTES
from spine.errors import Reason
from spine.gb import (
    FOR_EVER,
    HALF_HOUR,
    MPAN_DIGITS,
    MPAN_WEIGHTS,
    PERIODS_PER_UTC_DAY,
    Interval,
    half_hour_of,
    parse_mpxn,
)

# 20 MW for half an hour: beyond any supply metered here, and a sure sign of a wrong unit.
READING_WH_MAX: Final = 10_000_000
# By so much a sender's clock, or ours, may be wrong before what it sends counts as of the future.
CLOCKS_DIFFER: Final = timedelta(minutes=5)
_ACTIVE: Final = (MeasurementQuantity.ACTIVE_IMPORT, MeasurementQuantity.ACTIVE_EXPORT)

_PLACES: Final = 11 ** np.arange(MPXN_BYTES - 1, -1, -1, dtype=np.int64)

T = TypeVar("T")
S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class Points:
    """The metering points of meter-days: `names`, (m,) S13, sorted, each once, and their `numbers`,
    (m,); and `of_row`, (n,), which of them each row is of.
    """

    names: npt.NDArray[np.bytes_]
    numbers: npt.NDArray[np.int64]
    of_row: npt.NDArray[np.int64]


def points_of(meter_days: MeterDays) -> Points:
    """The metering points of these rows."""
    numbers, of_row = np.unique(numbers_of(meter_days.mpxns), return_inverse=True)
    names = np.empty(len(numbers), f"S{MPXN_BYTES}")
    names[of_row] = meter_days.mpxns
    return Points(names, numbers, of_row)


def numbers_of(mpxns: npt.NDArray[np.bytes_]) -> npt.NDArray[np.int64]:
    """A number for each metering point, (n,), in the order of their texts.

    The text, padded with NUL, in base 11: NUL counts 0 and a digit one more than it says.
    """
    octets = np.ascontiguousarray(mpxns, f"S{MPXN_BYTES}").view(np.uint8)
    digits = np.maximum(octets, ord("0") - 1) - np.uint8(ord("0") - 1)
    numbers: npt.NDArray[np.int64] = digits.reshape(-1, MPXN_BYTES).astype(np.int64) @ _PLACES
    return numbers


@dataclass(frozen=True, slots=True)
class Alike(Generic[T]):
    """What holds of each of m metering points: the `different` ones, and which of them each point
    has, (m,). What many share is judged once.
    """

    different: Sequence[T]
    of_point: npt.NDArray[np.int64]

    @classmethod
    def of(cls, given: Sequence[T]) -> Alike[T]:
        """What stands at each place; one object is one, equal ones are as many as they are."""
        ids = np.fromiter(map(id, given), np.int64, len(given))
        _, first, of_point = np.unique(ids, return_index=True, return_inverse=True)
        return cls([given[place] for place in first.tolist()], of_point)

    def to(self, change: Callable[[T], S]) -> Alike[S]:
        """What follows from it."""
        return Alike([change(one) for one in self.different], self.of_point)


@dataclass(frozen=True, slots=True)
class CheckedRows:
    """Which meter-days may enter the log. Counts are of rows.

    `accepted` is a mask, (n,). `refused_rows` gives every other row one reason, the first in the
    order of `check_points`: a mask for each that was met. `findings` are of accepted rows. `ends`,
    (n,): the half hour that follows the last one with a value, since 1970.
    """

    accepted: npt.NDArray[np.bool_]
    refused_rows: Mapping[Reason, npt.NDArray[np.bool_]]
    findings: Mapping[Reason, int]
    ends: npt.NDArray[np.int64]

    def accepted_in(
        self, order: npt.NDArray[np.int64], cuts: Sequence[int]
    ) -> list[npt.NDArray[np.int64]]:
        """The accepted rows in that order, those that end by each of the ascending `cuts` apart.

        A delivery whose later days were refused by the clock at a cut, and that comes again after
        it, so has the batches that it had at first, and others of what was refused then.
        """
        accepted = order[self.accepted[order]]
        if not cuts:
            return [accepted]
        part = np.searchsorted(np.array(cuts, np.int64), self.ends[accepted])
        return [accepted[part == nth] for nth in range(len(cuts) + 1)]

    @property
    def refused(self) -> dict[Reason, int]:
        """How many rows were refused for each reason."""
        return {reason: int(np.count_nonzero(rows)) for reason, rows in self.refused_rows.items()}


def check_rows(
    meter_days: MeterDays,
    registered: Callable[[bytes], MeteringPoint | None],
    may_send: Callable[[bytes], Sequence[Interval]],
    now: datetime,
) -> CheckedRows:
    """`check_points` where a function tells of each metering point, given its number in ASCII;
    both are asked once for each.
    """
    points = points_of(meter_days)
    mpxns = points.names.tolist()
    asked = Alike.of([registered(mpxn) for mpxn in mpxns])
    stretches = Alike.of([may_send(mpxn) for mpxn in mpxns])
    return check_points(meter_days, points, asked, stretches, now)


def check_points(
    meter_days: MeterDays,
    points: Points,
    registered: Alike[MeteringPoint | None],
    may_send: Alike[Sequence[Interval]],
    now: datetime,
) -> CheckedRows:
    """Judge meter-days before they are appended, at the coordinator's time `now`.

    `registered` is what the registry says of each of `points.names`, `may_send` the stretches in
    which this sender may send for it (`decider.sending_stretches`). A row is taken or refused
    whole, by the first of

    SENDER_NOT_APPOINTED    the sender was neither supplier nor data service for all of them
    METER_NOT_REGISTERED    the point was not registered for all of its half hours
    QUANTITY_NOT_FOR_METER  an export quantity of an import point, or the reverse; volumes of a
                            point that is not of gas
    READING_OUT_OF_RANGE    a value is negative or above `READING_WH_MAX`
    READING_IN_FUTURE       a half hour with a value ends more than `CLOCKS_DIFFER` after `now`

    Findings: MPXN_CHECK_DIGIT, the number's check digit is wrong.
    """
    spans = _spans(meter_days)
    of_gas = meter_days.volumes_dm3 is not None
    counts = [_counts(point, meter_days.quantity, of_gas) for point in registered.different]
    state_of_row = registered.of_point[points.of_row]
    stretch_of_row = may_send.of_point[points.of_row]
    registrations = [_registration(point) for point in registered.different]
    rules = (
        (Reason.SENDER_NOT_APPOINTED, _within(spans, stretch_of_row, may_send.different)),
        (Reason.METER_NOT_REGISTERED, _within(spans, state_of_row, registrations)),
        (Reason.QUANTITY_NOT_FOR_METER, np.array(counts, np.bool_)[state_of_row]),
        (Reason.READING_OUT_OF_RANGE, _plausible(meter_days)),
        (Reason.READING_IN_FUTURE, _over(meter_days, spans, over_at(now))),
    )
    accepted = np.ones(len(meter_days), np.bool_)
    refused: dict[Reason, npt.NDArray[np.bool_]] = {}
    for reason, kept in rules:
        rows = accepted & ~kept
        if rows.any():
            refused[reason] = rows
            accepted &= kept
    wrong = ~_check_digits_ok(points.names)
    count = int(np.count_nonzero(accepted & wrong[points.of_row])) if wrong.any() else 0
    return CheckedRows(
        accepted, refused, {Reason.MPXN_CHECK_DIGIT: count} if count else {}, spans.end
    )


def judged_part(point: MeteringPoint) -> MeteringPoint:
    """What of it `check_points` goes by; metering points of all GSP groups have it in common."""
    return replace(point, gsp_group="", silences=())


def _counts(point: MeteringPoint | None, quantity: str, of_gas: bool) -> bool:
    """Whether a quantity flows the way of the point; only active energy comes in Wh, gas in dm3."""
    if point is None or quantity not in _ACTIVE or (of_gas and point.fuel is not Fuel.GAS):
        return False
    return MeasurementQuantity(quantity).direction is point.energy_direction


def _registration(point: MeteringPoint | None) -> Sequence[Interval]:
    if point is None or point.registered_from is None:
        return ()
    return (Interval(point.registered_from, point.effective_to or FOR_EVER),)


def _plausible(meter_days: MeterDays) -> npt.NDArray[np.bool_]:
    """Which rows hold nothing but values that a meter may register, (n,)."""
    plausible = _all_within(meter_days.values_wh, READING_WH_MAX)
    if (volumes := meter_days.volumes_dm3) is not None:
        return plausible & _all_within(volumes, VOLUME_DM3_MAX)
    return plausible


def over_at(now: datetime) -> int:
    """The first half hour that counts as not over at that time, since 1970."""
    return half_hour_of(now + CLOCKS_DIFFER)


def _over(meter_days: MeterDays, spans: _Spans, until: int) -> npt.NDArray[np.bool_]:
    """Which rows hold no value of that half hour or a later one, (n,)."""
    over = spans.end <= until
    if not over.all():  # a row without values counts as the whole day, and says nothing of it
        over |= ~meter_days.present.any(axis=1)
    return over


def _all_within(values: npt.NDArray[np.int32], most: int) -> npt.NDArray[np.bool_]:
    """Which rows hold only 0 to `most`, (n,). As a rule all do, which is far sooner seen."""
    if values.size and values.min() >= 0 and values.max() <= most:
        return np.ones(len(values), np.bool_)
    return np.asarray(((values >= 0) & (values <= most)).all(axis=1))


def _check_digits_ok(names: npt.NDArray[np.bytes_]) -> npt.NDArray[np.bool_]:
    """Whether each number's check digit is right: `Mpan.check_digit_ok` on a column."""
    octets = np.ascontiguousarray(names, f"S{MPAN_DIGITS}").view(np.uint8)
    digits = octets.reshape(-1, MPAN_DIGITS).astype(np.int64) - ord("0")
    electricity = digits[:, -1] >= 0
    weighed: npt.NDArray[np.int64] = digits[:, :-1] @ MPAN_WEIGHTS
    ok = np.asarray(weighed % 11 % 10 == digits[:, -1])
    for place in np.flatnonzero(~electricity).tolist():
        ok[place] = parse_mpxn(names[place].decode()).check_digit_ok
    return ok


@dataclass(frozen=True, slots=True)
class _Spans:
    """From the first to past the last present half hour of each row, since 1970; (n,) each."""

    start: npt.NDArray[np.int64]
    end: npt.NDArray[np.int64]


def _spans(meter_days: MeterDays) -> _Spans:
    """A row with no half hour at all counts as the whole day."""
    start = meter_days.days.astype(np.int64) * PERIODS_PER_UTC_DAY
    end = start + PERIODS_PER_UTC_DAY
    present = meter_days.present
    late = np.flatnonzero(~present[:, 0])  # as a rule few: a day begins and ends with a value
    start[late] += present[late].argmax(axis=1)
    early = np.flatnonzero(~present[:, -1])
    end[early] -= present[early, ::-1].argmax(axis=1)
    return _Spans(start, end)


def _within(
    spans: _Spans, point_of_row: npt.NDArray[np.int64], stretches: Sequence[Sequence[Interval]]
) -> npt.NDArray[np.bool_]:
    """Which rows lie wholly within one stretch of their metering point."""
    within = np.zeros(len(point_of_row), np.bool_)
    # The first stretch of every point at once, then the second of those that have one, and so on.
    for nth in range(max(map(len, stretches), default=0)):
        bounds = [_whole_half_hours(s[nth]) if nth < len(s) else (0, 0) for s in stretches]
        start, end = (bound.take(point_of_row) for bound in np.array(bounds, np.int64).T)
        within |= (start <= spans.start) & (spans.end <= end)
    return within


@lru_cache(maxsize=4096)
def _whole_half_hours(stretch: Interval) -> tuple[int, int]:
    """The half hours that lie wholly in it, as [start, end) since 1970-01-01T00:00Z."""
    return half_hour_of(stretch.start + HALF_HOUR - datetime.resolution), half_hour_of(stretch.end)
