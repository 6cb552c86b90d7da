"""Erasure is final, a legal duty delays it, and nobody else's reference is anybody's to erase."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from domains.consumers.erasure import (
    DUTY_LASTS_MAX,
    ERASURES,
    EraseSubject,
    Erasure,
    Standing,
    SubjectErased,
    SubjectRestricted,
    decide,
    evolve,
)
from spine.domain import Actor, fold
from spine.errors import Reason, SpineError
from spine.policy import Role

NOW = datetime(2026, 5, 1, tzinfo=UTC)
LATER = NOW + timedelta(days=365)
SERVICE, ANNA = Actor(Role.CONSENT_SERVICE, "portal"), Actor(Role.CONSUMER, "c-anna")
ERASED = SubjectErased(NOW)
RESTRICTED = SubjectRestricted("TAX_RECORDS", LATER, NOW)


def ask(by: Actor, *before: Any, now: datetime = NOW, **more: Any) -> tuple[object, ...]:
    command = EraseSubject(by, **({"consumer_ref": "c-anna"} | more))
    return decide(fold(ERASURES, before), command, now)


@pytest.mark.parametrize("by", [ANNA, SERVICE])
def test_who_asks_is_erased(by: Actor) -> None:
    assert ask(by) == (ERASED,)
    assert ask(by, ERASED) == ()


def test_a_legal_duty_restricts_until_it_is_over() -> None:
    assert ask(SERVICE, duty="TAX_RECORDS", keep_until=LATER) == (RESTRICTED,)
    assert ask(ANNA, RESTRICTED) == ()
    assert ask(SERVICE, RESTRICTED, duty="LEGAL_CLAIM", keep_until=NOW + DUTY_LASTS_MAX) == ()
    assert ask(Actor(Role.COORDINATOR, "consumers"), RESTRICTED, now=LATER) == (
        SubjectErased(LATER),
    )


REFUSED: dict[str, tuple[Actor, dict[str, Any], Reason]] = {
    "a consumer names a duty": (
        ANNA,
        {"duty": "TAX_RECORDS", "keep_until": LATER},
        Reason.ROLE_NOT_ALLOWED,
    ),
    "a consumer asks for another": (ANNA, {"consumer_ref": "c-ben"}, Reason.CONSENT_NOT_YOURS),
    "a data user asks": (Actor(Role.DATA_USER, "adviser"), {}, Reason.ROLE_NOT_ALLOWED),
    "an unknown duty": (SERVICE, {"duty": "HABIT", "keep_until": LATER}, Reason.CODE_UNKNOWN),
    "a duty without end": (SERVICE, {"duty": "TAX_RECORDS"}, Reason.INTERVAL_INVALID),
    "a duty that is over": (
        SERVICE,
        {"duty": "TAX_RECORDS", "keep_until": NOW},
        Reason.INTERVAL_INVALID,
    ),
    "a duty for ever": (
        SERVICE,
        {"duty": "TAX_RECORDS", "keep_until": NOW + DUTY_LASTS_MAX + timedelta(seconds=1)},
        Reason.INTERVAL_INVALID,
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name: str) -> None:
    by, asked, reason = REFUSED[name]
    with pytest.raises(SpineError) as refused:
        ask(by, **asked)
    assert refused.value.reason == reason


@pytest.mark.parametrize("event", [ERASED, RESTRICTED])
def test_nothing_follows_an_erasure(event: Any) -> None:
    with pytest.raises(SpineError) as refused:
        evolve(Erasure(Standing.ERASED), event)
    assert refused.value.reason == Reason.SUBJECT_ERASED
