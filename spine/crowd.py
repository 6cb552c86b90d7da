"""How many calls one server has under way at once, and when those that it turns away come back.

Pure: whoever asks says what time it is, in seconds on a clock that never goes back. A server that
takes more calls than it can end makes all of them slower, until each is given up just before its
answer: it works at its limit then, and answers next to nobody. So it takes so many and no more, of
one party a part of them, and tells others when to come again. Each is given a turn of its own, as
far apart as calls end. Places are kept for whoever comes back in its turn, and nobody who asks
sooner or more often is served before: turns are counted by party, as calls have no name.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final

from spine.errors import Pushback, Reason

CALLS_UNDER_WAY: Final = 256
# Of all places, how many one party may have; and of turns, how many may wait for it.
PARTS: Final = 4
# How long a call takes before one has ended, and what a new one counts for in the mean.
TAKES_S: Final = 1.0
WEIGHT: Final = 1 / 64
# Nobody is told to come sooner, or is given a turn later than that.
TURN_LEAST_S, TURN_MOST_S = 0.05, 10.0
# How long a place is kept for whoever does not come in its turn.
KEPT_S: Final = 0.5
# Steps of this share of the whole never come near one another.
GOLDEN: Final = 0.618_033_988_75


@dataclass(slots=True, eq=False)
class _Turn:
    at: float
    party: str
    kept_until: float
    over: bool = False


@dataclass(slots=True)
class _Party:
    under_way: int = 0
    turns: deque[_Turn] = field(default_factory=deque)


class Crowd:
    """At most `most` calls under way, of one party no more than a part of them."""

    def __init__(self, most: int) -> None:
        self._most, self._most_of_one = most, max(1, most // PARTS)
        self._under_way, self._takes_s = 0, TAKES_S
        self._parties: dict[str, _Party] = {}
        self._coming: deque[_Turn] = deque()
        self._due: deque[_Turn] = deque()
        self._expected, self._last_turn, self._spread = 0, 0.0, 0.0

    def enter(self, party: str, now: float, *, for_many: bool = False) -> None:
        """Take a place, to be left; Pushback(OVERLOADED) if there is none, with when to come again.

        `for_many`: the party speaks for others, and may have all places.
        """
        self._pass_to(now)
        known = self._parties.setdefault(party, _Party())
        share = self._most if for_many else self._most_of_one
        free = self._most - self._under_way
        its_turn = bool(known.turns) and known.turns[0].at <= now
        if known.under_way < share and free > (0 if its_turn else self._expected):
            if known.turns:
                self._end(known.turns[0], now)
            known.under_way += 1
            self._under_way += 1
            return
        if its_turn:  # calls take longer than they did: it comes next
            known.turns[0].kept_until = now + TURN_LEAST_S + KEPT_S
        whose = "this party" if known.under_way >= share else "all parties"
        message = f"too many calls of {whose} are under way at this server"
        wait_s = 0 if its_turn else self._turn(party, known, share, now) - now
        self._forget(party)
        raise Pushback(Reason.OVERLOADED, message, retry_after_s=TURN_LEAST_S + wait_s)

    def leave(self, party: str, took_s: float | None) -> None:
        """Free a place; `took_s` is how long the call took, None if it says nothing of others."""
        self._under_way -= 1
        self._parties[party].under_way -= 1
        self._forget(party)
        if took_s is not None:
            self._takes_s += (took_s - self._takes_s) * WEIGHT

    def _turn(self, party: str, known: _Party, share: int, now: float) -> float:
        """When to come again: with every place taken calls end as far apart as one takes, divided
        by the places. Whoever has its share, or would wait too long, is given no turn of its own.
        """
        at = max(self._last_turn, now) + self._takes_s / self._most
        if known.under_way + len(known.turns) < share and at <= now + TURN_MOST_S:
            turn = _Turn(at, party, at + KEPT_S)
            known.turns.append(turn)
            self._coming.append(turn)
            self._last_turn = at
            return at
        self._spread = (self._spread + GOLDEN) % 1
        within_s = self._takes_s if known.under_way >= share else TURN_MOST_S
        return now + min(within_s, TURN_MOST_S) * (1 + self._spread) / 2

    def _pass_to(self, now: float) -> None:
        """Turns that have come are expected; of those nobody came for, no longer."""
        while self._coming and self._coming[0].at <= now:
            turn = self._coming.popleft()
            if not turn.over:
                self._due.append(turn)
                self._expected += 1
        while self._due and (self._due[0].over or self._due[0].kept_until <= now):
            turn = self._due.popleft()
            if not turn.over:
                self._end(turn, now)
                self._forget(turn.party)

    def _end(self, turn: _Turn, now: float) -> None:
        """The first turn of its party is over."""
        turn.over = True
        self._parties[turn.party].turns.popleft()
        if turn.at <= now:
            self._expected -= 1

    def _forget(self, party: str) -> None:
        known = self._parties[party]
        if not known.under_way and not known.turns:
            del self._parties[party]
