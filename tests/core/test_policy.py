"""Who may read: one row per refusal in order of precedence, and properties over random consents."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from spine.errors import Reason
from spine.gb import HALF_HOUR, Interval
from spine.policy import (
    Appointment,
    Consent,
    ConsentState,
    Decision,
    MeterAccess,
    Permit,
    Refuse,
    Situation,
    Supply,
    Tenancy,
    decide_v1,
)
from spine.trust import Accreditation, Participant
from tests.helpers.access import access_request

START = datetime(2025, 1, 1, tzinfo=UTC)
NOW = datetime(2025, 6, 1, tzinfo=UTC)
ASKED = (datetime(2025, 5, 1, tzinfo=UTC), datetime(2025, 5, 2, tzinfo=UTC))
BEFORE = (datetime(2024, 5, 1, tzinfo=UTC), datetime(2024, 5, 2, tzinfo=UTC))
FUTURE = datetime(2025, 7, 1, tzinfo=UTC)

ACCREDITED = Participant(
    "Anyone Ltd",
    accreditations=tuple(
        Accreditation(role, "CCS", "1", (), START, None)
        for role in ("data_user", "supplier", "data_service")
    ),
)
ANNA = Tenancy("t-anna", "c-anna", START)
CONSENT = Consent(
    consent_id="k-1",
    version=3,
    state=ConsentState.ACTIVE,
    data_user="adviser",
    tenancy_id="t-anna",
    consumer_ref="c-anna",
    purpose="ENERGY_ADVICE",
    categories=("HH_CONSUMPTION",),
    history_from=START,
    valid_from=START,
    expires=datetime(2026, 1, 1, tzinfo=UTC),
    changed_at=START,
)
HOME = MeterAccess(
    (ANNA,),
    (Supply("BRIT", START),),
    (Appointment("SDAT", "data_service", START),),
    (CONSENT,),
)
SUBJECT = {"role": "consumer", "party": "c-anna", "basis": "SUBJECT", "purpose": "OWN_USE"}
SETTLEMENT = {"basis": "LEGAL_OBLIGATION", "purpose": "SETTLEMENT"}
SUPPLIER = {"role": "supplier", "party": "BRIT", **SETTLEMENT}
AGENT = {"role": "data_service", "party": "SDAT", **SETTLEMENT}


def home(**consent: Any) -> MeterAccess:
    """Anna's home, its consent changed."""
    return structs.replace(HOME, consents=(structs.replace(CONSENT, **consent),))


def judge(
    access: MeterAccess | None = HOME,
    asked: tuple[datetime, datetime] = ASKED,
    participant: Participant | None = ACCREDITED,
    closed: Reason | None = None,
    clock_sure: bool = True,
    **who: Any,
) -> Decision:
    """The decision on one read of Anna's meter."""
    situation = Situation(access, participant, NOW, closed, clock_sure)
    return decide_v1(access_request(asked, **who), situation)


