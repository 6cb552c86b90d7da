"""Who is accredited for what, and whose signature counts: the facts of governance as every fold
sees them.

Copies of these facts stand in every partition of every topic (design rules 3, 10, 12), so a fold
can judge a signature or a reader from its own partition alone. `domains.governance` decides them.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Final, NamedTuple, assert_never

from spine.errors import Reason, Refused
from spine.event import RecordType, SignerRole

POLICY_SUBJECT: Final = "policy"
EQUIVALENCE_SUBJECT: Final = "equivalence"


@dataclass(frozen=True, slots=True)
class SigningKeyAuthorised:
    """From here on records signed by this Ed25519 key count, for facts its role may write."""

    public_key: bytes
    role: str
    holder: str


@dataclass(frozen=True, slots=True)
class SigningKeyRevoked:
    """Records signed by this key after this point are void."""

    reason: str


@dataclass(frozen=True, slots=True)
class ParticipantAdmitted:
    """An organisation is known to the spine under this party id; it may do nothing yet."""

    name: str


@dataclass(frozen=True, slots=True)
class AccreditationGranted:
    """The participant may act in this role, for these purposes, under this scheme and tier.

    An empty `purposes` means every purpose the policy allows the role. Half-open in time, UTC.
    """

    role: str
    scheme: str
    tier: str
    purposes: tuple[str, ...]
    effective_from: datetime
    effective_to: datetime | None


@dataclass(frozen=True, slots=True)
class AccreditationWithdrawn:
    """The participant no longer holds this role under this scheme."""

    role: str
    scheme: str


@dataclass(frozen=True, slots=True)
class ParticipantSuspended:
    """The participant may read nothing until it is reinstated; its consents are not rewritten."""

    reason: str


@dataclass(frozen=True, slots=True)
class ParticipantReinstated:
    """The suspension is lifted."""

    reason: str


@dataclass(frozen=True, slots=True)
class PolicyVersionAdopted:
    """Reads after this point are judged by this version of the policy, whose data has this hash."""

    version: int
    data_hash: bytes


@dataclass(frozen=True, slots=True)
class EquivalenceRow:
    """Holding that tier of one scheme for that purpose counts in the other scheme as this one does.

    `to_tier` says as which tier it counts; no rule of ours asks for a tier. The role stays the
    same, and there are no wildcards: what is not written down does not count.
    """

    from_scheme: str
    from_tier: str
    from_purpose: str
    to_scheme: str
    to_tier: str
    to_purpose: str


@dataclass(frozen=True, slots=True)
class EquivalenceTableAdopted:
    """From here on an accreditation counts in another scheme than its own by these rows only.

    Versions go up one by one from 1; a version replaces the whole of the one before.
    """

    version: int
    rows: tuple[EquivalenceRow, ...]


@dataclass(frozen=True, slots=True)
class IdentifiersSet:
    """From here on the party is given these identifiers (an `Identifiers`) in the subject's role.

    `ground` says why, as a code.
    """

    identifiers: str
    ground: str


GovernanceEvent = (
    SigningKeyAuthorised
    | SigningKeyRevoked
    | ParticipantAdmitted
    | AccreditationGranted
    | AccreditationWithdrawn
    | ParticipantSuspended
    | ParticipantReinstated
    | PolicyVersionAdopted
    | EquivalenceTableAdopted
    | IdentifiersSet
)


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A key as the partition knows it."""

    public_key: bytes
    role: str
    holder: str
    revoked: bool = False


@dataclass(frozen=True, slots=True)
class Accreditation:
    """A role held by a participant."""

    role: str
    scheme: str
    tier: str
    purposes: tuple[str, ...]
    effective_from: datetime
    effective_to: datetime | None

    def live_at(self, now: datetime) -> bool:
        """Whether the role is held at that instant."""
        return self.effective_from <= now and (self.effective_to is None or now < self.effective_to)

    def is_for(self, purpose: str) -> bool:
        """Whether it is held for that purpose of its role; none named means every one."""
        return not self.purposes or purpose in self.purposes


@dataclass(frozen=True, slots=True)
class Participant:
    """An organisation as the partition knows it."""

    name: str
    suspended: bool = False
    accreditations: tuple[Accreditation, ...] = ()


@dataclass(frozen=True, slots=True)
class Policy:
    """The version of the policy in force, and the hash of its data."""

    version: int
    data_hash: bytes


@dataclass(frozen=True, slots=True)
class Standing:
    """What governance has said of one subject: a key, a party or the policy."""

    key: SigningKey | None = None
    participant: Participant | None = None
    policy: Policy | None = field(default=None)


