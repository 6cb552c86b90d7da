"""Two DSI servers and two readings processes share the partitions; any server takes any request."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from domains.consumers.commands import (
    ConsentTerms,
    GrantConsent,
    RevokeConsent,
    StartSupply,
    StartTenancy,
)
from spine import trust
from spine.audit_report import Line
from spine.common.v1 import common_pb2
from spine.console.audits import run_audit
from spine.console.client import interval
from spine.console.context import use
from spine.dsi.passports import Passports
from spine.dsi.process import start_dsi, start_readings
from spine.dsi.routing import Routes
from spine.dsi.v1 import dsi_pb2, dsi_pb2_grpc, members_pb2, members_pb2_grpc
from spine.embedded import EmbeddedKafka
from spine.event import AccessRequests, SignerRole
from spine.fold import FaustFolds
from spine.identity import DEV_SERVER_NAME
from spine.murmur2 import murmur2_partition
from spine.policy import Role
from spine.runtime import LOG_FILE, Process, Runtime
from spine.server import Failure, connect, error_from
from spine.signing import Signer
from spine.verdict import Verdict
from tests.helpers.log import open_new_log
from tests.helpers.town import (
    ADVISER,
    CONSUMER,
    CONSUMER_REF,
    DAY,
    MPAN,
    SERVICE,
    WEEK,
    Town,
    settle,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")
# One for every partition.
MPANS = ("1600000000020", "1600000000000", "1600000000050", "1600000000060")
WAIT_S = 30.0
CALL_S = 10.0
TERMS = {"purpose": "ENERGY_ADVICE", "basis": "CONSENT", "interval": interval(WEEK.start, WEEK.end)}


async def until(what: str, true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not true():
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.05)


def folds_of(process: Process) -> FaustFolds:
    assert process.folds is not None
    return process.folds


@dataclass
class Server:
    """A DSI server, and the adviser's connection to it."""

    process: Process
    channel: grpc.aio.Channel

    @property
    def name(self) -> str:
        return self.process.name

    @property
    def dsi(self) -> Any:
        return dsi_pb2_grpc.DsiStub(self.channel)

    @property
    def claimed(self) -> set[int]:
        return {p for topic, p in folds_of(self.process).claims if topic == trust.CONSUMER_LOG}

    async def read(self, mpxn: str = MPAN, **more: Any) -> Any:
        return await self.dsi.GetReadings(
            dsi_pb2.GetReadingsRequest(mpxn=mpxn, **(TERMS | more)), timeout=CALL_S
        )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def town(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Town]:
    data_dir = tmp_path_factory.mktemp("members")
    with EmbeddedKafka(data_dir) as broker:
        settings, kafka = await open_new_log(broker, data_dir)
        async with settle(settings, kafka) as settled:
            settled.runtime.authority().issue_client(ADVISER.role, ADVISER.party)
            await settled.record()
            yield settled


def identity(town: Town, alias: str) -> Path:
    return town.runtime.settings.data_dir / "identities" / alias


@asynccontextmanager
async def serving(town: Town, name: str) -> AsyncIterator[Server]:
    process = await start_dsi(town.runtime, name)
    assert process.server is not None
    target = f"127.0.0.1:{process.server.port}"
    async with connect(target, identity(town, ADVISER.party), server_name=DEV_SERVER_NAME) as to:
        yield Server(process, to)
    if process.ready:
        await process.stop()


@dataclass
class Pair:
    """Two servers. `owner` has MPAN's partition, and `other` knows that it has."""

    owner: Server
    other: Server

    async def settled(self) -> None:
        both = (self.owner, self.other)
        await until("shared out", lambda: all(len(s.claimed) == 2 for s in both))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pair(town: Town) -> AsyncIterator[Pair]:
    async with serving(town, "dsi") as first, serving(town, "dsi-2") as second:
        await Pair(first, second).settled()
        mine = town.partition in first.claimed
        made = Pair(first, second) if mine else Pair(second, first)
        await town.grant("warm-up")
        for _ in range(100):
            await made.other.read()
            if (await last_requests(town)).entries[-1].forwarded_by:
                break
            await asyncio.sleep(0.1)
        await town.revoke("warm-up")
        yield made


