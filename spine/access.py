"""A read is an event; its place in the log decides (rules 5 and 6).

`AccessLog.decide` appends a request to its meter's partition of the consumer log, waits until the
fold reaches that very record, and returns what the fold decided there. Requests of one partition
share a record and a signature. `OutcomeLog` appends what became of every decision.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import structlog

from spine import merkle, trust
from spine.errors import Pushback, Reason, SpineError
from spine.event import (
    ENTRIES_ROOT_HEADER,
    TYPE_HEADER,
    AccessOutcome,
    AccessOutcomes,
    AccessRequest,
    AccessRequests,
    DataPosition,
    LogRecord,
    RecordType,
)
from spine.fold import LiveFold
from spine.rows import Applied, Decided
from spine.writer import LogWriter

MAX_REQUESTS_PER_RECORD: Final = 200
MAX_METERS_PER_RECORD: Final = 10_000
MAX_WAITING: Final = 4_096
FOLD_TIMEOUT_S: Final = 5.0
STILL_AFTER_S: Final = 1.0
_log = structlog.get_logger()

Vector = tuple[DataPosition, ...]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the fold decided on one request, member by member, and where.

    `expires_at` is on this server's monotonic clock, counted from before the append was sent.
    """

    request: AccessRequest
    partition: int
    offset: int
    decided: tuple[Decided, ...]
    vector: Vector
    expires_at: float

    @property
    def expired(self) -> bool:
        """Whether the permit may no longer be used."""
        return time.monotonic() >= self.expires_at


@dataclass(slots=True, eq=False)
class _Waiting:
    request: AccessRequest
    vector: Vector
    verdict: asyncio.Future[Verdict]
    decided: dict[int, tuple[Decided, ...]] = field(default_factory=dict)


