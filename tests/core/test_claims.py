"""One key, one request, whatever the request is about."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spine.claims import Claims
from spine.errors import Conflict, Reason

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


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.lists(st.tuples(st.integers(0, 5), st.sampled_from([FIRST, SECOND]))), max_size=4)
)
def test_many_at_once_are_claimed_as_one_by_one(bulks: list[list[tuple[int, bytes]]]) -> None:
    """In one bulk a key may stand twice, for the same request and for another."""
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr("spine.claims.ASKED_AT_ONCE", 3)
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
