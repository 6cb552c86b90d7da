"""Answers in columns say, half hour by half hour, what the definition says."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from spine.answer import (
    ABSENT,
    SETTLEMENT_ALLOWANCE,
    Absent,
    Circumstances,
    HalfHour,
    Recorded,
    absent_runs,
    half_hours,
    half_hours_digest,
)
from spine.event import AbsentRun
from spine.gb import HALF_HOUR, Interval
from tests.helpers.half_hours import digest_row_by_row, in_columns

START = datetime(2025, 3, 30, tzinfo=UTC)
COUNT = 24

recorded = st.builds(
    Recorded,
    st.integers(-(2**31), 2**31 - 1),
    st.sampled_from(("A", "E", "", "estimated")),
    st.integers(0, 2**62),
    st.integers(0, 999),
)
places = st.lists(st.one_of(recorded, st.sampled_from(Absent)), max_size=COUNT)
parts = st.lists(st.tuples(st.integers(-2, COUNT * 2), st.integers(1, COUNT)), max_size=3)


def rows_of(said: Sequence[Recorded | Absent]) -> list[HalfHour]:
    return [
        HalfHour("1200000000003", START + HALF_HOUR * place, None, one)
        if isinstance(one, Absent)
        else HalfHour("1200000000003", START + HALF_HOUR * place, one)
        for place, one in enumerate(said)
    ]


@given(places)
def test_columns_are_the_rows_they_were_made_of(said: list[Recorded | Absent]) -> None:
    rows, columns = rows_of(said), in_columns(rows_of(said))
    assert list(columns) == rows
    assert list(columns[1:3]) == rows[1:3]
    assert columns.recorded == sum(row.recorded is not None for row in rows)
    assert half_hours_digest(columns) == digest_row_by_row(rows)


@given(places)
def test_runs_hold_every_absent_half_hour_once_and_are_as_long_as_can_be(
    said: list[Recorded | Absent],
) -> None:
    rows = rows_of(said)
    runs = absent_runs(in_columns(rows))
    spelled_out = [
        (run.start + HALF_HOUR * nth, run.reason) for run in runs for nth in range(run.half_hours)
    ]
    assert spelled_out == [(row.start, str(row.absent)) for row in rows if row.absent]
    for run, after in pairwise(runs):
        adjoining = run.start + HALF_HOUR * run.half_hours == after.start
        assert not (adjoining and run.reason == after.reason)


@given(places, parts, st.integers(-60, COUNT * 30 + 60))
def test_a_half_hour_is_covered_whole_or_not_at_all_and_due_once_it_has_ended(
    said: list[Recorded | Absent], covered: list[tuple[int, int]], minutes: int
) -> None:
    now = START + HALF_HOUR * minutes / 30
    found = in_columns(rows_of(said)).columns
    quarter = HALF_HOUR / 2
    open_parts = [Interval(START + quarter * a, START + quarter * (a + n)) for a, n in covered]
    for place, row in enumerate(half_hours("1200000000003", open_parts, found, now)):
        end = row.start + HALF_HOUR
        expected: Absent | None = None
        if not any(part.start <= row.start and end <= part.end for part in open_parts):
            expected = Absent.CONSENT_DOES_NOT_COVER
        elif not found.present[place]:
            expected = Absent.NEVER_RECORDED if end <= now else Absent.NOT_DUE_YET
        assert row.absent == expected
        assert row.recorded == (None if expected else found.at(place))


stretches = st.lists(st.tuples(st.integers(-2, COUNT * 2), st.integers(1, COUNT)), max_size=2)


@given(
    st.lists(st.sampled_from((None, Absent.WITHDRAWN, Absent.QUARANTINED)), max_size=COUNT),
    stretches,
    stretches,
    st.integers(-60, COUNT * 30 + 60),
)
def test_of_the_reasons_that_fit_the_strongest_is_given(
    instead: list[Absent | None],
    registered: list[tuple[int, int]],
    silent: list[tuple[int, int]],
    minutes: int,
) -> None:
    found = in_columns(rows_of([Absent.LATE] * len(instead))).columns
    found.instead[:] = [ABSENT.index(each) for each in instead]
    opens = START + HALF_HOUR * minutes / 30
    at, quarter = opens + SETTLEMENT_ALLOWANCE, HALF_HOUR / 2
    parts = [
        tuple(Interval(START + quarter * a, START + quarter * (a + n)) for a, n in those)
        for those in (registered, silent)
    ]
    whole = [Interval(START, START + HALF_HOUR * COUNT)]
    known = Circumstances(at, *parts)
    for place, row in enumerate(half_hours("1200000000003", whole, found, at, known)):
        hour = Interval(row.start, row.start + HALF_HOUR)
        expected = Absent.NEVER_RECORDED
        if opens <= hour.start and any(part.contains(hour) for part in parts[0]):
            expected = Absent.LATE
        if any(part.intersect(hour) for part in parts[1]):
            expected = Absent.METER_NOT_COMMUNICATING
        assert row.absent == (instead[place] or expected)


def test_no_half_hours_are_no_runs() -> None:
    assert absent_runs(in_columns(())) == ()
    one = rows_of([Absent.LATE, Absent.LATE, Absent.WITHDRAWN])
    late = AbsentRun(START, 2, "LATE")
    assert absent_runs(in_columns(one)) == (late, AbsentRun(START + HALF_HOUR * 2, 1, "WITHDRAWN"))
