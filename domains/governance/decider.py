"""The rules of governance: which fact follows from a command, or why none does.

Only governance commands here. An empty answer means that it is already so.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Final, get_args

from domains.governance.commands import (
    AdmitParticipant,
    AdoptPolicyVersion,
    AuthoriseSigningKey,
    GovernanceCommand,
    GrantAccreditation,
    PartyCommand,
    ReinstateParticipant,
    RevokeSigningKey,
    SuspendParticipant,
    WithdrawAccreditation,
    subject_of,
    tightens,
)
from domains.governance.equivalence import AdoptEquivalenceTable, adopt
from domains.governance.events import (
    AccreditationGranted,
    AccreditationWithdrawn,
    GovernanceEvent,
    GovernanceEvents,
    ParticipantAdmitted,
    ParticipantReinstated,
    ParticipantSuspended,
    PolicyVersionAdopted,
    SigningKeyAuthorised,
    SigningKeyRevoked,
)
from domains.governance.identification import SetIdentifiers, set_identifiers
from spine.domain import Domain
from spine.errors import NotPermitted, Reason, Refused
from spine.event import SignerRole
from spine.policy import Role
from spine.policy_data import POLICY_DATA, data_hash, purposes_of
from spine.trust import (
    GOVERNANCE_TOPIC,
    Accreditation,
    GovernanceState,
    Participant,
    Policy,
    SigningKey,
    Standing,
    evolve,
)

__all__ = ["GOVERNANCE", "decide", "subject_of", "tightens"]

ED25519_KEY_BYTES: Final = 32
PARTY_ID: Final = re.compile(r"[A-Za-z0-9._-]{3,64}", re.ASCII)


# A consumer needs no accreditation; coordinators and servers are known by their signing keys.
ACCREDITABLE: Final = frozenset(Role) - {Role.CONSUMER, Role.COORDINATOR, Role.DSI}


def decide(state: GovernanceState, command: GovernanceCommand, now: datetime) -> GovernanceEvents:
    """The fact that a command makes of its subject's standing; raises `Refused` with the reason."""
    if command.by.role != Role.GOVERNANCE:
        raise NotPermitted(Reason.ROLE_NOT_ALLOWED, "only governance may command this")
    if isinstance(command, AdoptEquivalenceTable):
        return adopt(state, command)
    if isinstance(command, SetIdentifiers):
        return set_identifiers(state, command)
    if not isinstance(state, Standing):
        raise Refused(Reason.EQUIVALENCE_STATE, "the subject is about nothing else")
    match command:
        case AuthoriseSigningKey():
            return _authorise_key(state.key, command)
        case RevokeSigningKey():
            return _revoke_key(state.key, command)
        case AdoptPolicyVersion():
            return _adopt_policy(state.policy, command)
        case AdmitParticipant():
            return _admit(state.participant, command)
        case _:
            return _change_participant(state.participant, command)


def _authorise_key(key: SigningKey | None, command: AuthoriseSigningKey) -> GovernanceEvents:
    if len(command.public_key) != ED25519_KEY_BYTES:
        raise Refused(Reason.FIELD_INVALID, "an Ed25519 key has 32 bytes", field="public_key")
    if command.role not in set(SignerRole) - {SignerRole.ROOT}:
        raise Refused(Reason.CODE_UNKNOWN, "no key is authorised for such a role", field="role")
    if not command.holder:
        raise Refused(Reason.FIELD_MISSING, "a key has a holder", field="holder")
    if key is None:
        return (SigningKeyAuthorised(command.public_key, command.role, command.holder),)
    if key.revoked:
        raise Refused(Reason.KEY_STATE, "a revoked key is never authorised again")
    if key == SigningKey(command.public_key, command.role, command.holder):
        return ()
    raise Refused(Reason.KEY_EXISTS, "the key is authorised already, for other use")


def _revoke_key(key: SigningKey | None, command: RevokeSigningKey) -> GovernanceEvents:
    if key is None:
        raise Refused(Reason.KEY_UNKNOWN, "no such key was ever authorised")
    return () if key.revoked else (SigningKeyRevoked(command.reason),)


def _adopt_policy(policy: Policy | None, command: AdoptPolicyVersion) -> GovernanceEvents:
    data = POLICY_DATA.get(command.version)
    if data is None:
        raise Refused(Reason.POLICY_VERSION_STATE, "this build does not know that version")
    if policy is not None and command.version < policy.version:
        raise Refused(Reason.POLICY_VERSION_STATE, "a later version is in force")
    if policy is not None and command.version == policy.version:
        return ()
    return (PolicyVersionAdopted(command.version, data_hash(data)),)


