"""Folds move by plain reads while Faust does not deliver to them.

A process keeps folds that its consumer group has given to another: they stand by, a second behind,
and catch up at once when somebody waits for one of their records. So any server decides any read,
a former owner goes on answering, and the partitions of a killed server are answered by the others
before the group has noticed. Delivery is a hint; where a fold stands is the truth (rule 7).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import Any, Final

import structlog

from spine.errors import Pushback
from spine.live import LiveFold, healed, nobody_fetches
from spine.log import Kafka
from spine.log_thread import ReaderThread

Place = tuple[str, int]
Spawn = Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]
# How far folds that stand by may be behind, and those that an open stream watches.
STAND_BY_S: Final = 1.0
WATCHED_S: Final = 0.05
AGAIN_S: Final = 0.005
UNREACHABLE_PAUSE_S: Final = 0.2
_log = structlog.get_logger()


class Followers:
    """Moves those of a process's folds that Faust does not.

    `spawn` starts a task whose failure is the process's. Two readers, so that who waits for a
    record never queues behind the round of those that stand by.
    """

    def __init__(self, kafka: Kafka, folds: Mapping[Place, LiveFold], spawn: Spawn) -> None:
        self._folds, self._spawn = folds, spawn
        self._prompt, self._round = ReaderThread(kafka), ReaderThread(kafka)
        self._fetching: dict[Place, asyncio.Task[None]] = {}
        self._going_round: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Follow from now on."""
        self._going_round = self._spawn(self._rounds())

    async def close(self) -> None:
        """Stop; the folds stand where they are."""
        for live in self._folds.values():
            live.fetch = nobody_fetches
        tasks = [*self._fetching.values(), *filter(None, [self._going_round])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._prompt.close()
        await self._round.close()

    def add(self, live: LiveFold) -> None:
        """Let whoever waits for this fold have it read on."""
        live.fetch = partial(self._fetch, live)

    def _fetch(self, live: LiveFold) -> None:
        place = live.place
        if place not in self._fetching:
            self._fetching[place] = self._spawn(self._while_waited_for(live))

    async def _while_waited_for(self, live: LiveFold) -> None:
        try:
            while live.waited_for and not live.by_faust:
                pause = AGAIN_S if await healed(self._prompt, live) else UNREACHABLE_PAUSE_S
                await asyncio.sleep(pause)
        finally:  # at once: who waits from here on has it begin again
            self._fetching.pop(live.place, None)

    async def _rounds(self) -> None:
        """Read on all that stands by, once a second; what is watched, at once."""
        watched_rounds = round(STAND_BY_S / WATCHED_S)
        number = 0
        while True:
            await asyncio.sleep(WATCHED_S)
            number += 1
            everyone = number % watched_rounds == 0
            due = {
                place: live
                for place, live in list(self._folds.items())
                if not live.by_faust and (everyone or live.watchers)
            }
            if due:
                await self._one_round(due)

    async def _one_round(self, due: Mapping[Place, LiveFold]) -> None:
        try:
            ends = await self._round.run(lambda log: log.ends(due))
        except Pushback:
            return
        for place, live in due.items():
            if live.next_offset < ends[place] and place in self._folds:
                await healed(self._round, live, ends[place])
