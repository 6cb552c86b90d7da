"""The versions of a consent's record, each of which names the hash of the one before.

Every fact about a consent makes a version of its record, from the fact that began it
(`ConsentTermsRecorded`). A version is lines `name: value` in one fixed order, its hash the SHA-256
of their text, and the lines hold the hash of the version before: whoever has two versions can tell
that nothing was changed in the first. They follow from the facts alone, so any fold finds the same.
What names the meter is no part of them: the fold that holds them is the meter's.

Only what has a record is kept here. The state of a meter without one is `MeterAccess`, its rows
byte for byte as they were before there were records; so it is with objections (`MeterChoices`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from domains.consumers.events import (
    ConsentDeclined,
    ConsentGranted,
    ConsentLapsed,
    ConsentNarrowed,
    ConsentRequested,
    ConsentRevoked,
    ConsentSuspended,
    ConsentTermsRecorded,
    ConsentWithdrawn,
    ConsumersEvent,
)
from domains.consumers.record import RecordTerms
from spine.errors import Reason, Refused
from spine.gb import iso_milliseconds
from spine.objections import Objection, objections_of
from spine.policy import Basis, Consent, MeterAccess, Role

FIRST_LINE: Final = "energyos.consent-record.v1"
HASH_LINE: Final = "record sha256"
# Every line that a version may have, in their order. An empty one is left out.
LINES: Final = (
    *("record version", "previous record", "created at", "consent", "version"),
    *("recorded state", "changed at", "changed by", "reason"),
    *("granted at", "last confirmed"),
    *("consumer", "tenancy", "relation to premises"),
    *("authentication level", "authentication method"),
    *("uprn", "categories", "history from", "granularity"),
    *("purpose", "lawful basis", "onward sharing", "recipients"),
    *("data user", "tier", "processor"),
    *("valid from", "expires", "answer by"),
    *("notice sha256", "notice language", "channel", "evidence", "evidence method"),
    *("details sha256", "details digest"),
)
_BY: Final[Mapping[type, str]] = {
    ConsentRequested: Role.DATA_USER,
    ConsentGranted: Role.CONSUMER,
    ConsentNarrowed: Role.CONSUMER,
    ConsentDeclined: Role.CONSUMER,
    ConsentRevoked: Role.CONSUMER,
    ConsentWithdrawn: Role.DATA_USER,
    ConsentLapsed: Role.COORDINATOR,
}


@dataclass(frozen=True, slots=True)
class ConsentRecord:
    """The newest version of the record of one consent at one meter.

    `version` counts all its versions from 1, the first `created_at`. `changed_by` is the side whose
    change it was, and `confirmed_at` when the consumer last said what it allows.
    """

    consent_id: str
    version: int
    previous: bytes
    hash: bytes
    created_at: datetime
    terms: RecordTerms | None = None
    granted_at: datetime | None = None
    confirmed_at: datetime | None = None
    changed_by: str = ""
    reason: str = ""


class MeterRecord(MeterAccess, frozen=True):
    """The access of a meter, and the records of its consents, on which no read is judged."""

    records: tuple[ConsentRecord, ...] = ()


class MeterChoices(MeterRecord, frozen=True):
    """The same of a meter where somebody objected to a use (`spine.objections`)."""

    objections: tuple[Objection, ...] = ()


def all_records(access: MeterAccess) -> tuple[ConsentRecord, ...]:
    """The records of the consents of a meter."""
    if type(access) is MeterAccess:  # most are: to ask whether it is a `MeterRecord` takes longer
        return ()
    return access.records if isinstance(access, MeterRecord) else ()


def records_of(access: MeterAccess) -> dict[str, ConsentRecord]:
    """The same by their consents: for who asks after many of them."""
    return {each.consent_id: each for each in all_records(access)}


def record_of(access: MeterAccess, consent_id: str) -> ConsentRecord | None:
    """The record of that consent; None if it has none. A fold asks after one with each fact, for
    which a table of all is not worth making.
    """
    for each in all_records(access):
        if each.consent_id == consent_id:
            return each
    return None


def terms_in(record: ConsentRecord | None) -> RecordTerms:
    """What a record says beside the terms of its consent; nothing if there is none."""
    return RecordTerms() if record is None or record.terms is None else record.terms


def terms_of(access: MeterAccess, consent_id: str) -> RecordTerms:
    """The same of the record of that consent."""
    return terms_in(record_of(access, consent_id))


def was_suspended(record: ConsentRecord | None, consent: Consent) -> bool:
    """Whether a granted consent has ever been suspended; not known, so False, without a record.

    A version of the record is its request, its grant, a narrowing, or else of a suspension.
    """
    if record is None:
        return False
    begun = 1 if record.granted_at == record.created_at else 2
    return record.version > begun + consent.version - 1


def with_records(access: MeterAccess, records: Iterable[ConsentRecord]) -> MeterAccess:
    """The access with these records and no others."""
    return _with(access, tuple(records), objections_of(access))


def with_objections(access: MeterAccess, objections: Iterable[Objection]) -> MeterAccess:
    """The access with these objections and no others."""
    return _with(access, all_records(access), tuple(objections))


def _with(
    access: MeterAccess, records: tuple[ConsentRecord, ...], objections: tuple[Objection, ...]
) -> MeterAccess:
    said = (access.tenancies, access.supplies, access.appointments, access.consents)
    if objections:
        return MeterChoices(*said, records, objections)
    return MeterRecord(*said, records) if records else MeterAccess(*said)


def as_kept(access: MeterAccess) -> MeterAccess:
    """The access as its row is packed: without a place for what there is none of."""
    return access if type(access) is MeterAccess else with_records(access, all_records(access))


def with_terms(access: MeterAccess, consent: Consent, event: ConsentTermsRecorded) -> MeterAccess:
    """The access once a record says this of a consent, in the command that asked or granted it."""
    before = record_of(access, consent.consent_id)
    if consent.changed_at != event.decided_at or (before is not None and before.terms is not None):
        raise Refused(Reason.CONSENT_STATE, "the record is of the request or grant beside it")
    if before is None:
        answered = consent.answer_by is None
        before = ConsentRecord(
            consent.consent_id,
            1,
            b"",
            b"",
            consent.changed_at,
            granted_at=consent.changed_at if answered else None,
            confirmed_at=consent.changed_at if answered else None,
            changed_by=Role.CONSUMER if answered else Role.DATA_USER,
        )
    return _kept(access, consent, replace(before, terms=event.terms))


def linked(access: MeterAccess, consent: Consent, event: ConsumersEvent) -> MeterAccess:
    """The access with the next version of the record, if there is one, after that event."""
    before = record_of(access, consent.consent_id)
    if before is None:
        return access
    granted = isinstance(event, ConsentGranted)
    says_anew = granted or isinstance(event, ConsentNarrowed)
    suspended = event if isinstance(event, ConsentSuspended) else None
    after = replace(
        before,
        version=before.version + 1,
        previous=before.hash,
        terms=None if granted else before.terms,
        granted_at=consent.changed_at if granted else before.granted_at,
        confirmed_at=consent.changed_at if says_anew else before.confirmed_at,
        changed_by=_BY.get(type(event), "") if suspended is None else suspended.suspended_by,
        reason="" if suspended is None else suspended.reason,
    )
    return _kept(access, consent, after)


def _kept(access: MeterAccess, consent: Consent, record: ConsentRecord) -> MeterAccess:
    hashed = replace(record, hash=record_hash(lines(consent, record)))
    found = all_records(access)
    others = (each for each in found if each.consent_id != consent.consent_id)
    return with_records(access, (*others, hashed))


def lines(consent: Consent, record: ConsentRecord) -> dict[str, str]:
    """A version of the record as its lines, without its hash."""
    terms = record.terms or RecordTerms()
    said = {
        "record version": str(record.version),
        "previous record": record.previous.hex(),
        "created at": iso_milliseconds(record.created_at),
        "consent": consent.consent_id,
        "version": str(consent.version),
        "recorded state": consent.state,
        "changed at": iso_milliseconds(consent.changed_at),
        "changed by": record.changed_by,
        "reason": record.reason,
        "granted at": _at(record.granted_at),
        "last confirmed": _at(record.confirmed_at),
        "consumer": consent.consumer_ref,
        "tenancy": consent.tenancy_id,
        "relation to premises": terms.relation,
        "authentication level": terms.authentication_level,
        "authentication method": terms.authentication_method,
        "uprn": terms.uprn,
        "categories": " ".join(consent.categories),
        "history from": iso_milliseconds(consent.history_from),
        "granularity": terms.granularity,
        "purpose": consent.purpose,
        "lawful basis": Basis.CONSENT,
        "onward sharing": "allowed" if terms.onward_sharing else "not allowed",
        "recipients": " ".join(terms.recipients),
        "data user": consent.data_user,
        "tier": terms.tier,
        "processor": terms.processor,
        "valid from": iso_milliseconds(consent.valid_from),
        "expires": iso_milliseconds(consent.expires),
        "answer by": _at(consent.answer_by),
        "notice sha256": consent.notice_hash.hex(),
        "notice language": consent.notice_language,
        "channel": consent.channel,
        "evidence": consent.evidence,
        "evidence method": terms.evidence_method,
        "details sha256": _sealed_hash(terms),
        "details digest": terms.details_digest.hex(),
    }
    return {name: said[name] for name in LINES if said[name]}


def record_hash(said: Mapping[str, str]) -> bytes:
    """SHA-256 of a version, from its lines or from whatever holds them among others."""
    kept = (f"{name}: {said[name]}" for name in LINES if name in said)
    return hashlib.sha256("".join(f"{line}\n" for line in (FIRST_LINE, *kept)).encode()).digest()


def _sealed_hash(terms: RecordTerms) -> str:
    """Of what is sealed as it is sealed, so that it says nothing of what that is."""
    sealed = terms.details
    if sealed is None:
        return ""
    parts = (sealed.key_id.encode(), sealed.nonce, sealed.ciphertext, sealed.context.encode())
    whole = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
    return hashlib.sha256(whole).hexdigest()


def _at(at: datetime | None) -> str:
    return "" if at is None else iso_milliseconds(at)


# -- a chain of versions, as somebody kept them ---------------------------------------------------


def broken(kept: Iterable[Mapping[str, str]]) -> list[str]:
    """What is wrong with versions of one record, in any order and maybe not all; empty if nothing.

    Each has to be what its hash says, and what the next one names. A version that is missing is no
    fault, and what stands on its other side is not tied to it.
    """
    faults = []
    hashes: dict[int, set[str]] = {}
    named: dict[int, set[str]] = {}
    for said in kept:
        number = said.get("record version", "")
        if record_hash(said).hex() != said.get(HASH_LINE) or not number.isdecimal():
            faults.append(f"version {number} is not what its hash says")
            continue
        hashes.setdefault(int(number), set()).add(said[HASH_LINE])
        named.setdefault(int(number) - 1, set()).add(said.get("previous record", ""))
    for version, found in sorted(hashes.items()):
        if len(found) > 1:
            faults.append(f"there are two versions {version}")
        if not named.get(version, found) <= found:
            faults.append(f"version {version} is not the one that version {version + 1} names")
    return list(dict.fromkeys(faults))
