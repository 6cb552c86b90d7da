"""One read from question to outcome: positions, log, decision, rows, release. No gRPC here.

The order is the promise: data positions are picked before the append, nothing is read before the
fold has decided, nothing leaves after the permit's two seconds, and every decision gets an outcome.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Final

from domains.metering.views import recorded_between
from spine import telemetry, trust
from spine.access import AccessLog, OutcomeLog, Ruling, Vector
from spine.answer import Release
from spine.dsi.abreast import made_beside
from spine.dsi.answering import Answer, Sources, answers
from spine.dsi.data import POLL_S, DataViews
from spine.dsi.refusing import not_permitted
from spine.errors import Pushback, Reason
from spine.event import AccessOutcome, AccessRequest, DataPosition, epoch_ms
from spine.gb import Interval, tzdata_version
from spine.identity import Caller
from spine.live import LiveFold
from spine.log_thread import ReaderThread
from spine.murmur2 import murmur2_partition
from spine.policy import Category, Permit
from spine.reducers import Folded, Versions
from spine.rows import Decided
from spine.verdict import NOTHING

REACH_TIMEOUT_S: Final = 5.0
# Until when (monotonic) the permit behind the present call's answer holds; None if nothing is out.
permit_until: ContextVar[float | None] = ContextVar("permit_until", default=None)
TOPICS_OF_CATEGORY: Final[Mapping[str, tuple[str, ...]]] = {
    Category.METERING_POINT: (trust.METERING_TOPIC,),
    Category.CONSENTS: (),
    Category.ASSET: (trust.BTM_ASSETS_TOPIC,),
}
# The registry says why a half hour has no value.
TOPICS_OF_READINGS: Final = (trust.READINGS_TOPIC, trust.METERING_TOPIC)
# Who supplies a meter, and consents, come from the state of the decision unless a time is named.
LOOKING_BACK: Final = frozenset({Category.METERING_POINT, Category.CONSENTS})


@dataclass(frozen=True, slots=True)
class Query:
    """What is asked, apart from the meters. Instants UTC."""

    caller: Caller
    method: str
    purpose: str
    basis: str
    category: str
    interval: Interval
    measurement_quantity: str = ""
    consent_id: str = ""
    as_of_valid: datetime | None = None
    as_of_known: datetime | None = None


@dataclass(frozen=True, slots=True)
class Judged:
    """One member of a read, decided; what it may be sent if that was a permit."""

    ruling: Ruling
    decided: Decided

    @property
    def permitted(self) -> bool:
        """Whether anything may be released."""
        return isinstance(self.decided.decision, Permit)

    @property
    def refused(self) -> Reason:
        """The reason for the refusal, as this caller may know it."""
        assert not isinstance(self.decided.decision, Permit)
        return self.decided.decision.disclosed


class Reads:
    """The read path of one DSI server."""

    def __init__(
        self,
        access: Mapping[int, AccessLog],
        outcomes: OutcomeLog,
        data: DataViews,
        reader: ReaderThread,
        schema_set: bytes,
        folded: Folded,
    ) -> None:
        """`folded`: the versions of this process's own fold, which decides."""
        self.access, self._outcomes, self.data = access, outcomes, data
        self._reader = reader
        self._schema_set, self._folded = schema_set, folded
        for log in access.values():
            log.on_unclaimed = self._unclaimed

    def partition_of(self, mpxn: str) -> int:
        """The partition that is the meter's world."""
        return murmur2_partition(mpxn.encode(), len(self.access))

    async def positions(
        self,
        category: str,
        partition: int,
        at_least: Vector,
        as_of_known: datetime | None = None,
        as_of_valid: datetime | None = None,
        *,
        looking_back: bool = False,
    ) -> Vector:
        """The data positions a read of this partition will look at (rule 6).

        Never beyond what is folded here; at least what the caller has seen, or Pushback. With
        `looking_back`, that of the consumer log too: the answer is made from all it ever said.
        """
        for wanted in at_least:
            await self._reach(partition, wanted)
        topics = TOPICS_OF_CATEGORY.get(category, TOPICS_OF_READINGS)
        if looking_back or (category in LOOKING_BACK and (as_of_known or as_of_valid)):
            topics = (*topics, trust.CONSUMER_LOG)
        return tuple([await self._position(topic, partition, as_of_known) for topic in topics])

    async def _position(
        self, topic: str, partition: int, as_of_known: datetime | None
    ) -> DataPosition:
        """Where a topic stands here, or stood when nothing later was known."""
        if topic == trust.CONSUMER_LOG:
            offset = self.access[partition].live.next_offset
        else:
            offset = self.data.next_offset(topic, partition)
        if as_of_known is not None:
            at_ms = epoch_ms(as_of_known) + 1
            known = await self._reader.run(lambda log: log.offset_at(topic, partition, at_ms))
            offset = min(offset, known)
        return DataPosition(topic, partition, offset)

    def sources(self, vector: Vector) -> Sources:
        """The rows at those positions; Pushback(DATA_BEHIND) if they are not there just now.

        What the consumer log says comes from this server's own fold, which decided the read.
        """
        found = self.data.sources(tuple(p for p in vector if p.topic != trust.CONSUMER_LOG))
        for p in vector:
            if p.topic == trust.CONSUMER_LOG:
                rows = self.access[p.partition].live.stored.store
                found = Sources({**found.rows, p.topic: rows}, {**found.below, p.topic: p.offset})
        return found

    async def _reach(self, partition: int, wanted: DataPosition) -> None:
        """Wait until this partition is folded as far as the caller has seen (or not concerned).

        A write is answered with every place it was recorded at, also those that no read looks at.
        """
        live = self.access[partition].live
        if wanted.topic == trust.GOVERNANCE_TOPIC:
            await self._reach_governance(live, wanted.offset - 1)
        elif wanted.partition != partition:
            return
        elif wanted.topic == trust.CONSUMER_LOG:
            await live.passed(wanted.offset - 1, REACH_TIMEOUT_S)
        elif wanted.topic in trust.DATA_TOPICS:
            await self.data.reach(wanted.topic, partition, wanted.offset, REACH_TIMEOUT_S)

    async def _reach_governance(self, live: LiveFold, home_offset: int) -> None:
        """Wait for the copy of a governance record in this partition."""
        deadline = time.monotonic() + REACH_TIMEOUT_S
        while (head := live.stored.fold.head) is None or head.last_copy < home_offset:
            if time.monotonic() >= deadline:
                raise Pushback(Reason.FOLD_BEHIND, "governance is not folded that far yet")
            await asyncio.sleep(POLL_S)

    def request(self, query: Query, meters: tuple[str, ...]) -> AccessRequest:
        """The request as it goes into the log, under a fresh id."""
        return AccessRequest(
            os.urandom(16),
            query.caller.party,
            query.caller.role,
            query.caller.fingerprint,
            query.caller.forwarded_by,
            query.method,
            query.purpose,
            query.basis,
            query.category,
            query.measurement_quantity,
            query.consent_id,
            meters,
            query.interval.start,
            query.interval.end,
            query.as_of_valid,
            query.as_of_known,
            0,
        )

    def changed(self, query: Query, mpxn: str, before: Vector, after: Vector) -> Interval | None:
        """The stretch of a query's interval that was recorded between two positions."""
        return recorded_between(
            self.data.sources(after).rows[trust.READINGS_TOPIC],
            mpxn,
            query.measurement_quantity,
            query.interval,
            before[0].offset,
            after[0].offset,
        )

    async def decide(
        self, query: Query, meters: tuple[str, ...], vector: Vector, *, at_once: bool = False
    ) -> tuple[Judged, ...]:
        """Log a request for meters of one partition and return each member's decision.

        `at_once`: a stream's, which follows one meter after the other, and is to wait for nobody.

        Refused members have their outcome by then; permitted ones owe one (`release`, `withhold`).
        """
        request = self.request(query, meters)
        with telemetry.span("decide"):
            access = self.access[self.partition_of(meters[0])]
            ruling = await access.decide(request, vector, at_once=at_once)
        judged = tuple(Judged(ruling, decided) for decided in ruling.decided)
        told = Counter(
            ("permit", "") if each.permitted else ("refuse", str(each.decided.decision.reason))  # type: ignore[union-attr]
            for each in judged
        )
        for (decision, reason), count in told.items():
            telemetry.decisions.add(count, {"decision": decision, "reason": reason})
        refused = [each for each in judged if not each.permitted]
        self._record(refused, Release.REFUSED, "", [None] * len(refused), [0] * len(refused))
        return judged

    def _unclaimed(self, ruling: Ruling, why: Reason) -> None:
        """Nobody waits for a decision any more: it still gets its outcome."""
        for decided in ruling.decided:
            judged = Judged(ruling, decided)
            if judged.permitted:
                self.withhold(judged, why)
            else:
                self._record([judged], Release.REFUSED, "", [None], [0])

    def answer(self, judged: Judged) -> Answer:
        """The answer to a permitted member; Pushback(PERMIT_EXPIRED) if its time is over.

        Pushback(DATA_BEHIND) if the rows it must be made from are not there just now.
        """
        (made,) = self.answers([judged], [0])
        return made

    def answers(self, judged: Sequence[Judged], chunks: Sequence[int]) -> list[Answer]:
        """The answers to permitted members of one ruling, made side by side, each to be that chunk
        of it. All or none: it fails as `answer` does, and then every one of them has its outcome.
        """
        permit_until.set(None)
        if not judged:
            return []
        ruling = judged[0].ruling
        try:
            made = self._made(judged)
            _check_time(ruling)
        except Exception as error:
            for each, chunk in zip(judged, chunks, strict=True):
                self.withhold(each, why_withheld(error), chunk)
            raise
        permit_until.set(ruling.expires_at)
        return made

    def _made(self, judged: Sequence[Judged]) -> list[Answer]:
        ruling, first = judged[0].ruling, judged[0].decided
        sources = partial(self.sources, ruling.vector)
        if len(ruling.decided) == 1 and ruling.beside and first.request.measurement_quantity:
            return [made_beside(first, ruling.beside, sources)]
        return answers([each.decided for each in judged], sources())

    def check_time(self, judged: Judged) -> None:
        """Pushback(PERMIT_EXPIRED), and the outcome of it, if the permit's time is over."""
        try:
            _check_time(judged.ruling)
        except Pushback as late:
            self.withhold(judged, late.reason)
            raise

    def release(self, judged: Judged, released: Answer, chunk: int = 0) -> None:
        """Record that the answer went out."""
        self.release_all([judged], [released], [chunk])

    def release_all(
        self, judged: Sequence[Judged], released: Sequence[Answer], chunks: Sequence[int]
    ) -> None:
        """Record that the answers to members of one ruling went out, each as that chunk of it."""
        self._record(judged, Release.RELEASED, "", released, chunks)

    def withhold(self, judged: Judged, why: Reason, chunk: int = 0) -> None:
        """Record that nothing went out although it was permitted."""
        if judged.ruling.beside:
            judged.ruling.beside.leave_out(judged.ruling.request.request_id)
        self._record([judged], Release.NOT_RELEASED, str(why), [None], [chunk])

    async def read_one(self, query: Query, mpxn: str, at_least: Vector) -> tuple[Judged, Answer]:
        """A whole read of one meter; NotPermitted with the reason the caller may know."""
        partition = self.partition_of(mpxn)
        clocks = query.as_of_known, query.as_of_valid
        vector = await self.positions(query.category, partition, at_least, *clocks)
        return await self.read_at(query, mpxn, vector)

    async def read_at(self, query: Query, mpxn: str, vector: Vector) -> tuple[Judged, Answer]:
        """A whole read of one meter at given data positions."""
        (judged,) = await self.decide(query, (mpxn,), vector)
        if not judged.permitted:
            raise not_permitted(judged.refused)
        released = self.answer(judged)
        self.release(judged, released)
        return judged, released

    def _record(
        self,
        judged: Sequence[Judged],
        release: Release,
        why: str,
        released: Sequence[Answer | None],
        chunks: Sequence[int],
    ) -> None:
        """Queue the outcomes of members of one ruling."""
        if not judged or judged[0].ruling.offset < 0:
            return
        ruling = judged[0].ruling
        telemetry.releases.add(len(judged), {"release": str(release)})
        told = zip(judged, released, chunks, strict=True)
        self._outcomes.add(
            ruling.partition,
            [self._outcome(each, str(release), why, made, chunk) for each, made, chunk in told],
            self._rests_on(ruling.vector if release is Release.RELEASED else ()),
        )

    def _outcome(
        self, judged: Judged, release: str, why: str, released: Answer | None, chunk: int
    ) -> AccessOutcome:
        ruling, decided = judged.ruling, judged.decided
        decision = decided.decision
        permit = decision if isinstance(decision, Permit) else None
        return AccessOutcome(
            decided.request.request_id,
            ruling.partition,
            ruling.offset,
            decided.entry,
            decided.member,
            chunk,
            "PERMIT" if permit else "REFUSE",
            "" if isinstance(decision, Permit) else str(decision.reason),
            release,
            why,
            permit.consent_id if permit else "",
            permit.consent_version if permit else 0,
            decided.policy_version,
            self._folded[0],
            self._schema_set,
            tzdata_version(),
            released.rows if released else 0,
            released.digest if released else NOTHING,
            released.absent if released else (),
        )

    def _rests_on(self, vector: Vector) -> Versions:
        """The reducers that folded what a decision, and an answer at these positions, came from."""
        return {trust.CONSUMER_LOG: self._folded, **self.data.folded(vector)}


def _check_time(ruling: Ruling) -> None:
    if ruling.expired:
        raise Pushback(Reason.PERMIT_EXPIRED, "the permit ran out before the answer was ready")


def why_withheld(error: Exception) -> Reason:
    """What an outcome says of an answer that was permitted and not sent because of that."""
    return error.reason if isinstance(error, Pushback) else Reason.RELEASE_FAILED
