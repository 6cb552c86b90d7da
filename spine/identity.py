"""Who is who: certificates of callers and servers, and the files that hold private keys.

A caller is its certificate's one URI name, `energyos://<role>/<party>`, and nothing a request says.
TLS checks a certificate at the handshake only; `caller_of` checks it again on every call, because a
connection can outlive what opened it.

Opening a log makes a development authority with it, so that the smallest set-up takes the same
paths as the largest; nothing else makes one unless it is asked to. Its keys are files of mode 0600
below the data folder; a folder of keys appears whole or not at all, so processes may start side by
side. A certificate from elsewhere is replaced by command only.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.types import (
    CertificatePublicKeyTypes,
    PrivateKeyTypes,
)
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID

from spine.errors import Invalid, Reason, Unauthenticated
from spine.files import appear, write_private
from spine.issuing import (
    AUTHORITY,
    alternative_names,
    common_name,
    new_authority,
    new_leaf,
    private_pem,
)
from spine.policy import Role

SCHEME = "energyos"
# A name in every server certificate of a development authority, for clients that reach a server
# under an address its certificate does not name.
DEV_SERVER_NAME = "spine.energyos.internal"
LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")

CERT_FILE = "cert.pem"
KEY_FILE = "key.pem"
CA_FILE = "ca.pem"
CA_ALIAS = "ca"
# Names that only the servers of the installation bear.
SERVER_PREFIX = "server-"

# An identity with less than a third of its life left is made anew.
LIFE_PARTS = 3

RSA_BITS_MIN = 2048
CERTIFICATES_CACHED_MAX = 1024

_PARTY = re.compile(r"[A-Za-z0-9._-]{3,64}")
_ALIAS = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_URI = re.compile(rf"{SCHEME}://([a-z_]{{1,32}})/({_PARTY.pattern})")


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls: role and party by the certificate's URI name, and the certificate's SHA-256.

    `forwarded_by` is the server that took the call and vouches for the caller; empty if it is ours.
    """

    role: Role
    party: str
    fingerprint: bytes
    forwarded_by: str = ""

    def __str__(self) -> str:
        return f"{self.role}/{self.party}"


@dataclass(frozen=True, slots=True)
class _Checked:
    """A certificate whose content is sound; whether it is in date depends on when it is asked."""

    caller: Caller
    not_before: datetime
    not_after: datetime


def caller_of(auth_context: Mapping[str, Iterable[bytes]], now: datetime) -> Caller:
    """The caller by the certificate of the connection, checked as of `now`."""
    presented = list(auth_context.get("x509_pem_cert", ()))
    if len(presented) != 1:
        raise _unauthenticated("a client certificate is required")
    checked = _check(bytes(presented[0]))
    if not checked.not_before <= now <= checked.not_after:
        raise _unauthenticated("the client certificate is not valid at this time")
    return checked.caller


def caller_in(pem: bytes) -> Caller:
    """The caller that a certificate names, in date or not; Unauthenticated if none."""
    return _check(pem).caller


def _unauthenticated(message: str) -> Unauthenticated:
    return Unauthenticated(Reason.IDENTITY_MISSING, message)


@lru_cache(CERTIFICATES_CACHED_MAX)
def _check(pem: bytes) -> _Checked:
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        role, party = _name_of(certificate)
        sound = _is_client(certificate) and _is_strong(certificate.public_key())
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise _unauthenticated("the client certificate cannot be read") from error
    if not sound:
        raise _unauthenticated("the certificate is not one for a client of the spine")
    return _Checked(
        Caller(role, party, certificate.fingerprint(hashes.SHA256())),
        certificate.not_valid_before_utc,
        certificate.not_valid_after_utc,
    )


