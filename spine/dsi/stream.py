"""StreamReadings: the interval in chunks, then every new version; each chunk fenced (rule 5)."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from itertools import pairwise
from typing import Final

from spine import trust
from spine.access import Vector
from spine.dsi.answering import Answer
from spine.dsi.reads import Judged, Query, Reads, why_withheld
from spine.dsi.refusing import not_permitted
from spine.dsi.watch import Watch, Watches
from spine.errors import Pushback, Reason
from spine.gb import HALF_HOUR, Interval

HALF_HOURS_PER_CHUNK: Final = 1_488
FOLLOW_POLL_S: Final = 0.1
CHUNK: Final = HALF_HOURS_PER_CHUNK * HALF_HOUR
# The next partition is asked when so few of a set are left to be sent: enough to be busy until it
# has decided. For a client that takes longer over them than a permit lasts, that is too early.
LEFT_WHEN_ASKED: Final = 64


@dataclass(frozen=True, slots=True)
class Chunk:
    """What is sent for one meter at a time: an answer, or the reason for which it was cut."""

    mpxn: str
    number: int
    judged: Judged | None = None
    answer: Answer | None = None
    complete: bool = False
    refused: Reason | None = None


Chunks = tuple[Chunk, ...]


@dataclass(frozen=True, slots=True, eq=False)
class _Asked:
    """Members that are being decided, and have been watched since before that."""

    watch: Watch
    judged: asyncio.Task[tuple[Judged, ...]]


class ReadingsStream:
    """One open stream over meters of any partitions."""

    def __init__(
        self,
        reads: Reads,
        watches: Watches,
        query: Query,
        mpxns: Sequence[str],
        at_least: Vector,
        together: int = 1,
    ) -> None:
        """`together`: of how many meters chunks are made side by side, to be sent as one."""
        self._reads, self._watches = reads, watches
        self._query, self._at_least, self._together = query, at_least, together
        self._numbers = dict.fromkeys(mpxns, 0)
        self._cut: dict[str, Reason] = {}
        self._partitions: dict[int, list[str]] = {}
        self._ahead: _Asked | None = None
        self._keeps_up = True  # with permits that were asked ahead
        for mpxn in mpxns:
            self._partitions.setdefault(reads.partition_of(mpxn), []).append(mpxn)

    async def messages(self, follow: bool) -> AsyncGenerator[Chunks, None]:
        """Every chunk in order, as they are sent: those of so many meters at a time.

        NotPermitted with the last reason once no meter is left.
        """
        vectors = {
            partition: await self._reads.positions(
                self._query.category, partition, self._at_least, self._query.as_of_known
            )
            for partition in self._partitions
        }
        following = dict(pairwise(self._partitions))
        try:
            for partition in self._partitions:
                ask_next = partial(self._ask_ahead, following.get(partition), vectors)
                sent = self._interval(partition, vectors[partition], ask_next)
                async with aclosing(sent):
                    async for chunks in sent:
                        yield chunks
        except Exception as error:
            self._let_go(why_withheld(error))
            raise
        except BaseException:
            self._let_go(Reason.CLIENT_GONE)
            raise
        if follow and self._left():
            async with aclosing(self._follow(vectors)) as followed:
                async for chunks in followed:
                    yield chunks
        if not self._left():
            before = "no metering point of the stream is left: "
            raise not_permitted(self._last_reason(), before)

    def _left(self) -> list[str]:
        return [mpxn for mpxn in self._numbers if mpxn not in self._cut]

    def _left_by_partition(self) -> list[tuple[str, ...]]:
        left = [
            tuple(m for m in members if m not in self._cut) for members in self._partitions.values()
        ]
        return [members for members in left if members]

    def _last_reason(self) -> Reason:
        return list(self._cut.values())[-1]

    async def _interval(
        self, partition: int, vector: Vector, ask_next: Callable[[], None]
    ) -> AsyncGenerator[Chunks, None]:
        """`ask_next` is called when little of the interval is left to be sent."""
        window, ahead = self._window(self._query.interval.start), self._ahead
        while True:
            members = [m for m in self._partitions[partition] if m not in self._cut]
            last = window.end == self._query.interval.end
            sent = self._send(window, members, vector, last, ahead, ask_next if last else None)
            async with aclosing(sent):
                async for chunks in sent:
                    yield chunks
            if last:
                return
            window, ahead = self._window(window.end), None

    def _window(self, start: datetime) -> Interval:
        """What one chunk holds of the interval, from there on."""
        end = self._query.interval.end
        return Interval(start, end if end - start <= CHUNK else start + CHUNK)

    def _ask_ahead(self, partition: int | None, vectors: Mapping[int, Vector]) -> None:
        """Have the first chunks of the next partition, if there is one, decided while those before
        them are sent.
        """
        if partition is not None and self._ahead is None and self._keeps_up:
            query = replace(self._query, interval=self._window(self._query.interval.start))
            members = tuple(self._partitions[partition])
            watch = self._watch(query, members, lasting=False)
            asked = self._reads.decide(query, members, vectors[partition], at_once=True)
            self._ahead = _Asked(watch, asyncio.create_task(asked))

    def _let_go(self, why: Reason) -> None:
        """What was asked ahead is sent to nobody: it has its outcome as soon as it is decided.

        Until then the log of requests, which is to settle it, holds the task.
        """
        if self._ahead is not None:
            self._watches.remove(self._ahead.watch)
            if why is Reason.CLIENT_GONE:  # the outcome that this log gives what is cancelled
                self._ahead.judged.cancel()
            self._ahead.judged.add_done_callback(partial(self._decided_for_nobody, why))

    def _decided_for_nobody(self, why: Reason, judged: asyncio.Task[tuple[Judged, ...]]) -> None:
        if not judged.cancelled() and judged.exception() is None:
            self._withhold(judged.result(), why)

    async def _send(
        self,
        window: Interval,
        members: list[str],
        vector: Vector,
        complete: bool,
        ahead: _Asked | None = None,
        ask_next: Callable[[], None] | None = None,
    ) -> AsyncGenerator[Chunks, None]:
        """One chunk for each member; a set whose permit runs out on the way is asked for again.

        A set is decided at once and sent over a while: who loses the right to a member meanwhile
        is not sent it, whatever is left of the permit. That holds for one decided `ahead`, too,
        which may have run out before its turn.
        """
        query, waiting = replace(self._query, interval=window), dict.fromkeys(members)
        while waiting:
            watch = ahead.watch if ahead else self._watch(query, tuple(waiting), lasting=False)
            judged, sent = deque[Judged](), 0
            try:
                if ahead:
                    judged += await ahead.judged
                    self._ahead = None
                else:
                    judged += await self._reads.decide(query, tuple(waiting), vector, at_once=True)
                while judged and not ((sent or ahead) and judged[0].ruling.expired):
                    count = min(self._together, len(judged))
                    some = [judged.popleft() for _ in range(count)]
                    self._watches.judge_touched(watch, (each.decided.member for each in some))
                    chunks = self._chunks(some, watch.cut, complete)
                    if not chunks:
                        break
                    for chunk in chunks:
                        del waiting[chunk.mpxn]
                    sent += 1
                    if ask_next and len(judged) <= LEFT_WHEN_ASKED:
                        ask_next()
                    yield chunks
            except Exception as error:
                self._withhold(judged, why_withheld(error))
                raise
            except BaseException:
                self._withhold(judged, Reason.CLIENT_GONE)
                raise
            finally:
                self._watches.remove(watch)
            self._withhold(judged, Reason.PERMIT_EXPIRED)
            if ahead and waiting:  # it would be decided twice from partition to partition
                self._keeps_up = False
            if not (sent or ahead):
                raise Pushback(Reason.PERMIT_EXPIRED, "no answer was ready within its permit")
            ahead = None

    def _withhold(self, judged: Iterable[Judged], why: Reason) -> None:
        for each in judged:
            if each.permitted:
                self._reads.withhold(each, why, self._numbers[each.decided.member])

    def _chunks(
        self, judged: Sequence[Judged], cut: Mapping[str, Reason], complete: bool
    ) -> Chunks:
        """What to send for some members of a set, of which those in `cut` may no longer be sent;
        nothing if their permit ran out meanwhile.
        """
        refused = {each.decided.member: each.refused for each in judged if not each.permitted}
        for each in judged:
            if each.permitted and (why := cut.get(member := each.decided.member)) is not None:
                self._withhold([each], why)
                refused[member] = why
        released = [each for each in judged if each.decided.member not in refused]
        numbers = [self._numbers[each.decided.member] for each in released]
        try:
            made = self._reads.answers(released, numbers)
        except Pushback as pushback:
            if pushback.reason is Reason.PERMIT_EXPIRED:
                return ()
            raise
        self._reads.release_all(released, made, numbers)
        answers = iter(made)
        return tuple(self._chunk(each, refused, answers, complete) for each in judged)

    def _chunk(
        self, judged: Judged, refused: Mapping[str, Reason], made: Iterator[Answer], complete: bool
    ) -> Chunk:
        """What to send for one member: that it is refused, or the next of the answers made."""
        mpxn = judged.decided.member
        number = self._numbers[mpxn]
        if mpxn in refused:
            self._cut[mpxn] = refused[mpxn]
            return Chunk(mpxn, number, judged, refused=refused[mpxn])
        self._numbers[mpxn] += 1
        return Chunk(mpxn, number, judged, next(made), complete)

    async def _follow(self, vectors: dict[int, Vector]) -> AsyncGenerator[Chunks, None]:
        watches = [self._watch(self._query, m, lasting=True) for m in self._left_by_partition()]
        try:
            for watch in watches:
                self._watches.judge(watch)
            while self._left():
                for watch in watches:
                    async with aclosing(self._news(watch, vectors)) as news:
                        async for chunks in news:
                            yield chunks
                    for chunk in self._cuts(watch):
                        yield (chunk,)
                if self._left():
                    await _first_change(watches)
        finally:
            for watch in watches:
                self._watches.remove(watch)

    def _watch(self, query: Query, members: tuple[str, ...], *, lasting: bool) -> Watch:
        """Watch members of one partition from now on."""
        partition = self._reads.partition_of(members[0])
        watch = Watch(self._reads.request(query, members), partition, lasting=lasting)
        self._watches.add(watch)
        return watch

    def _cuts(self, watch: Watch) -> list[Chunk]:
        cut = {m: r for m, r in watch.cut.items() if m not in self._cut}
        self._cut.update(cut)
        watch.changed.clear()
        return [Chunk(mpxn, self._numbers[mpxn], refused=reason) for mpxn, reason in cut.items()]

    async def _news(self, watch: Watch, vectors: dict[int, Vector]) -> AsyncGenerator[Chunks, None]:
        """Chunks over the half hours that changed since the positions last sent."""
        before = vectors[watch.partition]
        offset = self._reads.data.next_offset(trust.READINGS_TOPIC, watch.partition)
        if not watch.members or offset <= before[0].offset:
            return
        after = await self._reads.positions(self._query.category, watch.partition, ())
        vectors[watch.partition] = after
        for mpxn in sorted(watch.members):
            changed = self._reads.changed(self._query, mpxn, before, after)
            await asyncio.sleep(0)  # so that the fold goes on between meters
            if changed is not None and mpxn not in self._cut and mpxn not in watch.cut:
                async with aclosing(self._send(changed, [mpxn], after, complete=False)) as sent:
                    async for chunks in sent:
                        yield chunks


async def _first_change(watches: list[Watch]) -> None:
    """Wait a little for new readings, and not at all once something was cut."""
    waits = [asyncio.create_task(watch.changed.wait()) for watch in watches]
    try:
        await asyncio.wait(waits, timeout=FOLLOW_POLL_S, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
