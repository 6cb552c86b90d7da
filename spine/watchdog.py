"""How long each fold has stood still before records of the log, and when that is too long.

Consumers have been seen alive but idle after rebalances and broker restarts, so progress while
there is something to fold is the only sign of life that counts. To look costs next to nothing:
where partitions end, in one question. A fold that is outrun has no time to lose to whoever watches.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from functools import partial
from typing import Final

from opentelemetry.util.types import AnyValue

from spine import telemetry
from spine.errors import Pushback
from spine.follow import Place
from spine.live import LiveFold
from spine.log import LogReader
from spine.log_thread import ReaderThread

STALLED_AFTER_S: Final = 30.0
# Records of a topic are folded one after the other: how long those of a partition may have to wait
# while the others' are folded. Megabytes may stand before them that take tens of seconds.
IN_LINE_FOR_S: Final = 300.0
# When a fold that has not moved is worth a question; before its process is said not to serve.
ASKED_ABOUT_AFTER_S: Final = 5.0
# How long where partitions end may take where nobody waits for it.
ENDS_WITHIN_S: Final = 2.0
# What it takes to know that there is a record: at least one comes, however large.
ONE_RECORD_BYTES: Final = 64 << 10


class Ahead:
    """Whether records stand between a fold and the end of its partition, or only a real hole.

    The log is asked once about each stretch: a hole stays one, and what waits goes on waiting until
    the fold moves. The reader should fetch little at a time.
    """

    def __init__(self, reader: ReaderThread) -> None:
        self._reader = reader
        self._holes: dict[Place, tuple[int, int]] = {}
        self._waits: dict[Place, int] = {}
        self._asking = asyncio.Lock()

    def is_hole(self, live: LiveFold, end: int) -> bool:
        """Whether it is known by now that nothing stands there."""
        return self._holes.get(live.place) == (live.next_offset, end)

    async def holds_more(self, live: LiveFold, end: int) -> bool:
        """Whether a record stands there; where the log does not say, one may."""
        known = self._known(live, end)
        if known is not None:
            return known
        async with self._asking:  # of many who ask at once, one asks the log
            known = self._known(live, end)
            return await self._ask(live, end) if known is None else known

    def _known(self, live: LiveFold, end: int) -> bool | None:
        if self.is_hole(live, end) or live.next_offset >= end:
            return False
        return True if self._waits.get(live.place) == live.next_offset else None

    async def _ask(self, live: LiveFold, end: int) -> bool:
        place, start = live.place, live.next_offset

        def look(log: LogReader) -> bool | None:
            if log.ends([place])[place] < end:  # a new leader may have yet to hear how far it goes
                return None
            return next(log.read(*place, start, end), None) is not None

        try:
            found = await self._reader.run(look)
        except Pushback:
            return True
        if found:
            self._waits[place] = start
        elif found is not None:
            self._holes[place] = start, end
        return found is not False

    async def close(self) -> None:
        """Disconnect."""
        await self._reader.close()


class Unopened:
    """Places that a process was given and cannot fold, for their log does not answer: what is not
    open yet has no lag of its own.
    """

    def __init__(self) -> None:
        self._since: dict[Place, float] = {}

    def add(self, place: Place) -> None:
        """The log did not answer for it."""
        self._since.setdefault(place, time.monotonic())

    def answered(self, place: Place) -> None:
        """It does now, and the place catches up."""
        if self._since.pop(place, None) is not None:
            self._say(place, 0.0)

    def tell(self, waiting: Collection[Place]) -> None:
        """Say how long each has stood so, of those that still wait to be opened."""
        for place, since in list(self._since.items()):
            if place in waiting:
                self._say(place, time.monotonic() - since)
            else:
                self.answered(place)

    def _say(self, place: Place, lag_s: float) -> None:
        where: dict[str, AnyValue] = {"topic": place[0], "partition": place[1]}
        telemetry.view_lag_ms.set(round(lag_s * 1000), where)


class Watchdog:
    """Looks at the folds of one process; `on_stalled` is called with what is wrong with one."""

    def __init__(
        self,
        folds: Mapping[Place, LiveFold],
        reader: ReaderThread,
        ahead: Ahead,
        on_stalled: Callable[[BaseException], None],
    ) -> None:
        self._folds, self._reader, self._ahead = folds, reader, ahead
        self._on_stalled = on_stalled
        self._stood: dict[Place, tuple[int, float]] = {}

    async def look(self) -> float:
        """Measure the lag of each fold; how long the stillest has had records to fold while nothing
        in its line moved.
        """
        self._stood = {place: stood for place, stood in self._stood.items() if place in self._folds}
        stillest_s = 0.0
        for place, end in (await self._known_ends()).items():
            if (live := self._folds.get(place)) is None:
                continue
            still_s, line_still_s = await self._stood_s(live, end), self._line_still_s(live)
            stillest_s = max(stillest_s, min(still_s, line_still_s))
            patience_s = IN_LINE_FOR_S if line_still_s < STALLED_AFTER_S else STALLED_AFTER_S
            if still_s > patience_s:
                self._on_stalled(RuntimeError(f"{place[0]}-{place[1]} stands still"))
        return stillest_s

    async def _stood_s(self, live: LiveFold, end: int) -> float:
        now, at = time.monotonic(), live.next_offset
        stood_at, since = self._stood.get(live.place, (at, now))
        if stood_at != at or end <= at or self._ahead.is_hole(live, end):
            since = now
        asked_about = now - since > ASKED_ABOUT_AFTER_S
        if asked_about and not await self._ahead.holds_more(live, end):
            since = now
        if live.next_offset != at:  # it moved while the log was asked
            at, since = live.next_offset, now
        self._stood[live.place] = at, since
        behind = 0 if self._ahead.is_hole(live, end) else max(0, end - at)
        where: dict[str, AnyValue] = {"topic": live.place[0], "partition": live.place[1]}
        telemetry.view_lag_ms.set(round((now - since) * 1000), where)
        telemetry.view_records_behind.set(behind, where)
        return now - since

    def _line_still_s(self, live: LiveFold) -> float:
        """How long ago a fold moved behind whose records those of this one wait in line, or itself:
        one of its topic, or of all that stand by.
        """
        in_line = (
            other.moved_at
            for other in self._folds.values()
            if other.by_faust == live.by_faust
            and (not live.by_faust or other.place[0] == live.place[0])
        )
        return time.monotonic() - max(in_line, default=live.moved_at)

    async def _known_ends(self) -> dict[Place, int]:
        """Where the partitions end; if not all can be told at once, those of which it can."""
        places = list(self._folds)
        try:
            return await self._reader.run(lambda log: log.ends(places, ENDS_WITHIN_S))
        except Pushback:
            known = dict[Place, int]()
        for place in places:
            with suppress(Pushback):
                ends = partial(LogReader.ends, places=[place], within_s=ENDS_WITHIN_S)
                known |= await self._reader.run(ends)
        return known
