"""A receipt of a consent: what the consumer keeps, and anybody can check without asking us.

A signed note (C2SP signed-note, Ed25519) of lines `name: value`, after the record and receipt of
ISO/IEC TS 27560: which consent of which meter, to whom and for what, how it stands and since when,
what was shown, and the place in the log as of which that is so. It names nobody: the consumer by
reference, the notice by its SHA-256. The signature is the coordinator's, by the key that signs its
facts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from domains.consumers.chain import HASH_LINE, broken, lines, record_of
from domains.consumers.views import shown_state
from spine.errors import Invalid, Reason
from spine.gb import iso_milliseconds
from spine.ledger.note import ED25519, Note, Sign, VerifierKey, Verify, sign
from spine.policy import Basis, Consent, MeterAccess

FIRST_LINE: Final = "energyos.consent-receipt.v1"
KEY_LINE: Final = "signed by"


@dataclass(frozen=True, slots=True)
class Place:
    """The entry of the log that a receipt speaks of."""

    log_id: bytes
    topic: str
    partition: int
    offset: int
    entry: int


@dataclass(frozen=True, slots=True)
class SignedBy:
    """The key of the coordinator, and what signs with it."""

    public: bytes
    sign: Sign


def receipt_key(log_id: bytes, public: bytes) -> VerifierKey:
    """The key of a log's consumers coordinator, as notes name it."""
    return VerifierKey(f"energyos.spine/log/{log_id.hex()}/consumers", ED25519, public)


def receipt(
    place: Place, mpxn: str, access: MeterAccess, consent: Consent, now: datetime, by: SignedBy
) -> str:
    """The receipt of one leg of a consent as it stands at `now`, time and tenancy in mind."""
    key = receipt_key(place.log_id, by.public)
    said = {
        "consent": consent.consent_id,
        "version": str(consent.version),
        "state": shown_state(consent, access, now),
        "stated at": iso_milliseconds(now),
        "changed at": iso_milliseconds(consent.changed_at),
        "consumer": consent.consumer_ref,
        "tenancy": consent.tenancy_id,
        "metering point": mpxn,
        "data user": consent.data_user,
        "lawful basis": Basis.CONSENT,
        "purpose": consent.purpose,
        "categories": " ".join(consent.categories),
        "history from": iso_milliseconds(consent.history_from),
        "valid from": iso_milliseconds(consent.valid_from),
        "expires": iso_milliseconds(consent.expires),
        "notice sha256": consent.notice_hash.hex(),
        "notice language": consent.notice_language,
        "channel": consent.channel,
        "evidence": consent.evidence,
        **_record(access, consent),
        "log": place.log_id.hex(),
        "as of record": f"{place.topic}-{place.partition}-{place.offset}-{place.entry}",
        KEY_LINE: str(key),
    }
    kept = (f"{name}: {value}" for name, value in said.items() if value)
    text = "".join(f"{line}\n" for line in (FIRST_LINE, *kept))
    return str(Note(text, (sign(text, key, by.sign),)))


def _record(access: MeterAccess, consent: Consent) -> dict[str, str]:
    """The version of the record as it stands, whole, with its hash; nothing if there is none."""
    record = record_of(access, consent.consent_id)
    if record is None:
        return {}
    return {**lines(consent, record), HASH_LINE: record.hash.hex()}


def chain_faults(kept: Iterable[Mapping[str, str]]) -> list[str]:
    """What is wrong with the versions of records in these receipts; empty if nothing is.

    A signature shows that a receipt is as it was signed, the chain that a later version was made
    of it: one that was signed anew, with other content, is found by the version after it. A receipt
    without a record is passed over.
    """
    versions: dict[tuple[str, str, str], list[Mapping[str, str]]] = {}
    for said in kept:
        if HASH_LINE in said:
            of = (said.get("log", ""), said.get("metering point", ""), said.get("consent", ""))
            versions.setdefault(of, []).append(said)
    return [
        f"{consent} at {mpxn}: {fault}"
        for (_, mpxn, consent), found in sorted(versions.items())
        for fault in broken(found)
    ]


@dataclass(frozen=True, slots=True)
class Read:
    """What a receipt says, and whether that key signed just that.

    A key that the receipt names itself proves nothing until it is compared with one that is known.
    """

    says: Mapping[str, str]
    key: VerifierKey
    intact: bool


def read(raw: str, verify: Verify, known: VerifierKey | None = None) -> Read:
    """A receipt, checked against the `known` key, or else against the one that it names itself.

    Invalid(FILE_UNRECOGNISED) for what is no receipt of ours.
    """
    note, says, named = said_in(raw, FIRST_LINE, "receipt of a consent")
    key = named if known is None else known
    return Read(says, key, note.signed_by(key, verify) is not None)


def said_in(raw: str, first_line: str, what: str) -> tuple[Note, dict[str, str], VerifierKey]:
    """A note of ours of lines `name: value`, what it says, and the key that it names itself.

    Invalid(FILE_UNRECOGNISED) for what is no such note. Nothing of it is checked.
    """
    try:
        note = Note.parse(raw)
        first, *lines = note.text.splitlines()
        says = dict(line.split(": ", 1) for line in lines)
        named = VerifierKey.parse(says.get(KEY_LINE, ""))
    except ValueError:
        raise Invalid(Reason.FILE_UNRECOGNISED, f"this is no {what}") from None
    odd = not all(line.isprintable() for line in lines)
    if odd or first != first_line or len(says) < len(lines):
        raise Invalid(Reason.FILE_UNRECOGNISED, f"this is no {what}")
    return note, says, named