def _name_of(certificate: x509.Certificate) -> tuple[Role, str]:
    """Role and party from the one URI name. The common name says nothing."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        raise _unauthenticated("the client certificate has no URI name") from None
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1:
        raise _unauthenticated("the client certificate must have exactly one URI name")
    parts = _URI.fullmatch(uris[0])
    if parts is None or parts[1] not in set(Role):
        raise _unauthenticated(f"the URI name must read {SCHEME}://<role>/<party>")
    return Role(parts[1]), parts[2]


def _is_client(certificate: x509.Certificate) -> bool:
    """A leaf, made for authenticating as a client."""
    try:
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except x509.ExtensionNotFound:
        return False
    return ExtendedKeyUsageOID.CLIENT_AUTH in usage and not constraints.ca


def _is_strong(key: CertificatePublicKeyTypes) -> bool:
    if isinstance(key, rsa.RSAPublicKey):
        return key.key_size >= RSA_BITS_MIN
    return isinstance(key, ec.EllipticCurvePublicKey) and isinstance(
        key.curve, ec.SECP256R1 | ec.SECP384R1
    )


@dataclass(frozen=True, slots=True)
class Identity:
    """A folder with a certificate, its private key and the authority that others are checked by."""

    folder: Path

    @property
    def stamp(self) -> tuple[tuple[int, int, int] | None, ...]:
        """Another one whenever one of the three files was replaced."""
        return tuple(_stamp(self.folder / name) for name in (CERT_FILE, KEY_FILE, CA_FILE))

    @property
    def cert(self) -> bytes:
        """The certificate, PEM."""
        return (self.folder / CERT_FILE).read_bytes()

    @property
    def key(self) -> bytes:
        """The private key, PEM."""
        return (self.folder / KEY_FILE).read_bytes()

    @property
    def ca(self) -> bytes:
        """The authority's certificate, PEM."""
        return (self.folder / CA_FILE).read_bytes()

    @property
    def caller(self) -> Caller:
        """Who a server takes the holder for; Unauthenticated if for nobody."""
        return caller_in(self.cert)


