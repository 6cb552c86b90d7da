"""A consent token: to whom it is given, what makes it good, and what makes it good no more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from domains.consumers.receipts import Place, SignedBy, receipt
from domains.consumers.tokens import (
    LIFETIME,
    Checker,
    ConsentToken,
    Leg,
    issue,
    leg_refusal,
    read,
    reader_refusal,
)
from spine import trust
from spine.errors import Invalid, NotPermitted, Reason, Refused
from spine.ledger.note import Note, sign
from spine.policy import Consent, ConsentState, MeterAccess, Role, Tenancy
from spine.signing import Signer, verify
from tests.helpers.records import BY_CONSUMERS, BY_GOVERNANCE, BY_METERING, LOG_ID, STRANGER

START = datetime(2026, 1, 1, tzinfo=UTC)
NOW = datetime(2026, 6, 1, 12, 0, 0, 250_000, tzinfo=UTC)
FIRST, SECOND = "1200000000003", "1200000000005"
CONSENT = Consent(
    "k-1",
    2,
    ConsentState.ACTIVE,
    "adviser",
    "t-1",
    "c-1",
    "ENERGY_ADVICE",
    ("HH_CONSUMPTION", "TARIFF"),
    START,
    START,
    datetime(2027, 1, 1, tzinfo=UTC),
    START,
)
HOME = MeterAccess((Tenancy("t-1", "c-1", START),), consents=(CONSENT,))
SIGNED = SignedBy(BY_CONSUMERS.public_key, BY_CONSUMERS.private.sign)
KEYS = {
    BY_CONSUMERS.kid: trust.SigningKey(BY_CONSUMERS.public_key, "consumers", "consumers"),
    BY_METERING.kid: trust.SigningKey(BY_METERING.public_key, "metering", "metering"),
}
OURS = Checker(LOG_ID, KEYS.get, verify)


def home(**changes: Any) -> MeterAccess:
    """The same home, the consent otherwise."""
    return structs.replace(HOME, consents=(structs.replace(CONSENT, **changes),))


def leg(mpxn: str = FIRST, access: MeterAccess = HOME, log_id: bytes = LOG_ID) -> Leg:
    return Leg(mpxn, access, Place(log_id, "consumers.events.v1", 3, 17, 0))


def made(
    *legs: Leg, role: str = "data_user", party: str = "adviser", by: SignedBy = SIGNED
) -> tuple[ConsentToken, str]:
    return issue("k-1", legs or (leg(),), role, party, NOW, by)


def checked(
    raw: str,
    role: str = "data_user",
    party: str = "adviser",
    now: datetime = NOW,
    by: Checker = OURS,
) -> Reason | None:
    return by.token(raw, role, party, now)[1]


# To whom it is given


def test_it_says_just_what_was_consented_to() -> None:
    token, raw = made(leg(), leg(SECOND))
    assert read(raw) == token
    assert raw.splitlines()[:11] == [
        "energyos.consent-token.v1",
        "consent: k-1",
        "version: 2",
        "data user: adviser",
        "purpose: ENERGY_ADVICE",
        "categories: HH_CONSUMPTION TARIFF",
        f"metering points: {FIRST} {SECOND}",
        "history from: 2026-01-01T00:00:00.000Z",
        "expires: 2027-01-01T00:00:00.000Z",
        "issued at: 2026-06-01T12:00:00.250Z",
        "good until: 2026-06-01T12:15:00.250Z",
    ]
    assert checked(raw) is None
    assert OURS.token(raw, "consent_service", "portal", NOW) == (token, None)


def test_it_is_never_good_for_longer_than_the_consent() -> None:
    soon = NOW + timedelta(minutes=1)
    assert made(leg(access=home(expires=soon)))[0].good_until == soon
    assert made()[0].good_until == NOW + LIFETIME


@pytest.mark.parametrize(
    ("access", "role", "party", "reason"),
    [
        (MeterAccess(), "data_user", "adviser", Reason.NOT_PERMITTED),
        (home(consent_id="k-2"), "data_user", "adviser", Reason.NOT_PERMITTED),
        (home(purpose=""), "data_user", "adviser", Reason.NOT_PERMITTED),
        (HOME, "data_user", "other", Reason.NOT_PERMITTED),
        (home(state=ConsentState.REVOKED), "data_user", "other", Reason.NOT_PERMITTED),
        (HOME, "consumer", "c-1", Reason.NOT_PERMITTED),
        (HOME, "auditor", "adviser", Reason.NOT_PERMITTED),
        (home(state=ConsentState.REVOKED), "data_user", "adviser", Reason.CONSENT_REVOKED),
        (home(state=ConsentState.SUSPENDED), "supplier", "adviser", Reason.CONSENT_SUSPENDED),
        (home(expires=NOW), "consent_service", "portal", Reason.CONSENT_EXPIRED),
        (home(tenancy_id="t-0"), "data_user", "adviser", Reason.CONSENT_ENDED_WITH_TENANCY),
    ],
)
def test_who_gets_none_and_why(access: MeterAccess, role: str, party: str, reason: Reason) -> None:
    """Who has no such consent is told the same as of one that does not exist."""
    with pytest.raises(NotPermitted) as refused:
        made(leg(), leg(SECOND, access), role=role, party=party)
    assert refused.value.reason is reason


def test_one_token_names_one_version_and_one_scope() -> None:
    others = (home(version=3), home(categories=("TARIFF",)), home(expires=NOW + LIFETIME))
    for other in others:
        with pytest.raises(Refused) as refused:
            made(leg(), leg(SECOND, other))
        assert refused.value.reason is Reason.TOKEN_LEGS_DIFFER


# What makes it good


def naive(raw: str, role: str, party: str, now: datetime) -> Reason | None:
    """Whoever believes what stands there, and asks neither the key nor the log."""
    token = read(raw)
    return None if token.data_user == party and now < token.good_until else Reason.TOKEN_EXPIRED


def signed(token: ConsentToken, by: Signer) -> str:
    return str(Note(token.text(), (sign(token.text(), token.key, by.private.sign),)))


def longer(raw: str) -> str:
    """The same signature under another time."""
    token = read(raw)
    later = replace(token, good_until=token.good_until + LIFETIME)
    return str(Note(later.text(), Note.parse(raw).signatures))


def of_another_key(raw: str) -> str:
    return made(by=SignedBy(STRANGER.public_key, STRANGER.private.sign))[1]


def of_another_coordinator(raw: str) -> str:
    return made(by=SignedBy(BY_METERING.public_key, BY_METERING.private.sign))[1]


def under_our_name(raw: str) -> str:
    """Somebody else's signature, said to be ours."""
    return signed(read(raw), BY_GOVERNANCE)


