"""Consent: one row per refusal in order of precedence, then what each command brings about."""

from typing import Any

import pytest

from domains.consumers.commands import (
    DeclineConsent,
    GrantConsent,
    LapseConsent,
    NarrowConsent,
    RequestConsent,
    ResumeConsent,
    RevokeConsent,
    SuspendConsent,
    WithdrawConsent,
    tightens,
)
from domains.consumers.decider import CONSUMERS, due
from domains.consumers.events import (
    ConsentDeclined,
    ConsentLapsed,
    ConsentNarrowed,
    ConsentResumed,
    ConsentRevoked,
    ConsentSuspended,
    ConsentWithdrawn,
    TenancyEnded,
    TenancyStarted,
)
from spine.domain import fold
from spine.errors import Reason, Refused
from spine.policy import ConsentState
from tests.domains.consumers.home import (
    ADVISER,
    ANNA,
    BEN,
    COORDINATOR,
    HOME,
    NOW,
    REGULATOR,
    RIVAL,
    SERVICE,
    day,
    grant,
    granted,
    request,
    requested,
    terms,
)
from tests.helpers.specification import given

REVOKED = ConsentRevoked("k-1", day(5, 20))
WITHDRAWN = ConsentWithdrawn("k-1", day(5, 20))
DECLINED = ConsentDeclined("k-1", day(5, 20))
LAPSED = ConsentLapsed("k-1", day(5, 20))
SUSPENDED = ConsentSuspended("k-1", "consent_service", "complaint", day(5, 20))
HELD_BY_GOVERNANCE = ConsentSuspended("k-1", "governance", "complaint", day(5, 20))
CHANGED_HANDS = (TenancyEnded("t-anna", day(6)), TenancyStarted("t-ben", "c-ben", day(6)))
NARROW: dict[str, Any] = {"categories": ("TARIFF",), "history_from": day(4), "expires": day(11)}


def narrow(by: Any = ANNA, **changes: Any) -> NarrowConsent:
    return NarrowConsent(by, "k-1", **(NARROW | changes))


