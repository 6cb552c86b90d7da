"""The lists of standing data as the shipped files have them."""

from __future__ import annotations

from functools import cache

from spine.codefile import CodeFile, parse
from spine.codelist import NOT_LOADED, CodeList, changes, evolve
from spine.domain import Actor
from spine.services.reference import shipped

BOARD = Actor("governance", "governance-board")


@cache
def shipped_file(domain: str, name: str) -> CodeFile:
    """A shipped file, read."""
    return parse(shipped(domain)[f"{name}.csv"])


def shipped_list(domain: str, name: str) -> CodeList:
    """What a list comes to once its shipped file is loaded."""
    state = NOT_LOADED
    for event in changes(state, shipped_file(domain, name).command(BOARD)):
        state = evolve(state, event)
    return state
