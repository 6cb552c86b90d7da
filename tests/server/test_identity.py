"""Who gets in by which certificate, and how keys come to lie on the disk."""

import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from grpc_health.v1 import health_pb2, health_pb2_grpc

from spine.errors import Invalid, Reason, Unauthenticated
from spine.identity import (
    Authority,
    Caller,
    Identity,
    caller_of,
    load_or_create_signing_key,
    signing_key,
)
from spine.issuing import BACKDATED
from spine.policy import Role
from spine.server import build_server, connect

NOW = datetime.now(UTC)
DAY, HOUR = timedelta(days=1), timedelta(hours=1)
GOOD = "energyos://data_user/ACME"
CLIENT = ExtendedKeyUsageOID.CLIENT_AUTH
SERVER = ExtendedKeyUsageOID.SERVER_AUTH
PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def p256() -> PrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@dataclass(frozen=True)
class Certificate:
    """A client certificate, good unless told otherwise."""

    uris: tuple[str, ...] = (GOOD,)
    dns: tuple[str, ...] = ()
    common_name: str = "ACME"
    usages: tuple[x509.ObjectIdentifier, ...] | None = (CLIENT,)
    is_ca: bool = False
    not_before: datetime = NOW - DAY
    not_after: datetime = NOW + DAY
    new_key: Callable[[], PrivateKey] = p256
    self_signed: bool = False

    def pem(self, ca: Identity) -> tuple[bytes, bytes]:
        """Certificate and key, signed by that authority."""
        key = self.new_key()
        issuer = x509.load_pem_x509_certificate(ca.cert).subject
        signing = load_pem_private_key(ca.key, None)
        assert isinstance(signing, ec.EllipticCurvePrivateKey)
        builder = (
            x509.CertificateBuilder()
            .subject_name(name(self.common_name))
            .issuer_name(name(self.common_name) if self.self_signed else issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(self.not_before)
            .not_valid_after(self.not_after)
            .add_extension(x509.BasicConstraints(self.is_ca, None), critical=True)
        )
        names = [*map(x509.UniformResourceIdentifier, self.uris), *map(x509.DNSName, self.dns)]
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        if self.usages is not None:
            builder = builder.add_extension(x509.ExtendedKeyUsage(self.usages), critical=False)
        certificate = builder.sign(key if self.self_signed else signing, hashes.SHA256())
        return (
            certificate.public_bytes(Encoding.PEM),
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        )


# What is wrong, and whether TLS refuses it at the handshake or the parser at the call.
BAD = [
    ("expired", Certificate(not_after=NOW - timedelta(hours=1)), "tls"),
    ("not yet valid", Certificate(not_before=NOW + timedelta(hours=1)), "tls"),
    ("signed by itself", Certificate(self_signed=True), "tls"),
    ("for servers only", Certificate(usages=(SERVER,)), "tls"),
    ("no usage named", Certificate(usages=None), "parser"),
    ("two URI names", Certificate(uris=(GOOD, "energyos://auditor/ACME")), "parser"),
    ("the same URI name twice", Certificate(uris=(GOOD, GOOD)), "parser"),
    ("no name but the common one", Certificate(uris=(), common_name=GOOD), "parser"),
    ("a DNS name for a URI", Certificate(uris=(), dns=("acme.example",)), "parser"),
    ("wrong scheme", Certificate(uris=("spiffe://data_user/ACME",)), "parser"),
    ("scheme in capitals", Certificate(uris=("ENERGYOS://data_user/ACME",)), "parser"),
    ("unknown role", Certificate(uris=("energyos://registrar/ACME",)), "parser"),
    ("no role", Certificate(uris=("energyos:///ACME",)), "parser"),
    ("no party", Certificate(uris=("energyos://data_user/",)), "parser"),
    ("party too short", Certificate(uris=("energyos://data_user/AC",)), "parser"),
    ("party too long", Certificate(uris=("energyos://data_user/" + "A" * 65,)), "parser"),
    ("party with a slash", Certificate(uris=("energyos://data_user/ACME/x",)), "parser"),
    ("party with a query", Certificate(uris=("energyos://data_user/ACME?x=1",)), "parser"),
    ("party ends in a line feed", Certificate(uris=("energyos://data_user/ACME\n",)), "parser"),
    ("an authority", Certificate(is_ca=True), "parser"),
    ("RSA of 1024 bits", Certificate(new_key=lambda: rsa.generate_private_key(65537, 1024)), ""),
    ("an old curve", Certificate(new_key=lambda: ec.generate_private_key(ec.SECP192R1())), ""),
]


def refused(pem: bytes, now: datetime = NOW) -> bool:
    with pytest.raises(Unauthenticated) as error:
        caller_of({"x509_pem_cert": [pem]}, now)
    return error.value.reason is Reason.IDENTITY_MISSING


@pytest.fixture(scope="module")
def identities(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("spine") / "identities"


@pytest.fixture(scope="module")
def authority(identities: Path) -> Authority:
    return Authority.open_or_create(identities)


@pytest.fixture(scope="module")
def ca(authority: Authority, identities: Path) -> Identity:
    return Identity(identities / "ca")


def folder(home: Path, cert: bytes, key: bytes, trusted: bytes) -> Path:
    home.mkdir()
    (home / "cert.pem").write_bytes(cert)
    (home / "key.pem").write_bytes(key)
    (home / "ca.pem").write_bytes(trusted)
    return home


async def status_over_the_wire(authority: Authority, client: Path) -> grpc.StatusCode:
    """What a server says to a call made with that identity."""
    server = build_server(authority.issue_server(Role.DSI, "dsi-1"), [])
    await server.start()
    try:
        async with connect(f"127.0.0.1:{server.port}", client) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            await health.Check(health_pb2.HealthCheckRequest(), timeout=20)
    except grpc.aio.AioRpcError as error:
        return error.code()
    finally:
        await server.stop(0)
    return grpc.StatusCode.OK


async def test_a_good_certificate_gets_in(
    authority: Authority, ca: Identity, tmp_path: Path
) -> None:
    cert, key = Certificate().pem(ca)
    caller = caller_of({"x509_pem_cert": [cert]}, NOW)
    fingerprint = x509.load_pem_x509_certificate(cert).fingerprint(hashes.SHA256())
    assert caller == Caller(Role.DATA_USER, "ACME", fingerprint)
    client = folder(tmp_path / "good", cert, key, authority.ca)
    assert await status_over_the_wire(authority, client) is grpc.StatusCode.OK


@pytest.mark.parametrize(
    ("certificate", "refused_by"), [row[1:] for row in BAD], ids=[row[0] for row in BAD]
)
async def test_a_bad_certificate_does_not(
    authority: Authority, ca: Identity, tmp_path: Path, certificate: Certificate, refused_by: str
) -> None:
    cert, key = certificate.pem(ca)
    client = folder(tmp_path / "bad", cert, key, authority.ca)
    status = await status_over_the_wire(authority, client)
    expected = {"tls": grpc.StatusCode.UNAVAILABLE, "parser": grpc.StatusCode.UNAUTHENTICATED}
    assert status in ({expected[refused_by]} if refused_by else set(expected.values()))
    if refused_by != "tls":
        assert refused(cert)


@pytest.mark.parametrize("usages", [(SERVER,), ()], ids=["for servers only", "no usage"])
def test_what_tls_refuses_the_parser_refuses_too(
    ca: Identity, usages: tuple[x509.ObjectIdentifier, ...]
) -> None:
    cert, _ = Certificate(usages=usages or None).pem(ca)
    assert refused(cert)


async def test_another_authority_with_the_same_name_does_not_count(
    authority: Authority, tmp_path: Path
) -> None:
    other = Authority.open_or_create(tmp_path / "other").issue_client(Role.DATA_USER, "ACME")
    client = folder(tmp_path / "bad", other.cert, other.key, authority.ca)
    assert await status_over_the_wire(authority, client) is grpc.StatusCode.UNAVAILABLE


async def test_a_client_certificate_does_not_serve(
    authority: Authority, identities: Path, tmp_path: Path
) -> None:
    impostor = authority.issue_client(Role.DSI, "dsi-9")
    server = build_server(impostor, [])
    await server.start()
    async with connect(f"127.0.0.1:{server.port}", impostor.folder) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            health = health_pb2_grpc.HealthStub(channel)
            await health.Check(health_pb2.HealthCheckRequest(), timeout=20)
    await server.stop(0)
    assert error.value.code() is grpc.StatusCode.UNAVAILABLE


def test_a_certificate_that_runs_out_on_an_open_connection_is_refused(ca: Identity) -> None:
    cert, _ = Certificate().pem(ca)
    assert caller_of({"x509_pem_cert": [cert]}, NOW)
    assert refused(cert, NOW + 2 * DAY)
    assert refused(cert, NOW - 2 * DAY)


@pytest.mark.parametrize("presented", [{}, {"x509_pem_cert": []}, {"x509_pem_cert": [b"", b""]}])
def test_no_certificate_is_no_identity(presented: dict[str, list[bytes]]) -> None:
    with pytest.raises(Unauthenticated):
        caller_of(presented, NOW)


@pytest.mark.parametrize("rubbish", [b"", b"\x00", b"-----BEGIN CERTIFICATE-----\nAA==\n"])
def test_rubbish_is_no_identity(rubbish: bytes) -> None:
    assert refused(rubbish)


def test_a_server_is_a_caller_too(authority: Authority) -> None:
    server = authority.issue_server(Role.COORDINATOR, "metering", alias="metering")
    assert str(server.caller) == "coordinator/metering"


def test_an_identity_is_kept_under_its_alias_and_found_again(
    authority: Authority, identities: Path
) -> None:
    made = authority.issue_client(Role.CONSUMER, "3f9c1d", alias="resident")
    assert made.folder == identities / "resident"
    before = made.cert
    assert Authority.open_or_create(identities).issue_client(
        Role.CONSUMER, "3f9c1d", alias="resident"
    ) == Identity(identities / "resident")
    assert made.cert == before


@pytest.mark.parametrize("change", ["party", "authority", "hosts", "age", "key"])
def test_an_identity_that_no_longer_serves_is_made_anew(
    tmp_path: Path, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority.open_or_create(tmp_path)
    if change == "age":
        monkeypatch.setattr("spine.issuing.LIFE", BACKDATED / 2 - HOUR)
    before = authority.issue_server(Role.DSI, "dsi-1", alias="dsi").cert
    party = "dsi-1"
    hosts: tuple[str, ...] = ()
    if change == "party":
        party = "dsi-2"
    elif change == "hosts":
        hosts = ("dsi.example",)
    elif change == "key":
        other = authority.issue_server(Role.DSI, "dsi-1", alias="other")
        (tmp_path / "dsi" / "key.pem").write_bytes(other.key)
    elif change == "authority":
        (tmp_path / "ca").rename(tmp_path / "old")
        authority = Authority.open_or_create(tmp_path)
    after = authority.issue_server(Role.DSI, party, hosts, alias="dsi")
    assert after.cert != before
    assert after.ca == authority.ca


@pytest.mark.parametrize("alias", ["ca", "..", "../x", ".hidden", "a/b", "x" * 65])
def test_an_alias_stays_in_its_folder(authority: Authority, alias: str) -> None:
    with pytest.raises(Invalid):
        authority.issue_client(Role.DATA_USER, "ACME", alias)


@pytest.mark.parametrize("party", ["", "AC", "A" * 65, "a/b", "a b", "ACME\n", "ÄCME"])
def test_nothing_is_issued_that_no_server_would_take(authority: Authority, party: str) -> None:
    with pytest.raises(Invalid):
        authority.issue_client(Role.DATA_USER, party, alias="nobody")


def test_private_files_are_their_owners_alone(tmp_path: Path) -> None:
    authority = Authority.open_or_create(tmp_path / "identities")
    authority.issue_client(Role.DATA_USER, "ACME")
    signing_key(tmp_path, "dsi")
    for path in tmp_path.rglob("*"):
        wanted = 0o700 if path.is_dir() else 0o600
        assert stat.S_IMODE(path.stat().st_mode) == wanted, path
    assert sorted(p.name for p in (tmp_path / "identities").iterdir()) == ["ACME", "ca"]
    assert [p.name for p in (tmp_path / "keys").iterdir()] == ["dsi.key"]


def test_processes_that_start_side_by_side_agree(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        keys = list(
            pool.map(lambda _: load_or_create_signing_key(tmp_path / "keys/dsi.key"), range(8))
        )
        cas = list(pool.map(lambda _: Authority.open_or_create(tmp_path / "ids").ca, range(8)))
    assert len({key.private_bytes_raw() for key in keys}) == 1
    assert len(set(cas)) == 1
