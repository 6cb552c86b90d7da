"""The gRPC edge: what every call of every service goes through before and after its handler.

In this order: who calls (the certificate, checked again on each call), within which limits (there
is a place, a deadline is required and capped, each party has its share), as part of which trace.
Around all of it stands the one place that turns an exception into a status: a `SpineError` with
google.rpc details, anything else as INTERNAL with a constant text. Only the log says what it was.

A streaming handler is an async generator. It is driven here, not by grpc, so that it is closed at
once when its caller goes away: whatever it holds is let go in the same moment.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import grpc
import structlog
from google.protobuf.message import Message
from google.rpc import error_details_pb2  # type: ignore[import-untyped]
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from opentelemetry.trace import SpanKind

from spine import telemetry
from spine.admission import GRPCS_OWN, Admission
from spine.decoding import decoded, each_readable, readable
from spine.encoded import encoded
from spine.errors import Bug, Invalid, NotPermitted, Pushback, Reason, SpineError
from spine.identity import Caller, Identity, caller_of
from spine.limits import PartyLimits
from spine.listening import Limits, Listening, options
from spine.services.certificates import ServedCertificate
from spine.services.health import HEALTH, Health

ERROR_DOMAIN: Final = "energyos"
INTERNAL_TEXT: Final = "internal error"
MESSAGE_CHARS_MAX: Final = 500
STATUS_DETAILS: Final = "grpc-status-details-bin"
# A deadline travels rounded up, in coarser steps the longer it is.
DEADLINE_ROUNDING: Final = 1.02
# What a client takes in one answer; servers send at most 4 MiB.
CLIENT_RECEIVE_BYTES_MAX: Final = 8 * 1024 * 1024

log = structlog.get_logger(__name__)

BadRequest = error_details_pb2.BadRequest
ErrorInfo = error_details_pb2.ErrorInfo
RetryInfo = error_details_pb2.RetryInfo
Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True, slots=True)
class Service:
    """A service to serve: its full name, and the generated function that registers its servicer."""

    name: str
    add: Callable[[Any, grpc.aio.Server], None]
    servicer: object


@dataclass(frozen=True, slots=True)
class SpineServer:
    """A server bound to its port."""

    listening: Listening
    certificate: ServedCertificate

    @property
    def port(self) -> int:
        """Where it is reached."""
        return self.listening.port

    async def start(self) -> None:
        """Take calls from now on."""
        await self.listening.start()

    async def stop(self, grace_s: float = 0.5) -> None:
        """Take no more calls, give those under way this long, then cut them."""
        await self.listening.stop(grace_s)


_caller: ContextVar[Caller] = ContextVar("caller")


def current_caller() -> Caller:
    """Who makes the call that is being handled."""
    try:
        return _caller.get()
    except LookupError:
        raise Bug("there is a caller only while a call is handled") from None


act_for = _caller.set
"""Handle the rest of this call as one of that caller: another server vouches for it."""


# The server


def build_server(
    identity: Identity,
    services: Sequence[Service],
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    limits: Limits | None = None,
    reflect: bool = False,
    serving: Callable[[], bool] = lambda: True,
    admission: Admission | None = None,
    met: Callable[[Exception], None] = lambda _: None,
) -> SpineServer:
    """A server of these services over mutual TLS, with health and, if wanted, reflection.

    `serving` is asked at each health check, `admission` before each call of a service; `met` is
    told what a call failed by that is no error of the spine. Port 0 is a free one. Call it inside
    the event loop.
    """
    limits, admission = limits or Limits(), admission or Admission(PartyLimits())
    edge, names = _Edge(limits, admission, met), [service.name for service in services]
    health = Health({"", *names}, serving)

    def accepting() -> grpc.aio.Server:
        server = grpc.aio.server(
            interceptors=[edge],
            options=options(limits),
            maximum_concurrent_rpcs=limits.concurrent_calls,
        )
        for service in services:
            service.add(service.servicer, server)
        health_pb2_grpc.add_HealthServicer_to_server(health, server)
        if reflect:
            reflection.enable_server_reflection([*names, HEALTH, reflection.SERVICE_NAME], server)
        return server

    shown = ServedCertificate(identity)
    servers = [accepting() for _ in range(limits.accepting)]
    return SpineServer(Listening(servers, host, port, shown.credentials), shown)


# What every call goes through


class _Edge(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # generic in its stub only
    """Puts every handler inside the stages."""

    def __init__(
        self, limits: Limits, admission: Admission, met: Callable[[Exception], None]
    ) -> None:
        self._limits, self._admission, self._met = limits, admission, met

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        shape = (handler.request_streaming, handler.response_streaming)
        max_s = self._limits.stream_deadline_s if any(shape) else self._limits.deadline_s
        method = handler_call_details.method
        around = _Around(method, any(shape), max_s, self._admission, self._met)
        wrap = around.streaming if handler.response_streaming else around.unary
        return _BUILD[shape](
            wrap(getattr(handler, _BEHAVIOUR[shape])),
            partial(decoded, handler.request_deserializer),
            encoded,
        )


# By whether requests stream, and whether responses do.
_BEHAVIOUR: Final = {
    (False, False): "unary_unary",
    (False, True): "unary_stream",
    (True, False): "stream_unary",
    (True, True): "stream_stream",
}
_BUILD: Final = {
    shape: getattr(grpc, f"{name}_rpc_method_handler") for shape, name in _BEHAVIOUR.items()
}


@dataclass(frozen=True, slots=True)
class _Around:
    """The stages around the handler of one method."""

    method: str
    streams: bool
    deadline_max_s: float
    admission: Admission
    met: Callable[[Exception], None]

    def unary(self, behaviour: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        """The handler of a single answer, inside the stages."""

        async def handle(request: Any, context: Context) -> Any:
            async with self._stages(context, request):
                return await behaviour(self._counted(request), context)

        return handle

    def streaming(
        self, behaviour: Callable[..., AsyncIterator[Any]]
    ) -> Callable[..., Awaitable[None]]:
        """The handler of many answers, inside the stages, closed with the call."""

        async def handle(request: Any, context: Context) -> None:
            async with self._stages(context, request):
                if inspect.iscoroutinefunction(behaviour):
                    raise Bug(f"the handler of {self.method} is not an async generator")
                counted = self._counted(request)
                async with aclosing(behaviour(counted, context)) as answers:  # type: ignore[type-var]
                    async for answer in answers:
                        self.admission.check_held(_caller.get(), self.method)
                        try:
                            await context.write(answer)
                        except Exception as gone:
                            log.info("caller_gone", method=self.method, kind=type(gone).__name__)
                            return

        return handle

    def _counted(self, request: Any) -> Any:
        """A request as it is; of a stream of them, each as soon as its sender may send it."""
        if not hasattr(request, "__aiter__") or self.method.startswith(GRPCS_OWN):
            return request
        return self.admission.paced(_caller.get(), self.method, each_readable(request))

    @asynccontextmanager
    async def _stages(self, context: Context, request: Any) -> AsyncIterator[None]:
        try:
            caller = caller_of(context.auth_context(), datetime.now(UTC))
            _caller.set(caller)
            with self.admission.place(caller, self.method, request, streams=self.streams):
                if not self.method.startswith(GRPCS_OWN):
                    self._check_deadline(context.time_remaining())
                    self.admission.admit(caller, self.method, request)
                    readable(request)
                with telemetry.span(
                    self.method.removeprefix("/"),
                    parent=telemetry.extract(_traceparent(context)),
                    kind=SpanKind.SERVER,
                    attributes={"rpc.system": "grpc", "rpc.method": self.method},
                ):
                    yield
        except grpc.aio.AbortError:
            raise
        except NotImplementedError:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "not served here")
        except SpineError as error:
            if isinstance(error, Bug):
                log.error("invariant_broken", method=self.method, exc_info=error)
            if isinstance(error, NotPermitted):
                self.admission.refused(_caller.get(), request, error)
            await _abort(context, status_of(error))
        except Exception as error:
            log.error("call_failed", method=self.method, exc_info=error)
            self.met(error)
            await _abort(context, _status("INTERNAL", INTERNAL_TEXT, Reason.BUG))

    def _check_deadline(self, left_s: float | None) -> None:
        """A call without an end would hold its place for ever, and one far off nearly so."""
        if left_s is None or left_s > self.deadline_max_s * DEADLINE_ROUNDING:
            message = f"a deadline of at most {self.deadline_max_s:g} s is required"
            raise Invalid(Reason.DEADLINE_REQUIRED, message, field="deadline")


def _traceparent(context: Context) -> str | bytes | None:
    """The caller's trace, if it sent one. Nothing else of its metadata is read."""
    metadata = context.invocation_metadata() or ()
    return next((value for name, value in metadata if name == telemetry.TRACEPARENT), None)