@pytest_asyncio.fixture(loop_scope="module")
async def consent(town: Town) -> AsyncIterator[str]:
    name = f"consent-{time.monotonic_ns()}"
    await town.grant(name)
    yield name
    if any(c.consent_id == name for c in town.consumers.state(MPAN).consents):
        await town.revoke(name)


async def last_requests(town: Town) -> AccessRequests:
    """The last access record of the meter's partition that holds requests."""

    def read() -> AccessRequests:
        reader = town.runtime.reader()
        try:
            records = list(reader.read(trust.CONSUMER_LOG, town.partition, 0))
        finally:
            reader.close()
        values = (town.runtime.codec.decode(r.value or b"") for r in reversed(records))
        return next(v for v in values if isinstance(v, AccessRequests) and v.entries)

    return await asyncio.to_thread(read)


async def failure(call: Any) -> Failure:
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await call
    return error_from(failed.value)


async def test_a_server_passes_on_what_another_folds_and_the_log_says_so(
    town: Town, pair: Pair, consent: str
) -> None:
    fingerprint = (await last_requests(town)).entries[-1].certificate_fingerprint
    for server, forwarded_by in ((pair.owner, ""), (pair.other, pair.other.name)):
        answer = await server.read()
        assert len(answer.rows) == 336 and answer.rows[0].value_wh == 100
        requests = await last_requests(town)
        (entry,) = requests.entries
        assert requests.server == pair.owner.name
        assert (entry.forwarded_by, entry.party, entry.role) == (
            forwarded_by,
            ADVISER.party,
            ADVISER.role,
        )
        assert entry.certificate_fingerprint == fingerprint != bytes(32)
        assert entry.request_id == answer.decision.request_id
    lines: list[Line] = []
    use(town.runtime.settings.model_copy(update={"kafka_bootstrap": town.runtime.kafka.bootstrap}))
    await asyncio.to_thread(run_audit, lines.append)
    assert {line.verdict for line in lines} <= {Verdict.SAME, Verdict.UNCONFIRMED}


async def test_a_consumers_own_record_is_passed_on_like_any_read(town: Town, pair: Pair) -> None:
    who = town.runtime.authority().issue_client(Role.CONSUMER, CONSUMER_REF, "own-record")
    own = dsi_pb2.GetPersonalRecordRequest(mpxn=MPAN, purpose="OWN_USE", basis="SUBJECT")
    for server, forwarded_by in ((pair.owner, ""), (pair.other, pair.other.name)):
        assert server.process.server is not None
        target = f"127.0.0.1:{server.process.server.port}"
        async with connect(target, who.folder, server_name=DEV_SERVER_NAME) as channel:
            await dsi_pb2_grpc.DsiStub(channel).GetPersonalRecord(own, timeout=CALL_S)
        (entry,) = (await last_requests(town)).entries
        assert (entry.forwarded_by, entry.role) == (forwarded_by, Role.CONSUMER)
        refused = await failure(server.dsi.GetPersonalRecord(own, timeout=CALL_S))
        assert (refused.code, refused.reason) == ("PERMISSION_DENIED", "ROLE_NOT_ALLOWED")


async def test_refusals_pages_and_retry_hints_are_those_of_the_owner(
    town: Town, pair: Pair, consent: str
) -> None:
    first = await pair.other.read(page_size=48)
    rest = await pair.owner.read(page_size=48, cursor=first.next_cursor)
    assert rest.rows[0].start.seconds - first.rows[0].start.seconds == 86_400
    ahead = {
        "log_id": town.runtime.identity.log_id,
        "positions": [
            common_pb2.Position(
                topic=trust.CONSUMER_LOG, partition=town.partition, offset=1_000_000
            )
        ],
    }
    for wrong in ({"cursor": "x"}, {"purpose": ""}, {"at_least": ahead}):
        told = await asyncio.gather(*(failure(s.read(**wrong)) for s in (pair.owner, pair.other)))
        assert told[0] == told[1] and told[0].reason
    await town.revoke(consent)
    told = [await failure(server.read()) for server in (pair.owner, pair.other)]
    assert told[0] == told[1]
    assert told[0].reason == "CONSENT_REVOKED"


