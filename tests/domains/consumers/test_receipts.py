"""A receipt says how a consent stands, and nobody changes a word of it unnoticed."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from domains.consumers.receipts import KEY_LINE, Place, SignedBy, read, receipt, receipt_key
from spine.errors import Invalid, Reason
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
