"""States of many meters at once, kept at hand: what the fold itself says of each, at any moment."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from itertools import count, islice
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from domains.consumers.events import AgentAppointed, SupplyEnded, SupplyStarted
from domains.metering.decider import sending_part, sending_stretches
from domains.metering.judging import Points, numbers_of
from spine import trust
from spine.event import Fact
from spine.live import LiveFold
from spine.murmur2 import murmur2_partition
from spine.policy import MeterAccess, Supply
from spine.rows import SUBJECT_PREFIX
from spine.services import meters
from spine.services.meters import Kept, KnownStates, known_access, known_state
from tests.helpers.records import (
    BEGUN,
    METER,
    MOVED_IN,
    NEIGHBOUR,
    PARTITION,
    PARTITIONS,
    Scene,
    command,
    granted,
    moved_in,
)

NEVER_NAMED = "1200000000011"  # of the same partition, and no fact is about it
ASKED = [NEIGHBOUR, METER, NEVER_NAMED]
SENDERS = ("SUPP", "OTHER")
EVENTS: tuple[object, ...] = (
    SupplyStarted("SUPP", MOVED_IN),
    SupplyStarted("OTHER", MOVED_IN + timedelta(days=40)),
    SupplyEnded("SUPP", MOVED_IN + timedelta(days=60)),
    AgentAppointed("OTHER", "data_service", MOVED_IN),
    moved_in(),
    granted(),
)
UNKNOWN = Fact("consumers.NotYetKnown", BEGUN, b"\x00" + bytes(4))


class Deaf(KnownStates):
    """Naive: keeps what it once looked up, whatever is folded after."""

    def _on_facts(self, *_: Any) -> None:
        return None


class Heard:
    """A partition whose fold tells its listeners, and what is known of its meters beside it."""

    def __init__(self, known: Any = KnownStates) -> None:
        self.scene, nobody = Scene(), Scene()
        self.folds: Any = {
            (trust.CONSUMER_LOG, partition): LiveFold(
                self._stored(self.scene if partition == PARTITION else nobody)
            )
            for partition in range(PARTITIONS)
        }
        self.known: KnownStates = known(self.folds, trust.CONSUMER_LOG, PARTITIONS, sending_part)

    def _stored(self, scene: Scene) -> Any:
        return SimpleNamespace(fold=scene.fold)

    def start_again(self, known: Any) -> None:
        """A process that finds what was folded before, and learns it."""
        self.known = known(self.folds, trust.CONSUMER_LOG, PARTITIONS, sending_part)
        asyncio.run(self.known.learn())

    def kept(self, *mpxns: str) -> list[bool]:
        """Of which meters something is at hand."""
        asked = numbers_of(np.array([mpxn.encode() for mpxn in mpxns]))
        return [place >= 0 for place in self.known._kept[PARTITION].of(0, asked).tolist()]

    def say(self, subject: str, *events: object, unknown: bool = False) -> None:
        """Facts that follow on what was applied of the meter."""
        before = self.scene.fold.subject(subject)
        one = command(subject, *events, previous=(before.offset, before.entry))
        if unknown:
            one = replace(one, facts=(UNKNOWN,))
        applied = self.scene.facts(one)
        for listener in self.folds[trust.CONSUMER_LOG, PARTITION].listeners:
            listener(self.scene.log.records[-1], applied)

    def told(self) -> list[Any]:
        """What is said of the meters, all in one question."""
        names = np.array([mpxn.encode() for mpxn in ASKED])
        points = Points(names, numbers_of(names), np.arange(len(ASKED)))
        said = self.known.of(points, np.full(len(ASKED), PARTITION, np.int64))
        return [said.different[place] for place in said.of_point.tolist()]

    def right(self) -> list[Any]:
        """The same one by one, from the fold."""
        states = [known_state(self.folds, trust.CONSUMER_LOG, m, PARTITIONS) for m in ASKED]
        return [None if state is None else sending_part(state) for state in states]


@st.composite
def said(draw: st.DrawFn) -> tuple[str, tuple[object, ...], bool]:
    """A meter, what happened to it, and whether that is a fact that this build does not know."""
    events = draw(st.lists(st.sampled_from(EVENTS), min_size=1, max_size=2))
    return draw(st.sampled_from([METER, NEIGHBOUR])), tuple(events), draw(st.integers(0, 15)) == 0


@settings(max_examples=100, deadline=None)
@given(
    steps=st.lists(said() | st.none(), max_size=8),
    kept=st.sampled_from([0, 1, 1_000]),
    different=st.sampled_from([1, 2, 3, 1_000]),
    over=st.sampled_from([0, 1, 1_000]),
)
def test_what_is_kept_is_what_the_fold_says(
    steps: list[Any], kept: int, different: int, over: int
) -> None:
    """Facts and questions in any order; room for so few meters, or `different` states, that they
    find none, or `over` so few that the states of no meter are dropped again and again.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(meters, "METERS_KEPT_MAX", kept)
        patch.setattr(meters, "STATES_KEPT_MAX", different)
        patch.setattr(meters, "STATES_OVER_MAX", over)
        heard = Heard()
        for step in steps:
            if step is not None:
                heard.say(step[0], *step[1], unknown=step[2])
            assert heard.told() == heard.right()


