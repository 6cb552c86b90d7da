"""Request + folded facts + now -> Permit or Refuse. The rules of who may read a meter's data.

Pure, and versioned: `spine.policies` maps the version in force (a governance fact in the log) to
its function, so an old answer is judged again by the rules of its day. Version 1 follows the
consent rules of ISO/IEC TS 27560 as GB practice reads them: a read needs a consent live *now*, made
by the occupier of *this* tenancy, whose scope holds purpose, category and interval asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from msgspec import Struct

from spine.accreditation import accreditation_refusal
from spine.errors import Reason
from spine.event import AccessRequest, Sealed
from spine.gb import Interval
from spine.policy_data import POLICY_DATA_V1
from spine.trust import Equivalence, Participant

# Bounds what one request can make a server, or an auditor years later, put together.
MAX_INTERVAL: Final = timedelta(days=3_653)


class Role(StrEnum):
    """The roles a certificate can name."""

    CONSUMER = "consumer"
    DATA_USER = "data_user"
    SUPPLIER = "supplier"
    DATA_SERVICE = "data_service"
    CONSENT_SERVICE = "consent_service"
    GOVERNANCE = "governance"
    AUDITOR = "auditor"
    COORDINATOR = "coordinator"
    DSI = "dsi"


class Basis(StrEnum):
    """The lawful basis a reader claims."""

    CONSENT = "CONSENT"
    LEGAL_OBLIGATION = "LEGAL_OBLIGATION"
    OPT_OUT = "OPT_OUT"
    CONTRACT = "CONTRACT"
    SUBJECT = "SUBJECT"


class Category(StrEnum):
    """Kinds of data a consent can cover, and the two kinds of record that a read can ask for."""

    HH_CONSUMPTION = "HH_CONSUMPTION"
    DAILY = "DAILY"
    REGISTER = "REGISTER"
    TARIFF = "TARIFF"
    EXPORT = "EXPORT"
    ASSET = "ASSET"
    LOAD_CONTROL = "LOAD_CONTROL"
    METERING_POINT = "METERING_POINT"
    CONSENTS = "CONSENTS"


class ConsentState(StrEnum):
    """The states that an event brings about. Expired and ended are derived from time."""

    REQUESTED = "REQUESTED"
    DECLINED = "DECLINED"
    LAPSED = "LAPSED"
    ACTIVE = "ACTIVE"
    SUSPENDED = "SUSPENDED"
    REVOKED = "REVOKED"
    WITHDRAWN = "WITHDRAWN"


class Tenancy(Struct, frozen=True):
    """Who occupies the premises, from moving in to moving out. The person behind it is sealed."""

    tenancy_id: str
    consumer_ref: str
    effective_from: datetime
    effective_to: datetime | None = None
    person: Sealed | None = None

    def live_at(self, now: datetime) -> bool:
        """Whether the tenancy holds at that instant."""
        return self.effective_from <= now and (self.effective_to is None or now < self.effective_to)


class Supply(Struct, frozen=True):
    """Who supplies the meter."""

    supplier: str
    effective_from: datetime
    effective_to: datetime | None = None


class Appointment(Struct, frozen=True):
    """Who is appointed agent of the meter, in which agent role (such as data_service)."""

    agent: str
    agent_role: str
    effective_from: datetime
    effective_to: datetime | None = None


class Consent(Struct, frozen=True):
    """One leg of a consent: what the occupier of one tenancy allows one data user at this meter.

    `version` counts narrowings from 1. Instants UTC; `expires` is exclusive. `history_from` is the
    earliest half hour it opens.
    """

    consent_id: str
    version: int
    state: ConsentState
    data_user: str
    tenancy_id: str
    consumer_ref: str
    purpose: str
    categories: tuple[str, ...]
    history_from: datetime
    valid_from: datetime
    expires: datetime
    changed_at: datetime
    answer_by: datetime | None = None
    suspended_by: str = ""
    notice_hash: bytes = b""
    notice_language: str = ""
    notice: Sealed | None = None
    channel: str = ""
    evidence: str = ""


class MeterAccess(Struct, frozen=True):
    """All that access to one meter depends on: the folded state of its consumer log."""

    tenancies: tuple[Tenancy, ...] = ()
    supplies: tuple[Supply, ...] = ()
    appointments: tuple[Appointment, ...] = ()
    consents: tuple[Consent, ...] = ()

    def tenancy_at(self, now: datetime) -> Tenancy | None:
        """The tenancy that holds at that instant."""
        return next((t for t in self.tenancies if t.live_at(now)), None)


class Permit(Struct, frozen=True):
    """The read is allowed for the covered intervals, under this consent if one was needed."""

    covered: tuple[Interval, ...]
    consent_id: str = ""
    consent_version: int = 0


class Refuse(Struct, frozen=True):
    """The read is refused. `concerned` says whether the caller may be told why (rule 9).

    A caller that is named in a consent of the meter, or occupies it, is concerned; to anybody else
    every refusal looks the same.
    """

    reason: Reason
    concerned: bool = False

    @property
    def disclosed(self) -> Reason:
        """The reason as the caller sees it."""
        return self.reason if self.concerned else Reason.NOT_PERMITTED


Decision = Permit | Refuse


class Situation(Struct, frozen=True):
    """What the fold knows of one meter and one caller when it reaches a request."""

    access: MeterAccess | None
    participant: Participant | None
    now: datetime
    closed: Reason | None = None
    clock_sure: bool = True
    equivalence: Equivalence | None = None


def decide_v1(request: AccessRequest, situation: Situation) -> Decision:
    """Judge one request for one meter by version 1."""
    return judge(request, situation, POLICY_DATA_V1, by_appointment)


def judge(
    request: AccessRequest,
    situation: Situation,
    data: Mapping[str, Any],
    appointed: Callable[[AccessRequest, MeterAccess], Decision],
) -> Decision:
    """Judge one request by the data of a version, and by what it lets an appointment open.

    The first rule that fails refuses.
    """
    if not situation.clock_sure:
        return Refuse(Reason.CLOCK_UNSURE, concerned=True)
    if not timedelta() < request.interval_to - request.interval_from <= MAX_INTERVAL:
        return Refuse(Reason.INTERVAL_INVALID, concerned=True)
    if (unfit := _claim(request, data)) is not None:
        return Refuse(unfit, concerned=True)
    if (unaccredited := _accreditation(request, situation, data["version"])) is not None:
        return Refuse(unaccredited, concerned=True)
    if situation.closed is not None:
        return Refuse(situation.closed, _is_concerned(request, situation.access))
    if situation.access is None:
        return Refuse(Reason.METER_UNKNOWN)
    match request.basis:
        case Basis.CONSENT:
            decision = _by_consent(request, situation.access, situation.now)
        case Basis.SUBJECT:
            decision = _by_occupancy(request, situation.access, situation.now)
        case _:
            decision = appointed(request, situation.access)
    if isinstance(decision, Refuse):
        return Refuse(decision.reason, _is_concerned(request, situation.access))
    asked = Interval(request.interval_from, request.interval_to)
    covered = tuple([part for c in decision.covered if (part := asked.intersect(c)) is not None])
    if not covered:
        return Refuse(Reason.INTERVAL_NOT_COVERED, _is_concerned(request, situation.access))
    return Permit(covered, decision.consent_id, decision.consent_version)


_ENDED_BY_EVENT: Final = {
    ConsentState.REQUESTED: Reason.CONSENT_NOT_ANSWERED,
    ConsentState.DECLINED: Reason.CONSENT_DECLINED,
    ConsentState.LAPSED: Reason.CONSENT_LAPSED,
    ConsentState.REVOKED: Reason.CONSENT_REVOKED,
    ConsentState.WITHDRAWN: Reason.CONSENT_WITHDRAWN,
}
_ROLES: Final = frozenset(Role)


def consent_refusal(consent: Consent, access: MeterAccess, now: datetime) -> Reason | None:
    """Why this consent does not open its meter at `now`; None if it is live.

    An event that ended it wins over time; tenancy over expiry, because the old occupier's word
    counts for nothing once somebody else lives there (REC change-of-tenancy rule).
    """
    if consent.state in _ENDED_BY_EVENT:
        return _ENDED_BY_EVENT[consent.state]
    tenancy = _tenancy(access, consent.tenancy_id)
    if tenancy is None or not tenancy.live_at(now):
        return Reason.CONSENT_ENDED_WITH_TENANCY
    if now >= consent.expires:
        return Reason.CONSENT_EXPIRED
    if consent.state is ConsentState.SUSPENDED:
        return Reason.CONSENT_SUSPENDED
    if now < consent.valid_from:
        return Reason.CONSENT_NOT_YET_VALID
    return None


def _claim(request: AccessRequest, data: Mapping[str, Any]) -> Reason | None:
    """Whether role, basis, purpose and category go together at all."""
    if request.role not in _ROLES:
        return Reason.ROLE_UNKNOWN
    terms = data["bases"].get(request.basis)
    if terms is None:
        return Reason.BASIS_UNKNOWN
    if request.role not in terms["roles"]:
        return Reason.BASIS_NOT_FOR_ROLE
    if request.purpose not in terms["purposes"]:
        return Reason.PURPOSE_UNKNOWN
    if request.category not in terms["categories"]:
        return Reason.CATEGORY_UNKNOWN
    if request.measurement_quantity not in data["quantities"].get(request.category, ("",)):
        return Reason.QUANTITY_NOT_IN_CATEGORY
    return None


def _accreditation(request: AccessRequest, situation: Situation, version: int) -> Reason | None:
    """Whether the party holds its role for this purpose now. A consumer needs none."""
    if request.role == Role.CONSUMER:
        return None
    who, table = situation.participant, situation.equivalence
    return accreditation_refusal(
        who, request.role, situation.now, request.purpose, table, policy_version=version
    )


def _is_concerned(request: AccessRequest, access: MeterAccess | None) -> bool:
    if access is None:
        return False
    if request.role == Role.CONSUMER:
        return any(t.consumer_ref == request.party for t in access.tenancies)
    return any(c.data_user == request.party for c in access.consents) or any(
        s.supplier == request.party for s in access.supplies
    )


def _tenancy(access: MeterAccess, tenancy_id: str) -> Tenancy | None:
    return next((t for t in access.tenancies if t.tenancy_id == tenancy_id), None)


def _by_consent(request: AccessRequest, access: MeterAccess, now: datetime) -> Decision:
    """A live consent to this data user, for this purpose and category; else the nearest reason.

    Of several, the one that opens most of the interval, and of equals the one that stood first.
    """
    theirs = [
        c
        for c in access.consents
        if c.data_user == request.party
        and (not request.consent_id or c.consent_id == request.consent_id)
    ]
    if request.category == Category.CONSENTS:
        return Permit((_ALWAYS,)) if theirs else Refuse(Reason.NO_CONSENT)
    nearest = Reason.NO_CONSENT
    live: list[Permit] = []
    if len(theirs) > 1:
        theirs.sort(key=lambda c: (c.changed_at, c.consent_id))
    for consent in theirs:
        if consent.purpose != request.purpose or not _covers(consent, request.category):
            if nearest is Reason.NO_CONSENT:
                nearest = Reason.CONSENT_SCOPE
            continue
        refusal = consent_refusal(consent, access, now)
        if refusal is not None:
            nearest = refusal
            continue
        tenancy = _tenancy(access, consent.tenancy_id)
        assert tenancy is not None
        opens = stretch(max(consent.history_from, tenancy.effective_from), tenancy.effective_to)
        live.append(Permit(opens, consent.consent_id, consent.version))
    if len(live) < 2:
        return live[0] if live else Refuse(nearest)
    asked = Interval(request.interval_from, request.interval_to)
    return max(live, key=lambda permit: _opened(permit, asked))


def _opened(permit: Permit, asked: Interval) -> timedelta:
    """How much of the interval the permit opens."""
    parts = (asked.intersect(covered) for covered in permit.covered)
    return sum((part.end - part.start for part in parts if part is not None), timedelta())


def stretch(start: datetime, end: datetime | None) -> tuple[Interval, ...]:
    """[start, end) as an interval, or nothing if it is empty; no end means for ever."""
    return (Interval(start, end or _END),) if start < (end or _END) else ()


def _covers(consent: Consent, category: str) -> bool:
    """Any live consent to a meter's data opens standing data; else it must name the category."""
    return category in consent.categories or category == Category.METERING_POINT