def of_another_log(raw: str) -> str:
    return made(leg(log_id=bytes(32)))[1]


FORGERIES = (longer, of_another_key, of_another_coordinator, under_our_name, of_another_log)


@pytest.mark.parametrize("forge", FORGERIES)
def test_a_forgery_is_not_ours_and_the_naive_side_takes_it(forge: Callable[[str], str]) -> None:
    forged = forge(made()[1])
    assert checked(forged) is Reason.TOKEN_NOT_OURS
    assert naive(forged, "data_user", "adviser", NOW) is None


def test_a_key_that_was_revoked_or_never_heard_of_signs_nothing() -> None:
    raw = made()[1]
    key = KEYS[BY_CONSUMERS.kid]
    for known in (None, replace(key, revoked=True), replace(key, role="root")):
        keys = {} if known is None else {BY_CONSUMERS.kid: known}
        other = Checker(LOG_ID, keys.get, verify)
        assert checked(raw, by=other) is Reason.TOKEN_NOT_OURS


def test_a_receipt_is_no_token() -> None:
    place = Place(LOG_ID, "consumers.events.v1", 3, 17, 0)
    assert checked(receipt(place, FIRST, HOME, CONSENT, NOW, SIGNED)) is Reason.TOKEN_NOT_OURS


def test_it_is_good_until_its_time_and_not_a_moment_longer() -> None:
    token, raw = made()
    assert checked(raw, now=token.good_until - timedelta(milliseconds=1)) is None
    assert checked(raw, now=token.good_until) is Reason.TOKEN_EXPIRED


