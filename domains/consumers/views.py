"""What a party may be shown of the consents at a meter, and why one opens it or does not.

A view never names another party's consent, never shows a sealed field and leaves out the bars that
tightening legs put up, since those were never anybody's consent here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from enum import StrEnum
from typing import Final

from msgspec.structs import replace

from domains.consumers.chain import ConsentRecord, records_of, terms_in, with_records
from domains.consumers.consent import unanswered
from domains.consumers.evolve import is_bar
from spine.errors import Reason
from spine.policy import Consent, ConsentState, MeterAccess, Role, consent_refusal


class ShownState(StrEnum):
    """The state of a consent as it stands now: what events brought about, and what time did."""

    REQUESTED = "REQUESTED"
    DECLINED = "DECLINED"
    LAPSED = "LAPSED"
    NOT_YET_VALID = "NOT_YET_VALID"
    ACTIVE = "ACTIVE"
    SUSPENDED = "SUSPENDED"
    REVOKED = "REVOKED"
    WITHDRAWN = "WITHDRAWN"
    EXPIRED = "EXPIRED"
    ENDED = "ENDED"


_SHOWN: Final = {
    None: ShownState.ACTIVE,
    Reason.CONSENT_NOT_ANSWERED: ShownState.REQUESTED,
    Reason.CONSENT_DECLINED: ShownState.DECLINED,
    Reason.CONSENT_LAPSED: ShownState.LAPSED,
    Reason.CONSENT_NOT_YET_VALID: ShownState.NOT_YET_VALID,
    Reason.CONSENT_SUSPENDED: ShownState.SUSPENDED,
    Reason.CONSENT_REVOKED: ShownState.REVOKED,
    Reason.CONSENT_WITHDRAWN: ShownState.WITHDRAWN,
    Reason.CONSENT_EXPIRED: ShownState.EXPIRED,
    Reason.CONSENT_ENDED_WITH_TENANCY: ShownState.ENDED,
}

_SENTENCES: Final = {
    ShownState.REQUESTED: "The consumer has not answered the request.",
    ShownState.DECLINED: "The consumer declined the request.",
    ShownState.LAPSED: "The request was not answered in time.",
    ShownState.NOT_YET_VALID: "The consent is granted but its first day has not come.",
    ShownState.ACTIVE: "The consent is live.",
    ShownState.SUSPENDED: "The consent is suspended and opens nothing until it is resumed.",
    ShownState.REVOKED: "The consumer revoked the consent.",
    ShownState.WITHDRAWN: "The data user gave the consent up.",
    ShownState.EXPIRED: "The consent has expired.",
    ShownState.ENDED: "The consent ended when its tenancy did.",
}


@dataclass(frozen=True, slots=True)
class ConsentView:
    """One consent at one meter, as its own parties see it."""

    consent_id: str
    version: int
    state: ShownState
    data_user: str
    purpose: str
    categories: tuple[str, ...]
    history_from: datetime
    valid_from: datetime
    expires: datetime
    changed_at: datetime


@dataclass(frozen=True, slots=True)
class RecordView:
    """What a record says beside its consent, to its own parties; nothing that is sealed.

    `consumer_ref` is shown to the consumer alone. `holders` are the data services that serve the
    meter, `data_from` is where what the consent opens begins.
    """

    version: int
    previous: bytes
    hash: bytes
    created_at: datetime
    consumer_ref: str
    relation: str
    authentication_level: str
    authentication_method: str
    uprn: str
    granularity: str
    onward_sharing: bool
    recipients: tuple[str, ...]
    tier: str
    holders: tuple[str, ...]
    processor: str
    data_from: datetime
    granted_at: datetime | None
    confirmed_at: datetime | None
    notice_hash: bytes
    notice_language: str
    channel: str
    evidence: str
    evidence_method: str
    has_details: bool
    changed_by: str
    reason: str


@dataclass(frozen=True, slots=True)
class RecordedConsentView(ConsentView):
    """One consent with its record."""

    record: RecordView


@dataclass(frozen=True, slots=True)
class TenancyView:
    """From when to when the premises were occupied; no `effective_to` while nobody moved out."""

    tenancy_id: str
    effective_from: datetime
    effective_to: datetime | None


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a consent opens its meter now or does not, and which stretch it opens or would open.

    `opens_to` is None while nobody has moved out.
    """

    view: ConsentView
    refusal: Reason | None
    opens_from: datetime
    opens_to: datetime | None
    sentence: str


def as_it_stood(known: Sequence[MeterAccess], at: datetime) -> MeterAccess:
    """The access of a meter as it stood at `at`, from every state that is known, oldest first.

    Tenancies, supplies and appointments say themselves from when to when they hold. A consent is
    what its last change by then made of it, and one that nobody had asked for yet is not there.
    """
    if not known:
        return MeterAccess()
    then: dict[str, tuple[Consent, ConsentRecord | None]] = {}
    for access in known:
        records = records_of(access)
        then |= {
            c.consent_id: (c, records.get(c.consent_id))
            for c in access.consents
            if c.changed_at <= at
        }
    found = [then[c.consent_id] for c in known[-1].consents if c.consent_id in then]
    stood = replace(known[-1], consents=tuple(consent for consent, _ in found))
    return with_records(stood, (record for _, record in found if record is not None))


