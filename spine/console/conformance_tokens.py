"""The checks of the technical layer, in order: one token from its grant to its revocation."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import grpc

from domains.consumers import tokens
from spine.console.client import stamp
from spine.console.conformance import (
    AGAIN_S,
    DATA_SIDE,
    REVOCATION_REACHES_S,
    SCHEME_OF,
    Check,
    Fails,
    NotRun,
    Subject,
)
from spine.consumers.v1 import consumers_pb2
from spine.dsi.v1 import dsi_pb2
from spine.errors import Invalid, Reason
from spine.ledger.note import Note
from spine.server import error_from
from spine.shared_trust.v1 import shared_trust_pb2
from spine.trust import Identifiers


def _one_log(subject: Subject) -> str:
    logs = {end: said.positions.log_id for end, said in subject.described.items()}
    if not all(logs.values()):
        raise NotRun("a side is given pairwise identifiers, and no log id in the clear")
    if len(set(logs.values())) > 1:
        came = ", ".join(f"{end} {log_id.hex()[:16]}" for end, log_id in logs.items())
        raise Fails(came, "the two sides fold different logs")
    return str(next(iter(logs.values())).hex()[:16])


def _token(subject: Subject) -> str:
    box = subject.sandbox
    if not (box.mpxn and box.consumer and box.data_user):
        raise NotRun("it needs --mpxn, --consumer and --data-user")
    now = datetime.now(UTC).replace(microsecond=0)
    consent_id = f"conformance-{uuid.uuid4().hex}"
    terms = {
        "purpose": box.purpose,
        "categories": ["HH_CONSUMPTION"],
        "history_from": stamp(now - timedelta(days=1)),
        "valid_from": stamp(now - timedelta(seconds=1)),
        "expires": stamp(now + timedelta(hours=1)),
    }
    grant = consumers_pb2.GrantConsentRequest(
        idempotency_key=consent_id,
        consent_id=consent_id,
        mpxns=box.mpxns,
        data_user=box.data_user,
        terms=terms,
    )
    subject.tried = consent_id
    subject.ends.consumers("GrantConsent", grant, box.consumer)
    subject.consent_id = consent_id
    wanted = shared_trust_pb2.IssueConsentTokenRequest(consent_id=consent_id, mpxns=box.mpxns)
    subject.token = subject.ends.token(wanted, box.data_user).token
    try:
        said = tokens.read(subject.token)
    except Invalid as unread:
        raise Fails("no token", unread.message) from None
    granted = (consent_id, box.data_user, box.mpxns, box.purpose, ("HH_CONSUMPTION",))
    named = (said.consent_id, said.data_user, said.mpxns, said.purpose, said.categories)
    if named != granted:
        raise Fails(f"a token of {named}", f"what was granted is {granted}")
    return f"{len(subject.token)} characters, good until {said.good_until.isoformat()}"


def _made(subject: Subject) -> str:
    token: str = subject.token
    if not token:
        raise NotRun("no token was issued: see technical.token")
    return token


def _checked(subject: Subject, end: str, token: str, alias: str = "") -> Any:
    request = shared_trust_pb2.CheckConsentTokenRequest(token=token)
    return subject.ends.side(end, "CheckConsentToken", request, alias or subject.sandbox.data_user)


def _checked_by_both(subject: Subject) -> str:
    token = _made(subject)
    for end in SCHEME_OF:
        said = _checked(subject, end, token)
        if not said.valid:
            raise Fails(f"{end}: {said.reason}", "the token is genuine and its consent live")
        if tuple(leg.mpxn for leg in said.legs) != subject.sandbox.mpxns:
            came = f"{end}: {len(said.legs)} metering points"
            raise Fails(came, "the metering points are not those of the consent")
    return "valid on both sides, of the same metering points"


def _identifiers(subject: Subject) -> str:
    """One consent is one on both sides: by id, version, data user and meter, at every meter."""
    token, box = _made(subject), subject.sandbox
    if len(box.mpxns) == 1:
        raise NotRun("it needs --other-mpxn, a second meter of the same home")
    granted = [(subject.consent_id, 1, box.data_user, mpxn) for mpxn in box.mpxns]
    for end in SCHEME_OF:
        legs = _checked(subject, end, token).legs
        found = [(leg.consent_id, leg.version, leg.data_user, leg.mpxn) for leg in legs]
        if found != granted:
            came = "; ".join(" ".join(map(str, leg)) for leg in found)
            raise Fails(f"{end}: {came or 'nothing'}", "it is not the one consent that was granted")
    return f"one consent at {len(granted)} metering points, the same on both sides"


def _tampered(subject: Subject) -> str:
    forged = _forged(_made(subject))
    for end in SCHEME_OF:
        said = _checked(subject, end, forged)
        if said.valid or said.reason != Reason.TOKEN_NOT_OURS:
            raise Fails(f"{end}: {said.reason or 'valid'}", "its time was changed after signing")
    return "TOKEN_NOT_OURS on both sides"


def _forged(token: str) -> str:
    """The same token, but good for a day longer than was signed."""
    said = tokens.read(token)
    longer = replace(said, good_until=said.good_until + timedelta(days=1))
    return str(Note(longer.text(), Note.parse(token).signatures))


def _stranger(subject: Subject) -> str:
    token, alias = _made(subject), subject.sandbox.stranger
    if not alias:
        raise NotRun("it needs --stranger, a party that the consent does not concern")
    # A party with pairwise identifiers may ask of no token at all.
    pairwise = subject.is_pairwise(alias)
    right = Reason.IDENTIFIERS_PAIRWISE if pairwise else Reason.NOT_PERMITTED
    for end in SCHEME_OF:
        for what, one in (("a genuine", token), ("a forged", _forged(token))):
            told = _told(subject, end, one, alias)
            if told != right:
                given = Identifiers.PAIRWISE if pairwise else Identifiers.MPXN
                why = f"to a stranger that governance gives {given} every token is {right}"
                raise Fails(f"{end}: {told} for {what} one", why)
    return f"{right}, for a genuine token and a forged one alike"


def _told(subject: Subject, end: str, token: str, alias: str) -> str:
    """Why that party is not told of a token; or what it learns of one."""
    try:
        said = _checked(subject, end, token, alias)
    except grpc.RpcError as error:
        if error_from(error).reason == Reason.IDENTIFIERS_PAIRWISE:
            return Reason.IDENTIFIERS_PAIRWISE
        raise
    return "its metering points" if said.legs else "valid" if said.valid else str(said.reason)


def _revoked(subject: Subject, consent_id: str) -> Any:
    """The answer to the consumer's revocation."""
    revoke = consumers_pb2.RevokeConsentRequest(
        idempotency_key=f"r-{uuid.uuid4().hex}",
        consent_id=consent_id,
        mpxns=subject.sandbox.mpxns,
    )
    return subject.ends.consumers("RevokeConsent", revoke, subject.sandbox.consumer)


