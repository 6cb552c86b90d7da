"""What is sealed is read with its key, in its place, and by nobody once the key is destroyed."""

import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from threading import Thread

import pytest

from spine.errors import Invalid, Reason, Refused
from spine.event import Sealed
from spine.sealing import VAULT_FILE, Vault, bare_digest

NAME = b"Gwenllian Planted-Marker"


@pytest.fixture
def vault(tmp_path: Path) -> Iterator[Vault]:
    opened = Vault.open(tmp_path / VAULT_FILE)
    yield opened
    opened.close()


def test_a_sealed_value_comes_back_whole_and_says_nothing(vault: Vault) -> None:
    sealed = vault.seal("c-anna", "person/t-1", NAME)
    assert vault.unseal(sealed) == NAME
    assert b"Gwenllian" not in sealed.ciphertext
    assert "anna" not in sealed.key_id
    assert vault.seal("c-anna", "person/t-1", NAME).ciphertext != sealed.ciphertext


def test_one_key_for_each_subject(vault: Vault) -> None:
    first, second = (vault.seal("c-anna", "a", b"1"), vault.seal("c-anna", "b", b"2"))
    assert first.key_id == second.key_id != vault.seal("c-ben", "a", b"1").key_id


def test_a_sealed_value_cannot_be_moved_or_changed(vault: Vault) -> None:
    sealed = vault.seal("c-anna", "person/t-1", NAME)
    assert vault.unseal(replace(sealed, context="person/t-2")) is None
    assert vault.unseal(replace(sealed, ciphertext=sealed.ciphertext[:-1])) is None
    assert vault.unseal(replace(sealed, nonce=b"short")) is None
    assert vault.unseal(replace(sealed, key_id="unknown")) is None


def test_a_destroyed_key_opens_nothing_and_is_gone_from_the_file(vault: Vault) -> None:
    sealed = vault.seal("c-anna", "person/t-1", NAME)
    key = vault._db.execute("SELECT key FROM keys").fetchone()[0]
    assert key in vault.path.read_bytes()
    assert vault.destroy("c-anna") is True
    assert vault.unseal(sealed) is None
    assert key not in vault.path.read_bytes()
    assert vault.destroy("c-anna") is False


def test_a_keyed_digest_is_the_same_for_as_long_as_the_key_is_there(vault: Vault) -> None:
    digest = sha256(NAME).digest()
    keyed = vault.keyed("c-anna", digest)
    assert keyed == vault.keyed("c-anna", digest)
    assert keyed not in (digest, vault.keyed("c-ben", digest), vault.keyed("c-anna", keyed))
    vault.destroy("c-anna")
    with pytest.raises(Refused) as refused:
        vault.keyed("c-anna", digest)
    assert refused.value.reason is Reason.SUBJECT_ERASED


def test_what_is_sealed_is_opened_by_the_coordinator_and_the_audit_and_nobody_else() -> None:
    root = Path(__file__).parents[2]
    code = [p for folder in ("spine", "domains") for p in (root / folder).rglob("*.py")]
    assert [p.name for p in code if "unseal(" in p.read_text()] == ["sealing.py"]
    opens = {p.name for p in code if ".open_for" in p.read_text()}
    assert opens == {"seals.py", "keys.py"}


def test_seals_are_opened_for_their_own_subject_only(vault: Vault) -> None:
    mine, hers = vault.seal("c-anna", "person/t-1", NAME), vault.seal("c-ben", "person/t-2", b"Ben")
    opened = vault.open_for("c-anna", [mine, hers, replace(mine, context="person/t-3")])
    assert opened is not None
    assert opened.texts == (NAME.decode(), None, None)
    assert opened.shut == ("", "KEYS_NOT_AT_HAND", "SEAL_DAMAGED") and opened.strange
    assert "Gwenllian" not in repr(opened)
    again = vault.open_for("c-anna", [mine, hers, replace(mine, context="person/t-3")])
    assert again == opened
    assert vault.open_for("c-anna", [mine]) != opened
    other = vault.open_for("c-ben", [mine, hers])
    assert other is not None and other.texts == (None, "Ben")
    damaged = vault.open_for("c-ben", [replace(hers, context="person/t-3")])
    assert damaged is not None and (damaged.texts, damaged.strange) == ((None,), False)


