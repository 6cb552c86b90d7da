"""A read is an event; its place in the log decides (rules 5 and 6).

`AccessLog.decide` appends a request to its meter's partition of the consumer log, waits until the
fold reaches that very record, and returns what the fold decided there. Requests of one partition
share a record and a signature. `OutcomeLog` appends what became of every decision.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from typing import Any, Final

import structlog

from spine import merkle, reducers, trust
from spine.beside import Beside
from spine.company import Company, until_next
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
from spine.live import LiveFold
from spine.rows import Applied, Decided
from spine.together import Together
from spine.writer import LogWriter

MAX_REQUESTS_PER_RECORD: Final = 200
MAX_METERS_PER_RECORD: Final = 10_000
MAX_WAITING: Final = 4_096
FOLD_TIMEOUT_S: Final = 5.0
LATE_FOLD_S: Final = 60.0
DOUBT_POLL_S: Final = 0.5
FLUSH_TIMEOUT_S: Final = 10.0
# Upper bounds of what an outcome and one of its absent runs take in Avro.
OUTCOME_BYTES: Final = 700
ABSENT_RUN_BYTES: Final = 48
MAX_OUTCOMES_BYTES: Final = 512 << 10
# How far apart records of outcomes leave, those of all partitions together: a stream decides a
# chunk a millisecond.
OUTCOMES_APART_S: Final = 0.05
STILL_AFTER_S: Final = 1.0
_log = structlog.get_logger()

Vector = tuple[DataPosition, ...]
_Told = tuple[AccessOutcome, reducers.Versions]


@dataclass(frozen=True, slots=True)
class Ruling:
    """What the fold decided on one request, member by member, and where.

    `expires_at` is on this server's monotonic clock, counted from before the append was sent. The
    requests `beside` it are those that were handed out with it, itself among them.
    """

    request: AccessRequest
    partition: int
    offset: int
    decided: tuple[Decided, ...]
    vector: Vector
    expires_at: float
    beside: Beside | None = field(default=None, repr=False, compare=False)

    @property
    def expired(self) -> bool:
        """Whether the permit may no longer be used."""
        return time.monotonic() >= self.expires_at


@dataclass(slots=True, eq=False)
class _Waiting:
    request: AccessRequest
    vector: Vector
    ruling: asyncio.Future[Ruling]
    decided: dict[int, tuple[Decided, ...]] = field(default_factory=dict)


def _nobody(ruling: Ruling, why: Reason) -> None:
    """Without a release path there is nothing to record."""


class AccessLog:
    """Appends requests and collects the fold's decisions for one partition of the consumer log.

    `on_unclaimed` is given every decision that nobody waits for any more, and why: the caller went
    away (CLIENT_GONE), the fold was late (FOLD_BEHIND), or the append was not acknowledged although
    the log took it (INDETERMINATE). Logs of one server share its `company`.
    """

    def __init__(
        self,
        live: LiveFold,
        writer: LogWriter,
        server: str,
        permit_ttl_s: float,
        *,
        fence: bool = True,
        company: Company,
    ) -> None:
        self._company = company
        self._live, self._writer, self._server = live, writer, server
        self._permit_ttl_s, self._fence = permit_ttl_s, fence
        self._queue: deque[_Waiting] = deque()
        self._wanted: dict[bytes, _Waiting] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._draining, self._hurry = False, asyncio.Event()
        self._probing: asyncio.Task[None] | None = None
        self._leveled = Together(partial(self._probe, FOLD_TIMEOUT_S))
        self.on_unclaimed: Callable[[Ruling, Reason], None] = _nobody
        live.listeners.append(self._on_record)

    @property
    def live(self) -> LiveFold:
        """The fold that decides."""
        return self._live

    async def decide(
        self, request: AccessRequest, vector: Vector, *, at_once: bool = False
    ) -> Ruling:
        """Log the request, `at_once` if it is to wait for no company, and return the fold's
        decision at its place.

        Pushback(FOLD_BEHIND) if the fold does not reach it, Pushback(INDETERMINATE) if the append
        was not acknowledged; nothing may be served then.
        """
        if not self._fence:
            return self._decide_unfenced(request, vector)
        if len(self._queue) >= MAX_WAITING:
            raise Pushback(Reason.OVERLOADED, "too many reads are waiting")
        waiting = _Waiting(request, vector, asyncio.get_running_loop().create_future())
        self._queue.append(waiting)
        if at_once or len(self._queue) >= MAX_REQUESTS_PER_RECORD:
            self._hurry.set()
        if not self._draining:
            self._draining = True
            self._spawn(self._drain())
        self._company.under_way += 1
        try:
            return await waiting.ruling
        except asyncio.CancelledError:
            if not waiting.ruling.cancelled() and waiting.ruling.exception() is None:
                self.on_unclaimed(waiting.ruling.result(), Reason.CLIENT_GONE)
            raise
        finally:
            self._company.under_way -= 1
            if waiting in self._queue:  # the caller went away before it was logged
                self._queue.remove(waiting)

    async def ensure_moving(self) -> None:
        """Pushback(FOLD_BEHIND) unless the fold moves: an idle log is probed, once for all."""
        if time.monotonic() - self._live.moved_at < STILL_AFTER_S:
            return
        if self._probing is None or self._probing.done():
            self._probing = asyncio.create_task(self._probe())
        await asyncio.shield(self._probing)

    async def level(self) -> None:
        """Return once the fold has all that was acknowledged before this was asked.

        By a record without requests, written as a read is: a quorum that takes it has all that any
        quorum took before. Pushback(FOLD_BEHIND or INDETERMINATE) if that cannot be known.
        """
        await self._leveled()

    async def _probe(self, timeout_s: float = STILL_AFTER_S) -> None:
        record = AccessRequests(
            trust.CONSUMER_LOG, self._live.stored.partition, self._server, bytes(32), (), ()
        )
        await self._live.passed(await self._append(record), timeout_s)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _drain(self) -> None:
        """Append what is queued, a record at a time. No caller can end it."""
        try:
            while self._queue:
                if wait_s := self._company.wait_s():
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self._hurry.wait(), wait_s)
                batch = self._next_batch()
                if not self._queue:  # else the rest goes next, and waits for nobody either
                    self._hurry.clear()
                if batch:
                    await self._send(batch)
        finally:
            self._draining = False

    def _next_batch(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        meters = 0
        while self._queue and len(batch) < MAX_REQUESTS_PER_RECORD:
            meters += len(self._queue[0].request.meters)
            if batch and meters > MAX_METERS_PER_RECORD:
                break
            batch.append(self._queue.popleft())
        return batch

    async def _send(self, batch: list[_Waiting]) -> None:
        """Append one record for the batch; every request in it is settled, one way or the other."""
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
        except Exception as error:
            _settle(batch, error)
            self._spawn(self._doubt(batch, expires_at))
            return
        self._spawn(self._await_fold(batch, offset, expires_at))

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
        """Hand out the decisions at the acknowledged offset; what comes too late is recorded."""
        late = False
        try:
            await self._live.passed(offset, FOLD_TIMEOUT_S)
        except SpineError as error:
            _settle(batch, error)
            late = await self._comes_late(offset)
        self._forget(batch)
        beside = Beside()
        for waiting in batch:
            decided = waiting.decided.get(offset)
            if decided is None:
                message = "the fold found no decision at the request's place"
                _settle([waiting], Pushback(Reason.KEY_NOT_SEEN, message))
                continue
            partition = self._live.stored.partition
            place = partition, offset
            ruling = Ruling(waiting.request, *place, decided, waiting.vector, expires_at, beside)
            if waiting.ruling.done():
                why = Reason.FOLD_BEHIND if late else Reason.CLIENT_GONE
                self.on_unclaimed(ruling, why)
            else:
                beside.add(decided)
                waiting.ruling.set_result(ruling)

    async def _comes_late(self, offset: int) -> bool:
        try:
            await self._live.passed(offset, LATE_FOLD_S)
        except SpineError:
            return False
        return True

    async def _doubt(self, batch: list[_Waiting], expires_at: float) -> None:
        """What nobody acknowledged may stand in the log all the same, and then has its outcome."""
        deadline = time.monotonic() + LATE_FOLD_S
        while time.monotonic() < deadline:
            await asyncio.sleep(DOUBT_POLL_S)
            for waiting in batch:
                partition, vector = self._live.stored.partition, waiting.vector
                for offset, decided in waiting.decided.items():
                    ruling = Ruling(waiting.request, partition, offset, decided, vector, expires_at)
                    self.on_unclaimed(ruling, Reason.INDETERMINATE)
                waiting.decided.clear()
        self._forget(batch)

    def _forget(self, batch: Iterable[_Waiting]) -> None:
        for waiting in batch:
            self._wanted.pop(waiting.request.request_id, None)

    def _on_record(self, record: LogRecord, applied: Applied) -> None:
        """The fold has reached a record; if it holds requests of ours, it decides them there."""
        if not self._wanted or record.header(TYPE_HEADER) != RecordType.ACCESS.encode():
            return
        by_request: dict[bytes, list[Decided]] = {}
        for decided in self._live.stored.fold.decide_access(record, self._wanted.keys()):
            by_request.setdefault(decided.request.request_id, []).append(decided)
        for request_id, members in by_request.items():
            self._wanted[request_id].decided[record.offset] = tuple(members)

    def _decide_unfenced(self, request: AccessRequest, vector: Vector) -> Ruling:
        """The naive read: ask the view as it is. Only for the test that shows how it leaks."""
        fold = self._live.stored.fold
        now_ms = time.time_ns() // 1_000_000
        decided = tuple(fold.judge(request, member, now_ms) for member in request.meters)
        expires_at = time.monotonic() + self._permit_ttl_s
        return Ruling(request, fold.partition, -1, decided, vector, expires_at)


def _settle(batch: Iterable[_Waiting], error: Exception) -> None:
    for waiting in batch:
        if not waiting.ruling.done():
            waiting.ruling.set_exception(error)


class OutcomeLog:
    """Appends outcomes in the background, many to a record; `flush` waits until all are in.

    What the outcomes of a record rest on (`reducers`) stands in its header.
    """

    def __init__(self, writer: LogWriter, server: str) -> None:
        self._writer, self._server = writer, server
        self._queues: dict[int, deque[_Told]] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}

    def add(
        self, partition: int, outcomes: Sequence[AccessOutcome], rests_on: reducers.Versions
    ) -> None:
        """Queue outcomes of requests decided in that partition."""
        told = ((outcome, rests_on) for outcome in outcomes)
        self._queues.setdefault(partition, deque()).extend(told)
        if partition not in self._tasks:
            self._tasks[partition] = asyncio.create_task(self._drain(partition))

    async def flush(self) -> None:
        """Wait until everything queued so far is appended, but not for ever."""
        if self._tasks:
            await asyncio.wait(self._tasks.values(), timeout=FLUSH_TIMEOUT_S)

    async def _drain(self, partition: int) -> None:
        queue = self._queues[partition]
        try:
            while queue:
                if len(queue) < MAX_REQUESTS_PER_RECORD:
                    await asyncio.sleep(until_next(OUTCOMES_APART_S, time.monotonic()))
                batch, rests_on = _as_one_record(queue)
                said = ((reducers.REDUCERS_HEADER, reducers.written(rests_on)),) if rests_on else ()
                value = AccessOutcomes(trust.OUTCOMES_TOPIC, partition, self._server, batch)
                try:
                    await self._writer.write(
                        RecordType.OUTCOMES,
                        trust.OUTCOMES_TOPIC,
                        partition,
                        value,
                        headers=said,
                    )
                except Pushback as pushback:
                    _log.warning("outcomes.retry", partition=partition, reason=str(pushback.reason))
                    await asyncio.sleep(pushback.retry_after_s)
                    continue
                except SpineError as error:
                    _log.error("outcomes.lost", partition=partition, reason=str(error.reason))
                for _ in batch:
                    queue.popleft()
        finally:
            del self._tasks[partition]


def _as_one_record(
    queue: deque[_Told],
) -> tuple[tuple[AccessOutcome, ...], reducers.Versions]:
    """As many of the next outcomes as fit into a record: each has a fixed part and its runs, and
    none rests on other versions of a fold than another.
    """
    batch: list[AccessOutcome] = []
    size, rests_on = 0, queue[0][1]
    for outcome, versions in islice(queue, MAX_REQUESTS_PER_RECORD):
        size += OUTCOME_BYTES + ABSENT_RUN_BYTES * len(outcome.absent)
        together = reducers.merged(rests_on, versions)
        if together is None or (batch and size > MAX_OUTCOMES_BYTES):
            break
        batch.append(outcome)
        rests_on = together
    return tuple(batch), rests_on
