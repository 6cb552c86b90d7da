"""Ed25519 over records: who is responsible for a fact signs it, and every fold checks.

One signature a record. What it covers is `spine.event.signed_bytes`; this module holds keys and
does the arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from struct import Struct
from typing import Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from nacl.exceptions import BadSignatureError
from nacl.signing import VerifyKey

from spine.errors import Bug
from spine.event import KEY_ID_HEADER, PRODUCED_AT_HEADER, SIGNATURE_HEADER, signed_bytes
from spine.trust import key_id

# Parsing a public key costs a good part of a verification; a log knows a few dozen keys at a time.
PUBLIC_KEYS_CACHED_MAX = 1024
_ADDED_HERE = {KEY_ID_HEADER, PRODUCED_AT_HEADER, SIGNATURE_HEADER}
_PRODUCED_AT = Struct(">q")


def public_bytes(private_key: Ed25519PrivateKey) -> bytes:
    """The 32 bytes of the public half."""
    return private_key.public_key().public_bytes_raw()


def sign(private_key: Ed25519PrivateKey, message: bytes) -> bytes:
    """The 64 bytes of the signature."""
    return private_key.sign(message)


def verify(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Whether the signature is this key's over this message; malformed input is a no.

    libsodium says yes in half the time that OpenSSL takes, and to nothing that OpenSSL refuses.
    Its no may be about a point of small order, which RFC 8032 lets pass: then OpenSSL has the last
    word, so that what a log was once folded to it is folded to for ever.
    """
    try:
        _quick(public_key).verify(message, signature)
    except (BadSignatureError, ValueError):
        return _verified_by_openssl(public_key, message, signature)
    return True


def _verified_by_openssl(public_key: bytes, message: bytes, signature: bytes) -> bool:
    try:
        _parsed(public_key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


@lru_cache(PUBLIC_KEYS_CACHED_MAX)
def _quick(public_key: bytes) -> VerifyKey:
    return VerifyKey(public_key)


@lru_cache(PUBLIC_KEYS_CACHED_MAX)
def _parsed(public_key: bytes) -> Ed25519PublicKey:
    return Ed25519PublicKey.from_public_bytes(public_key)


@dataclass(frozen=True, slots=True, repr=False)
class Signer:
    """A process's signing key, with what the log knows it by."""

    private: Ed25519PrivateKey
    public_key: bytes
    kid: bytes

    @classmethod
    def of(cls, private: Ed25519PrivateKey) -> Self:
        """The signer that holds this key."""
        public_key = public_bytes(private)
        return cls(private, public_key, key_id(public_key))

    def __repr__(self) -> str:
        return f"Signer({self.kid.hex()})"


def signed_headers(
    signer: Signer,
    log_id: bytes,
    topic: str,
    partition: int,
    key: bytes | None,
    headers: tuple[tuple[str, bytes], ...],
    value: bytes | None,
    produced_at_ms: int,
) -> tuple[tuple[str, bytes], ...]:
    """The headers of a record ready to append: as given, key id, producer time, signature."""
    if not _ADDED_HERE.isdisjoint(name for name, _ in headers):
        raise Bug("a record is signed once, and its signer's headers are added by signing it")
    complete = (
        *headers,
        (KEY_ID_HEADER, signer.kid),
        (PRODUCED_AT_HEADER, _PRODUCED_AT.pack(produced_at_ms)),
    )
    covered = signed_bytes(log_id, topic, partition, key, complete, value)
    return (*complete, (SIGNATURE_HEADER, sign(signer.private, covered)))
