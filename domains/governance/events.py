"""What governance can say. Every fold must read it, so the events stand in `spine.trust`."""

from spine.trust import (
    AccreditationGranted,
    AccreditationWithdrawn,
    EquivalenceRow,
    EquivalenceTableAdopted,
    GovernanceEvent,
    IdentifiersSet,
    ParticipantAdmitted,
    ParticipantReinstated,
    ParticipantSuspended,
    PolicyVersionAdopted,
    SigningKeyAuthorised,
    SigningKeyRevoked,
)

__all__ = [
    "AccreditationGranted",
    "AccreditationWithdrawn",
    "EquivalenceRow",
    "EquivalenceTableAdopted",
    "GovernanceEvent",
    "GovernanceEvents",
    "IdentifiersSet",
    "ParticipantAdmitted",
    "ParticipantReinstated",
    "ParticipantSuspended",
    "PolicyVersionAdopted",
    "SigningKeyAuthorised",
    "SigningKeyRevoked",
]

GovernanceEvents = tuple[GovernanceEvent, ...]
