"""The metering coordinator over mutual TLS, its readings in a real Kafka, and read back from it."""

import asyncio
import contextlib
import gzip
import sqlite3
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import pytest_asyncio
from google.protobuf.timestamp_pb2 import Timestamp

from domains.consumers.commands import StartSupply
from domains.consumers.decider import CONSUMERS
from domains.consumers.decider import tightens as consumers_tighten
from domains.metering import adapters
from domains.metering.adapters import MeterDays, collecting
from domains.metering.judging import numbers_of
from domains.metering.readings import take
from spine import trust
from spine.coordinator import Coordinator
from spine.domain import Actor
from spine.embedded import EmbeddedKafka
from spine.errors import Invalid, Pushback, Reason
from spine.event import SignerRole
from spine.gb import Interval, Mpan, half_hour_start
from spine.identity import Identity
from spine.ingest import IngestReport, Step, chunks, ingest_file
from spine.installation import DOMAINS
from spine.metering.v1 import metering_pb2, metering_pb2_grpc
from spine.murmur2 import murmur2_partition
from spine.orders import Order
from spine.policy import Role
from spine.replay import rebuild
from spine.rocks import DamagedStore
from spine.rows import SUBJECT_PREFIX
from spine.runtime import Process, Runtime
from spine.server import Failure, connect, error_from
from spine.services import recording, wire
from spine.services.metering import CACHE_FILE, start_metering
from spine.services.meters import KnownStates
from tests.helpers.accredited import accredit
from tests.helpers.half_hours import read_back
from tests.helpers.log import open_new_log

DATA = Path(__file__).parent.parent / "data"
PERSE = DATA / "perse" / "perse_meter_history_2024-01-01_2024-08-31.json.gz"
LCL = DATA / "lcl" / "lcl_MAC003718_2012-10-17_2013-06-30.csv.gz"
LONG_DAY = DATA / "synthetic" / "perse_50_periods.json"
MPAN = "1200000000011"
PERSE_MPAN = adapters.read(PERSE.name, PERSE.read_bytes()).meter_days.mpxns[0].decode()
SINCE = datetime(2010, 1, 1, tzinfo=UTC)
pytestmark = pytest.mark.asyncio(loop_scope="module")
STRANGER = "1200000000020"


