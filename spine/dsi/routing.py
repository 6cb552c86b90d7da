"""Any server takes any request, and passes on what another one folds.

A partition's reads belong where its data is folded beside the server and, among such, to the server
whose consumer group gave it the partition last. Where that server is gone, whoever was asked
answers by itself at once: its own fold stands by. `CheckAccess` is advice and is never passed on.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import Any, Final

import grpc

from spine import trust
from spine.dsi.forwarding import Answered, Forwarder, PassedOn, PeerGone
from spine.dsi.members import Claims, Members, Peer
from spine.dsi.reads import permit_until
from spine.dsi.service import DsiService, stream_meters
from spine.dsi.v1 import dsi_pb2_grpc
from spine.errors import NotPermitted, Pushback, Reason, SpineError
from spine.gb import parse_mpxn
from spine.murmur2 import murmur2_partition

DEADLINE_S: Final = 30.0


class Routes:
    """Who answers for a meter: another server, or this one (None)."""

    def __init__(self, members: Members, own: Callable[[], Claims], partitions: int) -> None:
        self._members, self._own, self._partitions = members, own, partitions

    def owner(self, mpxn: str) -> Peer | None:
        """The server to pass a call about this meter on to; None to answer it here."""
        try:
            partition = murmur2_partition(str(parse_mpxn(mpxn)).encode(), self._partitions)
        except SpineError:
            return None
        best = max(self._members.peers, key=lambda p: _weight(p.claims, partition), default=None)
        if best is None or _weight(best.claims, partition) <= _weight(self._own(), partition):
            return None
        return best


def _weight(claims: Claims, partition: int) -> tuple[bool, int]:
    """Whether the data is at hand, and since when the partition's fold is."""
    data = (trust.READINGS_TOPIC, partition) in claims
    return data, claims.get((trust.CONSUMER_LOG, partition), 0)


class RoutedDsi(dsi_pb2_grpc.DsiServicer):
    """The Dsi service as callers see it: answered here, or by the server it belongs to."""

    def __init__(self, local: DsiService, routes: Routes, forwarder: Forwarder) -> None:
        self._local, self._routes, self._forwarder = local, routes, forwarder

    async def GetReadings(self, request: Any, context: Any) -> Any:
        """One page of the half hours of one metering point."""
        return await self._one("GetReadings", request, context)

    async def GetMeteringPoint(self, request: Any, context: Any) -> Any:
        """The standing data of one metering point."""
        return await self._one("GetMeteringPoint", request, context)

    async def ListConsents(self, request: Any, context: Any) -> Any:
        """The caller's own consents at one metering point."""
        return await self._one("ListConsents", request, context)

    async def ListTenancies(self, request: Any, context: Any) -> Any:
        """The tenancies of one metering point that concern the caller."""
        return await self._one("ListTenancies", request, context)

    async def GetPersonalRecord(self, request: Any, context: Any) -> Any:
        """What is kept sealed about the caller at one metering point."""
        return await self._one("GetPersonalRecord", request, context)

    async def ListAssets(self, request: Any, context: Any) -> Any:
        """The assets that stand behind one metering point."""
        return await self._one("ListAssets", request, context)

    async def GetAsset(self, request: Any, context: Any) -> Any:
        """One of them."""
        return await self._one("GetAsset", request, context)

    async def CheckAccess(self, request: Any, context: Any) -> Any:
        """What reads would come to, by the folds of this server."""
        return await self._local.CheckAccess(request, context)

    async def _one(self, method: str, request: Any, context: Any) -> Any:
        peer = self._routes.owner(request.mpxn)
        if peer is not None:
            try:
                return await self._forwarder.unary(peer, method, request, _left_s(context))
            except PassedOn as refused:
                await refused.abort(context)
            except PeerGone:
                pass
        return await getattr(self._local, method)(request, context)

    async def StreamReadings(self, request: Any, context: Any) -> AsyncIterator[Any]:
        """The half hours of up to 1,000 metering points, each from the server it belongs to."""
        owners: dict[Peer | None, list[str]] = {}
        for mpxn in stream_meters(request):
            owners.setdefault(self._routes.owner(mpxn), []).append(mpxn)
        parts = []
        for peer, mpxns in owners.items():
            asked = type(request)()
            asked.CopyFrom(request)
            asked.mpxns[:] = mpxns
            parts.append(self._part(peer, asked, context))
        merged = _together(parts) if request.follow else _in_turn(parts)
        try:
            async with aclosing(merged) as answers:
                async for answered in answers:
                    yield answered.fresh()
        except PassedOn as refused:
            await refused.abort(context)

    async def _part(
        self, peer: Peer | None, request: Any, context: Any
    ) -> AsyncGenerator[Answered, None]:
        """The chunks of the meters of one server. Goes on here if it never began to answer."""
        begun = False
        if peer is not None:
            stream = self._forwarder.stream(peer, "StreamReadings", request, _left_s(context))
            try:
                async with aclosing(stream):
                    async for answered in stream:
                        begun = True
                        yield answered
                return
            except PeerGone:
                if begun:
                    message = "the server that answered for these metering points is gone"
                    raise Pushback(Reason.STARTING, message) from None
        async with aclosing(self._local.StreamReadings(request, context)) as chunks:  # type: ignore[type-var]
            async for chunk in chunks:
                yield Answered(chunk, permit_until.get())


Parts = list[AsyncGenerator[Answered, None]]


async def _in_turn(parts: Parts) -> AsyncGenerator[Answered, None]:
    """One part after the other; refused with the last reason if every part was."""
    refusals: list[Exception] = []
    for part in parts:
        async with aclosing(part):
            try:
                async for answered in part:
                    yield answered
            except (NotPermitted, PassedOn) as refused:
                refusals.append(_refusal(refused))
    if len(refusals) == len(parts):
        raise refusals[-1]


async def _together(parts: Parts) -> AsyncGenerator[Answered, None]:
    """All parts at a time. The next chunk of a part is made when its last one has been taken."""
    refusals: list[Exception] = []
    nexts = {asyncio.ensure_future(anext(part)): part for part in parts}
    try:
        while nexts:
            done, _ = await asyncio.wait(nexts, return_when=asyncio.FIRST_COMPLETED)
            for ready in done:
                part = nexts.pop(ready)
                try:
                    yield ready.result()
                except StopAsyncIteration:
                    continue
                except (NotPermitted, PassedOn) as refused:
                    refusals.append(_refusal(refused))
                    continue
                nexts[asyncio.ensure_future(anext(part))] = part
    finally:
        for waiting in nexts:
            waiting.cancel()
        await asyncio.gather(*nexts, return_exceptions=True)
        for part in parts:
            await part.aclose()
    if len(refusals) == len(parts):
        raise refusals[-1]


def _refusal(refused: NotPermitted | PassedOn) -> Exception:
    """A part whose meters were all cut. Anything else ends the whole stream."""
    if isinstance(refused, PassedOn) and refused.code != grpc.StatusCode.PERMISSION_DENIED:
        raise refused
    return refused


def _left_s(context: Any) -> float:
    left_s: float | None = context.time_remaining()
    return DEADLINE_S if left_s is None else left_s
