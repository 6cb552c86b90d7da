"""One key, one request, whatever the request is about."""

from __future__ import annotations

import time
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rocksdict import AccessType

from spine import rocks
from spine.claims import CLAIMS_FOLDER, Claims
from spine.errors import Conflict, Reason
from spine.rocks import DAMAGE_MARK, DamagedStore

LOG, OTHER_LOG = bytes(32), bytes(31) + b"\x01"
FIRST, SECOND = b"a" * 32, b"b" * 32
SCOPE = ("supplier", "north-supply", "RegisterMeteringPoint", "key-1")


def test_a_key_stands_for_its_first_request_across_restarts(tmp_path: Path) -> None:
    claims = Claims(tmp_path, LOG)
    claims.claim(*SCOPE, FIRST)
    claims.claim(*SCOPE, FIRST)
    claims.close()
    again = Claims(tmp_path, LOG)
    with pytest.raises(Conflict) as conflict:
        again.claim(*SCOPE, SECOND)
    assert conflict.value.reason is Reason.IDEMPOTENCY_CONFLICT
    again.close()


@pytest.mark.parametrize("changed", range(4))
def test_another_caller_method_or_key_is_another_scope(tmp_path: Path, changed: int) -> None:
    claims = Claims(tmp_path, LOG)
    claims.claim(*SCOPE, FIRST)
    role, party, method, key = (
        part + "x" if place == changed else part for place, part in enumerate(SCOPE)
    )
    claims.claim(role, party, method, key, SECOND)
    claims.close()


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.lists(st.tuples(st.integers(0, 5), st.sampled_from([FIRST, SECOND]))), max_size=4)
)
def test_many_at_once_are_claimed_as_one_by_one(bulks: list[list[tuple[int, bytes]]]) -> None:
    """In one bulk a key may stand twice, for the same request and for another."""
    with TemporaryDirectory() as folder:
        at_once, singly = Claims(Path(folder) / "1", LOG), Claims(Path(folder) / "2", LOG)
        for bulk in bulks:
            asked = [(*SCOPE[:3], f"key-{number}", digest) for number, digest in bulk]
            found = [conflict is not None for conflict in at_once.claim_all(asked)]
            alone = []
            for claim in asked:
                try:
                    singly.claim(*claim)
                    alone.append(False)
                except Conflict:
                    alone.append(True)
            assert found == alone
        at_once.close()
        singly.close()


def test_another_log_knows_nothing_of_it(tmp_path: Path) -> None:
    claims = Claims(tmp_path, LOG)
    claims.claim(*SCOPE, FIRST)
    claims.close()
    other = Claims(tmp_path, OTHER_LOG)
    other.claim(*SCOPE, SECOND)
    other.close()


@pytest.mark.parametrize("naive", [False, True])
def test_what_is_too_old_goes_from_the_files_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, naive: bool
) -> None:
    monkeypatch.setattr("spine.claims.KEPT_S", 1)
    if naive:
        everything = SimpleNamespace(with_ttl=lambda _: AccessType.read_write())
        monkeypatch.setattr("spine.rocks.AccessType", everything)
    claims = Claims(tmp_path, LOG)
    claims.claim(*SCOPE, FIRST)
    time.sleep(2.2)
    claims._db.flush()
    claims._db.compact_range(None, None)
    assert len(list(claims._db.items())) == naive
    claims.close()


def test_what_proved_damaged_is_begun_anew(tmp_path: Path) -> None:
    claims = Claims(tmp_path, LOG)
    claims.claim(*SCOPE, FIRST)
    claims.close()
    (tmp_path / CLAIMS_FOLDER / DAMAGE_MARK).touch()
    again = Claims(tmp_path, LOG)
    again.claim(*SCOPE, SECOND)
    again.close()


def test_what_an_earlier_build_kept_is_let_go(tmp_path: Path) -> None:
    (tmp_path / "claims.sqlite").touch()
    (tmp_path / "claims.sqlite-wal").touch()
    Claims(tmp_path, LOG).close()
    assert [each.name for each in tmp_path.iterdir()] == [CLAIMS_FOLDER]


def damaged(folder: Path, files: str) -> None:
    """A hundred bytes in the middle of each of these files are others."""
    found = [file for file in (folder / CLAIMS_FOLDER).glob(files) if file.stat().st_size > 200]
    assert found
    for file in found:
        with file.open("r+b") as out:
            out.seek(file.stat().st_size // 2)
            out.write(bytes(100))


def filled(folder: Path) -> None:
    """Three thousand keys in a file of their own."""
    claims = Claims(folder, LOG)
    claims.claim_all([(*SCOPE[:3], f"key-{number}", FIRST) for number in range(3_000)])
    claims._db.flush()
    claims.close()


def test_keys_that_can_no_longer_be_read_are_begun_anew_while_others_are_asked(
    tmp_path: Path,
) -> None:
    filled(tmp_path)
    damaged(tmp_path, "*.sst")
    asked = [(*SCOPE[:3], f"key-{number}", SECOND) for number in range(3_000)]
    claims = Claims(tmp_path, LOG)
    with pytest.raises(DamagedStore):
        rocks.get_many(claims._db, claims._path, [claims._scope(*claim[:-1]) for claim in asked])
    assert claims.claim_all(asked) == [None] * 3_000
    claims.claim_all(asked)
    with pytest.raises(Conflict):
        claims.claim(*SCOPE[:3], "key-1", FIRST)
    claims.close()


def test_keys_that_do_not_even_open_are_begun_anew_unless_another_has_them(tmp_path: Path) -> None:
    filled(tmp_path)
    (tmp_path / CLAIMS_FOLDER / "CURRENT").write_bytes(b"nothing")
    claims = Claims(tmp_path, LOG)
    assert claims.claim_all([(*SCOPE, SECOND)]) == [None]
    with pytest.raises(DamagedStore, match="another writer"):
        Claims(tmp_path, LOG)
    with pytest.raises(Conflict):
        claims.claim(*SCOPE, FIRST)
    claims.close()
