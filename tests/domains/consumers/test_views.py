"""What each party is shown of the consents at a meter."""

from typing import Any

import pytest

from domains.consumers.decider import CONSUMERS
from domains.consumers.events import (
    ConsentDeclined,
    ConsentRevoked,
    ConsentSuspended,
    ConsentWithdrawn,
    TenancyEnded,
)
from domains.consumers.views import ShownState, consents_for, explain
from spine.domain import fold
from spine.errors import Reason
from tests.domains.consumers.home import HOME, NOW, day, granted, requested


@pytest.mark.parametrize(
    ("events", "state"),
    [
        ((granted(),), "ACTIVE"),
        ((granted(valid_from=day(7)),), "NOT_YET_VALID"),
        ((granted(expires=day(6)),), "EXPIRED"),
        ((granted(), TenancyEnded("t-anna", day(6))), "ENDED"),
        ((requested(),), "REQUESTED"),
        ((requested(answer_by=NOW),), "LAPSED"),
        ((requested(), ConsentDeclined("k-1", NOW)), "DECLINED"),
        ((granted(), ConsentSuspended("k-1", "governance", "", NOW)), "SUSPENDED"),
        ((granted(), ConsentRevoked("k-1", NOW)), "REVOKED"),
        ((granted(), ConsentWithdrawn("k-1", NOW)), "WITHDRAWN"),
    ],
)
def test_the_state_is_what_it_is_now(events: Any, state: str) -> None:
    access = fold(CONSUMERS, (*HOME, *events))
    (view,) = consents_for(access, "consumer", "c-anna", NOW)
    assert view.state == ShownState(state)


def test_a_party_sees_its_own_and_no_other() -> None:
    access = fold(CONSUMERS, (*HOME, granted()))
    assert len(consents_for(access, "data_user", "adviser", NOW)) == 1
    for role, party in (
        ("data_user", "rival"),
        ("consumer", "c-ben"),
        ("consumer", "adviser"),
        ("consent_service", "ccs"),
    ):
        assert consents_for(access, role, party, NOW) == ()
        assert explain(access, role, party, "k-1", NOW) is None


def test_a_bar_is_shown_to_nobody() -> None:
    access = fold(CONSUMERS, (*HOME, ConsentRevoked("k-1", NOW)))
    assert consents_for(access, "consumer", "", NOW) == ()
    assert explain(access, "consumer", "", "k-1", NOW) is None


def test_an_explanation_names_reason_and_stretch() -> None:
    access = fold(CONSUMERS, (*HOME, granted(history_from=day(1, year=2024))))
    told = explain(access, "data_user", "adviser", "k-1", NOW)
    assert told is not None
    assert (told.refusal, told.opens_from, told.opens_to) == (None, day(1), None)
    over = explain(access, "data_user", "adviser", "k-1", day(12))
    assert over is not None
    assert (over.refusal, over.sentence) == (Reason.CONSENT_EXPIRED, "The consent has expired.")
