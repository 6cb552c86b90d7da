"""Who was let in by a consent says that it has deleted, once that is over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domains.consumers.acknowledgements import ACKNOWLEDGEMENTS, tightens
from domains.consumers.changes import Acknowledgement
from domains.consumers.decider import CONSUMERS
from domains.consumers.deletion_terms import DELETION_TERMS, term
from domains.consumers.deletions import (
    ConfirmDeletion,
    Deletion,
    DeletionConfirmed,
    deletions,
    over_since,
)
from domains.consumers.events import (
    ConsentDeclined,
    ConsentGranted,
    ConsentLapsed,
    ConsentResumed,
    ConsentRevoked,
    ConsentSuspended,
    ConsentWithdrawn,
    TenancyEnded,
)
from spine.domain import Actor, fold
from spine.errors import NotPermitted, Reason
from spine.policy import Consent, MeterAccess, Role, consent_refusal
from spine.policy_data import POLICY_DATA
from tests.domains.consumers.test_changes import (
    ANSWER_BY,
    BEGUN,
    EXPIRES,
    HOUR,
    METER,
    MOVED_IN,
    NOW,
    REVOKED,
    granted,
    requested,
)

GRANTED = granted("k-1", HOUR)
ADVISER = Actor(Role.DATA_USER, "adviser")


def access(*events: Any) -> MeterAccess:
    state: MeterAccess = fold(CONSUMERS, (MOVED_IN, *events))
    return state


def owed(*events: Any, now: datetime = NOW) -> list[tuple[str, datetime]]:
    return [(each.consent_id, each.since) for each in deletions(METER, access(*events), now)]


def later(consent_id: str, opens: timedelta) -> ConsentGranted:
    """Granted at once, for some time to come."""
    asked = granted(consent_id, opens)
    return ConsentGranted(
        *(asked.consent_id, asked.data_user, asked.tenancy_id, asked.consumer_ref, asked.purpose),
        *(asked.categories, asked.history_from, asked.valid_from, asked.expires, BEGUN),
    )


STORIES: dict[str, tuple[tuple[Any, ...], datetime, list[tuple[str, datetime]]]] = {
    "a live consent obliges to nothing": ((GRANTED,), NOW, []),
    "a revoked one does": ((GRANTED, REVOKED), NOW, [("k-1", REVOKED.decided_at)]),
    "one that was given up too": (
        (GRANTED, ConsentWithdrawn("k-1", BEGUN + 2 * HOUR)),
        NOW,
        [("k-1", BEGUN + 2 * HOUR)],
    ),
    "one that expired, of which there is no event": ((GRANTED,), EXPIRES, [("k-1", EXPIRES)]),
    "one whose tenancy ended": (
        (GRANTED, TenancyEnded("t-1", BEGUN + 5 * HOUR)),
        NOW,
        [("k-1", BEGUN + 5 * HOUR)],
    ),
    "not before its tenancy does end": ((GRANTED, TenancyEnded("t-1", NOW + HOUR)), NOW, []),
    "revoked after it had expired, since it expired": (
        (GRANTED, ConsentRevoked("k-1", EXPIRES + 9 * HOUR)),
        EXPIRES + 10 * HOUR,
        [("k-1", EXPIRES)],
    ),
    "a suspension is not the end": (
        (GRANTED, ConsentSuspended("k-1", Role.CONSUMER, "HOLIDAY", BEGUN + 2 * HOUR)),
        NOW,
        [],
    ),
    "what expires while it is suspended is over": (
        (GRANTED, ConsentSuspended("k-1", Role.CONSUMER, "HOLIDAY", BEGUN + 2 * HOUR)),
        EXPIRES,
        [("k-1", EXPIRES)],
    ),
    "what was asked for and given up was never granted": (
        (requested("k-1", HOUR), ConsentWithdrawn("k-1", BEGUN + 2 * HOUR)),
        NOW,
        [],
    ),
    "declined": ((requested("k-1", HOUR), ConsentDeclined("k-1", BEGUN + 2 * HOUR)), NOW, []),
    "lapsed": ((requested("k-1", HOUR), ConsentLapsed("k-1", ANSWER_BY)), NOW, []),
    "asked for, and never answered": ((requested("k-1", HOUR),), EXPIRES, []),
    "revoked before its first day": ((later("k-1", 9 * HOUR), REVOKED), NOW, []),
    "suspended before its first day, and expired so": (
        (later("k-1", 9 * HOUR), ConsentSuspended("k-1", Role.CONSUMER, "HOLIDAY", BEGUN + HOUR)),
        EXPIRES,
        [],
    ),
    "over by a move before its first day, and that is still to come": (
        (later("k-1", 9 * HOUR), TenancyEnded("t-1", BEGUN + 2 * HOUR)),
        BEGUN + 5 * HOUR,
        [],
    ),
    "a move that is recorded late, since it could be read": (
        (granted("k-1", 3 * HOUR), TenancyEnded("t-1", BEGUN + 2 * HOUR)),
        NOW,
        [("k-1", BEGUN + 3 * HOUR)],
    ),
    "a bar, which was nobody's consent": ((REVOKED,), NOW, []),
    "each consent for itself, the oldest end first": (
        (
            GRANTED,
            granted("k-0", HOUR),
            ConsentRevoked("k-0", BEGUN + 9 * HOUR),
            REVOKED,
        ),
        NOW,
        [("k-1", REVOKED.decided_at), ("k-0", BEGUN + 9 * HOUR)],
    ),
}


@pytest.mark.parametrize("story", STORIES)
def test_what_is_owed(story: str) -> None:
    events, now, expected = STORIES[story]
    assert owed(*events, now=now) == expected


def whatever_is_over(consent: Consent, access: MeterAccess, now: datetime) -> datetime | None:
    """The naive rule: what ended is owed, whether or not its first day has come."""
    ends = [t.effective_to for t in access.tenancies if t.effective_to is not None]
    over = min([consent.expires, *ends])
    return max(over, consent.valid_from) if over <= now else None


def test_who_looks_at_ends_alone_has_owed_what_begins_later() -> None:
    state = access(later("k-1", 9 * HOUR), TenancyEnded("t-1", BEGUN + 2 * HOUR))
    (consent,), now = state.consents, BEGUN + 5 * HOUR
    naive = whatever_is_over(consent, state, now)
    assert naive is not None and naive > now
    assert over_since(consent, state, now) is None


HAPPENINGS: tuple[Callable[[datetime], Any], ...] = (
    lambda at: ConsentSuspended("k-1", Role.CONSUMER, "HOLIDAY", at),
    lambda at: ConsentResumed("k-1", at),
    lambda at: ConsentRevoked("k-1", at),
    lambda at: ConsentWithdrawn("k-1", at),
    lambda at: TenancyEnded("t-1", at),
)


def only_revoked(events: tuple[Any, ...], now: datetime) -> bool:
    """The naive rule: whoever listens to events of the consent hears of no other end."""
    return any(isinstance(event, ConsentRevoked | ConsentWithdrawn) for event in events)


def found_missing(rule: Callable[[tuple[Any, ...], datetime], bool], steps: list[int]) -> bool:
    """Whether a consent that had opened the meter, and never will again, obliges to nothing."""
    events: tuple[Any, ...] = (GRANTED,)
    now = BEGUN + 2 * HOUR
    for step in steps:
        now += 400 * HOUR
        if step < len(HAPPENINGS):
            try:
                access(*events, HAPPENINGS[step](now))
            except Exception:  # what the fold refuses did not happen
                continue
            events += (HAPPENINGS[step](now),)
        (consent,) = access(*events).consents
        refusal = consent_refusal(consent, access(*events), now)
        over = refusal not in (None, Reason.CONSENT_SUSPENDED)
        if over != rule(events, now):
            return True
    return False


def by_the_rule(events: tuple[Any, ...], now: datetime) -> bool:
    return bool(owed(*events, now=now))


@given(st.lists(st.integers(0, len(HAPPENINGS) + 2), max_size=30))
def test_a_consent_that_was_live_obliges_exactly_when_the_policy_says_it_is_over(
    steps: list[int],
) -> None:
    assert not found_missing(by_the_rule, steps)


def test_who_listens_to_revocations_alone_misses_the_other_ends() -> None:
    waited = [len(HAPPENINGS)] * 30
    assert found_missing(only_revoked, waited) and not found_missing(by_the_rule, waited)
    assert found_missing(only_revoked, [4])


def one(*events: Any) -> Deletion:
    (found,) = deletions(METER, access(*events), NOW)
    return found


def test_it_is_overdue_after_thirty_days() -> None:
    found = one(GRANTED, REVOKED)
    assert found.due == REVOKED.decided_at + timedelta(days=30)
    assert not found.overdue(found.due)
    assert found.overdue(found.due + timedelta(milliseconds=1))


def test_the_id_stays_whatever_else_ends_and_tells_nothing_of_the_meter() -> None:
    found = one(GRANTED, TenancyEnded("t-1", BEGUN + 5 * HOUR))
    again = one(GRANTED, TenancyEnded("t-1", BEGUN + 5 * HOUR), REVOKED)
    assert found.id == again.id and found.since != again.since
    assert METER not in found.id and "k-1" not in found.id


def test_only_the_data_user_confirms_and_once_is_enough() -> None:
    found = one(GRANTED, REVOKED)
    nothing = Acknowledgement()
    said = ACKNOWLEDGEMENTS.decide(nothing, ConfirmDeletion(ADVISER, found), NOW)
    assert said == (DeletionConfirmed("adviser", METER, "k-1", NOW),)
    confirmed = fold(ACKNOWLEDGEMENTS, said)
    assert confirmed == Acknowledgement(NOW) == fold(ACKNOWLEDGEMENTS, (*said, *said))
    assert ACKNOWLEDGEMENTS.decide(confirmed, ConfirmDeletion(ADVISER, found), NOW + HOUR) == ()
    for by, reason in (
        (Actor(Role.DATA_USER, "rival"), Reason.CONSENT_NOT_YOURS),
        (Actor(Role.CONSUMER, "c-1"), Reason.ROLE_NOT_ALLOWED),
        (Actor(Role.DATA_SERVICE, "adviser"), Reason.ROLE_NOT_ALLOWED),
        (Actor(Role.GOVERNANCE, "adviser"), Reason.ROLE_NOT_ALLOWED),
    ):
        with pytest.raises(NotPermitted) as refused:
            ACKNOWLEDGEMENTS.decide(nothing, ConfirmDeletion(by, found), NOW)
        assert refused.value.reason is reason
    assert tightens(ConfirmDeletion(ADVISER, found)), "a suspended party confirms too"


def test_it_is_shown_to_both_parties_of_the_consent_and_to_nobody_else() -> None:
    found = one(GRANTED, REVOKED)
    for by in (ADVISER, Actor(Role.SUPPLIER, "adviser"), Actor(Role.CONSUMER, "c-1")):
        assert found.is_shown_to(by)
    for by in (
        Actor(Role.DATA_USER, "c-1"),
        Actor(Role.CONSUMER, "adviser"),
        Actor(Role.CONSUMER, "c-2"),
        Actor(Role.DATA_SERVICE, "adviser"),
        Actor(Role.GOVERNANCE, "board"),
    ):
        assert not found.is_shown_to(by)


# Within how long


IN_2027 = datetime(2027, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("purpose", "since", "days"),
    [
        ("PRICE_COMPARISON", IN_2027, 14),
        ("PRICE_COMPARISON", IN_2027 - timedelta(milliseconds=1), 30),
        ("ENERGY_ADVICE", IN_2027, 30),
        ("A_PURPOSE_OF_A_LATER_BUILD", IN_2027, 30),
        ("PRICE_COMPARISON", datetime(2020, 1, 1, tzinfo=UTC), 30),
    ],
)
def test_the_term_is_the_purposes_own_by_the_table_of_the_time(
    purpose: str, since: datetime, days: int
) -> None:
    """One term for all, as it was, gives the data of a comparison more than twice its time."""
    assert term(purpose, since) == timedelta(days=days)
    owed = replace(one(GRANTED, REVOKED), purpose=purpose, since=since)
    assert owed.due == since + timedelta(days=days)


def test_no_version_of_the_terms_is_longer_than_a_month_or_names_what_is_no_purpose() -> None:
    bases: Any = POLICY_DATA[max(POLICY_DATA)]["bases"]
    known = {purpose for basis in bases.values() for purpose in basis["purposes"]}
    for number, data in DELETION_TERMS.items():
        assert data["version"] == number and set(data["purposes"]) <= known
        assert all(1 <= days <= 30 for days in (data["default_days"], *data["purposes"].values()))
    starts = [data["in_force_from"] for _, data in sorted(DELETION_TERMS.items())]
    assert starts == sorted(set(starts))
