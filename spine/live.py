"""A fold in motion: others wait for it and listen to it. Who moves it is not its concern."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from itertools import islice
from typing import Final

import structlog

from spine import telemetry
from spine.errors import Pushback, Reason
from spine.event import LogRecord
from spine.log_thread import ReaderThread
from spine.replay import StoredFold
from spine.rows import Applied, Counts

HEAL_RECORDS: Final = 256  # at a time: a gap may be as long as the log
TURN_S: Final = 0.02  # others of the event loop have theirs in between: bulk records take long
_log = structlog.get_logger()

Listener = Callable[[LogRecord, Applied], None]


def nobody_fetches() -> None:
    """A fold that only its host moves."""


class LiveFold:
    """A stored fold in motion.

    `by_faust` says whether Faust delivers to it. While it does not, `fetch` is called whenever
    somebody waits for a record, and `watchers` counts who wants each record at once.
    """

    def __init__(self, stored: StoredFold) -> None:
        self.stored = stored
        self.moved_at = time.monotonic()
        self.listeners: list[Listener] = []
        self.by_faust = False
        self.watchers = 0
        self.closed = False
        self.fetch: Callable[[], None] = nobody_fetches
        self._waiters: list[tuple[int, asyncio.Future[None]]] = []

    @property
    def place(self) -> tuple[str, int]:
        """Its topic and partition."""
        return self.stored.topic, self.stored.partition

    @property
    def waited_for(self) -> bool:
        """Whether anybody waits for a record that is not folded yet."""
        return bool(self._waiters)

    @property
    def next_offset(self) -> int:
        """The offset after the last folded record."""
        return self.stored.next_offset

    async def passed(self, offset: int, timeout_s: float) -> None:
        """Return once the record at `offset` is folded; Pushback(FOLD_BEHIND) if that takes too
        long.
        """
        if offset < self.next_offset:
            return
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiter = (offset, done)
        self._waiters.append(waiter)
        if not self.by_faust:
            self.fetch()
        try:
            await asyncio.wait_for(done, timeout_s)
        except TimeoutError:
            raise Pushback(Reason.FOLD_BEHIND, "the fold has not reached the record yet") from None
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)

    def deliver(self, record: LogRecord) -> None:
        """Fold one record that follows on the last, tell the listeners, wake who waited for it."""
        if self.closed or record.offset < self.next_offset:  # delivered again, by another way
            return
        trace = telemetry.extract(record.header(telemetry.TRACEPARENT))
        with telemetry.span("fold", parent=trace, attributes={"topic": record.topic}):
            applied = self.stored.apply(record)
            if applied is None:
                return
            self.moved_at = time.monotonic()
            for listener in self.listeners:
                listener(record, applied)
        _count(record.topic, applied)
        still_waiting = []
        for offset, done in self._waiters:
            if offset < self.next_offset:
                if not done.done():
                    done.set_result(None)
            else:
                still_waiting.append((offset, done))
        self._waiters = still_waiting

    def close(self) -> None:
        """Let go of the store; what still arrives is another process's."""
        self.closed = True
        self.stored.close()


def _count(topic: str, applied: Applied) -> None:
    counts = applied.counted(Counts())
    for outcome in ("applied", "duplicate", "void", "quarantined", "held", "access"):
        if number := getattr(counts, outcome):
            telemetry.entries.add(number, {"topic": topic, "outcome": outcome})
    for refusal in applied.refusals:
        if refusal.outcome == "quarantined":
            telemetry.quarantined.add(1, {"rule": str(refusal.reason)})


async def heal(reader: ReaderThread, live: LiveFold, end: int | None = None) -> None:
    """Read what delivery left out straight from the log; what is not there is a real hole.

    `end` is the offset to stop before; the present end of the log if None.
    """
    stored = live.stored
    while True:
        missing = await reader.run(
            lambda log: list(
                islice(
                    log.read(stored.topic, stored.partition, live.next_offset, end), HEAL_RECORDS
                )
            )
        )
        turn_over = time.monotonic() + TURN_S
        for record in missing:
            live.deliver(record)
            if time.monotonic() > turn_over:
                await asyncio.sleep(0)
                turn_over = time.monotonic() + TURN_S
        if len(missing) < HEAL_RECORDS or live.closed:
            return


async def healed(reader: ReaderThread, live: LiveFold, end: int | None = None) -> bool:
    """`heal`, but for a log that does not answer: whether it did."""
    try:
        await heal(reader, live, end)
    except Pushback as unreachable:
        _log.warning("fold.heal_failed", reason=str(unreachable))
        return False
    return True
