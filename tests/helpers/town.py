"""A small installation inside the test's own event loop: a log, its folds, one meter, one adviser.

The processes are the real ones on a real broker; only the coordinators' gRPC edge is left out, so
that a test can stop a fold, shift a clock or drop a connection where it likes.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import numpy as np

from domains.consumers.commands import (
    ConsentTerms,
    GrantConsent,
    RevokeConsent,
    StartSupply,
    StartTenancy,
    tightens,
)
from domains.consumers.decider import CONSUMERS
from domains.governance import commands as governance
from domains.governance.decider import GOVERNANCE
from domains.governance.decider import tightens as governance_tightens
from domains.metering.adapters.report import MeterDays
from domains.metering.readings import Delivery, batch_from_columns
from spine import trust
from spine.access import AccessLog, OutcomeLog
from spine.company import Company
from spine.config import Settings
from spine.coordinator import Coordinator
from spine.domain import Actor
from spine.dsi.data import DataViews
from spine.dsi.process import start_readings
from spine.dsi.reads import Query, Reads
from spine.dsi.stream import Chunk, ReadingsStream
from spine.dsi.watch import Watches
from spine.event import DataPosition, RecordType, SignerRole
from spine.fold import FaustFolds
from spine.gb import Interval
from spine.identity import Caller
from spine.installation import DOMAINS
from spine.log import Appended, Appender, Kafka
from spine.log_thread import ReaderThread
from spine.murmur2 import murmur2_partition
from spine.orders import Handled, Order
from spine.policy import Basis, Category, Role
from spine.runtime import Process, Runtime
from spine.spread import Spreader
from tests.helpers.judging import judge

MPAN = "2000027391990"
DAY = datetime(2024, 7, 1, tzinfo=UTC)
WEEK = Interval(DAY, DAY + timedelta(days=7))
ADVISER = Caller(Role.DATA_USER, "bright-advice", bytes(32))
STRANGER = Caller(Role.DATA_USER, "somebody-else", bytes(32))
CONSUMER_REF = "c-0123456789abcdef"
BOARD = Actor(Role.GOVERNANCE, "governance-board")
SERVICE = Actor(Role.CONSENT_SERVICE, "consent-service")
CONSUMER = Actor(Role.CONSUMER, CONSUMER_REF)
_keys = count()


def query(caller: Caller = ADVISER, interval: Interval = WEEK) -> Query:
    """A read of half hours for energy advice."""
    return Query(
        caller,
        "GetReadings",
        "ENERGY_ADVICE",
        Basis.CONSENT,
        Category.HH_CONSUMPTION,
        interval,
        "AI",
    )


class Town:
    """What a test can do with the installation."""

    readings: Process  # where a test has one of its own

    def __init__(self, runtime: Runtime, process: Process, folds: FaustFolds) -> None:
        self.runtime, self.process, self.folds = runtime, process, folds
        self.partition = murmur2_partition(MPAN.encode(), runtime.partitions)
        appender = process.appender
        self.consumers = Coordinator(
            CONSUMERS,
            folds,
            runtime.writer(appender, SignerRole.CONSUMERS, "consumers"),
            runtime.partitions,
            tightens,
        )
        writer = runtime.writer(appender, SignerRole.GOVERNANCE, "governance")
        self.governance = Coordinator(
            GOVERNANCE, folds, writer, runtime.partitions, governance_tightens
        )
        self.spreader = Spreader(
            writer, GOVERNANCE, runtime.partitions, runtime.settings.data_dir / "spread.json"
        )
        folds[trust.GOVERNANCE_TOPIC, 0].listeners.append(self.spreader.note)
        self.metering = runtime.writer(appender, SignerRole.METERING, "metering")

    async def govern(self, command: Any) -> Handled:
        """One command of the board, spread everywhere."""
        subject = governance.subject_of(command)
        handled = await self.governance.handle(order(subject, command, BOARD))
        await self.spreader.spread()
        return handled

    async def consumer(self, command: Any, subject: str = MPAN) -> Handled:
        """One command about a meter."""
        return await self.consumers.handle(order(subject, command, command.by))

    async def grant(self, consent_id: str, mpxn: str = MPAN, since: datetime = DAY) -> Handled:
        """The occupier allows the adviser to read what was recorded from then on."""
        now = datetime.now(UTC)
        terms = ConsentTerms(
            ADVISER.party,
            CONSUMER_REF,
            "ENERGY_ADVICE",
            ("HH_CONSUMPTION",),
            since,
            now - timedelta(seconds=1),
            now + timedelta(days=30),
        )
        return await self.consumer(GrantConsent(CONSUMER, consent_id, terms), mpxn)

    async def revoke(self, consent_id: str) -> Handled:
        """The occupier takes it back."""
        return await self.consumer(RevokeConsent(CONSUMER, consent_id))

    async def record(self, days: int = 7, wh: int = 100, reference: str = "first") -> Appended:
        """Readings of the meter, a value for every half hour."""
        first = (DAY - datetime(1970, 1, 1, tzinfo=UTC)).days
        table = MeterDays(
            mpxns=np.array([MPAN] * days, "S13"),
            days=np.arange(first, first + days, dtype=np.int32),
            present=np.ones((days, 48), np.bool_),
            values_wh=np.full((days, 48), wh, np.int32),
            quality=np.zeros((days, 48), np.uint8),
            quality_codes=("A",),
            quantity="AI",
        )
        batch = batch_from_columns(
            table,
            self.partition,
            Delivery("north-supply", reference),
            registration_position=2,
            consumer_log_position=2,
        )
        return await self.metering.write(
            RecordType.READINGS, trust.READINGS_TOPIC, self.partition, batch
        )


def order(subject: str, command: Any, by: Actor) -> Order:
    """A command under a key of its own."""
    return Order(subject, command, by, type(command).__name__, f"key-{next(_keys)}", os.urandom(32))


class Dsi:
    """A DSI server without its gRPC edge."""

    def __init__(
        self, town: Town, name: str, folds: FaustFolds, *, fence: bool, clock_off_ms: int
    ) -> None:
        runtime = town.runtime
        self.appender = Appender(runtime.kafka)
        writer = runtime.writer(self.appender, SignerRole.DSI, name)
        clock = writer._clock
        writer._clock = lambda: clock() + clock_off_ms
        self.folds = folds
        company = Company(time.monotonic)
        self.access = {
            p: AccessLog(
                folds[trust.CONSUMER_LOG, p], writer, name, 2.0, fence=fence, company=company
            )
            for p in range(runtime.partitions)
        }
        self.data = DataViews(
            runtime.stores("readings"),
            runtime.stores(name) / "data",
            runtime.identity.log_id,
            runtime.partitions,
            runtime.domains.layouts,
        )
        self.outcomes = OutcomeLog(writer, name)
        self.reader = ReaderThread(runtime.kafka)
        self.reads = Reads(
            self.access,
            self.outcomes,
            self.data,
            self.reader,
            runtime.codec.schemas.set_hash,
            (1, 1),
        )
        self.watches = Watches(self.access)

    async def stop(self) -> None:
        """Stop in order, outcomes first."""
        self.watches.close()
        await self.outcomes.flush()
        await self.appender.stop()
        await self.reader.close()
        self.data.close()


@asynccontextmanager
async def settle(settings: Settings, kafka: Kafka) -> AsyncIterator[Town]:
    """Coordinators and readings process running; policy, adviser and occupier in place."""
    runtime = Runtime.of(settings, kafka, DOMAINS)
    readings = await start_readings(runtime)
    process = Process(runtime, "coordinators")
    folds = await process.fold([trust.GOVERNANCE_TOPIC, trust.CONSUMER_LOG])
    town = Town(runtime, process, folds)
    town.readings = readings
    reader = runtime.reader()
    town.spreader.load(reader, runtime.codec)
    reader.close()
    try:
        start = datetime(2024, 1, 1, tzinfo=UTC)
        await town.govern(governance.AdoptPolicyVersion(BOARD, 1))
        for caller in (ADVISER, STRANGER):
            await town.govern(governance.AdmitParticipant(BOARD, caller.party, caller.party))
            await town.govern(
                governance.GrantAccreditation(
                    BOARD, caller.party, caller.role, "DSI", "1", (), start
                )
            )
        await town.consumer(StartSupply(SERVICE, "north-supply", start))
        await town.consumer(StartTenancy(SERVICE, "tenancy-1", CONSUMER_REF, start))
        yield town
        _, disagreed = await asyncio.to_thread(judge, runtime)
        assert disagreed == [], "\n".join(disagreed[:5])
    finally:
        await process.stop()
        await town.readings.stop()


@asynccontextmanager
async def open_dsi(
    town: Town, name: str = "dsi", *, fence: bool = True, clock_off_ms: int = 0
) -> AsyncIterator[Dsi]:
    """A DSI server with a fold of its own."""
    folds = town.runtime.folds(name, [trust.CONSUMER_LOG])
    await folds.start()
    dsi = Dsi(town, name, folds, fence=fence, clock_off_ms=clock_off_ms)
    try:
        yield dsi
    finally:
        await dsi.stop()
        await folds.stop()
        folds.close()


async def chunks_of(stream: ReadingsStream) -> AsyncGenerator[Chunk, None]:
    """Every chunk of a stream that is followed, one by one."""
    async with aclosing(stream.messages(follow=True)) as messages:
        async for chunks in messages:
            for chunk in chunks:
                yield chunk


def at_least(appended: Appended | Handled) -> tuple[Any, ...]:
    """A position token that includes a record."""
    return (DataPosition(appended.topic, appended.partition, appended.offset + 1),)
