"""What a request about a consent says: its meters, its parties, its terms and its notice."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, Final

from domains.consumers.commands import ConsentTerms
from domains.consumers.record import RecordTerms
from spine.consumers.v1 import consumers_pb2
from spine.domain import Actor
from spine.errors import Invalid, Reason
from spine.policy import Role
from spine.services import wire

METERS_MAX: Final = 100
TERMS_KEPT_MAX: Final = 256
NOTICE_CHARS_MAX: Final = 16_384
PERSON_CHARS_MAX: Final = 200
_LANGUAGE: Final = re.compile(r"[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8}){0,4}", re.ASCII)
_UPRN: Final = re.compile(r"[0-9]{1,12}", re.ASCII)
# What the record of a consent seals, and how long each may be.
DETAILS: Final = {"purpose_text": 2_000, "account_reference": 100, "evidence_id": 200}
_EVIDENCE: Final = re.compile(r"[A-Za-z0-9._:/#-]{1,128}", re.ASCII)

Scope = tuple[tuple[str, ...], datetime, datetime]


def mpxns(request: Any) -> tuple[str, ...]:
    """The meters named; Invalid unless they are 1 to 100, each once."""
    named = tuple(wire.mpxns(request.mpxns))
    if not 1 <= len(named) <= METERS_MAX or len(set(named)) < len(named):
        message = f"1 to {METERS_MAX} metering points, each once"
        raise Invalid(Reason.FIELD_INVALID, message, field="mpxns")
    return named


def party(request: Any, field: str, by: Actor, own: Sequence[Role]) -> str:
    """The party in that field; left out, it is the caller, if that is one of these roles."""
    named = getattr(request, field)
    return by.party if not named and by.role in own else wire.identifier(named, field)


def agreed(request: Any, data_user: str, consumer_ref: str) -> ConsentTerms:
    """The terms as sent, without the notice. Categories are put in order, for it means nothing."""
    said = _said(request.terms.SerializeToString(deterministic=True))
    return ConsentTerms(data_user, consumer_ref, *said)


@lru_cache(TERMS_KEPT_MAX)
def _said(terms: bytes) -> tuple[str, tuple[str, ...], datetime, datetime, datetime]:
    """What a message of terms says: purpose, categories, and three instants. Of consents by the
    thousand most say the same.
    """
    sent = consumers_pb2.Terms.FromString(terms)
    return (
        wire.code(sent.purpose, "terms.purpose"),
        _categories(sent.categories, "terms.categories"),
        wire.required_instant(sent, "history_from", "terms."),
        wire.required_instant(sent, "valid_from", "terms."),
        wire.required_instant(sent, "expires", "terms."),
    )


def stated(request: Any) -> tuple[tuple[str, ...] | None, datetime | None, datetime | None]:
    """What a narrowing says of categories, start of the history and expiry; None stays as it is."""
    return (
        _categories(request.categories, "categories") if request.categories else None,
        wire.optional_instant(request, "history_from"),
        wire.optional_instant(request, "expires"),
    )


def narrowed(request: Any) -> Callable[[ConsentTerms], Scope]:
    """What is left of a scope by this request; what it leaves out stays as it was."""
    categories, history_from, expires = stated(request)
    return lambda old: (
        categories or old.categories,
        history_from or old.history_from,
        expires or old.expires,
    )


def _categories(named: Sequence[str], field: str) -> tuple[str, ...]:
    if not named:
        raise Invalid(Reason.FIELD_MISSING, "a consent names at least one category", field=field)
    codes = {wire.code(category, field) for category in named}
    if len(codes) < len(named):
        raise Invalid(Reason.FIELD_INVALID, "a category is named twice", field=field)
    return tuple(sorted(codes))


def notice_text(request: Any) -> str:
    """The text that was shown, or nothing. It is never part of an error."""
    text: str = request.notice.text
    if len(text) > NOTICE_CHARS_MAX:
        message = f"a notice is at most {NOTICE_CHARS_MAX} characters"
        raise Invalid(Reason.FIELD_INVALID, message, field="notice.text")
    return text


def language(request: Any) -> str:
    """The language of the notice, or nothing."""
    return _matching(_LANGUAGE, request.notice.language, "notice.language", "a BCP 47 tag")


def channel(request: Any) -> str:
    """How the notice was shown, or nothing."""
    said = request.notice.channel if request.HasField("notice") else ""
    return wire.optional_code(said, "notice.channel")


def evidence(request: Any) -> str:
    """The sender's reference to its proof, or nothing."""
    kind = "a reference of 1 to 128 of A-Z a-z 0-9 . _ : / # -"
    return _matching(_EVIDENCE, request.notice.evidence, "notice.evidence", kind)


def record(request: Any) -> RecordTerms:
    """What the record of a consent says besides, as sent and without what is sealed."""
    sent = request.record

    def code(name: str) -> str:
        return wire.optional_code(getattr(sent, name), f"record.{name}")

    return RecordTerms(
        relation=code("relation"),
        authentication_level=code("authentication_level"),
        authentication_method=code("authentication_method"),
        granularity=code("granularity"),
        uprn=_matching(_UPRN, sent.uprn, "record.uprn", "1 to 12 digits"),
        onward_sharing=sent.onward_sharing,
        recipients=tuple(wire.identifier(one, "record.recipients") for one in sent.recipients),
        processor=sent.processor and wire.identifier(sent.processor, "record.processor"),
        evidence_method=code("evidence_method"),
    )


def details(request: Any) -> dict[str, str]:
    """What the record of a consent seals, each part that was said. It is never part of an error."""
    if not request.HasField("record"):
        return {}
    sent = request.record
    said = {
        name: wire.optional_words(getattr(sent, name), f"record.{name}", longest)
        for name, longest in DETAILS.items()
    }
    return {name: text for name, text in said.items() if text}


def _matching(pattern: re.Pattern[str], text: str, field: str, kind: str) -> str:
    if text and not pattern.fullmatch(text):
        raise Invalid(Reason.FIELD_INVALID, f"{field} is {kind}", field=field)
    return text


def person(request: Any) -> dict[str, str]:
    """Name and contact of a tenancy, each maybe empty."""
    return {
        field: wire.optional_words(
            getattr(request.person, field), f"person.{field}", PERSON_CHARS_MAX
        )
        for field in ("name", "contact")
    }
