"""What was quarantined is listed, shown, redriven by its coordinator, or left out; each once."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from typer.testing import CliRunner

from domains.consumers.events import TenancyEnded, TenancyStarted
from spine import trust
from spine.cli import command_line
from spine.console import context
from spine.dsi.process import start_readings
from spine.embedded import EmbeddedKafka
from spine.errors import Reason
from spine.event import (
    NO_PREDECESSOR,
    Command,
    Fact,
    Facts,
    Quarantined,
    RecordType,
    SignerRole,
)
from spine.installation import DOMAINS
from spine.murmur2 import murmur2_partition
from spine.operations.v1 import operations_pb2, operations_pb2_grpc
from spine.policy import Role
from spine.quarantine import OWNERS, Place, key_of, read_cases
from spine.runtime import Process, Runtime
from spine.server import connect, error_from
from spine.services.consumers import start_consumers
from spine.services.metering import start_metering
from tests.helpers.log import open_new_log
from tests.helpers.samples import readings_batch

pytestmark = pytest.mark.asyncio(loop_scope="module")

METER = "1200000000003"
MOVED_IN = datetime(2025, 3, 1, tzinfo=UTC)
MOVED_OUT = datetime(2025, 9, 1, tzinfo=UTC)


@dataclass
class World:
    """Three processes of one log, and a hand that writes what no process would."""

    runtime: Runtime
    consumers: Process
    metering: Process

    @property
    def partition(self) -> int:
        return murmur2_partition(METER.encode(), self.runtime.partitions)

    async def forge(self, value: object, topic: str, by: SignerRole, kind: RecordType) -> Place:
        """Append a record under a key of the installation; the place of its first entry."""
        writer = self.runtime.writer(self.consumers.appender, by, "hand")
        key = METER.encode() if topic == trust.CONSUMER_LOG else None
        appended = await writer.write(kind, topic, self.partition, value, key=key)
        return Place(topic, self.partition, appended.offset, 0)

    async def fact(self, event: object, name: bytes) -> Place:
        """A fact of the consumers coordinator that follows on the meter's last."""
        row = self.state()
        body = self.runtime.codec.encode(event)
        said = Fact(f"consumers.{type(event).__name__}", datetime.now(UTC), body)
        command = Command(name * 16, METER, bytes(32), row.offset, row.entry, "test/test", (said,))
        value = Facts(trust.CONSUMER_LOG, self.partition, (command,))
        place = await self.forge(value, trust.CONSUMER_LOG, SignerRole.CONSUMERS, RecordType.FACTS)
        assert self.consumers.folds is not None
        await self.consumers.folds[trust.CONSUMER_LOG, self.partition].passed(place.offset, 10)
        return place

    def state(self) -> Any:
        assert self.consumers.folds is not None
        return self.consumers.folds[trust.CONSUMER_LOG, self.partition].stored.fold.subject(METER)

    async def cases(self) -> dict[Place, Any]:
        def read() -> dict[Place, Any]:
            reader = self.runtime.reader()
            try:
                return read_cases(reader, self.runtime.memory_fold(trust.QUARANTINE_TOPIC, 0))
            finally:
                reader.close()

        return await asyncio.to_thread(read)

    async def kept(self, place: Place) -> None:
        """Wait until the entry is in the quarantine topic."""
        async with asyncio.timeout(30):
            while place not in await self.cases():
                await asyncio.sleep(0.2)

    async def settle(
        self, process: Process, method: str, place: Place, role: Role = Role.GOVERNANCE, **more: Any
    ) -> Any:
        """The answer, or the reason for which there is none."""
        identity = self.runtime.authority().issue_client(role, f"{role}-1").folder
        assert process.server is not None
        kind = getattr(operations_pb2, f"{method}Request")
        async with connect(f"127.0.0.1:{process.server.port}", identity) as channel:
            stub = operations_pb2_grpc.OperationsStub(channel)
            try:
                request = kind(place=str(place), reason="TEST", **more)
                return await getattr(stub, method)(request, timeout=25)
            except grpc.aio.AioRpcError as error:
                return error_from(error).reason

    def ends(self) -> dict[str, int]:
        reader = self.runtime.reader()
        try:
            topics = (trust.CONSUMER_LOG, trust.READINGS_TOPIC)
            return {t: reader.bounds(t, self.partition)[1] for t in topics}
        finally:
            reader.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    home: Path = tmp_path_factory.mktemp("quarantine")
    with EmbeddedKafka(home) as broker:
        settings, kafka = await open_new_log(broker, home)
        runtime = Runtime.of(settings, kafka, DOMAINS)
        # As in a pod: its stores are not where those of a process called `readings` are.
        readings = await start_readings(runtime, "readings-1")
        started = readings, await start_consumers(runtime)
        made = World(runtime, started[1], await start_metering(runtime))
        try:
            yield made
        finally:
            await asyncio.gather(*(p.stop() for p in (*started, made.metering)))