def test_a_fact_replaces_what_is_kept_in_the_moment_it_is_folded() -> None:
    for known, follows in ((KnownStates, True), (Deaf, False)):
        heard = Heard(known)
        heard.say(METER, SupplyStarted("SUPP", MOVED_IN))
        assert heard.told() == heard.right()
        heard.say(METER, SupplyEnded("SUPP", MOVED_IN + timedelta(days=60)))
        assert (heard.told() == heard.right()) is follows, "the naive variant sends on"


class Hoarder(KnownStates):
    """Naive: keeps every state that any meter was ever in."""

    def _drop_superseded(self) -> None:
        return None


def test_states_that_no_meter_is_in_any_longer_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meters, "STATES_OVER_MAX", 4)
    for known, bounded in ((KnownStates, True), (Hoarder, False)):
        heard = Heard(known)
        heard.say(NEIGHBOUR, SupplyStarted("OTHER", MOVED_IN))
        _, *rest = heard.told()
        for day in range(40):
            heard.say(METER, SupplyStarted("SUPP", MOVED_IN + timedelta(days=day)))
        assert heard.told() == heard.right() and rest[1] is heard.told()[2]
        assert heard.kept(NEIGHBOUR, METER) == [True, True] and len(heard.known) == 2
        assert (len(heard.known._states) <= 12) is bounded


def test_meters_that_differ_only_in_their_occupiers_share_one_state() -> None:
    heard = Heard()
    heard.say(METER, SupplyStarted("SUPP", MOVED_IN), moved_in(), granted())
    heard.say(NEIGHBOUR, SupplyStarted("SUPP", MOVED_IN))
    neighbour, meter, nobody = heard.told()
    assert meter is neighbour and meter is not nobody
    known = known_access(heard.folds, METER, PARTITIONS)
    for sender in SENDERS:
        assert sending_stretches(meter, sender) == sending_stretches(known, sender)


def test_numbers_that_are_no_meters_take_no_room() -> None:
    heard = Heard()
    heard.say(METER, SupplyStarted("SUPP", MOVED_IN))
    heard.told()
    assert heard.kept(*ASKED) == [mpxn == METER for mpxn in ASKED]


