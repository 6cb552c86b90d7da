"""What can happen to the access of a meter.

Instants are UTC; `effective_from` is the first instant, `effective_to` the first instant after.
`decided_at` is when the rules accepted the change; its place in the log, not this time, decides a
race.
"""

from __future__ import annotations

from datetime import datetime

from msgspec import Struct

from domains.consumers.record import RecordTerms
from spine.event import Sealed


class TenancyStarted(Struct, frozen=True):
    """A consumer moved in; what was metered before that is not theirs to see or to share."""

    tenancy_id: str
    consumer_ref: str
    effective_from: datetime
    person: Sealed | None = None


class TenancyEnded(Struct, frozen=True):
    """The consumer moved out; every consent of this tenancy ends with it."""

    tenancy_id: str
    effective_to: datetime


class SupplyStarted(Struct, frozen=True):
    """The supplier became responsible for the meter."""

    supplier: str
    effective_from: datetime


class SupplyEnded(Struct, frozen=True):
    """The supplier is no longer responsible for the meter; consents stand."""

    supplier: str
    effective_to: datetime


class AgentAppointed(Struct, frozen=True):
    """The agent serves the meter in this role, such as data_service."""

    agent: str
    agent_role: str
    effective_from: datetime


class AgentAppointmentEnded(Struct, frozen=True):
    """The agent no longer serves the meter in this role."""

    agent: str
    agent_role: str
    effective_to: datetime


class ConsentRequested(Struct, frozen=True):
    """A data user asked the occupier for consent; it lapses if not answered before `answer_by`."""

    consent_id: str
    data_user: str
    tenancy_id: str
    consumer_ref: str
    purpose: str
    categories: tuple[str, ...]
    history_from: datetime
    valid_from: datetime
    expires: datetime
    answer_by: datetime
    decided_at: datetime
    notice_hash: bytes = b""
    notice_language: str = ""
    notice: Sealed | None = None


class ConsentDeclined(Struct, frozen=True):
    """The consumer said no to the request; it cannot be granted later under this id."""

    consent_id: str
    decided_at: datetime


class ConsentLapsed(Struct, frozen=True):
    """The request was not answered in time; it cannot be granted later under this id."""

    consent_id: str
    decided_at: datetime


class ConsentGranted(Struct, frozen=True):
    """The occupier allows the data user to read these categories for this purpose."""

    consent_id: str
    data_user: str
    tenancy_id: str
    consumer_ref: str
    purpose: str
    categories: tuple[str, ...]
    history_from: datetime
    valid_from: datetime
    expires: datetime
    decided_at: datetime
    notice_hash: bytes = b""
    notice_language: str = ""
    notice: Sealed | None = None
    channel: str = ""
    evidence: str = ""


class ConsentTermsRecorded(Struct, frozen=True):
    """The record of the request or grant in the same command says this besides."""

    consent_id: str
    terms: RecordTerms
    decided_at: datetime


class ConsentNarrowed(Struct, frozen=True):
    """The consumer allows less than before; the same consent in a new version."""

    consent_id: str
    version: int
    categories: tuple[str, ...]
    history_from: datetime
    expires: datetime
    decided_at: datetime


class ConsentSuspended(Struct, frozen=True):
    """The consent opens nothing until resumed; `suspended_by` is the role that may lift it."""

    consent_id: str
    suspended_by: str
    reason: str
    decided_at: datetime


class ConsentResumed(Struct, frozen=True):
    """The suspension is lifted; the consent stands as it stood before."""

    consent_id: str
    decided_at: datetime


class ConsentRevoked(Struct, frozen=True):
    """The consumer took the consent back; reads after this point of the log are refused."""

    consent_id: str
    decided_at: datetime


class ConsentWithdrawn(Struct, frozen=True):
    """The data user gave the consent up; reads after this point of the log are refused."""

    consent_id: str
    decided_at: datetime


class UseObjected(Struct, frozen=True):
    """The occupier objects to reads under this basis for this purpose; those after this point of
    the log are refused.
    """

    basis: str
    purpose: str
    tenancy_id: str
    decided_at: datetime


class UseAllowed(Struct, frozen=True):
    """The occupier takes its objection back."""

    basis: str
    purpose: str
    tenancy_id: str
    decided_at: datetime


ConsumersEvent = (
    TenancyStarted
    | TenancyEnded
    | SupplyStarted
    | SupplyEnded
    | AgentAppointed
    | AgentAppointmentEnded
    | ConsentRequested
    | ConsentDeclined
    | ConsentLapsed
    | ConsentGranted
    | ConsentTermsRecorded
    | ConsentNarrowed
    | ConsentSuspended
    | ConsentResumed
    | ConsentRevoked
    | ConsentWithdrawn
    | UseObjected
    | UseAllowed
)

ConsumersEvents = tuple[ConsumersEvent, ...]
