"""What is read and hashed once comes out as if it were made anew each time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domains.metering.events import MeterCommunicationLost
from domains.metering.views import everything_said_of_each
from spine import trust
from spine.answer import half_hours_digests
from spine.dsi import again
from spine.dsi.again import Rebuilder
from spine.gb import Interval
from spine.policy import Category, Permit
from spine.rows import Decided
from tests.core.test_audit import lived
from tests.helpers.history import History, day, rebuild
from tests.helpers.records import NEIGHBOUR

TOPICS = (trust.READINGS_TOPIC, trust.METERING_TOPIC)


def told() -> tuple[History, Decided]:
    """A meter with versions of a day, a batch refused, a silence; and one read of it."""
    history = lived()
    for first_wh in (300, 500):
        history.readings(first_wh=first_wh)
    history.facts(MeterCommunicationLost(day(6, 2), day(6, 2)))
    history.readings(first_wh=700)
    return history, history.ask().decided[0]


HISTORY, READ = told()
ROWS: dict[str, Any] = {topic: HISTORY.folds[topic].rows for topic in TOPICS}
ENDS = {p.topic: p.offset for p in HISTORY.positions(*TOPICS)}


@st.composite
def reads(draw: st.DrawFn) -> tuple[Decided, dict[str, int]]:
    """A decision over some hours, at some time, as of some positions, covered or not."""
    start, end = draw(st.sampled_from([(1, 2), (1, 4), (2, 3)])), draw(st.integers(0, 23))
    asked = Interval(day(6, start[0], draw(st.integers(0, 23))), day(6, start[1] + 1, end))
    covered = draw(st.sampled_from([(asked,), (Interval(day(6, 1), day(6, 2, 6)),), ()]))
    request = replace(READ.request, interval_from=asked.start, interval_to=asked.end)
    request = replace(request, as_of_known=draw(st.sampled_from([None, day(6, 2, 1)])))
    at_ms = READ.now_ms - draw(st.integers(0, 250)) * 86_400_000
    below = {topic: draw(st.integers(0, end)) for topic, end in ENDS.items()}
    if draw(st.booleans()):
        del below[trust.METERING_TOPIC]
    permit = Permit(covered)
    return replace(READ, request=request, decision=permit, now_ms=at_ms), below


@settings(max_examples=60, deadline=None)
@given(
    asked=st.lists(reads(), min_size=2, max_size=12),
    most=st.sampled_from([1, 2, 8]),
    room=st.sampled_from([10, 1_000, 1_000_000]),
)
def test_an_answer_made_again_is_the_answer(
    asked: list[tuple[Decided, dict[str, int]]], most: int, room: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(again, "KEPT_OF_ONE_MAX", most)
        patch.setattr(again, "KEPT_MAX", most)
        patch.setattr(again, "HALF_HOURS_MAX", room)
        rebuilder = Rebuilder()
        for decided, below in (*asked, *asked):
            anew, kept = rebuild(decided, ROWS, below), rebuilder(decided, ROWS, below)
            assert (kept.rows, kept.digest, kept.absent) == (anew.rows, anew.digest, anew.absent)
            assert list(kept.half_hours) == list(anew.half_hours)


def test_what_is_asked_repeatedly_is_read_and_hashed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    done = Counter[str]()

    def counted(name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def count(*given: Any) -> Any:
            done[name] += 1
            return work(*given)

        return count

    for work in (half_hours_digests, everything_said_of_each):
        name = work.__name__
        monkeypatch.setattr(again, name, counted(name, work))
    rebuilder = Rebuilder()
    first = rebuilder(READ, ROWS, ENDS)
    for later_ms in range(5):
        later = replace(READ, now_ms=READ.now_ms + later_ms)
        assert rebuilder(later, ROWS, ENDS).digest == first.digest
    assert done == {"half_hours_digests": 1, "everything_said_of_each": 1}
    before = {**ENDS, trust.READINGS_TOPIC: ENDS[trust.READINGS_TOPIC] - 1}
    assert rebuilder(READ, ROWS, before).digest != first.digest, "a version less is another answer"
    other = {**ROWS, trust.READINGS_TOPIC: type(ROWS[trust.READINGS_TOPIC])()}
    assert rebuilder(READ, other, ENDS).rows == 0, "and so are other rows"


def of_which_all_is_recorded() -> list[tuple[Decided, dict[str, Any], dict[str, int]]]:
    """Reads of hours that all have a value; each differs from the first in one of the
    things that go into an answer, or in its time alone, which does not.
    """
    other = lived()
    other.readings(first_wh=10)
    other.readings(first_wh=20, mpxn=NEIGHBOUR)
    rows = {topic: other.folds[topic].rows for topic in TOPICS}
    ends = {p.topic: p.offset for p in other.positions(*TOPICS)}
    half = Interval(day(6, 1), day(6, 1, 12))
    whole = Interval(day(6, 1), day(6, 1, 23))
    request = replace(READ.request, interval_from=whole.start, interval_to=whole.end)
    first = replace(READ, request=request, decision=Permit((whole,)))
    shorter = replace(request, interval_to=half.end)
    before = {**ends, trust.READINGS_TOPIC: ends[trust.READINGS_TOPIC] - 2}
    return [
        (first, rows, ends),
        (replace(first, now_ms=first.now_ms + 1), rows, ends),
        (replace(first, decision=Permit((half,))), rows, ends),
        (replace(first, decision=Permit((half, Interval(half.end, whole.end)))), rows, ends),
        (replace(first, request=shorter), rows, ends),
        (replace(first, member=NEIGHBOUR), rows, ends),
        (replace(first, request=replace(request, measurement_quantity="AE")), rows, ends),
        (first, rows, before),
        (first, {**ROWS}, ENDS),
    ]


def same_as_anew(rebuilder: Rebuilder) -> bool:
    """Whether those reads, each made twice, come out as if nothing had been kept."""
    asked = of_which_all_is_recorded()
    return all(
        (kept.rows, kept.digest, kept.absent, list(kept.half_hours))
        == (anew.rows, anew.digest, anew.absent, list(anew.half_hours))
        for decided, rows, below in (*asked, *asked[::-1])
        for kept, anew in [(rebuilder(decided, rows, below), rebuild(decided, rows, below))]
    )


@pytest.mark.parametrize("left_out", [0, 1], ids=["which version", "what is covered"])
def test_whatever_goes_into_a_whole_answer_is_noticed(
    left_out: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert same_as_anew(Rebuilder())
    complete = again.goes_into_whole

    def naive(version: int, decided: Decided) -> Any:
        return complete(version, decided)[1 - left_out]

    monkeypatch.setattr(again, "goes_into_whole", naive)
    assert not same_as_anew(Rebuilder()), "a key that leaves something out hides a difference"


def test_of_what_is_kept_only_whole_answers_do_without_their_own_time() -> None:
    """A half hour without a value is not due yet, late, or never recorded, by when it was asked."""
    rebuilder, reasons = Rebuilder(), set()
    for days in (0, 100, 500):
        later = replace(READ, now_ms=READ.now_ms + days * 86_400_000)
        answer = rebuilder(later, ROWS, ENDS)
        assert answer.absent == rebuild(later, ROWS, ENDS).absent
        reasons |= {run.reason for run in answer.absent}
    assert len(reasons) > 1 and not any(kept.whole for kept in rebuilder._kept.values())


def test_however_long_the_intervals_are_no_more_is_kept_than_a_sum_of_half_hours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A data user chooses them: to count what was asked, not how much of it, bounds nothing."""

    def kept_of(many: int) -> tuple[Rebuilder, int]:
        rebuilder = Rebuilder()
        for number in range(many):
            end = day(6, 2, number)
            asked = replace(READ.request, interval_from=day(6, 1), interval_to=end)
            permit = Permit((Interval(day(6, 1), end),))
            decided = replace(READ, request=asked, decision=permit)
            for at in (ENDS[trust.READINGS_TOPIC] - 1, ENDS[trust.READINGS_TOPIC]):
                below = {**ENDS, trust.READINGS_TOPIC: at}
                answer = rebuilder(decided, ROWS, below)
                assert answer.digest == rebuild(decided, ROWS, below).digest
        return rebuilder, sum(each.half_hours for each in rebuilder._kept.values())

    _, naive = kept_of(20)
    most = naive // 3
    monkeypatch.setattr(again, "HALF_HOURS_MAX", most)
    rebuilder, half_hours = kept_of(20)
    assert most // 2 < half_hours <= most < naive
    assert rebuilder._half_hours == half_hours, "it is counted as it is"
    monkeypatch.setattr(again, "HALF_HOURS_MAX", 10)
    rebuilder, half_hours = kept_of(2)
    assert not rebuilder._kept and rebuilder._half_hours == half_hours == 0, "one is too much"


def test_rows_that_are_not_there_are_missed() -> None:
    for rows, below in (({}, ENDS), (ROWS, {})):
        with pytest.raises(LookupError):
            Rebuilder()(READ, rows, below)


@pytest.mark.parametrize("category", [Category.METERING_POINT, Category.CONSENTS])
def test_records_are_made_as_ever(category: Category) -> None:
    decided = replace(READ, request=replace(READ.request, category=category))
    assert Rebuilder()(decided, ROWS, ENDS) == rebuild(decided, ROWS, ENDS)
