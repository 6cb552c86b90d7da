"""Many commands in one record: their rows are looked up at once, and nothing else changes by that.

The plain fold looks at each row when its turn comes. Whatever stands in a record, duplicates,
broken chains, meters of another partition, facts that do not fit, both leave the same rows.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace as with_other
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from domains.consumers.chain import as_kept
from spine import view
from spine.domain import Domain
from spine.event import NO_PREDECESSOR, Command, Fact
from spine.partition import PartitionFold
from spine.rows import AppliedCommand, Counts, Subject
from tests.helpers.records import (
    BEGUN,
    ELSEWHERE,
    METER,
    NEIGHBOUR,
    TOOLS,
    Scene,
    command,
    granted,
    moved_in,
    resumed,
    revoked,
    suspended,
)
from tests.helpers.stories import unknown_fact


class Plain(PartitionFold):
    """Looks at each row by itself, and works out anew what each command comes to."""

    def read_ahead(self, domain: Domain, commands: Collection[tuple[str, bytes]]) -> None:
        return None

    def _apply_command(self, *given: Any) -> None:
        self._firsts.clear()
        super()._apply_command(*given)


class ForgetsWhatItWrites(PartitionFold):
    """Naive: goes on with what it read before it wrote."""

    def _put(self, key: bytes, row: bytes, says: Subject | AppliedCommand | None = None) -> None:
        self.rows.put(key, row)


EVENTS: tuple[object, ...] = (moved_in(), granted(), revoked(), suspended(), resumed())
UNKNOWN = Fact("consumers.NotYetKnown", BEGUN, b"\x00" + bytes(4))
Where = tuple[int, int]


@st.composite
def made(draw: st.DrawFn, places: list[Where]) -> Command:
    """A command that may fit, or repeat an id, or break a chain, or be of another partition."""
    subject = draw(st.sampled_from([METER, NEIGHBOUR, METER, NEIGHBOUR, ELSEWHERE]))
    events = [draw(st.sampled_from(EVENTS)) for _ in range(draw(st.integers(0, 2)))]
    previous = draw(st.sampled_from([(NO_PREDECESSOR, NO_PREDECESSOR), *places]))
    command_id = draw(st.none() | st.integers(0, 3).map(lambda number: bytes([number]) * 16))
    one = command(subject, *events, previous=previous, id=command_id)
    if draw(st.integers(0, 9)) == 0:
        return replace(one, facts=(*one.facts, UNKNOWN))
    return one


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_rows_that_are_read_ahead_are_the_rows(data: st.DataObject) -> None:
    scenes = [Scene(), Scene(Plain)]
    for number in range(data.draw(st.integers(1, 4))):
        last = scenes[0].last
        places = [(last - back, entry) for back in range(number) for entry in range(4)]
        places += [(last + 1, entry) for entry in range(3)]  # of this record itself
        commands = data.draw(st.lists(made(places), min_size=1, max_size=6))
        keyed = data.draw(st.booleans())
        applied = [scene.facts(*commands, keyed=keyed) for scene in scenes]
        assert applied[0] == applied[1]
        assert scenes[0].digest() == scenes[1].digest()
        for subject in (METER, NEIGHBOUR):
            kept, read = (scene.fold.subject(subject) for scene in scenes)
            assert kept == replace(read, state=as_kept(read.state)) or kept == read
            assert scenes[0].fold.closed(subject) == scenes[1].fold.closed(subject)
        for subject, state in applied[0].states.items():
            assert state == as_kept(scenes[1].fold.subject(subject).state)
        for one in commands:
            found = [scene.fold.applied_command(one.id) for scene in scenes]
            assert found[0] == found[1]


def test_what_a_record_itself_wrote_counts_for_its_next_command() -> None:
    """The naive fold applies a command twice."""
    twice = command(METER, moved_in()), command(METER, moved_in())
    for fold_class, applied, duplicates in ((PartitionFold, 1, 1), (ForgetsWhatItWrites, 2, 0)):
        done = Scene(fold_class).facts(*twice)
        assert (done.applied, done.duplicates) == (applied, duplicates)


def test_a_meter_that_a_record_closes_is_closed_for_its_next_command() -> None:
    """As is the naive fold's, which has looked before and sees it open."""
    for fold_class, outcomes in (
        (PartitionFold, ["held", "held"]),
        (ForgetsWhatItWrites, ["held"]),
    ):
        scene = Scene(fold_class)
        scene.facts(unknown_fact(NEIGHBOUR))  # who has held nothing does not look ahead for it
        done = scene.facts(unknown_fact(METER), command(METER, moved_in("t-2")))
        assert [refusal.outcome for refusal in done.refusals] == outcomes


