"""A server that turns calls away in time answers as many as it can; one that takes all, hardly any.

On a clock that the test holds.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spine.crowd import TURN_LEAST_S, TURN_MOST_S, Crowd
from spine.errors import Pushback, Reason

STEP_S = 0.01
CALLS_PER_S = 100
# As long as a permit lives: what is not answered by then is asked again.
IN_VAIN_AFTER_S = 2.0
AGAIN_AFTER_S = 1.0
PATIENCE_S = 20.0


@dataclass(eq=False)
class Call:
    """Since when its caller waits, since when it is under way, and how much of the work is left."""

    since: float
    entered: float
    left: float = 1.0


@dataclass
class Server:
    """Works on all calls under way by turns, so that each of them takes the longer the more."""

    crowd: Crowd
    now: float = 0.0
    answered: int = 0
    under_way: list[Call] = field(default_factory=list)
    to_come: list[tuple[float, float]] = field(default_factory=list)

    def step(self, arriving: int) -> None:
        """One step of the clock, with so many callers who ask for the first time."""
        self.now += STEP_S
        due = [since for at, since in self.to_come if at <= self.now]
        self.to_come = [each for each in self.to_come if each[0] > self.now]
        for since in due + [self.now] * arriving:
            self._ask(since)
        share = STEP_S * CALLS_PER_S / max(1, len(self.under_way))
        still = []
        for call in self.under_way:
            call.left -= share
            in_vain = self.now - call.entered > IN_VAIN_AFTER_S
            if call.left > 0 and not in_vain:
                still.append(call)
                continue
            self.crowd.leave(call.entered, self.now)
            if call.left > 0:
                self.to_come.append((self.now + AGAIN_AFTER_S, call.since))
            else:
                self.answered += 1
        self.under_way = still

    def _ask(self, since: float) -> None:
        if self.now - since > PATIENCE_S:
            return
        try:
            self.crowd.enter(self.now)
        except Pushback as busy:
            self.to_come.append((self.now + busy.retry_after_s, since))
        else:
            self.under_way.append(Call(since, self.now))


@pytest.mark.parametrize(("most", "least", "at_most"), [(100, 0.95, 1.0), (10**9, 0.0, 0.4)])
def test_twice_what_it_can_do_leaves_a_server_doing_what_it_can(
    most: int, least: float, at_most: float
) -> None:
    """The naive server takes everybody, and works for callers whose time is over."""
    server = Server(Crowd(most))
    for _ in range(2_000):
        server.step(arriving=2)
    assert least <= server.answered / (2_000 * STEP_S * CALLS_PER_S) <= at_most


def turned_away(crowd: Crowd, at: float) -> float:
    """How long a caller is to wait."""
    with pytest.raises(Pushback) as busy:
        crowd.enter(at)
    assert busy.value.reason is Reason.OVERLOADED
    return busy.value.retry_after_s


def test_each_that_is_turned_away_has_a_turn_of_its_own_as_calls_end() -> None:
    crowd = Crowd(4)
    for _ in range(4):
        crowd.enter(10)
    turns = [turned_away(crowd, 10) for _ in range(4)]
    assert turns == pytest.approx([0.25, 0.5, 0.75, 1.0])
    crowd.leave(10, 11)
    crowd.enter(11)
    assert turned_away(crowd, 11) == pytest.approx(0.25)  # the turns before are over


def test_turns_go_by_how_long_calls_take_of_late() -> None:
    crowd = Crowd(2)
    crowd.enter(0)
    for second in range(500):
        crowd.enter(second)
        crowd.leave(second, second + 0.4)
    crowd.enter(500)
    assert turned_away(crowd, 500) == pytest.approx(0.2, rel=0.01)


def test_a_flood_of_calls_sets_no_turn_back_for_ever() -> None:
    crowd = Crowd(1)
    crowd.enter(0)
    turns = [turned_away(crowd, 0) for _ in range(10_000)]
    assert max(turns) == TURN_MOST_S
    assert min(turns) >= TURN_LEAST_S


@given(st.integers(1, 5), st.lists(st.tuples(st.floats(0, 3), st.booleans()), max_size=60))
def test_there_are_never_more_under_way_than_places(
    most: int, steps: Sequence[tuple[float, bool]]
) -> None:
    crowd, now = Crowd(most), 0.0
    under_way: list[float] = []
    for pause, comes in steps:
        now += pause
        if not comes and under_way:
            crowd.leave(under_way.pop(), now)
        elif len(under_way) < most:
            crowd.enter(now)
            under_way.append(now)
        else:
            assert TURN_LEAST_S <= turned_away(crowd, now) <= TURN_MOST_S