@pytest.mark.parametrize("like", [f"{METER}-{{}}", f"{METER}{{}}", "c-{}", "\N{SUPERSCRIPT TWO}{}"])
def test_a_subject_that_is_no_meters_number_is_taken_for_no_meter(
    like: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Naive: takes every subject for a number, of which the first so many bytes count."""
    tried = (like.format(n) for n in count())
    subject = next(s for s in tried if murmur2_partition(s.encode(), PARTITIONS) == PARTITION)
    heard = Heard()
    heard.say(subject, SupplyStarted("SUPP", MOVED_IN))
    assert len(heard.known) == 0 and heard.told() == heard.right()
    monkeypatch.setattr(meters, "_has_number", lambda subject: True)
    naive = Heard()
    naive.say(subject, SupplyStarted("SUPP", MOVED_IN))
    assert len(naive.known) == 1
    assert (naive.told() == naive.right()) is not subject.startswith(METER)


@settings(max_examples=200, deadline=None)
@given(
    steps=st.lists(
        st.tuples(
            st.lists(st.integers(0, 9), min_size=1, unique=True),
            st.integers(0, 1),
            st.booleans(),
        ),
        max_size=20,
    ),
    short=st.sampled_from([0, 2, 1_000]),
    stretch=st.sampled_from([1, 2, 4, 512]),
    many=st.sampled_from([1, 3, 1_000]),
)
def test_columns_keep_what_dictionaries_would(
    steps: list[tuple[list[int], int, bool]], short: int, stretch: int, many: int
) -> None:
    """Putting and asking in any order, however long the runs and their stretches are, and of
    however few meters at once; of meters that no column knows there is room for six.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(meters, "SHORT_RUN", short)
        patch.setattr(meters, "STRETCH", stretch)
        patch.setattr(meters, "MANY", many)
        kept, right = Kept(columns=2), (dict[int, int](), dict[int, int]())
        for number, (asked, column, put) in enumerate(steps):
            numbers = np.array(asked, np.int64)
            if put:
                room = 6 - len(kept)
                kept.put(column, numbers, np.full(len(numbers), number, np.int32), room)
                known = [n for n in asked if n in right[0] | right[1]]
                new = [n for n in asked if n not in known]
                right[column].update(dict.fromkeys(known + new[: max(0, room)], number))
            for one in (column, 1 - column):
                assert kept.of(one, numbers).tolist() == [right[one].get(n, -1) for n in asked]
            assert len(kept) == len(right[0] | right[1])
            if number % 5 == 4:
                kept.in_one()
        everything = np.arange(10)
        for column in (0, 1):
            used = np.zeros(len(steps), np.bool_)
            kept.mark(column, used)
            assert set(np.flatnonzero(used).tolist()) == {*right[column].values()}
        kept.renumber(0, np.arange(len(steps), 0, -1, dtype=np.int32))
        now = {one: len(steps) - number for one, number in right[0].items()}
        for column, said in ((0, now), (1, right[1])):
            assert kept.of(column, everything).tolist() == [said.get(n, -1) for n in range(10)]


def test_few_runs_of_columns_hold_many_meters_that_came_one_by_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(meters, "SHORT_RUN", 1)
    kept = Kept()
    for number in range(500):
        kept.put(0, np.array([number * 7 % 500]), np.array([number], np.int32), room=500)
        assert len(kept._runs) <= 10


class Remembering(Kept):
    """Naive: takes where meters were for where they are."""

    def _add(self, *new: Any) -> None:
        found = self._found
        super()._add(*new)
        self._found = found


@pytest.mark.parametrize(("kind", "finds"), [(Kept, True), (Remembering, False)])
def test_meters_are_looked_for_again_once_others_are_among_them(kind: Any, finds: bool) -> None:
    kept, asked = kind(columns=2), np.array([2, 4])
    kept.put(0, asked, np.array([20, 40], np.int32), room=9)
    assert kept.of(0, asked).tolist() == [20, 40]
    kept.put(0, np.array([1, 3]), np.array([10, 30], np.int32), room=9)
    assert (kept.of(0, asked).tolist() == [20, 40]) is finds


def test_meters_are_looked_for_once_for_all_topics(monkeypatch: pytest.MonkeyPatch) -> None:
    looked, places = list[int](), meters._Run.places_of_many

    def noted(run: Any, numbers: Any) -> Any:
        looked.append(len(numbers))
        return places(run, numbers)

    monkeypatch.setattr(meters._Run, "places_of_many", noted)
    kept, numbers = Kept(columns=2), np.arange(0, 3_000, 3)
    for column in (0, 1):
        kept.put(column, numbers, np.full(len(numbers), column, np.int32), room=1_000)
    for column in (0, 1):
        assert (kept.of(column, numbers[::2]) == column).all()
    assert looked == [500]


def test_what_was_learnt_is_looked_for_in_one_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meters, "LEARNT_AT_ONCE", 1)
    monkeypatch.setattr(meters, "SHORT_RUN", 0)
    heard = Heard()
    here = [m for m in (f"{n:013d}" for n in range(60)) if _is_here(m)]
    for mpxn in here:
        heard.say(mpxn, SupplyStarted("SUPP", MOVED_IN))
    heard.start_again(KnownStates)
    assert [len(run.numbers) for run in heard.known._kept[PARTITION]._runs] == [len(here)]


def _is_here(mpxn: str) -> bool:
    return murmur2_partition(mpxn.encode(), PARTITIONS) == PARTITION


