"""How much one party may ask of one server, on a clock that the test holds."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spine.errors import Reason, Throttled
from spine.limits import PARTIES_MAX, WINDOW_S, Kind, PartyLimits, PartyUsage

LIMITS = PartyLimits(
    cost_per_s=10, burst=20, meters_per_hour=5, reads_per_hour=7, refusals_per_hour=3
)
HOUR = WINDOW_S


def refused(usage: PartyUsage, at: float, meters: Sequence[str] = (), party: str = "ACME") -> str:
    """The reason for which a call is throttled, or nothing."""
    try:
        usage.take(party, at, meters)
    except Throttled as throttled:
        assert throttled.retry_after_s > 0
        return str(throttled.reason)
    return ""


def test_a_party_spends_its_burst_and_then_its_rate() -> None:
    usage = PartyUsage(LIMITS)
    assert [refused(usage, 0) for _ in range(20)] == [""] * 20
    assert refused(usage, 0) == Reason.RATE_LIMITED
    assert refused(usage, 0.1) == ""
    assert refused(usage, 0.1) == Reason.RATE_LIMITED


def test_one_party_leaves_the_share_of_another_alone() -> None:
    usage = PartyUsage(LIMITS)
    for _ in range(30):
        refused(usage, 0)
    assert refused(usage, 0) == Reason.RATE_LIMITED
    assert refused(usage, 0, party="BETA") == ""


@given(st.lists(st.tuples(st.floats(0, 5), st.integers(1, 30)), max_size=80))
def test_nobody_gets_more_than_burst_and_rate(calls: list[tuple[float, int]]) -> None:
    usage = PartyUsage(PartyLimits(cost_per_s=10, burst=20, meters_per_hour=10**6))
    now, spent = 0.0, 0
    for pause, cost in calls:
        now += pause
        if not refused(usage, now, [f"{now}-{number}" for number in range(cost)]):
            spent += min(cost, 20)
        assert spent <= 20 + 10 * now + 1e-6


@given(st.lists(st.tuples(st.floats(0, HOUR), st.integers(0, 9)), max_size=60))
def test_the_ceiling_is_that_of_a_plain_count(calls: list[tuple[float, int]]) -> None:
    """The naive way keeps every call for ever; both must say the same."""
    usage = PartyUsage(LIMITS)
    calls_kept: list[tuple[float, str]] = []
    now = 0.0
    for pause, number in calls:
        now += pause + 1
        meter = f"meter-{number}"
        lately = {m for at, m in calls_kept if at > now - HOUR}
        expected = meter not in lately and len(lately) >= LIMITS.meters_per_hour
        assert (refused(usage, now, [meter]) == Reason.METERS_LIMITED) == expected
        if not expected:
            calls_kept.append((now, meter))


def test_meters_already_named_are_no_new_ones() -> None:
    usage = PartyUsage(LIMITS)
    meters = [f"meter-{number}" for number in range(5)]
    assert refused(usage, 0, meters) == ""
    assert refused(usage, 10, ["meter-6"]) == Reason.METERS_LIMITED
    assert refused(usage, 10, meters) == ""
    assert refused(usage, 12 + HOUR, ["meter-6"]) == ""


def test_a_call_that_is_refused_counts_no_meters() -> None:
    usage = PartyUsage(LIMITS)
    assert refused(usage, 0, [f"meter-{number}" for number in range(6)]) == Reason.METERS_LIMITED
    assert refused(usage, 1, [f"other-{number}" for number in range(5)]) == ""


def test_a_threshold_is_passed_once_an_hour_holds_more() -> None:
    usage = PartyUsage(LIMITS)
    assert usage.count("ACME", Kind.READS, 0, 7) is None
    excess = usage.count("ACME", Kind.READS, 60, 1)
    assert excess is not None
    assert (excess.counted, excess.threshold) == (8, 7)
    assert usage.count("ACME", Kind.REFUSALS, 60, 3) is None
    assert usage.count("BETA", Kind.READS, 60, 7) is None


def test_what_is_an_hour_old_counts_no_more() -> None:
    usage = PartyUsage(LIMITS)
    assert usage.count("ACME", Kind.READS, 0, 7) is None
    assert usage.count("ACME", Kind.READS, HOUR, 7) is None
    assert usage.count("ACME", Kind.READS, HOUR + HOUR / 2, 1) is not None


def test_who_was_released_begins_anew() -> None:
    usage = PartyUsage(LIMITS)
    assert usage.count("ACME", Kind.REFUSALS, 0, 4) is not None
    usage.forgive("ACME")
    assert usage.count("ACME", Kind.REFUSALS, 0, 3) is None


def test_parties_without_end_take_no_room_without_end() -> None:
    usage = PartyUsage(LIMITS)
    for number in range(PARTIES_MAX + 500):
        refused(usage, 0, party=f"party-{number}")
    assert len(usage._parties) == PARTIES_MAX


@pytest.mark.parametrize("kind", list(Kind))
def test_every_kind_has_a_threshold(kind: Kind) -> None:
    assert LIMITS.threshold(kind) > 0
