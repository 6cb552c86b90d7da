"""A command loads what makes it, and is the same command as in the whole command line."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from spine.cli import COMMANDS, command_line


def paths(app: typer.Typer) -> Iterator[tuple[str, ...]]:
    """Every command of a command line, by its words."""

    def walk(command: Any, before: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        for name, each in getattr(command, "commands", {}).items():
            yield (*before, name)
            yield from walk(each, (*before, name))

    return walk(typer.main.get_command(app), ())


WHOLE = frozenset(paths(command_line()))


def test_the_whole_has_the_commands_that_the_table_names() -> None:
    assert {first for first, *_ in WHOLE} == COMMANDS


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_a_command_alone_is_all_of_it(command: str) -> None:
    alone = {path for path in paths(command_line(command)) if path[0] == command}
    assert alone == {path for path in WHOLE if path[0] == command}


@pytest.mark.parametrize(
    ("command", "library", "loaded"),
    [
        ("read", "openpyxl", False),
        ("assets", "openpyxl", True),
        ("participant", "kafka", False),
        ("participant", "numpy", False),
        ("audit", "kafka", True),
    ],
)
def test_only_what_a_command_needs_is_loaded(command: str, library: str, loaded: bool) -> None:
    """A workbook's reader is for those that take in workbooks, Kafka's client for those that read
    the log: so the naive way is seen too.
    """
    asked = f"from spine.cli import command_line; command_line({command!r})"
    code = f"{asked}; import sys; print({library!r} in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout == f"{loaded}\n"
