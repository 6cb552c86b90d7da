"""Faust hosts the folds that serve. The only module that knows Faust.

House rules, each with a reason in DESIGN.md: at-least-once, one record at a time, raw bytes, static
membership; no tables, no take(), no windows, no web server. An exception in an agent would be an
acknowledged loss, so none ever reaches Faust: the process stops instead and is started again.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Final

import structlog
from opentelemetry.util.types import AnyValue

from spine import telemetry
from spine.errors import Pushback, Reason
from spine.event import LogRecord
from spine.log import Kafka, LogReader, ReaderThread
from spine.replay import StoredFold, rebuild
from spine.rows import Applied, Counts

EXIT_FOLD_FAILED: Final = 70
WATCH_EVERY_S: Final = 2.0
STALLED_AFTER_S: Final = 30.0
HEAL_RECORDS: Final = 256  # at a time: a gap may be as long as the log
HEAL_AFTER_ASSIGNMENT_S: Final = (0.2, 1.0, 3.0)
_log = structlog.get_logger()

Listener = Callable[[LogRecord, Applied], None]


class LiveFold:
    """A stored fold that Faust keeps moving. Others wait for it and listen to it."""

    def __init__(self, stored: StoredFold) -> None:
        self.stored = stored
        self.moved_at = time.monotonic()
        self.listeners: list[Listener] = []
        self._waiters: list[tuple[int, asyncio.Future[None]]] = []

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
        try:
            await asyncio.wait_for(done, timeout_s)
        except TimeoutError:
            raise Pushback(Reason.FOLD_BEHIND, "the fold has not reached the record yet") from None
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)

    def deliver(self, record: LogRecord) -> None:
        """Fold one record that follows on the last, tell the listeners, wake who waited for it."""
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


def _count(topic: str, applied: Applied) -> None:
    counts = applied.counted(Counts())
    for outcome in ("applied", "duplicate", "void", "quarantined", "held", "access"):
        if number := getattr(counts, outcome):
            telemetry.entries.add(number, {"topic": topic, "outcome": outcome})
    for refusal in applied.refusals:
        if refusal.outcome == "quarantined":
            telemetry.quarantined.add(1, {"rule": str(refusal.reason)})


class FaustFolds:
    """All folds of one process, in one Faust app inside the running event loop.

    `still_s` is how long the stillest fold has had records to fold without moving.
    `name` is the consumer group and, with it, the static member id. `on_failure` is called with an
    exception that no rule foresaw; by default the process exits with 70 and is started again.
    """

    def __init__(
        self,
        name: str,
        kafka: Kafka,
        folds: Iterable[StoredFold],
        *,
        datadir: Path,
        session_timeout_s: float = 6.0,
        heartbeat_s: float = 2.0,
        on_failure: Callable[[BaseException], None] | None = None,
    ) -> None:
        self.folds = {(f.topic, f.partition): LiveFold(f) for f in folds}
        self._name, self._kafka, self._datadir = name, kafka, datadir
        self._session_timeout_s, self._heartbeat_s = session_timeout_s, heartbeat_s
        self._on_failure = on_failure or _exit
        self._reader: ReaderThread | None = None
        self._healing: set[asyncio.Task[None]] = set()
        self._watching: asyncio.Task[None] | None = None
        self._app: Any = None
        self.still_s = 0.0

    async def start(self) -> None:
        """Catch up from the log, then let Faust take over; returns when both are done."""
        self._reader = ReaderThread(self._kafka)
        for live in self.folds.values():
            await self._reader.run(partial(rebuild, live.stored))
        self._app = self._faust_app()
        await self._app.start()
        self._watching = self._spawn(self._watch())

    async def stop(self) -> None:
        """Stop folding. Answers stop with it."""
        for task in (*self._healing, *filter(None, [self._watching])):
            task.cancel()
        self._watching = None
        if self._app is not None:
            await self._app.stop()
            self._app = None
        if self._reader is not None:
            await self._reader.close()
            self._reader = None

    def close(self) -> None:
        """Let go of the stores."""
        for live in self.folds.values():
            live.stored.close()

    def __getitem__(self, place: tuple[str, int]) -> LiveFold:
        return self.folds[place]

    def _faust_app(self) -> Any:
        import faust  # here, so that who only reads the log never loads it

        app = faust.App(
            self._name,
            broker=[f"kafka://{host}" for host in self._kafka.bootstrap.split(",")],
            broker_credentials=self._credentials(),
            store="memory://",
            datadir=str(self._datadir),
            processing_guarantee="at_least_once",
            consumer_group_instance_id=self._name,
            consumer_auto_offset_reset="latest",
            broker_session_timeout=self._session_timeout_s,
            broker_heartbeat_interval=self._heartbeat_s,
            web_enabled=False,
            topic_disable_leader=True,
            topic_allow_declare=False,
        )
        for topic in sorted({topic for topic, _ in self.folds}):
            source = app.topic(
                topic,
                key_type=bytes,
                value_type=bytes,
                key_serializer="raw",
                value_serializer="raw",
            )
            app.agent(source, concurrency=1, name=f"{self._name}.{topic}")(self._agent)
        app.on_partitions_assigned.connect(self._assigned, weak=False)
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
        live = self.folds.get((record.topic, record.partition))
        if live is None:
            return
        if record.offset > live.next_offset:
            await self._heal(live, record.offset)
        live.deliver(record)

    async def _heal(self, live: LiveFold, end: int | None = None) -> None:
        """Read what delivery left out straight from the log; what is not there is a real hole."""
        reader, stored = self._reader, live.stored
        if reader is None:
            return

        def some(log: LogReader) -> list[LogRecord]:
            read = log.read(stored.topic, stored.partition, live.next_offset, end)
            return list(islice(read, HEAL_RECORDS))

        while missing := await reader.run(some):
            for record in missing:
                live.deliver(record)

    async def _assigned(self, *_: Any, **__: Any) -> None:
        """Faust starts at the end of the log: heal what came before its start."""
        self._healing.add(self._spawn(self._heal_after_assignment()))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start a task whose failure ends the process, as that of an agent does."""
        task = asyncio.create_task(work)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._healing.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._on_failure(error)

    async def _heal_after_assignment(self) -> None:
        for pause in HEAL_AFTER_ASSIGNMENT_S:
            await asyncio.sleep(pause)
            for live in self.folds.values():
                try:
                    await self._heal(live)
                except Pushback as unreachable:
                    _log.warning("fold.heal_failed", reason=str(unreachable))

    async def level(self, timeout_s: float) -> None:
        """Return once every fold has what the log holds now; else Pushback(FOLD_BEHIND)."""
        for place, live in self.folds.items():
            end = await self._end(place)
            if end is None:
                raise Pushback(Reason.LOG_UNREACHABLE, "the log does not answer")
            if end > live.next_offset and await self._holds_more(live, end):
                await live.passed(end - 1, timeout_s)

    async def _watch(self) -> None:
        """Measure the lag; a fold that stands still although the log goes on ends the process.

        Consumers have been seen alive but idle after rebalances and broker restarts, so progress
        while there is something to fold is the only sign of life that counts.
        """
        behind_since: dict[tuple[str, int], tuple[int, float]] = {}
        while True:
            await asyncio.sleep(WATCH_EVERY_S)
            still_s = 0.0
            for place, live in self.folds.items():
                end = await self._end(place)
                if end is None:
                    continue
                now = time.monotonic()
                at, since = behind_since.get(place, (live.next_offset, now))
                if end <= live.next_offset or at != live.next_offset:
                    at, since = live.next_offset, now
                if since < now and not await self._holds_more(live, end):
                    end, since = live.next_offset, now
                behind_since[place] = (at, since)
                where: dict[str, AnyValue] = {"topic": place[0], "partition": place[1]}
                telemetry.view_lag_ms.set(round((now - since) * 1000), where)
                telemetry.view_records_behind.set(max(0, end - live.next_offset), where)
                still_s = max(still_s, now - since)
                if now - since > STALLED_AFTER_S:
                    self._on_failure(RuntimeError(f"{place[0]}-{place[1]} stands still"))
            self.still_s = still_s

    async def _end(self, place: tuple[str, int]) -> int | None:
        reader = self._reader
        if reader is None:
            return None
        try:
            return (await reader.run(lambda log: log.bounds(*place)))[1]
        except Pushback:
            return None

    async def _holds_more(self, live: LiveFold, end: int) -> bool:
        """Whether a record stands between the fold and the end, and not only a real hole."""
        reader, stored = self._reader, live.stored
        if reader is None:
            return False
        try:
            missing = await reader.run(
                lambda log: next(
                    log.read(stored.topic, stored.partition, live.next_offset, end), None
                )
            )
            return missing is not None
        except Pushback:
            return True


def _from_faust(message: Any) -> LogRecord:
    headers = message.headers.items() if hasattr(message.headers, "items") else message.headers
    return LogRecord(
        message.topic,
        message.partition,
        message.offset,
        round(message.timestamp * 1000),
        message.key,
        tuple((name, value) for name, value in headers or ()),
        message.value,
    )


def _exit(error: BaseException) -> None:
    _log.error("fold.failed", error=type(error).__name__, detail=str(error), exc_info=error)
    os._exit(EXIT_FOLD_FAILED)
