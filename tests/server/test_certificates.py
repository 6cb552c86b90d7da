"""A server shows the certificate that lies in its folder now, and lets nobody in without one."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
from structlog.testing import capture_logs

from spine import telemetry
from spine.certificates import Pair
from spine.config import Settings
from spine.errors import Invalid, Reason
from spine.identity import (
    CA_FILE,
    CERT_FILE,
    DEV_SERVER_NAME,
    KEY_FILE,
    Authority,
    Identity,
    is_due,
)
from spine.policy import Role
from spine.runtime import Process, Runtime
from spine.server import build_server, connect
from spine.services.certificates import ServedCertificate
from tests.helpers.certificates import (
    DAY,
    NAME,
    corporate,
    issued,
    serial,
    serving,
    shown,
    status,
    wrong_key,
)

NOW = datetime.now(UTC)
# Connections enough to meet each of the gRPC servers on a port more than once.
SERVERS_MET = 24


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.open_or_create(tmp_path / "identities")


@pytest.fixture
def client(authority: Authority) -> Identity:
    return authority.issue_client(Role.DATA_USER, "ACME")


class Static:
    """The naive server: what it was given at its start, for ever."""

    def __init__(self, identity: Identity) -> None:
        self._identity = identity

    def credentials(self) -> grpc.ServerCredentials:
        return grpc.ssl_server_credentials(
            [(self._identity.key, self._identity.cert)],
            self._identity.ca,
            require_client_auth=True,
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
        for _ in range(SERVERS_MET):
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


class AsksNobody(ServedCertificate):
    """The naive server: renewing is all it thought of."""

    def credentials(self) -> grpc.ServerCredentials:
        def renewed() -> grpc.ServerCertificateConfiguration:
            self.look()
            return grpc.ssl_server_certificate_configuration(
                [(self.pair.key, self.pair.cert)], self.pair.ca
            )

        return grpc.dynamic_ssl_server_credentials(renewed(), renewed)


@pytest.mark.parametrize("naive", [False, True])
async def test_after_a_renewal_a_client_still_needs_a_certificate_of_the_authority(
    authority: Authority,
    client: Identity,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    naive: bool,
) -> None:
    if naive:
        monkeypatch.setattr("spine.server.ServedCertificate", AsksNobody)
    stranger = Authority.open_or_create(tmp_path / "other").issue_client(Role.DATA_USER, "ACME")
    # Refused by TLS, or let in as far as the check of the call.
    refused = grpc.StatusCode.UNAUTHENTICATED if naive else grpc.StatusCode.UNAVAILABLE
    async with serving(issued(authority, monkeypatch, DAY)) as port:
        issued(authority, monkeypatch, 2 * DAY)
        target = f"127.0.0.1:{port}"
        bare = grpc.ssl_channel_credentials(client.ca)
        async with grpc.aio.secure_channel(target, bare) as nobody:
            assert await status(nobody) is refused
        async with connect(target, stranger.folder, ca=client.folder / "ca.pem") as channel:
            assert await status(channel) is refused
        async with connect(target, client.folder) as channel:
            assert await status(channel) is (refused if naive else grpc.StatusCode.OK)


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


def another_caller(folder: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    issued(authority, monkeypatch, 2 * DAY, party="metering")


def ran_out(folder: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    issued(authority, monkeypatch, -DAY)


def torn(folder: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / CERT_FILE).write_bytes((folder / CERT_FILE).read_bytes()[:100])


def gone(folder: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / KEY_FILE).unlink()


def for_clients_only(folder: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    replaced(folder, authority._issue("other", Role.DSI, "dsi", ()))


def without_the_name(folder: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    replaced(folder, authority._issue("other", Role.DSI, "dsi", ("localhost",)))


def of_an_authority_left_out(
    folder: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    ca = (folder / CA_FILE).read_bytes()
    company = corporate(folder.parent / "company", monkeypatch)
    replaced(folder, company.issue_server(Role.DSI, "dsi"))
    (folder / CA_FILE).write_bytes(ca)


def replaced(folder: Path, by: Identity) -> None:
    for file in by.folder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())


@pytest.mark.parametrize("naive", [False, True])
@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (for_clients_only, "not one for a server"),
        (without_the_name, "does not name spine.energyos.internal"),
        (of_an_authority_left_out, "does not hold the authority"),
    ],
)
async def test_what_no_process_would_accept_is_not_taken_up(
    authority: Authority,
    client: Identity,
    monkeypatch: pytest.MonkeyPatch,
    spoil: Callable[..., None],
    said: str,
    naive: bool,
) -> None:
    first = issued(authority, monkeypatch, DAY)
    if naive:
        monkeypatch.setattr(Pair, "_check_accepted", lambda _: None)
    async with serving(first) as port:
        spoil(first.folder, authority, monkeypatch)
        target = f"127.0.0.1:{port}"
        with capture_logs() as lines:
            async with connect(target, client.folder, server_name=DEV_SERVER_NAME) as channel:
                served = grpc.StatusCode.UNAVAILABLE if naive else grpc.StatusCode.OK
                assert await status(channel) is served
        reasons = [line["reason"] for line in lines if line["event"] == "certificate.unfit"]
        assert naive or (len(reasons) == 1 and said in reasons[0])


async def test_where_the_certificate_brings_an_intermediate_the_path_is_for_the_callers_to_check(
    authority: Authority, client: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = issued(authority, monkeypatch, DAY)
    async with serving(first) as port:
        of_an_authority_left_out(first.folder, authority, monkeypatch)
        between = (first.folder.parent / "company/ca" / CERT_FILE).read_bytes()
        (first.folder / CERT_FILE).write_bytes(first.cert + between)
        trusted = first.folder.parent / "both.pem"
        trusted.write_bytes(client.ca + between)
        target, name = f"127.0.0.1:{port}", DEV_SERVER_NAME
        async with connect(target, client.folder, ca=trusted, server_name=name) as channel:
            assert await status(channel) is grpc.StatusCode.OK
        async with connect(target, client.folder, server_name=name) as channel:
            assert await status(channel) is grpc.StatusCode.UNAVAILABLE


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


async def test_without_that_check_a_certificate_that_ran_out_would_be_shown(
    authority: Authority, client: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Pair, "check_follows", lambda *_: None)
    async with serving(issued(authority, monkeypatch, DAY)) as port:
        issued(authority, monkeypatch, -DAY)
        with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
            await asyncio.to_thread(shown, port, client)


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


# A process renews its own


class Gauge:
    """What a process says of its certificate, in seconds."""

    def __init__(self) -> None:
        self.said: list[float] = []

    def set(self, value: float) -> None:
        self.said.append(value)


@pytest.fixture
def gauge(monkeypatch: pytest.MonkeyPatch) -> Gauge:
    made = Gauge()
    monkeypatch.setattr(telemetry, "certificate_left_s", made)
    monkeypatch.setattr("spine.services.certificates.LOOK_EVERY_S", 0.0)
    return made


@asynccontextmanager
async def running(data_dir: Path) -> AsyncIterator[Process]:
    """A process that serves, without a log."""
    nothing: Any = None
    settings = Settings(data_dir=data_dir)
    process = Process(Runtime(settings, nothing, nothing, nothing, nothing), "dsi")
    await process.serve(Role.DSI, [], 0)
    try:
        yield process
    finally:
        await process.stop()


async def looked(gauge: Gauge) -> float:
    """What the gauge says after a look that begins from now on."""
    for _ in range(2):
        said = len(gauge.said)
        while len(gauge.said) == said:
            await asyncio.sleep(0)
    return gauge.said[-1]


async def never(*_: Any) -> None:
    """The naive process: a certificate is made at the start, and then no more."""


@pytest.mark.parametrize("naive", [False, True])
async def test_a_process_renews_its_certificate_while_it_runs(
    authority: Authority,
    client: Identity,
    tmp_path: Path,
    gauge: Gauge,
    monkeypatch: pytest.MonkeyPatch,
    naive: bool,
) -> None:
    if naive:
        monkeypatch.setattr("spine.runtime.kept", never)
    async with running(tmp_path) as process:
        assert process.server is not None
        old = issued(authority, monkeypatch, timedelta(hours=1)).cert
        if not naive:
            assert await looked(gauge) > 300 * DAY.total_seconds()
        now = await asyncio.to_thread(shown, process.server.port, client)
        assert (now == serial(old)) is naive


async def test_where_the_authority_is_elsewhere_a_process_takes_what_was_put_in_its_folder(
    authority: Authority,
    client: Identity,
    tmp_path: Path,
    gauge: Gauge,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = issued(authority, monkeypatch, timedelta(hours=1)).cert
    (tmp_path / "identities/ca").rename(tmp_path / "elsewhere")
    async with running(tmp_path) as process:
        assert process.server is not None
        port = process.server.port
        assert await asyncio.to_thread(shown, port, client) == serial(first)
        assert 0 < await looked(gauge) <= 3600
        second = issued(authority, monkeypatch, DAY).cert
        assert await looked(gauge) > 3600
        assert await asyncio.to_thread(shown, port, client) == serial(second)
        assert not (tmp_path / "identities/ca").exists()
        issued(authority, monkeypatch, -DAY)
        assert await looked(gauge) > 3600  # of what it shows, not of what lies there


@pytest.mark.parametrize("naive", [False, True])
async def test_a_process_without_a_certificate_makes_no_authority(
    tmp_path: Path, gauge: Gauge, monkeypatch: pytest.MonkeyPatch, naive: bool
) -> None:
    authority = tmp_path / "identities/ca"
    if naive:
        made = partial(Authority.open_or_create, tmp_path / "identities")
        monkeypatch.setattr(Runtime, "authority", lambda _: made())
        async with running(tmp_path):
            assert authority.exists()
        return
    with pytest.raises(Invalid, match="--new-authority") as error:
        async with running(tmp_path):
            pass
    assert error.value.reason is Reason.IDENTITY_MISSING
    assert not (tmp_path / "identities").exists()


@pytest.mark.parametrize("naive", [False, True])
async def test_a_certificate_from_elsewhere_stays_beside_an_authority(
    authority: Authority,
    tmp_path: Path,
    gauge: Gauge,
    monkeypatch: pytest.MonkeyPatch,
    naive: bool,
) -> None:
    company = corporate(tmp_path / "company", monkeypatch)
    theirs = company.issue_server(Role.DSI, "dsi", alias=NAME).folder
    caller = company.issue_client(Role.DATA_USER, "ACME")
    own = theirs.rename(tmp_path / "identities" / NAME)
    before = {path.name: path.read_bytes() for path in own.iterdir()}
    if naive:
        monkeypatch.setattr(Authority, "_is_from_elsewhere", lambda *_: False)
    async with running(tmp_path) as process:
        assert process.server is not None
        await looked(gauge)
        assert ({path.name: path.read_bytes() for path in own.iterdir()} == before) is not naive
        async with connect(f"127.0.0.1:{process.server.port}", caller.folder) as channel:
            served = grpc.StatusCode.UNAVAILABLE if naive else grpc.StatusCode.OK
            assert await status(channel) is served


async def test_a_process_goes_over_to_another_authority_while_it_runs(
    authority: Authority, client: Identity, tmp_path: Path, gauge: Gauge
) -> None:
    async with running(tmp_path) as process:
        assert process.server is not None
        target = f"127.0.0.1:{process.server.port}"
        (tmp_path / "identities/ca").rename(tmp_path / "lost")
        await looked(gauge)  # nothing is made in between
        assert not (tmp_path / "identities/ca").exists()
        again = Authority.open_or_create(tmp_path / "identities")
        await looked(gauge)
        async with connect(target, client.folder) as old:
            assert await status(old) is grpc.StatusCode.UNAVAILABLE
        fresh = again.issue_client(Role.DATA_USER, "ACME")
        async with connect(target, fresh.folder) as new:
            assert await status(new) is grpc.StatusCode.OK


@pytest.mark.parametrize("damaged", [CERT_FILE, KEY_FILE, CA_FILE])
async def test_a_process_makes_good_what_is_damaged_in_its_folder(
    authority: Authority, client: Identity, tmp_path: Path, gauge: Gauge, damaged: str
) -> None:
    own = Identity(tmp_path / "identities" / NAME)
    async with running(tmp_path) as process:
        assert process.server is not None
        before = serial(own.cert)
        (own.folder / damaged).write_bytes(b"torn")
        await looked(gauge)
        now = await asyncio.to_thread(shown, process.server.port, client)
        assert now == serial(own.cert) != before


async def test_a_process_that_cannot_renew_says_so_and_goes_on(
    authority: Authority,
    client: Identity,
    tmp_path: Path,
    gauge: Gauge,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with running(tmp_path) as process:
        assert process.server is not None
        old = issued(authority, monkeypatch, timedelta(hours=1)).cert
        await looked(gauge)
        (tmp_path / "identities/ca" / KEY_FILE).write_bytes(b"torn")
        old = issued(authority, monkeypatch, timedelta(hours=1)).cert
        with capture_logs() as lines:
            assert 0 < await looked(gauge) <= 3600
        assert "certificate.not_issued" in {line["event"] for line in lines}
        assert await asyncio.to_thread(shown, process.server.port, client) == serial(old)


def test_no_certificate_outlives_its_authority(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spine.issuing.CA_LIFE", DAY)
    authority = Authority.open_or_create(tmp_path)
    pair = Pair.read(authority.issue_server(Role.DSI, "dsi"))
    assert pair.not_after <= datetime.now(UTC) + DAY
