"""grpc.health.v1 for every server of the spine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any, Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

POLL_S: Final = 0.5
Context = grpc.aio.ServicerContext[Any, Any]

HEALTH: Final = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # its base has no types
    """grpc.health.v1 over a question: is it serving now?"""

    def __init__(self, names: Iterable[str], serving: Callable[[], bool]) -> None:
        self._names = frozenset(names)
        self._serving = serving

    async def Check(self, request: Any, context: Context) -> health_pb2.HealthCheckResponse:
        """Whether it serves now."""
        if request.service not in self._names:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such service here")
        return self._status(request.service)

    async def Watch(
        self, request: Any, context: Context
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        """The same now and whenever it changes."""
        said = None
        while True:
            status = self._status(request.service)
            if status != said:
                yield status
                said = status
            await asyncio.sleep(POLL_S)

    def _status(self, name: str) -> health_pb2.HealthCheckResponse:
        statuses = health_pb2.HealthCheckResponse
        if name not in self._names:
            return statuses(status=statuses.SERVICE_UNKNOWN)
        serving = self._serving()
        return statuses(status=statuses.SERVING if serving else statuses.NOT_SERVING)
