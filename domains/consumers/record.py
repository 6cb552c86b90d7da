"""What the record of a consent says beside what a read is judged on, and the rules of it.

With the terms and the state of the consent it makes up the blocks of ISO/IEC TS 27560. It is said
in a fact of its own, in the same command as the request or grant, so a consent from before it
existed has none and stands as it did. What is personal (the text of the purpose, the account, the
id of the evidence) is sealed, and only a digest under the subject's key tells two of them apart.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final, Protocol

from spine.errors import Reason, Refused
from spine.event import Sealed
from spine.policy import Category

RECIPIENTS_MAX: Final = 20


class Relation(StrEnum):
    """What the consumer is to the premises."""

    ACCOUNT_HOLDER = "ACCOUNT_HOLDER"
    OCCUPIER = "OCCUPIER"
    AGENT = "AGENT"


class Level(StrEnum):
    """How sure it is who consented; the levels of eIDAS."""

    LOW = "LOW"
    SUBSTANTIAL = "SUBSTANTIAL"
    HIGH = "HIGH"


class Method(StrEnum):
    """How a person or a meter was proved: a number shown on its display (CIN), a card, a login."""

    CIN = "CIN"
    BANK_CARD = "BANK_CARD"
    LOGIN = "LOGIN"
    CERTIFICATE = "CERTIFICATE"
    IN_PERSON = "IN_PERSON"


class Granularity(StrEnum):
    """How fine the data of a meter may be, the finest first."""

    HALF_HOUR = "HALF_HOUR"
    DAY = "DAY"
    READING = "READING"


# Of the categories that are series of values; standing data has no granularity.
GRANULARITY_OF: Final = {
    Category.HH_CONSUMPTION: Granularity.HALF_HOUR,
    Category.EXPORT: Granularity.HALF_HOUR,
    Category.DAILY: Granularity.DAY,
    Category.REGISTER: Granularity.READING,
}
_FINEST_FIRST: Final = tuple(Granularity)


@dataclass(frozen=True, slots=True)
class RecordTerms:
    """The rest of a record, each part empty if it was not said.

    `tier` is the data user's accreditation when it was recorded, as "scheme tier": a scheme is one
    word, so whatever follows the first space is the tier. `details` holds what is personal, sealed;
    `details_digest` is of the same under the subject's key.
    """

    relation: str = ""
    authentication_level: str = ""
    authentication_method: str = ""
    uprn: str = ""
    granularity: str = ""
    onward_sharing: bool = False
    recipients: tuple[str, ...] = ()
    processor: str = ""
    tier: str = ""
    evidence_method: str = ""
    details: Sealed | None = None
    details_digest: bytes = b""


class Scope(Protocol):
    """What of a consent the rules of its record look at."""

    @property
    def data_user(self) -> str:
        """Who may read."""

    @property
    def categories(self) -> tuple[str, ...]:
        """What it may read."""


def check_record(scope: Scope, record: RecordTerms | None) -> None:
    """Refuse a record that does not fit its consent.

    CODE_UNKNOWN  a code that is none of the classes above
    FIELD_INVALID  a recipient named twice, too many of them, or the data user itself
    GRANULARITY_TOO_FINE  a category holds finer data than the granularity allows
    ONWARD_SHARING_NOT_ALLOWED  recipients are named, and nothing may be shared onward
    """
    if record is None:
        return
    for said, codes in (
        (record.relation, Relation),
        (record.authentication_level, Level),
        (record.authentication_method, Method),
        (record.evidence_method, Method),
        (record.granularity, Granularity),
    ):
        if said and said not in set(codes):
            raise Refused(Reason.CODE_UNKNOWN, f"no such code: {codes.__name__.lower()}")
    named = record.recipients
    if len(set(named)) < len(named) or len(named) > RECIPIENTS_MAX or scope.data_user in named:
        message = f"at most {RECIPIENTS_MAX} recipients, each once, and not the data user"
        raise Refused(Reason.FIELD_INVALID, message)
    if named and not record.onward_sharing:
        message = "recipients are named, and nothing may be shared onward"
        raise Refused(Reason.ONWARD_SHARING_NOT_ALLOWED, message)
    if record.granularity and any(
        _is_finer(GRANULARITY_OF[Category(category)], record.granularity)
        for category in scope.categories
        if category in GRANULARITY_OF
    ):
        message = "a category holds finer data than the granularity allows"
        raise Refused(Reason.GRANULARITY_TOO_FINE, message)


def record_is_wider(new: RecordTerms | None, old: RecordTerms | None) -> bool:
    """Whether a grant would share more, or finer, than the request it answers asked for.

    A granularity that is not said again is the request's, which binds the categories anyway.
    """
    given, asked = new or RecordTerms(), old or RecordTerms()
    finer = bool(given.granularity and asked.granularity) and _is_finer(
        given.granularity, asked.granularity
    )
    more = not set(given.recipients) <= set(asked.recipients)
    return finer or more or (given.onward_sharing and not asked.onward_sharing)


def says_the_same(one: RecordTerms | None, other: RecordTerms | None) -> bool:
    """Two seals of one text differ, its digest does not; a tier is as it was at the time."""

    def said(record: RecordTerms | None) -> RecordTerms:
        return replace(record or RecordTerms(), details=None, tier="")

    return said(one) == said(other)


def _is_finer(one: str, other: str) -> bool:
    return _FINEST_FIRST.index(Granularity(one)) < _FINEST_FIRST.index(Granularity(other))
