"""A webhook on the wire, after Standard Webhooks 1.0: what is signed, how it is checked, where it
may go.

Three headers: an id, the same each time a message is sent; when it was sent, in seconds UTC; and
signatures over `id.timestamp.body`, of which ours is `v1a`, Ed25519. A receiver that checks the
signature and how old it is can be told nothing by anybody else, and nothing twice unnoticed.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping, Sequence
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

from spine.errors import Invalid, Reason

ID: Final = "webhook-id"
SENT_AT: Final = "webhook-timestamp"
SIGNATURES: Final = "webhook-signature"
VERSION: Final = "v1a"
KEY_PREFIX: Final = "whpk_"
KEY_BYTES: Final = 32
# What the clocks of both sides may be apart, and how long a message may be under way.
TOLERANCE_S: Final = 300

Network = IPv4Network | IPv6Network
LOOPBACK: Final = "127.0.0.0/8,::1/128"
# A time in seconds has ten digits until the year 2286.
SENT_AT_DIGITS_MAX: Final = 12
# What `ipaddress` holds for public, in this Python or in an older one, and no receiver can be at.
NOBODYS: Final = tuple(
    ip_network(name)
    for name in (
        "168.63.129.16/32",  # a cloud's own services, from within its machines
        "192.0.0.0/24",  # IETF protocol assignments, RFC 6890
        "192.88.99.0/24",  # relays of 6to4, RFC 7526
        "2001::/23",  # IETF protocol assignments, RFC 2928: Teredo, benchmarks, ORCHID
        "3fff::/20",  # documentation, RFC 9637
        "5f00::/16",  # segment routing, RFC 9602
    )
)
# The middle of an ISATAP address (RFC 5214), before the address of IPv4 that it leads to; the bit
# that says whether that is a global one is left out.
_ISATAP: Final = 0x0000_5EFE
_ISATAP_MASK: Final = 0xFDFF_FFFF


def signed_headers(
    message_id: str, sent_at_s: int, body: bytes, sign: Callable[[bytes], bytes]
) -> dict[str, str]:
    """The headers of a message; `sign` gives the Ed25519 signature of what it is handed."""
    signature = b64encode(sign(_signed(message_id, str(sent_at_s), body))).decode()
    return {ID: message_id, SENT_AT: str(sent_at_s), SIGNATURES: f"{VERSION},{signature}"}


def is_genuine(
    headers: Mapping[str, str],
    body: bytes,
    public_key: bytes,
    now_s: float | None,
    verify: Callable[[bytes, bytes, bytes], bool],
) -> bool:
    """Whether that key signed just this, within the tolerance of `now_s`; at any time if None."""
    sent_at = headers.get(SENT_AT, "")
    if not sent_at.isascii() or not sent_at.isdecimal() or len(sent_at) > SENT_AT_DIGITS_MAX:
        return False
    if now_s is not None and abs(now_s - int(sent_at)) > TOLERANCE_S:
        return False
    signed = _signed(headers.get(ID, ""), sent_at, body)
    for one in headers.get(SIGNATURES, "").split(" "):
        version, _, signature = one.partition(",")
        if version == VERSION and verify(public_key, signed, _decoded(signature)):
            return True
    return False


def key_text(public_key: bytes) -> str:
    """A public key as Standard Webhooks writes it."""
    return KEY_PREFIX + b64encode(public_key).decode()


def parsed_key(text: str) -> bytes:
    """The 32 bytes of such a key; Invalid(FIELD_INVALID) if it is none."""
    key = _decoded(text.removeprefix(KEY_PREFIX))
    if not text.startswith(KEY_PREFIX) or len(key) != KEY_BYTES:
        raise Invalid(Reason.FIELD_INVALID, f"a key reads {KEY_PREFIX} and base64", field="key")
    return key


def networks(text: str) -> tuple[Network, ...]:
    """Networks with commas, such as 10.0.0.0/8; ValueError if one is none."""
    named = (part.strip() for part in text.split(","))
    return tuple(ip_network(name) for name in named if name)


def may_reach(address: str, also: Sequence[Network] = ()) -> bool:
    """Whether a webhook may go to that IP address: a public one of one host, or in `also`.

    An address of IPv6 that leads to another of IPv4 is no way around: it counts as what it leads
    to, or not at all.
    """
    try:
        found = ip_address(address)
    except ValueError:
        return False
    if isinstance(found, IPv6Address) and found.ipv4_mapped is not None:
        found = found.ipv4_mapped
    if any(found in network for network in also):
        return True
    if isinstance(found, IPv6Address) and (found.sixtofour or found.teredo or found.is_site_local):
        return False
    if isinstance(found, IPv6Address) and int(found) >> 32 & _ISATAP_MASK == _ISATAP:
        return False
    if any(found in network for network in NOBODYS):
        return False
    return found.is_global and not found.is_multicast and not found.is_reserved


def _signed(message_id: str, sent_at: str, body: bytes) -> bytes:
    return f"{message_id}.{sent_at}.".encode() + body


def _decoded(text: str) -> bytes:
    try:
        return b64decode(text, validate=True)
    except ValueError:
        return b""