def stream(server: Server, *mpxns: str, **more: Any) -> Any:
    request = dsi_pb2.StreamReadingsRequest(mpxns=mpxns, **(TERMS | more))
    return server.dsi.StreamReadings(request, timeout=60)


async def test_a_stream_is_passed_on_and_cut_where_its_meter_is_folded(
    town: Town, pair: Pair, consent: str
) -> None:
    call = stream(pair.other, MPAN, follow=True)
    first = await call.read()
    assert len(first.rows) == 336 and first.interval_complete
    recorded = await town.record(days=1, wh=250, reference=consent)
    news = await asyncio.wait_for(call.read(), WAIT_S)
    assert [row.value_wh for row in news.rows] == [250] * 48
    seen = {position.topic: position.offset for position in news.positions.positions}
    assert seen[trust.READINGS_TOPIC] == recorded.offset + 1
    await town.revoke(consent)
    acknowledged = time.monotonic()
    last = await asyncio.wait_for(call.read(), WAIT_S)
    assert (last.refused, list(last.rows)) == ("CONSENT_REVOKED", [])
    refused = await failure(call.read())
    assert (refused.code, refused.reason) == ("PERMISSION_DENIED", "CONSENT_REVOKED")
    assert time.monotonic() - acknowledged < CALL_S


async def test_a_stream_over_the_meters_of_two_servers_is_one_stream(
    town: Town, pair: Pair, consent: str
) -> None:
    elsewhere = await a_meter_of(town, pair.other)
    for follow in (False, True):
        call = stream(pair.other, MPAN, elsewhere, follow=follow)
        chunks = {chunk.mpxn: chunk for chunk in [await call.read(), await call.read()]}
        assert {c.mpxn: c.interval_complete for c in chunks.values()} == {
            MPAN: True,
            elsewhere: True,
        }
        assert chunks[MPAN].decision.partition == town.partition
        assert chunks[elsewhere].decision.partition != town.partition
        if not follow:
            assert await call.read() is grpc.aio.EOF  # type: ignore[attr-defined]
    await town.revoke(consent)
    cut = await asyncio.wait_for(call.read(), WAIT_S)
    assert (cut.mpxn, cut.refused) == (MPAN, "CONSENT_REVOKED")
    await town.consumer(RevokeConsent(CONSUMER, "elsewhere"), elsewhere)
    cut = await asyncio.wait_for(call.read(), WAIT_S)
    assert (cut.mpxn, cut.refused) == (elsewhere, "CONSENT_REVOKED")
    assert (await failure(call.read())).reason == "CONSENT_REVOKED"
    too_many = stream(pair.other, *[MPAN] * 2)
    assert (await failure(too_many.read())).reason == "REQUEST_TOO_LARGE"


async def a_meter_of(town: Town, server: Server) -> str:
    """A meter whose partition that server folds, with a consent to the adviser."""
    mpxn = next(
        m for m in MPANS if murmur2_partition(m.encode(), 4) in server.claimed and m != MPAN
    )
    start = DAY.replace(month=1)
    await town.consumer(StartSupply(SERVICE, "north-supply", start), mpxn)
    await town.consumer(StartTenancy(SERVICE, "tenancy-2", CONSUMER_REF, start), mpxn)
    now = datetime.now(UTC)
    terms = ConsentTerms(
        ADVISER.party,
        CONSUMER_REF,
        "ENERGY_ADVICE",
        ("HH_CONSUMPTION",),
        DAY,
        now - timedelta(seconds=1),
        now + timedelta(days=30),
    )
    await town.consumer(GrantConsent(CONSUMER, "elsewhere", terms), mpxn)
    return mpxn