class AccessLog:
    """Appends requests and collects the fold's decisions for one partition of the consumer log."""

    def __init__(
        self,
        live: LiveFold,
        writer: LogWriter,
        server: str,
        permit_ttl_s: float,
        fence: bool = True,
    ) -> None:
        self._live, self._writer, self._server = live, writer, server
        self._permit_ttl_s, self._fence = permit_ttl_s, fence
        self._queue: list[_Waiting] = []
        self._wanted: dict[bytes, _Waiting] = {}
        self._sending = asyncio.Lock()
        live.listeners.append(self._on_record)

    @property
    def live(self) -> LiveFold:
        """The fold that decides."""
        return self._live

    async def decide(self, request: AccessRequest, vector: Vector) -> Verdict:
        """Log the request and return the fold's decision at its place.

        Pushback(FOLD_BEHIND) if the fold does not reach it, Pushback(INDETERMINATE) if the append
        was not acknowledged; nothing may be served then.
        """
        if not self._fence:
            return self._decide_unfenced(request, vector)
        if len(self._queue) >= MAX_WAITING:
            raise Pushback(Reason.OVERLOADED, "too many reads are waiting")
        loop = asyncio.get_running_loop()
        waiting = _Waiting(request, vector, loop.create_future())
        self._queue.append(waiting)
        async with self._sending:
            if waiting in self._queue:
                batch = self._next_batch()
                await self._send(batch)
        return await waiting.verdict

    async def ensure_moving(self) -> None:
        """Pushback(FOLD_BEHIND) unless the fold moves: an idle log is probed."""
        if time.monotonic() - self._live.moved_at < STILL_AFTER_S:
            return
        record = AccessRequests(
            trust.CONSUMER_LOG, self._live.stored.partition, self._server, bytes(32), (), ()
        )
        appended = await self._append(record)
        await self._live.passed(appended, STILL_AFTER_S)

    def _next_batch(self) -> list[_Waiting]:
        meters, count = 0, 0
        for waiting in self._queue[:MAX_REQUESTS_PER_RECORD]:
            meters += len(waiting.request.meters)
            if count and meters > MAX_METERS_PER_RECORD:
                break
            count += 1
        batch, self._queue = self._queue[:count], self._queue[count:]
        return batch

    async def _send(self, batch: list[_Waiting]) -> None:
        """Append one record for the batch and settle every request in it, one way or the other."""
        vectors = tuple(dict.fromkeys(waiting.vector for waiting in batch))
        for waiting in batch:
            waiting.request = replace(waiting.request, vector=vectors.index(waiting.vector))
            self._wanted[waiting.request.request_id] = waiting
        record = AccessRequests(
            trust.CONSUMER_LOG,
            self._live.stored.partition,
            self._server,
            os.urandom(32),
            vectors,
            tuple(waiting.request for waiting in batch),
        )
        expires_at = time.monotonic() + self._permit_ttl_s
        try:
            offset = await self._append(record)
        except SpineError as error:
            self._settle(batch, error)
            return
        task = asyncio.create_task(self._await_fold(batch, offset, expires_at))
        _background.add(task)
        task.add_done_callback(_background.discard)

    async def _append(self, record: AccessRequests) -> int:
        entries = [self._writer.codec.encode_entry(entry) for entry in record.entries]
        root = merkle.salted_root(record.salt_seed, entries)
        appended = await self._writer.write(
            RecordType.ACCESS,
            record.topic,
            record.partition,
            record,
            headers=((ENTRIES_ROOT_HEADER, root),),
        )
        return appended.offset

    async def _await_fold(self, batch: list[_Waiting], offset: int, expires_at: float) -> None:
        try:
            await self._live.passed(offset, FOLD_TIMEOUT_S)
        except SpineError as error:
            self._settle(batch, error)
            return
        for waiting in batch:
            self._wanted.pop(waiting.request.request_id, None)
            decided = waiting.decided.get(offset)
            if waiting.verdict.done():
                continue
            if decided is None:
                message = "the fold found no decision at the request's place"
                waiting.verdict.set_exception(Pushback(Reason.KEY_NOT_SEEN, message))
                continue
            partition = self._live.stored.partition
            waiting.verdict.set_result(
                Verdict(waiting.request, partition, offset, decided, waiting.vector, expires_at)
            )

    def _settle(self, batch: Iterable[_Waiting], error: SpineError) -> None:
        for waiting in batch:
            self._wanted.pop(waiting.request.request_id, None)
            if not waiting.verdict.done():
                waiting.verdict.set_exception(error)

    def _on_record(self, record: LogRecord, applied: Applied) -> None:
        """The fold has reached a record; if it holds requests of ours, it decides them there."""
        if not self._wanted or record.header(TYPE_HEADER) != RecordType.ACCESS.encode():
            return
        by_request: dict[bytes, list[Decided]] = {}
        for decided in self._live.stored.fold.decide_access(record, self._wanted.keys()):
            by_request.setdefault(decided.request.request_id, []).append(decided)
        for request_id, members in by_request.items():
            self._wanted[request_id].decided[record.offset] = tuple(members)

    def _decide_unfenced(self, request: AccessRequest, vector: Vector) -> Verdict:
        """The naive read: ask the view as it is. Only for the test that shows how it leaks."""
        fold = self._live.stored.fold
        now_ms = time.time_ns() // 1_000_000
        decided = tuple(fold.judge(request, member, now_ms) for member in request.meters)
        expires_at = time.monotonic() + self._permit_ttl_s
        return Verdict(request, fold.partition, -1, decided, vector, expires_at)


class OutcomeLog:
    """Appends outcomes in the background, many to a record; `flush` waits until all are in."""

    def __init__(self, writer: LogWriter, server: str) -> None:
        self._writer, self._server = writer, server
        self._queues: dict[int, list[AccessOutcome]] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}

    def add(self, partition: int, outcomes: Sequence[AccessOutcome]) -> None:
        """Queue outcomes of requests decided in that partition."""
        self._queues.setdefault(partition, []).extend(outcomes)
        if partition not in self._tasks:
            task = asyncio.create_task(self._drain(partition))
            self._tasks[partition] = task

    async def flush(self) -> None:
        """Wait until everything queued so far is appended."""
        while self._tasks:
            await asyncio.gather(*self._tasks.values())

    async def _drain(self, partition: int) -> None:
        queue = self._queues[partition]
        try:
            while queue:
                batch = tuple(queue[:MAX_REQUESTS_PER_RECORD])
                value = AccessOutcomes(trust.OUTCOMES_TOPIC, partition, self._server, batch)
                try:
                    await self._writer.write(
                        RecordType.OUTCOMES, trust.OUTCOMES_TOPIC, partition, value
                    )
                except Pushback as pushback:
                    _log.warning("outcomes.retry", partition=partition, reason=str(pushback.reason))
                    await asyncio.sleep(pushback.retry_after_s)
                    continue
                del queue[: len(batch)]
        finally:
            del self._tasks[partition]


_background: set[asyncio.Task[None]] = set()