SUSPENDED = replace(ACCREDITED, suspended=True)
ONLY_RESEARCH = Participant(
    "A", accreditations=(Accreditation("data_user", "CCS", "1", ("RESEARCH",), START, None),)
)
LAPSED_ACCREDITATION = Participant(
    "A", accreditations=(Accreditation("data_user", "CCS", "1", (), START, NOW),)
)
ENDED = structs.replace(HOME, tenancies=(structs.replace(ANNA, effective_to=NOW),))
# Every row also breaks the rules of the rows below it wherever one request can break both.
REFUSALS: list[tuple[Reason, dict[str, Any]]] = [
    (Reason.CLOCK_UNSURE, {"clock_sure": False, "asked": ASKED[::-1], "role": "janitor"}),
    (Reason.INTERVAL_INVALID, {"asked": ASKED[::-1], "role": "janitor"}),
    (Reason.INTERVAL_INVALID, {"asked": (NOW, NOW)}),
    (Reason.INTERVAL_INVALID, {"asked": (NOW, NOW + timedelta(days=3_654))}),
    (Reason.ROLE_UNKNOWN, {"role": "janitor", "basis": "WHIM"}),
    (Reason.BASIS_UNKNOWN, {"basis": "WHIM", "purpose": "NOSINESS"}),
    (Reason.BASIS_NOT_FOR_ROLE, {"basis": "SUBJECT", "purpose": "NOSINESS"}),
    (Reason.PURPOSE_UNKNOWN, {"purpose": "NOSINESS", "category": "DIARY"}),
    (Reason.CATEGORY_UNKNOWN, {"category": "DIARY", "participant": None}),
    (Reason.PARTICIPANT_UNKNOWN, {"participant": None, "closed": Reason.METER_CLOSED}),
    (Reason.PARTICIPANT_SUSPENDED, {"participant": SUSPENDED, "closed": Reason.METER_CLOSED}),
    (Reason.ACCREDITATION_MISSING, {"participant": Participant("A"), "access": None}),
    (Reason.ACCREDITATION_MISSING, {"participant": ONLY_RESEARCH}),
    (Reason.ACCREDITATION_MISSING, {"participant": LAPSED_ACCREDITATION}),
    (Reason.METER_CLOSED, {"closed": Reason.METER_CLOSED, "access": None}),
    (Reason.METER_UNKNOWN, {"access": None}),
    (Reason.NO_CONSENT, {"party": "rival", "purpose": "RESEARCH"}),
    (Reason.NO_CONSENT, {"consent_id": "k-2"}),
    (Reason.CONSENT_SCOPE, {"purpose": "RESEARCH"}),
    (Reason.CONSENT_SCOPE, {"category": "EXPORT", "access": home(state=ConsentState.REVOKED)}),
    (Reason.CONSENT_NOT_ANSWERED, {"access": home(state=ConsentState.REQUESTED)}),
    (Reason.CONSENT_DECLINED, {"access": home(state=ConsentState.DECLINED)}),
    (Reason.CONSENT_LAPSED, {"access": home(state=ConsentState.LAPSED)}),
    (
        Reason.CONSENT_REVOKED,
        {"access": structs.replace(ENDED, consents=home(state=ConsentState.REVOKED).consents)},
    ),
    (Reason.CONSENT_WITHDRAWN, {"access": home(state=ConsentState.WITHDRAWN, expires=NOW)}),
    (
        Reason.CONSENT_ENDED_WITH_TENANCY,
        {"access": structs.replace(ENDED, consents=home(expires=NOW).consents)},
    ),
    (Reason.CONSENT_ENDED_WITH_TENANCY, {"access": home(tenancy_id="t-ben")}),
    (Reason.CONSENT_EXPIRED, {"access": home(state=ConsentState.SUSPENDED, expires=NOW)}),
    (Reason.CONSENT_SUSPENDED, {"access": home(state=ConsentState.SUSPENDED, valid_from=FUTURE)}),
    (Reason.CONSENT_NOT_YET_VALID, {"access": home(valid_from=FUTURE)}),
    (Reason.NOT_THE_OCCUPIER, {**SUBJECT, "party": "c-ben", "asked": BEFORE}),
    (Reason.NOT_THE_SUPPLIER, {**SUPPLIER, "party": "OCTO", "asked": BEFORE}),
    (Reason.NOT_THE_AGENT, {**AGENT, "party": "NEWD", "asked": BEFORE}),
    (Reason.INTERVAL_NOT_COVERED, {"asked": BEFORE}),
    (Reason.INTERVAL_NOT_COVERED, {**SUBJECT, "asked": BEFORE}),
    (Reason.INTERVAL_NOT_COVERED, {**SUPPLIER, "asked": BEFORE}),
]


@pytest.mark.parametrize(("reason", "read"), REFUSALS, ids=[str(r) for r, _ in REFUSALS])
def test_refusals_in_order_of_precedence(reason: Reason, read: dict[str, Any]) -> None:
    decision = judge(**read)
    assert isinstance(decision, Refuse)
    assert decision.reason == reason


@pytest.mark.parametrize("who", [{}, SUBJECT, SUPPLIER, AGENT, {"category": "METERING_POINT"}])
def test_permits(who: dict[str, Any]) -> None:
    decision = judge(**who)
    assert isinstance(decision, Permit)
    assert decision.covered == (Interval(*ASKED),)


def test_a_permit_by_consent_names_consent_and_version() -> None:
    decision = judge()
    assert isinstance(decision, Permit)
    assert (decision.consent_id, decision.consent_version) == ("k-1", 3)


def test_of_several_consents_the_one_that_opens_most_counts() -> None:
    newer = structs.replace(CONSENT, consent_id="k-2", changed_at=NOW)
    shorter = structs.replace(CONSENT, history_from=ASKED[1])
    decision = judge(structs.replace(HOME, consents=(shorter, newer)))
    assert isinstance(decision, Permit)
    assert decision.consent_id == "k-2"


@pytest.mark.parametrize(
    ("read", "concerned"),
    [
        ({"asked": BEFORE}, True),
        ({"party": "rival"}, False),
        ({**SUBJECT, "asked": BEFORE}, True),
        ({**SUBJECT, "party": "c-ben"}, False),
        ({"access": None}, False),
    ],
)
def test_a_stranger_learns_nothing_from_a_refusal(read: dict[str, Any], concerned: bool) -> None:
    decision = judge(**read)
    assert isinstance(decision, Refuse)
    assert decision.concerned == concerned
    assert (decision.disclosed == Reason.NOT_PERMITTED) != concerned


# Properties. Time is counted in half hours from START so that cases meet often.


def instant(half_hour: int) -> datetime:
    return START + half_hour * HALF_HOUR