@pytest.mark.parametrize(
    ("events", "command", "reason"),
    [
        ((), request(by=ANNA), Reason.ROLE_NOT_ALLOWED),
        ((), request(by=RIVAL), Reason.CONSENT_NOT_YOURS),
        ((), RequestConsent(ADVISER, "", terms(), day(7)), Reason.FIELD_MISSING),
        ((), request(purpose="NOSINESS"), Reason.CODE_UNKNOWN),
        ((), request(purpose="SETTLEMENT"), Reason.CODE_UNKNOWN),
        ((), request(categories=()), Reason.FIELD_MISSING),
        ((), request(categories=("DIARY",)), Reason.CODE_UNKNOWN),
        ((), request(expires=day(5)), Reason.INTERVAL_INVALID),
        ((), request(expires=day(5, 30)), Reason.CONSENT_EXPIRED),
        ((), request(answer_by=day(6)), Reason.CONSENT_LAPSED),
        ((requested(), REVOKED), request(), Reason.CONSENT_REVOKED),
        ((granted(),), request(), Reason.CONSENT_EXISTS),
        ((requested(),), request(expires=day(11)), Reason.CONSENT_EXISTS),
        ((), request(consumer_ref="c-ben"), Reason.NOT_PERMITTED),
        ((), grant(by=ADVISER), Reason.ROLE_NOT_ALLOWED),
        ((), grant(by=BEN), Reason.CONSENT_NOT_YOURS),
        ((), grant(categories=("DIARY",)), Reason.CODE_UNKNOWN),
        ((), grant(expires=day(5, 30)), Reason.CONSENT_EXPIRED),
        ((requested(), DECLINED), grant(), Reason.CONSENT_DECLINED),
        ((requested(), LAPSED), grant(), Reason.CONSENT_LAPSED),
        ((granted(), REVOKED), grant(), Reason.CONSENT_REVOKED),
        ((granted(), WITHDRAWN), grant(), Reason.CONSENT_WITHDRAWN),
        ((granted(), SUSPENDED), grant(), Reason.CONSENT_SUSPENDED),
        ((REVOKED,), grant(), Reason.CONSENT_REVOKED),
        ((WITHDRAWN,), grant(), Reason.CONSENT_WITHDRAWN),
        ((DECLINED,), grant(), Reason.CONSENT_DECLINED),
        ((SUSPENDED,), grant(), Reason.CONSENT_SUSPENDED),
        ((granted(),), grant(history_from=day(2)), Reason.CONSENT_EXISTS),
        ((requested(),), grant(by=BEN, consumer_ref="c-ben"), Reason.CONSENT_NOT_YOURS),
        ((requested(),), grant(history_from=day(2)), Reason.CONSENT_WIDER),
        ((requested(),), grant(valid_from=day(4)), Reason.CONSENT_WIDER),
        ((requested(),), grant(purpose="RESEARCH"), Reason.CONSENT_WIDER),
        ((requested(),), grant(data_user="rival"), Reason.CONSENT_WIDER),
        (CHANGED_HANDS, grant(), Reason.NOT_AN_OCCUPIER),
        ((requested(), *CHANGED_HANDS), grant(), Reason.NOT_AN_OCCUPIER),
        ((requested(),), DeclineConsent(ADVISER, "k-1"), Reason.ROLE_NOT_ALLOWED),
        ((requested(),), DeclineConsent(ANNA, ""), Reason.FIELD_MISSING),
        ((requested(),), DeclineConsent(BEN, "k-1"), Reason.CONSENT_NOT_YOURS),
        ((granted(),), DeclineConsent(ANNA, "k-1"), Reason.CONSENT_STATE),
        ((requested(),), LapseConsent(SERVICE, "k-1"), Reason.ROLE_NOT_ALLOWED),
        ((), LapseConsent(COORDINATOR, "k-1"), Reason.CONSENT_UNKNOWN),
        ((requested(),), LapseConsent(COORDINATOR, "k-1"), Reason.CONSENT_STATE),
        ((granted(),), narrow(by=ADVISER), Reason.ROLE_NOT_ALLOWED),
        ((), narrow(), Reason.CONSENT_UNKNOWN),
        ((REVOKED,), narrow(), Reason.CONSENT_UNKNOWN),
        ((granted(),), narrow(by=BEN), Reason.CONSENT_NOT_YOURS),
        ((requested(),), narrow(), Reason.CONSENT_NOT_ANSWERED),
        ((granted(), REVOKED), narrow(), Reason.CONSENT_REVOKED),
        ((granted(), *CHANGED_HANDS), narrow(), Reason.CONSENT_ENDED_WITH_TENANCY),
        ((granted(expires=day(5, 30)),), narrow(), Reason.CONSENT_EXPIRED),
        ((granted(),), narrow(categories=()), Reason.FIELD_MISSING),
        ((granted(),), narrow(categories=("EXPORT",)), Reason.CONSENT_WIDER),
        ((granted(),), narrow(history_from=day(2)), Reason.CONSENT_WIDER),
        ((granted(),), narrow(expires=day(12, 2)), Reason.CONSENT_WIDER),
        ((granted(),), narrow(expires=day(5)), Reason.INTERVAL_INVALID),
        ((granted(),), SuspendConsent(ANNA, "k-1", ""), Reason.ROLE_NOT_ALLOWED),
        ((granted(),), ResumeConsent(ANNA, "k-1"), Reason.ROLE_NOT_ALLOWED),
        ((), ResumeConsent(SERVICE, "k-1"), Reason.CONSENT_UNKNOWN),
        ((SUSPENDED,), ResumeConsent(SERVICE, "k-1"), Reason.CONSENT_UNKNOWN),
        ((granted(), REVOKED), ResumeConsent(SERVICE, "k-1"), Reason.CONSENT_REVOKED),
        ((granted(), HELD_BY_GOVERNANCE), ResumeConsent(SERVICE, "k-1"), Reason.ROLE_NOT_ALLOWED),
        (
            (granted(), SUSPENDED, *CHANGED_HANDS),
            ResumeConsent(SERVICE, "k-1"),
            Reason.CONSENT_ENDED_WITH_TENANCY,
        ),
        ((granted(),), RevokeConsent(ADVISER, "k-1"), Reason.ROLE_NOT_ALLOWED),
        ((granted(),), RevokeConsent(BEN, "k-1"), Reason.CONSENT_NOT_YOURS),
        ((granted(),), WithdrawConsent(ANNA, "k-1"), Reason.ROLE_NOT_ALLOWED),
        ((granted(),), WithdrawConsent(RIVAL, "k-1"), Reason.CONSENT_NOT_YOURS),
    ],
)
def test_refusals(events: Any, command: Any, reason: Reason) -> None:
    given(CONSUMERS, *HOME, *events).at(NOW).when(command).refused(reason)


def test_a_request_is_answered_once() -> None:
    home = given(CONSUMERS, *HOME).at(NOW)
    asked = home.when(request()).then(requested(NOW))
    asked.when(request()).nothing()
    given_ = asked.when(grant(categories=("TARIFF",))).then(granted(NOW, categories=("TARIFF",)))
    given_.when(grant(categories=("TARIFF",))).nothing()
    assert given_.state.consents[0].answer_by is None


def test_an_answer_after_its_time_comes_too_late_without_any_event() -> None:
    asked = given(CONSUMERS, *HOME, requested()).at(day(7))
    asked.when(grant()).refused(Reason.CONSENT_LAPSED)
    assert due(asked.state, NOW) == ()
    assert due(asked.state, day(7)) == (LapseConsent(COORDINATOR, "k-1"),)
    lapsed = asked.when(LapseConsent(COORDINATOR, "k-1")).then(ConsentLapsed("k-1", day(7)))
    lapsed.when(LapseConsent(COORDINATOR, "k-1")).nothing()
    assert due(lapsed.state, day(7)) == ()


