"""A server whose places are taken: who is turned away, who is not, and what that costs nobody.

The handler stands for a read that takes as long as the test wants.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from spine.admission import Admission
from spine.consumers.v1 import consumers_pb2, consumers_pb2_grpc
from spine.dsi.v1 import dsi_pb2, dsi_pb2_grpc
from spine.errors import Reason, SpineError
from spine.identity import Authority
from spine.limits import PartyLimits
from spine.policy import Role
from spine.server import Service, build_server, connect, error_from

PLACES = 2
LIMITS = PartyLimits(*[10**9] * 6)
REVOKE = "/spine.consumers.v1.Consumers/RevokeConsent"
READ = "/spine.dsi.v1.Dsi/GetMeteringPoint"


class Slow(dsi_pb2_grpc.DsiServicer, consumers_pb2_grpc.ConsumersServicer):
    """Answers once it is let."""

    def __init__(self) -> None:
        self.reached, self.may_answer = 0, asyncio.Event()

    async def GetMeteringPoint(self, request: Any, context: Any) -> Any:
        self.reached += 1
        await self.may_answer.wait()
        return dsi_pb2.GetMeteringPointResponse()

    async def StreamReadings(self, request: Any, context: Any) -> AsyncIterator[Any]:
        yield dsi_pb2.StreamReadingsResponse()
        await self.may_answer.wait()

    async def RevokeConsent(self, request: Any, context: Any) -> Any:
        return consumers_pb2.ConsentResponse()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.open_or_create(tmp_path_factory.mktemp("spine") / "identities")


@asynccontextmanager
async def crowded(
    authority: Authority, places: int, limits: PartyLimits = LIMITS
) -> AsyncIterator[tuple[Slow, str]]:
    """A server of so many places."""
    slow = Slow()
    services = [
        Service("spine.dsi.v1.Dsi", dsi_pb2_grpc.add_DsiServicer_to_server, slow),
        Service(
            "spine.consumers.v1.Consumers",
            consumers_pb2_grpc.add_ConsumersServicer_to_server,
            slow,
        ),
    ]
    own = authority.issue_server(Role.DSI, "dsi-1")
    built = build_server(own, services, admission=Admission(limits, places))
    await built.start()
    try:
        yield slow, f"127.0.0.1:{built.port}"
    finally:
        await built.stop(0)


async def taken(slow: Slow, channel: Any, calls: int, reached: int) -> list[Any]:
    """So many reads under way, once so many have reached the handler."""
    stub = dsi_pb2_grpc.DsiStub(channel)
    request = dsi_pb2.GetMeteringPointRequest(mpxn="1200000000001")
    under_way = [stub.GetMeteringPoint(request, timeout=20) for _ in range(calls)]
    async with asyncio.timeout(10):
        while slow.reached < reached:
            await asyncio.sleep(0.01)
    return under_way


async def failures(calls: Iterable[Any]) -> list[Any]:
    """How those that failed did."""
    ended = await asyncio.gather(*calls, return_exceptions=True)
    return [error_from(e) for e in ended if isinstance(e, grpc.aio.AioRpcError)]


@pytest.mark.parametrize(("places", "away"), [(PLACES, 3), (10**6, 0)], ids=["few", "naive"])
async def test_who_finds_no_place_is_told_at_once_when_to_come_again(
    authority: Authority, places: int, away: int
) -> None:
    """The naive server takes all five on."""
    adviser = authority.issue_client(Role.DATA_USER, "ADVISER").folder
    async with crowded(authority, places) as (slow, target), connect(target, adviser) as channel:
        under_way = await taken(slow, channel, 5, 5 - away)
        turned_away: list[Any] = []
        async with asyncio.timeout(10):
            while len(turned_away) < away:
                await asyncio.sleep(0.01)
                turned_away = [call for call in under_way if call.done()]
        slow.may_answer.set()
        failed = await failures(under_way)
    assert slow.reached == 5 - away
    assert [(f.code, f.reason) for f in failed] == [("UNAVAILABLE", "OVERLOADED")] * away
    assert len({f.retry_after_s for f in failed}) == away
    assert all(f.retry_after_s for f in failed)


async def test_whoever_ends_or_goes_away_leaves_a_place(authority: Authority) -> None:
    adviser = authority.issue_client(Role.DATA_USER, "ADVISER").folder
    async with crowded(authority, PLACES) as (slow, target), connect(target, adviser) as channel:
        first, second = await taken(slow, channel, PLACES, PLACES)
        first.cancel()
        (third,) = await taken(slow, channel, 1, PLACES + 1)
        slow.may_answer.set()
        assert await failures([second, third]) == []
        assert await failures(await taken(slow, channel, PLACES, PLACES + 3)) == []


async def test_a_full_server_is_healthy_streams_and_takes_access_away(
    authority: Authority,
) -> None:
    adviser = authority.issue_client(Role.DATA_USER, "ADVISER").folder
    service = authority.issue_client(Role.CONSENT_SERVICE, "ccs").folder
    dsi = authority.issue_server(Role.DSI, "dsi-2").folder
    async with (
        crowded(authority, PLACES) as (slow, target),
        connect(target, adviser) as channel,
        connect(target, service) as ccs,
        connect(target, dsi) as peer,
    ):
        under_way = await taken(slow, channel, PLACES, PLACES)
        health = health_pb2_grpc.HealthStub(channel)
        answer = await health.Check(health_pb2.HealthCheckRequest(), timeout=5)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        stream = dsi_pb2_grpc.DsiStub(channel).StreamReadings(
            dsi_pb2.StreamReadingsRequest(), timeout=20
        )
        assert await stream.read()
        stub = consumers_pb2_grpc.ConsumersStub(ccs)
        assert await stub.RevokeConsent(consumers_pb2.RevokeConsentRequest(), timeout=5)
        dry_run = stub.RevokeConsent(consumers_pb2.RevokeConsentRequest(dry_run=True), timeout=5)
        assert [f.reason for f in await failures([dry_run])] == [Reason.OVERLOADED]
        under_way += await taken(slow, peer, 1, PLACES + 1)  # it was admitted where it arrived
        slow.may_answer.set()
        assert await failures(under_way) == []


async def test_who_is_turned_away_spends_nothing(authority: Authority) -> None:
    adviser = authority.issue_client(Role.DATA_USER, "ADVISER").folder
    limits = PartyLimits(cost_per_s=0.001, burst=PLACES + 1)
    async with (
        crowded(authority, PLACES, limits) as (slow, target),
        connect(target, adviser) as channel,
    ):
        under_way = await taken(slow, channel, PLACES, PLACES)
        turned_away = await failures(await taken(slow, channel, 5, PLACES))
        assert {f.reason for f in turned_away} == {"OVERLOADED"}
        slow.may_answer.set()
        assert await failures(under_way) == []
        last = await failures(await taken(slow, channel, 2, PLACES + 1))
    assert [f.reason for f in last] == [Reason.RATE_LIMITED]


def test_what_fails_inside_leaves_its_place(authority: Authority) -> None:
    caller = authority.issue_client(Role.DATA_USER, "ADVISER").caller
    admission = Admission(LIMITS, 1)
    for _ in range(3):
        with (
            pytest.raises(SpineError),
            admission.place(caller, READ, None, streams=False),
        ):
            raise SpineError(Reason.BUG, "it fails")
