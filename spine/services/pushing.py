"""Pushes what waits for receivers to where each wants it: one engine for every way of calling them.

Who calls itself is told on that call (`announcing.py`), by the same index and the same waits.

What waits follows from the folds, so nothing is queued here that could be lost: the engine only
remembers what it sent when, and a process that starts again begins with the shortest wait. Another
way of telling is another `deliver`; the engine knows neither the wire nor what is told.

Rules:
1. At a meter, a receiver is sent the first item that waits, and the next once that is taken.
2. What is not taken is sent again with growing waits, for as long as it waits.
3. At one turn a receiver's next so many meters are looked at and no more, from where the turn
   before stopped: none is passed over, and what it refused costs a turn no more than the rest.
4. A receiver that does not answer is sent one item at a time, with growing waits of its own, from
   places kept for such: it holds up nobody that answers, and is not flooded when it is back.
5. An item that is answered with a no holds up nothing but its meter.

Items here carry no meter data. A `deliver` that gives out data would first append a request for it
and wait until the fold permits that, each time anew: the fence holds at every release.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import (
    Awaitable,
    Callable,
    Collection,
    Hashable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from itertools import chain
from typing import Final, Generic, TypeVar

import structlog

from domains.consumers.changes import Sent, Told, send

EACH_MAX: Final = 8
ANSWERING_MAX: Final = 256
SILENT_MAX: Final = 64
# Meters a turn for one receiver.
LOOKED_AT_MAX: Final = 1_000
TURN_EVERY_S: Final = 0.2
PAUSE_S: Final = 0.01
_log = structlog.get_logger()


class Outcome(StrEnum):
    """What became of one sending."""

    TAKEN = "taken"
    REFUSED = "refused"
    GONE = "gone"
    # No answer, or that of a server that is broken or can take nothing now.
    SILENT = "silent"
    FORBIDDEN = "forbidden"


UNANSWERED: Final = frozenset({Outcome.SILENT, Outcome.FORBIDDEN})

Route = TypeVar("Route", bound=Hashable)
Item = TypeVar("Item", bound=Told)


@dataclass(slots=True)
class _Line:
    """What is remembered of one receiver: by meter what is under way and what was sent when.

    `ahead` are the meters of this round that were not looked at yet. A round comes past all that
    are in `sent` too, and lets go of those where nothing waits any more.
    """

    under_way: set[str] = field(default_factory=set)
    sent: dict[str, Sent] = field(default_factory=dict)
    ahead: deque[str] = field(default_factory=deque)
    silent: Sent | None = None
    last: tuple[Outcome, datetime] | None = None


@dataclass(frozen=True, slots=True)
class _Whole:
    """A receiver as something that is sent to, for waits of its own."""

    id: str = "receiver"


class Pusher(Generic[Route, Item]):
    """Sends to every route what waits for it.

    `routes` gives where there is anybody to tell; `waiting` by meter what waits for that receiver,
    its next first, and no meter where nothing does; `deliver` sends it once, and has recorded that
    it was taken when it returns `TAKEN`. `jitter` gives numbers from 0 to 1.
    """

    def __init__(
        self,
        routes: Callable[[], Collection[Route]],
        waiting: Callable[[Route], Mapping[str, Sequence[Item]]],
        deliver: Callable[[Route, str, Item], Awaitable[Outcome]],
        now: Callable[[], datetime],
        jitter: Callable[[], float],
    ) -> None:
        self._routes, self._waiting = routes, waiting
        self._deliver, self._now, self._jitter = deliver, now, jitter
        self._lines: dict[Route, _Line] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._busy = {True: 0, False: 0}
        self._more = asyncio.Event()

    def last(self, route: Route) -> tuple[Outcome, datetime] | None:
        """What became of the last sending there, and when, as far as this process knows."""
        line = self._lines.get(route)
        return None if line is None else line.last

    async def run(self) -> None:
        """Take turns until cancelled: every so often, and when a place has become free."""
        while True:
            self._more.clear()
            try:
                self.turn()
            except Exception as error:
                _log.warning("push.failed", reason=type(error).__name__)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._more.wait(), TURN_EVERY_S)
            await asyncio.sleep(PAUSE_S)

    async def settled(self) -> None:
        """Return once nothing is under way."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def close(self) -> None:
        """Let go of what is under way; whether it was taken shows when it is sent again."""
        for task in self._tasks:
            task.cancel()
        await self.settled()

    def turn(self) -> None:
        """Start every sending that is due and has a place."""
        routes = self._routes()
        for route in [r for r, line in self._lines.items() if r not in routes]:
            if not self._lines[route].under_way:
                del self._lines[route]
        for route in sorted(routes, key=self._under_way):  # who has least under way comes first
            self._serve(route, self._lines.setdefault(route, _Line()))

    def _under_way(self, route: Route) -> int:
        line = self._lines.get(route)
        return 0 if line is None else len(line.under_way)

    def _serve(self, route: Route, line: _Line) -> None:
        now = self._now()
        waiting = self._waiting(route)
        if line.silent is not None:
            self._try_silent(route, line, waiting, now)
            return
        places = min(EACH_MAX - len(line.under_way), ANSWERING_MAX - self._busy[True])
        meters = _looked_at(line, waiting)
        while places > 0 and (mpxn := next(meters, None)) is not None:
            if mpxn in line.under_way:
                continue
            item = waiting[mpxn][0]
            due = send(line.sent.get(mpxn), item, now, self._jitter())
            if due is not None:
                line.sent[mpxn] = due
                self._start(route, line, mpxn, item, answering=True)
                places -= 1

    def _try_silent(
        self, route: Route, line: _Line, waiting: Mapping[str, Sequence[Item]], now: datetime
    ) -> None:
        """One item, when it is time, at the next meter of the round: none alone is the cause."""
        assert line.silent is not None
        if line.under_way or now < line.silent.again_at or self._busy[False] >= SILENT_MAX:
            return
        mpxn = next(_looked_at(line, waiting), None)
        if mpxn is not None:
            item = waiting[mpxn][0]
            tried = _tries(line.sent.get(mpxn), item)
            due = send(Sent(item.id, tried, now), item, now, self._jitter())
            assert due is not None
            line.sent[mpxn] = due
            self._start(route, line, mpxn, item, answering=False)

    def _start(self, route: Route, line: _Line, mpxn: str, item: Item, *, answering: bool) -> None:
        line.under_way.add(mpxn)
        self._busy[answering] += 1
        task = asyncio.create_task(self._send(route, line, mpxn, item))
        self._tasks.add(task)

        def ended(done: asyncio.Task[None]) -> None:
            self._tasks.discard(done)
            line.under_way.discard(mpxn)
            self._busy[answering] -= 1
            self._more.set()

        task.add_done_callback(ended)

    async def _send(self, route: Route, line: _Line, mpxn: str, item: Item) -> None:
        try:
            outcome = await self._deliver(route, mpxn, item)
        except Exception as error:  # it waits like one that nobody answered
            _log.warning("push.failed", reason=type(error).__name__)
            outcome = Outcome.SILENT
        now = self._now()
        line.last = (outcome, now)
        if outcome in UNANSWERED:
            line.silent = send(line.silent, _Whole(), now, self._jitter()) or line.silent
        else:
            line.silent = None


def _looked_at(line: _Line, waiting: Mapping[str, object]) -> Iterator[str]:
    """The meters to look at in one turn at which something waits, each as it is asked for."""
    for _ in range(min(LOOKED_AT_MAX, len(waiting) + len(line.sent))):
        if not line.ahead:
            # In no order of meters, by which two receivers could find what both are told of.
            meters = [*chain(waiting, line.sent)]
            random.shuffle(meters)
            line.ahead.extend(meters)
        mpxn = line.ahead.popleft()
        if mpxn in waiting:
            yield mpxn
        else:
            line.sent.pop(mpxn, None)


def _tries(sent: Sent | None, item: Told) -> int:
    return sent.times if sent is not None and sent.id == item.id else 0
