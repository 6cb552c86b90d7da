"""The race: readers against consumers who grant and revoke, while things break.

Each round of a meter is grant, a read that passes, revoke. The readers never stop asking. What may
never happen: a read begun after a revocation was acknowledged returns data under that consent.
One seed gives one schedule of waits and faults; what the machine makes of it differs.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import grpc

from spine.common.v1 import common_pb2
from spine.console.client import interval, stamp
from spine.consumers.v1 import consumers_pb2, consumers_pb2_grpc
from spine.dsi.v1 import dsi_pb2, dsi_pb2_grpc
from spine.policy import Basis
from spine.server import connect, error_from
from spine.whereabouts import service_target
from tests.fault.journal import FAIL, INDETERMINATE, OK, Journal, Operation, percentile

DAY: Final = (datetime(2024, 7, 1, tzinfo=UTC), datetime(2024, 7, 2, tzinfo=UTC))
HISTORY_FROM: Final = datetime(2012, 1, 1, tzinfo=UTC)
READ_TIMEOUT_S: Final = 8.0
COMMAND_TIMEOUT_S: Final = 25.0
GIVE_UP_S: Final = 120.0
DENIED: Final = (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.NOT_FOUND)

Nemesis = Callable[["Race"], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Meter:
    """A meter with readings for `DAY`, and the identity of who lives there."""

    mpxn: str
    occupier: str


@dataclass(slots=True)
class Channel:
    """A channel to a service that may come back at another port."""

    data_dir: Path
    service: str
    identity: str
    stub: Any
    _target: str = ""
    _made: Any = None
    _channel: Any = None

    def __call__(self) -> Any:
        """The stub, towards where the service last said that it listens."""
        target = service_target(self.data_dir, self.service)
        if target != self._target:
            self._channel = connect(target, self.data_dir / "identities" / self.identity)
            self._made, self._target = self.stub(self._channel), target
        return self._made

    async def close(self) -> None:
        """Disconnect."""
        if self._channel is not None:
            await self._channel.close()


@dataclass
class Race:
    """One run over some meters."""

    data_dir: Path
    meters: Sequence[Meter]
    adviser: str
    seed: int
    rounds: int
    readers: int = 64
    dsi: str = "dsi"
    read_timeout_s: float = READ_TIMEOUT_S
    # A round goes on without a passed read after this long: the DSI may be down.
    patience_s: float = 30.0
    journal: Journal = field(default_factory=Journal)
    done: int = 0

    def __post_init__(self) -> None:
        self._stop = asyncio.Event()
        self._passed: dict[str, asyncio.Event] = {}
        self._channels: list[Channel] = []

    async def run(self, *nemeses: Nemesis) -> None:
        """Play all rounds; the faults run beside them, and must have ended."""
        readings = [self._channel(self.dsi, self.adviser, dsi_pb2_grpc.DsiStub) for _ in range(4)]
        chance = random.Random(self.seed)
        readers = [
            asyncio.create_task(
                self._read(n, readings[n % 4], self.meters[n % len(self.meters)], chance.random())
            )
            for n in range(self.readers)
        ]
        share, more = divmod(self.rounds, len(self.meters))
        occupiers = [
            self._occupy(meter, share + (n < more), chance.random())
            for n, meter in enumerate(self.meters)
        ]
        try:
            await asyncio.gather(*occupiers, *(nemesis(self) for nemesis in nemeses))
        finally:
            self._stop.set()
            await asyncio.gather(*readers)
            for channel in self._channels:
                await channel.close()

    async def reached(self, part: float) -> None:
        """Return once this part of all rounds (0 to 1) is over."""
        while self.done < part * self.rounds:
            await asyncio.sleep(0.02)

    def _channel(self, service: str, identity: str, stub: Any) -> Channel:
        channel = Channel(self.data_dir, service, identity, stub)
        self._channels.append(channel)
        return channel

    async def _occupy(self, meter: Meter, rounds: int, seed: float) -> None:
        chance = random.Random(seed)
        channel = self._channel("consumers", meter.occupier, consumers_pb2_grpc.ConsumersStub)
        for _ in range(rounds):
            consent_id = await self.grant(channel, meter, uuid4().hex)
            self._passed[consent_id] = asyncio.Event()
            waited = asyncio.wait_for(self._passed[consent_id].wait(), self.patience_s)
            await asyncio.gather(waited, return_exceptions=True)
            await asyncio.sleep(chance.uniform(0, 0.03))
            await self.revoke(channel, meter, consent_id, uuid4().hex)
            del self._passed[consent_id]
            self.done += 1
            await asyncio.sleep(chance.uniform(0, 0.05))

    async def grant(self, channel: Channel, meter: Meter, key: str) -> str:
        """The occupier allows the adviser to read; the consent id."""
        now = datetime.now(UTC)
        request = consumers_pb2.GrantConsentRequest(
            mpxns=[meter.mpxn],
            data_user=self.adviser,
            terms=consumers_pb2.Terms(
                purpose="ENERGY_ADVICE",
                categories=["HH_CONSUMPTION"],
                history_from=stamp(HISTORY_FROM),
                valid_from=stamp(now - timedelta(seconds=30)),
                expires=stamp(now + timedelta(days=30)),
            ),
            idempotency_key=key,
        )
        operation = self.journal.invoke("grant", meter.occupier, meter=meter.mpxn)
        answer = await self._insist(operation, channel, "GrantConsent", request)
        operation.end(OK, consent_id=answer.consent_id, **_place(answer))
        return str(answer.consent_id)

    async def revoke(self, channel: Channel, meter: Meter, consent_id: str, key: str) -> None:
        """The occupier takes it back; returns once that is acknowledged."""
        request = consumers_pb2.RevokeConsentRequest(
            consent_id=consent_id, mpxns=[meter.mpxn], idempotency_key=key
        )
        about = {"meter": meter.mpxn, "consent_id": consent_id}
        operation = self.journal.invoke("revoke", meter.occupier, **about)
        answer = await self._insist(operation, channel, "RevokeConsent", request)
        operation.end(OK, **_place(answer))

    async def _insist(
        self, operation: Operation, channel: Channel, method: str, request: Any
    ) -> Any:
        """Repeat a command under its key until it is acknowledged."""
        deadline = time.monotonic() + GIVE_UP_S
        while True:
            try:
                return await getattr(channel(), method)(request, timeout=COMMAND_TIMEOUT_S)
            except grpc.aio.AioRpcError as error:
                operation.end(INDETERMINATE, reason=_reason(error))
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.2)

    async def _read(self, number: int, channel: Channel, meter: Meter, seed: float) -> None:
        chance = random.Random(seed)
        request = dsi_pb2.GetReadingsRequest(
            mpxn=meter.mpxn,
            purpose="ENERGY_ADVICE",
            basis=Basis.CONSENT,
            interval=interval(*DAY),
        )
        while not self._stop.is_set():
            operation = self.journal.invoke("read", f"reader-{number}", meter=meter.mpxn)
            try:
                page = await channel().GetReadings(request, timeout=self.read_timeout_s)
            except grpc.aio.AioRpcError as error:
                outcome = FAIL if error.code() in DENIED else INDETERMINATE
                operation.end(outcome, reason=_reason(error))
                await asyncio.sleep(0.2 if outcome == INDETERMINATE else 0)
            else:
                decision = page.decision
                operation.end(
                    OK,
                    consent_id=decision.consent_id,
                    partition=decision.partition,
                    offset=decision.offset,
                    rows=sum(row.WhichOneof("reading") == "value_wh" for row in page.rows),
                )
                if (passed := self._passed.get(decision.consent_id)) is not None:
                    passed.set()
            await asyncio.sleep(chance.uniform(0, 0.04))

    def told(self) -> str:
        """The figures of a run, for people."""
        reads = list(self.journal.of("read"))
        took = [o.took_ms for o in reads]
        last = list(self._revocation_to_last_byte().values())
        refused = sum(1 for _ in self.journal.of("read", FAIL))
        broken = sum(1 for _ in self.journal.of("read", INDETERMINATE))
        return (
            f"seed {self.seed}: {self.done} rounds, {self.readers} readers; reads: "
            f"{len(reads)} with data, {refused} refused, {broken} without an answer; "
            f"read p50 {percentile(took, 50):.1f} ms, p99 {percentile(took, 99):.1f} ms; "
            f"revocation to last byte p50 {percentile(last, 50):.1f} ms, "
            f"p99 {percentile(last, 99):.1f} ms"
        )

    def _revocation_to_last_byte(self) -> dict[str, float]:
        """For each consent, ms from the call that revokes it to the end of the last read under it.

        A consent under which nothing arrived after that call counts with 0.
        """
        asked = {str(o.about["consent_id"]): o.invoked for o in self.journal.of("revoke")}
        last = dict.fromkeys(asked, 0.0)
        for read in self.journal.of("read"):
            consent_id = str(read.result["consent_id"])
            if consent_id in asked:
                after = (read.ended - asked[consent_id]) / 1e6
                last[consent_id] = max(last[consent_id], after)
        return last


def _place(answer: Any) -> dict[str, Any]:
    """Where the consumer log holds the command."""
    (leg,) = answer.legs
    record: common_pb2.RecordRef = leg.record
    return {"partition": record.partition, "offset": record.offset, "entry": record.entry}


def _reason(error: grpc.aio.AioRpcError) -> str:
    told = error_from(error)
    return str(told.reason or error.code().name)
