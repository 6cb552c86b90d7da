"""The rules of tenancy, supply and agents: who lives at the meter, supplies it and serves it.

At any time there is at most one of each. The next supplier or agent ends the one before; a tenancy
is ended only by its own end, since consents hang on it. A recorded end never moves later.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

from domains.consumers.commands import (
    AppointAgent,
    EndAgentAppointment,
    EndSupply,
    EndTenancy,
    StartSupply,
    StartTenancy,
    check_named,
)
from domains.consumers.events import (
    AgentAppointed,
    AgentAppointmentEnded,
    ConsumersEvents,
    SupplyEnded,
    SupplyStarted,
    TenancyEnded,
    TenancyStarted,
)
from domains.consumers.evolve import find_appointment, find_supply, find_tenancy
from spine.domain import Actor
from spine.errors import NotPermitted, Reason, Refused
from spine.policy import Appointment, MeterAccess, Role, Supply, Tenancy

AGENT_ROLES: Final = frozenset({Role.DATA_SERVICE})


def start_tenancy(access: MeterAccess, command: StartTenancy, now: datetime) -> ConsumersEvents:
    """A consumer moves in where nobody else lives then or later."""
    _check_supplier(access, command.by, now, command.effective_from)
    check_named(command.tenancy_id, command.consumer_ref)
    for tenancy in access.tenancies:
        if tenancy.tenancy_id == command.tenancy_id:
            recorded = (tenancy.consumer_ref, tenancy.effective_from)
            if recorded == (command.consumer_ref, command.effective_from):
                return ()
            raise Refused(Reason.TENANCY_STATE, "the tenancy is already recorded differently")
    if any(
        t.effective_to is None or t.effective_to > command.effective_from for t in access.tenancies
    ):
        raise Refused(Reason.TENANCY_OVERLAPS, "somebody else lives there at that time or later")
    return (
        TenancyStarted(
            command.tenancy_id, command.consumer_ref, command.effective_from, command.person
        ),
    )


def end_tenancy(access: MeterAccess, command: EndTenancy, now: datetime) -> ConsumersEvents:
    """The consumer moves out; its consents end with the tenancy, without events of their own."""
    _check_supplier(access, command.by, now)
    own = {t.tenancy_id for t in access.tenancies if t.consumer_ref == command.by.party}
    if command.by.role == Role.CONSUMER and command.tenancy_id not in own:
        raise NotPermitted(Reason.NOT_AN_OCCUPIER, "the consumer has no such tenancy")
    tenancy = find_tenancy(access, command.tenancy_id)
    if _already_over(tenancy, command.effective_to, Reason.TENANCY_STATE):
        return ()
    return (TenancyEnded(command.tenancy_id, command.effective_to),)


def _already_over(holding: Tenancy | Supply | Appointment, at: datetime, state: Reason) -> bool:
    """Whether it ends there already. An end never moves later, for that would loosen."""
    if at < holding.effective_from:
        raise Refused(Reason.INTERVAL_INVALID, "it would end before it started")
    if holding.effective_to is not None and at > holding.effective_to:
        raise Refused(state, "it has already ended earlier")
    return at == holding.effective_to


def _check_supplier(
    access: MeterAccess, by: Actor, now: datetime, since: datetime | None = None
) -> None:
    """A supplier records what concerns its own supply: it holds now, and held at `since`."""
    own = [s for s in access.supplies if s.supplier == by.party and _holds_at(s, now)]
    if by.role != Role.SUPPLIER:
        return
    if not own:
        raise NotPermitted(Reason.NOT_THE_SUPPLIER, "only the present supplier may record this")
    if since is not None and all(since < s.effective_from for s in own):
        message = "a supplier records nothing from before its supply"
        raise NotPermitted(Reason.NOT_THE_SUPPLIER, message)


def _holds_at(holding: Supply | Appointment, at: datetime) -> bool:
    ended = holding.effective_to is not None and holding.effective_to <= at
    return holding.effective_from <= at and not ended


def start_supply(access: MeterAccess, command: StartSupply, now: datetime) -> ConsumersEvents:
    """The supplier takes over; the supply before ends at that instant, and no consent with it."""
    check_named(command.supplier)
    at = command.effective_from
    held = next((s for s in access.supplies if _holds_at(s, at)), None)
    if held is not None and held.supplier == command.supplier and held.effective_to is None:
        return ()
    if any(s.effective_from >= at for s in access.supplies):
        raise Refused(Reason.SUPPLY_OVERLAPS, "a supply is recorded from then or later")
    started = SupplyStarted(command.supplier, at)
    return (started,) if held is None else (SupplyEnded(held.supplier, at), started)


def end_supply(access: MeterAccess, command: EndSupply, now: datetime) -> ConsumersEvents:
    """The supply ends and nobody supplies the meter from then on."""
    supply = find_supply(access, command.supplier, command.effective_to)
    if _already_over(supply, command.effective_to, Reason.SUPPLY_STATE):
        return ()
    return (SupplyEnded(command.supplier, command.effective_to),)


def appoint_agent(access: MeterAccess, command: AppointAgent, now: datetime) -> ConsumersEvents:
    """The agent takes the role over from the one before."""
    _check_supplier(access, command.by, now, command.effective_from)
    check_named(command.agent)
    if command.agent_role not in AGENT_ROLES:
        raise Refused(Reason.CODE_UNKNOWN, "no agent is appointed to such a role")
    at = command.effective_from
    same_role = [a for a in access.appointments if a.agent_role == command.agent_role]
    held = next((a for a in same_role if _holds_at(a, at)), None)
    if held is not None and held.agent == command.agent and held.effective_to is None:
        return ()
    if any(a.effective_from >= at for a in same_role):
        raise Refused(Reason.APPOINTMENT_OVERLAPS, "an appointment is recorded from then or later")
    appointed = AgentAppointed(command.agent, command.agent_role, at)
    if held is None:
        return (appointed,)
    return (AgentAppointmentEnded(held.agent, held.agent_role, at), appointed)


def end_appointment(
    access: MeterAccess, command: EndAgentAppointment, now: datetime
) -> ConsumersEvents:
    """The appointment ends and nobody holds the role from then on."""
    _check_supplier(access, command.by, now)
    at = command.effective_to
    appointment = find_appointment(access, command.agent, command.agent_role, at)
    if _already_over(appointment, at, Reason.APPOINTMENT_STATE):
        return ()
    return (AgentAppointmentEnded(command.agent, command.agent_role, at),)
