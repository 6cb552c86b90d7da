"""States of many meters at once, kept at hand: what the fold itself says of each, at any moment."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from itertools import count
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
from spine.event import Fact, murmur2_partition
from spine.live import LiveFold
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
        self.scene = Scene()
        self.folds: Any = {
            (trust.CONSUMER_LOG, partition): LiveFold(self._stored())
            for partition in range(PARTITIONS)
        }
        self.known: KnownStates = known(self.folds, trust.CONSUMER_LOG, PARTITIONS, sending_part)

    def _stored(self) -> Any:
        return SimpleNamespace(fold=self.scene.fold)

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
    kept=st.sampled_from([1, 2, 1_000]),
    over=st.sampled_from([0, 1, 1_000]),
)
def test_what_is_kept_is_what_the_fold_says(steps: list[Any], kept: int, over: int) -> None:
    """Facts and questions in any order; `kept` so few that meters are forgotten again and again,
    or `over` so few that the states of no meter are dropped again and again.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(meters, "METERS_KEPT_MAX", kept)
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
        asked = numbers_of(np.array([NEIGHBOUR.encode(), METER.encode()]))
        assert (heard.known._kept.of(asked) >= 0).all() and len(heard.known._kept) == 2
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
    asked = numbers_of(np.array([mpxn.encode() for mpxn in ASKED]))
    assert (heard.known._kept.of(asked) >= 0).tolist() == [mpxn == METER for mpxn in ASKED]


@pytest.mark.parametrize("like", [f"{METER}-{{}}", f"{METER}{{}}", "c-{}", "\N{SUPERSCRIPT TWO}{}"])
def test_a_subject_that_is_no_meters_number_is_taken_for_no_meter(
    like: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Naive: takes every subject for a number, of which the first so many bytes count."""
    tried = (like.format(n) for n in count())
    subject = next(s for s in tried if murmur2_partition(s.encode(), PARTITIONS) == PARTITION)
    heard = Heard()
    heard.say(subject, SupplyStarted("SUPP", MOVED_IN))
    assert len(heard.known._kept) == 0 and heard.told() == heard.right()
    monkeypatch.setattr(meters, "_has_number", lambda subject: True)
    naive = Heard()
    naive.say(subject, SupplyStarted("SUPP", MOVED_IN))
    assert len(naive.known._kept) == 1
    assert (naive.told() == naive.right()) is not subject.startswith(METER)


@settings(max_examples=200, deadline=None)
@given(
    steps=st.lists(
        st.tuples(st.lists(st.integers(0, 9), min_size=1, unique=True), st.booleans()), max_size=20
    ),
    short=st.sampled_from([0, 2, 1_000]),
)
def test_columns_keep_what_a_dictionary_would(
    steps: list[tuple[list[int], bool]], short: int
) -> None:
    """Putting and asking in any order, however long the runs of columns are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(meters, "SHORT_RUN", short)
        kept, right = Kept(), dict[int, int]()
        for number, (asked, put) in enumerate(steps):
            numbers = np.array(asked, np.int64)
            if put:
                kept.put(numbers, np.full(len(numbers), number, np.int32))
                right |= dict.fromkeys(asked, number)
            assert kept.of(numbers).tolist() == [right.get(one, -1) for one in asked]
            assert len(kept) == len(right)
        used = {number for number in range(len(steps)) if kept.used(len(steps))[number]}
        assert used == {*right.values()}
        kept.renumber(np.arange(len(steps), 0, -1, dtype=np.int32))
        everything = np.arange(10)
        assert kept.of(everything).tolist() == [
            len(steps) - right[one] if one in right else -1 for one in range(10)
        ]


def test_few_runs_of_columns_hold_many_meters_that_came_one_by_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(meters, "SHORT_RUN", 1)
    kept = Kept()
    for number in range(500):
        kept.put(np.array([number * 7 % 500]), np.array([number], np.int32))
        assert len(kept._runs) <= 10


class Unlearnt(KnownStates):
    """Naive: knows of a meter only once it was asked for."""

    async def learn(self) -> None:
        return None


class Hasty(KnownStates):
    """Naive: looks at all rows before others have their turn, and keeps what it saw then."""

    async def learn(self) -> None:
        fold = self._folds[self._topic, PARTITION].stored.fold
        seen = [
            (numbers_of(np.array([key.removeprefix(SUBJECT_PREFIX)])), row)
            for key, row in fold.rows.scan(SUBJECT_PREFIX, SUBJECT_PREFIX + b"\xff")
        ]
        for numbers, row in seen:
            self._kept.put(numbers, np.array([self._place_in(row, fold.tools)], np.int32))
            await asyncio.sleep(0)


@pytest.mark.parametrize(("known", "finds"), [(KnownStates, True), (Unlearnt, False)])
def test_what_was_folded_before_is_learnt_and_not_looked_up(known: Any, finds: bool) -> None:
    """`c-1` is a subject and no meter."""
    heard = Heard()
    for subject in (METER, NEIGHBOUR, "c-1"):
        heard.say(subject, SupplyStarted("SUPP", MOVED_IN))
    heard.known = known(heard.folds, trust.CONSUMER_LOG, PARTITIONS, sending_part)
    asyncio.run(heard.known.learn())
    asked = numbers_of(np.array([NEIGHBOUR.encode(), METER.encode()]))
    assert bool((heard.known._kept.of(asked) >= 0).all()) is finds
    assert len(heard.known._kept) == (2 if finds else 0)
    assert heard.told() == heard.right()


@pytest.mark.parametrize(("known", "follows"), [(KnownStates, True), (Hasty, False)])
@pytest.mark.parametrize("turns", range(3))
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
    right = heard.told() == heard.right()
    assert right is (follows or turns != 1), "the naive variant forgets what it heard meanwhile"


def test_no_more_is_learnt_than_can_be_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meters, "METERS_KEPT_MAX", 2)
    heard = Heard()
    for subject in (METER, NEIGHBOUR):
        heard.say(subject, SupplyStarted("SUPP", MOVED_IN))
    heard.known = KnownStates(heard.folds, trust.CONSUMER_LOG, PARTITIONS, sending_part)
    asyncio.run(heard.known.learn())
    assert len(heard.known._kept) < 2 and heard.told() == heard.right()
