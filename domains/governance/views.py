"""What governance shows of its subjects: how a participant and a signing key stand now."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from spine.trust import Accreditation, Standing, key_id


@dataclass(frozen=True, slots=True)
class ParticipantView:
    """A participant and what it may act as now; nothing while it is suspended."""

    party: str
    name: str
    suspended: bool
    live: tuple[Accreditation, ...]
    not_live: tuple[Accreditation, ...]


@dataclass(frozen=True, slots=True)
class SigningKeyView:
    """A signing key by its id, and whether what it signs still counts."""

    kid: str
    role: str
    holder: str
    revoked: bool


def participant_view(party: str, standing: Standing, now: datetime) -> ParticipantView | None:
    """The participant as it stands now; None if it was never admitted."""
    participant = standing.participant
    if participant is None:
        return None
    live = tuple(
        a for a in participant.accreditations if a.live_at(now) and not participant.suspended
    )
    rest = tuple(a for a in participant.accreditations if a not in live)
    return ParticipantView(party, participant.name, participant.suspended, live, rest)


def signing_key_view(standing: Standing) -> SigningKeyView | None:
    """The signing key as it stands; None if it was never authorised."""
    key = standing.key
    if key is None:
        return None
    return SigningKeyView(key_id(key.public_key).hex(), key.role, key.holder, key.revoked)
