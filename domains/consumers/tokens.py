"""A consent token: what a data user shows to either side, and both sides check alike.

A signed note (C2SP signed-note, Ed25519) like a receipt, by the coordinator's key that signs its
facts. It names a consent and repeats its terms, one line each, and says until when it is good. It
is never itself permission: it names a consent, whose state each side takes from its own fold of the
log, and each read is decided at its own place there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from domains.consumers.evolve import find_consent, is_bar
from domains.consumers.receipts import KEY_LINE, Place, SignedBy, receipt_key, said_in
from spine import trust
from spine.accreditation import accreditation_refusal
from spine.errors import Invalid, NotPermitted, Reason, Refused
from spine.event import SignerRole
from spine.gb import iso_milliseconds
from spine.ledger.note import Note, VerifierKey, Verify, sign
from spine.policy import Consent, MeterAccess, Role, consent_refusal
from spine.policy_data import FIRST_POLICY
from spine.trust import Equivalence, Participant, SigningKey

FIRST_LINE: Final = "energyos.consent-token.v1"
LIFETIME: Final = timedelta(minutes=15)
TOKEN_CHARS_MAX: Final = 16_384
# Who reads by consent, and so may have a token.
READERS: Final = (Role.DATA_USER, Role.SUPPLIER)
MAY_ASK_OF_ANY: Final = Role.CONSENT_SERVICE


@dataclass(frozen=True, slots=True)
class ConsentToken:
    """What a token says. `as_of` names, for each MPxN in its order, the record that holds the facts
    it was made from, as `topic-partition-offset-entry`.
    """

    consent_id: str
    version: int
    data_user: str
    purpose: str
    categories: tuple[str, ...]
    mpxns: tuple[str, ...]
    history_from: datetime
    expires: datetime
    issued_at: datetime
    good_until: datetime
    log_id: bytes
    as_of: tuple[str, ...]
    key: VerifierKey

    def text(self) -> str:
        """The one way to write it; this is what is signed."""
        said = {
            "consent": self.consent_id,
            "version": str(self.version),
            "data user": self.data_user,
            "purpose": self.purpose,
            "categories": " ".join(self.categories),
            "metering points": " ".join(self.mpxns),
            "history from": iso_milliseconds(self.history_from),
            "expires": iso_milliseconds(self.expires),
            "issued at": iso_milliseconds(self.issued_at),
            "good until": iso_milliseconds(self.good_until),
            "log": self.log_id.hex(),
            "as of records": " ".join(self.as_of),
            KEY_LINE: str(self.key),
        }
        lines = (FIRST_LINE, *(f"{name}: {value}" for name, value in said.items()))
        return "".join(f"{line}\n" for line in lines)


@dataclass(frozen=True, slots=True)
class Leg:
    """A meter as its fold has it, and the record that last said something of it."""

    mpxn: str
    access: MeterAccess
    place: Place


def issue(
    consent_id: str, legs: Sequence[Leg], role: str, party: str, now: datetime, by: SignedBy
) -> tuple[ConsentToken, str]:
    """A token for a consent that is live at every one of these meters, and its signed text.

    NotPermitted  NOT_PERMITTED: no such consent, or none of the caller's, which look alike; else
                  why the caller's consent is not live, such as CONSENT_REVOKED
    Refused       TOKEN_LEGS_DIFFER: its version or terms are not the same at all of them
    """
    found: list[Consent] = []
    for leg in legs:
        consent = find_consent(leg.access, consent_id)
        if consent is None or is_bar(consent) or not _may_ask(consent.data_user, role, party):
            raise NotPermitted(Reason.NOT_PERMITTED, "there is no such consent for you here")
        found.append(consent)
    for leg, consent in zip(legs, found, strict=True):
        refusal = consent_refusal(consent, leg.access, now)
        if refusal is not None:
            raise NotPermitted(refusal, "the consent is not live")
    first, place = found[0], legs[0].place
    if any(_terms(consent) != _terms(first) for consent in found):
        message = "the consent stands otherwise at some of these meters: ask for a token for each"
        raise Refused(Reason.TOKEN_LEGS_DIFFER, message)
    token = ConsentToken(
        first.consent_id,
        first.version,
        first.data_user,
        first.purpose,
        first.categories,
        tuple(leg.mpxn for leg in legs),
        first.history_from,
        first.expires,
        now,
        min(now + LIFETIME, first.expires),
        place.log_id,
        tuple(_named(leg.place) for leg in legs),
        receipt_key(place.log_id, by.public),
    )
    text = token.text()
    return token, str(Note(text, (sign(text, token.key, by.sign),)))


@dataclass(frozen=True, slots=True)
class Checker:
    """One side: the log it folds, what it knows of keys, and how it checks a signature."""

    log_id: bytes
    key: Callable[[bytes], SigningKey | None]
    verify: Verify

    def token(
        self, raw: str, role: str, party: str, now: datetime
    ) -> tuple[ConsentToken | None, Reason | None]:
        """The token in that text, if it is good by itself and the caller may ask of it; or why not.

        Who is not concerned learns nothing, not even whether it is genuine.
        """
        try:
            note, token = _parsed(raw)
        except Invalid:
            return None, Reason.TOKEN_NOT_OURS
        if not _may_ask(token.data_user, role, party):
            return None, Reason.NOT_PERMITTED
        known = self.key(trust.key_id(token.key.public))
        ours = (
            known is not None
            and not known.revoked
            and known.role == SignerRole.CONSUMERS
            and token.log_id == self.log_id
            and token.key == receipt_key(self.log_id, known.public_key)
            and note.signed_by(token.key, self.verify) is not None
        )
        if not ours:
            return None, Reason.TOKEN_NOT_OURS
        return (token, None) if now < token.good_until else (None, Reason.TOKEN_EXPIRED)


def leg_refusal(
    token: ConsentToken, access: MeterAccess | None, closed: Reason | None, now: datetime
) -> Reason | None:
    """Why the consent that a genuine token names is not what it says at a meter; None if it is."""
    if closed is not None:
        return closed
    consent = None if access is None else find_consent(access, token.consent_id)
    if access is None or consent is None or is_bar(consent):
        return Reason.NO_CONSENT
    refusal = consent_refusal(consent, access, now)
    if refusal is not None:
        return refusal
    said = (
        token.consent_id,
        token.version,
        token.data_user,
        token.purpose,
        token.categories,
        token.history_from,
        token.expires,
    )
    return None if _terms(consent) == said else Reason.TOKEN_OUTDATED


def reader_refusal(
    participant: Participant | None,
    purpose: str,
    now: datetime,
    equivalence: Equivalence | None,
    scheme: str,
    policy_version: int = FIRST_POLICY,
) -> Reason | None:
    """Why the data user counts in that scheme in none of the roles that read by consent."""
    refusals = [
        accreditation_refusal(participant, role, now, purpose, equivalence, scheme, policy_version)
        for role in READERS
    ]
    return None if None in refusals else min(refusals, key=_telling)


def _telling(reason: Reason | None) -> bool:
    """A role that is not held at all says less than one that does not count here."""
    return reason is Reason.ACCREDITATION_MISSING


def _may_ask(data_user: str, role: str, party: str) -> bool:
    return role == MAY_ASK_OF_ANY or (role in READERS and party == data_user)


def _terms(consent: Consent) -> tuple[object, ...]:
    return (
        consent.consent_id,
        consent.version,
        consent.data_user,
        consent.purpose,
        consent.categories,
        consent.history_from,
        consent.expires,
    )


def _named(place: Place) -> str:
    return f"{place.topic}-{place.partition}-{place.offset}-{place.entry}"


def _parsed(raw: str) -> tuple[Note, ConsentToken]:
    """A token as it says; Invalid for anything that is not the one way to write one."""
    note, says, key = said_in(raw, FIRST_LINE, "consent token")
    try:
        token = _read(says, key)
    except (KeyError, ValueError, OverflowError):
        raise Invalid(Reason.FILE_UNRECOGNISED, "this is no consent token") from None
    if token.text() != note.text:
        raise Invalid(Reason.FILE_UNRECOGNISED, "not the one way to write a token")
    return note, token


def read(raw: str) -> ConsentToken:
    """What a token says, for who holds it; Invalid(FILE_UNRECOGNISED) for what is none.

    Nothing of it is checked.
    """
    return _parsed(raw)[1]


def _read(says: Mapping[str, str], key: VerifierKey) -> ConsentToken:
    return ConsentToken(
        says["consent"],
        int(says["version"]),
        says["data user"],
        says["purpose"],
        tuple(says["categories"].split(" ")),
        tuple(says["metering points"].split(" ")),
        _at(says["history from"]),
        _at(says["expires"]),
        _at(says["issued at"]),
        _at(says["good until"]),
        bytes.fromhex(says["log"]),
        tuple(says["as of records"].split(" ")),
        key,
    )


def _at(text: str) -> datetime:
    at = datetime.fromisoformat(text)
    if at.tzinfo is None:
        raise ValueError("an instant has a zone")
    return at.astimezone(UTC)