# Forged forwards


async def forward(town: Town, to: Server, call: Any, alias: str) -> Any:
    assert to.process.server is not None
    target = f"127.0.0.1:{to.process.server.port}"
    async with connect(target, identity(town, alias), server_name=DEV_SERVER_NAME) as channel:
        stub = members_pb2_grpc.MembersStub(channel)
        return await stub.Forward(call, timeout=CALL_S)


READ = dsi_pb2.GetReadingsRequest(mpxn=MPAN, **TERMS)


def vouched(
    town: Town,
    sender: Server,
    to: Server,
    signer: Signer | None = None,
    method: str = "GetReadings",
    request: Any = READ,
) -> Any:
    signer = signer or town.runtime.signer(SignerRole.DSI)
    passports = Passports(sender.name, town.runtime.identity.log_id, signer, lambda _: None)
    return passports.issue(ADVISER, to.name, method, request.SerializeToString())


async def test_a_chunk_is_made_only_when_the_one_before_has_been_taken(
    town: Town, pair: Pair, consent: str
) -> None:
    """Or what was released before a revocation would still be between the servers after it."""
    assert pair.owner.process.server is not None
    target = f"127.0.0.1:{pair.owner.process.server.port}"
    own = identity(town, f"server-{pair.other.name}")
    year = interval(DAY, DAY + timedelta(days=365))
    request = dsi_pb2.StreamReadingsRequest(mpxns=[MPAN], **(TERMS | {"interval": year}))
    async with connect(target, own, server_name=DEV_SERVER_NAME) as channel:
        call = members_pb2_grpc.MembersStub(channel).ForwardStream(timeout=60)
        await call.write(
            vouched(town, pair.other, pair.owner, method="StreamReadings", request=request)
        )
        chunk = dsi_pb2.StreamReadingsResponse.FromString((await call.read()).response)
        assert len(chunk.rows) == 1_488
        made = (await last_requests(town)).entries[-1]
        await asyncio.sleep(1.0)
        assert (await last_requests(town)).entries[-1] == made
        await town.revoke(consent)
        await call.write(members_pb2.ForwardRequest())
        chunk = dsi_pb2.StreamReadingsResponse.FromString((await call.read()).response)
        assert (list(chunk.rows), chunk.refused) == ([], "CONSENT_REVOKED")
        await call.write(members_pb2.ForwardRequest())
        assert (await failure(call.read())).reason == "CONSENT_REVOKED"