class World:
    """A log, the metering coordinator, and a supplier that supplies what it is told to."""

    def __init__(self, runtime: Runtime, process: Process) -> None:
        self.runtime, self.process = runtime, process
        authority = runtime.authority()
        self.supplier = authority.issue_client(Role.SUPPLIER, "SUPP")
        self.registry = authority.issue_client(Role.CONSENT_SERVICE, "REGISTRY")
        self.other = authority.issue_client(Role.DATA_SERVICE, "AGNT")
        self.app = authority.issue_client(Role.DATA_USER, "APPL")

    @property
    def target(self) -> str:
        assert self.process.server is not None
        return f"127.0.0.1:{self.process.server.port}"

    def partition(self, mpxn: str) -> int:
        return murmur2_partition(mpxn.encode(), self.runtime.partitions)

    async def supply(self, *mpxns: str) -> None:
        """Have SUPP supply these meters, and wait until the coordinator knows."""
        runtime, folds = self.runtime, self.process.folds
        assert folds is not None
        writer = runtime.writer(self.process.appender, SignerRole.CONSUMERS, "consumers")
        coordinator = Coordinator(CONSUMERS, folds, writer, runtime.partitions, consumers_tighten)
        by = Actor(Role.CONSENT_SERVICE, "ccs")
        for mpxn in mpxns:
            command = StartSupply(by, "SUPP", SINCE)
            await coordinator.handle(Order(mpxn, command, by, "StartSupply", mpxn, b"digest"))

    @property
    def cache(self) -> Path:
        return self.runtime.stores("metering") / CACHE_FILE

    async def restart(self, *, lose_cache: bool = False) -> None:
        await self.process.stop()
        if lose_cache:
            self.cache.unlink()
        self.process = await start_metering(self.runtime)

    async def register(self, mpxn: str, since: datetime = SINCE, key: str = "") -> Any:
        request = metering_pb2.RegisterMeteringPointRequest(
            idempotency_key=key or f"register-{mpxn}", mpxn=mpxn, registered_from=stamp(since)
        )
        async with connect(self.target, self.registry.folder) as channel:
            stub = metering_pb2_grpc.MeteringStub(channel)
            return await stub.RegisterMeteringPoint(request, timeout=20)

    async def deregister(self, mpxn: str, until: datetime) -> Any:
        request = metering_pb2.DeregisterMeteringPointRequest(
            idempotency_key=f"end-{mpxn}", mpxn=mpxn, effective_to=stamp(until)
        )
        async with connect(self.target, self.registry.folder) as channel:
            stub = metering_pb2_grpc.MeteringStub(channel)
            return await stub.DeregisterMeteringPoint(request, timeout=20)

    async def ingest(self, path: Path, mpxn: str | None = None, **more: Any) -> IngestReport:
        return await ingest_file(path, self.target, self.supplier.folder, mpxn=mpxn, **more)

    async def send(self, *messages: Any, by: Identity | None = None) -> Any:
        async with connect(self.target, (by or self.supplier).folder) as channel:
            stub = metering_pb2_grpc.MeteringStub(channel)
            return await stub.RecordReadings(iter(messages), timeout=30)

    async def refusal(self, *messages: Any, by: Identity | None = None) -> Failure:
        with pytest.raises(grpc.RpcError) as failed:
            await self.send(*messages, by=by)
        return error_from(failed.value)

    def ends(self) -> list[int]:
        """The end of each readings partition."""
        reader = self.runtime.reader()
        try:
            places = range(self.runtime.partitions)
            return [reader.bounds(trust.READINGS_TOPIC, p)[1] for p in places]
        finally:
            reader.close()

    def read_back(self, path: Path, mpxn: str) -> dict[datetime, tuple[int, str]]:
        """What a fold of the partition says of a meter, from the log alone."""
        partition = self.partition(mpxn)
        fold = self.runtime.stored_fold(path, trust.READINGS_TOPIC, partition)
        reader = self.runtime.reader()
        try:
            rebuild(fold, reader)
            head = fold.fold.head
            assert head is not None and head.counts.balanced
            assert head.counts.void == head.counts.quarantined == head.counts.held == 0
            ever = Interval(SINCE, SINCE + timedelta(days=9_000))
            found = read_back(fold.store, mpxn, "AI", ever, fold.next_offset)
            return {at: (each.value_wh, each.quality) for at, each in found.items()}
        finally:
            reader.close()
            fold.close()


def stamp(at: datetime) -> Timestamp:
    written = Timestamp()
    written.FromDatetime(at)
    return written


def cells(days: MeterDays) -> dict[datetime, tuple[int, str]]:
    """Every value of the columns by its half hour."""
    return {
        half_hour_start(int(days.days[row]) * 48 + int(place)): (
            int(days.values_wh[row, place]),
            days.quality_codes[days.quality[row, place]],
        )
        for row, place in zip(*np.nonzero(days.present), strict=True)
    }


def header(reference: str = "ref-1", **other: Any) -> Any:
    said: dict[str, Any] = {
        "sender_reference": reference,
        "source_digest": bytes(32),
        "measurement_quantity": "AI",
        "quality_codes": ["A", "E"],
        **other,
    }
    message = metering_pb2.ReadingsHeader(**said)
    return metering_pb2.RecordReadingsRequest(header=message)


def generated(mpxns: Iterable[str], days: int = 1, first_day: int = 19_000) -> MeterDays:
    """A delivery of that many days for each meter, all half hours present and told apart."""
    names = list(mpxns)
    n = len(names) * days
    return MeterDays(
        mpxns=np.repeat(np.array(names, "S13"), days),
        days=np.tile(np.arange(first_day, first_day + days, dtype=np.int32), len(names)),
        present=np.ones((n, 48), np.bool_),
        values_wh=(np.arange(n * 48, dtype=np.int32) % 2_000).reshape(n, 48),
        quality=np.zeros((n, 48), np.uint8),
        quality_codes=("A", "E"),
    )


def whole(days: MeterDays) -> Any:
    """One chunk of all of them, however many."""
    made = metering_pb2.ReadingsChunk()
    for part in chunks(days):
        for name in ("mpxns", "days", "present", "values_wh", "quality"):
            setattr(made, name, getattr(made, name) + getattr(part, name))
    return metering_pb2.RecordReadingsRequest(chunk=made)