class Equivalence(NamedTuple):
    """The equivalence table in force: the state of its own subject.

    A tuple beside `Standing`, and no field of it: so the rows of every other subject keep the shape
    that stores and recorded histories have, and no store is folded anew for a table.
    """

    version: int
    rows: tuple[EquivalenceRow, ...]


class Identifiers(StrEnum):
    """What a party is given for meters, consents and the like: the state of its own subject.

    A text beside `Standing`, for the same reason as the table. Nothing said: MPXN.
    """

    MPXN = "MPXN"
    PAIRWISE = "PAIRWISE"


GovernanceState = Standing | Equivalence | Identifiers


class SubjectKind(StrEnum):
    """The kinds of governance subject; a subject is `<kind>:<id>`, or just `policy` or
    `equivalence`.
    """

    KEY = "key"
    PARTY = "party"
    IDENTIFIERS = "identifiers"


def key_id(public_key: bytes) -> bytes:
    """The 8 bytes that name a signing key in the `kid` header: SHA-256 of the key, truncated."""
    return hashlib.sha256(public_key).digest()[:8]


def key_subject(kid: bytes) -> str:
    """The governance subject of a signing key."""
    return f"{SubjectKind.KEY}:{kid.hex()}"


def party_subject(party: str) -> str:
    """The governance subject of a participant."""
    return f"{SubjectKind.PARTY}:{party}"


def identifiers_subject(role: str, party: str) -> str:
    """The governance subject of what a party is given as identifiers in a role."""
    return f"{SubjectKind.IDENTIFIERS}:{role}/{party}"


def evolve(state: GovernanceState, event: GovernanceEvent) -> GovernanceState:
    """The standing of a subject after one more governance fact."""
    if isinstance(event, EquivalenceTableAdopted):
        return _table(state, event)
    if isinstance(event, IdentifiersSet):
        return _identifiers(state, event)
    if isinstance(state, Equivalence):
        raise Refused(Reason.EQUIVALENCE_STATE, "the table's subject is about nothing else")
    if isinstance(state, Identifiers):
        raise Refused(Reason.IDENTIFIERS_STATE, "the subject is about identifiers alone")
    match event:
        case SigningKeyAuthorised():
            return replace(state, key=SigningKey(event.public_key, event.role, event.holder))
        case SigningKeyRevoked():
            if state.key is None:
                raise Refused(Reason.KEY_UNKNOWN, "no such key was ever authorised")
            return replace(state, key=replace(state.key, revoked=True))
        case ParticipantAdmitted():
            return replace(state, participant=Participant(event.name))
        case PolicyVersionAdopted():
            return replace(state, policy=Policy(event.version, event.data_hash))
        case _:
            if state.participant is None:
                raise Refused(Reason.PARTICIPANT_UNKNOWN, "no such participant was admitted")
            return replace(state, participant=_participant(state.participant, event))


def _table(state: GovernanceState, event: EquivalenceTableAdopted) -> Equivalence:
    before = state.version if isinstance(state, Equivalence) else 0
    if state != Standing() and not before:
        raise Refused(Reason.EQUIVALENCE_STATE, "the table has a subject of its own")
    if event.version != before + 1:
        raise Refused(Reason.EQUIVALENCE_STATE, f"the next version is {before + 1}")
    return Equivalence(event.version, event.rows)


def _identifiers(state: GovernanceState, event: IdentifiersSet) -> Identifiers:
    if state != Standing() and not isinstance(state, Identifiers):
        raise Refused(Reason.IDENTIFIERS_STATE, "identifiers have a subject of their own")
    return Identifiers(event.identifiers)


def _participant(
    participant: Participant,
    event: AccreditationGranted
    | AccreditationWithdrawn
    | ParticipantSuspended
    | ParticipantReinstated,
) -> Participant:
    match event:
        case AccreditationGranted():
            granted = Accreditation(
                event.role,
                event.scheme,
                event.tier,
                event.purposes,
                event.effective_from,
                event.effective_to,
            )
            return replace(participant, accreditations=(*participant.accreditations, granted))
        case AccreditationWithdrawn():
            kept = tuple(
                a
                for a in participant.accreditations
                if (a.role, a.scheme) != (event.role, event.scheme)
            )
            return replace(participant, accreditations=kept)
        case ParticipantSuspended():
            return replace(participant, suspended=True)
        case ParticipantReinstated():
            return replace(participant, suspended=False)
        case _:
            assert_never(event)


