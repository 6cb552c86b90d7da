"""What can be asked of governance, each about one subject: a key, a party, the policy or the table
of equal accreditations (`equivalence.py`), or what a party is given as identifiers
(`identification.py`). `policy_version` is the one in force, which the coordinator fills in where
the command is decided (`spine.in_force`).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from domains.governance.equivalence import AdoptEquivalenceTable
from domains.governance.identification import SetIdentifiers
from spine.domain import Actor
from spine.policy_data import FIRST_POLICY
from spine.trust import (
    EQUIVALENCE_SUBJECT,
    POLICY_SUBJECT,
    identifiers_subject,
    key_id,
    key_subject,
    party_subject,
)


@dataclass(frozen=True, slots=True)
class AuthoriseSigningKey:
    """Let records signed by this Ed25519 key count, for what its role may write."""

    by: Actor
    public_key: bytes
    role: str
    holder: str


@dataclass(frozen=True, slots=True)
class RevokeSigningKey:
    """Make whatever this key signs from now on void."""

    by: Actor
    kid: bytes
    reason: str


@dataclass(frozen=True, slots=True)
class AdmitParticipant:
    """Make an organisation known under a party id; it may do nothing yet."""

    by: Actor
    party: str
    name: str


@dataclass(frozen=True, slots=True)
class GrantAccreditation:
    """Let a participant act in a role; no purposes means every purpose policy allows the role."""

    by: Actor
    party: str
    role: str
    scheme: str
    tier: str
    purposes: tuple[str, ...]
    effective_from: datetime
    effective_to: datetime | None = None
    policy_version: int = FIRST_POLICY


@dataclass(frozen=True, slots=True)
class WithdrawAccreditation:
    """Take a role under a scheme from a participant."""

    by: Actor
    party: str
    role: str
    scheme: str


@dataclass(frozen=True, slots=True)
class SuspendParticipant:
    """Stop every read of a participant; its consents are not rewritten."""

    by: Actor
    party: str
    reason: str


@dataclass(frozen=True, slots=True)
class ReinstateParticipant:
    """Lift the suspension of a participant."""

    by: Actor
    party: str
    reason: str


@dataclass(frozen=True, slots=True)
class AdoptPolicyVersion:
    """Judge reads by this version of the policy from now on; it can only go up."""

    by: Actor
    version: int


KeyCommand = AuthoriseSigningKey | RevokeSigningKey
PartyCommand = (
    AdmitParticipant
    | GrantAccreditation
    | WithdrawAccreditation
    | SuspendParticipant
    | ReinstateParticipant
)
GovernanceCommand = (
    KeyCommand | PartyCommand | AdoptPolicyVersion | AdoptEquivalenceTable | SetIdentifiers
)

_TIGHTENING: Final = (RevokeSigningKey, WithdrawAccreditation, SuspendParticipant)


def tightens(command: object) -> bool:
    """Whether the command can only take rights away, so that a lost race may be run again."""
    return isinstance(command, _TIGHTENING)


def subject_of(command: GovernanceCommand) -> str:
    """The subject whose standing the command is about."""
    match command:
        case AuthoriseSigningKey():
            return key_subject(key_id(command.public_key))
        case RevokeSigningKey():
            return key_subject(command.kid)
        case AdoptPolicyVersion():
            return POLICY_SUBJECT
        case AdoptEquivalenceTable():
            return EQUIVALENCE_SUBJECT
        case SetIdentifiers():
            return identifiers_subject(command.role, command.party)
        case _:
            return party_subject(command.party)
