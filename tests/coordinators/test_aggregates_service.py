"""Publications by the metering coordinator: races, corrections, restarts, calls that break off."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio

from domains.consumers.commands import StartSupply
from domains.consumers.decider import CONSUMERS
from domains.consumers.decider import tightens as consumers_tighten
from domains.metering.feeders import FeederRing, interval_of
from domains.metering.publications import FIGURES_MAX, AggregatesPublished, before_next
from spine import trust
from spine.console.client import stamp
from spine.coordinator import Coordinator
from spine.domain import Actor
from spine.embedded import EmbeddedKafka
from spine.errors import Reason
from spine.event import RecordType, SignerRole
from spine.gb import HALF_HOUR
from spine.identity import Identity
from spine.ingest import ingest_file
from spine.installation import DOMAINS
from spine.metering.v1 import aggregates_pb2, aggregates_pb2_grpc, metering_pb2, metering_pb2_grpc
from spine.orders import Order
from spine.policy import Role
from spine.runtime import Process, Runtime
from spine.server import connect, error_from
from spine.services import aggregates as services
from spine.services.checking import check_publications
from spine.services.evidence import Evidence, Group
from spine.services.metering import start_metering
from tests.helpers.accredited import accredit
from tests.helpers.log import open_new_log

pytestmark = pytest.mark.asyncio(loop_scope="module")
SINCE = datetime(2010, 1, 1, tzinfo=UTC)
FIRST = date(2025, 6, 1)
FEEDERS = ("SYNTHETIC-C-001-01", "SYNTHETIC-C-001-02")
METERS = [
    mpan
    for mpan in (f"12000000{n:05d}" for n in range(50))
    if FeederRing(FEEDERS).feeder_of(mpan) == FEEDERS[0]
][:7]
DAYS = 9
_files = iter(range(100))


class World:
    """A log, the metering coordinator, seven meters of one feeder and their readings."""

    def __init__(self, runtime: Runtime, process: Process, folder: Path) -> None:
        self.runtime, self.process, self.folder = runtime, process, folder
        authority = runtime.authority()
        self.supplier = authority.issue_client(Role.SUPPLIER, "SUPP")
        self.board = authority.issue_client(Role.GOVERNANCE, "board")
        self.anybody = authority.issue_client(Role.DATA_USER, "APPL")

    @property
    def target(self) -> str:
        assert self.process.server is not None
        return f"127.0.0.1:{self.process.server.port}"

    async def supply(self) -> None:
        """Have SUPP supply and register the meters."""
        runtime, folds = self.runtime, self.process.folds
        assert folds is not None
        writer = runtime.writer(self.process.appender, SignerRole.CONSUMERS, "consumers")
        coordinator = Coordinator(CONSUMERS, folds, writer, runtime.partitions, consumers_tighten)
        by = Actor(Role.CONSENT_SERVICE, "ccs")
        for mpxn in METERS:
            start = StartSupply(by, "SUPP", SINCE)
            await coordinator.handle(Order(mpxn, start, by, "StartSupply", mpxn, b"digest"))
            register = metering_pb2.RegisterMeteringPointRequest(
                idempotency_key=f"register-{mpxn}", mpxn=mpxn, registered_from=stamp(SINCE)
            )
            await self.metering("RegisterMeteringPoint", register)

    async def metering(self, method: str, request: Any) -> Any:
        async with connect(self.target, self.supplier.folder) as channel:
            return await getattr(metering_pb2_grpc.MeteringStub(channel), method)(
                request, timeout=20
            )

    async def send(self, days: range, mpxns: list[str], wh: int = 100) -> None:
        """A file of readings: the same Wh in every half hour of those days since FIRST."""
        lines = ["MPR,ReadDatetime,kWh,ReadType"]
        for mpxn in mpxns:
            for half_hour in range(days.start * 48, days.stop * 48):
                end = interval_of(FIRST).start + (half_hour + 1) * HALF_HOUR
                lines.append(f"{mpxn},{end:%d %b %Y %H:%M:%S},{wh / 1_000:.3f},Actual")
        path = self.folder / f"readings-{next(_files)}.csv"
        path.write_text("\n".join(lines) + "\n")
        report = await ingest_file(path, self.target, self.supplier.folder)
        assert report.half_hours.buckets["recorded"] == len(mpxns) * len(days) * 48

    async def publish(self, number: int, timeout_s: float = 20) -> list[bool]:
        """Publish a day; of each group, whether it was published before."""
        request = aggregates_pb2.PublishAggregatesRequest(day=day(number).isoformat())
        answer = await self.aggregates(self.board, "PublishAggregates", request, timeout_s)
        return [each.replayed for each in answer.publications]

    async def shown(self, number: int, group: str = "_C") -> tuple[int, set[int], str]:
        """Devices of a group, the Wh of its half hours, and why there are none."""
        request = aggregates_pb2.ListAggregatesRequest(day=day(number).isoformat(), group=group)
        answer = await self.aggregates(self.anybody, "ListAggregates", request)
        (found,) = [each for each in answer.aggregates if each.group == group]
        return found.devices, set(found.values_wh), found.suppressed

    async def aggregates(
        self, by: Identity, method: str, request: Any, timeout_s: float = 20
    ) -> Any:
        async with connect(self.target, by.folder) as channel:
            stub = aggregates_pb2_grpc.AggregatesStub(channel)
            return await getattr(stub, method)(request, timeout=timeout_s)

    def records(self) -> list[AggregatesPublished]:
        """Every publication in the log, whether or not it counts."""
        with closing(self.runtime.reader()) as reader:
            values = [
                self.runtime.codec.decode(record.value)
                for record in reader.read(trust.AGGREGATES_TOPIC, 0, 0)
                if record.value is not None
            ]
        return [value for value in values if isinstance(value, AggregatesPublished)]

    def verdicts(self) -> set[str]:
        with closing(self.runtime.reader()) as reader:
            scratch = self.folder / f"check-{next(_files)}"
            return {c.verdict for c in check_publications(self.runtime, reader, scratch)}


def day(number: int) -> date:
    return FIRST + timedelta(days=number)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    folder = tmp_path_factory.mktemp("aggregates")
    with EmbeddedKafka(folder) as broker:
        settings, kafka = await open_new_log(broker, folder)
        runtime = Runtime.of(settings, kafka, DOMAINS)
        await accredit(runtime, (Role.SUPPLIER, "SUPP"))
        world = World(runtime, await start_metering(runtime), folder)
        try:
            await world.supply()
            await world.send(range(DAYS), METERS[:6])
            yield world
        finally:
            await world.process.stop()


async def test_of_many_calls_at_once_one_publishes(world: World) -> None:
    answers = await asyncio.gather(*(world.publish(0) for _ in range(4)))
    assert sorted(answers) == [[False], [True], [True], [True]]
    assert [record.day for record in world.records()] == [day(0)]
    assert await world.shown(0) == (6, {600}, "")


async def test_a_correction_after_the_publication_changes_nothing_of_it(world: World) -> None:
    await world.publish(1)
    await world.send(range(1, 2), METERS[:1], wh=5_000)
    assert await world.publish(1) == [True]
    assert await world.shown(1) == (6, {600}, "")
    assert world.verdicts() == {"SAME"}


async def test_a_correction_before_it_counts(world: World) -> None:
    await world.send(range(2, 3), METERS[:1], wh=5_000)
    await world.publish(2)
    assert await world.shown(2) == (6, {5_500}, "")


async def test_values_withdrawn_take_the_whole_bundle_out_of_the_day(world: World) -> None:
    start = interval_of(day(3)).start
    request = metering_pb2.WithdrawReadingsRequest(
        idempotency_key="taken-back",
        mpxn=METERS[0],
        measurement_quantity="AI",
        interval={"start": stamp(start), "end": stamp(start + HALF_HOUR)},
        reason="WRONG_METER",
    )
    await world.metering("WithdrawReadings", request)
    await world.publish(3)
    assert await world.shown(3) == (0, set(), "DIFFERENCING")
    assert await world.shown(3, FEEDERS[1]) == (0, set(), "DIFFERENCING")


async def test_what_comes_before_is_gathered_beside_the_loop(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = []

    def gathered(*given: Any) -> Any:
        threads.append(threading.current_thread())
        return before_next(*given)

    monkeypatch.setattr(services, "before_next", gathered)
    await world.publish(-3)
    assert len(threads) == 1 and threads[0] is not threading.current_thread()


async def test_a_newcomer_is_in_no_figure(world: World) -> None:
    await world.send(range(4, 5), METERS[6:])
    await world.publish(4)
    assert await world.shown(4) == (6, {600}, "")


async def test_a_call_that_breaks_off_is_made_again_and_publishes_once(world: World) -> None:
    before = len(world.records())
    with pytest.raises(grpc.RpcError):
        await world.publish(5, timeout_s=0.05)
    assert await world.publish(5) in ([True], [False])
    assert len(world.records()) == before + 1
    assert await world.shown(5) == (6, {600}, "")


async def test_what_another_coordinator_published_meanwhile_stands(world: World) -> None:
    """Both follow on the same publication: the second in the log is passed over by every fold."""
    await world.publish(6)
    other = world.records()[-1]
    assert world.process.folds is not None
    live = world.process.folds[trust.AGGREGATES_TOPIC, 0]
    writer = world.runtime.writer(world.process.appender, SignerRole.METERING, "another")
    appended = live.next_offset
    assert (await write_next(writer, other, appended - 1)).offset == appended
    await live.passed(appended, 10)
    assert [day(6), day(7)] == [record.day for record in world.records()][-2:]
    assert await world.publish(7) == [True]
    assert await world.shown(7) == (6, {600}, "")

    stale = await write_next(writer, other, appended - 1, 8)
    await live.passed(stale.offset, 10)
    assert await world.publish(8) == [False]
    assert world.verdicts() == {"SAME"}


async def write_next(writer: Any, like: AggregatesPublished, previous: int, number: int = 7) -> Any:
    """A publication of a later day in which all is as on the day of another."""
    again = replace(like, day=day(number), previous=previous)
    return await writer.write(RecordType.READINGS, trust.AGGREGATES_TOPIC, 0, again)


async def test_after_a_restart_and_from_the_log_alone_all_is_the_same(world: World) -> None:
    before = [await world.shown(n) for n in range(DAYS)]
    await world.process.stop()
    world.process = await start_metering(world.runtime)
    assert [await world.shown(n) for n in range(DAYS)] == before
    assert await world.publish(0) == [True]
    assert world.verdicts() == {"SAME"}


async def test_nothing_is_appended_under_a_key_that_does_not_count(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert world.process.folds is not None
    fold = world.process.folds[trust.AGGREGATES_TOPIC, 0].stored.fold
    before = len(world.records())
    monkeypatch.setattr(fold, "key", lambda kid: None)
    with pytest.raises(grpc.RpcError) as refused:
        await world.publish(-1)
    assert error_from(refused.value).reason == Reason.KEY_NOT_SEEN
    assert len(world.records()) == before


async def test_a_group_that_fails_keeps_no_other_from_being_published(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """_B, which comes first, has more feeders than a record may hold, now and for ever."""
    many = Group(tuple(f"f{n}" for n in range(FIGURES_MAX + 1)), ())
    real = Evidence.groups
    monkeypatch.setattr(Evidence, "groups", lambda *given: {"_B": many} | real(*given))
    with pytest.raises(grpc.RpcError) as refused:
        await world.publish(-2)
    error = error_from(refused.value)
    assert error.reason == Reason.REQUEST_TOO_LARGE
    assert "1 of 2 GSP groups not published: _B REQUEST_TOO_LARGE;" in error.message
    monkeypatch.undo()
    assert await world.publish(-2) == [True]


async def test_a_day_that_is_not_over_is_not_due(world: World) -> None:
    today = datetime.now(UTC).date()
    request = aggregates_pb2.PublishAggregatesRequest(day=today.isoformat())
    with pytest.raises(grpc.RpcError) as refused:
        await world.aggregates(world.board, "PublishAggregates", request)
    assert error_from(refused.value).reason == Reason.AGGREGATE_NOT_DUE