def leave_nothing(subject: Subject) -> None:
    """Take back what may have been granted, whatever was answered and whatever failed since."""
    if subject.tried and not subject.revoked:
        with suppress(grpc.RpcError):
            _revoked(subject, subject.tried)


def _revoke(subject: Subject) -> str:
    """Also where no token came of the consent."""
    if not subject.consent_id:
        raise NotRun("no consent was granted: see technical.token")
    answer = _revoked(subject, subject.consent_id)
    states = {leg.state for leg in answer.legs}
    if states != {"REVOKED"}:
        raise Fails(", ".join(sorted(states)) or "no state", "the consumer revoked it")
    subject.revoked = True
    return "acknowledged"


def _revocation_reaches(end: str) -> Callable[[Subject], str]:
    """A check of one side, right after the revocation was acknowledged."""

    def work(subject: Subject) -> str:
        token, began = _made(subject), time.monotonic()
        waited_s = subject.ends.waited_s
        if not subject.revoked:
            raise NotRun("the consent was not revoked: see technical.revoked")
        while True:
            try:
                said = _checked(subject, end, token)
                break
            except grpc.RpcError as error:
                late = time.monotonic() - began > REVOCATION_REACHES_S
                if late or error_from(error).code != "UNAVAILABLE":
                    raise
                time.sleep(AGAIN_S)
        took_s = time.monotonic() - began
        if said.valid:
            raise Fails("valid", "the revocation was acknowledged before it was asked")
        if said.reason != Reason.CONSENT_REVOKED:
            raise Fails(said.reason, "the reason is CONSENT_REVOKED")
        if took_s > REVOCATION_REACHES_S:
            if took_s - (subject.ends.waited_s - waited_s) <= REVOCATION_REACHES_S:
                raise NotRun(f"{end} was too busy to be timed: no after {took_s:.1f} s")
            raise Fails(f"no after {took_s:.1f} s", f"the limit is {REVOCATION_REACHES_S:g} s")
        return f"CONSENT_REVOKED after {took_s * 1000:.0f} ms, of {REVOCATION_REACHES_S:g} s"

    return work


def _read_refused(subject: Subject) -> str:
    _made(subject)
    if not subject.revoked:
        raise NotRun("the consent was not revoked: see technical.revoked")
    box = subject.sandbox
    read = dsi_pb2.GetMeteringPointRequest(
        mpxn=box.mpxn, purpose=box.purpose, basis="CONSENT", consent_id=subject.consent_id
    )
    try:
        subject.ends.dsi("GetMeteringPoint", read, box.data_user)
    except grpc.RpcError as error:
        said = error_from(error)
        if said.code == "PERMISSION_DENIED":
            return f"{said.code} {said.reason}"
        raise
    raise Fails("an answer", "a token is no permission, and the consent is revoked")


TECHNICAL: Final = (
    Check("technical.one-log", "do both sides fold one log?", _one_log),
    Check("technical.token", "does a token say exactly what was granted?", _token),
    Check("technical.checked-by-both", "do both sides find it valid?", _checked_by_both),
    Check("technical.identifiers", "do both sides mean the same by each identifier?", _identifiers),
    Check("technical.tampered", "do both sides refuse one that was changed?", _tampered),
    Check("technical.stranger", "does a stranger learn nothing of it?", _stranger),
    Check("technical.revoked", "does the consumer's revocation stand?", _revoke),
    *(
        Check(
            f"technical.revocation-at-{end}",
            f"does {end} refuse the token once the revocation is acknowledged?",
            _revocation_reaches(end),
        )
        for end in SCHEME_OF
    ),
    Check("technical.read", f"does {DATA_SIDE} refuse a read after that?", _read_refused),
)