def tenancies_for(
    access: MeterAccess, role: str, party: str, at: datetime | None
) -> tuple[TenancyView, ...]:
    """A consumer's own tenancies; a data user's, those whose consent no event has ended.

    With `at`, only what held then. A data user that was shut out learns of no later move.
    """
    open_to_it = {
        c.tenancy_id
        for c in access.consents
        if _is_own(c, role, party) and c.state in (ConsentState.ACTIVE, ConsentState.SUSPENDED)
    }
    if role == Role.CONSUMER:
        open_to_it = {t.tenancy_id for t in access.tenancies if t.consumer_ref == party}
    shown = (t for t in access.tenancies if t.tenancy_id in open_to_it)
    views = (
        TenancyView(t.tenancy_id, t.effective_from, t.effective_to)
        for t in shown
        if at is None or t.live_at(at)
    )
    return tuple(sorted(views, key=lambda view: (view.effective_from, view.tenancy_id)))


def consents_for(
    access: MeterAccess, role: str, party: str, now: datetime
) -> tuple[ConsentView, ...]:
    """The party's own consents at the meter, whatever became of them, oldest change first."""
    own = [c for c in access.consents if not is_bar(c) and _is_own(c, role, party)]
    own.sort(key=lambda c: (c.changed_at, c.consent_id))
    records, holders = records_of(access), _holders(access, now)
    views = ((_view(c, access, now), c, records.get(c.consent_id)) for c in own)
    return tuple(
        # One without a record is shown as ever: old answers are made again of it.
        view if record is None else _recorded(view, c, record, access, holders, role)
        for view, c, record in views
    )


def explain(
    access: MeterAccess, role: str, party: str, consent_id: str, now: datetime
) -> Explanation | None:
    """Why the party's own consent opens the meter or does not; None if the party has no such."""
    for consent in access.consents:
        if consent.consent_id == consent_id and not is_bar(consent):
            if not _is_own(consent, role, party):
                return None
            return _explained(consent, access, now)
    return None


def _is_own(consent: Consent, role: str, party: str) -> bool:
    if role == Role.CONSUMER:
        return consent.consumer_ref == party
    return role in (Role.DATA_USER, Role.SUPPLIER) and consent.data_user == party


def _view(consent: Consent, access: MeterAccess, now: datetime) -> ConsentView:
    return ConsentView(
        consent.consent_id,
        consent.version,
        shown_state(consent, access, now),
        consent.data_user,
        consent.purpose,
        consent.categories,
        consent.history_from,
        consent.valid_from,
        consent.expires,
        consent.changed_at,
    )


def _holders(access: MeterAccess, now: datetime) -> tuple[str, ...]:
    """The data services that serve the meter."""
    holders = {
        served.agent
        for served in access.appointments
        if served.agent_role == Role.DATA_SERVICE
        and served.effective_from <= now
        and (served.effective_to is None or now < served.effective_to)
    }
    return tuple(sorted(holders))


def _recorded(
    view: ConsentView,
    consent: Consent,
    record: ConsentRecord,
    access: MeterAccess,
    holders: tuple[str, ...],
    role: str,
) -> ConsentView:
    """The same with its record."""
    terms = terms_in(record)
    said = RecordView(
        record.version,
        record.previous,
        record.hash,
        record.created_at,
        consent.consumer_ref if role == Role.CONSUMER else "",
        terms.relation,
        terms.authentication_level,
        terms.authentication_method,
        terms.uprn,
        terms.granularity,
        terms.onward_sharing,
        terms.recipients,
        terms.tier,
        holders,
        terms.processor,
        max([consent.history_from, *_moved_in(consent, access)]),
        record.granted_at,
        record.confirmed_at,
        consent.notice_hash,
        consent.notice_language,
        consent.channel,
        consent.evidence,
        terms.evidence_method,
        terms.details is not None,
        record.changed_by,
        record.reason,
    )
    plain = {each.name: getattr(view, each.name) for each in fields(ConsentView)}
    return RecordedConsentView(**plain, record=said)


def _moved_in(consent: Consent, access: MeterAccess) -> Iterator[datetime]:
    return (t.effective_from for t in access.tenancies if t.tenancy_id == consent.tenancy_id)


def shown_state(consent: Consent, access: MeterAccess, now: datetime) -> ShownState:
    """How a consent stands at `now`."""
    if unanswered(consent, now):
        return ShownState.LAPSED
    return _SHOWN[consent_refusal(consent, access, now)]


def _explained(consent: Consent, access: MeterAccess, now: datetime) -> Explanation:
    view = _view(consent, access, now)
    tenancy = next(t for t in access.tenancies if t.tenancy_id == consent.tenancy_id)
    return Explanation(
        view,
        consent_refusal(consent, access, now),
        max(consent.history_from, tenancy.effective_from),
        tenancy.effective_to,
        _SENTENCES[view.state],
    )