def _by_occupancy(request: AccessRequest, access: MeterAccess, now: datetime) -> Decision:
    """A consumer sees what was metered while living there, and its own consents, then and after."""
    lived = tuple(
        part
        for t in access.tenancies
        if t.consumer_ref == request.party and t.effective_from <= now
        for part in stretch(t.effective_from, t.effective_to)
    )
    if not lived:
        return Refuse(Reason.NOT_THE_OCCUPIER)
    if request.category == Category.CONSENTS:
        return Permit((_ALWAYS,))
    return Permit(lived)


def by_appointment(request: AccessRequest, access: MeterAccess) -> Decision:
    """A supplier sees the days it supplied, an appointed agent the days of its appointment."""
    if request.role == Role.SUPPLIER:
        held = [
            (s.effective_from, s.effective_to)
            for s in access.supplies
            if s.supplier == request.party
        ]
        missing = Reason.NOT_THE_SUPPLIER
    else:
        held = [
            (a.effective_from, a.effective_to)
            for a in access.appointments
            if a.agent == request.party and a.agent_role == request.role
        ]
        missing = Reason.NOT_THE_AGENT
    if not held:
        return Refuse(missing)
    return Permit(tuple(part for start, end in held for part in stretch(start, end)))


_END: Final = datetime(9999, 12, 31, tzinfo=UTC)
_ALWAYS: Final = Interval(datetime(1, 1, 1, tzinfo=UTC), _END)
