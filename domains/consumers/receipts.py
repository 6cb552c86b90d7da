"""A receipt of a consent: what the consumer keeps, and anybody can check without asking us.

A signed note (C2SP signed-note, Ed25519) of lines `name: value`, after the record and receipt of
ISO/IEC TS 27560: which consent of which meter, to whom and for what, how it stands and since when,
what was shown, and the place in the log as of which that is so. It names nobody: the consumer by
reference, the notice by its SHA-256. The signature is the coordinator's, by the key that signs its
facts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from spine.errors import Invalid, Reason
from spine.event import epoch_ms, from_epoch_ms
from spine.ledger.note import ED25519, Note, Sign, VerifierKey, Verify, sign
from spine.policy import Basis, Consent

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


def receipt_key(log_id: bytes, public: bytes) -> VerifierKey:
    """The key of a log's consumers coordinator, as notes name it."""
    return VerifierKey(f"energyos.spine/log/{log_id.hex()}/consumers", ED25519, public)


def receipt(place: Place, mpxn: str, consent: Consent, public: bytes, signer: Sign) -> str:
    """The receipt of one leg of a consent, signed."""
    key = receipt_key(place.log_id, public)
    said = {
        "consent": consent.consent_id,
        "version": str(consent.version),
        "state": consent.state,
        "changed at": _instant(consent.changed_at),
        "consumer": consent.consumer_ref,
        "tenancy": consent.tenancy_id,
        "metering point": mpxn,
        "data user": consent.data_user,
        "lawful basis": Basis.CONSENT,
        "purpose": consent.purpose,
        "categories": " ".join(consent.categories),
        "history from": _instant(consent.history_from),
        "valid from": _instant(consent.valid_from),
        "expires": _instant(consent.expires),
        "notice sha256": consent.notice_hash.hex(),
        "notice language": consent.notice_language,
        "channel": consent.channel,
        "evidence": consent.evidence,
        "log": place.log_id.hex(),
        "as of record": f"{place.topic}-{place.partition}-{place.offset}-{place.entry}",
        KEY_LINE: str(key),
    }
    lines = (f"{name}: {value}" for name, value in said.items() if value)
    text = "".join(f"{line}\n" for line in (FIRST_LINE, *lines))
    return str(Note(text, (sign(text, key, signer),)))


@dataclass(frozen=True, slots=True)
class Read:
    """What a receipt says, and whether the key it was checked against signed just that."""

    says: Mapping[str, str]
    key: VerifierKey
    genuine: bool


def read(raw: str, verify: Verify, known: VerifierKey | None = None) -> Read:
    """A receipt, checked against the `known` key, or else against the one that it names itself.

    Invalid(FILE_UNRECOGNISED) for what is no receipt of ours.
    """
    try:
        note = Note.parse(raw)
        first, *lines = note.text.splitlines()
        says = dict(line.split(": ", 1) for line in lines)
        named = VerifierKey.parse(says.get(KEY_LINE, ""))
    except ValueError:
        raise Invalid(Reason.FILE_UNRECOGNISED, "this is no receipt of a consent") from None
    if first != FIRST_LINE or len(says) < len(lines):
        raise Invalid(Reason.FILE_UNRECOGNISED, "this is no receipt of a consent")
    key = named if known is None else known
    return Read(says, key, note.signed_by(key, verify) is not None)


def _instant(at: datetime) -> str:
    return from_epoch_ms(epoch_ms(at)).isoformat(timespec="milliseconds").replace("+00:00", "Z")
