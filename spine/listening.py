"""One port and one event loop, several gRPC servers.

`grpc.aio` accepts the calls of a server one after the other, and takes several turns of the event
loop for each. While the loop is busy calls wait for that, and when more than a thousand do, gRPC
cuts them off without a reason. Servers that share a port accept side by side; the kernel spreads
connections among them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import grpc

from spine.whereabouts import try_to_bind


@dataclass(frozen=True, slots=True)
class Limits:
    """What one server takes from its callers. All that is above is refused, most of it by grpc."""

    request_bytes: int = 64 * 1024
    answer_bytes: int = 4 * 1024 * 1024
    metadata_bytes: int = 8 * 1024
    handshake_timeout_ms: int = 5_000
    deadline_s: float = 30.0
    # Of a call that streams either way. Also how long an ageing connection may still serve.
    stream_deadline_s: float = 3_600.0
    streams_per_connection: int = 100
    # How many calls are accepted side by side, each from other connections. Of each of these:
    accepting: int = 4
    concurrent_calls: int = 1_000
    connections: int = 500
    connection_idle_ms: int = 300_000
    connection_age_ms: int = 600_000
    ping_interval_min_ms: int = 60_000
    ping_strikes: int = 2
    # A caller with calls open is asked so often whether it is there, and has so long to say so.
    are_you_there_every_ms: int = 60_000
    there_within_ms: int = 20_000


def options(limits: Limits) -> list[tuple[str, int]]:
    """The same, as gRPC wants it for one of those that accept."""
    return [
        ("grpc.so_reuseport", int(limits.accepting > 1)),
        ("grpc.max_receive_message_length", limits.request_bytes),
        ("grpc.max_send_message_length", limits.answer_bytes),
        # Between the two, grpc would refuse at random.
        ("grpc.max_metadata_size", limits.metadata_bytes),
        ("grpc.absolute_max_metadata_size", limits.metadata_bytes),
        ("grpc.server_handshake_timeout_ms", limits.handshake_timeout_ms),
        ("grpc.max_concurrent_streams", limits.streams_per_connection),
        ("grpc.max_allowed_incoming_connections", limits.connections),
        ("grpc.max_connection_idle_ms", limits.connection_idle_ms),
        ("grpc.max_connection_age_ms", limits.connection_age_ms),
        ("grpc.max_connection_age_grace_ms", int(limits.stream_deadline_s * 1000)),
        ("grpc.http2.min_ping_interval_without_data_ms", limits.ping_interval_min_ms),
        ("grpc.http2.max_ping_strikes", limits.ping_strikes),
        ("grpc.keepalive_time_ms", limits.are_you_there_every_ms),
        ("grpc.http2.ping_timeout_ms", limits.there_within_ms),
        ("grpc.http2.max_pings_without_data", 0),  # that is, any number: a quiet stream may be long
        ("grpc.keepalive_permit_without_calls", 0),
    ]


class Listening:
    """Servers bound to one port, as one. They must be built with `grpc.so_reuseport` if several."""

    def __init__(
        self,
        servers: Sequence[grpc.aio.Server],
        host: str,
        port: int,
        credentials: Callable[[], grpc.ServerCredentials],
    ) -> None:
        """Bind them, each with `credentials` of its own; port 0 is a free one.

        RuntimeError if somebody listens there.
        """
        _nobody_else_on(host, port)
        self._servers = servers
        self.port = port
        for server in servers:
            self.port = server.add_secure_port(f"{host}:{self.port}", credentials())

    async def start(self) -> None:
        """Take calls from now on."""
        await asyncio.gather(*(server.start() for server in self._servers))

    async def stop(self, grace_s: float) -> None:
        """Take no more calls, give those under way this long, then cut them."""
        await asyncio.gather(*(server.stop(grace_s) for server in self._servers))


def _nobody_else_on(host: str, port: int) -> None:
    """A process that shares a port with one that allows it would quietly get half of its calls."""
    if not port:
        return
    try:
        try_to_bind(host, port)
    except OSError as error:
        raise RuntimeError(f"cannot listen on {host}:{port}: {error.strerror}") from error