def _stamp(file: Path) -> tuple[int, int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def is_due(not_before: datetime, not_after: datetime, now: datetime) -> bool:
    """Whether so little of its life is left that a certificate is made anew."""
    return not_after - now < (not_after - not_before) / LIFE_PARTS


class Authority:
    """A development certificate authority over `<identities>/<alias>/{cert,key,ca}.pem`."""

    def __init__(
        self, identities: Path, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey
    ) -> None:
        self._identities = identities
        self._certificate = certificate
        self._key = key

    @staticmethod
    def is_at_hand(identities: Path) -> bool:
        """Whether the key of the authority of this folder is there."""
        return (identities / CA_ALIAS / KEY_FILE).exists()

    @classmethod
    def open_or_create(cls, identities: Path) -> Self:
        """The authority of this folder, generated if there is none: for who opens a log, or is told
        to make one. Everybody else opens what is there.
        """
        if not (identities / CA_ALIAS).exists():
            cert, key = new_authority()
            appear(identities / CA_ALIAS, {CERT_FILE: cert, KEY_FILE: key})
        return cls.open(identities)

    @classmethod
    def open(cls, identities: Path) -> Self:
        """The authority of this folder; Invalid(IDENTITY_MISSING) if none that is of use."""
        home = Identity(identities / CA_ALIAS)
        try:
            certificate = x509.load_pem_x509_certificate(home.cert)
            key = key_of(certificate, home.key)
        except (OSError, ValueError, TypeError):
            key = None
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            message = (
                f"there is no development authority with its key in {home.folder}: `spine topics "
                "create` makes one with the log, `spine identity issue --new-authority` another"
            )
            raise Invalid(Reason.IDENTITY_MISSING, message)
        return cls(identities, certificate, key)

    @property
    def ca(self) -> bytes:
        """The authority's certificate, PEM."""
        return self._certificate.public_bytes(Encoding.PEM)

    def issue_client(
        self, role: Role, party: str, alias: str | None = None, *, anew: bool = False
    ) -> Identity:
        """The identity of a party in a role, kept as `alias` (the party if not given).

        One that still serves or is from elsewhere stays, unless it is wanted `anew`.
        Invalid(FIELD_INVALID) for a name that is malformed, a server's, or another party's.
        """
        self.check_free(alias or party, role, party)
        return self._issue(alias or party, role, party, (), anew=anew)

    def check_free(self, alias: str, role: Role, party: str | None = None) -> None:
        """Invalid(FIELD_INVALID) unless a client could be given that name; any party if None."""
        if not _ALIAS.fullmatch(alias) or alias == CA_ALIAS or alias.startswith(SERVER_PREFIX):
            message = "a name is up to 64 of A-Z a-z 0-9 . _ -, and not one of a server"
            raise Invalid(Reason.FIELD_INVALID, message, field="as")
        try:
            held = Identity(self._identities / alias).caller
        except (OSError, Unauthenticated):  # nothing is there, or what nobody would take
            return
        if held.role is not role or (party is not None and held.party != party):
            raise Invalid(Reason.FIELD_INVALID, f"the name {alias} is taken", field="as")

    def issue_server(
        self, role: Role, party: str, hosts: Sequence[str] = (), alias: str | None = None
    ) -> Identity:
        """The identity of a server at `hosts`. Servers call one another, so it is a client too.

        One that still serves or is from elsewhere stays.
        """
        named = dict.fromkeys((*LOCAL_HOSTS, DEV_SERVER_NAME, *hosts))
        return self._issue(alias or party, role, party, tuple(named))

    def _issue(
        self, alias: str, role: Role, party: str, hosts: tuple[str, ...], *, anew: bool = False
    ) -> Identity:
        if not _PARTY.fullmatch(party):
            raise Invalid(
                Reason.FIELD_INVALID, "a party is 3 to 64 of A-Z a-z 0-9 . _ -", field="party"
            )
        home = self._identities / alias
        names = alternative_names(f"{SCHEME}://{role}/{party}", hosts)
        if anew or not (self._is_from_elsewhere(home) or self._serves(home, names)):
            cert, key = new_leaf(self._certificate, self._key, party, names, server=bool(hosts))
            appear(home, {CERT_FILE: cert, KEY_FILE: key, CA_FILE: self.ca}, replace=True)
        return Identity(home)

    def _is_from_elsewhere(self, home: Path) -> bool:
        """Whether neither this authority nor another of our own making issued what is there; by
        ca.pem while cert.pem is being replaced.
        """
        for name in (CERT_FILE, CA_FILE):
            try:
                issuer = x509.load_pem_x509_certificate((home / name).read_bytes()).issuer
            except (OSError, ValueError):
                continue
            return issuer not in (self._certificate.subject, common_name(AUTHORITY))
        return False

    def _serves(self, home: Path, names: x509.SubjectAlternativeName) -> bool:
        """Whether what is there is whole and ours, says the same, and has time left."""
        found = Identity(home)
        try:
            held = x509.load_pem_x509_certificate(found.cert)
            held.verify_directly_issued_by(self._certificate)
            x509.load_pem_x509_certificates(found.ca)
            if key_of(held, found.key) is None:
                return False
            said = held.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except (OSError, ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
            return False
        span = held.not_valid_before_utc, held.not_valid_after_utc
        return said == names and not is_due(*span, datetime.now(UTC))


def key_of(certificate: x509.Certificate, pem: bytes) -> PrivateKeyTypes | None:
    """The private key in the PEM, None if it is another certificate's. ValueError or TypeError if
    none can be read.
    """
    key = load_pem_private_key(pem, None)
    return key if key.public_key() == certificate.public_key() else None


def load_or_create_signing_key(path: Path) -> Ed25519PrivateKey:
    """The Ed25519 key in this file; generated on first use, once, whoever starts beside us."""
    if not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
            fresh = Path(scratch) / path.name
            write_private(fresh, private_pem(Ed25519PrivateKey.generate()))
            with suppress(FileExistsError):  # another process was first: its key is the key
                path.hardlink_to(fresh)
    key = load_pem_private_key(path.read_bytes(), None)
    assert isinstance(key, Ed25519PrivateKey), "this file holds a key of another kind"
    return key


def signing_key(data_dir: Path, role: str) -> Ed25519PrivateKey:
    """The signing key of a process role, in `<data_dir>/keys/<role>.key`."""
    return load_or_create_signing_key(data_dir / "keys" / f"{role}.key")
