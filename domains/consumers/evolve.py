"""What each consumers event makes of the access of its meter.

The state is `spine.policy.MeterAccess`: exactly what a read is judged on. A fact about what is not
there or is over raises, and the fold quarantines it; so revocation wins in every host, whatever was
signed after it.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final, TypeVar

from msgspec.structs import replace

from domains.consumers import objecting
from domains.consumers.chain import as_kept, linked, with_terms
from domains.consumers.events import (
    AgentAppointed,
    AgentAppointmentEnded,
    ConsentDeclined,
    ConsentGranted,
    ConsentLapsed,
    ConsentNarrowed,
    ConsentRequested,
    ConsentResumed,
    ConsentRevoked,
    ConsentSuspended,
    ConsentTermsRecorded,
    ConsentWithdrawn,
    ConsumersEvent,
    SupplyEnded,
    SupplyStarted,
    TenancyEnded,
    TenancyStarted,
    UseAllowed,
    UseObjected,
)
from spine.errors import Bug, Reason, Refused
from spine.policy import Appointment, Consent, ConsentState, MeterAccess, Supply, Tenancy

FINAL: Final = {
    ConsentState.DECLINED: Reason.CONSENT_DECLINED,
    ConsentState.LAPSED: Reason.CONSENT_LAPSED,
    ConsentState.REVOKED: Reason.CONSENT_REVOKED,
    ConsentState.WITHDRAWN: Reason.CONSENT_WITHDRAWN,
}


def find_consent(access: MeterAccess, consent_id: str) -> Consent | None:
    """The leg of that consent at this meter, or what bars it."""
    for consent in access.consents:
        if consent.consent_id == consent_id:
            return consent
    return None


def is_bar(consent: Consent) -> bool:
    """Whether no terms were ever agreed here: a tightening leg came first and bars any grant."""
    return not consent.purpose


def evolve(access: MeterAccess, event: ConsumersEvent) -> MeterAccess:
    """The access of a meter after one more fact."""
    return as_kept(_evolve(access, event))


def _evolve(access: MeterAccess, event: ConsumersEvent) -> MeterAccess:
    if type(event) is ConsentGranted:  # most are, and to be compared with all others takes longer
        return _with_consent(access, _granted(access, event), event)
    match event:
        case TenancyStarted():
            tenancy = Tenancy(
                event.tenancy_id, event.consumer_ref, event.effective_from, person=event.person
            )
            return replace(access, tenancies=(*access.tenancies, tenancy))
        case TenancyEnded():
            moved_out = find_tenancy(access, event.tenancy_id)
            ended = replace(moved_out, effective_to=event.effective_to)
            return replace(access, tenancies=_swap(access.tenancies, moved_out, ended))
        case SupplyStarted():
            supply = Supply(event.supplier, event.effective_from)
            return replace(access, supplies=(*access.supplies, supply))
        case SupplyEnded():
            left = find_supply(access, event.supplier, event.effective_to)
            over = replace(left, effective_to=event.effective_to)
            return replace(access, supplies=_swap(access.supplies, left, over))
        case AgentAppointed():
            agent = Appointment(event.agent, event.agent_role, event.effective_from)
            return replace(access, appointments=(*access.appointments, agent))
        case AgentAppointmentEnded():
            served = find_appointment(access, event.agent, event.agent_role, event.effective_to)
            done = replace(served, effective_to=event.effective_to)
            return replace(access, appointments=_swap(access.appointments, served, done))
        case UseObjected() | UseAllowed():
            return objecting.after(access, event)
        case ConsentTermsRecorded():
            return with_terms(access, _agreed(access, event.consent_id), event)
        case _:
            return _with_consent(access, _evolve_consent(access, event), event)


def find_tenancy(access: MeterAccess, tenancy_id: str) -> Tenancy:
    """The tenancy of that id."""
    for tenancy in access.tenancies:
        if tenancy.tenancy_id == tenancy_id:
            return tenancy
    raise Refused(Reason.TENANCY_UNKNOWN, "the meter has no such tenancy")


def find_supply(access: MeterAccess, supplier: str, at: datetime) -> Supply:
    """The last supply by that supplier that had started by then; it may have supplied before."""
    theirs = [s for s in access.supplies if s.supplier == supplier and s.effective_from <= at]
    if not theirs:
        raise Refused(Reason.SUPPLY_UNKNOWN, "the supplier did not supply the meter by then")
    return max(theirs, key=lambda s: s.effective_from)


def find_appointment(access: MeterAccess, agent: str, agent_role: str, at: datetime) -> Appointment:
    """The last appointment of that agent to that role that had started by then."""
    theirs = [
        a
        for a in access.appointments
        if (a.agent, a.agent_role) == (agent, agent_role) and a.effective_from <= at
    ]
    if not theirs:
        raise Refused(Reason.APPOINTMENT_UNKNOWN, "the agent was not appointed by then")
    return max(theirs, key=lambda a: a.effective_from)


_Item = TypeVar("_Item")


def _swap(items: tuple[_Item, ...], old: _Item, new: _Item) -> tuple[_Item, ...]:
    return tuple(new if item is old else item for item in items)


def _with_consent(access: MeterAccess, consent: Consent, event: ConsumersEvent) -> MeterAccess:
    earlier = find_consent(access, consent.consent_id)
    if earlier is None:
        consents = (*access.consents, consent)
    else:
        consents = _swap(access.consents, earlier, consent)
    return linked(replace(access, consents=consents), consent, event)


def _evolve_consent(access: MeterAccess, event: ConsumersEvent) -> Consent:
    match event:
        case ConsentRequested():
            if find_consent(access, event.consent_id) is not None:
                raise Refused(
                    Reason.CONSENT_EXISTS, "the consent id is already in use at the meter"
                )
            return _first(access, event)
        case ConsentNarrowed():
            return replace(
                _agreed(access, event.consent_id),
                version=event.version,
                categories=event.categories,
                history_from=event.history_from,
                expires=event.expires,
                changed_at=event.decided_at,
            )
        case ConsentResumed():
            consent = _agreed(access, event.consent_id)
            answered = consent.answer_by is None
            state = ConsentState.ACTIVE if answered else ConsentState.REQUESTED
            return replace(consent, state=state, suspended_by="", changed_at=event.decided_at)
        case ConsentSuspended():
            suspended = _tightened(
                access, event.consent_id, ConsentState.SUSPENDED, event.decided_at
            )
            return replace(suspended, suspended_by=event.suspended_by)
        case ConsentDeclined():
            return _tightened(access, event.consent_id, ConsentState.DECLINED, event.decided_at)
        case ConsentLapsed():
            return _tightened(access, event.consent_id, ConsentState.LAPSED, event.decided_at)
        case ConsentRevoked():
            return _tightened(access, event.consent_id, ConsentState.REVOKED, event.decided_at)
        case ConsentWithdrawn():
            return _tightened(access, event.consent_id, ConsentState.WITHDRAWN, event.decided_at)
        case _:
            raise Bug(f"consumers does not know {type(event).__name__}")


def _first(access: MeterAccess, event: ConsentRequested | ConsentGranted) -> Consent:
    find_tenancy(access, event.tenancy_id)
    asked = event if isinstance(event, ConsentRequested) else None
    given = event if isinstance(event, ConsentGranted) else None
    return Consent(
        event.consent_id,
        1,
        ConsentState.ACTIVE if asked is None else ConsentState.REQUESTED,
        event.data_user,
        event.tenancy_id,
        event.consumer_ref,
        event.purpose,
        event.categories,
        event.history_from,
        event.valid_from,
        event.expires,
        event.decided_at,
        answer_by=None if asked is None else asked.answer_by,
        notice_hash=event.notice_hash,
        notice_language=event.notice_language,
        notice=event.notice,
        channel="" if given is None else given.channel,
        evidence="" if given is None else given.evidence,
    )


def _granted(access: MeterAccess, event: ConsentGranted) -> Consent:
    """A grant answers an open request or stands alone; after anything else it is void."""
    earlier = find_consent(access, event.consent_id)
    if earlier is not None and earlier.state is not ConsentState.REQUESTED:
        raise Refused(Reason.CONSENT_STATE, "only an open request can be granted")
    return _first(access, event)


def _agreed(access: MeterAccess, consent_id: str) -> Consent:
    consent = find_consent(access, consent_id)
    if consent is None or is_bar(consent):
        raise Refused(Reason.CONSENT_UNKNOWN, "the meter has no such consent")
    if consent.state in FINAL:
        raise Refused(FINAL[consent.state], "the consent is over")
    return consent


def _tightened(access: MeterAccess, consent_id: str, state: ConsentState, at: datetime) -> Consent:
    """The consent in a tighter state. One never seen here becomes a bar that names nobody."""
    consent = find_consent(access, consent_id)
    if consent is None:
        return Consent(consent_id, 0, state, "", "", "", "", (), at, at, at, at)
    if consent.state in FINAL:
        raise Refused(FINAL[consent.state], "the consent is over")
    return replace(consent, state=state, changed_at=at)
