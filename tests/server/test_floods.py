"""Connections that mean harm: the server keeps its memory bounded and goes on serving others.

The server is a process of its own, so that its memory can be seen. Frames are of RFC 9113, headers
of RFC 7541 as literals without an index.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from spine.dsi.v1 import dsi_pb2, dsi_pb2_grpc
from spine.identity import DEV_SERVER_NAME, Authority
from spine.policy import Role
from spine.server import connect

ROOT = Path(__file__).parents[2]
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADERS, RST_STREAM, SETTINGS, PING, CONTINUATION = 1, 3, 4, 6, 9
MEMORY_MAX = 96 << 20

SERVER = """
import asyncio, sys
from pathlib import Path
from spine.dsi.v1 import dsi_pb2, dsi_pb2_grpc
from spine.identity import Identity
from spine.listening import Limits
from spine.server import Service, build_server

class Dsi(dsi_pb2_grpc.DsiServicer):
    async def GetMeteringPoint(self, request, context):
        return dsi_pb2.GetMeteringPointResponse()

    async def StreamReadings(self, request, context):
        while True:
            yield dsi_pb2.StreamReadingsResponse(digest=bytes(60_000))

async def main():
    name = dsi_pb2.DESCRIPTOR.services_by_name["Dsi"].full_name
    service = Service(name, dsi_pb2_grpc.add_DsiServicer_to_server, Dsi())
    limits = Limits(handshake_timeout_ms=2_000)
    server = build_server(Identity(Path(sys.argv[1])), [service], limits=limits)
    await server.start()
    Path(sys.argv[2]).write_text(str(server.port))
    await asyncio.Event().wait()

asyncio.run(main())
"""


@dataclass(frozen=True)
class Target:
    """A server in a process of its own, and somebody who may call it."""

    port: int
    process: psutil.Process
    client: Path

    @property
    def memory(self) -> int:
        return int(self.process.memory_info().rss)

    async def serves(self) -> float:
        """How long an honest caller waits, in seconds."""
        begun = time.monotonic()
        async with connect(f"127.0.0.1:{self.port}", self.client) as channel:
            stub = dsi_pb2_grpc.DsiStub(channel)
            await stub.GetMeteringPoint(dsi_pb2.GetMeteringPointRequest(), timeout=20)
        return time.monotonic() - begun

    def attacker(self) -> ssl.SSLSocket:
        """A connection over mutual TLS that has said hello and nothing more."""
        context = ssl.create_default_context(cafile=str(self.client / "ca.pem"))
        context.load_cert_chain(self.client / "cert.pem", self.client / "key.pem")
        context.set_alpn_protocols(["h2"])
        plain = socket.create_connection(("127.0.0.1", self.port), timeout=10)
        wrapped = context.wrap_socket(plain, server_hostname=DEV_SERVER_NAME)
        wrapped.sendall(PREFACE + frame(SETTINGS, 0, 0, b""))
        return wrapped


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    authority = Authority.open_or_create(tmp_path_factory.mktemp("spine") / "identities")
    server = authority.issue_server(Role.DSI, "dsi-1").folder
    client = authority.issue_client(Role.DATA_USER, "ACME").folder
    said = server.parent / "port"
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(server), str(said)],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 60
        while not (said.exists() and said.read_text()) and time.monotonic() < deadline:
            time.sleep(0.05)
        yield Target(int(said.read_text()), psutil.Process(process.pid), client)
    finally:
        process.kill()
        process.wait()


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def header(name: bytes, value: bytes) -> bytes:
    return b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value


CALL = b"".join(
    header(name, value)
    for name, value in (
        (b":method", b"POST"),
        (b":scheme", b"https"),
        (b":path", b"/spine.dsi.v1.Dsi/GetMeteringPoint"),
        (b":authority", b"spine"),
        (b"content-type", b"application/grpc"),
        (b"te", b"trailers"),
        (b"grpc-timeout", b"5S"),
    )
)


def flood(attacker: ssl.SSLSocket, pieces: Iterator[bytes], patience_s: float = 5) -> bool:
    """Send until all is sent or the server has had enough; whether it had."""
    attacker.settimeout(patience_s)
    try:
        for piece in pieces:
            attacker.sendall(piece)
        while True:
            if not attacker.recv(1 << 16):
                return True
    except TimeoutError:
        return False
    except OSError:
        return True
    finally:
        attacker.close()


def resets() -> Iterator[bytes]:
    """Streams opened and reset at once, 20,000 of them (CVE-2023-44487)."""
    for batch in range(200):
        streams = range(200 * batch + 1, 200 * (batch + 1) + 1, 2)
        yield b"".join(
            frame(HEADERS, 4, s, CALL) + frame(RST_STREAM, 0, s, struct.pack(">I", 8))
            for s in streams
        )


def pings() -> Iterator[bytes]:
    for _ in range(200):
        yield frame(PING, 0, 0, bytes(8)) * 100


def settings() -> Iterator[bytes]:
    for _ in range(200):
        yield frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 65_535)) * 100


def continuations() -> Iterator[bytes]:
    """One header block that never ends (CVE-2024-27316 and its kind)."""
    yield frame(HEADERS, 0, 1, CALL)
    for number in range(4_000):
        yield frame(CONTINUATION, 0, 1, header(b"x-%05d" % number, b"y" * 120) * 16)


FLOODS = {f.__name__: f for f in (resets, pings, settings, continuations)}


@pytest.mark.parametrize("name", FLOODS)
async def test_a_flood_costs_little_room_and_no_neighbour(target: Target, name: str) -> None:
    await target.serves()
    before = target.memory
    attack = asyncio.create_task(asyncio.to_thread(flood, target.attacker(), FLOODS[name]()))
    waits = []
    while not attack.done():
        waits.append(await target.serves())
        await asyncio.sleep(0.05)
    await attack
    assert target.memory - before < MEMORY_MAX
    assert target.process.is_running()
    assert max(waits) < 10
    await target.serves()


async def test_who_only_pings_is_hung_up_on(target: Target) -> None:
    assert await asyncio.to_thread(flood, target.attacker(), pings(), 60)


async def test_a_stream_that_nobody_reads_fills_no_memory(target: Target) -> None:
    """The writer waits once the transport is full: 60 kB messages without end, never read."""
    before = target.memory
    async with connect(f"127.0.0.1:{target.port}", target.client) as channel:
        stub = dsi_pb2_grpc.DsiStub(channel)
        calls = [
            stub.StreamReadings(dsi_pb2.StreamReadingsRequest(), timeout=60) for _ in range(20)
        ]
        for call in calls:
            await call.read()
        await asyncio.sleep(2)
        grown = target.memory - before
        for call in calls:
            call.cancel()
    assert grown < MEMORY_MAX
    await target.serves()


async def test_connections_that_say_nothing_are_cut_and_others_served(target: Target) -> None:
    idle = [socket.create_connection(("127.0.0.1", target.port)) for _ in range(100)]
    try:
        assert await target.serves() < 10
        deadline = time.monotonic() + 60
        for connection in idle:
            connection.settimeout(max(0.1, deadline - time.monotonic()))
            assert await asyncio.to_thread(connection.recv, 1) == b""
    finally:
        for connection in idle:
            connection.close()
    await target.serves()
