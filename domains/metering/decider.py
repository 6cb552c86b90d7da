"""What metering decides: who may register a metering point, and which meter-days may enter the log.

Pure. `decide` turns a command into facts or refuses; `check_rows` judges readings before they are
appended, at stated positions of the registry and the consumer log. What it lets through is never
judged by these rules again: they are the coordinator's, and a fold trusts its signature.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt

from domains.metering.adapters.report import MeterDays
from domains.metering.events import (
    EnergyDirection,
    Fuel,
    MeasurementQuantity,
    MeterCommunicationLost,
    MeterCommunicationRestored,
    MeteringEvent,
    MeteringPoint,
    MeteringPointDeregistered,
    MeteringPointRegistered,
    evolve,
)
from domains.metering.gas import VOLUME_DM3_MAX
from spine.codelist import NOT_LOADED, CodeList, check_listed, day_of
from spine.domain import Actor
from spine.errors import Invalid, NotPermitted, Reason, Refused
from spine.gb import (
    HALF_HOUR,
    MPAN_DIGITS,
    MPAN_WEIGHTS,
    PERIODS_PER_UTC_DAY,
    GspGroup,
    Interval,
    Mpan,
    Mprn,
    half_hour_of,
    parse_mpxn,
    utc,
)
from spine.policy import MeterAccess, Role

REGISTRARS: Final = frozenset({Role.SUPPLIER, Role.DATA_SERVICE, Role.CONSENT_SERVICE})
# 20 MW for half an hour: beyond any supply metered here, and a sure sign of a wrong unit.
READING_WH_MAX: Final = 10_000_000
_ACTIVE: Final = (MeasurementQuantity.ACTIVE_IMPORT, MeasurementQuantity.ACTIVE_EXPORT)

T = TypeVar("T")
CodeT = TypeVar("CodeT", Fuel, EnergyDirection, MeasurementQuantity)
_FOR_EVER: Final = datetime(9999, 12, 31, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class RegisterMeteringPoint:
    """Make a metering point known, so that its readings are accepted from that instant on.

    `mpxn` is the point the command is sent to, said again because its form depends on the fuel.
    `distributors` and `gsp_groups` are the lists of standing data that the coordinator has folded;
    a list that is not there knows no code.
    """

    by: Actor
    mpxn: str
    fuel: str
    energy_direction: str
    measurement_quantity: str
    registered_from: datetime
    gsp_group: str = ""
    distributors: CodeList = NOT_LOADED
    gsp_groups: CodeList = NOT_LOADED


@dataclass(frozen=True, slots=True)
class DeregisterMeteringPoint:
    """End a metering point: readings from that instant on are refused."""

    by: Actor
    effective_to: datetime


@dataclass(frozen=True, slots=True)
class ReportCommunication:
    """Say that the meter is silent from an instant on, or (`restored`) that its silence ended."""

    by: Actor
    at: datetime
    restored: bool


MeteringCommand = RegisterMeteringPoint | DeregisterMeteringPoint | ReportCommunication


def decide(
    state: MeteringPoint, command: MeteringCommand, now: datetime
) -> tuple[MeteringEvent, ...]:
    """The facts of an accepted command, none if it is already so; otherwise raises one of these.

    NotPermitted  ROLE_NOT_ALLOWED: the actor is no supplier, data service or consent service
    Invalid       MPAN_FORMAT, MPRN_FORMAT, CODE_UNKNOWN, GSP_GROUP_UNKNOWN, FIELD_INVALID,
                  TIME_INVALID, INTERVAL_INVALID: a part of the command at fault
    Refused       METER_EXISTS, METER_NOT_REGISTERED: the registry says otherwise
    """
    if command.by.role not in REGISTRARS:
        message = "only a supplier, a data service or a consent service keeps the registry"
        raise NotPermitted(Reason.ROLE_NOT_ALLOWED, message)
    match command:
        case RegisterMeteringPoint():
            return _register(state, command, now)
        case DeregisterMeteringPoint():
            return _deregister(state, command, now)
        case ReportCommunication():
            return _report(state, command, now)


def _register(
    state: MeteringPoint, command: RegisterMeteringPoint, now: datetime
) -> tuple[MeteringEvent, ...]:
    fuel = _code(Fuel, command.fuel, "fuel")
    direction = _code(EnergyDirection, command.energy_direction, "energy_direction")
    quantity = _code(MeasurementQuantity, command.measurement_quantity, "measurement_quantity")
    group = GspGroup(command.gsp_group) if command.gsp_group else ""
    registered_from = utc(command.registered_from)
    if fuel is Fuel.ELECTRICITY:
        Mpan(command.mpxn)
    else:
        Mprn(command.mpxn)
        if group or quantity is not MeasurementQuantity.ACTIVE_IMPORT:
            message = "gas is measured as AI, imported energy, and belongs to no GSP group"
            raise Invalid(Reason.FIELD_INVALID, message, field="fuel")
    if quantity.direction is not direction:
        message = "the measurement quantity counts the other direction"
        raise Invalid(Reason.FIELD_INVALID, message, field="measurement_quantity")
    registered = MeteringPointRegistered(fuel, group, direction, quantity, registered_from, now)
    if not state.registered:
        _check_standing_data(command, fuel, group)
        return (registered,)
    if replace(state, silences=()) == evolve(MeteringPoint(), registered):
        return ()
    raise Refused(Reason.METER_EXISTS, "the metering point is registered already, and otherwise")


def _check_standing_data(command: RegisterMeteringPoint, fuel: Fuel, group: str) -> None:
    """A new point names only codes that are listed on the day it is registered from."""
    day = day_of(command.registered_from)
    if fuel is Fuel.ELECTRICITY:
        distributor = Mpan(command.mpxn).distributor_id
        check_listed(command.distributors, distributor, day, "distributor", "mpxn")
    if group:
        check_listed(command.gsp_groups, group, day, "GSP group", "gsp_group")


def _deregister(
    state: MeteringPoint, command: DeregisterMeteringPoint, now: datetime
) -> tuple[MeteringEvent, ...]:
    effective_to = utc(command.effective_to)
    if state.registered_from is None:
        raise Refused(Reason.METER_NOT_REGISTERED, "no such metering point is registered")
    if state.effective_to == effective_to:
        return ()
    if state.effective_to is not None:
        raise Refused(Reason.METER_NOT_REGISTERED, "the metering point has ended already")
    ended = Interval(state.registered_from, effective_to)
    return (MeteringPointDeregistered(ended.end, now),)


def _report(
    state: MeteringPoint, command: ReportCommunication, now: datetime
) -> tuple[MeteringEvent, ...]:
    if not state.registered:
        raise Refused(Reason.METER_NOT_REGISTERED, "no such metering point is registered")
    kind = MeterCommunicationRestored if command.restored else MeterCommunicationLost
    reported = kind(utc(command.at), now)
    return () if evolve(state, reported) == state else (reported,)


def _code(codes: type[CodeT], text: str, field: str) -> CodeT:
    try:
        return codes(text)
    except ValueError:
        message = f"{field} is one of {', '.join(codes)}"
        raise Invalid(Reason.CODE_UNKNOWN, message, field=field) from None


# Readings


@dataclass(frozen=True, slots=True)
class CheckedRows:
    """Which meter-days may enter the log. Counts are of rows, but findings are of metering points.

    `accepted` is a mask, (n,). `refused` gives every other row one reason, the first in the order
    of `check_rows`. `findings` keep nothing out.
    """

    accepted: npt.NDArray[np.bool_]
    refused: Mapping[Reason, int]
    findings: Mapping[Reason, int]


def check_rows(
    meter_days: MeterDays,
    registered: Callable[[bytes], MeteringPoint | None],
    may_send: Callable[[bytes], Sequence[Interval]],
) -> CheckedRows:
    """Judge meter-days before they are appended; both functions are asked once per metering point.

    They are given its number in ASCII. What they give is judged once for each object, so that
    points in the same state had best share one.

    `registered` is the registry, `may_send` gives the stretches in which this sender may send for
    the point (`sending_stretches`). A row is taken or refused whole, by the first of

    SENDER_NOT_APPOINTED    the sender was neither supplier nor data service for all of them
    METER_NOT_REGISTERED    the point was not registered for all of its half hours
    QUANTITY_NOT_FOR_METER  an export quantity of an import point, or the reverse; volumes of a
                            point that is not of gas
    READING_OUT_OF_RANGE    a value is negative or above `READING_WH_MAX`

    Findings: MPXN_CHECK_DIGIT, the number's check digit is wrong.
    """
    names, point_of_row = np.unique(meter_days.mpxns, return_inverse=True)
    mpxns = names.tolist()
    points = [registered(mpxn) for mpxn in mpxns]
    alike, state_of_point = _alike(points)
    spans = _spans(meter_days)
    values = meter_days.values_wh
    plausible = (values >= 0) & (values <= READING_WH_MAX)
    if (volumes := meter_days.volumes_dm3) is not None:
        plausible &= (volumes >= 0) & (volumes <= VOLUME_DM3_MAX)
    of_gas = volumes is not None
    fit = np.array([_counts(point, meter_days.quantity, of_gas) for point in alike], np.bool_)
    state_of_row = state_of_point[point_of_row]
    allowed, stretch_of_point = _alike([may_send(mpxn) for mpxn in mpxns])
    stretch_of_row = stretch_of_point[point_of_row]
    rules = (
        (Reason.SENDER_NOT_APPOINTED, _within(spans, stretch_of_row, allowed)),
        (Reason.METER_NOT_REGISTERED, _within(spans, state_of_row, map(_registration, alike))),
        (Reason.QUANTITY_NOT_FOR_METER, fit[state_of_row]),
        (Reason.READING_OUT_OF_RANGE, plausible.all(axis=1)),
    )
    accepted = np.ones(len(meter_days), np.bool_)
    refused: dict[Reason, int] = {}
    for reason, kept in rules:
        if count := int(np.count_nonzero(accepted & ~kept)):
            refused[reason] = count
        accepted &= kept
    known = np.array([point is not None for point in alike], np.bool_)[state_of_point]
    wrong = int(np.count_nonzero(known & ~_check_digits_ok(names)))
    return CheckedRows(accepted, refused, {Reason.MPXN_CHECK_DIGIT: wrong} if wrong else {})


def _alike(given: Sequence[T]) -> tuple[list[T], npt.NDArray[np.int64]]:
    """The different objects among those given, and which of them stands at each place."""
    places: dict[int, int] = {}
    each = [places.setdefault(id(one), len(places)) for one in given]
    first = dict(zip(reversed(each), reversed(given), strict=True))
    return [first[place] for place in range(len(places))], np.array(each, np.int64)


def _check_digits_ok(names: npt.NDArray[np.bytes_]) -> npt.NDArray[np.bool_]:
    """Whether each number's check digit is right: `Mpan.check_digit_ok` on a column."""
    ok = np.empty(len(names), np.bool_)
    octets = np.ascontiguousarray(names, f"S{MPAN_DIGITS}").view(np.uint8)
    digits = octets.reshape(-1, MPAN_DIGITS).astype(np.int64) - ord("0")
    electricity = digits[:, -1] >= 0
    weighed = (digits[:, :-1] * MPAN_WEIGHTS).sum(axis=1)
    ok[electricity] = (weighed % 11 % 10 == digits[:, -1])[electricity]
    for place in np.flatnonzero(~electricity).tolist():
        ok[place] = parse_mpxn(names[place].decode()).check_digit_ok
    return ok


