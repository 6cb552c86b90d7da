"""The consumers domain: which facts a command makes of one meter, and what time alone makes due.

An empty answer means that it is already so. The rules stand in `occupancy`, `consent`
and `objecting`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final, get_args

from domains.consumers import consent, objecting, occupancy
from domains.consumers.chain import MeterChoices
from domains.consumers.commands import (
    AllowUse,
    AppointAgent,
    ConsumersCommand,
    DeclineConsent,
    EndAgentAppointment,
    EndSupply,
    EndTenancy,
    GrantConsent,
    LapseConsent,
    NarrowConsent,
    ObjectToUse,
    RequestConsent,
    ResumeConsent,
    RevokeConsent,
    StartSupply,
    StartTenancy,
    SuspendConsent,
    WithdrawConsent,
    check_role,
    tightens,
)
from domains.consumers.events import ConsumersEvent, ConsumersEvents
from domains.consumers.evolve import evolve
from spine import trust
from spine.domain import Actor, Domain
from spine.event import SignerRole
from spine.policy import MeterAccess, Role

__all__ = ["CONSUMERS", "decide", "due", "tightens"]

_RULES: Final[Mapping[type, Callable[[MeterAccess, Any, datetime], ConsumersEvents]]] = {
    StartTenancy: occupancy.start_tenancy,
    EndTenancy: occupancy.end_tenancy,
    StartSupply: occupancy.start_supply,
    EndSupply: occupancy.end_supply,
    AppointAgent: occupancy.appoint_agent,
    EndAgentAppointment: occupancy.end_appointment,
    RequestConsent: consent.request,
    DeclineConsent: consent.decline,
    LapseConsent: consent.lapse,
    GrantConsent: consent.grant,
    NarrowConsent: consent.narrow,
    SuspendConsent: consent.suspend,
    ResumeConsent: consent.resume,
    RevokeConsent: consent.end_consent,
    WithdrawConsent: consent.end_consent,
    ObjectToUse: objecting.object_to_use,
    AllowUse: objecting.allow_use,
}


def decide(access: MeterAccess, command: ConsumersCommand, now: datetime) -> ConsumersEvents:
    """The facts that a command makes of this meter at `now`; raises `Refused` with the reason."""
    check_role(type(command), command.by)
    return _RULES[type(command)](access, command, now)


def due(access: MeterAccess, now: datetime) -> tuple[LapseConsent, ...]:
    """The requests that nobody answered in time."""
    by = Actor(Role.COORDINATOR, CONSUMERS.name)
    return tuple(
        LapseConsent(by, c.consent_id) for c in access.consents if consent.unanswered(c, now)
    )


CONSUMERS: Final = Domain(
    name="consumers",
    topic=trust.CONSUMER_LOG,
    signer=SignerRole.CONSUMERS,
    version=1,
    events={f"consumers.{event.__name__}": event for event in get_args(ConsumersEvent)},
    state_type=MeterChoices,
    initial=MeterAccess,
    evolve=evolve,
    decide=decide,
    due=due,
)