GOVERNANCE_TOPIC: Final = "governance.events.v1"
CONSUMER_LOG: Final = "consumers.events.v1"
OUTCOMES_TOPIC: Final = "access.outcomes.v1"
METERING_TOPIC: Final = "metering.events.v1"
READINGS_TOPIC: Final = "metering.readings.v1"
CONSUMERS_REFERENCE: Final = "consumers.reference.v1"
METERING_REFERENCE: Final = "metering.reference.v1"
AGGREGATES_TOPIC: Final = "metering.aggregates.v1"
BTM_ASSETS_TOPIC: Final = "btm_assets.events.v1"
GOVERNANCE_REFERENCE: Final = "governance.reference.v1"
BTM_ASSETS_REFERENCE: Final = "btm_assets.reference.v1"
ERASURES_TOPIC: Final = "consumers.erasures.v1"
ACKNOWLEDGEMENTS_TOPIC: Final = "consumers.acknowledgements.v1"
QUARANTINE_TOPIC: Final = "quarantine.v1"

METER_KEYED: Final = (
    CONSUMER_LOG,
    METERING_TOPIC,
    BTM_ASSETS_TOPIC,
    READINGS_TOPIC,
    OUTCOMES_TOPIC,
)
SINGLE_PARTITION: Final = (
    GOVERNANCE_TOPIC,
    CONSUMERS_REFERENCE,
    ERASURES_TOPIC,
    ACKNOWLEDGEMENTS_TOPIC,
    METERING_REFERENCE,
    AGGREGATES_TOPIC,
    GOVERNANCE_REFERENCE,
    BTM_ASSETS_REFERENCE,
    QUARANTINE_TOPIC,
)
TOPICS: Final = METER_KEYED + SINGLE_PARTITION
# Where the ledger's signed heads go. No part of the log: it has no opening, no fold reads it, and
# it is under no head itself, so that a head is no reason for another.
CHECKPOINTS_TOPIC: Final = "ledger.checkpoints.v1"
# What an answer's rows come from, so that a read names its positions in them.
DATA_TOPICS: Final = (READINGS_TOPIC, METERING_TOPIC, BTM_ASSETS_TOPIC)

_COORDINATORS = frozenset(
    {SignerRole.GOVERNANCE, SignerRole.CONSUMERS, SignerRole.METERING, SignerRole.BTM_ASSETS}
)

# Which role may write which type of record to which topic. What is not here is void.
MAY_WRITE: Final[dict[tuple[str, RecordType], frozenset[SignerRole]]] = {
    (GOVERNANCE_TOPIC, RecordType.FACTS): frozenset({SignerRole.ROOT, SignerRole.GOVERNANCE}),
    (CONSUMER_LOG, RecordType.FACTS): frozenset({SignerRole.CONSUMERS}),
    (CONSUMERS_REFERENCE, RecordType.FACTS): frozenset({SignerRole.CONSUMERS}),
    (ERASURES_TOPIC, RecordType.FACTS): frozenset({SignerRole.CONSUMERS}),
    (ACKNOWLEDGEMENTS_TOPIC, RecordType.FACTS): frozenset({SignerRole.CONSUMERS}),
    (METERING_TOPIC, RecordType.FACTS): frozenset({SignerRole.METERING}),
    (METERING_REFERENCE, RecordType.FACTS): frozenset({SignerRole.METERING}),
    (BTM_ASSETS_TOPIC, RecordType.FACTS): frozenset({SignerRole.BTM_ASSETS}),
    (GOVERNANCE_REFERENCE, RecordType.FACTS): frozenset({SignerRole.GOVERNANCE}),
    (BTM_ASSETS_REFERENCE, RecordType.FACTS): frozenset({SignerRole.BTM_ASSETS}),
    (READINGS_TOPIC, RecordType.READINGS): frozenset({SignerRole.METERING}),
    (AGGREGATES_TOPIC, RecordType.READINGS): frozenset({SignerRole.METERING}),
    (CONSUMER_LOG, RecordType.ACCESS): frozenset({SignerRole.DSI}),
    (OUTCOMES_TOPIC, RecordType.OUTCOMES): frozenset({SignerRole.DSI}),
    (QUARANTINE_TOPIC, RecordType.QUARANTINE): _COORDINATORS,
    (QUARANTINE_TOPIC, RecordType.FACTS): frozenset({SignerRole.GOVERNANCE}),
    **{
        (topic, RecordType.COPY): frozenset({SignerRole.ROOT, SignerRole.GOVERNANCE})
        for topic in TOPICS
        if topic != GOVERNANCE_TOPIC
    },
}