def check_registrar(access: Callable[[], MeterAccess], by: Actor, now: datetime) -> None:
    """NotPermitted(NOT_PERMITTED) unless the meter is the registrar's to register or to end.

    A supplier or data service must hold it now; the consent service keeps the register for all, so
    that `access` to the meter is not looked at. The refusal is the same whether the meter is known
    or not.
    """
    if by.role == Role.CONSENT_SERVICE:
        return
    if not any(now in stretch for stretch in sending_stretches(access(), by.party)):
        raise NotPermitted(Reason.NOT_PERMITTED, "the meter is not this registrar's")


def sending_stretches(access: MeterAccess, sender: str) -> tuple[Interval, ...]:
    """When this party supplies the meter or is its data service, joined where they meet."""
    held = [(s.effective_from, s.effective_to) for s in access.supplies if s.supplier == sender]
    held += [
        (a.effective_from, a.effective_to)
        for a in access.appointments
        if a.agent == sender and a.agent_role == Role.DATA_SERVICE
    ]
    stretches: list[Interval] = []
    for start, end in sorted((start, end or _FOR_EVER) for start, end in held):
        if stretches and start <= stretches[-1].end:
            start, end = stretches[-1].start, max(end, stretches.pop().end)
        if start < end:
            stretches.append(Interval(start, end))
    return tuple(stretches)


