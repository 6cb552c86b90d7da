"""Identifiers that one party has and no other: what they hide, and for whom they open."""

import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spine.errors import Invalid, NotFound, Pushback, Reason
from spine.identifiers import KEY_FILE, NAMES, Identifiers, Kind

KEY = bytes(range(64))
MADE = Identifiers(KEY)
OTHER_KEY = Identifiers(bytes(64))
MPAN, MPRN = "2000027391990", "7612345"
names = st.text(st.characters(codec="ascii", min_codepoint=33), min_size=1, max_size=64)
parties = st.sampled_from(["bright-advice", "warm-homes", "p-1"])


def kept(kind: Kind, name: str) -> str:
    """As much of a name as there is room for in that kind."""
    return name[:16] if kind is Kind.METER else name


@given(st.sampled_from(NAMES), parties, names)
def test_it_opens_for_its_party_and_is_the_same_each_time(
    kind: Kind, party: str, name: str
) -> None:
    name = kept(kind, name)
    text = MADE.close(kind, party, name)
    assert MADE.open(kind, party, text) == name
    assert Identifiers(KEY).close(kind, party, name) == text
    assert name not in text.removeprefix(f"{kind}_") or len(name) < 4


@given(st.sampled_from(NAMES), parties, parties, names)
def test_it_opens_for_nobody_else_and_is_another_text_to_each(
    kind: Kind, party: str, other: str, name: str
) -> None:
    text = MADE.close(kind, party, kept(kind, name))
    if party != other:
        assert MADE.open(kind, other, text) is None
        assert MADE.close(kind, other, kept(kind, name)) != text


@given(parties, st.integers(0, 10_000), st.characters(codec="ascii"))
def test_a_text_that_was_changed_opens_for_nobody(party: str, at: int, put: str) -> None:
    text = MADE.close(Kind.METER, party, MPAN)
    at %= len(text)
    changed = text[:at] + put + text[at + 1 :]
    if changed == text:
        return
    try:
        assert MADE.open(Kind.METER, party, changed) is None
    except Invalid as refused:
        assert refused.reason is Reason.IDENTIFIER_UNKNOWN


@pytest.mark.parametrize(
    "text",
    [
        *("", "mtr_", MPAN, MPRN, "mtr_====", "mtr_ñ", "mtr_" + "A" * 43, "mtr_" + "A" * 48),
        MADE.close(Kind.CONSENT, "p-1", "c-1"),
        MADE.close(Kind.METER, "p-1", MPAN) + "=",
        MADE.close(Kind.METER, "p-1", MPAN) + "AAAA",
        OTHER_KEY.close(Kind.METER, "p-1", MPAN),
    ],
)
def test_what_is_none_of_ours_is_told_so(text: str) -> None:
    with pytest.raises(Invalid) as refused:
        MADE.open(Kind.METER, "p-1", text)
    assert refused.value.reason is Reason.IDENTIFIER_UNKNOWN


def test_the_kind_is_bound_too() -> None:
    consent = MADE.close(Kind.CONSENT, "p-1", "id-1")
    assert MADE.open(Kind.TENANCY, "p-1", consent.replace("cst_", "tny_")) is None


def test_all_texts_of_a_kind_are_of_one_length() -> None:
    assert len({len(MADE.close(Kind.METER, "p-1", m)) for m in (MPAN, MPRN, "123456")}) == 1
    ids = ["abc", "x" * 64, f"urn:energyos:asset:{'0' * 26}"]
    assert len({len(MADE.close(Kind.CONSENT, "p-1", each)) for each in ids}) == 1


@given(st.binary(max_size=600), parties, parties)
def test_what_is_handed_back_is_another_each_time_and_opens_for_its_party_only(
    content: bytes, party: str, other: str
) -> None:
    first, second = (MADE.close_once(Kind.POSITIONS, party, content) for _ in range(2))
    assert first != second and len(first) == len(second) and len(first) % 240 == 33
    assert MADE.open_once(Kind.POSITIONS, party, first) == content
    assert (MADE.open_once(Kind.POSITIONS, other, first) == content) == (party == other)
    assert MADE.open_once(Kind.POSITIONS, party, first[:-1]) is None
    assert MADE.open_once(Kind.CURSOR, party, first) is None


@given(st.text(max_size=300), parties)
def test_a_cursor_is_handed_back_as_text(content: str, party: str) -> None:
    text = MADE.close_text(Kind.CURSOR, party, content)
    assert MADE.open_text(Kind.CURSOR, party, text) == content
    assert MADE.open_text(Kind.CURSOR, party, text[:-1]) is None
    assert MADE.open_text(Kind.CURSOR, party, content) is None


def test_a_digest_is_compared_within_a_party_and_not_across() -> None:
    digest = bytes(range(32))
    mine = MADE.close_bytes(Kind.DIGEST, "p-1", digest)
    assert mine == MADE.close_bytes(Kind.DIGEST, "p-1", digest)
    assert mine != MADE.close_bytes(Kind.DIGEST, "p-2", digest)


def test_the_key_is_made_once_for_its_owner_and_shared_by_all(tmp_path: Path) -> None:
    with pytest.raises(NotFound) as none:
        Identifiers.kept(tmp_path)
    assert none.value.reason is Reason.IDENTIFIER_UNKNOWN
    first = Identifiers.of(tmp_path)
    path = tmp_path / "keys" / KEY_FILE
    assert path.stat().st_mode & 0o777 == 0o600 and len(path.read_bytes()) == 64
    assert [each.name for each in path.parent.iterdir()] == [KEY_FILE]
    with pytest.raises(Pushback):
        Identifiers.of(tmp_path / "keys" / KEY_FILE)
    text = first.close(Kind.METER, "p-1", MPAN)
    assert Identifiers.of(tmp_path).open(Kind.METER, "p-1", text) == MPAN
    elsewhere = tmp_path / "mounted"
    shutil.copy(path, elsewhere)
    assert Identifiers.of(tmp_path / "none", elsewhere).open(Kind.METER, "p-1", text) == MPAN
    assert Identifiers.kept(tmp_path).open(Kind.METER, "p-1", text) == MPAN