@pytest.mark.parametrize(
    ("role", "party"),
    [("data_user", "other"), ("consumer", "adviser"), ("auditor", "adviser"), ("dsi", "dsi-1")],
)
def test_to_a_stranger_every_token_looks_alike(role: str, party: str) -> None:
    token, raw = made()
    for one in (raw, *(forge(raw) for forge in FORGERIES)):
        for now in (NOW, token.good_until):
            assert OURS.token(one, role, party, now) == (None, Reason.NOT_PERMITTED)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_no_change_of_characters_passes(data: st.DataObject) -> None:
    _, original = made()
    place = data.draw(st.integers(0, len(original) - 1))
    other = data.draw(st.characters(codec="utf-8"))
    changed = original[:place] + other + original[place + 1 :]
    if changed != original:
        assert checked(changed) in (Reason.TOKEN_NOT_OURS, Reason.NOT_PERMITTED)


@given(st.text())
def test_no_text_ends_in_anything_but_a_token_or_a_no(text: str) -> None:
    assert checked(text) is Reason.TOKEN_NOT_OURS
    with pytest.raises(Invalid):
        read(text)


# What makes it good no more


@pytest.mark.parametrize(
    ("access", "reason"),
    [
        (HOME, None),
        (None, Reason.NO_CONSENT),
        (MeterAccess(), Reason.NO_CONSENT),
        (home(purpose=""), Reason.NO_CONSENT),
        (home(state=ConsentState.REVOKED, version=3), Reason.CONSENT_REVOKED),
        (home(state=ConsentState.SUSPENDED), Reason.CONSENT_SUSPENDED),
        (home(tenancy_id="t-0"), Reason.CONSENT_ENDED_WITH_TENANCY),
        (home(version=3), Reason.TOKEN_OUTDATED),
        (home(categories=("TARIFF",)), Reason.TOKEN_OUTDATED),
        (home(data_user="other"), Reason.TOKEN_OUTDATED),
        (home(history_from=NOW), Reason.TOKEN_OUTDATED),
    ],
)
def test_the_consent_of_now_decides_and_not_what_was_signed(
    access: MeterAccess | None, reason: Reason | None
) -> None:
    token, raw = made()
    assert leg_refusal(token, access, None, NOW) is reason
    assert checked(raw) is None, "the naive side, which stops here, finds it good in every case"


def test_a_closed_meter_says_nothing() -> None:
    assert leg_refusal(made()[0], HOME, Reason.METER_CLOSED, NOW) is Reason.METER_CLOSED


def held(role: str, scheme: str) -> trust.Accreditation:
    return trust.Accreditation(role, scheme, "1", (), START, None)


def test_its_reader_counts_in_the_scheme_of_each_side_or_nowhere() -> None:
    row = trust.EquivalenceRow("CCS", "1", "ENERGY_ADVICE", "DSI", "1", "ENERGY_ADVICE")
    table = trust.Equivalence(1, (row,))

    def refusal(who: trust.Participant | None, scheme: str) -> Reason | None:
        return reader_refusal(who, "ENERGY_ADVICE", NOW, table, scheme)

    for role in (Role.DATA_USER, Role.SUPPLIER):
        both = trust.Participant("A", accreditations=(held(role, "CCS"),))
        assert [refusal(both, scheme) for scheme in ("CCS", "DSI")] == [None, None]
    only_dsi = trust.Participant("A", accreditations=(held(Role.SUPPLIER, "DSI"),))
    assert refusal(only_dsi, "DSI") is None
    assert refusal(only_dsi, "CCS") is Reason.ACCREDITATION_NOT_EQUIVALENT
    suspended = replace(both, suspended=True)
    assert refusal(suspended, "DSI") is Reason.PARTICIPANT_SUSPENDED
    assert refusal(trust.Participant("A"), "DSI") is Reason.ACCREDITATION_MISSING
    assert refusal(None, "DSI") is Reason.PARTICIPANT_UNKNOWN