half_hours = st.integers(0, 24)
tenancies = st.lists(half_hours, min_size=2, max_size=4, unique=True).map(
    lambda bounds: tuple(
        Tenancy(f"t-{i}", f"c-{i}", instant(a), None if i == len(bounds) - 1 else instant(b))
        for i, (a, b) in enumerate(zip(sorted(bounds), [*sorted(bounds)[1:], 0], strict=True))
    )
)
consents = st.builds(
    structs.replace,
    st.just(CONSENT),
    consent_id=st.sampled_from(["k-1", "k-2", "k-3"]),
    state=st.sampled_from(ConsentState),
    data_user=st.sampled_from(["adviser", "adviser", "rival"]),
    tenancy_id=st.sampled_from(["t-0", "t-1", "t-2", "t-9"]),
    purpose=st.sampled_from(["ENERGY_ADVICE", "ENERGY_ADVICE", "RESEARCH"]),
    categories=st.sampled_from([("HH_CONSUMPTION",), ("TARIFF",), ("EXPORT", "HH_CONSUMPTION")]),
    history_from=half_hours.map(instant),
    valid_from=half_hours.map(instant),
    expires=half_hours.map(instant),
    changed_at=half_hours.map(instant),
)


@dataclass(frozen=True)
class Read:
    """A random meter, a random moment and a random question."""

    access: MeterAccess
    now: datetime
    start: int
    end: int

    def decide(self) -> Decision:
        asked = access_request((instant(self.start), instant(self.end)))
        return decide_v1(asked, Situation(self.access, ACCREDITED, self.now))


reads = st.builds(
    Read,
    st.builds(
        MeterAccess,
        tenancies,
        consents=st.lists(consents, max_size=4, unique_by=lambda c: c.consent_id).map(tuple),
    ),
    half_hours.map(instant),
    st.integers(0, 11),
    st.integers(12, 24),
)


def oracle(read: Read) -> set[int]:
    """The half hours that the best single consent opens, by asking about every one by itself."""
    best: set[int] = set()
    for consent in read.access.consents:
        opened = {h for h in range(read.start, read.end) if opens(consent, read, instant(h))}
        best = opened if len(opened) > len(best) else best
    return best


def opens(consent: Consent, read: Read, half_hour: datetime) -> bool:
    """Whether the adviser may see that half hour under that consent at that moment."""
    if consent.state != "ACTIVE" or consent.data_user != "adviser":
        return False
    if consent.purpose != "ENERGY_ADVICE" or "HH_CONSUMPTION" not in consent.categories:
        return False
    if read.now < consent.valid_from or read.now >= consent.expires:
        return False
    if half_hour < consent.history_from:
        return False
    for tenancy in read.access.tenancies:
        if tenancy.tenancy_id == consent.tenancy_id:
            end = tenancy.effective_to
            lives_there_now = tenancy.effective_from <= read.now and (end is None or read.now < end)
            lived_there_then = tenancy.effective_from <= half_hour
            lived_there_then = lived_there_then and (end is None or half_hour < end)
            return lives_there_now and lived_there_then
    return False


def permitted(decision: Decision) -> set[int]:
    """The half hours that a decision opens."""
    covered = decision.covered if isinstance(decision, Permit) else ()
    return {int((h.start - START) / HALF_HOUR) for part in covered for h in part.half_hours()}


@settings(deadline=None)
@given(reads)
def test_a_decision_opens_exactly_what_the_oracle_opens(read: Read) -> None:
    assert permitted(read.decide()) == oracle(read)


@settings(deadline=None)
@given(reads)
def test_no_consent_no_data(read: Read) -> None:
    none = replace(read, access=structs.replace(read.access, consents=()))
    assert none.decide() == Refuse(Reason.NO_CONSENT)


@settings(deadline=None)
@given(reads)
def test_what_is_covered_lies_within_tenancy_history_and_question(read: Read) -> None:
    decision = read.decide()
    if isinstance(decision, Permit):
        (consent,) = (c for c in read.access.consents if c.consent_id == decision.consent_id)
        (lived,) = (t for t in read.access.tenancies if t.tenancy_id == consent.tenancy_id)
        for part in decision.covered:
            assert part.start >= max(consent.history_from, lived.effective_from)
            assert lived.effective_to is None or part.end <= lived.effective_to
            assert instant(read.start) <= part.start < part.end <= instant(read.end)


@settings(deadline=None)
@given(reads, st.integers(0, 3))
def test_taking_a_consent_away_never_opens_more(read: Read, which: int) -> None:
    kept = tuple(c for i, c in enumerate(read.access.consents) if i != which)
    less = replace(read, access=structs.replace(read.access, consents=kept))
    assert len(permitted(less.decide())) <= len(permitted(read.decide()))


@settings(deadline=None)
@given(reads)
def test_an_expired_consent_stays_expired(read: Read) -> None:
    years_later = replace(read, now=read.now + timedelta(days=3650))
    assert isinstance(years_later.decide(), Refuse)
