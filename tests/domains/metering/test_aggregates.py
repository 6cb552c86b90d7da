"""Published figures, and an attacker who may add and subtract all of them with any weights.

Meter i uses 2^i Wh in every half hour, so a figure tells of itself who is in it: the attacker's
view is made of nothing but what is published. Whether some weighted sum of figures is about a few
meters only is a question of ranks, answered exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from hypothesis import find, given
from hypothesis import strategies as st

from domains.metering import aggregates
from domains.metering.aggregates import (
    METER_BYTES,
    MOVE_BYTES,
    NO_FEEDER,
    Before,
    Bundle,
    Figure,
    Figures,
    Meter,
    Suppressed,
    figures_of,
)

LEAST = 3
GROUP = "_A"
FEEDERS = ("f1", "f2", "f3")
Publish = Callable[[str, Sequence[str], Iterable[Meter], Before, int], Figures]
Day = tuple[Meter, ...]


def meter(number: int, feeder: str = "f1", complete: bool = True) -> Meter:
    values = np.full(48, 1 << number, np.int64) if complete else None
    return Meter(f"{number:013d}", feeder, values)


def day(*feeders: str, without: Iterable[int] = (), gone: Iterable[int] = ()) -> Day:
    """Meters 0, 1, 2 ... on these feeders; some send no whole day, some are gone."""
    numbered = [(number, feeder) for number, feeder in enumerate(feeders) if number not in gone]
    return tuple(meter(number, feeder, number not in without) for number, feeder in numbered)


def published(days: Iterable[Day], publish: Publish = figures_of) -> list[Figure]:
    """Every figure of days published one after the other."""
    figures: list[Figure] = []
    before = Before()
    for meters in days:
        made = publish(GROUP, FEEDERS, meters, before, LEAST)
        figures += made.figures
        before = after(before, made)
    return figures


def after(before: Before, made: Figures) -> Before:
    """What a publication leaves to the next."""
    live = tuple(
        replace(b, feeder=made.moved.get(b.number, b.feeder))
        for b in before.live
        if b.number not in made.retired
    )
    members = {mpxn for bundle in made.formed for mpxn in bundle.mpxns}
    number = before.next_number + len(made.formed)
    return Before((*live, *made.formed), before.bundled | members, number)


def members_of(figure: Figure) -> frozenset[int]:
    return frozenset(n for n in range(48) if figure.values_wh[0] >> n & 1)


def told_apart(figures: Sequence[Figure]) -> frozenset[int] | None:
    """Fewer than LEAST meters, but some, that a weighted sum of the figures is about; or None.

    A sum that is 0 for all meters but S, and not for all of S, exists if and only if the figures
    have a larger rank than what is left of them without S.
    """
    sets = [members_of(figure) for figure in figures]
    everybody = sorted(frozenset().union(*sets))
    if not everybody:
        return None
    seen = np.array([[m in s for m in everybody] for s in sets], float)
    rank = np.linalg.matrix_rank(seen)
    for few in combinations(range(len(everybody)), min(LEAST - 1, len(everybody))):
        rest = np.delete(seen, few, axis=1)
        if rest.size == 0 or np.linalg.matrix_rank(rest) < rank:
            return frozenset(everybody[place] for place in few)
    return None


# Variants that lack a guard


def by_size_alone(
    group: str, feeders: Sequence[str], meters: Iterable[Meter], before: Before, least: int
) -> Figures:
    """Sums of whoever sent a whole day, if they are enough: what a minimum size alone gives."""
    there = [m for m in meters if m.values_wh is not None]
    figures = []
    for name in (group, *feeders):
        summed = [m for m in there if name in (group, m.feeder)]
        if len(summed) >= least:
            total = sum(m.values_wh for m in summed if m.values_wh is not None)
            assert isinstance(total, np.ndarray)
            figures.append(Figure(name, (), len(summed), tuple(total.tolist())))
    return Figures((), (), {}, (), (), tuple(figures), ())


def without_time(
    group: str, feeders: Sequence[str], meters: Iterable[Meter], before: Before, least: int
) -> Figures:
    """Bundles made anew every day: nothing holds one day against another."""
    return figures_of(group, feeders, meters, Before(), least)


def without_space(
    group: str, feeders: Sequence[str], meters: Iterable[Meter], before: Before, least: int
) -> Figures:
    """Feeders in bundles, but the GSP group is the sum of everybody in it."""
    meters = list(meters)
    made = figures_of(group, feeders, meters, before, least)
    whole = by_size_alone(group, (), meters, before, least).figures
    return replace(made, figures=(*whole, *(f for f in made.figures if f.group != group)))


def with_everybody_new(
    group: str, feeders: Sequence[str], meters: Iterable[Meter], before: Before, least: int
) -> Figures:
    """Those of a bundle that was given up make up new ones at once, as if they were new."""
    return figures_of(group, feeders, meters, replace(before, bundled=frozenset()), least)


SPACE = [day("f1", "f1", "f1", "f2", "f2")]
TIME = [day("f1", "f1", "f1", "f1"), day("f1", "f1", "f1", "f1", without=[3])]
GONE = [
    day("f1", "f1", "f1", "f1"),
    day("f1", "f1", "f1", "f1", gone=[3]),
]


@pytest.mark.parametrize(
    ("naive", "days"),
    [
        (by_size_alone, SPACE),
        (by_size_alone, TIME),
        (without_time, TIME),
        (without_space, SPACE),
        (with_everybody_new, GONE),
    ],
)
def test_without_a_guard_a_subtraction_tells_few_meters_apart(
    naive: Publish, days: list[Day]
) -> None:
    assert told_apart(published(days, naive)) is not None
    assert told_apart(published(days)) is None


def test_days_that_are_compared_two_by_two_are_no_guard() -> None:
    """Each two of these days differ by two meters or more both ways, and all four by one."""
    sets = ({1, 2, 3, 4, 9}, {5, 6, 7, 8}, {1, 2, 5, 6}, {3, 4, 7, 8})
    for one, other in combinations(sets, 2):
        assert len(one - other) >= 2 and len(other - one) >= 2
    figures = [Figure(GROUP, (), len(s), (sum(1 << n for n in s),) * 48) for s in sets]
    first, second, third, fourth = (f.values_wh[0] for f in figures)
    assert first + second - third - fourth == 1 << 9
    assert told_apart(figures) is not None


@st.composite
def lives(draw: st.DrawFn, least: int = LEAST, most: int = 11) -> list[Day]:
    """Up to 11 meters through up to 5 days: they join, leave, move, and miss days."""
    count = draw(st.integers(least, most))
    homes = st.sampled_from((NO_FEEDER, "f1", "f1", "f1", "f2", "f2", "f3"))
    feeders = [draw(homes) for _ in range(count)]
    days = []
    for _ in range(draw(st.integers(1, 5))):
        meters = []
        for number in range(count):
            fate = draw(st.sampled_from("ccccccccmga"))
            if fate == "m":  # for good
                feeders[number] = draw(homes)
            if fate != "g":
                meters.append(meter(number, feeders[number], complete=fate != "a"))
        days.append(tuple(draw(st.permutations(meters))))
    return days


@given(lives())
def test_no_sum_of_published_figures_is_about_few_meters(days: list[Day]) -> None:
    assert told_apart(published(days)) is None


@pytest.mark.parametrize("naive", [by_size_alone, without_time, without_space, with_everybody_new])
def test_the_same_lives_give_every_variant_away(naive: Publish) -> None:
    found = find(lives(), lambda days: told_apart(published(days, naive)) is not None)
    assert told_apart(published(found)) is None


@given(lives())
def test_no_difference_of_two_figures_is_about_few_meters(days: list[Day]) -> None:
    """The same, by the plainest attack and without linear algebra."""
    sets = [members_of(figure) for figure in published(days)]
    for one in sets:
        assert len(one) >= LEAST
    for one, other in combinations(sets, 2):
        assert len(one ^ other) == 0 or len(one ^ other) >= LEAST
        if other <= one:
            assert len(one - other) == 0 or len(one - other) >= LEAST


@given(lives())
def test_whoever_is_summed_sent_a_whole_day_and_is_counted(days: list[Day]) -> None:
    before = Before()
    for meters in days:
        made = figures_of(GROUP, FEEDERS, meters, before, LEAST)
        complete = {m.mpxn: m.feeder for m in meters if m.values_wh is not None}
        for figure in made.figures:
            names = {f"{n:013d}" for n in members_of(figure)}
            assert len(names) == figure.devices
            assert {figure.group} >= {complete[n] for n in names} or figure.group == GROUP
        said = [figure.group for figure in made.figures] + [group for group, _ in made.suppressed]
        assert sorted(said) == sorted((GROUP, *FEEDERS))
        before = after(before, made)
        live = [mpxn for bundle in before.live for mpxn in bundle.mpxns]
        assert len(live) == len(set(live))


@given(lives())
def test_the_order_of_the_meters_plays_no_part(days: list[Day]) -> None:
    turned = [tuple(reversed(meters)) for meters in days]
    assert published(days) == published(turned)


# One rule at a time


def made(meters: Day, before: Before = Before(), least: int = LEAST) -> Figures:  # noqa: B008
    return figures_of(GROUP, FEEDERS, meters, before, least)


def names(*numbers: int) -> tuple[str, ...]:
    return tuple(f"{number:013d}" for number in numbers)


def test_half_hours_are_summed_one_by_one() -> None:
    values = [np.arange(48, dtype=np.int64) * n for n in (1, 10, 100)]
    meters = [Meter(f"{n:013d}", "f1", v) for n, v in enumerate(values)]
    found = figures_of(GROUP, ("f1",), meters, Before(), LEAST)
    assert {f.values_wh for f in found.figures} == {tuple(111 * n for n in range(48))}


def test_a_group_that_is_too_small_says_so_and_no_count() -> None:
    found = made(day("f1", "f1", "f1", "f2", "f2"))
    assert found.suppressed == (
        ("f2", Suppressed.DIFFERENCING),
        ("f3", Suppressed.DIFFERENCING),
    )
    assert [(f.group, f.devices) for f in found.figures] == [(GROUP, 3), ("f1", 3)]


def test_enough_meters_of_which_no_bundle_is_whole_are_told_as_differencing() -> None:
    first = made(day("f1", "f1", "f1", "f1"))
    second = made(day("f1", "f1", "f1", "f1", without=[3]), after(Before(), first))
    assert second.figures == ()
    assert dict(second.suppressed)["f1"] is Suppressed.DIFFERENCING


def test_nothing_that_is_said_tells_whether_one_more_sent_a_whole_day() -> None:
    """Of those that no bundle holds: two sent a whole day, and whether the third did is unsaid."""
    before = Before((), frozenset(names(0, 1, 2)))
    two, three = (made(day(*["f1"] * 3, without=one), before) for one in ([2], []))
    assert two == three and two.figures == ()


def test_newcomers_wait_until_they_are_enough() -> None:
    before = after(Before(), made(day(*["f1"] * 3)))
    two_more = made(day(*["f1"] * 5), before)
    assert two_more.formed == ()
    three_more = made(day(*["f1"] * 6), after(before, two_more))
    assert three_more.formed == (Bundle(1, names(3, 4, 5), "f1"),)
    assert [f.devices for f in three_more.figures] == [6, 6]


def test_a_bundle_comes_back_when_its_meters_do() -> None:
    meters = day(*["f1"] * 3)
    before = after(Before(), made(meters))
    silent = made(day(*["f1"] * 3, without=[0]), before)
    assert (silent.retired, silent.left_out, silent.figures) == ((), (0,), ())
    assert [f.bundles for f in made(meters, after(before, silent)).figures] == [(0,), (0,)]


def test_a_bundle_that_can_never_be_whole_again_is_given_up() -> None:
    before = after(Before(), made(day(*["f1"] * 3)))
    found = made(day(*["f1"] * 3, gone=[0]), before)
    assert (found.retired, found.formed) == ((0,), ())


def test_a_bundle_whose_meters_part_counts_in_the_gsp_group_only() -> None:
    before = after(Before(), made(day(*["f1"] * 3)))
    parted = made(day("f2", "f1", "f1"), before)
    assert [(f.group, f.bundles) for f in parted.figures] == [(GROUP, (0,))]
    assert (parted.apart, parted.moved) == ((0,), {})
    moved = made(day("f2", "f2", "f2"), before)
    assert [(f.group, f.bundles) for f in moved.figures] == [(GROUP, (0,)), ("f2", (0,))]
    assert (moved.apart, moved.moved) == ((), {0: "f2"})


def test_those_left_of_a_bundle_come_along_with_enough_new_ones() -> None:
    before = after(Before(), made(day(*["f1"] * 3)))
    given_up = made(day(*["f1"] * 5, gone=[0]), before)
    assert given_up.formed == ()
    found = made(day(*["f1"] * 6, gone=[0]), after(before, given_up))
    assert found.formed == (Bundle(1, names(1, 2, 3, 4, 5), "f1"),)


def test_bundles_are_as_small_as_they_may_be() -> None:
    found = made(day(*["f1"] * 11))
    assert [len(bundle.mpxns) for bundle in found.formed] == [3, 3, 5]


def test_who_finds_no_room_in_a_record_waits_for_the_next_day(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make_room(monkeypatch, 7 * METER_BYTES)
    meters = day(*["f1"] * 14)
    first = made(meters)
    assert [len(bundle.mpxns) for bundle in first.formed] == [3, 3]
    assert told_apart(published([meters] * 4)) is None
    assert [f.devices for f in published([meters] * 4)[::2]] == [6, 9, 14, 14]


def test_a_full_record_ends_no_publication(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of an ended bundle come along as far as there is room, and the next feeder waits."""
    ended = frozenset(names(0, 1))
    make_room(monkeypatch, 7 * METER_BYTES)
    found = made(day(*["f1"] * 8, *["f2"] * 3), Before((), ended))
    assert [len(bundle.mpxns) for bundle in found.formed] == [3, 4]


