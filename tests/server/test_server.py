"""The edge: who gets through, within which limits, and what a failed call tells."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Iterator
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from structlog.testing import capture_logs

from spine import telemetry
from spine.dsi.v1 import dsi_pb2, dsi_pb2_grpc
from spine.errors import OF_THE_BROKERS, Bug, Invalid, NotFound, Pushback, Reason, SpineError
from spine.identity import DEV_SERVER_NAME, Authority, Caller
from spine.listening import Limits
from spine.policy import Role
from spine.server import (
    INTERNAL_TEXT,
    MESSAGE_CHARS_MAX,
    Failure,
    Service,
    SpineServer,
    build_server,
    connect,
    connect_sync,
    current_caller,
    error_from,
)
from spine.services import bulk

MPAN = "1200012345678"
NAME = dsi_pb2.DESCRIPTOR.services_by_name["Dsi"].full_name
CALL_S = 20.0
SMALL = Limits(deadline_s=CALL_S, stream_deadline_s=2 * CALL_S, concurrent_calls=4, accepting=1)


@dataclass
class Handlers(dsi_pb2_grpc.DsiServicer):
    """A service that does what a test wants of it."""

    fails_with: BaseException | None = None
    met: list[Exception] = field(default_factory=list)
    callers: list[Caller] = field(default_factory=list)
    traces: list[int] = field(default_factory=list)
    serving: bool = True
    waiting: int = 0
    closed: asyncio.Event = field(default_factory=asyncio.Event)

    async def GetMeteringPoint(self, request: Any, context: Any) -> Any:
        self._enter()
        return dsi_pb2.GetMeteringPointResponse(digest=b"x" * len(request.mpxn))

    async def StreamReadings(self, request: Any, context: Any) -> AsyncIterator[Any]:
        try:
            for mpxn in request.mpxns:
                yield dsi_pb2.StreamReadingsResponse(mpxn=mpxn)
            self._enter()
            while request.follow:
                await asyncio.sleep(0.01)
                yield dsi_pb2.StreamReadingsResponse()
        finally:
            self.closed.set()

    async def CheckAccess(self, request: Any, context: Any) -> Any:
        self.waiting += 1
        await asyncio.sleep(60)

    def _enter(self) -> None:
        self.callers.append(current_caller())
        self.traces.append(trace.get_current_span().get_span_context().trace_id)
        if self.fails_with is not None:
            raise self.fails_with


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.open_or_create(tmp_path_factory.mktemp("spine") / "identities")


@pytest.fixture(scope="module")
def acme(authority: Authority) -> Path:
    return authority.issue_client(Role.DATA_USER, "ACME").folder


@pytest.fixture
async def handlers() -> Handlers:
    return Handlers()


@pytest.fixture
async def server(authority: Authority, handlers: Handlers) -> AsyncIterator[SpineServer]:
    built = build_server(
        authority.issue_server(Role.DSI, "dsi-1"),
        [Service(NAME, dsi_pb2_grpc.add_DsiServicer_to_server, handlers)],
        limits=SMALL,
        reflect=True,
        serving=lambda: handlers.serving,
        met=handlers.met.append,
    )
    await built.start()
    yield built
    await built.stop(0)


@pytest.fixture
def target(server: SpineServer) -> str:
    return f"127.0.0.1:{server.port}"


@pytest.fixture
async def channel(target: str, acme: Path) -> AsyncIterator[grpc.aio.Channel]:
    async with connect(target, acme) as opened:
        yield opened


@pytest.fixture
def dsi(channel: grpc.aio.Channel) -> dsi_pb2_grpc.DsiStub:
    return dsi_pb2_grpc.DsiStub(channel)


async def failure(call: Awaitable[Any]) -> Failure:
    """How a call fails."""
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return error_from(error.value)


async def rows(call: AsyncIterator[Any]) -> list[Any]:
    """All that a stream sends."""
    return [row async for row in call]


def point(mpxn: str = MPAN) -> dsi_pb2.GetMeteringPointRequest:
    return dsi_pb2.GetMeteringPointRequest(mpxn=mpxn)


def stream(follow: bool = False) -> dsi_pb2.StreamReadingsRequest:
    return dsi_pb2.StreamReadingsRequest(mpxns=[MPAN, "1200087654321"], follow=follow)


# Identity


async def test_handlers_know_who_calls(
    dsi: dsi_pb2_grpc.DsiStub, handlers: Handlers, acme: Path
) -> None:
    assert (await dsi.GetMeteringPoint(point(), timeout=CALL_S)).digest == b"x" * 13
    assert len(await rows(dsi.StreamReadings(stream(), timeout=CALL_S))) == 2
    assert [str(caller) for caller in handlers.callers] == ["data_user/ACME"] * 2
    assert len(handlers.callers[0].fingerprint) == 32


def test_outside_of_a_call_there_is_no_caller() -> None:
    with pytest.raises(Bug):
        current_caller()


async def test_without_a_certificate_nobody_gets_in(
    target: str, authority: Authority, handlers: Handlers
) -> None:
    anonymous = grpc.ssl_channel_credentials(authority.ca)
    for opened in (
        grpc.aio.secure_channel(target, anonymous),
        grpc.aio.insecure_channel(target),
    ):
        async with opened:
            refused = await failure(
                dsi_pb2_grpc.DsiStub(opened).GetMeteringPoint(point(), timeout=CALL_S)
            )
            assert refused.code == "UNAVAILABLE"
    assert not handlers.callers


async def test_a_certificate_of_another_authority_does_not_get_in(
    target: str, authority: Authority, handlers: Handlers, tmp_path: Path
) -> None:
    other = Authority.open_or_create(tmp_path).issue_client(Role.DATA_USER, "ACME")
    (tmp_path / "trusted.pem").write_bytes(authority.ca)
    async with connect(target, other.folder, ca=tmp_path / "trusted.pem") as opened:
        refused = await failure(
            dsi_pb2_grpc.DsiStub(opened).GetMeteringPoint(point(), timeout=CALL_S)
        )
    assert refused.code == "UNAVAILABLE"
    assert not handlers.callers


async def test_a_client_does_not_talk_to_a_server_of_another_authority(
    target: str, handlers: Handlers, tmp_path: Path
) -> None:
    other = Authority.open_or_create(tmp_path).issue_client(Role.DATA_USER, "ACME")
    async with connect(target, other.folder) as opened:
        refused = await failure(
            dsi_pb2_grpc.DsiStub(opened).GetMeteringPoint(point(), timeout=CALL_S)
        )
    assert refused.code == "UNAVAILABLE"


async def test_a_development_server_answers_to_its_own_name(target: str, acme: Path) -> None:
    async with connect(target, acme, server_name=DEV_SERVER_NAME) as opened:
        await dsi_pb2_grpc.DsiStub(opened).GetMeteringPoint(point(), timeout=CALL_S)
    async with connect(target, acme, server_name="elsewhere.example") as opened:
        refused = await failure(
            dsi_pb2_grpc.DsiStub(opened).GetMeteringPoint(point(), timeout=CALL_S)
        )
        assert refused.code == "UNAVAILABLE"


# Limits


@pytest.mark.parametrize("timeout_s", [None, CALL_S + 0.5, 3600.0])
async def test_a_call_without_a_deadline_or_with_one_far_off_is_refused(
    dsi: dsi_pb2_grpc.DsiStub, handlers: Handlers, timeout_s: float | None
) -> None:
    refused = await failure(dsi.GetMeteringPoint(point(), timeout=timeout_s))
    assert (refused.code, refused.reason) == ("INVALID_ARGUMENT", "DEADLINE_REQUIRED")
    assert refused.field == "deadline"
    assert not handlers.callers


async def test_a_stream_may_take_longer_but_not_for_ever(dsi: dsi_pb2_grpc.DsiStub) -> None:
    await rows(dsi.StreamReadings(stream(), timeout=SMALL.stream_deadline_s))
    for timeout_s in (None, SMALL.stream_deadline_s + 1):
        refused = await failure(rows(dsi.StreamReadings(stream(), timeout=timeout_s)))
        assert refused.reason == "DEADLINE_REQUIRED"


async def test_a_deadline_at_the_cap_passes(dsi: dsi_pb2_grpc.DsiStub) -> None:
    await dsi.GetMeteringPoint(point(), timeout=SMALL.deadline_s)


async def test_an_oversize_message_is_refused(
    dsi: dsi_pb2_grpc.DsiStub, handlers: Handlers
) -> None:
    await dsi.GetMeteringPoint(point("1" * 60_000), timeout=CALL_S)
    refused = await failure(dsi.GetMeteringPoint(point("1" * 66_000), timeout=CALL_S))
    assert refused.code == "RESOURCE_EXHAUSTED"
    assert len(handlers.callers) == 1


@pytest.mark.parametrize("metadata_bytes", [9_000, 15_000, 100_000])
async def test_oversize_metadata_is_refused(
    dsi: dsi_pb2_grpc.DsiStub, handlers: Handlers, metadata_bytes: int
) -> None:
    metadata = (("x", "y" * metadata_bytes),)
    refused = await failure(dsi.GetMeteringPoint(point(), timeout=CALL_S, metadata=metadata))
    assert refused.code == "RESOURCE_EXHAUSTED"
    assert not handlers.callers


async def test_more_calls_at_once_than_allowed_are_refused(
    dsi: dsi_pb2_grpc.DsiStub, handlers: Handlers
) -> None:
    waiting = [dsi.CheckAccess(dsi_pb2.CheckAccessRequest(), timeout=CALL_S) for _ in range(4)]
    async with asyncio.timeout(CALL_S):
        while handlers.waiting < SMALL.concurrent_calls:
            await asyncio.sleep(0.01)
    refused = await failure(dsi.GetMeteringPoint(point(), timeout=CALL_S))
    assert refused.code == "RESOURCE_EXHAUSTED"
    for call in waiting:
        call.cancel()


async def test_a_connection_that_does_not_shake_hands_is_cut(authority: Authority) -> None:
    hasty = Limits(accepting=1, handshake_timeout_ms=300)
    server = build_server(authority.issue_server(Role.DSI, "dsi-1"), [], limits=hasty)
    await server.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        async with asyncio.timeout(CALL_S):
            assert await reader.read() == b""
    finally:
        writer.close()
        await server.stop(0)


async def test_more_connections_than_allowed_are_cut(authority: Authority, acme: Path) -> None:
    few = Limits(accepting=1, connections=2)
    server = build_server(authority.issue_server(Role.DSI, "dsi-1"), [], limits=few)
    await server.start()
    idle = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(2)]
    async with connect(f"127.0.0.1:{server.port}", acme) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        refused = await failure(health.Check(health_pb2.HealthCheckRequest(), timeout=CALL_S))
    assert refused.code == "UNAVAILABLE"
    for _, writer in idle:
        writer.close()
    await server.stop(0)


async def test_two_servers_never_share_a_port(server: SpineServer, authority: Authority) -> None:
    with pytest.raises(RuntimeError):
        build_server(authority.issue_server(Role.DSI, "dsi-1"), [], port=server.port)


# Errors


# Or only errors of modules would be mapped that some test before had loaded.
import_module("spine.cli")
import_module("spine.snapshot")


def tree(root: type[SpineError]) -> Iterator[type[SpineError]]:
    yield root
    for kind in root.__subclasses__():
        yield from tree(kind)


def instance(kind: type[SpineError]) -> SpineError:
    return Bug("secret") if issubclass(kind, Bug) else kind(Reason.NO_CONSENT, "no consent")


@pytest.mark.parametrize("reason", OF_THE_BROKERS)
async def test_no_caller_is_told_what_the_brokers_say(
    dsi: dsi_pb2_grpc.DsiStub, handlers: Handlers, reason: Reason
) -> None:
    handlers.fails_with = Pushback(reason, "broker-7.example:9093 wants SCRAM")
    told = await failure(dsi.GetMeteringPoint(point(), timeout=CALL_S))
    assert (told.reason, told.message) == (reason, "the log takes nobody now")
    refused = bulk._result(Pushback(reason, "broker-7.example:9093 wants SCRAM"))
    assert (refused.refused, refused.message) == (reason, "the log takes nobody now")


@pytest.mark.parametrize("kind", [*tree(SpineError)], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("streams", [False, True], ids=["unary", "stream"])
async def test_every_error_is_mapped(
    dsi: dsi_pb2_grpc.DsiStub, handlers: Handlers, kind: type[SpineError], streams: bool
) -> None:
    ours_at_fault = kind in (SpineError, Bug)
    assert (kind.grpc_code == "INTERNAL") == ours_at_fault, f"{kind.__name__} has no code"
    handlers.fails_with = instance(kind)
    told = await failure(
        rows(dsi.StreamReadings(stream(), timeout=CALL_S))
        if streams
        else dsi.GetMeteringPoint(point(), timeout=CALL_S)
    )
    assert told.code == kind.grpc_code
    if kind is Bug:
        assert (told.reason, told.message) == ("BUG", INTERNAL_TEXT)
    else:
        assert (told.reason, told.message) == ("NO_CONSENT", "no consent")
    assert told.retry_after_s == (1.0 if issubclass(kind, Pushback) else None)


async def test_what_was_sent_before_an_error_has_arrived(
    dsi: dsi_pb2_grpc.DsiStub, handlers: Handlers
) -> None:
    handlers.fails_with = NotFound(Reason.METER_UNKNOWN, "none")
    call = dsi.StreamReadings(stream(), timeout=CALL_S)
    assert [(await call.read()).mpxn for _ in range(2)] == [MPAN, "1200087654321"]
    assert (await failure(call.read())).reason == "METER_UNKNOWN"


async def test_a_pushback_says_when_to_try_again(
    dsi: dsi_pb2_grpc.DsiStub, handlers: Handlers
) -> None:
    handlers.fails_with = Pushback(Reason.FOLD_BEHIND, "behind", retry_after_s=0.25)
    told = await failure(dsi.GetMeteringPoint(point(), timeout=CALL_S))
    assert told == Failure("UNAVAILABLE", "FOLD_BEHIND", "behind", 0.25)


async def test_an_invalid_request_names_the_field(
    dsi: dsi_pb2_grpc.DsiStub, handlers: Handlers
) -> None:
    handlers.fails_with = Invalid(Reason.MPXN_FORMAT, "not an MPxN", field="mpxn")
    told = await failure(dsi.GetMeteringPoint(point(), timeout=CALL_S))
    assert told == Failure("INVALID_ARGUMENT", "MPXN_FORMAT", "not an MPxN", None, "mpxn")


@pytest.mark.parametrize("streams", [False, True], ids=["unary", "stream"])
async def test_an_unexpected_error_is_logged_and_not_told(
    dsi: dsi_pb2_grpc.DsiStub, handlers: Handlers, streams: bool
) -> None:
    handlers.fails_with = KeyError("secret")
    with capture_logs() as logged:
        told = await failure(
            rows(dsi.StreamReadings(stream(), timeout=CALL_S))
            if streams
            else dsi.GetMeteringPoint(point(), timeout=CALL_S)
        )
    assert told == Failure("INTERNAL", "BUG", INTERNAL_TEXT, None)
    (line,) = logged
    assert line["event"] == "call_failed"
    assert line["exc_info"] is handlers.fails_with
    assert handlers.met == [handlers.fails_with]
    assert MPAN not in str(line)


async def test_no_error_repeats_an_mpan_or_grows_without_end(
    dsi: dsi_pb2_grpc.DsiStub, handlers: Handlers
) -> None:
    handlers.fails_with = Invalid(Reason.MPXN_FORMAT, f"{MPAN} " * 1000, field="mpxn")
    told = await failure(dsi.GetMeteringPoint(point(), timeout=CALL_S))
    assert MPAN not in told.message
    assert len(told.message) == MESSAGE_CHARS_MAX


async def test_an_error_reads_the_same_from_a_program_without_a_loop(
    target: str, handlers: Handlers, acme: Path
) -> None:
    handlers.fails_with = Pushback(Reason.STARTING, "starting", retry_after_s=2)

    def call() -> Failure:
        with connect_sync(target, acme) as opened:
            with pytest.raises(grpc.RpcError) as error:
                dsi_pb2_grpc.DsiStub(opened).GetMeteringPoint(point(), timeout=CALL_S)
            return error_from(error.value)

    assert await asyncio.to_thread(call) == Failure("UNAVAILABLE", "STARTING", "starting", 2.0)


async def test_an_error_of_grpc_itself_has_no_reason(acme: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    async with connect(f"127.0.0.1:{port}", acme) as opened:
        told = await failure(dsi_pb2_grpc.DsiStub(opened).GetMeteringPoint(point(), timeout=CALL_S))
    assert (told.code, told.reason, told.retry_after_s) == ("UNAVAILABLE", "", None)


# Streams


async def test_a_handler_is_closed_as_soon_as_its_caller_is_gone(
    dsi: dsi_pb2_grpc.DsiStub, handlers: Handlers
) -> None:
    call = dsi.StreamReadings(stream(follow=True), timeout=2 * CALL_S)
    await call.read()
    call.cancel()
    await asyncio.wait_for(handlers.closed.wait(), CALL_S)


async def test_a_handler_is_closed_at_its_deadline(
    dsi: dsi_pb2_grpc.DsiStub, handlers: Handlers
) -> None:
    await dsi.GetMeteringPoint(point(), timeout=CALL_S)  # connected, so that it reaches the handler
    told = await failure(rows(dsi.StreamReadings(stream(follow=True), timeout=1)))
    assert told.code == "DEADLINE_EXCEEDED"
    await asyncio.wait_for(handlers.closed.wait(), CALL_S)


async def test_a_streaming_handler_of_another_kind_is_a_bug(
    dsi: dsi_pb2_grpc.DsiStub, monkeypatch: pytest.MonkeyPatch, authority: Authority, acme: Path
) -> None:
    async def write(self: Handlers, request: Any, context: Any) -> None:
        await context.write(dsi_pb2.StreamReadingsResponse())

    monkeypatch.setattr(Handlers, "StreamReadings", write)
    service = Service(NAME, dsi_pb2_grpc.add_DsiServicer_to_server, Handlers())
    server = build_server(authority.issue_server(Role.DSI, "dsi-1"), [service])
    await server.start()
    async with connect(f"127.0.0.1:{server.port}", acme) as channel:
        stub = dsi_pb2_grpc.DsiStub(channel)
        assert (await failure(rows(stub.StreamReadings(stream(), timeout=CALL_S)))).reason == "BUG"
    await server.stop(0)


async def test_what_a_service_does_not_implement_it_says_so(dsi: dsi_pb2_grpc.DsiStub) -> None:
    told = await failure(dsi.ListConsents(dsi_pb2.ListConsentsRequest(), timeout=CALL_S))
    assert told.code == "UNIMPLEMENTED"


# Health, reflection, traces


async def test_health_is_asked_for_when_it_is_asked(
    channel: grpc.aio.Channel, handlers: Handlers
) -> None:
    health = health_pb2_grpc.HealthStub(channel)
    statuses = health_pb2.HealthCheckResponse
    for name in ("", NAME):
        request = health_pb2.HealthCheckRequest(service=name)
        handlers.serving = True
        assert (await health.Check(request)).status == statuses.SERVING
        handlers.serving = False
        assert (await health.Check(request)).status == statuses.NOT_SERVING
    unknown = health_pb2.HealthCheckRequest(service="no.such.Service")
    assert (await failure(health.Check(unknown))).code == "NOT_FOUND"


async def test_health_can_be_watched(channel: grpc.aio.Channel, handlers: Handlers) -> None:
    statuses = health_pb2.HealthCheckResponse
    call = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=NAME))
    assert (await call.read()).status == statuses.SERVING
    handlers.serving = False
    assert (await asyncio.wait_for(call.read(), CALL_S)).status == statuses.NOT_SERVING
    call.cancel()


async def listed_services(channel: grpc.aio.Channel) -> list[str]:
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    answers = [
        answer async for answer in stub.ServerReflectionInfo(iter([request]), timeout=CALL_S)
    ]
    return [service.name for service in answers[0].list_services_response.service]


async def test_reflection_lists_what_is_served(channel: grpc.aio.Channel) -> None:
    assert set(await listed_services(channel)) == {
        NAME,
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }


async def test_without_the_setting_there_is_no_reflection(authority: Authority, acme: Path) -> None:
    server = build_server(authority.issue_server(Role.DSI, "dsi-1"), [])
    await server.start()
    async with connect(f"127.0.0.1:{server.port}", acme) as channel:
        assert (await failure(listed_services(channel))).code == "UNIMPLEMENTED"
    await server.stop(0)


async def test_a_call_goes_on_with_its_callers_trace(
    dsi: dsi_pb2_grpc.DsiStub, handlers: Handlers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(telemetry, "tracer", TracerProvider().get_tracer("test"))
    with telemetry.span("client") as here:
        header = telemetry.inject_traceparent()
        assert header is not None
        await dsi.GetMeteringPoint(
            point(), timeout=CALL_S, metadata=((telemetry.TRACEPARENT, header.decode()),)
        )
    await dsi.GetMeteringPoint(point(), timeout=CALL_S)
    own = here.get_span_context().trace_id
    assert handlers.traces[0] == own
    assert handlers.traces[1] not in (0, own)


@pytest.mark.parametrize("raw", [b"\xff\xff\xff", b"\x0a\x02\xc3\x28"], ids=["torn", "no UTF-8"])
@pytest.mark.parametrize("method", ["GetMeteringPoint", "StreamReadings"])
async def test_bytes_that_are_no_message_are_refused_for_a_reason(
    channel: grpc.aio.Channel, handlers: Handlers, method: str, raw: bytes
) -> None:
    many = method.startswith("Stream")
    make: Any = channel.unary_stream if many else channel.unary_unary
    call = make(f"/{NAME}/{method}")(raw, timeout=CALL_S)
    with pytest.raises(grpc.RpcError) as refused:
        await (call.read() if many else call)
    assert error_from(refused.value).reason == Reason.REQUEST_MALFORMED
    assert handlers.callers == []