def chunk(days: MeterDays, /, **other: bytes) -> Any:
    """The one chunk of these meter-days, with vectors replaced."""
    (made,) = chunks(days)
    for name, vector in other.items():
        setattr(made, name, vector)
    return metering_pb2.RecordReadingsRequest(chunk=made)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    folder = tmp_path_factory.mktemp("metering")
    with EmbeddedKafka(folder) as broker:
        runtime = Runtime.of(*await open_new_log(broker, folder), DOMAINS)
        await accredit(runtime, (Role.SUPPLIER, "SUPP"), (Role.DATA_SERVICE, "AGNT"))
        world = World(runtime, await start_metering(runtime))
        try:
            yield world
        finally:
            await world.process.stop()


async def test_real_files_are_recorded_once_and_read_back_equal(world: World, tmp_path: Path):
    for mpxn in (PERSE_MPAN, MPAN):
        await world.register(mpxn)
    await world.supply(PERSE_MPAN, MPAN)

    steps: list[Step] = []
    perse = await world.ingest(PERSE, progress=steps.append)
    lcl = await world.ingest(LCL, MPAN)

    assert perse.rows.as_dict() == {"total": 244, "taken": 244}
    assert perse.half_hours.as_dict() == {"total": 11_710, "recorded": 11_710}
    assert perse.by_quality == {"A": 11_520, "E": 190}
    assert f"{perse.total_kwh:f}" == "216258.000"
    assert (steps[-1].rows, steps[-1].meter_days) == (244, perse.meter_days.total)
    assert lcl.rows.as_dict() == {
        "total": 12_318,
        "taken": 12_308,
        "duplicate_same": 9,
        "off_grid": 1,
    }
    assert lcl.half_hours.as_dict() == {"total": 12_310, "recorded": 12_308, "missing": 2}
    ends = world.ends()
    assert [(p.partition, p.offset) for p in lcl.positions] == [
        (world.partition(MPAN), ends[world.partition(MPAN)])
    ]

    again = await world.ingest(PERSE)
    assert again.half_hours.as_dict() == {"total": 11_710, "repeated": 11_710}
    assert again.batches.as_dict() == {"total": 1, "repeated": 1}
    assert again.positions == perse.positions
    await world.restart()
    once_more = await world.ingest(LCL, MPAN)
    assert once_more.meter_days.buckets == {"repeated": lcl.meter_days.total}
    assert world.ends() == ends

    for path, mpxn, given in ((PERSE, PERSE_MPAN, None), (LCL, MPAN, Mpan(MPAN))):
        parsed = adapters.read(path.name, path.read_bytes(), given)
        assert world.read_back(tmp_path / mpxn, mpxn) == cells(parsed.meter_days)


async def test_a_correction_is_a_new_version_and_the_day_of_fifty_periods_is_whole(
    world: World, tmp_path: Path
):
    mpxn = "1200000000123"
    await world.register(mpxn)
    await world.supply(mpxn)
    long = adapters.read(LONG_DAY.name, LONG_DAY.read_bytes()).meter_days
    long = replace(long, mpxns=np.full(len(long), mpxn, "S13"))
    later = take(long, np.array([1]))
    later = replace(later, values_wh=later.values_wh + 1)

    first = await world.send(header("long"), chunk(long))
    second = await world.send(header("corrected"), chunk(later))

    assert (first.half_hours_recorded, second.half_hours_recorded) == (146, 48)
    assert world.read_back(tmp_path / "long", mpxn) == cells(long) | cells(later)


