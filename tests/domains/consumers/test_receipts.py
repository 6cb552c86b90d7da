"""A receipt says how a consent stands, and nobody changes a word of it unnoticed."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from domains.consumers.chain import HASH_LINE, record_hash
from domains.consumers.decider import CONSUMERS
from domains.consumers.events import (
    ConsentGranted,
    ConsentNarrowed,
    ConsentRevoked,
    ConsentTermsRecorded,
    TenancyStarted,
)
from domains.consumers.receipts import (
    KEY_LINE,
    Place,
    SignedBy,
    chain_faults,
    read,
    receipt,
    receipt_key,
)
from domains.consumers.record import RecordTerms
from spine.domain import fold
from spine.errors import Invalid, Reason
from spine.ledger.note import Note, sign
from spine.policy import Consent, ConsentState, MeterAccess, Tenancy
from spine.signing import Signer, verify

LOG_ID = bytes(range(32))
OURS = Signer.of(Ed25519PrivateKey.from_private_bytes(bytes(32)))
OTHERS = Signer.of(Ed25519PrivateKey.from_private_bytes(bytes([1] * 32)))
PLACE = Place(LOG_ID, "consumers.events.v1", 3, 17, 0)
MPXN = "1200012345678"
AT = datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=UTC)
CONSENT = Consent(
    "k-1",
    2,
    ConsentState.ACTIVE,
    "adviser",
    "t-1",
    "c-1",
    "ENERGY_ADVICE",
    ("HH_CONSUMPTION", "TARIFF"),
    AT.replace(year=2025),
    AT,
    AT.replace(year=2027),
    AT,
    notice_hash=bytes([7] * 32),
    notice_language="cy",
    channel="APP",
)
KEY = receipt_key(LOG_ID, OURS.public_key)


NOW = AT.replace(month=6)
LIVED = Tenancy("t-1", "c-1", AT.replace(year=2024))


def made(
    by: Signer = OURS,
    consent: Consent = CONSENT,
    now: datetime = NOW,
    until: datetime | None = None,
) -> str:
    access = MeterAccess((replace(LIVED, effective_to=until),), consents=(consent,))
    signed_by = SignedBy(by.public_key, by.private.sign)
    return receipt(PLACE, MPXN, access, consent, now, signed_by)


def naive(raw: str) -> dict[str, str]:
    """Whoever does not check the signature believes anything."""
    return dict(line.split(": ", 1) for line in raw.splitlines() if ": " in line)


def test_it_says_all_that_was_agreed_and_names_nobody() -> None:
    found = read(made(), verify, KEY)
    assert found.intact and found.key == KEY
    assert dict(found.says) == {
        "consent": "k-1",
        "version": "2",
        "state": "ACTIVE",
        "stated at": "2026-06-02T03:04:05.678Z",
        "changed at": "2026-01-02T03:04:05.678Z",
        "consumer": "c-1",
        "tenancy": "t-1",
        "metering point": MPXN,
        "data user": "adviser",
        "lawful basis": "CONSENT",
        "purpose": "ENERGY_ADVICE",
        "categories": "HH_CONSUMPTION TARIFF",
        "history from": "2025-01-02T03:04:05.678Z",
        "valid from": "2026-01-02T03:04:05.678Z",
        "expires": "2027-01-02T03:04:05.678Z",
        "notice sha256": "07" * 32,
        "notice language": "cy",
        "channel": "APP",
        "log": LOG_ID.hex(),
        "as of record": "consumers.events.v1-3-17-0",
        KEY_LINE: str(KEY),
    }


@pytest.mark.parametrize(
    ("now", "until", "state"),
    [
        (NOW, None, "ACTIVE"),
        (AT.replace(year=2025, month=12), None, "NOT_YET_VALID"),
        (AT.replace(year=2027), None, "EXPIRED"),
        (NOW, AT.replace(month=5), "ENDED"),
    ],
)
def test_it_says_how_the_consent_stands_when_it_is_given(
    now: datetime, until: datetime | None, state: str
) -> None:
    """The naive receipt repeats the last event, which knows of neither time nor tenancy."""
    assert read(made(now=now, until=until), verify, KEY).says["state"] == state
    assert CONSENT.state == "ACTIVE"


@pytest.mark.parametrize(
    ("said", "instead"),
    [
        ("state: ACTIVE", "state: REVOKED"),
        ("data user: adviser", "data user: somebody"),
        ("categories: HH_CONSUMPTION TARIFF", "categories: HH_CONSUMPTION TARIFF EXPORT"),
        ("expires: 2027", "expires: 2037"),
        (f"metering point: {MPXN}", "metering point: 1200012345679"),
        ("as of record: consumers.events.v1-3-17-0", "as of record: consumers.events.v1-3-18-0"),
    ],
)
def test_a_changed_word_is_found_and_the_naive_reader_believes_it(said: str, instead: str) -> None:
    changed = made().replace(said, instead)
    assert changed != made()
    assert not read(changed, verify, KEY).intact
    assert not read(changed, verify).intact
    assert naive(changed) != naive(made())


def test_a_receipt_of_another_key_is_genuine_only_by_what_it_says_itself() -> None:
    forged = made(OTHERS, replace(CONSENT, state=ConsentState.REVOKED))
    by_itself = read(forged, verify)
    assert by_itself.intact and by_itself.key != KEY
    assert not read(forged, verify, KEY).intact
    named_as_ours = forged.replace(str(by_itself.key), str(KEY))
    assert not read(named_as_ours, verify).intact


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_no_change_of_characters_passes(data: st.DataObject) -> None:
    original = made()
    changed = list(original)
    for _ in range(data.draw(st.integers(1, 3))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(
            st.characters(codec="utf-8")
        )
    raw = "".join(changed)
    try:
        found = read(raw, verify, KEY)
    except Invalid as refused:
        assert refused.reason is Reason.FILE_UNRECOGNISED
        return
    assert not found.intact or found.says == read(original, verify, KEY).says


@pytest.mark.parametrize("raw", ["", "\n", "a\n\nb\n", made() * 2, "x" * 100_000, made()[:-30]])
def test_what_is_no_receipt_is_said_to_be_none(raw: str) -> None:
    with pytest.raises(Invalid) as refused:
        read(raw, verify, KEY)
    assert refused.value.reason is Reason.FILE_UNRECOGNISED


@pytest.mark.parametrize("odd", ["\u202e", "\x85", "\x9b31m", "\u2028"])
def test_what_would_upset_a_terminal_is_no_receipt_whoever_signed_it(odd: str) -> None:
    theirs = made(OTHERS, replace(CONSENT, evidence=f"e{odd}"))
    with pytest.raises(Invalid) as refused:
        read(theirs, verify)
    assert refused.value.reason is Reason.FILE_UNRECOGNISED


# The chain of several


def kept(by: Signer = OURS, mpxn: str = MPXN, **said: Any) -> list[str]:
    """The receipts of a consent that was granted, narrowed and revoked."""
    terms = RecordTerms(onward_sharing=True, **({"recipients": ("partner",)} | said))
    granted = ConsentGranted(
        *("k-1", "adviser", "t-1", "c-1", "ENERGY_ADVICE", ("HH_CONSUMPTION",)),
        *(AT.replace(year=2025), AT, AT.replace(year=2027), AT),
    )
    events = (
        TenancyStarted("t-1", "c-1", AT.replace(year=2024)),
        granted,
        ConsentTermsRecorded("k-1", terms, AT),
        ConsentNarrowed(
            "k-1", 2, ("HH_CONSUMPTION",), AT, AT.replace(year=2027), AT.replace(month=2)
        ),
        ConsentRevoked("k-1", AT.replace(month=3)),
    )
    signed_by = SignedBy(by.public_key, by.private.sign)
    accesses = [fold(CONSUMERS, events[:n]) for n in (3, 4, 5)]
    return [receipt(PLACE, mpxn, a, a.consents[0], NOW, signed_by) for a in accesses]


def signed_anew(raw: str, was: str, instead: str) -> str:
    """The coordinator itself rewrites a receipt, hash and signature included."""
    text = Note.parse(raw).text.replace(was, instead)
    says = dict(line.split(": ", 1) for line in text.splitlines()[1:])
    text = text.replace(says[HASH_LINE], record_hash(says).hex())
    return str(Note(text, (sign(text, KEY, OURS.private.sign),)))


def faults(*raw: str) -> list[str]:
    return chain_faults([read(one, verify, KEY).says for one in raw])


def test_a_receipt_holds_the_whole_version_that_it_is_of() -> None:
    first, second, third = (read(one, verify, KEY) for one in kept())
    assert all(one.intact for one in (first, second, third))
    assert (first.says["recipients"], first.says["onward sharing"]) == ("partner", "allowed")
    assert second.says["previous record"] == first.says[HASH_LINE]
    assert third.says["previous record"] == second.says[HASH_LINE]
    assert [one.says["record version"] for one in (first, second, third)] == ["1", "2", "3"]
    assert HASH_LINE not in read(made(), verify, KEY).says


def test_a_middle_version_that_was_signed_anew_is_found_and_the_signature_alone_misses_it() -> None:
    first, second, third = kept()
    forged = signed_anew(second, "recipients: partner", "recipients: partner stranger")
    found = read(forged, verify, KEY)
    assert found.intact and found.says["recipients"] == "partner stranger", "the naive check"
    where = f"k-1 at {MPXN}: version 2"
    assert faults(first, forged, third) == [f"{where} is not the one that version 3 names"]
    assert faults(third, forged) == faults(first, forged, third)
    assert faults(first, forged) == [], "the last one has nobody to contradict it yet"
    edited = second.replace("recipients: partner", "recipients: stranger")
    assert not read(edited, verify, KEY).intact
    assert faults(first, edited, third) == [f"{where} is not what its hash says"]


def test_receipts_of_other_consents_meters_or_logs_are_chains_of_their_own() -> None:
    ours, elsewhere = kept(), kept(mpxn="1200012345679", recipients=("another",))
    assert faults(*ours, *elsewhere, *ours, made()) == []
    assert faults(ours[0], ours[2]) == [], "one that is missing is no fault"
    two = faults(ours[0], kept(recipients=("another",))[0])
    assert two == [f"k-1 at {MPXN}: there are two versions 1"]