async def test_only_a_dsi_server_may_forward_and_each_call_only_once(
    town: Town, pair: Pair, consent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sender, to = pair.other, pair.owner
    own = f"server-{sender.name}"
    call = vouched(town, sender, to)
    said = await forward(town, to, call, own)
    answer = dsi_pb2.GetReadingsResponse.FromString(said.response)
    assert answer.rows and 0 < said.permit_left_ms <= 2_000
    assert (await failure(forward(town, to, call, own))).reason == "FORWARD_INVALID"
    stranger = await failure(forward(town, to, vouched(town, sender, to), ADVISER.party))
    assert (stranger.code, stranger.reason) == ("PERMISSION_DENIED", "ROLE_NOT_ALLOWED")
    stub = members_pb2_grpc.MembersStub(to.channel)
    standing = stub.Standing(members_pb2.StandingRequest(), timeout=CALL_S)
    assert (await failure(standing)).reason == "ROLE_NOT_ALLOWED"
    another = await failure(forward(town, to, vouched(town, to, to), own))
    assert (another.code, another.reason) == ("UNAUTHENTICATED", "FORWARD_INVALID")
    unknown = Signer.of(Ed25519PrivateKey.generate())
    forged = vouched(town, sender, to, unknown)
    assert (await failure(forward(town, to, forged, own))).reason == "FORWARD_INVALID"
    monkeypatch.setattr(Passports, "check", lambda *_: (ADVISER, "GetReadings"))
    naive = await forward(town, to, forged, own)
    assert naive.response, "a server that checks nothing must answer, or this shows nothing"


async def test_a_wrong_route_is_slow_and_never_wrong(
    town: Town, pair: Pair, consent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each believes that the other has the partition: forwarded once, and answered there."""

    def the_other(routes: Routes, mpxn: str) -> Any:
        return routes._members.peers[0]

    monkeypatch.setattr(Routes, "owner", the_other)
    for server, answering in ((pair.owner, pair.other), (pair.other, pair.owner)):
        assert (await server.read()).rows[0].value_wh
        requests = await last_requests(town)
        assert (requests.server, requests.entries[-1].forwarded_by) == (
            answering.name,
            server.name,
        )
    await town.revoke(consent)
    for server in (pair.owner, pair.other):
        assert (await failure(server.read())).reason == "CONSENT_REVOKED"


# Readings processes


async def test_readings_are_handed_over_and_no_read_is_refused_meanwhile(
    town: Town, pair: Pair, consent: str
) -> None:
    """A second process takes half of the partitions, and the first takes them back at its end."""
    told: list[Failure] = []
    done = asyncio.Event()

    async def read_on() -> None:
        while not done.is_set():
            try:
                await pair.other.read()
            except grpc.aio.AioRpcError as error:
                told.append(error_from(error))

    reading = asyncio.create_task(read_on())
    try:
        second = await start_readings(town.runtime, "readings-2")
        await until("shared out", lambda: len(folds_of(second).claims) == 6)
        await seen(town, pair, await town.record(days=1, wh=310, reference=f"{consent}-a"), 310)
        assert {p for _, p in folds_of(second).claims} == {p for _, p in folds_of(second).folds}
        await second.stop()
        await seen(town, pair, await town.record(days=1, wh=320, reference=f"{consent}-b"), 320)
    finally:
        done.set()
        await reading
    assert told == []


async def seen(town: Town, pair: Pair, recorded: Any, wh: int) -> None:
    """Wait until both servers answer from the record, whichever process folds it."""
    position = common_pb2.Position(
        topic=recorded.topic, partition=recorded.partition, offset=recorded.offset + 1
    )
    token = {"log_id": town.runtime.identity.log_id, "positions": [position]}
    for server in (pair.owner, pair.other):
        deadline = time.monotonic() + WAIT_S
        while True:
            try:
                answer = await server.read(at_least=token)
                break
            except grpc.aio.AioRpcError as error:
                assert error_from(error).reason == "FOLD_BEHIND"
                assert time.monotonic() < deadline
        assert answer.rows[0].value_wh == wh


# Another machine


async def test_a_server_without_the_data_passes_a_call_on_to_one_beside_it(
    town: Town, pair: Pair, consent: str, tmp_path: Path
) -> None:
    """It shares no folder with the others: it is told their addresses, and has its key and log."""
    here = town.runtime.settings.data_dir
    for folder in ("keys", "identities/ca"):
        shutil.copytree(here / folder, tmp_path / folder)
    shutil.copy(here / LOG_FILE, tmp_path)
    ports = [s.process.server.port for s in (pair.owner, pair.other) if s.process.server]
    settings = town.runtime.settings.model_copy(
        update={
            "data_dir": tmp_path,
            "member": "far",
            "dsi_peers": ", ".join(f"127.0.0.1:{port}" for port in ports),
        }
    )
    far = await start_dsi(Runtime.of(settings, town.runtime.kafka, town.runtime.domains))
    assert far.server is not None
    target = f"127.0.0.1:{far.server.port}"
    try:
        async with connect(
            target, identity(town, ADVISER.party), server_name=DEV_SERVER_NAME
        ) as to:
            assert len((await Server(far, to).read()).rows) == 336
            requests = await last_requests(town)
            assert requests.server in (pair.owner.name, pair.other.name)
            assert requests.entries[-1].forwarded_by == far.name == "dsi-far"
    finally:
        await far.stop()
