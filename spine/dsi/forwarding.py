"""Calls that one DSI server passes on to another: the two ends of `Members.Forward`.

The answering end acts for the caller that the passport names, and answers by itself: what was
forwarded is never forwarded again. The asking end holds each answer against the life of the permit
behind it, counted from before it asked, so that a server that was frozen in between sends nothing
that was revoked meanwhile.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final, NoReturn, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from spine.dsi.members import Claims, MembersService, Peer, only_servers
from spine.dsi.passports import Passports
from spine.dsi.reads import permit_until
from spine.dsi.v1 import dsi_pb2, members_pb2
from spine.encoded import Encoded, encoded
from spine.errors import Invalid, Pushback, Reason
from spine.server import STATUS_DETAILS, act_for, current_caller, error_from

T = TypeVar("T")
DSI: Final = dsi_pb2.DESCRIPTOR.services_by_name["Dsi"]
STREAMED: Final = frozenset({"StreamReadings"})
# Advice is given where it is asked; all else may be passed on.
FORWARDED: Final = frozenset(DSI.methods_by_name) - {"CheckAccess"}


class PeerGone(Exception):
    """The other server does not answer; the call can be answered here."""


class PassedOn(Exception):
    """What another server said to a call, for its caller as it is."""

    def __init__(self, error: grpc.aio.AioRpcError) -> None:
        super().__init__(error.details())
        self.code, self._message = error.code(), error.details() or ""
        metadata: Any = error.trailing_metadata() or ()
        self._details = [(name, value) for name, value in metadata if name == STATUS_DETAILS]

    async def abort(self, context: Any) -> NoReturn:
        """End the call with it."""
        await context.abort(self.code, self._message, tuple(self._details))
        raise AssertionError("an aborted call has ended")


def _message(method: str, side: str) -> Any:
    """The class of a method's request or response."""
    return getattr(dsi_pb2, getattr(DSI.methods_by_name[method], side).name)


class ForwardingService(MembersService):
    """The answering end. `local` is the service as it answers its own callers."""

    def __init__(
        self,
        name: str,
        log_id: bytes,
        claims: Callable[[], Claims],
        local: Any,
        passports: Passports,
    ) -> None:
        super().__init__(name, log_id, claims)
        self._local, self._passports = local, passports

    async def Forward(self, request: Any, context: Any) -> Any:
        """Answer a forwarded call."""
        began = time.monotonic()
        method, asked = self._admit(request, streamed=False)
        answered = await getattr(self._local, method)(asked, context)
        return _response(answered, began)

    async def ForwardStream(self, requests: Any, context: Any) -> AsyncIterator[Any]:
        """Answer a forwarded call that streams: one answer for each message that comes in."""
        wants = aiter(requests)
        began = time.monotonic()
        first = await anext(wants, None)
        if first is None:
            raise Invalid(Reason.FIELD_MISSING, "there is no call to answer", field="passport")
        method, asked = self._admit(first, streamed=True)
        async with aclosing(getattr(self._local, method)(asked, context)) as answers:
            while (answered := await anext(answers, None)) is not None:
                yield _response(answered, began)
                if await anext(wants, None) is None:
                    return
                began = time.monotonic()
                permit_until.set(None)

    def _admit(self, call: Any, *, streamed: bool) -> tuple[str, Message]:
        """Act for the caller from here on; the method and its request."""
        only_servers()
        caller, method = self._passports.check(call, current_caller())
        if method not in FORWARDED or (method in STREAMED) is not streamed:
            raise Invalid(Reason.FIELD_INVALID, "no method to be forwarded so", field="passport")
        try:
            asked: Message = _message(method, "input_type").FromString(call.request)
        except DecodeError:
            message = "the request cannot be read"
            raise Invalid(Reason.FIELD_INVALID, message, field="request") from None
        act_for(caller)
        permit_until.set(None)
        return method, asked


def _response(answered: Message | Encoded, began: float) -> Any:
    now = time.monotonic()
    until = permit_until.get()
    return members_pb2.ForwardResponse(
        response=encoded(answered),
        took_ms=int((now - began) * 1000),
        permit_left_ms=None if until is None else max(0, int((until - now) * 1000)),
    )


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer from another server, and until when (monotonic, here) it may be passed on."""

    message: Any
    until: float | None

    def fresh(self) -> Any:
        """The answer; Pushback(PERMIT_EXPIRED) if its permit ran out on the way."""
        if self.until is not None and time.monotonic() >= self.until:
            raise Pushback(Reason.PERMIT_EXPIRED, "the permit ran out on the way between servers")
        return self.message


class Forwarder:
    """The asking end."""

    def __init__(self, passports: Passports) -> None:
        self._passports = passports

    async def unary(self, peer: Peer, method: str, request: Message, left_s: float) -> Any:
        """The peer's answer to the present caller's call.

        PassedOn with what it said if it refused; PeerGone if it does not answer.
        """
        call = self._call(peer, method, request)
        sent = time.monotonic()
        try:
            said = await _unless_gone(peer, peer.stub.Forward(call, timeout=left_s))
        except grpc.aio.AioRpcError as error:
            failure = _failure(error)
            if isinstance(failure, PeerGone) and error.code() is grpc.StatusCode.UNAVAILABLE:
                peer.lost()
            raise failure from None
        return _answered(method, said, sent).fresh()

    async def stream(
        self, peer: Peer, method: str, request: Message, left_s: float
    ) -> AsyncGenerator[Answered, None]:
        """The peer's answers, each made when it is asked for. Fails like `unary`.

        A connection of streams that fails says nothing of others, nor whether the peer is there.
        """
        with peer.streaming() as stub:
            call = stub.ForwardStream(timeout=left_s)
            wanted = self._call(peer, method, request)
            try:
                while True:
                    sent = time.monotonic()
                    await _unless_gone(peer, call.write(wanted))
                    said = await _unless_gone(peer, call.read())
                    if said is grpc.aio.EOF:  # type: ignore[attr-defined]  # its stubs forget it
                        return
                    yield _answered(method, said, sent)
                    wanted = members_pb2.ForwardRequest()
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:
                if not isinstance(error, grpc.aio.AioRpcError):
                    raise PeerGone from error
                raise _failure(error) from None
            finally:
                call.cancel()

    def _call(self, peer: Peer, method: str, request: Message) -> Any:
        serialised = request.SerializeToString()
        return self._passports.issue(current_caller(), peer.name, method, serialised)


def _answered(method: str, said: Any, sent: float) -> Answered:
    until = None
    if said.HasField("permit_left_ms"):
        until = sent + (said.took_ms + said.permit_left_ms) / 1000
    return Answered(_message(method, "output_type").FromString(said.response), until)


def _failure(error: grpc.aio.AioRpcError) -> Exception:
    """What a failed forward means: the method's own refusal, or a server that does not answer."""
    failure = error_from(error)
    if failure.reason == Reason.FORWARD_INVALID:
        return PeerGone(failure.message)
    if failure.reason or error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return PassedOn(error)
    return PeerGone(failure.message)


async def _unless_gone(peer: Peer, work: Awaitable[T]) -> T:
    """What the work gives; PeerGone as soon as the peer has missed its answers elsewhere."""
    answering = asyncio.ensure_future(work)
    going = asyncio.create_task(peer.gone.wait())
    try:
        await asyncio.wait({answering, going}, return_when=asyncio.FIRST_COMPLETED)
        if not answering.done():
            raise PeerGone(f"{peer.name} is gone")
        return answering.result()
    finally:
        going.cancel()
        answering.cancel()