def test_a_consent_service_acts_for_the_consumer() -> None:
    home = given(CONSUMERS, *HOME).at(NOW)
    stood = home.when(grant(by=SERVICE)).then(granted(NOW))
    stood.when(RevokeConsent(SERVICE, "k-1")).then(ConsentRevoked("k-1", NOW))


@pytest.mark.parametrize(
    "command",
    [
        RevokeConsent(ANNA, "k-1"),
        WithdrawConsent(ADVISER, "k-1"),
        DeclineConsent(ANNA, "k-1"),
        SuspendConsent(REGULATOR, "k-1", ""),
    ],
)
@pytest.mark.parametrize("end", [REVOKED, WITHDRAWN, DECLINED, LAPSED])
def test_what_is_over_stays_as_it_ended(end: Any, command: Any) -> None:
    given(CONSUMERS, *HOME, requested(), end).when(command).nothing()


def test_tightening_needs_no_earlier_leg_and_shows_nobody_a_consent() -> None:
    for command, event in (
        (RevokeConsent(ANNA, "k-1"), ConsentRevoked("k-1", NOW)),
        (WithdrawConsent(ADVISER, "k-1"), ConsentWithdrawn("k-1", NOW)),
        (DeclineConsent(SERVICE, "k-1"), ConsentDeclined("k-1", NOW)),
        (
            SuspendConsent(SERVICE, "k-1", ""),
            ConsentSuspended("k-1", "consent_service", "", NOW),
        ),
    ):
        barred = given(CONSUMERS, *HOME).at(NOW).when(command).then(event)
        (bar,) = barred.state.consents
        assert (bar.data_user, bar.consumer_ref, bar.purpose) == ("", "", "")


@pytest.mark.parametrize("end", [REVOKED, WITHDRAWN, DECLINED, LAPSED, SUSPENDED])
def test_revocation_wins_in_the_fold_too(end: Any) -> None:
    for later in (granted(NOW), requested(NOW)):
        with pytest.raises(Refused):
            fold(CONSUMERS, (*HOME, end, later))


@pytest.mark.parametrize("end", [REVOKED, WITHDRAWN])
def test_what_is_over_is_not_suspended_so_that_it_could_be_resumed(end: Any) -> None:
    with pytest.raises(Refused):
        fold(CONSUMERS, (*HOME, granted(NOW), end, SUSPENDED))


def test_narrowing_is_a_new_version_of_the_same_consent() -> None:
    stood = given(CONSUMERS, *HOME, granted()).at(NOW)
    scope = (("TARIFF",), day(4), day(11))
    narrower = stood.when(narrow()).then(ConsentNarrowed("k-1", 2, *scope, NOW))
    narrower.when(narrow()).nothing()
    narrower.when(narrow(history_from=day(3))).refused(Reason.CONSENT_WIDER)
    (consent,) = narrower.state.consents
    assert (consent.version, consent.state) == (2, ConsentState.ACTIVE)


def test_a_suspension_is_lifted_by_the_role_that_imposed_it_or_by_governance() -> None:
    held = given(CONSUMERS, *HOME, granted(), SUSPENDED).at(NOW)
    held.when(SuspendConsent(SERVICE, "k-1", "again")).nothing()
    held.when(ResumeConsent(REGULATOR, "k-1")).then(ConsentResumed("k-1", NOW))
    resumed = held.when(ResumeConsent(SERVICE, "k-1")).then(ConsentResumed("k-1", NOW))
    resumed.when(ResumeConsent(SERVICE, "k-1")).nothing()
    higher = ConsentSuspended("k-1", "governance", "fraud", NOW)
    taken = held.when(SuspendConsent(REGULATOR, "k-1", "fraud")).then(higher)
    taken.when(SuspendConsent(SERVICE, "k-1", "again")).nothing()


def test_resuming_a_suspended_request_grants_nothing() -> None:
    held = given(CONSUMERS, *HOME, requested(), SUSPENDED).at(NOW)
    held.when(grant()).refused(Reason.CONSENT_SUSPENDED)
    resumed = held.when(ResumeConsent(SERVICE, "k-1")).then(ConsentResumed("k-1", NOW))
    assert resumed.state.consents[0].state is ConsentState.REQUESTED


def test_only_what_takes_access_away_tightens() -> None:
    assert tightens(RevokeConsent(ANNA, "k-1"))
    assert tightens(narrow())
    assert not tightens(GrantConsent(ANNA, "k-1", terms()))
    assert not tightens(ResumeConsent(SERVICE, "k-1"))
