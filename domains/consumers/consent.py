"""The rules of consent: how one is asked for, given, narrowed, held up and ended.

Each rule is checked in one order: who asks, whether the terms make sense, what became of the
consent so far, who lives there. Tightening needs no earlier leg: it bars the consent at this meter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from datetime import datetime
from typing import Any, Final

from domains.consumers.chain import terms_of
from domains.consumers.commands import (
    ConsentTerms,
    DeclineConsent,
    GrantConsent,
    LapseConsent,
    NarrowConsent,
    RequestConsent,
    ResumeConsent,
    RevokeConsent,
    SuspendConsent,
    WithdrawConsent,
    check_named,
    check_own,
)
from domains.consumers.events import (
    ConsentDeclined,
    ConsentGranted,
    ConsentLapsed,
    ConsentNarrowed,
    ConsentRequested,
    ConsentResumed,
    ConsentRevoked,
    ConsentSuspended,
    ConsentTermsRecorded,
    ConsentWithdrawn,
    ConsumersEvents,
)
from domains.consumers.evolve import FINAL, find_consent, is_bar
from domains.consumers.record import (
    RecordTerms,
    check_record,
    record_is_wider,
    says_the_same,
)
from spine.domain import Actor
from spine.errors import NotPermitted, Reason, Refused
from spine.policy import (
    Basis,
    Consent,
    ConsentState,
    MeterAccess,
    Role,
    Tenancy,
    consent_refusal,
)
from spine.policy_data import bases_of

# Of one meter, whatever became of them.
CONSENTS_MAX: Final = 1_000
_TERMS: Final = tuple(field.name for field in fields(ConsentTerms))


def unanswered(consent: Consent, now: datetime) -> bool:
    """Whether the time to answer the request has run out."""
    if consent.state is not ConsentState.REQUESTED or consent.answer_by is None:
        return False
    return now >= consent.answer_by


def check_terms(consent_id: str, terms: ConsentTerms, policy_version: int, now: datetime) -> None:
    """Refuse terms that nobody could agree to: unknown codes, nothing named, no time left."""
    check_named(consent_id, terms.data_user, terms.consumer_ref)
    known = consent_codes(policy_version)
    if terms.purpose not in known["purposes"]:
        raise Refused(Reason.CODE_UNKNOWN, "the purpose is not one that consent can carry")
    if not terms.categories:
        raise Refused(Reason.FIELD_MISSING, "a consent names at least one category")
    if not all(category in known["categories"] for category in terms.categories):
        raise Refused(Reason.CODE_UNKNOWN, "a category is not one that consent can carry")
    if terms.expires <= terms.history_from:
        raise Refused(Reason.INTERVAL_INVALID, "the consent would expire before all it opens")
    if terms.expires <= terms.valid_from:
        raise Refused(Reason.INTERVAL_INVALID, "the consent would expire before it is valid")
    if terms.expires <= now:
        raise Refused(Reason.CONSENT_EXPIRED, "the consent would already have expired")


def is_wider(new: ConsentTerms, old: ConsentTerms | Consent) -> bool:
    """Whether the new terms allow anything that the old ones did not."""
    same = (new.data_user, new.consumer_ref, new.purpose) == (
        old.data_user,
        old.consumer_ref,
        old.purpose,
    )
    return (
        not same
        or new.valid_from < old.valid_from
        or scope_is_wider(new.categories, new.history_from, new.expires, old)
    )


def scope_is_wider(
    categories: tuple[str, ...],
    history_from: datetime,
    expires: datetime,
    old: ConsentTerms | Consent,
) -> bool:
    """Whether a scope reaches beyond the one agreed: that needs fresh consent."""
    return (
        not set(categories) <= set(old.categories)
        or history_from < old.history_from
        or expires > old.expires
    )


def request(access: MeterAccess, command: RequestConsent, now: datetime) -> ConsumersEvents:
    """A data user asks the occupier; the answer is due before `answer_by`."""
    terms = command.terms
    check_own(command.by, terms)
    check_terms(command.consent_id, terms, command.policy_version, now)
    check_record(terms, command.record)
    if command.answer_by <= now:
        raise Refused(Reason.CONSENT_LAPSED, "the time to answer has already run out")
    earlier = find_consent(access, command.consent_id)
    if earlier is not None:
        _check_not_over(earlier)
        asked = earlier.state is ConsentState.REQUESTED and earlier.answer_by == command.answer_by
        if asked and _is_same(access, earlier, terms, command.record):
            return ()
        raise Refused(Reason.CONSENT_EXISTS, "the consent id is already in use at the meter")
    _check_room(access)
    try:
        tenancy = _occupied_by(access, terms.consumer_ref, now)
    except Refused:
        if command.by.role == Role.CONSENT_SERVICE:
            raise
        # Who asks learns that nobody can be asked there, and counts as somebody who searches.
        raise NotPermitted(Reason.NOT_PERMITTED, "nobody can be asked at the meter") from None
    return (
        ConsentRequested(
            consent_id=command.consent_id,
            tenancy_id=tenancy.tenancy_id,
            answer_by=command.answer_by,
            decided_at=now,
            **_fields(terms),
        ),
        *_recorded(command, now),
    )


def grant(access: MeterAccess, command: GrantConsent, now: datetime) -> ConsumersEvents:
    """The occupier answers a request with no more than was asked, or consents unasked."""
    terms = command.terms
    check_own(command.by, terms)
    check_terms(command.consent_id, terms, command.policy_version, now)
    check_record(terms, command.record)
    earlier = find_consent(access, command.consent_id)
    if earlier is not None:
        _check_not_over(earlier)
        if earlier.state is ConsentState.ACTIVE:
            if _is_same(access, earlier, terms, command.record):
                return ()
            raise Refused(Reason.CONSENT_EXISTS, "the consent id is already in use at the meter")
        check_own(command.by, earlier)
        if unanswered(earlier, now):
            raise Refused(Reason.CONSENT_LAPSED, "the time to answer has run out")
        asked = terms_of(access, command.consent_id)
        if is_wider(terms, earlier) or record_is_wider(command.record, asked):
            raise Refused(Reason.CONSENT_WIDER, "more than was requested cannot be granted")
    if earlier is None:
        _check_room(access)
    tenancy = _occupied_by(access, terms.consumer_ref, now)
    if earlier is not None and earlier.tenancy_id != tenancy.tenancy_id:
        raise Refused(Reason.NOT_AN_OCCUPIER, "the request was made in an earlier tenancy")
    return (
        ConsentGranted(
            consent_id=command.consent_id,
            tenancy_id=tenancy.tenancy_id,
            decided_at=now,
            channel=command.channel,
            evidence=command.evidence,
            **_fields(terms),
        ),
        *_recorded(command, now),
    )


def _recorded(
    command: RequestConsent | GrantConsent, now: datetime
) -> tuple[ConsentTermsRecorded, ...]:
    """The rest of the record, in the same command, if there is one."""
    if command.record is None:
        return ()
    return (ConsentTermsRecorded(command.consent_id, command.record, now),)


def decline(access: MeterAccess, command: DeclineConsent, now: datetime) -> ConsumersEvents:
    """The consumer says no; once granted, only revoking helps."""
    consent = _theirs(access, command)
    if consent is not None and consent.state in FINAL:
        return ()
    if consent is not None and not is_bar(consent) and consent.answer_by is None:
        raise Refused(Reason.CONSENT_STATE, "what was granted is revoked, not declined")
    return (ConsentDeclined(command.consent_id, now),)


def lapse(access: MeterAccess, command: LapseConsent, now: datetime) -> ConsumersEvents:
    """A request left unanswered is closed, never before its time."""
    consent = _known(access, command.consent_id)
    if consent.state is not ConsentState.REQUESTED:
        return ()
    if not unanswered(consent, now):
        raise Refused(Reason.CONSENT_STATE, "there is still time to answer")
    return (ConsentLapsed(command.consent_id, now),)


def narrow(access: MeterAccess, command: NarrowConsent, now: datetime) -> ConsumersEvents:
    """The consumer allows less; allowing more needs fresh consent."""
    consent = _known(access, command.consent_id)
    check_own(command.by, consent)
    _check_stands(consent, access, now)
    categories = consent.categories if command.categories is None else command.categories
    history_from = command.history_from or consent.history_from
    expires = command.expires or consent.expires
    scope = (categories, history_from, expires)
    if not categories:
        raise Refused(Reason.FIELD_MISSING, "a consent names at least one category")
    if scope_is_wider(*scope, consent):
        raise Refused(Reason.CONSENT_WIDER, "a wider scope needs fresh consent")
    if expires <= consent.valid_from:
        raise Refused(Reason.INTERVAL_INVALID, "the consent would expire before it is valid")
    if scope == (consent.categories, consent.history_from, consent.expires):
        return ()
    return (ConsentNarrowed(command.consent_id, consent.version + 1, *scope, decided_at=now),)


def suspend(access: MeterAccess, command: SuspendConsent, now: datetime) -> ConsumersEvents:
    """Reads stop until the suspension is lifted, at a meter that has yet to see the consent too."""
    consent = find_consent(access, command.consent_id)
    if consent is not None:
        over = consent.state in FINAL
        if over or not outranks(command.by, consent.suspended_by):
            return ()
    return (ConsentSuspended(command.consent_id, command.by.role, command.reason, now),)


def outranks(by: Actor, suspended_by: str) -> bool:
    """Whether a suspension by this role adds to the one in place; governance's stands above all."""
    return not suspended_by or (by.role == Role.GOVERNANCE and suspended_by != Role.GOVERNANCE)


