"""Open streams are cut by the fold itself, without a request (rule 5).

Whenever a fact of a watched meter, or of governance, is folded, and once a second for what time
alone ends, the terms of a stream that is followed are judged again on the folded state. Of a set
that is being sent, the members whom such a fact concerned are, when it is their turn.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from spine.access import AccessLog
from spine.errors import Reason
from spine.event import AccessRequest, LogRecord
from spine.policy import Refuse
from spine.rows import Applied

JUDGE_EVERY_S: Final = 1.0


class Watch:
    """What one open stream may still send. `cut` fills up with members and reasons.

    `lasting`: it is judged by itself, also for what time alone ends. Else for a permit's two
    seconds: of which members facts were folded meanwhile is in `touched`, and who sends asks.
    """

    def __init__(self, request: AccessRequest, partition: int, *, lasting: bool = True) -> None:
        self.request, self.partition, self.lasting = request, partition, lasting
        self.members = set(request.meters)
        self.cut: dict[str, Reason] = {}
        self.touched: set[str] = set()
        self.changed = asyncio.Event()


class Watches:
    """All open streams of a server, and the listeners that judge them again."""

    def __init__(self, access: Mapping[int, AccessLog]) -> None:
        self._access = access
        self._open: set[Watch] = set()
        self._ticking: asyncio.Task[None] | None = None
        for partition, log in access.items():
            log.live.listeners.append(self._listener(partition))

    def add(self, watch: Watch) -> None:
        """Watch a stream from now on."""
        if watch not in self._open:
            self._open.add(watch)
            self._access[watch.partition].live.watchers += 1
        if self._ticking is None:
            self._ticking = asyncio.create_task(self._tick())

    def remove(self, watch: Watch) -> None:
        """The stream has ended."""
        if watch in self._open:
            self._open.remove(watch)
            self._access[watch.partition].live.watchers -= 1

    def judge(self, watch: Watch) -> None:
        """Judge all of a stream's members on the state as it is."""
        self._judge(watch, set(watch.members))

    def judge_touched(self, watch: Watch, members: Iterable[str]) -> None:
        """Judge those of these members of whom facts were folded since they were watched."""
        self._judge(watch, watch.touched.intersection(members))

    def close(self) -> None:
        """Stop judging."""
        if self._ticking is not None:
            self._ticking.cancel()
            self._ticking = None

    def _listener(self, partition: int) -> Callable[[LogRecord, Applied], None]:
        def on_record(_: LogRecord, applied: Applied) -> None:
            touched = set(applied.subjects) | {r.subject for r in applied.refusals}
            if not touched and not applied.governance:
                return
            for watch in self._open:
                if watch.partition == partition:
                    everyone = applied.governance or "" in touched
                    members = watch.members if everyone else watch.members & touched
                    if watch.lasting:
                        self._judge(watch, members)
                    else:
                        watch.touched |= members

        return on_record

    def _judge(self, watch: Watch, members: set[str]) -> None:
        fold = self._access[watch.partition].live.stored.fold
        now_ms = time.time_ns() // 1_000_000
        for member in sorted(members):
            decision = fold.judge(watch.request, member, now_ms).decision
            if isinstance(decision, Refuse):
                watch.members.discard(member)
                watch.cut[member] = decision.disclosed
                watch.changed.set()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(JUDGE_EVERY_S)
            for watch in [each for each in self._open if each.lasting]:
                self.judge(watch)