# Errors, both ways


def status_of(error: SpineError) -> Status:
    """The google.rpc.Status of an error. The one place that maps."""
    if isinstance(error, Bug):
        return _status("INTERNAL", INTERNAL_TEXT, Reason.BUG)
    message = telemetry.redact(error.told)[:MESSAGE_CHARS_MAX]
    more: list[Message] = []
    if isinstance(error, Pushback):
        retry = RetryInfo()
        retry.retry_delay.FromMilliseconds(round(error.retry_after_s * 1000))
        more.append(retry)
    if isinstance(error, Invalid):
        violation = BadRequest.FieldViolation(field=error.field, description=message)
        more.append(BadRequest(field_violations=[violation]))
    return _status(error.grpc_code, message, error.reason, *more, **error.facts)


def _status(code: str, message: str, reason: Reason, *more: Message, **facts: str) -> Status:
    status = Status(code=grpc.StatusCode[code].value[0], message=message)
    for detail in (ErrorInfo(reason=reason, domain=ERROR_DOMAIN, metadata=facts), *more):
        status.details.add().Pack(detail)
    return status


_CODES: Final = {code.value[0]: code for code in grpc.StatusCode}


async def _abort(context: Context, status: Status) -> None:
    details = ((STATUS_DETAILS, status.SerializeToString()),)
    await context.abort(_CODES[status.code], status.message, details)


