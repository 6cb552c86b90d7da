"""How many calls one server has under way at once, and when those that it turns away come back.

Pure: whoever asks says what time it is, in seconds on a clock that never goes back. A server that
takes more calls than it can end makes all of them slower, until each is given up just before its
answer: it works at its limit then, and answers next to nobody. So it takes so many and no more, and
tells the others when their turn will be. Each is given a turn of its own, as far apart as calls
end, so that they do not come back together.
"""

from __future__ import annotations

from typing import Final

from spine.errors import Pushback, Reason

# How long a call takes before one has ended, and what a new one counts for in the mean.
TAKES_S: Final = 1.0
SHARE: Final = 1 / 64
TURN_LEAST_S, TURN_MOST_S = 0.05, 10.0


class Crowd:
    """At most `most` calls under way."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._under_way, self._takes_s, self._last_turn = 0, TAKES_S, 0.0

    def enter(self, now: float) -> None:
        """Take a place, to be left; Pushback(OVERLOADED) if there is none, with the next turn.

        With every place taken calls end as far apart as one takes, divided by the places.
        """
        if self._under_way < self._most:
            self._under_way += 1
            return
        self._last_turn = max(self._last_turn, now) + self._takes_s / self._most
        # Some who were given a turn never come, so nobody waits for all of them.
        self._last_turn = min(self._last_turn, now + TURN_MOST_S)
        turn_s = max(TURN_LEAST_S, self._last_turn - now)
        message = "too many calls are under way here"
        raise Pushback(Reason.OVERLOADED, message, retry_after_s=turn_s)

    def leave(self, entered: float, now: float) -> None:
        """Free the place that was taken then."""
        self._under_way -= 1
        self._takes_s += (now - entered - self._takes_s) * SHARE
