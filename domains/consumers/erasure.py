"""The right to erasure, and the legal duties that turn it into restriction for a while.

Home is `consumers.erasures.v1`, subject the consumer reference. What is personal was sealed under a
key of that reference before it was logged; `SubjectErased` says that the key is destroyed. Erasure
takes nothing out of the log, so every proof and every decision stands; the coordinator destroys the
key again whenever it starts, so that a vault brought back from a copy opens nothing either.

Rules (UK GDPR art. 17(1), 17(3)(b), 18; domain.md 7.2):
1. The consumer asks for its own reference, the consent service for anybody's.
2. Only the consent service names a legal duty to keep, from the codes here, for at most ten years.
   Then the subject is restricted: its key is kept, and what it sealed is opened for itself alone.
3. A restriction ends in erasure by itself when its time is up; it is neither shortened by asking
   again nor made longer.
4. Erasure is final.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from spine import trust
from spine.domain import Actor, Domain
from spine.errors import NotPermitted, Reason, Refused
from spine.event import SignerRole
from spine.policy import Role

DUTY_LASTS_MAX: Final = timedelta(days=3_653)
MAY_ERASE: Final = frozenset({Role.CONSUMER, Role.CONSENT_SERVICE, Role.COORDINATOR})


class Duty(StrEnum):
    """Legal duties to keep. An unknown code is a no."""

    SETTLEMENT_DISPUTE = "SETTLEMENT_DISPUTE"
    TAX_RECORDS = "TAX_RECORDS"
    LEGAL_CLAIM = "LEGAL_CLAIM"
    REGULATORY_INQUIRY = "REGULATORY_INQUIRY"


class Standing(StrEnum):
    """What has become of what was sealed for a subject."""

    KEPT = "KEPT"
    RESTRICTED = "RESTRICTED"
    ERASED = "ERASED"


@dataclass(frozen=True, slots=True)
class SubjectErased:
    """The subject's key is destroyed."""

    decided_at: datetime


@dataclass(frozen=True, slots=True)
class SubjectRestricted:
    """A legal duty to keep stands against erasure until a day."""

    duty: str
    keep_until: datetime
    decided_at: datetime


ErasureEvent = SubjectErased | SubjectRestricted


@dataclass(frozen=True, slots=True)
class Erasure:
    """How a subject stands, and since when."""

    standing: str = Standing.KEPT
    duty: str = ""
    keep_until: datetime | None = None
    decided_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class EraseSubject:
    """Erase what was sealed for a consumer reference; keep it first if a duty is named."""

    by: Actor
    consumer_ref: str
    duty: str = ""
    keep_until: datetime | None = None


def tightens(command: object) -> bool:
    """Erasing never opens anything."""
    return True


def decide(state: Erasure, command: EraseSubject, now: datetime) -> tuple[ErasureEvent, ...]:
    """The facts of an accepted command, none if it is already so.

    NotPermitted  ROLE_NOT_ALLOWED: the role erases nobody, or may not name a duty;
                  CONSENT_NOT_YOURS: a consumer asks for another's reference
    Refused       CODE_UNKNOWN: no such duty; INTERVAL_INVALID: it would be over, or last too long
    """
    by = command.by
    if by.role not in MAY_ERASE or (command.duty and by.role != Role.CONSENT_SERVICE):
        raise NotPermitted(Reason.ROLE_NOT_ALLOWED, "this role may not ask for that")
    if by.role == Role.CONSUMER and by.party != command.consumer_ref:
        raise NotPermitted(Reason.CONSENT_NOT_YOURS, "the reference is somebody else's")
    if state.standing == Standing.ERASED:
        return ()
    if state.standing == Standing.RESTRICTED:
        assert state.keep_until is not None
        return () if now < state.keep_until else (SubjectErased(now),)
    if not command.duty:
        return (SubjectErased(now),)
    if command.duty not in set(Duty):
        raise Refused(Reason.CODE_UNKNOWN, "no such legal duty is known")
    if command.keep_until is None or not now < command.keep_until <= now + DUTY_LASTS_MAX:
        raise Refused(Reason.INTERVAL_INVALID, "a duty lasts until a day within ten years")
    return (SubjectRestricted(command.duty, command.keep_until, now),)


def evolve(state: Erasure, event: ErasureEvent) -> Erasure:
    """How the subject stands after one more fact; Refused for one after its erasure."""
    if state.standing == Standing.ERASED:
        raise Refused(Reason.SUBJECT_ERASED, "erasure is final")
    match event:
        case SubjectErased():
            return replace(state, standing=Standing.ERASED, decided_at=event.decided_at)
        case SubjectRestricted():
            return Erasure(Standing.RESTRICTED, event.duty, event.keep_until, event.decided_at)


ERASURES: Final = Domain(
    name="consumers",
    topic=trust.ERASURES_TOPIC,
    signer=SignerRole.CONSUMERS,
    version=1,
    events={
        "consumers.SubjectErased": SubjectErased,
        "consumers.SubjectRestricted": SubjectRestricted,
    },
    state_type=Erasure,
    initial=Erasure,
    evolve=evolve,
    decide=decide,
)
