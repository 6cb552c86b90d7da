"""A server shows the certificate that lies in its folder now, and lets nobody in without one."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from grpc_health.v1 import health_pb2, health_pb2_grpc
from structlog.testing import capture_logs

from spine.certificates import Pair
from spine.errors import Invalid, Reason
from spine.identity import CERT_FILE, KEY_FILE, Authority, Identity, is_due
from spine.policy import Role
from spine.server import build_server, connect

NAME = "server-dsi"
DAY = timedelta(days=1)
NOW = datetime.now(UTC)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.open_or_create(tmp_path / "identities")


@pytest.fixture
def client(authority: Authority) -> Identity:
    return authority.issue_client(Role.DATA_USER, "ACME")


def issued(
    authority: Authority, monkeypatch: pytest.MonkeyPatch, life: timedelta, party: str = "dsi"
) -> Identity:
    """A server's identity with that much left, in the place of the one before."""
    with monkeypatch.context() as patched:
        patched.setattr("spine.identity.LIFE", life)
        patched.setattr(authority, "_serves", lambda *_: False)
        return authority.issue_server(Role.DSI, party, alias=NAME)


def serial(pem: bytes) -> int:
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
    try:
        await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


@asynccontextmanager
async def serving(identity: Identity) -> AsyncIterator[int]:
    server = build_server(identity, [])
    await server.start()
    try:
        yield server.port
    finally:
        await server.stop(0)


class Static:
    """The naive server: what it was given at its start, for ever."""

    def __init__(self, identity: Identity) -> None:
        self.credentials = grpc.ssl_server_credentials(
            [(identity.key, identity.cert)], identity.ca, require_client_auth=True
        )


@pytest.mark.parametrize("naive", [False, True])
async def test_a_renewed_certificate_is_shown_to_the_next_connection_without_a_restart(
    authority: Authority, client: Identity, monkeypatch: pytest.MonkeyPatch, naive: bool
) -> None:
    if naive:
        monkeypatch.setattr("spine.server.ServedCertificate", Static)
    old = issued(authority, monkeypatch, timedelta(hours=1)).cert
    async with serving(Identity(client.folder.parent / NAME)) as port:
        assert await asyncio.to_thread(shown, port, client) == serial(old)
        async with connect(f"127.0.0.1:{port}", client.folder) as opened:
            assert await status(opened) is grpc.StatusCode.OK
            new = authority.issue_server(Role.DSI, "dsi", alias=NAME).cert
            assert await status(opened) is grpc.StatusCode.OK
        expected = serial(old if naive else new)
        assert await asyncio.to_thread(shown, port, client) == expected
        assert await asyncio.to_thread(shown, port, client) == expected
        assert serial(old) != serial(new)


@pytest.mark.parametrize("naive", [False, True])
async def test_a_server_whose_certificate_ran_out_serves_again_with_the_one_put_there(
    authority: Authority, client: Identity, monkeypatch: pytest.MonkeyPatch, naive: bool
) -> None:
    if naive:
        monkeypatch.setattr("spine.server.ServedCertificate", Static)
    async with serving(issued(authority, monkeypatch, -DAY)) as port:
        async with connect(f"127.0.0.1:{port}", client.folder) as refused:
            assert await status(refused) is grpc.StatusCode.UNAVAILABLE
        issued(authority, monkeypatch, DAY)
        async with connect(f"127.0.0.1:{port}", client.folder) as channel:
            served = grpc.StatusCode.UNAVAILABLE if naive else grpc.StatusCode.OK
            assert await status(channel) is served


async def test_after_a_renewal_a_client_still_needs_a_certificate_of_the_authority(
    authority: Authority, client: Identity, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stranger = Authority.open_or_create(tmp_path / "other").issue_client(Role.DATA_USER, "ACME")
    async with serving(issued(authority, monkeypatch, DAY)) as port:
        issued(authority, monkeypatch, 2 * DAY)
        target = f"127.0.0.1:{port}"
        bare = grpc.ssl_channel_credentials(client.ca)
        async with grpc.aio.secure_channel(target, bare) as nobody:
            assert await status(nobody) is grpc.StatusCode.UNAVAILABLE
        own = client.folder / "ca.pem"
        async with connect(target, stranger.folder, ca=own) as channel:
            assert await status(channel) is grpc.StatusCode.UNAVAILABLE
        async with connect(target, client.folder) as channel:
            assert await status(channel) is grpc.StatusCode.OK


async def test_a_new_authority_decides_who_gets_in_from_the_next_connection_on(
    authority: Authority, client: Identity, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(issued(authority, monkeypatch, DAY)) as port:
        (tmp_path / "identities/ca").rename(tmp_path / "lost")
        again = Authority.open_or_create(tmp_path / "identities")
        again.issue_server(Role.DSI, "dsi", alias=NAME)
        async with connect(f"127.0.0.1:{port}", client.folder) as old:
            assert await status(old) is grpc.StatusCode.UNAVAILABLE
        fresh = again.issue_client(Role.DATA_USER, "ACME")
        async with connect(f"127.0.0.1:{port}", fresh.folder) as new:
            assert await status(new) is grpc.StatusCode.OK


def wrong_key(folder: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    other = authority.issue_server(Role.DSI, "dsi", alias="other")
    (folder / CERT_FILE).write_bytes(other.cert)


def another_caller(folder: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    issued(authority, monkeypatch, 2 * DAY, party="metering")


def ran_out(folder: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    issued(authority, monkeypatch, -DAY)


def torn(folder: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / CERT_FILE).write_bytes((folder / CERT_FILE).read_bytes()[:100])


def gone(folder: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / KEY_FILE).unlink()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (wrong_key, "is not that of its certificate"),
        (another_caller, "names dsi/metering in the place of dsi/dsi"),
        (ran_out, "not valid at this time"),
        (torn, "damaged"),
        (gone, "missing"),
    ],
)
async def test_what_does_not_serve_is_said_once_and_the_former_goes_on(
    authority: Authority,
    client: Identity,
    monkeypatch: pytest.MonkeyPatch,
    spoil: Callable[..., None],
    said: str,
) -> None:
    first = issued(authority, monkeypatch, DAY)
    before = serial(first.cert)
    async with serving(first) as port:
        spoil(first.folder, authority, monkeypatch)
        with capture_logs() as lines:
            for _ in range(3):
                assert await asyncio.to_thread(shown, port, client) == before
        unfit: list[Any] = [line for line in lines if line["event"] == "certificate.unfit"]
        assert len(unfit) == 1 and said in unfit[0]["reason"]
        mended = issued(authority, monkeypatch, 3 * DAY)
        assert await asyncio.to_thread(shown, port, client) == serial(mended.cert)


async def test_a_server_does_not_begin_with_a_key_that_is_not_its_certificates(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity = issued(authority, monkeypatch, DAY)
    wrong_key(identity.folder, authority, monkeypatch)
    with pytest.raises(Invalid) as error:
        build_server(identity, [])
    assert error.value.reason is Reason.IDENTITY_MISSING


@pytest.mark.parametrize(
    ("left", "due"), [(121, True), (122, True), (123, False), (365, False), (-1, True)]
)
def test_the_last_third_of_a_life_is_for_renewing(left: int, due: bool) -> None:
    not_after = NOW + left * DAY
    assert is_due(not_after - 367 * DAY, not_after, NOW) is due


def test_a_certificate_that_nobody_renews_is_read_as_it_is(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = Pair.read(issued(authority, monkeypatch, -DAY))
    assert str(pair.caller) == "dsi/dsi" and pair.not_after < NOW
