"""One key, one request, whatever the request is about."""

from __future__ import annotations

from pathlib import Path

import pytest

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


def test_another_log_knows_nothing_of_it(tmp_path: Path) -> None:
    claims = Claims(tmp_path, LOG)
    claims.claim(*SCOPE, FIRST)
    claims.close()
    other = Claims(tmp_path, OTHER_LOG)
    other.claim(*SCOPE, SECOND)
    other.close()
