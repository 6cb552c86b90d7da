"""What can be asked of a meter's consumer log, and by whom.

A command says nothing about its meter: it is sent to one. `by` is who asks, as verified by the
edge. A person's details and the notice come sealed or not at all. `policy_version` is the one in
force, which the coordinator fills in where the command is decided (`spine.in_force`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Protocol

from domains.consumers.record import RecordTerms
from spine.domain import Actor
from spine.errors import NotPermitted, Reason, Refused
from spine.event import Sealed
from spine.policy import Role
from spine.policy_data import FIRST_POLICY


@dataclass(frozen=True, slots=True)
class ConsentTerms:
    """What is asked for or allowed: who may read what, for what purpose, from when to when."""

    data_user: str
    consumer_ref: str
    purpose: str
    categories: tuple[str, ...]
    history_from: datetime
    valid_from: datetime
    expires: datetime
    notice_hash: bytes = b""
    notice_language: str = ""
    notice: Sealed | None = None


@dataclass(frozen=True, slots=True)
class StartTenancy:
    """Record that a consumer moves in at that instant, under a reference made for this tenancy."""

    by: Actor
    tenancy_id: str
    consumer_ref: str
    effective_from: datetime
    person: Sealed | None = None


@dataclass(frozen=True, slots=True)
class EndTenancy:
    """Record that the consumer moves out; a recorded end can only be brought forward."""

    by: Actor
    tenancy_id: str
    effective_to: datetime


@dataclass(frozen=True, slots=True)
class StartSupply:
    """Record who supplies the meter from that instant on; the supply before it ends there."""

    by: Actor
    supplier: str
    effective_from: datetime


@dataclass(frozen=True, slots=True)
class EndSupply:
    """Record that a supply ends; a recorded end can only be brought forward."""

    by: Actor
    supplier: str
    effective_to: datetime


@dataclass(frozen=True, slots=True)
class AppointAgent:
    """Appoint an agent to a role at the meter; the one before it in that role ends there."""

    by: Actor
    agent: str
    agent_role: str
    effective_from: datetime


@dataclass(frozen=True, slots=True)
class EndAgentAppointment:
    """End the appointment of an agent; a recorded end can only be brought forward."""

    by: Actor
    agent: str
    agent_role: str
    effective_to: datetime


@dataclass(frozen=True, slots=True)
class RequestConsent:
    """Ask the occupier for consent, to be answered before `answer_by`."""

    by: Actor
    consent_id: str
    terms: ConsentTerms
    answer_by: datetime
    record: RecordTerms | None = None
    policy_version: int = FIRST_POLICY


@dataclass(frozen=True, slots=True)
class DeclineConsent:
    """Say no to a request."""

    by: Actor
    consent_id: str


@dataclass(frozen=True, slots=True)
class LapseConsent:
    """Close a request that was not answered in time; `due` gives this command, nobody else."""

    by: Actor
    consent_id: str


@dataclass(frozen=True, slots=True)
class GrantConsent:
    """Allow what was asked, or less of it; or allow it without having been asked."""

    by: Actor
    consent_id: str
    terms: ConsentTerms
    channel: str = ""
    evidence: str = ""
    record: RecordTerms | None = None
    policy_version: int = FIRST_POLICY


@dataclass(frozen=True, slots=True)
class NarrowConsent:
    """Allow fewer categories, a shorter history or an earlier end from now on.

    None leaves it as it is.
    """

    by: Actor
    consent_id: str
    categories: tuple[str, ...] | None = None
    history_from: datetime | None = None
    expires: datetime | None = None


@dataclass(frozen=True, slots=True)
class SuspendConsent:
    """Stop reads under the consent while something is looked into."""

    by: Actor
    consent_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class ResumeConsent:
    """Lift a suspension."""

    by: Actor
    consent_id: str


@dataclass(frozen=True, slots=True)
class RevokeConsent:
    """Take a consent back; as the consumer, or for the consumer."""

    by: Actor
    consent_id: str


@dataclass(frozen=True, slots=True)
class WithdrawConsent:
    """Give a consent up; as the data user, or for the data user."""

    by: Actor
    consent_id: str


@dataclass(frozen=True, slots=True)
class ObjectToUse:
    """Shut a use that needs no consent, as the consumer or for it, at its own tenancies here."""

    by: Actor
    basis: str
    purpose: str
    consumer_ref: str
    policy_version: int = FIRST_POLICY


@dataclass(frozen=True, slots=True)
class AllowUse:
    """Take such an objection back."""

    by: Actor
    basis: str
    purpose: str
    consumer_ref: str


ConsumersCommand = (
    StartTenancy
    | EndTenancy
    | StartSupply
    | EndSupply
    | AppointAgent
    | EndAgentAppointment
    | RequestConsent
    | DeclineConsent
    | LapseConsent
    | GrantConsent
    | NarrowConsent
    | SuspendConsent
    | ResumeConsent
    | RevokeConsent
    | WithdrawConsent
    | ObjectToUse
    | AllowUse
)

_READERS: Final = (Role.DATA_USER, Role.SUPPLIER)
_CONSUMER_OR_SERVICE: Final = frozenset({Role.CONSUMER, Role.CONSENT_SERVICE})
_READER_OR_SERVICE: Final = frozenset({Role.DATA_USER, Role.SUPPLIER, Role.CONSENT_SERVICE})
_SUPPLIER_OR_SERVICE: Final = frozenset({Role.SUPPLIER, Role.CONSENT_SERVICE})

MAY_COMMAND: Final[Mapping[type, frozenset[Role]]] = {
    StartTenancy: _SUPPLIER_OR_SERVICE,
    EndTenancy: _SUPPLIER_OR_SERVICE | {Role.CONSUMER},
    StartSupply: frozenset({Role.CONSENT_SERVICE}),
    EndSupply: frozenset({Role.CONSENT_SERVICE}),
    AppointAgent: _SUPPLIER_OR_SERVICE,
    EndAgentAppointment: _SUPPLIER_OR_SERVICE,
    RequestConsent: _READER_OR_SERVICE,
    DeclineConsent: _CONSUMER_OR_SERVICE,
    LapseConsent: frozenset({Role.COORDINATOR}),
    GrantConsent: _CONSUMER_OR_SERVICE,
    NarrowConsent: _CONSUMER_OR_SERVICE,
    SuspendConsent: frozenset({Role.CONSENT_SERVICE, Role.GOVERNANCE}),
    ResumeConsent: frozenset({Role.CONSENT_SERVICE, Role.GOVERNANCE}),
    RevokeConsent: _CONSUMER_OR_SERVICE,
    WithdrawConsent: _READER_OR_SERVICE,
    ObjectToUse: _CONSUMER_OR_SERVICE,
    AllowUse: _CONSUMER_OR_SERVICE,
}

_TIGHTENING: Final = (
    EndTenancy,
    EndSupply,
    EndAgentAppointment,
    DeclineConsent,
    LapseConsent,
    NarrowConsent,
    SuspendConsent,
    RevokeConsent,
    WithdrawConsent,
    ObjectToUse,
)


def tightens(command: object) -> bool:
    """Whether the command can only take access away, so that a lost race may be run again."""
    return isinstance(command, _TIGHTENING)


class Parties(Protocol):
    """The two parties of a consent."""

    @property
    def consumer_ref(self) -> str:
        """The consumer, by the reference of the tenancy."""

    @property
    def data_user(self) -> str:
        """Who may read."""


def check_role(command: type, by: Actor) -> None:
    """Refuse a role that may never give such a command."""
    if by.role not in MAY_COMMAND[command]:
        raise NotPermitted(Reason.ROLE_NOT_ALLOWED, f"{command.__name__} is not for this role")


def is_own(by: Actor, parties: Parties) -> bool:
    """Whether a consumer or a data user speaks for its own consent; of other roles, always."""
    role = Role(by.role)
    if role is Role.CONSUMER:
        own = parties.consumer_ref
    else:
        own = parties.data_user if role in _READERS else by.party
    return by.party == own


def check_own(by: Actor, parties: Parties) -> None:
    """Refuse a consumer or a data user who speaks for somebody else's consent."""
    if not is_own(by, parties):
        raise NotPermitted(Reason.CONSENT_NOT_YOURS, "the consent is between other parties")


def check_named(*ids: str) -> None:
    """Refuse an empty id, for nothing must ever match it."""
    if not all(ids):
        raise Refused(Reason.FIELD_MISSING, "an id is missing")