async def test_rows_are_refused_one_by_one_and_counted_by_reason(world: World, tmp_path: Path):
    good, unknown, others, late = (f"13000000000{n}0" for n in range(4))
    for mpxn in (good, others):
        await world.register(mpxn)
    await world.register(late, since=half_hour_start(19_001 * 48 + 20))
    await world.supply(good, unknown, late)
    days = generated([good, unknown, others, late], days=2)
    days.present[2, 10:] = False  # 10 half hours of the unknown meter, the day after has 48
    days.values_wh[2, 10:] = 0
    days.values_wh[1, 5] = 10_000_001  # good, but implausible
    days.present[7, :20] = False  # the second day of `late`, from its registration on
    days.values_wh[7, :20] = 0

    report = await world.send(header("by-reason"), chunk(days))

    assert (report.rows_received, report.half_hours_received) == (8, 8 * 48 - 38 - 20)
    assert (report.rows_recorded, report.half_hours_recorded) == (2, 48 + 28)
    assert dict(report.rows_refused) == {
        Reason.METER_NOT_REGISTERED: 3,
        Reason.SENDER_NOT_APPOINTED: 2,
        Reason.READING_OUT_OF_RANGE: 1,
    }
    assert dict(report.half_hours_refused) == {
        Reason.METER_NOT_REGISTERED: 10 + 48 + 48,
        Reason.SENDER_NOT_APPOINTED: 96,
        Reason.READING_OUT_OF_RANGE: 48,
    }
    assert dict(report.findings) == {Reason.MPXN_CHECK_DIGIT: 2}  # of `good` and of `late`
    assert world.read_back(tmp_path / "good", good) == cells(take(days, np.array([0])))
    assert world.read_back(tmp_path / "unknown", unknown) == {}

    wrong_sender = await world.send(header("not-mine"), chunk(days), by=world.other)
    assert wrong_sender.rows_recorded == 0
    assert dict(wrong_sender.rows_refused) == {Reason.SENDER_NOT_APPOINTED: 8}
    assert not wrong_sender.findings  # of what is refused there is no more to say
    export = await world.send(header("export", measurement_quantity="AE"), chunk(days))
    assert export.rows_refused[Reason.QUANTITY_NOT_FOR_METER] == 3
    assert export.rows_recorded == 0