def check_may_resume(by: Actor, suspended_by: str) -> None:
    """A suspension is lifted by the role that imposed it, or by governance."""
    if by.role not in (suspended_by, Role.GOVERNANCE):
        raise NotPermitted(Reason.ROLE_NOT_ALLOWED, "another role suspended the consent")


def resume(access: MeterAccess, command: ResumeConsent, now: datetime) -> ConsumersEvents:
    """The suspension is lifted, if the consent still stands."""
    consent = _known(access, command.consent_id)
    if consent.state is not ConsentState.SUSPENDED:
        _check_stands(consent, access, now)
        return ()
    check_may_resume(command.by, consent.suspended_by)
    _check_stands(consent, access, now)
    return (ConsentResumed(command.consent_id, now),)


def end_consent(
    access: MeterAccess, command: RevokeConsent | WithdrawConsent, now: datetime
) -> ConsumersEvents:
    """The consumer revokes or the data user withdraws; nothing stands in the way; it is final."""
    consent = _theirs(access, command)
    if consent is not None and consent.state in FINAL:
        return ()
    if isinstance(command, RevokeConsent):
        return (ConsentRevoked(command.consent_id, now),)
    return (ConsentWithdrawn(command.consent_id, now),)


def _theirs(
    access: MeterAccess, command: DeclineConsent | RevokeConsent | WithdrawConsent
) -> Consent | None:
    """The consent, if it is the asker's to end. One never seen here may be barred by anyone."""
    check_named(command.consent_id)
    consent = find_consent(access, command.consent_id)
    if consent is not None and not is_bar(consent):
        check_own(command.by, consent)
    if consent is None:
        _check_may_bar(access, command.by)
    return consent


