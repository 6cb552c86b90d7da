"""Who calls, by the word of the DSI server that checked the certificate (design section 7).

A passport is good for one call: it names the servers, the method and the digest of the request's
bytes, and is signed by a DSI key that the fold here has seen in the log. It counts only over a
connection under the certificate of the server that issued it.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from typing import Any, Final

from google.protobuf.message import DecodeError

from spine.dsi.v1 import members_pb2
from spine.errors import Reason, Unauthenticated
from spine.event import SignerRole
from spine.identity import Caller
from spine.policy import Role
from spine.signing import Signer, sign, verify
from spine.trust import SigningKey

SIGNED_PREFIX: Final = b"energyos-forward-v1\0"
# How far the clocks of two servers may be apart, as for records (rule 11).
TOLERANCE_MS: Final = 5_000
NONCE_BYTES: Final = 16
FINGERPRINT_BYTES: Final = 32


class Passports:
    """Issues passports of one server, and checks those that others issue for it.

    `key` is what the fold knows of a signing key. `clock_ms` is the wall clock, UTC.
    """

    def __init__(
        self,
        name: str,
        log_id: bytes,
        signer: Signer,
        key: Callable[[bytes], SigningKey | None],
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._name, self._log_id = name, log_id
        self._signer, self._key, self._clock_ms = signer, key, clock_ms
        self._seen: dict[bytes, int] = {}

    def issue(self, caller: Caller, to_member: str, method: str, request: bytes) -> Any:
        """The call, ready to forward to that server, with our word for who makes it."""
        passport = members_pb2.Passport(
            log_id=self._log_id,
            from_member=self._name,
            to_member=to_member,
            role=caller.role,
            party=caller.party,
            certificate_fingerprint=caller.fingerprint,
            method=method,
            request_digest=hashlib.sha256(request).digest(),
            issued_ms=self._clock_ms(),
            nonce=os.urandom(NONCE_BYTES),
        ).SerializeToString()
        return members_pb2.ForwardRequest(
            passport=passport,
            key_id=self._signer.kid,
            signature=sign(self._signer.private, SIGNED_PREFIX + passport),
            request=request,
        )

    def check(self, call: Any, server: Caller) -> tuple[Caller, str]:
        """Who makes a forwarded call, and of which method; `server` is whose connection it is.

        Unauthenticated(FORWARD_INVALID) if anything about it is not as it must be.
        """
        key = self._key(call.key_id)
        if key is None or key.revoked or key.role != SignerRole.DSI:
            raise _invalid("its signature is of no DSI server")
        if not verify(key.public_key, SIGNED_PREFIX + call.passport, call.signature):
            raise _invalid("its signature does not fit")
        try:
            passport = members_pb2.Passport.FromString(call.passport)
            role = Role(passport.role)
        except (DecodeError, ValueError):
            raise _invalid("it cannot be read") from None
        if passport.log_id != self._log_id or passport.to_member != self._name:
            raise _invalid("it is meant for another server")
        if server.role is not Role.DSI or passport.from_member != server.party:
            raise _invalid("another server issued it")
        if role is Role.DSI or len(passport.certificate_fingerprint) != FINGERPRINT_BYTES:
            raise _invalid("a server calls for somebody else")
        if passport.request_digest != hashlib.sha256(call.request).digest():
            raise _invalid("it was issued for another request")
        self._use_up(passport.nonce, passport.issued_ms)
        caller = Caller(
            role, passport.party, passport.certificate_fingerprint, passport.from_member
        )
        return caller, passport.method

    def _use_up(self, nonce: bytes, issued_ms: int) -> None:
        """Each passport counts once, and not long after it was issued."""
        now_ms = self._clock_ms()
        if abs(now_ms - issued_ms) > TOLERANCE_MS:
            raise _invalid("it was not issued just now")
        while self._seen and next(iter(self._seen.values())) < now_ms - 2 * TOLERANCE_MS:
            del self._seen[next(iter(self._seen))]
        if len(nonce) != NONCE_BYTES or nonce in self._seen:
            raise _invalid("it was used before")
        self._seen[nonce] = now_ms


def _invalid(message: str) -> Unauthenticated:
    return Unauthenticated(Reason.FORWARD_INVALID, f"the forwarded call is not valid: {message}")
