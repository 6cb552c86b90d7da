"""The lines of an audit in their turn, while many answers at a time are made again together.

A decision is made at its own offset. Its answer need not be: what it is made from stands below the
positions that its request names, and nothing is put below them any more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from spine.audit_report import Line
from spine.event import AccessOutcome
from spine.reducers import Versions
from spine.verdict import Rebuild, Rebuilt, ToRebuild, Verdict

# So many lines wait at most; fewer, if their answers are of more half hours than this.
TOGETHER_MAX: Final = 256
HALF_HOURS_TOGETHER_MAX: Final = 200_000

NO_HONEST_SERVER: Final = "no server that keeps the rules records this"

# Verdict, why, and what explains it.
Found = tuple[Verdict, str, str]
AS_MOST_ARE: Final[Found] = (Verdict.SAME, "", "")


class Waiting(Struct, frozen=True):
    """An answer to be held against its outcome once it is made again; of so many half hours.

    `rests_on` is what the outcome's records say of that; `unread`, why another build may know more
    of what it was made from.
    """

    asked: ToRebuild
    outcome: AccessOutcome
    rests_on: Versions
    unread: str
    half_hours: int


class Turns:
    """Says lines in the order in which they are given.

    `compare` says what a decision comes to whose answer was made again.
    """

    def __init__(
        self,
        rebuild: Rebuild,
        compare: Callable[[Waiting, Rebuilt], Found],
        say: Callable[[Line], None],
    ) -> None:
        self._rebuild, self._compare, self._say = rebuild, compare, say
        self._queue: list[tuple[Line, Waiting | None]] = []
        self._half_hours = 0

    def take(self, line: Line, waiting: Waiting | None = None) -> None:
        """Say this line after all before it, some of which may wait. If this one does, its verdict,
        why and explanation are put in then.
        """
        if waiting is None and not self._queue:
            self._say(line)
            return
        self._queue.append((line, waiting))
        self._half_hours += 0 if waiting is None else waiting.half_hours
        if len(self._queue) >= TOGETHER_MAX or self._half_hours >= HALF_HOURS_TOGETHER_MAX:
            self.end()

    def end(self) -> None:
        """Make the answers that are waited for, and say all lines."""
        queue, self._queue, self._half_hours = self._queue, [], 0
        asked = [waiting.asked for _, waiting in queue if waiting is not None]
        made = iter(self._rebuild.each(asked) if asked else ())
        for line, waiting in queue:
            self._say(line if waiting is None else self._found(line, waiting, next(made)))

    def _found(self, line: Line, waiting: Waiting, rebuilt: Rebuilt) -> Line:
        found = self._compare(waiting, rebuilt)
        verdict, why, because = found
        unchanged = found == (line.verdict, line.why, line.explained)
        return line if unchanged else replace(line, verdict=verdict, why=why, explained=because)