def _check_may_bar(access: MeterAccess, by: Actor) -> None:
    """A bar stays with the meter for ever: a consumer must have lived there to put one up."""
    if by.role == Role.CONSUMER and all(t.consumer_ref != by.party for t in access.tenancies):
        raise NotPermitted(Reason.NOT_AN_OCCUPIER, "the consumer never lived here")
    _check_room(access)


def _check_room(access: MeterAccess) -> None:
    if len(access.consents) >= CONSENTS_MAX:
        raise Refused(Reason.REQUEST_TOO_LARGE, "the meter holds no more consents")


def _known(access: MeterAccess, consent_id: str) -> Consent:
    consent = find_consent(access, consent_id)
    if consent is None or is_bar(consent):
        raise Refused(Reason.CONSENT_UNKNOWN, "the meter has no such consent")
    return consent


def _check_stands(consent: Consent, access: MeterAccess, now: datetime) -> None:
    """Refuse unless the consent is live, or waits for its first day or a suspension to end."""
    refusal = consent_refusal(consent, access, now)
    if refusal not in (None, Reason.CONSENT_SUSPENDED, Reason.CONSENT_NOT_YET_VALID):
        raise Refused(refusal, "the consent does not stand")


def _check_not_over(consent: Consent) -> None:
    if consent.state in FINAL:
        raise Refused(FINAL[consent.state], "a consent that is over is never granted again")
    if consent.state is ConsentState.SUSPENDED:
        raise Refused(Reason.CONSENT_SUSPENDED, "a suspended consent is resumed, not granted")


def _occupied_by(access: MeterAccess, consumer_ref: str, now: datetime) -> Tenancy:
    tenancy = access.tenancy_at(now)
    if tenancy is None or tenancy.consumer_ref != consumer_ref:
        raise Refused(Reason.NOT_AN_OCCUPIER, "the consumer does not live there now")
    return tenancy


def _is_same(
    access: MeterAccess, consent: Consent, terms: ConsentTerms, record: RecordTerms | None
) -> bool:
    """Whether the consent says the same. Two seals of one notice differ; its hash does not."""
    said = _fields(terms)
    same = all(getattr(consent, name) == said[name] for name in said if name != "notice")
    return same and says_the_same(record, terms_of(access, consent.consent_id))


def _fields(terms: ConsentTerms) -> dict[str, Any]:
    """The terms by name, as the events and the consent spell them."""
    return {name: getattr(terms, name) for name in _TERMS}


def consent_codes(policy_version: int) -> Mapping[str, list[str]]:
    """The purposes and categories that this version of the policy lets consent carry."""
    codes: Mapping[str, list[str]] | None = bases_of(policy_version).get(Basis.CONSENT)
    if codes is None:
        message = "this build does not know the policy in force"
        raise Refused(Reason.POLICY_VERSION_STATE, message)
    return codes
