"""That a data user has deleted what it got under a consent that is over: owed, and said by itself.

UK GDPR, Article 17(1)(b): what rests on a consent is erased without undue delay once the consent is
gone and nothing else carries it; Article 12(3) gives a month to say so. What is owed
follows from the access of a meter and the time alone, as changes do. `DeletionConfirmed` is at home
in `consumers.acknowledgements.v1`, subject the id of the deletion.

Rules:
1. A consent that had opened its meter and is over, by whomever or by time, obliges its data user to
   delete what it got under it and to say so within the term of its purpose (`deletion_terms.py`).
2. What was asked for and never granted, or was over or suspended before its first day, obliges to
   nothing, and nothing does before its first day. A tenancy that ended earlier still obliges from
   then on: when that was recorded is not known here, and it may have been read until then.
3. Only the data user confirms, and not before the consent is over. Once is enough; late counts too.
4. It is shown to the data user and to the consumer who had consented; to governance and the consent
   service, who owes how much.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from domains.consumers.changes import Acknowledgement
from domains.consumers.deletion_terms import term
from domains.consumers.evolve import is_bar
from spine.domain import Actor
from spine.errors import NotPermitted, Reason
from spine.policy import Consent, ConsentState, MeterAccess, Role

DELETES: Final = frozenset({Role.DATA_USER, Role.SUPPLIER})
_ENDED: Final = frozenset({ConsentState.REVOKED, ConsentState.WITHDRAWN})
_GRANTED: Final = _ENDED | {ConsentState.ACTIVE, ConsentState.SUSPENDED}


@dataclass(frozen=True, slots=True)
class Deletion:
    """What a data user owes for one consent at one meter, since that was over."""

    id: str
    data_user: str
    consumer_ref: str
    mpxn: str
    consent_id: str
    purpose: str
    since: datetime

    @property
    def receiver(self) -> str:
        """Who has to confirm it."""
        return self.data_user

    @property
    def told_as(self) -> Role:
        """A supplier owes it as a data user does."""
        return Role.DATA_USER

    @property
    def due(self) -> datetime:
        """Until when it has to be confirmed."""
        return self.since + term(self.purpose, self.since)

    def overdue(self, now: datetime) -> bool:
        """Whether it is late, if it is not confirmed."""
        return now > self.due

    def is_shown_to(self, by: Actor) -> bool:
        """Whether that party may see it, and whether it is confirmed."""
        party = self.consumer_ref if by.role == Role.CONSUMER else self.data_user
        return by.role in DELETES | {Role.CONSUMER} and by.party == party


def deletions(mpxn: str, access: MeterAccess, now: datetime) -> tuple[Deletion, ...]:
    """All that is or was owed of a meter at `now`, confirmed or not, the oldest first."""
    found = (
        _deletion(mpxn, consent, since)
        for consent in access.consents
        if not is_bar(consent) and (since := over_since(consent, access, now)) is not None
    )
    return tuple(sorted(found, key=lambda each: (each.since, each.consent_id)))


def over_since(consent: Consent, access: MeterAccess, now: datetime) -> datetime | None:
    """When a consent that had opened its meter was over; None if it is not, or never opened it."""
    if consent.state not in _GRANTED or consent.answer_by is not None or now < consent.valid_from:
        return None
    if consent.state is not ConsentState.ACTIVE and consent.changed_at <= consent.valid_from:
        return None
    over = min(_ends(consent, access))
    return max(over, consent.valid_from) if over <= now else None


def _ends(consent: Consent, access: MeterAccess) -> Iterator[datetime]:
    yield consent.expires
    if consent.state in _ENDED:
        yield consent.changed_at
    for tenancy in access.tenancies:
        if tenancy.tenancy_id == consent.tenancy_id and tenancy.effective_to is not None:
            yield tenancy.effective_to


def _deletion(mpxn: str, consent: Consent, since: datetime) -> Deletion:
    parts = (consent.data_user, mpxn, consent.consent_id)
    hashed = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]
    return Deletion(
        f"deletion/{hashed}",
        consent.data_user,
        consent.consumer_ref,
        mpxn,
        consent.consent_id,
        consent.purpose,
        since,
    )


# -- confirming -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DeletionConfirmed:
    """The data user has deleted what it got under the consent and nothing else lets it keep."""

    data_user: str
    mpxn: str
    consent_id: str
    decided_at: datetime


@dataclass(frozen=True, slots=True)
class ConfirmDeletion:
    """The caller has deleted it."""

    by: Actor
    deletion: Deletion


def decide(
    state: Acknowledgement, command: ConfirmDeletion, now: datetime
) -> tuple[DeletionConfirmed, ...]:
    """The fact, none if it is already so.

    NotPermitted  ROLE_NOT_ALLOWED: the role reads nothing under consents; CONSENT_NOT_YOURS: the
                  consent was another party's
    """
    by, owed = command.by, command.deletion
    if by.role not in DELETES:
        raise NotPermitted(Reason.ROLE_NOT_ALLOWED, "this role has nothing to delete")
    if by.party != owed.data_user:
        raise NotPermitted(Reason.CONSENT_NOT_YOURS, "the consent was another party's")
    if state.decided_at is not None:
        return ()
    return (DeletionConfirmed(owed.data_user, owed.mpxn, owed.consent_id, now),)


def evolve(state: Acknowledgement, event: DeletionConfirmed) -> Acknowledgement:
    """The first confirmation counts."""
    return state if state.decided_at else replace(state, decided_at=event.decided_at)