def test_bundles_that_move_and_find_no_room_are_apart_until_they_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = after(Before(), made(day(*["f1"] * 9)))
    make_room(monkeypatch, 2 * MOVE_BYTES)
    first = made(day(*["f2"] * 9), before)
    assert (first.moved, first.apart) == ({0: "f2", 1: "f2"}, (2,))
    assert [(f.group, f.bundles) for f in first.figures] == [(GROUP, (0, 1, 2)), ("f2", (0, 1))]
    second = made(day(*["f2"] * 9), after(before, first))
    assert (second.moved, second.apart) == ({2: "f2"}, ())
    assert [f.devices for f in second.figures] == [9, 9]


@given(lives(), st.integers(0, 12))
def test_little_room_tells_nothing_more(days: list[Day], meters: int) -> None:
    with pytest.MonkeyPatch.context() as patched:
        make_room(patched, meters * METER_BYTES)
        assert told_apart(published(days)) is None


def make_room(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Leave so many bytes of each publication for new bundles and those that have moved."""
    monkeypatch.setattr(aggregates, "room_of", lambda *of: count)


def test_a_larger_least_gives_smaller_bundles_up() -> None:
    before = after(Before(), made(day(*["f1"] * 3)))
    found = made(day(*["f1"] * 3), before, least=4)
    assert (found.retired, found.figures) == ((0,), ())


def test_meters_on_no_feeder_are_in_the_gsp_group_only() -> None:
    found = made(day("f1", "f1", "f1", "", "", ""))
    assert [(f.group, f.devices) for f in found.figures] == [(GROUP, 6), ("f1", 3)]
