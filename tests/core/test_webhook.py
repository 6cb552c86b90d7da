"""A message can be checked with nothing of ours, and goes to no network that it must not reach."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Mapping
from functools import partial
from ipaddress import ip_address

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from spine.errors import Invalid
from spine.signing import sign, verify
from spine.webhook import (
    ID,
    SENT_AT,
    SIGNATURES,
    TOLERANCE_S,
    is_genuine,
    key_text,
    may_reach,
    networks,
    parsed_key,
    signed_headers,
)
from tests.helpers.records import BY_CONSUMERS, STRANGER

SENT = 1_767_225_600
BODY = b'{"type":"consent.changed"}'
HEADERS = signed_headers("f0" * 16, SENT, BODY, partial(sign, BY_CONSUMERS.private))
KEY = BY_CONSUMERS.public_key


def independently(headers: Mapping[str, str], body: bytes, key: str) -> bool:
    """The check as Standard Webhooks describes it, written without the module under test."""
    public = Ed25519PublicKey.from_public_bytes(b64decode(key.removeprefix("whpk_")))
    signed = b".".join(
        (headers["webhook-id"].encode(), headers["webhook-timestamp"].encode(), body)
    )
    for one in headers["webhook-signature"].split():
        version, _, signature = one.partition(",")
        if version == "v1a":
            try:
                public.verify(b64decode(signature), signed)
                return True
            except (InvalidSignature, ValueError):
                continue
    return False


def genuine(headers: Mapping[str, str], body: bytes = BODY, now: float | None = SENT) -> bool:
    return is_genuine(headers, body, KEY, now, verify)


def test_a_message_is_checked_with_nothing_of_ours() -> None:
    assert independently(HEADERS, BODY, key_text(KEY))
    assert genuine(HEADERS)
    assert parsed_key(key_text(KEY)) == KEY


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        (HEADERS, BODY + b" "),
        (HEADERS, BODY.replace(b"changed", b"granted")),
        (HEADERS | {ID: "f1" * 16}, BODY),
        (HEADERS | {SENT_AT: str(SENT + 1)}, BODY),
        (HEADERS | {SIGNATURES: HEADERS[SIGNATURES].replace("v1a", "v1")}, BODY),
        (HEADERS | {SIGNATURES: "v1a,"}, BODY),
        (HEADERS | {SIGNATURES: "v1a,no base64"}, BODY),
        ({**signed_headers("f0" * 16, SENT, BODY, partial(sign, STRANGER.private))}, BODY),
    ],
)
def test_what_was_changed_or_signed_by_a_stranger_is_found(
    headers: Mapping[str, str], body: bytes
) -> None:
    assert not genuine(headers, body)
    assert not independently(headers, body, key_text(KEY))


def test_one_of_several_signatures_is_enough_so_that_keys_can_change() -> None:
    old = signed_headers("f0" * 16, SENT, BODY, partial(sign, STRANGER.private))[SIGNATURES]
    assert genuine(HEADERS | {SIGNATURES: f"v1,AAAA {old} {HEADERS[SIGNATURES]}"})


def test_what_is_played_back_later_is_found_by_its_time() -> None:
    assert genuine(HEADERS, now=SENT + TOLERANCE_S)
    assert not genuine(HEADERS, now=SENT + TOLERANCE_S + 1)
    assert not genuine(HEADERS, now=SENT - TOLERANCE_S - 1)
    assert genuine(HEADERS, now=None)
    for odd in ("", "-1", "1e9", "١٧", str(SENT) + ".0"):
        assert not genuine(HEADERS | {SENT_AT: odd}, now=None)
    assert not is_genuine({}, BODY, KEY, None, verify)


def test_a_time_of_thousands_of_digits_is_no_time() -> None:
    endless = "9" * 5_000
    with pytest.raises(ValueError, match="digits"):
        int(endless)  # what is read without looking first
    assert not genuine(HEADERS | {SENT_AT: endless})
    assert not genuine(HEADERS | {SENT_AT: endless}, now=None)


@pytest.mark.parametrize("text", ["", "whpk_", "whpk_AAAA", key_text(KEY)[5:], "whsec_" + "A" * 44])
def test_what_is_no_key_is_refused(text: str) -> None:
    with pytest.raises(Invalid):
        parsed_key(text)


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "1.1.1.1", "2001:4860:4860::8888", "::ffff:8.8.8.8", "193.0.6.139"]
)
def test_a_public_address_may_be_reached(address: str) -> None:
    assert may_reach(address)


FORBIDDEN = [
    *("127.0.0.1", "127.255.255.254", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1"),
    *("169.254.169.254", "100.64.0.1", "192.0.2.1", "198.18.0.1", "224.0.0.1", "239.1.1.1"),
    *("240.0.0.1", "255.255.255.255"),
    *("::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "fec0::1", "ff02::1"),
    # What leads to an address of IPv4 is no way around.
    *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "::127.0.0.1", "2002:7f00:1::", "2002:a00:1::1"),
    *("2001:0:7f00:1::", "64:ff9b::7f00:1", "64:ff9b:1::a00:1", "2001:db8::1"),
    # What is public by the registry, or was, and no receiver's.
    *("192.0.0.192", "192.0.0.9", "192.88.99.1", "3fff::1", "5f00::1", "2001:20::1"),
    *("168.63.129.16", "::ffff:168.63.129.16", "2001:470::5efe:7f00:1", "2001:470::200:5efe:a00:1"),
    *("", "localhost", "2130706433", "0x7f.1", "127.1", "017700000001"),
]


@pytest.mark.parametrize("address", FORBIDDEN)
def test_no_other_address_may_be_reached(address: str) -> None:
    assert not may_reach(address)


def test_who_asks_only_whether_an_address_is_global_lets_some_through() -> None:
    found = [ip_address(text) for text in ("168.63.129.16", "2001:470::5efe:7f00:1")]
    assert all(each.is_global for each in found)


def test_a_network_that_is_set_may_be_reached_and_none_beside_it() -> None:
    also = networks("10.1.0.0/16, fd00::/8")
    for address in ("10.1.2.3", "::ffff:10.1.2.3", "fd00::1"):
        assert may_reach(address, also)
    for address in ("10.2.0.1", "127.0.0.1", "::1"):
        assert not may_reach(address, also)
    assert networks("") == ()
    for text in ("10.0.0.1/8", "everywhere", "10.0.0.0/8;::/0"):
        with pytest.raises(ValueError, match=r".+"):
            networks(text)
