"""`docs/pairwise.md` tells what the table of fields says, in both directions."""

from __future__ import annotations

import re
from pathlib import Path

from spine.pairwise import FIELDS, REFUSED, SAME_TO_EVERYBODY, TYPES

PAGE = (Path(__file__).parents[1] / "docs/pairwise.md").read_text()


def cells(between: str, end: str) -> list[list[str]]:
    """The rows of a table of the page, but for its header."""
    part = PAGE.partition(f"<!-- {between} -->")[2].partition(f"<!-- {end} -->")[0]
    lines = [line for line in part.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def short(name: str) -> str:
    return name.removeprefix("spine.").replace(".v1.", ".")


def test_the_page_tells_of_every_field_and_of_every_call_that_is_refused() -> None:
    told = {
        field: (done, why)
        for done, why, fields in cells("fields", "end of fields")
        for field in re.findall(r"`([^`]+)`", fields)
    }
    rules = {**TYPES, **FIELDS}
    assert told == {short(name): (rule.treatment, rule.why) for name, rule in rules.items()}
    refused = {call.strip("`"): why for call, why in cells("refused", "end of refused")}
    assert refused == {short(name): why for name, why in REFUSED.items()}
    assert all(f"`{short(name)}`" in PAGE for name in SAME_TO_EVERYBODY)