def said_later(said: Command, ms: int) -> Command:
    """The same facts by so much later, as a coordinator takes one command after the other."""
    later = timedelta(milliseconds=ms)
    facts = tuple(replace(f, occurred_at=f.occurred_at + later) for f in said.facts)
    return replace(said, facts=facts)


def test_equal_facts_of_a_record_are_worked_out_once() -> None:
    """A country's registers: few kinds of facts, each said of many subjects. Once a record, or it
    would be kept for ever.
    """
    read = list[bytes]()

    def counted(fact_type: str, body: bytes) -> object:
        read.append(body)
        return TOOLS.decode_event(fact_type, body)

    scene, plain = Scene(tools=with_other(TOOLS, decode_event=counted)), Scene(Plain)
    events = moved_in(), granted()
    for record in range(2):
        some = [said_later(command(f"c-{record}-{n}", *events[: 1 + n % 2]), n) for n in range(40)]
        applied = scene.facts(*some)
        assert applied == plain.facts(*some)
        assert applied.applied == applied.counted(Counts()).applied > 0
        assert len(read) == 3 * (record + 1)
        assert not scene.fold._firsts
    assert scene.digest() == plain.digest()


def test_equal_facts_come_to_another_state_where_something_was_said_before() -> None:
    scene = Scene()
    here, there = command(METER, moved_in()), command(NEIGHBOUR, moved_in())
    again = command(METER, moved_in(), previous=(scene.last + 1, 0))
    scene.facts(here, there, again)
    assert len(scene.fold.subject(NEIGHBOUR).state.tenancies) == 1
    assert len(scene.fold.subject(METER).state.tenancies) == 2


def test_facts_that_do_not_fit_are_refused_of_each_subject() -> None:
    scene = Scene()
    done = scene.facts(*(command(meter, revoked(), resumed()) for meter in (METER, NEIGHBOUR)))
    assert [refusal.outcome for refusal in done.refusals] == ["quarantined", "quarantined"]


def test_what_is_kept_of_rows_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = []
    for most in (500, 1_000_000):
        monkeypatch.setattr(view, "ROWS_AHEAD_MAX", most)
        scenes = [Scene(), Scene(Plain)]
        for number in range(8):
            some = [command(METER, moved_in(f"t-{number}-{n}")) for n in range(100)]
            for scene in scenes:
                scene.facts(*some)
        assert scenes[0].digest() == scenes[1].digest()
        kept.append(len(scenes[0].fold._ahead))
    assert kept[0] <= 500 < kept[1]


def test_many_subjects_at_once_are_what_each_is_alone() -> None:
    scene = Scene()
    scene.facts(command(METER, moved_in(), granted()))
    asked = (NEIGHBOUR, METER, NEIGHBOUR, METER)
    assert scene.fold.subjects(asked) == [scene.fold.subject(each) for each in asked]
    assert scene.fold.subjects(()) == []
    scene.facts(command(NEIGHBOUR, moved_in()))
    assert scene.fold.subjects([NEIGHBOUR]) == [scene.fold.subject(NEIGHBOUR)]


def test_where_commands_of_a_record_stand_is_known_without_reading_it_again() -> None:
    read = list[object]()

    def counted(row: bytes, kind: Any) -> Any:
        read.append(kind)
        return TOOLS.unpack(row, kind)

    scene = Scene(tools=with_other(TOOLS, unpack=counted))
    commands = command(METER, moved_in()), command(NEIGHBOUR, moved_in("t-2"))
    scene.facts(*commands)
    found = [scene.fold.applied_command(one.id) for one in commands]
    assert [(f.offset, f.entry) for f in found if f] == [(scene.last, 0), (scene.last, 1)]
    assert AppliedCommand not in read
