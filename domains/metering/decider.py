"""What metering decides: who may register a metering point, and who may send readings of one.

Pure. `decide` turns a command into facts or refuses; the readings themselves are judged in
`judging`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Final, TypeVar

from msgspec.structs import replace

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
from spine.codelist import NOT_LOADED, CodeList, check_listed, day_of
from spine.domain import Actor
from spine.errors import Invalid, NotPermitted, Reason, Refused
from spine.gb import (
    FOR_EVER,
    GspGroup,
    Interval,
    Mpan,
    Mprn,
    utc,
)
from spine.policy import MeterAccess, Role

REGISTRARS: Final = frozenset({Role.SUPPLIER, Role.DATA_SERVICE, Role.CONSENT_SERVICE})

CODES_KEPT_MAX: Final = 256

CodeT = TypeVar("CodeT", Fuel, EnergyDirection, MeasurementQuantity)


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
    fuel, direction, quantity, group = _codes(
        command.fuel, command.energy_direction, command.measurement_quantity, command.gsp_group
    )
    registered_from = utc(command.registered_from)
    distributor = ""
    if fuel is Fuel.ELECTRICITY:
        distributor = Mpan(command.mpxn).distributor_id
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
        _check_standing_data(command, distributor, group)
        return (registered,)
    if replace(state, silences=()) == evolve(MeteringPoint(), registered):
        return ()
    raise Refused(Reason.METER_EXISTS, "the metering point is registered already, and otherwise")


def _check_standing_data(command: RegisterMeteringPoint, distributor: str, group: str) -> None:
    """A new point names only codes that are listed on the day it is registered from."""
    day = day_of(command.registered_from)
    if distributor:
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


@lru_cache(CODES_KEPT_MAX)
def _codes(
    fuel: str, direction: str, quantity: str, group: str
) -> tuple[Fuel, EnergyDirection, MeasurementQuantity, GspGroup | str]:
    """What these texts name. A country's registers say few of them, each of millions of meters."""
    return (
        _code(Fuel, fuel, "fuel"),
        _code(EnergyDirection, direction, "energy_direction"),
        _code(MeasurementQuantity, quantity, "measurement_quantity"),
        GspGroup(group) if group else "",
    )


def _code(codes: type[CodeT], text: str, field: str) -> CodeT:
    try:
        return codes(text)
    except ValueError:
        message = f"{field} is one of {', '.join(codes)}"
        raise Invalid(Reason.CODE_UNKNOWN, message, field=field) from None


# Who may send


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


def sending_part(access: MeterAccess) -> MeterAccess:
    """What of it `sending_stretches` goes by; meters of one supplier have it in common."""
    return MeterAccess(supplies=access.supplies, appointments=access.appointments)


def sending_stretches(access: MeterAccess, sender: str) -> tuple[Interval, ...]:
    """When this party supplies the meter or is its data service, joined where they meet."""
    held = [(s.effective_from, s.effective_to) for s in access.supplies if s.supplier == sender]
    held += [
        (a.effective_from, a.effective_to)
        for a in access.appointments
        if a.agent == sender and a.agent_role == Role.DATA_SERVICE
    ]
    stretches: list[Interval] = []
    for start, end in sorted((start, end or FOR_EVER) for start, end in held):
        if stretches and start <= stretches[-1].end:
            start, end = stretches[-1].start, max(end, stretches.pop().end)
        if start < end:
            stretches.append(Interval(start, end))
    return tuple(stretches)


def sender_may_send(access: MeterAccess, sender: str, interval: Interval) -> bool:
    """Whether the sender is supplier or appointed data service for the whole of the interval."""
    return any(stretch.contains(interval) for stretch in sending_stretches(access, sender))