def test_the_store_is_asked_what_is_closed_only_once_something_was_held(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    heard = Heard()
    heard.say(METER, SupplyStarted("SUPP", MOVED_IN))
    scanned, fold = list[bytes](), heard.folds[trust.CONSUMER_LOG, PARTITION].stored.fold
    scan = fold.rows.scan

    def noted(start: bytes, end: bytes) -> Any:
        scanned.append(start)
        return scan(start, end)

    monkeypatch.setattr(fold.rows, "scan", noted)
    assert heard.told() == heard.right() and not scanned
    heard.say(METER, unknown=True)
    assert heard.told() == heard.right() and scanned
    assert heard.told()[1] is None


class Unlearnt(KnownStates):
    """Naive: knows of a meter only once it was asked for."""

    async def learn(self) -> None:
        return None


class Hasty(KnownStates):
    """Naive: lets others have their turn between a look at a row and keeping what it holds."""

    async def learn(self) -> None:
        fold, begin = self._folds[self._topic, PARTITION].stored.fold, SUBJECT_PREFIX
        while row := next(fold.rows.scan(begin, SUBJECT_PREFIX + b"\xff"), None):
            state = self._state_in(row[1], fold.tools)
            await asyncio.sleep(0)
            numbers = numbers_of(np.array([row[0].removeprefix(SUBJECT_PREFIX)]))
            self._keep(PARTITION, numbers, [state])
            begin = row[0] + b"\x00"


@pytest.mark.parametrize(("known", "finds"), [(KnownStates, True), (Unlearnt, False)])
def test_what_was_folded_before_is_learnt_and_not_looked_up(known: Any, finds: bool) -> None:
    """`c-1` is a subject and no meter."""
    heard = Heard()
    for subject in (METER, NEIGHBOUR, "c-1"):
        heard.say(subject, SupplyStarted("SUPP", MOVED_IN))
    heard.start_again(known)
    assert heard.kept(NEIGHBOUR, METER) == [finds] * 2
    assert len(heard.known) == (2 if finds else 0)
    assert heard.told() == heard.right()


@pytest.mark.parametrize(("known", "follows"), [(KnownStates, True), (Hasty, False)])
@pytest.mark.parametrize("turns", range(4))
def test_what_is_folded_while_meters_are_learnt_is_known(
    known: Any, follows: bool, turns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The facts come after so many turns of the learning, of which each is about one row."""
    monkeypatch.setattr(meters, "LEARNT_AT_ONCE", 1)
    heard = Heard()
    for subject in (METER, NEIGHBOUR):
        heard.say(subject, SupplyStarted("SUPP", MOVED_IN))
    heard.known = known(heard.folds, trust.CONSUMER_LOG, PARTITIONS, sending_part)

    async def learn() -> None:
        learning = asyncio.create_task(heard.known.learn())
        for _ in range(turns):
            await asyncio.sleep(0)
        for subject in (METER, NEIGHBOUR):
            heard.say(subject, SupplyEnded("SUPP", MOVED_IN + timedelta(days=60)))
        await learning

    asyncio.run(learn())
    between = turns in (1, 2)
    right = heard.told() == heard.right()
    assert right is (follows or not between), "the naive variant forgets what it heard meanwhile"


class Forgetful(KnownStates):
    """Naive: begins anew when it is full, as a cache may."""

    def of(self, *asked: Any) -> Any:
        if len(self) >= meters.METERS_KEPT_MAX:
            self._kept = [Kept() for _ in range(PARTITIONS)]
        return super().of(*asked)


@pytest.mark.parametrize(("known", "stays"), [(KnownStates, True), (Forgetful, False)])
def test_what_is_kept_stays_when_there_is_room_for_no_more(
    known: Any, stays: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meters, "METERS_KEPT_MAX", 1)
    monkeypatch.setattr(meters, "LEARNT_AT_ONCE", 1)
    heard = Heard()
    for subject in (METER, NEIGHBOUR):
        heard.say(subject, SupplyStarted("SUPP", MOVED_IN))
    heard.start_again(known)
    learnt = heard.kept(METER, NEIGHBOUR)
    assert sum(learnt) == 1
    rest = [subject for subject, kept in zip((METER, NEIGHBOUR), learnt, strict=True) if not kept]
    for _ in range(2):
        heard.say(rest[0], SupplyStarted("OTHER", MOVED_IN + timedelta(days=40)))
        assert heard.told() == heard.right()
    assert (heard.kept(METER, NEIGHBOUR) == learnt) is stays


class Limitless(KnownStates):
    """Naive: keeps every state for which there is a meter."""

    def _place_of(self, state: Any) -> int:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(meters, "STATES_KEPT_MAX", 1 << 60)
            return super()._place_of(state)


@pytest.mark.parametrize(("known", "bounded"), [(KnownStates, True), (Limitless, False)])
def test_states_that_no_two_meters_share_take_no_more_room_than_there_is(
    known: Any, bounded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Supplies with dates of their own, of which each meter of a real country has some."""
    monkeypatch.setattr(meters, "STATES_KEPT_MAX", 3)
    heard = Heard(known)
    homes = (f"{n:013d}" for n in count(2_000))
    here = list(filter(_is_here, islice(homes, 60)))
    for days, mpxn in enumerate(here):
        heard.say(mpxn, SupplyStarted("SUPP", MOVED_IN + timedelta(days=days)))
    assert heard.told() == heard.right()
    assert (len(heard.known._states) <= 3) is bounded
    assert (len(heard.known) < len(here)) is bounded
    heard.say(here[0], SupplyEnded("SUPP", MOVED_IN + timedelta(days=99)))
    assert (heard.kept(here[0]) == [False]) is bounded, "its new state finds no room"


def test_equal_states_are_one_however_many_there_are() -> None:
    heard = Heard()
    for days in (0, 1, 2, 0, 1, 2):
        state = sending_part(MeterAccess(supplies=(Supply("SUPP", MOVED_IN + timedelta(days)),)))
        heard.known._place_of(state)
    assert len(heard.known._states) == 4
