"""A server whose places are taken: who is turned away, who is not, and what that costs nobody.

The handler stands for a read that takes as long as the test wants.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import ExitStack, asynccontextmanager, suppress
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from spine.admission import FORWARDED, Admission
from spine.consumers.v1 import consumers_pb2, consumers_pb2_grpc
from spine.crowd import STREAM_AGAIN_MOST_S, STREAMS_OPEN
from spine.dsi.v1 import dsi_pb2, dsi_pb2_grpc
from spine.errors import Pushback, Reason
from spine.identity import Authority, Caller
from spine.limits import PartyLimits
from spine.policy import Role
from spine.server import Service, build_server, connect, error_from

PLACES = 2
CALL_S = 20.0
LIMITS = PartyLimits(*[10**9] * 6)
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
    authority: Authority, places: int, limits: PartyLimits = LIMITS, streams: int = STREAMS_OPEN
) -> AsyncIterator[tuple[Slow, Callers, str]]:
    """A server of so many places, those who call it, and where it is."""
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
    built = build_server(own, services, admission=Admission(limits, places, streams))
    await built.start()
    target = f"127.0.0.1:{built.port}"
    callers = Callers(authority, slow, target)
    try:
        yield slow, callers, target
    finally:
        await callers.close()
        await built.stop(0)


class Callers:
    """Parties that read, each over a connection of its own."""

    def __init__(self, authority: Authority, slow: Slow, target: str) -> None:
        self._authority, self._slow, self._target = authority, slow, target
        self._channels: dict[str, Any] = {}

    async def read(self, *parties: str, reached: int) -> list[Any]:
        """A read of each of them, once so many have reached the handler."""
        request = dsi_pb2.GetMeteringPointRequest(mpxn="1200000000001")
        calls = [
            dsi_pb2_grpc.DsiStub(self.channel(party)).GetMeteringPoint(request, timeout=CALL_S)
            for party in parties
        ]
        async with asyncio.timeout(CALL_S):
            while self._slow.reached < reached:
                await asyncio.sleep(0.01)
        return calls

    def channel(self, party: str) -> Any:
        """The connection of a party."""
        if party not in self._channels:
            folder = self._authority.issue_client(Role.DATA_USER, party).folder
            self._channels[party] = connect(self._target, folder)
        return self._channels[party]

    async def follow(self, *parties: str) -> list[Any]:
        """A stream of each of them, one after the other, once it has begun or ended."""
        request = dsi_pb2.StreamReadingsRequest(mpxns=["1200000000001"])
        calls = []
        for party in parties:
            stub = dsi_pb2_grpc.DsiStub(self.channel(party))
            call = stub.StreamReadings(request, timeout=2 * CALL_S)  # longer than anybody waits
            with suppress(grpc.aio.AioRpcError):
                await call.read()
            calls.append(call)
        return calls

    async def close(self) -> None:
        for channel in self._channels.values():
            await channel.close()


async def ended(calls: Iterable[Any], count: int) -> list[Any]:
    """So many of them, once so many have ended although nobody may answer."""
    found: list[Any] = []
    async with asyncio.timeout(CALL_S):
        while len(found) < count:
            await asyncio.sleep(0.01)
            found = [call for call in calls if call.done()]
    return found


async def failures(calls: Iterable[Any]) -> list[Any]:
    """How those that failed did."""
    ended = await asyncio.gather(*calls, return_exceptions=True)
    return [error_from(e) for e in ended if isinstance(e, grpc.aio.AioRpcError)]


@pytest.mark.parametrize(("places", "away"), [(PLACES, 3), (10**6, 0)], ids=["few", "naive"])
async def test_who_finds_no_place_is_told_at_once_when_to_come_again(
    authority: Authority, places: int, away: int
) -> None:
    """The naive server takes all five on."""
    async with crowded(authority, places) as (slow, callers, _):
        under_way = await callers.read(
            "ADVISER-A", "ADVISER-B", "ADVISER-C", "ADVISER-D", "ADVISER-E", reached=5 - away
        )
        await ended(under_way, away)
        slow.may_answer.set()
        failed = await failures(under_way)
    assert slow.reached == 5 - away
    assert [(f.code, f.reason) for f in failed] == [("UNAVAILABLE", "OVERLOADED")] * away
    assert len({f.retry_after_s for f in failed}) == away
    assert all(f.retry_after_s for f in failed)


async def test_one_party_does_not_get_the_places_of_all(authority: Authority) -> None:
    async with crowded(authority, 8) as (slow, callers, _):
        under_way = await callers.read(*["ADVISER-A"] * 6, reached=2)
        turned_away = await failures(await ended(under_way, 4))
        assert [f.reason for f in turned_away] == ["OVERLOADED"] * 4
        others = await callers.read("ADVISER-B", "ADVISER-B", reached=4)
        slow.may_answer.set()
        assert await failures(others) == []


async def test_whoever_ends_or_goes_away_leaves_a_place(authority: Authority) -> None:
    async with crowded(authority, PLACES) as (slow, callers, _):
        first, second = await callers.read("ADVISER-A", "ADVISER-B", reached=2)
        first.cancel()
        (third,) = await callers.read("ADVISER-C", reached=3)
        slow.may_answer.set()
        assert await failures([second, third]) == []
        assert await failures(await callers.read("ADVISER-D", "ADVISER-E", reached=5)) == []


async def test_a_full_server_is_healthy_streams_and_takes_access_away(
    authority: Authority,
) -> None:
    service = authority.issue_client(Role.CONSENT_SERVICE, "ccs").folder
    dsi = authority.issue_server(Role.DSI, "dsi-2").folder
    async with (
        crowded(authority, PLACES) as (slow, callers, target),
        connect(target, service) as ccs,
        connect(target, dsi) as peer,
    ):
        under_way = await callers.read("ADVISER-A", "ADVISER-B", reached=PLACES)
        health = health_pb2_grpc.HealthStub(callers.channel("ADVISER-A"))
        answer = await health.Check(health_pb2.HealthCheckRequest(), timeout=CALL_S)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        stream = dsi_pb2_grpc.DsiStub(callers.channel("ADVISER-A")).StreamReadings(
            dsi_pb2.StreamReadingsRequest(), timeout=CALL_S
        )
        assert await stream.read()
        stub = consumers_pb2_grpc.ConsumersStub(ccs)
        assert await stub.RevokeConsent(consumers_pb2.RevokeConsentRequest(), timeout=CALL_S)
        dry_run = stub.RevokeConsent(
            consumers_pb2.RevokeConsentRequest(dry_run=True), timeout=CALL_S
        )
        assert [f.reason for f in await failures([dry_run])] == [Reason.OVERLOADED]
        standing = dsi_pb2_grpc.DsiStub(peer).GetMeteringPoint(
            dsi_pb2.GetMeteringPointRequest(mpxn="1200000000001"), timeout=CALL_S
        )
        slow.may_answer.set()
        assert await failures([*under_way, standing]) == []


async def why(calls: Iterable[Any]) -> list[Any]:
    """What those of the streams were told that have ended."""
    return [error_from(await failure(call)) for call in calls if call.done()]


async def failure(call: Any) -> Any:
    """How a stream failed."""
    try:
        await call.read()
    except grpc.aio.AioRpcError as error:
        return error
    raise AssertionError("it did not fail")


@pytest.mark.parametrize(("streams", "away"), [(4, 2), (10**6, 0)], ids=["few", "naive"])
async def test_who_finds_no_place_for_a_stream_is_told_why_and_when(
    authority: Authority, streams: int, away: int
) -> None:
    """The naive server opens all six, and at some number gRPC cuts them off without a reason."""
    async with crowded(authority, PLACES, streams=streams) as (slow, callers, _):
        parties = [f"ADVISER-{n}" for n in range(6)]
        followed = await callers.follow(*parties)
        told = await why(followed)
        assert [(f.code, f.reason) for f in told] == [("UNAVAILABLE", "OVERLOADED")] * away
        hints = {f.retry_after_s for f in told}
        assert len(hints) == away
        assert all(STREAM_AGAIN_MOST_S / 2 <= hint <= STREAM_AGAIN_MOST_S for hint in hints)
        calls = await callers.read(*parties[:PLACES], reached=PLACES)
        slow.may_answer.set()
        assert await failures(calls) == [], "calls that answer once have places of their own"


async def test_one_party_does_not_get_all_streams_and_leaves_its_place(
    authority: Authority,
) -> None:
    async with crowded(authority, PLACES, streams=8) as (_, callers, _):
        own = await callers.follow(*["ADVISER-A"] * 4)
        assert [f.reason for f in await why(own)] == ["OVERLOADED"] * 2
        assert await why(await callers.follow("ADVISER-B", "ADVISER-B")) == []
        own[0].cancel()
        async with asyncio.timeout(CALL_S):  # until the server has heard of it
            while await why(await callers.follow("ADVISER-A")):
                await asyncio.sleep(0.01)


async def test_a_held_place_for_a_stream_costs_health_checks_and_servers_nothing(
    authority: Authority,
) -> None:
    dsi = authority.issue_server(Role.DSI, "dsi-2").folder
    async with (
        crowded(authority, PLACES, streams=1) as (_, callers, target),
        connect(target, dsi) as peer,
    ):
        assert len(await why(await callers.follow("ADVISER-A", "ADVISER-B"))) == 1
        health = health_pb2_grpc.HealthStub(callers.channel("ADVISER-B"))
        watch = health.Watch(health_pb2.HealthCheckRequest(), timeout=CALL_S)
        assert error_from(await failure(watch)).reason == "OVERLOADED", "it is a stream as any"
        checked = await health.Check(health_pb2.HealthCheckRequest(), timeout=CALL_S)
        assert checked.status == health_pb2.HealthCheckResponse.SERVING
        stream = dsi_pb2_grpc.DsiStub(peer).StreamReadings(
            dsi_pb2.StreamReadingsRequest(), timeout=CALL_S
        )
        assert await stream.read()
        stream.cancel()


async def test_to_ask_in_vain_costs_something(authority: Authority) -> None:
    limits = PartyLimits(cost_per_s=0.001, burst=5)
    async with crowded(authority, PLACES, limits) as (slow, callers, _):
        under_way = await callers.read("ADVISER-A", "ADVISER-B", reached=PLACES)
        failed = await failures(await callers.read(*["ADVISER-C"] * 7, reached=PLACES))
        assert [f.reason for f in failed].count("OVERLOADED") == 5
        assert [f.reason for f in failed].count("RATE_LIMITED") == 2
        slow.may_answer.set()
        assert await failures(under_way) == []


def caller(authority: Authority, role: Role, party: str) -> Caller:
    """Somebody who calls."""
    issue = authority.issue_server if role is Role.DSI else authority.issue_client
    return issue(role, party).caller


def test_what_fails_inside_leaves_its_place(authority: Authority) -> None:
    adviser = caller(authority, Role.DATA_USER, "ADVISER")
    admission = Admission(LIMITS, 1)
    for _ in range(3):
        with (
            pytest.raises(ValueError, match="it fails"),
            admission.place(adviser, READ, None, streams=False),
        ):
            raise ValueError("it fails")


def test_what_a_server_passes_on_takes_a_place_and_nobody_else_can_say_so(
    authority: Authority,
) -> None:
    server = caller(authority, Role.DSI, "dsi-2")
    admission = Admission(LIMITS, 8)
    with ExitStack() as held:
        for _ in range(4):
            held.enter_context(admission.place(server, FORWARDED, None, streams=False))
        with pytest.raises(Pushback) as error:
            held.enter_context(admission.place(server, FORWARDED, None, streams=False))
        assert error.value.reason is Reason.OVERLOADED
        held.enter_context(
            admission.place(server, "/spine.dsi.v1.Members/Standing", None, streams=False)
        )
    adviser = caller(authority, Role.DATA_USER, "ADVISER")
    with ExitStack() as held:
        for _ in range(2):
            held.enter_context(admission.place(adviser, FORWARDED, None, streams=False))
        with pytest.raises(Pushback):
            held.enter_context(admission.place(adviser, FORWARDED, None, streams=False))
