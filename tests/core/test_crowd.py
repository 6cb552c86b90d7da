"""A server that turns calls away in time answers as many as it can, and everybody in turn.

On a clock that the test holds. The naive gates take everybody, or whoever comes when a place is
free.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Protocol

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spine.crowd import KEPT_S, PART, TURN_LEAST_S, TURN_MOST_S, Crowd
from spine.errors import Pushback, Reason

STEP_S = 0.01
CALLS_PER_S = 100
PLACES = 100
# As long as a permit lives: what is not answered by then is asked again.
IN_VAIN_AFTER_S = 2.0
AGAIN_AFTER_S = 1.0


class Gate(Protocol):
    """Lets calls in, or says when to come again."""

    def enter(self, party: str, now: float) -> None: ...
    def leave(self, party: str, now: float, took_s: float | None) -> None: ...


class Naive:
    """So many places, for whoever comes first when one is free."""

    def __init__(self, places: int) -> None:
        self.places, self.under_way, self.turn = places, 0, 0.0

    def enter(self, party: str, now: float) -> None:
        if self.under_way == self.places:
            self.turn = max(self.turn, now) + 1 / CALLS_PER_S
            raise Pushback(Reason.OVERLOADED, "full", retry_after_s=min(10.0, self.turn - now))
        self.under_way += 1

    def leave(self, party: str, now: float, took_s: float | None) -> None:
        self.under_way -= 1


@dataclass(eq=False)
class Call:
    """Who waits for it, since when it is under way, and how much of the work is left."""

    party: str
    entered: float
    left: float = 1.0


@dataclass
class Server:
    """Works on all calls under way by turns, so that each of them takes the longer the more."""

    gate: Gate
    now: float = 0.0
    under_way: list[Call] = field(default_factory=list)
    to_come: list[tuple[float, str]] = field(default_factory=list)
    answered: Counter[str] = field(default_factory=Counter)
    chance: Random = field(default_factory=lambda: Random(1))
    # How long a party waits that was turned away, by the hint.
    patience: Callable[[str, float], float] = lambda party, hint_s: hint_s

    def step(self, asking: Sequence[str]) -> list[str]:
        """One step of the clock, in which these ask for the first time; who was answered."""
        self.now += STEP_S
        coming = [*asking, *(party for at, party in self.to_come if at <= self.now)]
        self.to_come = [each for each in self.to_come if each[0] > self.now]
        self.chance.shuffle(coming)
        for party in coming:
            self._ask(party)
        share = STEP_S * CALLS_PER_S / max(1, len(self.under_way))
        still, answered = [], []
        for call in self.under_way:
            call.left -= share
            if call.left > 0 and self.now - call.entered <= IN_VAIN_AFTER_S:
                still.append(call)
                continue
            self.gate.leave(call.party, self.now, self.now - call.entered)
            if call.left > 0:
                self.to_come.append((self.now + AGAIN_AFTER_S, call.party))
            else:
                answered.append(call.party)
        self.under_way = still
        self.answered.update(answered)
        return answered

    def _ask(self, party: str) -> None:
        try:
            self.gate.enter(party, self.now)
        except Pushback as busy:
            self.to_come.append((self.now + self.patience(party, busy.retry_after_s), party))
        else:
            self.under_way.append(Call(party, self.now))


@pytest.mark.parametrize(
    ("gate", "least", "at_most"), [(Crowd(PLACES), 0.95, 1), (Naive(10**9), 0, 0.4)]
)
def test_twice_what_it_can_do_leaves_a_server_doing_what_it_can(
    gate: Gate, least: float, at_most: float
) -> None:
    """The naive server takes everybody, and works for callers whose time is over."""
    server = Server(gate)
    for number in range(2_000):
        server.step([f"one-{number}", f"other-{number}"])
    assert least <= server.answered.total() / (2_000 * STEP_S * CALLS_PER_S) <= at_most


@pytest.mark.parametrize("naive", [False, True])
def test_whoever_comes_back_in_its_turn_is_not_passed_by_those_who_come_anew(naive: bool) -> None:
    """Callers who ask again as soon as they are answered, six times as many as there are places."""
    server = Server(Naive(PLACES) if naive else Crowd(PLACES))
    asking = [f"party-{number}" for number in range(6 * PLACES)]
    for _ in range(6_000):
        asking = server.step(asking)
    each = [server.answered[f"party-{number}"] for number in range(6 * PLACES)]
    assert server.answered.total() >= 0.95 * 60 * CALLS_PER_S
    fair = min(each) >= 0.25 * sum(each) / len(each)
    assert fair is not naive


@pytest.mark.parametrize("naive", [False, True])
def test_a_party_that_hammers_gets_no_more_than_its_part(naive: bool) -> None:
    """It asks 150 times at once, and each again after 50 ms, whatever it is told."""
    server = Server(Naive(PLACES) if naive else Crowd(PLACES))
    server.patience = lambda party, hint_s: 0.05 if party == "hammer" else hint_s
    asking = [*(f"party-{number}" for number in range(2 * PLACES)), *["hammer"] * 150]
    for _ in range(3_000):
        asking = server.step(asking)
    part = server.answered["hammer"] / server.answered.total()
    assert (part <= 1.2 * PART) is not naive


def turned_away(crowd: Crowd, at: float, party: str = "late") -> float:
    """How long a caller is to wait."""
    with pytest.raises(Pushback) as busy:
        crowd.enter(party, at)
    assert busy.value.reason is Reason.OVERLOADED
    return busy.value.retry_after_s - TURN_LEAST_S


def full(places: int, now: float = 0.0) -> Crowd:
    """A crowd of so many parties with a call each."""
    crowd = Crowd(places)
    for number in range(places):
        crowd.enter(f"party-{number}", now)
    return crowd


def test_each_that_is_turned_away_has_a_turn_of_its_own_as_calls_end() -> None:
    crowd = full(4, 10)
    turns = [turned_away(crowd, 10, f"late-{number}") for number in range(4)]
    assert turns == pytest.approx([0.25, 0.5, 0.75, 1.0])


def test_a_place_is_kept_for_whoever_has_its_turn_and_not_for_long() -> None:
    crowd = full(4, 10)
    assert turned_away(crowd, 10) == pytest.approx(0.25)
    crowd.leave("party-0", 10.2, None)
    turned_away(crowd, 10.3, "new")
    crowd.enter("late", 10.3)
    crowd.leave("party-1", 10.4, None)
    crowd.enter("other", 10.3 + 0.5 + KEPT_S)  # "new" did not come


def test_whose_turn_it_is_comes_next_if_calls_take_longer_than_they_did() -> None:
    crowd, now = full(4, 10), 10.0
    waits = [turned_away(crowd, now)]
    for _ in range(8):
        now += TURN_LEAST_S + waits[-1]
        waits.append(turned_away(crowd, now))
    assert waits[1:] == pytest.approx([0, 0.05, 0.15, 0.35, 0.45, 0.45, 0.45, 0.45])
    crowd.leave("party-0", now, None)
    turned_away(crowd, now + 0.4, "new")
    crowd.enter("late", now + 0.4)


def test_turns_go_by_how_long_calls_take_of_late() -> None:
    crowd = Crowd(8)
    for number in range(7):
        crowd.enter(f"slow-{number}", 0)
    for second in range(500):
        crowd.enter("party", second)
        crowd.leave("party", second + 0.8, 0.8)
    crowd.enter("party", 500)
    assert turned_away(crowd, 500) == pytest.approx(0.1, rel=0.01)
    crowd.leave("party", 500, None)  # what failed says nothing of others
    crowd.enter("other", 501)
    assert turned_away(crowd, 501) == pytest.approx(0.1, rel=0.01)


def test_turns_are_far_apart_while_all_stand_still() -> None:
    crowd = full(4)
    assert turned_away(crowd, 8) == pytest.approx(2)


def test_a_flood_is_told_to_come_back_neither_together_nor_late() -> None:
    crowd = full(4)
    turns = [turned_away(crowd, 0, f"late-{number}") for number in range(10_000)]
    assert len({round(turn, 6) for turn in turns}) == len(turns)
    assert max(turns) <= TURN_MOST_S


def taken(crowd: Crowd, party: str, *, for_many: bool = False) -> int:
    """How many places it gets that asks until it is turned away."""
    for places in range(10**6):
        try:
            crowd.enter(party, 0, for_many=for_many)
        except Pushback:
            return places
    raise AssertionError


def test_a_party_has_its_part_of_the_places_and_no_turn_beyond() -> None:
    crowd = Crowd(16)
    assert taken(crowd, "ACME") == 16 * PART
    assert 0 < turned_away(crowd, 0, "ACME") <= 1
    for number in range(12):
        crowd.enter(f"party-{number}", 0)
    assert turned_away(crowd, 0, "BETA") == pytest.approx(1 / 16)  # none of ACME's is before it


def test_a_few_that_take_all_they_may_leave_places_for_others() -> None:
    crowd = Crowd(256)
    assert [taken(crowd, f"greedy-{number}") for number in range(6)] == [64, 64, 64, 32, 16, 8]
    crowd.enter("honest", 0)


def test_who_speaks_for_many_may_have_half() -> None:
    assert taken(Crowd(16), "dsi-2", for_many=True) == 8


@given(st.integers(1, 9), st.lists(st.tuples(st.floats(0, 3), st.integers(0, 5)), max_size=80))
def test_nobody_has_more_than_there_is_and_what_is_over_is_forgotten(
    most: int, steps: Sequence[tuple[float, int]]
) -> None:
    crowd, now = Crowd(most), 0.0
    under_way: list[str] = []
    for pause, number in steps:
        now += pause
        if not number and under_way:
            crowd.leave(under_way.pop(0), now, pause)
            continue
        party = f"party-{number}"
        try:
            crowd.enter(party, now)
        except Pushback as busy:
            assert 0 < busy.retry_after_s <= TURN_MOST_S + TURN_LEAST_S
        else:
            under_way.append(party)
        assert len(under_way) <= most
        assert max(Counter(under_way).values(), default=0) <= max(1, int(most * PART))
    for party in under_way:
        crowd.leave(party, now, None)
    later = now + 2 * TURN_MOST_S
    crowd.enter("last", later)
    crowd.leave("last", later, None)
    assert not crowd._parties
    assert not crowd._expected