def test_opening_makes_no_key_and_says_who_is_erased(vault: Vault) -> None:
    sealed = vault.seal("c-anna", "person/t-1", NAME)
    assert vault.open_for("c-nobody", [sealed]) is None
    assert vault._db.execute("SELECT count(*) FROM keys").fetchone() == (1,)
    vault.destroy("c-anna")
    with pytest.raises(Refused) as refused:
        vault.open_for("c-anna", [sealed])
    assert refused.value.reason is Reason.SUBJECT_ERASED


NAMES = ("Nobody At-All", NAME.decode(), "Somebody Else")


def guessed(vault: Vault, sealed: Sealed, digest: bytes) -> list[str]:
    """The names that a digest gives away to who has the log, tries names, and has no key."""
    tried = {name: bare_digest([sealed], [name.encode()]) for name in NAMES}
    by_hash = [name for name, bare in tried.items() if bare == digest]
    keyed_by_another = [n for n, bare in tried.items() if vault.keyed("c-guesser", bare) == digest]
    return by_hash + keyed_by_another


def test_a_bare_digest_gives_the_name_away_and_the_one_in_the_outcome_does_not(
    vault: Vault,
) -> None:
    sealed = vault.seal("c-anna", "person/t-1", NAME)
    opened = vault.open_for("c-anna", [sealed])
    assert opened is not None
    naive = bare_digest([sealed], [NAME])
    assert guessed(vault, sealed, naive) == [NAME.decode()], "the naive digest must be guessed"
    assert guessed(vault, sealed, opened.digest) == []
    vault.destroy("c-anna")
    assert guessed(vault, sealed, naive) == [NAME.decode()], "and outlives the erasure"


def test_the_digest_of_what_was_opened_is_for_ever() -> None:
    sealed = [Sealed("k", b"n", b"c", context) for context in ("person/t-1", "notice/é")]
    by_hand = b"energyos-opened-v1\0" + b"".join(
        (b"\0\0\0\x0aperson/t-1", b"\1\0\0\0\3Ann", b"\0\0\0\x09notice/\xc3\xa9", b"\0")
    )
    assert bare_digest(sealed, [b"Ann", None]) == sha256(by_hand).digest()


def test_a_vault_that_is_looked_into_is_not_changed(vault: Vault, tmp_path: Path) -> None:
    sealed = vault.seal("c-anna", "person/t-1", NAME)
    before = vault.path.read_bytes()
    seen = Vault.look_into(vault.path)
    try:
        found = seen.open_for("c-anna", [sealed])
        assert found is not None and found.texts == (NAME.decode(),)
        with pytest.raises(sqlite3.OperationalError):
            seen.seal("c-ben", "person/t-2", NAME)
    finally:
        seen.close()
    assert vault.path.read_bytes() == before
    (tmp_path / "page.csv").write_text("no vault")
    for path in (tmp_path / "page.csv", tmp_path / "missing", tmp_path):
        with pytest.raises(Invalid) as refused:
            Vault.look_into(path)
        assert refused.value.reason is Reason.FILE_UNREADABLE
    assert not (tmp_path / "missing").exists()


def test_another_opening_reads_what_was_sealed_and_gives_the_same_tokens(vault: Vault) -> None:
    sealed = vault.seal("c-anna", "person/t-1", NAME)
    again = Vault.open(vault.path)
    try:
        assert again.unseal(sealed) == NAME
        assert again.token("a", "b") == vault.token("a", "b") != vault.token("ab", "")
    finally:
        again.close()


def test_the_file_is_its_owners_alone(vault: Vault) -> None:
    assert vault.path.stat().st_mode & 0o777 == 0o600


def test_threads_agree_on_a_subjects_key(vault: Vault) -> None:
    found: list[str] = []

    def seal() -> None:
        found.append(vault.seal("c-anna", "a", b"1").key_id)

    threads = [Thread(target=seal) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8 and len(set(found)) == 1