def sender_may_send(access: MeterAccess, sender: str, interval: Interval) -> bool:
    """Whether the sender is supplier or appointed data service for the whole of the interval."""
    return any(stretch.contains(interval) for stretch in sending_stretches(access, sender))


def _counts(point: MeteringPoint | None, quantity: str, of_gas: bool) -> bool:
    """Whether a quantity flows the way of the point; only active energy comes in Wh, gas in dm3."""
    if point is None or quantity not in _ACTIVE or (of_gas and point.fuel is not Fuel.GAS):
        return False
    return MeasurementQuantity(quantity).direction is point.energy_direction


def _registration(point: MeteringPoint | None) -> Sequence[Interval]:
    if point is None or point.registered_from is None:
        return ()
    return (Interval(point.registered_from, point.effective_to or _FOR_EVER),)


@dataclass(frozen=True, slots=True)
class _Spans:
    """From the first to past the last present half hour of each row, since 1970; (n,) each."""

    start: npt.NDArray[np.int64]
    end: npt.NDArray[np.int64]


def _spans(meter_days: MeterDays) -> _Spans:
    """A row with no half hour at all counts as the whole day."""
    midnight = meter_days.days.astype(np.int64) * PERIODS_PER_UTC_DAY
    present = meter_days.present
    start = midnight + present.argmax(axis=1)
    end = midnight + PERIODS_PER_UTC_DAY - present[:, ::-1].argmax(axis=1)
    return _Spans(start, end)


def _within(
    spans: _Spans, point_of_row: npt.NDArray[np.int64], stretches: Iterable[Sequence[Interval]]
) -> npt.NDArray[np.bool_]:
    """Which rows lie wholly within one stretch of their metering point."""
    by_point = list(stretches)
    within = np.zeros(len(point_of_row), np.bool_)
    # The first stretch of every point at once, then the second of those that have one, and so on.
    for nth in range(max(map(len, by_point), default=0)):
        bounds = [_whole_half_hours(s[nth]) if nth < len(s) else (0, 0) for s in by_point]
        start, end = np.array(bounds, np.int64)[point_of_row].T
        within |= (start <= spans.start) & (spans.end <= end)
    return within


@lru_cache(maxsize=4096)
def _whole_half_hours(stretch: Interval) -> tuple[int, int]:
    """The half hours that lie wholly in it, as [start, end) since 1970-01-01T00:00Z."""
    return half_hour_of(stretch.start + HALF_HOUR - datetime.resolution), half_hour_of(stretch.end)
