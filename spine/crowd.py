"""How many calls one server has under way at once, how many streams are open there, and when those
that it turns away come back.

Pure: whoever asks says what time it is, in seconds on a clock that never goes back. A server that
takes more calls than it can end makes all of them slower, until each is given up just before its
answer: it works at its limit then, and answers next to nobody. So it takes so many and no more, of
one party a part of them, and tells others when to come again. Each is given a turn of its own, as
far apart as calls end, and a place is kept for whoever comes back then. Calls have no name, so that
turns are a party's; places and turns together it has no more than its part, however often it asks.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Final

from spine.errors import Pushback, Reason

CALLS_UNDER_WAY: Final = 256
STREAMS_OPEN: Final = 1_500
# Which part of all places one party may have, turns included; and one that speaks for others.
PART, PART_FOR_MANY = 1 / 4, 1 / 2
# How long a call takes before one has ended, and what a new one counts for in the mean.
TAKES_S: Final = 1.0
WEIGHT: Final = 1 / 64
# Nobody is told to come sooner, or is given a turn later than that.
TURN_LEAST_S, TURN_MOST_S = 0.05, 10.0
# Who finds no place in its turn is told to come again after that at most.
AGAIN_MOST_S: Final = 0.5
# How long a place is kept for whoever does not come in its turn.
KEPT_S: Final = 0.5
# Nobody knows when a stream ends: who finds no place for one comes again between half of this and
# the whole.
STREAM_AGAIN_MOST_S: Final = 10.0
# Steps of this share of the whole never come near one another.
GOLDEN: Final = 0.618_033_988_75


@dataclass(slots=True, eq=False)
class _Turn:
    at: float
    party: str
    kept_until: float
    again_s: float = TURN_LEAST_S
    over: bool = False


@dataclass(slots=True)
class _Party:
    under_way: int = 0
    turns: deque[_Turn] = field(default_factory=deque)


class Crowd:
    """At most `most` calls under way; of one party no more than its part, and than are free: so a
    few that take all they may leave places for others.
    """

    def __init__(self, most: int) -> None:
        self._most, self._under_way = most, 0
        self._takes_s, self._moved_at = TAKES_S, 0.0
        self._parties: dict[str, _Party] = {}
        self._coming: deque[_Turn] = deque()
        self._due: deque[_Turn] = deque()
        self._expected, self._last_turn, self._spread = 0, 0.0, 0.0

    def enter(self, party: str, now: float, *, for_many: bool = False) -> None:
        """Take a place, to be left; Pushback(OVERLOADED) if there is none, with when to come again.

        `for_many`: the party speaks for others.
        """
        self._pass_to(now)
        known = self._parties.setdefault(party, _Party())
        share = _part(self._most, for_many)
        free = self._most - self._under_way
        its_turn = bool(known.turns) and known.turns[0].at <= now
        if known.under_way < min(share, free) and free > (0 if its_turn else self._expected):
            if known.turns:
                self._end(known.turns[0], now)
            known.under_way += 1
            self._under_way += 1
            self._moved_at = now
            return
        whose = "this party" if known.under_way >= share else "all parties"
        message = f"too many calls of {whose} are under way at this server"
        if its_turn:
            wait_s = _next(known.turns, now)
        else:
            wait_s = TURN_LEAST_S + self._turn(party, known, share, now) - now
        self._forget(party)
        raise Pushback(Reason.OVERLOADED, message, retry_after_s=wait_s)

    def leave(self, party: str, now: float, took_s: float | None) -> None:
        """Free a place; `took_s` is how long the call took, None if it says nothing of others."""
        self._under_way -= 1
        self._moved_at = now
        self._parties[party].under_way -= 1
        self._forget(party)
        if took_s is not None:
            self._takes_s += (took_s - self._takes_s) * WEIGHT

    def _turn(self, party: str, known: _Party, share: int, now: float) -> float:
        """When to come again: with every place taken calls end as far apart as one takes, divided
        by the places. Whoever has its share, or would wait too long, is given no turn of its own.
        """
        takes_s = max(self._takes_s, now - self._moved_at)  # nothing ends while all stand still
        at = max(self._last_turn, now) + takes_s / self._most
        if known.under_way + len(known.turns) < share and at <= now + TURN_MOST_S:
            turn = _Turn(at, party, at + KEPT_S)
            known.turns.append(turn)
            self._coming.append(turn)
            self._last_turn = at
            return at
        self._spread = (self._spread + GOLDEN) % 1
        within_s = takes_s if known.under_way >= share else TURN_MOST_S
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


class OpenStreams:
    """At most `most` streams open; of one party no more than its part, and than are free.

    They go no faster than their callers take, so that many more may be open than calls under way;
    they end when their callers like, so that nobody can be given a turn.
    """

    def __init__(self, most: int) -> None:
        self._most, self._spread = most, 0.0
        self._of: Counter[str] = Counter()

    def enter(self, party: str, *, for_many: bool = False) -> None:
        """Open one, to be left; Pushback(OVERLOADED) if there is no place, with when to come again.

        `for_many`: the party speaks for others.
        """
        share, free = _part(self._most, for_many), self._most - self._of.total()
        if self._of[party] < min(share, free):
            self._of[party] += 1
            return
        whose = "this party" if self._of[party] >= share else "all parties"
        self._spread = (self._spread + GOLDEN) % 1
        raise Pushback(
            Reason.OVERLOADED,
            f"too many streams of {whose} are open at this server",
            retry_after_s=STREAM_AGAIN_MOST_S * (1 + self._spread) / 2,
        )

    def leave(self, party: str) -> None:
        """It has ended."""
        self._of[party] -= 1
        if not self._of[party]:
            del self._of[party]


def _part(most: int, for_many: bool) -> int:
    """How many of all places one party may have."""
    return max(1, int(most * (PART_FOR_MANY if for_many else PART)))


def _next(turns: deque[_Turn], now: float) -> float:
    """Of a party in its turn that finds no place, as calls take longer than they did: when to come
    again, later each time. It comes next, and its other turns that are due are kept as long.
    """
    again_s = turns[0].again_s
    turns[0].again_s = min(2 * again_s, AGAIN_MOST_S)
    for turn in turns:
        if turn.at <= now:
            turn.kept_until = max(turn.kept_until, now + again_s + KEPT_S)
    return again_s