class Failure(NamedTuple):
    """A failed call as its caller sees it. `reason` is empty if grpc itself refused."""

    code: str
    reason: str
    message: str
    retry_after_s: float | None
    field: str = ""
    facts: Mapping[str, str] = MappingProxyType({})


def error_from(error: grpc.RpcError) -> Failure:
    """What a failed call said, from either kind of channel."""
    assert isinstance(error, grpc.aio.AioRpcError | grpc.Call)
    metadata: Any = error.trailing_metadata() or ()
    packed = dict(metadata).get(STATUS_DETAILS, b"")
    info, retry, bad = ErrorInfo(), RetryInfo(), BadRequest()
    for detail in Status.FromString(packed).details:
        any(detail.Unpack(kind) for kind in (info, retry, bad))
    retry_after_s = retry.retry_delay.ToMilliseconds() / 1000 if retry.ListFields() else None
    field = bad.field_violations[0].field if bad.field_violations else ""
    said = error.code().name, info.reason, error.details() or "", retry_after_s
    return Failure(*said, field, dict(info.metadata))


def connect(
    target: str,
    identity_dir: Path,
    more: Sequence[tuple[str, Any]] = (),
    *,
    ca: Path | None = None,
    server_name: str | None = None,
) -> grpc.aio.Channel:
    """A channel to `host:port` as the identity in that folder.

    `server_name` is for a server reached under an address that its certificate does not name;
    those of a development authority all carry `spine.identity.DEV_SERVER_NAME`. `more`: grpc's own.
    """
    credentials, options = _client(identity_dir, ca, server_name)
    return grpc.aio.secure_channel(target, credentials, [*options, *more])


def connect_sync(
    target: str, identity_dir: Path, *, ca: Path | None = None, server_name: str | None = None
) -> grpc.Channel:
    """The same for a program without an event loop."""
    return grpc.secure_channel(target, *_client(identity_dir, ca, server_name))


def _client(
    identity_dir: Path, ca: Path | None, server_name: str | None
) -> tuple[grpc.ChannelCredentials, list[tuple[str, Any]]]:
    identity = Identity(identity_dir)
    trusted = ca.read_bytes() if ca else identity.ca
    override = [] if server_name is None else [("grpc.ssl_target_name_override", server_name)]
    return (
        grpc.ssl_channel_credentials(trusted, identity.key, identity.cert),
        [("grpc.max_receive_message_length", CLIENT_RECEIVE_BYTES_MAX), *override],
    )
