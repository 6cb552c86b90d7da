"""Faust hosts the folds that serve. The only module that knows Faust.

House rules, each with a reason in DESIGN.md: at-least-once, one record at a time, raw bytes, static
membership; no tables, no take(), no windows, no web server. An exception in an agent would be an
acknowledged loss, so none ever reaches Faust: the process stops instead and is started again.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import structlog

from spine.errors import Pushback, Reason
from spine.event import LogRecord
from spine.follow import Followers, Place
from spine.live import LiveFold, healed
from spine.log import Kafka, LogReader
from spine.log_thread import ReaderThread
from spine.replay import StoredFold, rebuild
from spine.rocks import DamagedStore
from spine.together import Together
from spine.watchdog import ONE_RECORD_BYTES, Ahead, Unopened, Watchdog

EXIT_FOLD_FAILED: Final = 70
WATCH_EVERY_S: Final = 2.0
HEAL_AFTER_ASSIGNMENT_S: Final = (0.2, 1.0, 3.0)
# When a store is opened again that the log did not answer for.
OPEN_AGAIN_S: Final = 1.0
# How long a record that the log holds is waited for before it is looked for there.
ON_ITS_WAY_S: Final = 0.25
# How long a process that opens only what it is assigned waits for its group before it answers.
ASSIGNED_WITHIN_S: Final = 15.0
_log = structlog.get_logger()


class _Unneeded(Exception):
    """Nobody needs any longer what is being rebuilt."""


class FaustFolds:
    """The folds of one process, in one Faust app inside the running event loop.

    Processes of one `name` are a consumer group and share the partitions; `member` tells them apart
    and is the static member id. `folds` are kept by every member, assigned to it or not (they stand
    by, see `follow.py`); those of `opens` are opened where the group assigns them, and kept until
    another member has announced that it folds them (`let_go`).

    `claims` says since when (milliseconds UTC) this process folds a place for all to see. `still_s`
    is how long the stillest fold has had records to fold without moving. `on_failure` is called
    with an exception that no rule foresaw; by default the process exits with 70 and is started
    again.
    """

    def __init__(
        self,
        name: str,
        kafka: Kafka,
        folds: Iterable[StoredFold],
        *,
        datadir: Path,
        opens: Mapping[Place, Callable[[], StoredFold]] | None = None,
        member: str | None = None,
        session_timeout_s: float = 6.0,
        heartbeat_s: float = 2.0,
        on_failure: Callable[[BaseException], None] | None = None,
    ) -> None:
        self.folds = {(f.topic, f.partition): LiveFold(f) for f in folds}
        self.claims: dict[Place, int] = {}
        self._kept, self._opens = frozenset(self.folds), opens or {}
        self._name, self._member = name, member or name
        self._kafka, self._datadir = kafka, datadir
        self._session_timeout_s, self._heartbeat_s = session_timeout_s, heartbeat_s
        self._on_failure = on_failure or _exit
        self._reader: ReaderThread | None = None
        # Apart, as to rebuild a store takes minutes and more; None unless all this runs.
        self._opener: ReaderThread | None = None
        self._ahead: Ahead | None = None
        self._followers: Followers | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._assigned: frozenset[Place] = frozenset()
        self._assignments = 0
        self._settling = asyncio.Lock()
        self._settled = asyncio.Event()
        self._app: Any = None
        # Where the log did not answer: Faust may have gone past what it was to give.
        self._unhealed: set[Place] = set()
        self._ends: dict[Place, int] = {}
        self._ends_learnt = Together(self._learn_ends)
        self._unopened = Unopened()
        self.still_s = 0.0

    async def start(self) -> None:
        """Catch up from the log, then let Faust take over; returns when both are done."""
        reader = self._reader = ReaderThread(self._kafka)
        self._opener = ReaderThread(self._kafka)
        ahead = self._ahead = Ahead(ReaderThread(self._kafka, ONE_RECORD_BYTES))
        self._followers = Followers(self._kafka, self.folds, self._spawn)
        for live in self.folds.values():
            await reader.run(partial(rebuild, live.stored))
            self._followers.add(live)
        self._followers.start()
        self._app = self._faust_app()
        await self._app.start()
        self._spawn(self._watch(Watchdog(self.folds, reader, ahead, self._on_failure)))
        if self._opens:
            try:
                await asyncio.wait_for(self._settled.wait(), ASSIGNED_WITHIN_S)
            except TimeoutError:
                _log.warning("fold.unassigned", group=self._name, member=self._member)

    async def stop(self) -> None:
        """Stop folding. Answers stop with it."""
        self.claims.clear()
        opener, self._opener = self._opener, None
        if self._app is not None:
            await self._app.stop()
            self._app = None
        if opener is not None:
            await opener.close()  # what it was opening is closed by then
        for task in list(self._tasks):
            task.cancel()
        if self._followers is not None:
            await self._followers.close()
            self._followers = None
        if self._ahead is not None:
            await self._ahead.close()
            self._ahead = None
        if self._reader is not None:
            await self._reader.close()
            self._reader = None

    def close(self) -> None:
        """Let go of the stores."""
        for live in self.folds.values():
            live.close()

    def __getitem__(self, place: Place) -> LiveFold:
        return self.folds[place]

    def let_go(self, place: Place) -> None:
        """Another member has announced this place: it is no longer ours, unless it is assigned."""
        if place in self._assigned:
            return
        self.claims.pop(place, None)
        if place not in self._kept and (live := self.folds.pop(place, None)) is not None:
            live.close()

    def met(self, damage: DamagedStore) -> None:
        """Fail, as a fold that meets it, if what anybody read is a store of these folds."""
        if any(live.stored.store.is_damaged for live in self.folds.values()):
            self._on_failure(damage)

    def _faust_app(self) -> Any:
        import faust  # here, so that who only reads the log never loads it

        app = faust.App(
            self._name,
            broker=[f"kafka://{host}" for host in self._kafka.bootstrap.split(",")],
            broker_credentials=self._credentials(),
            store="memory://",
            datadir=str(self._datadir),
            processing_guarantee="at_least_once",
            consumer_group_instance_id=self._member,
            consumer_auto_offset_reset="latest",
            broker_session_timeout=self._session_timeout_s,
            broker_heartbeat_interval=self._heartbeat_s,
            web_enabled=False,
            topic_disable_leader=True,
            topic_allow_declare=False,
        )
        for topic in sorted({topic for topic, _ in (*self._kept, *self._opens)}):
            source = app.topic(
                topic,
                key_type=bytes,
                value_type=bytes,
                key_serializer="raw",
                value_serializer="raw",
            )
            app.agent(source, concurrency=1, name=f"{self._name}.{topic}")(self._agent)
        app.on_partitions_revoked.connect(self._on_revoked, weak=False)
        app.on_partitions_assigned.connect(self._on_assigned, weak=False)
        return app

    def _credentials(self) -> Any:
        import faust

        kafka = self._kafka
        tls = kafka.ssl_context() if "SSL" in kafka.security_protocol else None
        if kafka.sasl_mechanism is not None:
            return faust.SASLCredentials(
                username=kafka.sasl_username,
                password=kafka.sasl_password,
                mechanism=kafka.sasl_mechanism,
                ssl_context=tls,
            )
        return None if tls is None else faust.SSLCredentials(context=tls)

    async def _agent(self, stream: Any) -> AsyncIterator[None]:
        async for event in stream.events():
            try:
                await self._deliver(_from_faust(event.message))
            except asyncio.CancelledError:
                raise
            except BaseException as error:
                self._on_failure(error)
            yield

    async def _deliver(self, record: LogRecord) -> None:
        place = (record.topic, record.partition)
        live = self.folds.get(place)
        if live is None:
            return
        new = record.offset >= live.next_offset
        if record.offset > live.next_offset and not await self._heal(live, record.offset):
            live.by_faust = False  # it follows the log by itself, from where it stands
            return
        live.deliver(record)
        if new and place in self._assigned:
            live.by_faust = True

    async def _heal(self, live: LiveFold, end: int | None = None) -> bool:
        answered = self._reader is not None and await healed(self._reader, live, end)
        if answered:
            self._unhealed.discard(live.place)
        else:
            self._unhealed.add(live.place)
        return answered

    async def _on_revoked(self, *_: Any, **__: Any) -> None:
        """Whatever the group decides next, the folds follow the log by themselves meanwhile."""
        for live in self.folds.values():
            live.by_faust = False

    async def _on_assigned(self, *given: Any, **_: Any) -> None:
        """Take what is ours now. What is no longer ours goes on until another announces it."""
        _, assigned = given
        places = frozenset((place.topic, place.partition) for place in assigned)
        places &= {*self._kept, *self._opens}
        for place in (places - self._assigned) & self.claims.keys():
            self.claims[place] = _now_ms()  # another may have claimed it in between
        for place, live in self.folds.items():
            live.by_faust &= place in places
        self._assigned = places
        self._assignments += 1
        self._spawn(self._settle(self._assignments))

    async def _settle(self, assignment: int) -> None:
        """Open what is assigned and claim it; heal what came before Faust's start at the log's end.

        Faust is trusted with a fold once it has delivered something new to it, or has had time to.
        """
        async with self._settling:
            if not await self._take(assignment):
                return
        self._settled.set()
        for pause in HEAL_AFTER_ASSIGNMENT_S:
            await asyncio.sleep(pause)
            for live in self._assigned_folds(assignment):
                await self._heal(live)
        for live in self._assigned_folds(assignment):
            live.by_faust = live.place not in self._unhealed

    async def _take(self, assignment: int) -> bool:
        """Open and claim what is assigned; what the log does not answer for, after all else.

        False if that came to nothing, as another assignment came first or the process stops.
        """
        left = deque(sorted(self._assigned))
        while left:
            if assignment != self._assignments or self._opener is None:
                return False
            place = left.popleft()
            try:
                if place not in self.folds:
                    await self._open(place)
            except Pushback as unreachable:
                _log.warning("fold.open_failed", place=place, reason=str(unreachable))
                self._unopened.add(place)
                left.append(place)
                await asyncio.sleep(OPEN_AGAIN_S)
            if place in self.folds and place in self._assigned:
                self.claims.setdefault(place, _now_ms())
        return assignment == self._assignments and self._opener is not None

    def _assigned_folds(self, assignment: int) -> list[LiveFold]:
        if assignment != self._assignments:
            return []
        return [live for place, live in self.folds.items() if place in self._assigned]

    async def _open(self, place: Place) -> None:
        """Open the store of a place, whatever it was left at, and catch up.

        It may be another's by then, or the process may stop: then it is closed again.
        """
        opener, followers = self._opener, self._followers
        if opener is None or followers is None:
            return
        loop = asyncio.get_running_loop()

        def go_on(*_: int) -> None:
            if place not in self._assigned or self._opener is None:
                raise _Unneeded
            loop.call_soon_threadsafe(self._unopened.answered, place)

        def caught_up(log: LogReader) -> StoredFold:
            stored = self._opens[place]()
            try:
                rebuild(stored, log, progress=go_on)
            except BaseException:
                stored.close()  # or nobody could open it again
                raise
            return stored

        try:
            stored = await opener.run(caught_up)
        except _Unneeded:
            return
        if place not in self._assigned or self._opener is None:
            stored.close()
            return
        live = LiveFold(stored)
        followers.add(live)
        self.folds[place] = live

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start a task whose failure ends the process, as that of an agent does."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._on_failure(error)

    async def level(self, timeout_s: float) -> None:
        """Return once every fold has what the log holds now; else Pushback(FOLD_BEHIND).

        One question about all of them, and one for all who ask at once.
        """
        await self._ends_learnt()
        behind = [
            self._reached(live, end, timeout_s)
            for place, end in self._ends.items()
            if (live := self.folds.get(place)) is not None and end > live.next_offset
        ]
        await asyncio.gather(*behind)

    async def _learn_ends(self) -> None:
        if self._reader is None:
            raise Pushback(Reason.LOG_UNREACHABLE, "the log does not answer")
        places = list(self.folds)
        self._ends = await self._reader.run(lambda log: log.ends(places))

    async def _reached(self, live: LiveFold, end: int, timeout_s: float) -> None:
        """Wait until the fold is there. What is missing is most often on its way, and only what
        does not come is looked for in the log, once: it may be a hole, and stays one.
        """
        if self._ahead is not None and self._ahead.is_hole(live, end):
            return
        try:
            await live.passed(end - 1, min(ON_ITS_WAY_S, timeout_s))
        except Pushback:
            if self._ahead is None or await self._ahead.holds_more(live, end):
                await live.passed(end - 1, timeout_s)

    async def _watch(self, watchdog: Watchdog) -> None:
        """Look every so often; a fold that stands still although the log goes on is a failure, as
        is a store that another process, which reads it, has marked.
        """
        while True:
            await asyncio.sleep(WATCH_EVERY_S)
            self.met(DamagedStore("a store was found damaged by who reads it"))
            self.still_s = await watchdog.look()
            self._unopened.tell(self._assigned.difference(self.folds))


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _from_faust(message: Any) -> LogRecord:
    headers = message.headers.items() if hasattr(message.headers, "items") else message.headers
    place = message.topic, message.partition, message.offset
    named = tuple((name, value) for name, value in headers or ())
    return LogRecord(*place, round(message.timestamp * 1000), message.key, named, message.value)


def _exit(error: BaseException) -> None:
    _log.error("fold.failed", error=type(error).__name__, detail=str(error), exc_info=error)
    os._exit(EXIT_FOLD_FAILED)
