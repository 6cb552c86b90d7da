"""A signature holds for one record at one place of one log, and for nothing else."""

from dataclasses import dataclass, replace
from struct import pack

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

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


def test_another_key_does_not_verify() -> None:
    other = Ed25519PrivateKey.generate()
    signature = sign(other, b"message")
    assert verify(public_bytes(other), b"message", signature)
    assert not verify(SIGNER.public_key, b"message", signature)


def test_a_signer_does_not_show_its_key() -> None:
    assert repr(SIGNER) == f"Signer({SIGNER.kid.hex()})"