@pytest.fixture
def spine(world: World, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """The command line on this log; what it prints as JSON."""
    monkeypatch.setattr(context, "_used", [world.runtime.settings])

    def run(*words: str) -> Any:
        done = CliRunner().invoke(
            command_line(words[0]), [*words, "--json"], catch_exceptions=False
        )
        assert done.exit_code == 0, done.output
        return json.loads(done.output)

    return run


async def test_a_fact_that_came_too_early_is_redriven_as_a_new_command(
    world: World, spine: Callable[..., Any]
) -> None:
    early = await world.fact(TenancyEnded("t-1", MOVED_OUT), b"e")
    assert world.state().offset == NO_PREDECESSOR
    await world.kept(early)
    assert await world.settle(world.consumers, "Redrive", early) == Reason.RECORD_OUT_OF_RANGE

    await world.fact(TenancyStarted("t-1", "c-1", MOVED_IN), b"s")
    ends = await asyncio.to_thread(world.ends)
    would = await world.settle(world.consumers, "Redrive", early, dry_run=True)
    assert (would.how, would.what) == ("WOULD_REDRIVE", "1 command: consumers.TenancyEnded")
    assert await asyncio.to_thread(world.ends) == ends, "a dry run appends nothing"

    (listed,) = await asyncio.to_thread(spine, "quarantine", "list")
    assert (listed["place"], listed["rule"]) == (str(early), Reason.RECORD_OUT_OF_RANGE)
    shown = await asyncio.to_thread(spine, "quarantine", "show", str(early))
    assert shown["holds"] == "consumers.TenancyEnded"
    assert await asyncio.to_thread(spine, "quarantine", "held") == []

    done = await world.settle(world.consumers, "Redrive", early)
    assert (done.how, done.replayed) == ("REDRIVEN", False)
    assert world.state().state.tenancies[0].effective_to == MOVED_OUT
    assert world.state().offset == done.record.offset
    again = await world.settle(world.consumers, "Redrive", early)
    assert (again.record.offset, again.replayed) == (done.record.offset, True)
    assert await world.settle(world.consumers, "Release", early) == Reason.QUARANTINE_SETTLED
    assert await asyncio.to_thread(spine, "quarantine", "list") == []
    (settled,) = await asyncio.to_thread(spine, "quarantine", "list", "--all")
    assert settled["settled"] == "REDRIVEN"


async def test_readings_are_redriven_as_the_bytes_they_are_once_their_key_is_known(
    world: World,
) -> None:
    batch = readings_batch(METER, world.partition, 100)
    broken = replace(batch, rows=batch.rows + 1)
    place = await world.forge(
        broken, trust.READINGS_TOPIC, SignerRole.METERING, RecordType.READINGS
    )
    await world.kept(place)
    refused = await world.settle(world.metering, "Redrive", place)
    assert refused == Reason.READINGS_MALFORMED
    # What the fold refused under a lesser rule, and would take now, stands for a cause removed.
    sound = await world.forge(batch, trust.READINGS_TOPIC, SignerRole.METERING, RecordType.READINGS)
    kept = Quarantined(*astuple(sound), 0, Reason.RECORD_BAD_SIGNATURE, None, (), None)
    writer = world.runtime.writer(world.metering.appender, SignerRole.METERING, "hand")
    await writer.write(RecordType.QUARANTINE, trust.QUARANTINE_TOPIC, 0, kept, key=key_of(kept))
    await world.kept(sound)
    done = await world.settle(world.metering, "Redrive", sound)
    assert (done.how, done.what) == ("REDRIVEN", f"1 batch of {batch.rows} meter-days")

    def values() -> list[bytes | None]:
        reader = world.runtime.reader()
        places = sound.offset, done.record.offset
        try:
            topic = trust.READINGS_TOPIC
            return [next(reader.read(topic, world.partition, p, p + 1)).value for p in places]
        finally:
            reader.close()

    first, second = await asyncio.to_thread(values)
    assert first == second


def astuple(place: Place) -> tuple[str, int, int, int]:
    return place.topic, place.partition, place.offset, place.entry


async def test_what_nobody_responsible_signed_is_not_made_true(world: World) -> None:
    """A DSI's key under a fact is void; one of nobody's is quarantined and stays out."""
    value = Facts(trust.CONSUMER_LOG, world.partition, ())
    writer = world.runtime.writer(world.consumers.appender, SignerRole.CONSUMERS, "hand")
    record = writer.sealed(RecordType.FACTS, trust.CONSUMER_LOG, world.partition, value)
    unsigned = tuple((n, v) for n, v in record.headers if n != "sig")
    assert record.value is not None
    appended = await world.consumers.appender.append(
        record.topic, record.partition, None, unsigned, record.value
    )
    place = Place(trust.CONSUMER_LOG, world.partition, appended.offset, 0)
    await world.kept(place)
    assert await world.settle(world.consumers, "Redrive", place) == Reason.RECORD_UNSIGNED
    released = await world.settle(world.consumers, "Release", place)
    assert released.how == "RELEASED"
    assert await world.settle(world.consumers, "Redrive", place) == Reason.QUARANTINE_SETTLED


async def test_only_the_owner_settles_and_only_governance_asks(world: World) -> None:
    place = await world.fact(TenancyEnded("t-9", MOVED_OUT), b"x")
    await world.kept(place)
    other = await world.settle(world.metering, "Release", place)
    assert other == Reason.QUARANTINE_UNKNOWN
    stranger = await world.settle(world.consumers, "Release", place, Role.SUPPLIER)
    assert stranger == Reason.ROLE_NOT_ALLOWED
    nowhere = await world.settle(world.consumers, "Redrive", replace(place, entry=7))
    assert nowhere == Reason.QUARANTINE_UNKNOWN
    # Another coordinator's word about it counts for nothing.
    kept = Quarantined(*astuple(replace(place, entry=9)), 0, "X", None, (), None)
    writer = world.runtime.writer(world.metering.appender, SignerRole.METERING, "hand")
    await writer.write(RecordType.QUARANTINE, trust.QUARANTINE_TOPIC, 0, kept)
    assert Place.of(kept) not in await world.cases()
    assert OWNERS[place.topic] is SignerRole.CONSUMERS


@pytest.mark.parametrize("text", ["", "x", "a-b-c-d", "t-1-2", "t-1-2--3", "t-1-2-" + "9" * 30])
async def test_what_is_no_place_is_refused(world: World, text: str) -> None:
    class Text:
        def __str__(self) -> str:
            return text

    refused = await world.settle(world.consumers, "Redrive", Text())  # type: ignore[arg-type]
    assert refused == Reason.FIELD_INVALID
