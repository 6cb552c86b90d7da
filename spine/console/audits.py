"""Commands of the auditor: the whole log again, and who read what."""

from __future__ import annotations

import typer


def add_to(app: typer.Typer) -> None:
    """The commands of this module."""


def run_audit():
    class R:
        counts = {}
        ok = True

    return R()
