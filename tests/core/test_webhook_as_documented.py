"""The check of a message that the documentation hands to receivers does what ours does."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from spine.webhook import ID, SENT_AT, TOLERANCE_S, key_text
from tests.core.test_webhook import BODY, HEADERS, KEY, SENT
from tests.helpers.records import STRANGER


def documented() -> Callable[..., bool]:
    """The check that docs/clients.md hands to receivers."""
    page = (Path(__file__).parents[2] / "docs/clients.md").read_text()
    (source,) = re.findall(r"^```py\n(.*?)^```", page, re.M | re.S)
    space: dict[str, Any] = {"__name__": "example"}
    exec(compile(source, "docs/clients.md", "exec"), space)
    check: Callable[..., bool] = space["is_genuine"]
    return check


def test_the_check_for_receivers_finds_what_ours_finds() -> None:
    check, key = documented(), key_text(KEY)
    assert check(HEADERS, BODY, key, SENT)
    assert not check(HEADERS, BODY + b" ", key, SENT)
    assert not check(HEADERS, BODY, key_text(STRANGER.public_key), SENT)
    assert not check(HEADERS, BODY, key, SENT + TOLERANCE_S + 1)
    assert not check(HEADERS | {SENT_AT: "9" * 5_000}, BODY, key, SENT)
    assert not check(HEADERS | {ID: "f1" * 16}, BODY, key, SENT)