def _admit(participant: Participant | None, command: AdmitParticipant) -> GovernanceEvents:
    if not PARTY_ID.fullmatch(command.party):
        message = "a party id is 3 to 64 letters, digits, dots, hyphens or underscores"
        raise Refused(Reason.FIELD_INVALID, message, field="party")
    if not command.name:
        raise Refused(Reason.FIELD_MISSING, "a participant has a name", field="name")
    if participant is None:
        return (ParticipantAdmitted(command.name),)
    if participant.name == command.name:
        return ()
    raise Refused(Reason.PARTICIPANT_EXISTS, "the party id belongs to another participant")


def _change_participant(participant: Participant | None, command: PartyCommand) -> GovernanceEvents:
    if participant is None:
        raise Refused(Reason.PARTICIPANT_UNKNOWN, "no such participant was admitted")
    match command:
        case GrantAccreditation():
            return _grant(participant, command)
        case WithdrawAccreditation():
            return _withdraw(participant, command)
        case SuspendParticipant():
            return () if participant.suspended else (ParticipantSuspended(command.reason),)
        case ReinstateParticipant():
            return (ParticipantReinstated(command.reason),) if participant.suspended else ()
        case AdmitParticipant():
            return ()


def _grant(participant: Participant, command: GrantAccreditation) -> GovernanceEvents:
    check_role(command.role)
    if not command.scheme:
        raise Refused(Reason.FIELD_MISSING, "an accreditation has a scheme", field="scheme")
    if " " in command.scheme:  # it stands before its tier in one line of a consent's record
        raise Refused(Reason.FIELD_INVALID, "a scheme is one word", field="scheme")
    if not set(command.purposes) <= purposes_of(command.policy_version, command.role):
        raise Refused(Reason.CODE_UNKNOWN, "a purpose is not one of the role", field="purposes")
    until = command.effective_to
    if until is not None and until <= command.effective_from:
        raise Refused(Reason.INTERVAL_INVALID, "it would end before it started")
    wanted = _accreditation(command)
    if wanted in participant.accreditations:
        return ()
    if any(_overlap(held, wanted) for held in participant.accreditations):
        raise Refused(Reason.ACCREDITATION_EXISTS, "the role is held under the scheme already")
    if participant.suspended:
        raise Refused(Reason.PARTICIPANT_STATE, "a suspended participant gains nothing")
    return (
        AccreditationGranted(
            wanted.role,
            wanted.scheme,
            wanted.tier,
            wanted.purposes,
            wanted.effective_from,
            wanted.effective_to,
        ),
    )


def _accreditation(command: GrantAccreditation) -> Accreditation:
    return Accreditation(
        command.role,
        command.scheme,
        command.tier,
        command.purposes,
        command.effective_from,
        command.effective_to,
    )


def _overlap(held: Accreditation, wanted: Accreditation) -> bool:
    same = (held.role, held.scheme) == (wanted.role, wanted.scheme)
    held_first = held.effective_to is not None and held.effective_to <= wanted.effective_from
    wanted_first = wanted.effective_to is not None and wanted.effective_to <= held.effective_from
    return same and not held_first and not wanted_first


def check_role(role: str) -> None:
    """Refused(CODE_UNKNOWN) if no organisation can be accredited for the role."""
    if role not in ACCREDITABLE:
        message = f"a role is one of {', '.join(sorted(ACCREDITABLE))}"
        raise Refused(Reason.CODE_UNKNOWN, message, field="role")


def _withdraw(participant: Participant, command: WithdrawAccreditation) -> GovernanceEvents:
    held = {(a.role, a.scheme) for a in participant.accreditations}
    if (command.role, command.scheme) not in held:
        raise Refused(Reason.ACCREDITATION_UNKNOWN, "the role is not held under the scheme")
    return (AccreditationWithdrawn(command.role, command.scheme),)


GOVERNANCE: Final = Domain(
    name="governance",
    topic=GOVERNANCE_TOPIC,
    signer=SignerRole.GOVERNANCE,
    version=1,
    events={f"governance.{event.__name__}": event for event in get_args(GovernanceEvent)},
    state_type=GovernanceState,
    initial=Standing,
    evolve=evolve,
    decide=decide,
)
