"""A signature holds for one record at one place of one log, and for nothing else."""

import hashlib
from dataclasses import dataclass, replace
from itertools import product
from struct import pack

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st
from nacl.bindings import crypto_core_ed25519_add, crypto_scalarmult_ed25519_base_noclamp
from nacl.exceptions import BadSignatureError
from nacl.signing import VerifyKey

from spine.errors import Bug
from spine.event import signed_bytes
from spine.signing import Signer, public_bytes, sign, signed_headers, verify
from spine.trust import key_id

SIGNER = Signer.of(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
Headers = tuple[tuple[str, bytes], ...]


@dataclass(frozen=True)
class Signed:
    """All that a signature covers."""

    log_id: bytes = bytes(range(32))
    topic: str = "consumers.events.v1"
    partition: int = 2
    key: bytes | None = b"1200012345678"
    headers: Headers = (("t", b"f"), ("ce_type", b"consumers.ConsentGranted"))
    value: bytes | None = b"\x00\x00\x00\x00\x07 a value"

    def append(self) -> "Signed":
        """The same, with its headers complete."""
        headers = signed_headers(
            SIGNER,
            self.log_id,
            self.topic,
            self.partition,
            self.key,
            self.headers,
            self.value,
            1_790_000_000_123,
        )
        return replace(self, headers=headers)

    def holds(self) -> bool:
        """What a fold finds."""
        covered = signed_bytes(
            self.log_id, self.topic, self.partition, self.key, self.headers, self.value
        )
        return verify(SIGNER.public_key, covered, dict(self.headers)["sig"])


RECORD = Signed().append()


def flipped(content: bytes) -> list[bytes]:
    """The content with each of its bits flipped in turn."""
    return [
        content[:i] + bytes([content[i] ^ (1 << bit)]) + content[i + 1 :]
        for i in range(len(content))
        for bit in range(8)
    ]


def with_header(place: int, header: tuple[str, bytes]) -> Signed:
    headers = list(RECORD.headers)
    headers[place] = header
    return replace(RECORD, headers=tuple(headers))


def test_a_signed_record_holds() -> None:
    assert RECORD.holds()
    assert Signed(key=None, value=None).append().holds()


def test_the_signer_adds_key_id_producer_time_and_at_last_the_signature() -> None:
    assert RECORD.headers[:2] == Signed().headers
    assert [name for name, _ in RECORD.headers[2:]] == ["kid", "pt", "sig"]
    added = dict(RECORD.headers)
    assert added["kid"] == key_id(SIGNER.public_key) == SIGNER.kid
    assert added["pt"] == pack(">q", 1_790_000_000_123)
    assert len(added["sig"]) == 64


def test_no_bit_of_log_id_key_or_value_can_change() -> None:
    assert RECORD.key and RECORD.value
    assert not any(replace(RECORD, log_id=tampered).holds() for tampered in flipped(RECORD.log_id))
    assert not any(replace(RECORD, key=tampered).holds() for tampered in flipped(RECORD.key))
    assert not any(replace(RECORD, value=tampered).holds() for tampered in flipped(RECORD.value))


@pytest.mark.parametrize("place", range(len(RECORD.headers)))
def test_no_bit_of_a_header_can_change(place: int) -> None:
    name, content = RECORD.headers[place]
    for tampered in flipped(content):
        assert not with_header(place, (name, tampered)).holds()
    if name != "sig":
        for i in range(len(name)):
            renamed = name[:i] + chr(ord(name[i]) ^ 1) + name[i + 1 :]
            assert not with_header(place, (renamed, content)).holds()


def test_no_byte_of_the_topic_can_change() -> None:
    for i, letter in enumerate(RECORD.topic):
        topic = RECORD.topic[:i] + chr(ord(letter) ^ 1) + RECORD.topic[i + 1 :]
        assert not replace(RECORD, topic=topic).holds()


@pytest.mark.parametrize("bit", range(31))
def test_no_bit_of_the_partition_can_change(bit: int) -> None:
    assert not replace(RECORD, partition=RECORD.partition ^ (1 << bit)).holds()


@pytest.mark.parametrize(
    "tampered",
    [
        replace(RECORD, key=None),
        replace(RECORD, key=b""),
        replace(RECORD, value=None),
        replace(RECORD, value=b""),
        replace(RECORD, headers=RECORD.headers[1:]),
        replace(RECORD, headers=(*RECORD.headers, ("x", b""))),
        replace(RECORD, headers=(RECORD.headers[1], RECORD.headers[0], *RECORD.headers[2:])),
    ],
    ids=["no key", "empty key", "no value", "empty value", "header gone", "one more", "order"],
)
def test_nothing_can_be_left_out_added_or_moved(tampered: Signed) -> None:
    assert not tampered.holds()


@pytest.mark.parametrize("name", ["kid", "pt", "sig"])
def test_a_record_is_signed_once(name: str) -> None:
    with pytest.raises(Bug):
        Signed(headers=((name, b""),)).append()


@given(public_key=st.binary(max_size=64), signature=st.binary(max_size=80))
def test_what_is_no_key_or_no_signature_is_a_no(public_key: bytes, signature: bytes) -> None:
    assert not verify(public_key, b"message", signature)
    assert not verify(SIGNER.public_key, b"message", signature)


# Encodings of the eight points of small order, and of three of them by larger numbers than need be:
# with one of them as the key, a signature that nobody made can hold.
P, ORDER = 2**255 - 19, 2**252 + 27742317777372353535851937790883648493
OF_ORDER_8 = int.from_bytes(
    bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"), "little"
)
SMALL_ORDER = [
    (y + (sign << 255)).to_bytes(32, "little")
    for y in (0, 1, P - 1, OF_ORDER_8, P - OF_ORDER_8, P, P + 1)
    for sign in (0, 1)
]


def openssl(public_key: bytes, message: bytes, signature: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def libsodium(public_key: bytes, message: bytes, signature: bytes) -> bool:
    try:
        VerifyKey(public_key).verify(message, signature)
    except (BadSignatureError, ValueError):
        return False
    return True


def test_points_of_small_order_are_judged_as_they_always_were() -> None:
    cases = [
        (key, b"message %d" % n, point + bytes(32))
        for key, point, n in product(SMALL_ORDER, SMALL_ORDER, range(8))
    ]
    always = [openssl(*case) for case in cases]
    assert any(always)
    assert [verify(*case) for case in cases] == always
    assert not any(libsodium(*case) for case in cases), "alone it would judge otherwise"


@pytest.mark.parametrize("moved", [False, True])
def test_libsodium_says_yes_to_nothing_that_openssl_refuses(moved: bool) -> None:
    """Some libraries multiply by eight first, and let a point pass that was moved by one of small
    order: a log would be folded otherwise by who has such a one.
    """
    secret = bytearray(hashlib.sha512(bytes(range(32))).digest()[:32])
    secret[0] &= 248
    secret[31] = secret[31] & 127 | 64
    nonce = int.from_bytes(b"\x05" * 32, "little") % ORDER
    point = crypto_scalarmult_ed25519_base_noclamp(nonce.to_bytes(32, "little"))
    if moved:
        point = crypto_core_ed25519_add(point, OF_ORDER_8.to_bytes(32, "little"))
    said = hashlib.sha512(point + SIGNER.public_key + b"message").digest()
    challenge = int.from_bytes(said, "little") % ORDER
    number = (nonce + challenge * int.from_bytes(secret, "little")) % ORDER
    case = SIGNER.public_key, b"message", point + number.to_bytes(32, "little")
    assert openssl(*case) is libsodium(*case) is verify(*case) is not moved


@given(
    message=st.binary(max_size=300),
    signature=st.one_of(st.none(), st.binary(min_size=64, max_size=64)),
    more=st.integers(0, 15),
)
def test_the_quick_yes_is_one_of_openssl_too(
    message: bytes, signature: bytes | None, more: int
) -> None:
    """Also where the number in a signature has the group's order added to it."""
    signed = signature or sign(SIGNER.private, message)
    number = int.from_bytes(signed[32:], "little") + more * ORDER
    case = signed[:32] + (number % 2**256).to_bytes(32, "little")
    assert verify(SIGNER.public_key, message, case) == openssl(SIGNER.public_key, message, case)
    if libsodium(SIGNER.public_key, message, case):
        assert openssl(SIGNER.public_key, message, case)


def test_another_key_does_not_verify() -> None:
    other = Ed25519PrivateKey.generate()
    signature = sign(other, b"message")
    assert verify(public_bytes(other), b"message", signature)
    assert not verify(SIGNER.public_key, b"message", signature)


def test_a_signer_does_not_show_its_key() -> None:
    assert repr(SIGNER) == f"Signer({SIGNER.kid.hex()})"
