"""What is sealed is read with its key, in its place, and by nobody once the key is destroyed."""

from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from threading import Thread

import pytest

from spine.errors import Reason, Refused
from spine.sealing import VAULT_FILE, Vault

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


def test_nothing_that_runs_opens_a_seal() -> None:
    """So no answer ever showed what was sealed, and none is another answer once it is erased."""
    root = Path(__file__).parents[2]
    code = [p for folder in ("spine", "domains") for p in (root / folder).rglob("*.py")]
    assert [p.name for p in code if "unseal(" in p.read_text()] == ["sealing.py"]


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