async def test_what_is_yet_to_come_is_refused_until_it_is_over(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    mpxn = "1800000000000"
    await world.register(mpxn)
    await world.supply(mpxn)
    days = generated([mpxn], days=4, first_day=19_100)
    days.present[3, 10:] = False
    days.values_wh[3, 10:] = 0
    sent = (header("to-come"), chunk(days))

    def it_is(half_hour: int) -> None:
        at = half_hour_start(half_hour)
        monkeypatch.setattr(wire, "now", lambda: at)

    counted = []
    for half_hour in (19_101 * 48, 19_101 * 48, 19_103 * 48 + 10, 19_110 * 48):
        it_is(half_hour)
        report = await world.send(*sent)
        assert report.rows_refused.keys() <= {Reason.READING_IN_FUTURE}
        refused = report.rows_refused[Reason.READING_IN_FUTURE]
        counted.append((report.rows_recorded, report.rows_duplicate, refused))
    assert counted == [(1, 0, 3), (0, 1, 3), (3, 1, 0), (0, 4, 0)]
    assert world.read_back(tmp_path / "to-come", mpxn) == cells(days)

    late = await world.send(header("far"), chunk(generated([mpxn], first_day=47_000)))
    assert dict(late.half_hours_refused) == {Reason.READING_IN_FUTURE: 48}


async def test_the_client_names_what_the_server_refused(world: World):
    report = await world.ingest(LCL, STRANGER)

    assert report.half_hours.as_dict() == {"total": 12_310, "wrong_sender": 12_308, "missing": 2}
    assert report.batches.total == 0 and not report.positions


async def test_every_bucket_in_one_file(world: World, tmp_path: Path):
    """Rows balance and half hours balance, each for itself; each row's line is told."""
    mine, theirs, unknown = "2400000000013", "2500000000018", "2600000000012"
    wrong = "2700000000010"
    for mpxn in (mine, theirs, wrong):
        await world.register(mpxn)
    await world.supply(mine, wrong, unknown)
    rows = [
        (mine, "00:30", "0.1"),
        (mine, "00:30", "0.1"),  # the same again
        (mine, "00:30", "0.2"),  # another value
        (mine, "00:40", "0.1"),  # off the grid
        (mine, "01:00", "null"),
        (mine, "01:30", "-1"),
        (mine, "02:30", "0.0001"),  # 02:00 is missing
        (mine, "03:00", "x"),
        (mine, "03:30", "0.3"),
        (wrong, "00:30", "0.4"),
        (theirs, "00:30", "0.5"),
        (unknown, "00:30", "0.6"),
        ("123", "00:30", "0.7"),
    ]
    path = tmp_path / "every.csv"
    lines = [f"{mpxn},2024-01-01 {time},{kwh},Actual" for mpxn, time, kwh in rows]
    path.write_text("\n".join(["sep=,", "MPR,ReadDatetime,kWh,ReadType", *lines, "garbage"]))

    report, again = await world.ingest(path), await world.ingest(path)

    assert report.rows.as_dict() == {
        "total": 14, "taken": 5, "duplicate_other": 1, "duplicate_same": 1, "off_grid": 1,
        "null": 1, "negative": 1, "wrong_decimals": 1, "unreadable": 3,
    }  # fmt: skip
    of_file = {"null": 1, "negative": 1, "wrong_decimals": 1, "unreadable": 1, "missing": 1}
    refused = {"unregistered": 1, "wrong_sender": 1}
    assert report.half_hours.buckets == {"recorded": 3, **refused, **of_file}
    assert again.half_hours.buckets == {"repeated": 3, **refused, **of_file}
    assert report.half_hours.total == sum(report.half_hours.buckets.values()) == 10
    told = [(f.reason.value, f.line) for f in report.findings]
    assert told[:7] == [
        ("duplicate_same", 4), ("duplicate_other", 5), ("off_grid", 6), ("null", 7),
        ("negative", 8), ("wrong_decimals", 9), ("unreadable", 10),
    ]  # fmt: skip
    assert told[7:10] == [("check_digit", 12), ("unreadable", 15), ("unreadable", 16)]


@pytest.mark.parametrize(
    "content",
    [
        b"<!doctype html><title>Log in</title>",
        b"",
        b"MPR,ReadDatetime,kWh\n1,2,3\n",
        b"MPR,ReadDatetime,kWh,ReadType\n",
        gzip.compress(b"MPR,ReadDatetime,kWh,ReadType\n" * 99)[:-9],
    ],
)
async def test_of_what_is_not_readings_nothing_is_recorded(
    world: World, tmp_path: Path, content: bytes
):
    path = tmp_path / "readings.csv"
    path.write_bytes(content)
    before = world.ends()

    with pytest.raises(Invalid) as refused:
        await world.ingest(path)

    assert refused.value.reason.startswith("FILE_")
    assert ". " not in refused.value.message
    assert world.ends() == before


async def test_the_same_chunk_twice_in_one_call_is_recorded_once(world: World):
    mpxn = "1400000000010"
    await world.register(mpxn)
    await world.supply(mpxn)
    ends = world.ends()
    same = chunk(generated([mpxn], days=3))

    report = await world.send(header("twice"), same, same)

    assert (report.rows_received, report.rows_recorded, report.rows_duplicate) == (6, 3, 3)
    assert (report.batches_recorded, report.batches_duplicate) == (1, 1)
    assert sum(world.ends()) == sum(ends) + 1


async def test_only_suppliers_and_data_services_may_send(world: World):
    refused = await world.refusal(header(), chunk(generated([MPAN])), by=world.app)

    assert (refused.code, refused.reason) == ("PERMISSION_DENIED", Reason.ROLE_NOT_ALLOWED)


ONE = generated([MPAN])
MALFORMED = {
    "no row": {"mpxns": b"", "days": b"", "present": b"", "values_wh": b"", "quality": b""},
    "mpxns too short": {"mpxns": b"120000000001"},
    "mpxns no digits": {"mpxns": b"12000000000X1"},
    "mpxns of eleven digits": {"mpxns": b"12000000000\0\0"},
    "mpxns padded in front": {"mpxns": b"\0\0\0\0\0\x30\x30\x30\x30\x30\x30\x30\x30"},
    "days of three bytes": {"days": b"\0\0\0"},
    "days of five bytes": {"days": b"\0\0\0\0\0"},
    "days of the wrong end": {"days": (19_000).to_bytes(4, "big")},
    "present too long": {"present": b"\xff" * 7},
    "values too short": {"values_wh": bytes(191)},
    "quality too short": {"quality": bytes(47)},
    "quality beyond the codes": {"quality": b"\x02" * 48},
    "value of an absent half hour": {"present": b"\xfe" + b"\xff" * 5, "values_wh": b"\1" * 192},
}


@pytest.mark.parametrize("vectors", MALFORMED.values(), ids=MALFORMED)
async def test_a_malformed_chunk_is_refused_whole(world: World, vectors: dict[str, bytes]):
    await world.register(MPAN)
    await world.supply(MPAN)
    ends = world.ends()

    refused = await world.refusal(header("malformed"), chunk(ONE, **vectors))

    assert (refused.code, refused.reason) == ("INVALID_ARGUMENT", Reason.READINGS_MALFORMED)
    assert world.ends() == ends


HEADERS: dict[str, tuple[dict[str, Any], Reason]] = {
    "no reference": ({"sender_reference": ""}, Reason.FIELD_INVALID),
    "long reference": ({"sender_reference": "x" * 65}, Reason.FIELD_INVALID),
    "unprintable reference": ({"sender_reference": "a\tb"}, Reason.FIELD_INVALID),
    "short digest": ({"source_digest": bytes(31)}, Reason.FIELD_INVALID),
    "unknown quantity": ({"measurement_quantity": "XX"}, Reason.CODE_UNKNOWN),
    "no quality code": ({"quality_codes": []}, Reason.FIELD_INVALID),
    "quality code twice": ({"quality_codes": ["A", "A"]}, Reason.FIELD_INVALID),
    "long quality code": ({"quality_codes": ["A" * 9]}, Reason.FIELD_INVALID),
}


@pytest.mark.parametrize(("fields", "reason"), HEADERS.values(), ids=HEADERS)
async def test_a_header_at_fault_is_refused(world: World, fields: dict[str, Any], reason: Reason):
    refused = await world.refusal(header(**{"reference": "h", **fields}), chunk(ONE))

    assert (refused.code, refused.reason) == ("INVALID_ARGUMENT", reason)
    assert refused.field.startswith("header.")


async def test_one_header_comes_first(world: World):
    assert (await world.refusal()).reason == Reason.FIELD_MISSING
    assert (await world.refusal(chunk(ONE))).reason == Reason.FIELD_INVALID
    assert (await world.refusal(header("h1"), header("h1"))).reason == Reason.FIELD_INVALID


async def test_a_reference_stands_for_one_source(world: World):
    await world.send(header("mine", source_digest=b"1" * 32))
    await world.send(header("mine", source_digest=b"1" * 32))
    await world.send(header("mine", source_digest=b"2" * 32), by=world.other)

    refused = await world.refusal(header("mine", source_digest=b"2" * 32))

    assert (refused.code, refused.reason) == ("ABORTED", Reason.IDEMPOTENCY_CONFLICT)


async def test_chunks_have_a_largest_size(world: World):
    many = generated([STRANGER], days=2_000)
    too_many = generated([STRANGER], days=2_001)

    assert (await world.send(header("2000"), whole(many))).rows_received == 2_000
    refused = await world.refusal(header("2001"), whole(too_many))
    assert (refused.code, refused.reason) == ("INVALID_ARGUMENT", Reason.REQUEST_TOO_LARGE)
    beyond = await world.refusal(header("4000"), whole(generated([STRANGER], days=4_000)))
    assert beyond.code == "RESOURCE_EXHAUSTED"


async def test_a_lost_cache_costs_a_record_and_no_version(world: World, tmp_path: Path):
    mpxn = "1500000000010"
    await world.register(mpxn)
    await world.supply(mpxn)
    days = generated([mpxn], days=5)
    await world.send(header("kept"), chunk(days))
    ends = world.ends()

    await world.restart(lose_cache=True)
    report = await world.send(header("kept"), chunk(days))

    assert report.rows_recorded == 5  # so it says; the fold knows better
    assert sum(world.ends()) == sum(ends) + 1
    assert world.read_back(tmp_path / "lost", mpxn) == cells(days)


async def test_a_process_that_starts_again_learns_what_was_folded_before_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    mpxn = "1600000000029"
    await world.register(mpxn)
    await world.supply(mpxn)
    started: list[Any] = []

    class Noted(KnownStates):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            started.append(self)

    monkeypatch.setattr(recording, "KnownStates", Noted)
    await world.restart()
    asked, partition = numbers_of(np.array([mpxn.encode()])), world.partition(mpxn)
    async with asyncio.timeout(20):
        while len(started) < 2 or any(
            known._kept[partition].of(known._column, asked)[0] < 0 for known in started
        ):
            await asyncio.sleep(0.05)
    assert (await world.send(header("learnt"), chunk(generated([mpxn])))).rows_recorded == 1


async def test_a_call_that_meets_a_damaged_row_ends_the_process_which_then_has_it_again(
    world: World,
) -> None:
    """Or a process would go on answering from a store that it knows to be damaged."""
    mpxn = "1600000000038"
    done = await world.register(mpxn)
    folds, failures = world.process.folds, list[BaseException]()
    assert folds is not None
    folds._on_failure = failures.append
    stored = folds[trust.METERING_TOPIC, world.partition(mpxn)].stored
    stored.store.put(SUBJECT_PREFIX + mpxn.encode(), b"\xc1")
    with pytest.raises(grpc.RpcError) as told:
        await world.register(mpxn, key="again")
    assert error_from(told.value).reason == "BUG"
    assert {type(failure) for failure in failures} == {DamagedStore}  # told of, and seen
    await world.restart()
    again = await world.register(mpxn)
    assert (again.record, again.replayed) == (done.record, True)


async def test_a_cache_ahead_of_the_log_is_not_believed(world: World):
    mpxn = "1600000000010"
    await world.register(mpxn)
    await world.supply(mpxn)
    days = generated([mpxn])
    await world.send(header("ahead"), chunk(days))
    await world.process.stop()
    with contextlib.closing(sqlite3.connect(world.cache)) as cache:
        cache.execute("UPDATE heads SET at = at + 100 WHERE part = ?", (world.partition(mpxn),))
        cache.commit()
    world.process = await start_metering(world.runtime)

    assert (await world.send(header("ahead"), chunk(days))).rows_recorded == 1


async def test_a_damaged_cache_is_started_afresh(world: World):
    await world.process.stop()
    world.cache.write_bytes(b"not a database" * 1_000)
    world.process = await start_metering(world.runtime)

    assert (await world.send(header("afresh"))).rows_received == 0


async def test_an_append_in_doubt_is_sent_again_by_the_client(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    mpxn = "1700000000010"
    await world.register(mpxn)
    await world.supply(mpxn)
    append, doubts = world.process.appender.append, iter([True])

    async def doubtful(*args: Any) -> Any:
        appended = await append(*args)
        if next(doubts, False):
            raise Pushback(Reason.INDETERMINATE, "not acknowledged")
        return appended

    monkeypatch.setattr(world.process.appender, "append", doubtful)
    monkeypatch.setattr("spine.ingest.FIRST_PAUSE_S", 0.05)
    before = sum(world.ends())

    report = await world.ingest(LCL, mpxn)

    assert report.half_hours.as_dict() == {"total": 12_310, "recorded": 12_308, "missing": 2}
    assert sum(world.ends()) == before + 2
    parsed = adapters.read(LCL.name, LCL.read_bytes(), Mpan(mpxn))
    assert world.read_back(tmp_path / "doubt", mpxn) == cells(parsed.meter_days)


async def test_a_long_file_is_sent_while_it_is_read_and_found_again(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Sixteen days at hand at a time; readings that stand twice do so far from one another."""
    mpxn = "2200000000013"
    await world.register(mpxn)
    await world.supply(mpxn)
    monkeypatch.setattr(collecting, "WINDOW_DAYS", 16)
    lines = gzip.decompress(LCL.read_bytes()).decode().splitlines()
    first, *rest = lines[1:]
    path = tmp_path / "long.csv"
    path.write_text("\n".join([lines[0], first, *rest, first, "garbage"]))

    report, again = await world.ingest(path, mpxn), await world.ingest(path, mpxn)

    assert report.rows.as_dict() == {
        "total": 12_320, "taken": 12_308, "duplicate_same": 10, "off_grid": 1, "unreadable": 1,
    }  # fmt: skip
    assert report.half_hours.as_dict() == {"total": 12_310, "recorded": 12_308, "missing": 2}
    assert report.batches.total > 16
    assert again.batches.buckets == {"repeated": report.batches.total}
    assert again.half_hours.buckets == {"repeated": 12_308, "missing": 2}
    parsed = adapters.read(LCL.name, LCL.read_bytes(), Mpan(mpxn))
    assert world.read_back(tmp_path / "fold", mpxn) == cells(parsed.meter_days)


async def test_a_file_that_fails_half_way_says_so_and_loses_nothing(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    mpxn = "2300000000016"
    await world.register(mpxn)
    await world.supply(mpxn)
    monkeypatch.setattr(collecting, "WINDOW_DAYS", 16)
    path = tmp_path / "home.csv"
    path.write_bytes(gzip.decompress(LCL.read_bytes()))

    def changes(step: Step) -> None:
        if step.meter_days == 8:
            with path.open("a") as file:
                file.write("garbage\n")

    before = sum(world.ends())
    with pytest.raises(Invalid, match="changed while it was read"):
        await world.ingest(path, mpxn, progress=changes)

    recorded = sum(world.ends()) - before
    assert recorded > 16
    path.write_bytes(gzip.decompress(LCL.read_bytes()))
    report = await world.ingest(path, mpxn)
    assert report.batches.buckets["repeated"] == recorded
    assert report.half_hours.total == 12_310


async def test_a_key_stands_for_one_withdrawal(world: World):
    mpxn = "1800000000019"
    await world.register(mpxn)
    await world.supply(mpxn)

    async def withdraw(reason: str) -> Any:
        interval = {"start": stamp(SINCE), "end": stamp(SINCE + timedelta(days=1))}
        request = metering_pb2.WithdrawReadingsRequest(
            idempotency_key="taken-back",
            mpxn=mpxn,
            measurement_quantity="AI",
            interval=interval,
            reason=reason,
        )
        async with connect(world.target, world.supplier.folder) as channel:
            stub = metering_pb2_grpc.MeteringStub(channel)
            return await stub.WithdrawReadings(request, timeout=20)

    assert not (await withdraw("WRONG_METER")).replayed
    assert (await withdraw("WRONG_METER")).replayed
    with pytest.raises(grpc.RpcError) as conflict:
        await withdraw("WRONG_VALUES")
    error = error_from(conflict.value)
    assert error.reason == Reason.IDEMPOTENCY_CONFLICT
    assert error.message == "this idempotency_key was used for another withdrawal"


async def test_a_metering_point_is_registered_and_ends(world: World):
    mpxn = "1800000000010"
    first = await world.register(mpxn)
    again = await world.register(mpxn)
    assert again.replayed and not first.replayed
    assert again.record == first.record
    assert first.positions.positions[0].offset == first.record.offset + 1
    await world.supply(mpxn)

    with pytest.raises(grpc.RpcError) as exists:
        await world.register(mpxn, since=SINCE + timedelta(days=1), key="other")
    assert error_from(exists.value).reason == Reason.METER_EXISTS
    with pytest.raises(grpc.RpcError) as conflict:
        await world.register(mpxn, since=SINCE + timedelta(days=1))
    assert error_from(conflict.value).reason == Reason.IDEMPOTENCY_CONFLICT

    await world.deregister(mpxn, half_hour_start(19_001 * 48))
    report = await world.send(header("ended"), chunk(generated([mpxn], days=3)))
    assert report.rows_recorded == 1
    assert dict(report.rows_refused) == {Reason.METER_NOT_REGISTERED: 2}


async def test_only_who_holds_a_meter_may_register_or_end_it(world: World) -> None:
    mpxn = "1900000000013"
    await world.register(mpxn)
    request = metering_pb2.DeregisterMeteringPointRequest(
        idempotency_key="not-yours", mpxn=mpxn, effective_to=stamp(SINCE)
    )
    refusals = set()
    async with connect(world.target, world.supplier.folder) as channel:
        stub = metering_pb2_grpc.MeteringStub(channel)
        for meter in (mpxn, "2100000000010"):  # registered, and unknown: refused alike
            request.mpxn = meter
            request.idempotency_key = f"not-yours-{meter}"
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await stub.DeregisterMeteringPoint(request, timeout=20)
            failure = error_from(refused.value)
            refusals.add((failure.code, failure.reason, failure.message))
    assert refusals == {("PERMISSION_DENIED", "NOT_PERMITTED", "the meter is not this registrar's")}


async def test_points_are_registered_by_the_thousand_each_by_its_own_rules(world: World) -> None:
    meters = [f"15777000{number:05d}" for number in range(200)]
    await world.supply(meters[0])
    commands = [
        metering_pb2.RegisterMeteringPointRequest(
            idempotency_key=f"register-{mpxn}", mpxn=mpxn, registered_from=stamp(SINCE)
        )
        for mpxn in (*meters, "13")
    ]
    request = metering_pb2.RegisterMeteringPointsRequest(commands=commands)
    async with connect(world.target, world.registry.folder) as channel:
        answer = await metering_pb2_grpc.MeteringStub(channel).RegisterMeteringPoints(
            request, timeout=20
        )
    assert [r.refused for r in answer.results] == [*[""] * 200, Reason.MPXN_FORMAT]
    assert len({(r.record.partition, r.record.offset) for r in answer.results[:200]}) == 4
    assert (await world.register(meters[7])).replayed
    async with connect(world.target, world.supplier.folder) as channel:
        own = await metering_pb2_grpc.MeteringStub(channel).RegisterMeteringPoints(
            request, timeout=20
        )
    assert [r.refused for r in own.results[1:3]] == [Reason.NOT_PERMITTED] * 2
    assert not own.results[0].refused  # it is so already
