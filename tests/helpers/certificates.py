"""A server with a certificate that a test chooses, and what it shows to whoever connects."""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from grpc_health.v1 import health_pb2, health_pb2_grpc

from spine.identity import CERT_FILE, KEY_FILE, Authority, Identity
from spine.policy import Role
from spine.server import build_server

NAME = "server-dsi"
DAY = timedelta(days=1)


def issued(
    authority: Authority, monkeypatch: pytest.MonkeyPatch, life: timedelta, party: str = "dsi"
) -> Identity:
    """A server's identity with that much left, in the place of the one before."""
    with monkeypatch.context() as patched:
        patched.setattr("spine.issuing.LIFE", life)
        patched.setattr(authority, "_serves", lambda *_: False)
        return authority.issue_server(Role.DSI, party, alias=NAME)


def corporate(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Authority:
    """An authority from elsewhere, not of the spine's making."""
    with monkeypatch.context() as patched:
        patched.setattr("spine.issuing.AUTHORITY", "Some company")
        return Authority.open_or_create(folder)


def serial(pem: bytes) -> int:
    """What tells a certificate from every other."""
    return x509.load_pem_x509_certificate(pem).serial_number


def shown(port: int, client: Identity) -> int:
    """The serial number of the certificate that a new connection is shown."""
    context = ssl.create_default_context(cadata=client.ca.decode())
    context.load_cert_chain(client.folder / CERT_FILE, client.folder / KEY_FILE)
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection(("127.0.0.1", port)) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as secured,
    ):
        der = secured.getpeercert(binary_form=True)
    assert der is not None
    return x509.load_der_x509_certificate(der).serial_number


async def status(channel: grpc.aio.Channel) -> grpc.StatusCode:
    """What a call over that channel comes to."""
    try:
        await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


@asynccontextmanager
async def serving(identity: Identity) -> AsyncIterator[int]:
    """The port of a server of that identity."""
    server = build_server(identity, [])
    await server.start()
    try:
        yield server.port
    finally:
        await server.stop(0)


def wrong_key(folder: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put another certificate beside the key."""
    other = authority.issue_server(Role.DSI, "dsi", alias="other")
    (folder / CERT_FILE).write_bytes(other.cert)
