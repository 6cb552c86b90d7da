"""What a server admits: nobody unknown, no party beyond its share, nothing of a party that is held.

Handlers stand for the log: what reaches one would be appended.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from spine.admission import Admission, meters_of
from spine.common.v1 import common_pb2
from spine.consumers.v1 import consumers_pb2
from spine.dsi.v1 import dsi_pb2, dsi_pb2_grpc
from spine.errors import NotPermitted, Reason
from spine.identity import Authority
from spine.limits import Excess, Kind, PartyLimits
from spine.metering.v1 import metering_pb2, metering_pb2_grpc
from spine.policy import Role
from spine.server import Failure, Service, build_server, connect, error_from

FEW = PartyLimits(cost_per_s=1, burst=8, meters_per_hour=4, reads_per_hour=6, refusals_per_hour=2)
UNBOUNDED = PartyLimits(*[10**9] * 6)
CALL_S = 20.0


class Log(dsi_pb2_grpc.DsiServicer, metering_pb2_grpc.MeteringServicer):
    """Counts what reaches it, and refuses strangers as a fold would."""

    def __init__(self) -> None:
        self.reached: list[str] = []
        self.stranger = False

    async def GetMeteringPoint(self, request: Any, context: Any) -> Any:
        self.reached.append(request.mpxn)
        if self.stranger:
            raise NotPermitted(Reason.NOT_PERMITTED, "the read is not permitted")
        return dsi_pb2.GetMeteringPointResponse()

    async def StreamReadings(self, request: Any, context: Any) -> AsyncIterator[Any]:
        while True:
            self.reached.append("chunk")
            yield dsi_pb2.StreamReadingsResponse()
            await asyncio.sleep(0.01)

    async def RecordReadings(self, requests: Any, context: Any) -> Any:
        async for _ in requests:
            self.reached.append("message")
        return metering_pb2.RecordReadingsReport()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.open_or_create(tmp_path_factory.mktemp("spine") / "identities")


@asynccontextmanager
async def serving(authority: Authority, admission: Admission) -> AsyncIterator[tuple[Log, str]]:
    """A server that admits by these limits, and what stands behind it."""
    log = Log()
    named = (dsi_pb2.DESCRIPTOR, "Dsi"), (metering_pb2.DESCRIPTOR, "Metering")
    added = dsi_pb2_grpc.add_DsiServicer_to_server, metering_pb2_grpc.add_MeteringServicer_to_server
    services = [
        Service(described.services_by_name[name].full_name, add, log)
        for (described, name), add in zip(named, added, strict=True)
    ]
    built = build_server(authority.issue_server(Role.DSI, "dsi-1"), services, admission=admission)
    await built.start()
    try:
        yield log, f"127.0.0.1:{built.port}"
    finally:
        await built.stop(0)


async def failure(call: Any) -> Failure:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return error_from(error.value)


async def read(channel: Any, mpxn: str = "1200000000001") -> Failure | None:
    """One read; how it failed, if it did."""
    try:
        request = dsi_pb2.GetMeteringPointRequest(mpxn=mpxn)
        await dsi_pb2_grpc.DsiStub(channel).GetMeteringPoint(request, timeout=CALL_S)
    except grpc.aio.AioRpcError as error:
        return error_from(error)
    return None


# Nobody unknown


async def test_who_has_no_certificate_never_reaches_the_log(authority: Authority) -> None:
    async with serving(authority, Admission(UNBOUNDED)) as (log, target):
        anonymous = grpc.ssl_channel_credentials(authority.ca)
        async with grpc.aio.secure_channel(target, anonymous) as channel:
            assert (await failure_of(channel)).code == "UNAVAILABLE"
        async with grpc.aio.insecure_channel(target) as channel:
            assert (await failure_of(channel)).code == "UNAVAILABLE"
        assert log.reached == []


async def failure_of(channel: Any) -> Failure:
    failed = await read(channel)
    assert failed is not None
    return failed


async def test_a_server_that_asks_nobody_who_it_is_would_let_everybody_reach_it() -> None:
    """The naive server: the same handler, no certificate, no stages."""
    log = Log()
    server = grpc.aio.server()
    dsi_pb2_grpc.add_DsiServicer_to_server(log, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        assert await read(channel) is None
    await server.stop(0)
    assert len(log.reached) == 1


# No party beyond its share


@pytest.mark.parametrize(("limits", "served"), [(FEW, 8), (UNBOUNDED, 30)], ids=["few", "naive"])
async def test_a_party_that_floods_is_slowed_before_the_log(
    authority: Authority, limits: PartyLimits, served: int
) -> None:
    acme, beta = (authority.issue_client(Role.DATA_USER, p).folder for p in ("ACME", "BETA"))
    limits = PartyLimits(limits.cost_per_s, limits.burst, *[10**9] * 4)
    async with serving(authority, Admission(limits)) as (log, target):
        started = asyncio.get_running_loop().time()
        async with connect(target, acme) as channel:
            failed = [f for f in await asyncio.gather(*(read(channel) for _ in range(30))) if f]
        filled = 2 + FEW.cost_per_s * (asyncio.get_running_loop().time() - started)
        assert served - 2 <= len(log.reached) <= served + filled
        assert {(f.code, f.reason) for f in failed} <= {("RESOURCE_EXHAUSTED", "RATE_LIMITED")}
        assert all((f.retry_after_s or 0) > 0 for f in failed)
        async with connect(target, beta) as channel:
            assert await read(channel) is None


@pytest.mark.parametrize("naive", [False, True])
async def test_a_party_that_goes_through_meters_is_stopped_before_the_log(
    authority: Authority, naive: bool
) -> None:
    acme = authority.issue_client(Role.DATA_USER, "ACME").folder
    limits = PartyLimits(10**6, 10**6, 10**6 if naive else 4)
    async with serving(authority, Admission(limits)) as (log, target):
        async with connect(target, acme) as channel:
            failed = [await read(channel, f"120000000{n:04}") for n in range(20)]
            assert await read(channel, "1200000000000") is None  # not a new one
        assert len(set(log.reached)) == (20 if naive else 4)
        reasons = {f.reason for f in failed if f}
        assert reasons == (set() if naive else {"METERS_LIMITED"})


async def test_servers_are_not_limited_for_they_forward_what_was_admitted(
    authority: Authority,
) -> None:
    forwarder = authority.issue_server(Role.DSI, "dsi-2").folder
    async with (
        serving(authority, Admission(FEW)) as (log, target),
        connect(target, forwarder) as channel,
    ):
        assert [await read(channel, f"120000000{n:04}") for n in range(20)] == [None] * 20
    assert len(log.reached) == 20


async def test_who_streams_in_too_fast_waits(authority: Authority) -> None:
    north = authority.issue_client(Role.SUPPLIER, "NORTH").folder
    limits = PartyLimits(cost_per_s=20, burst=4)
    async with (
        serving(authority, Admission(limits)) as (log, target),
        connect(target, north) as channel,
    ):
        stub = metering_pb2_grpc.MeteringStub(channel)
        requests = [metering_pb2.RecordReadingsRequest() for _ in range(10)]
        started = asyncio.get_running_loop().time()
        await stub.RecordReadings(iter(requests), timeout=CALL_S)
        took_s = asyncio.get_running_loop().time() - started
    assert len(log.reached) == 10
    assert took_s > 0.2  # ten messages and the call itself, four of them at once


# Nothing of a party that is held


@pytest.mark.parametrize("naive", [False, True])
async def test_what_goes_past_a_threshold_is_held_at_once_and_reported_once(
    authority: Authority, naive: bool
) -> None:
    acme = authority.issue_client(Role.DATA_USER, "ACME").folder
    reported: list[Excess] = []
    limits = PartyLimits(10**6, 10**6, 10**6, reads_per_hour=10**6 if naive else 6)
    admission = Admission(limits, report=reported.append)
    async with serving(authority, admission) as (log, target), connect(target, acme) as channel:
        failed = [await read(channel) for _ in range(12)]
        if naive:
            assert len(log.reached) == 12
            return
        assert len(log.reached) == 6
        assert {f.reason for f in failed if f} == {"PARTY_HELD"}
        assert [(e.party, e.kind, e.counted) for e in reported] == [("ACME", Kind.READS, 7)]
        admission.settled("ACME")
        assert await read(channel) is None


async def test_a_search_for_meters_is_noticed_by_its_refusals(authority: Authority) -> None:
    acme = authority.issue_client(Role.DATA_USER, "ACME").folder
    reported: list[Excess] = []
    limits = PartyLimits(10**6, 10**6, 10**6, refusals_per_hour=2)
    async with serving(authority, Admission(limits, report=reported.append)) as (log, target):
        log.stranger = True
        async with connect(target, acme) as channel:
            reasons = [f.reason for n in range(5) if (f := await read(channel, f"12{n:011}"))]
    assert reasons == ["NOT_PERMITTED"] * 3 + ["PARTY_HELD"] * 2
    assert [e.kind for e in reported] == [Kind.REFUSALS]


async def test_an_open_stream_of_a_party_that_is_held_is_cut(authority: Authority) -> None:
    acme = authority.issue_client(Role.DATA_USER, "ACME").folder
    held: set[str] = set()
    admission = Admission(UNBOUNDED, held=held.__contains__)
    async with serving(authority, admission) as (_, target), connect(target, acme) as channel:
        call = dsi_pb2_grpc.DsiStub(channel).StreamReadings(
            dsi_pb2.StreamReadingsRequest(), timeout=CALL_S
        )
        await call.read()
        held.add("ACME")
        with pytest.raises(grpc.aio.AioRpcError) as error:
            while True:
                await asyncio.wait_for(call.read(), CALL_S)
    assert error_from(error.value).reason == "PARTY_HELD"


def test_what_only_takes_access_away_is_never_held(authority: Authority) -> None:
    service = authority.issue_client(Role.CONSENT_SERVICE, "ccs").caller
    admission = Admission(UNBOUNDED, held=lambda party: True)
    admission.admit(
        service, "/spine.consumers.v1.Consumers/RevokeConsent", consumers_pb2.RevokeConsentRequest()
    )
    for method, request in (
        ("GrantConsent", consumers_pb2.GrantConsentRequest()),
        ("RevokeConsent", consumers_pb2.RevokeConsentRequest(dry_run=True)),  # takes nothing away
    ):
        with pytest.raises(NotPermitted) as error:
            admission.admit(service, f"/spine.consumers.v1.Consumers/{method}", request)
        assert error.value.reason is Reason.PARTY_HELD


# What a request names


@pytest.mark.parametrize(
    ("request_", "meters"),
    [
        (dsi_pb2.GetReadingsRequest(mpxn="12"), {"12"}),
        (dsi_pb2.StreamReadingsRequest(mpxns=["12", "34", "12"]), {"12", "34"}),
        (
            dsi_pb2.CheckAccessRequest(questions=[{"mpxn": "12"}, {"mpxn": "56"}]),
            {"12", "56"},
        ),
        (dsi_pb2.GetReadingsRequest(mpxn="9" * 60_000), {"9" * 14}),
        (common_pb2.PositionToken(), set()),
        (object(), set()),
    ],
    ids=["one", "several", "questions", "rubbish", "none", "no message"],
)
def test_the_meters_of_a_request_are_found(request_: Any, meters: set[str]) -> None:
    assert set(meters_of(request_)) == meters


def test_every_method_that_is_never_held_exists() -> None:
    from spine.admission import NEVER_HELD
    from spine.btm_assets.v1 import btm_assets_pb2

    services = [
        service
        for described in (consumers_pb2, metering_pb2, btm_assets_pb2)
        for service in described.DESCRIPTOR.services_by_name.values()
    ]
    assert {m.name for service in services for m in service.methods} >= NEVER_HELD
