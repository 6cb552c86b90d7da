"""Only a DSI server's word for a caller counts, for one call, once, and not for long."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from spine.dsi.forwarding import Answered
from spine.dsi.passports import SIGNED_PREFIX, TOLERANCE_MS, Passports
from spine.dsi.v1 import members_pb2
from spine.errors import Pushback, Reason, Unauthenticated
from spine.event import SignerRole
from spine.identity import Caller
from spine.policy import Role
from spine.signing import Signer, sign
from spine.trust import SigningKey

LOG = b"\x07" * 32
ADVISER = Caller(Role.DATA_USER, "bright-advice", b"\x01" * 32)
SERVER = Caller(Role.DSI, "dsi", b"\x02" * 32)
SIGNER = Signer.of(Ed25519PrivateKey.generate())
OTHER = Signer.of(Ed25519PrivateKey.generate())
NOW_MS = 1_700_000_000_000


class Clock:
    def __init__(self) -> None:
        self.now_ms = NOW_MS

    def __call__(self) -> int:
        return self.now_ms


def known(kid: bytes, *, role: str = SignerRole.DSI, revoked: bool = False) -> SigningKey | None:
    if kid == SIGNER.kid:
        return SigningKey(SIGNER.public_key, role, "dsi", revoked)
    return None


def server(name: str = "dsi-2", key: Any = known, clock: Any = None, log: bytes = LOG) -> Passports:
    return Passports(name, log, SIGNER, key, clock or Clock())


def issued(issuer: Passports | None = None, to: str = "dsi-2", caller: Caller = ADVISER) -> Any:
    return (issuer or server("dsi")).issue(caller, to, "GetReadings", b"request")


def resigned(call: Any, signer: Signer = SIGNER, **changes: Any) -> Any:
    """The same call with other words in its passport, signed all the same."""
    passport = members_pb2.Passport.FromString(call.passport)
    for name, value in changes.items():
        setattr(passport, name, value)
    call.passport = passport.SerializeToString()
    call.signature = sign(signer.private, SIGNED_PREFIX + call.passport)
    return call


def altered(call: Any, **changes: Any) -> Any:
    for name, value in changes.items():
        setattr(call, name, value)
    return call


def test_a_passport_says_who_calls_what_and_who_passes_it_on() -> None:
    caller, method = server().check(issued(), SERVER)
    assert caller == Caller(Role.DATA_USER, "bright-advice", b"\x01" * 32, forwarded_by="dsi")
    assert method == "GetReadings"


FORGED: dict[str, Callable[[], Any]] = {
    "another request": lambda: altered(issued(), request=b"other"),
    "another party": lambda: altered(
        issued(), passport=issued(caller=Caller(Role.DATA_USER, "x-y", bytes(32))).passport
    ),
    "no signature": lambda: altered(issued(), signature=b""),
    "an unknown key": lambda: altered(resigned(issued(), OTHER), key_id=OTHER.kid),
    "another's key id": lambda: resigned(issued(), OTHER),
    "for another server": lambda: issued(to="dsi-3"),
    "of another log": lambda: issued(server("dsi", log=bytes(32))),
    "issued by another server": lambda: issued(server("dsi-9")),
    "a server as the caller": lambda: issued(caller=SERVER),
    "an unknown role": lambda: resigned(issued(), role="king"),
    "no certificate": lambda: resigned(issued(), certificate_fingerprint=b""),
    "a short nonce": lambda: resigned(issued(), nonce=b"1"),
    "issued long ago": lambda: resigned(issued(), issued_ms=NOW_MS - TOLERANCE_MS - 1),
    "issued in the future": lambda: resigned(issued(), issued_ms=NOW_MS + TOLERANCE_MS + 1),
    "no passport": lambda: altered(
        issued(), passport=b"\xff", signature=sign(SIGNER.private, SIGNED_PREFIX + b"\xff")
    ),
}


@pytest.mark.parametrize("how", FORGED)
def test_a_forged_forward_is_refused(how: str) -> None:
    with pytest.raises(Unauthenticated) as refused:
        server().check(FORGED[how](), SERVER)
    assert refused.value.reason is Reason.FORWARD_INVALID


@pytest.mark.parametrize(
    "key",
    [
        lambda kid: known(kid, role=SignerRole.METERING),
        lambda kid: known(kid, revoked=True),
        lambda kid: None,
    ],
)
def test_only_a_standing_dsi_key_vouches(key: Any) -> None:
    with pytest.raises(Unauthenticated):
        server(key=key).check(issued(), SERVER)


@pytest.mark.parametrize(
    "holder", [ADVISER, Caller(Role.DATA_USER, "dsi", bytes(32)), Caller(Role.DSI, "x", bytes(32))]
)
def test_a_passport_counts_only_over_its_issuers_own_connection(holder: Caller) -> None:
    with pytest.raises(Unauthenticated):
        server().check(issued(), holder)


def test_a_passport_counts_once_however_long_it_is_kept() -> None:
    clock = Clock()
    receiver, call = server(clock=clock), issued()
    receiver.check(call, SERVER)
    for later_ms in (0, TOLERANCE_MS, TOLERANCE_MS + 1, 10 * TOLERANCE_MS):
        clock.now_ms = NOW_MS + later_ms
        with pytest.raises(Unauthenticated):
            receiver.check(call, SERVER)


def test_what_was_used_is_forgotten_once_it_could_not_count_any_more() -> None:
    clock = Clock()
    receiver = server(clock=clock)
    for number in range(20):
        clock.now_ms = NOW_MS + number * 3 * TOLERANCE_MS
        receiver.check(issued(server("dsi", clock=clock)), SERVER)
    assert len(receiver._seen) == 1


def test_without_the_checks_a_forgery_would_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """The naive receiver believes what is signed by nobody: the tests above can fail."""
    monkeypatch.setattr("spine.dsi.passports.verify", lambda *_: True)
    caller, _ = server().check(altered(issued(), signature=b""), SERVER)
    assert caller.party == "bright-advice"


def test_an_answer_that_was_long_on_its_way_is_not_passed_on() -> None:
    assert Answered("rows", None).fresh() == "rows"
    with pytest.raises(Pushback) as late:
        Answered("rows", 0.0).fresh()
    assert late.value.reason is Reason.PERMIT_EXPIRED
