"""The command line inside the test's own process: the same `main`, without a second of start-up."""

from __future__ import annotations

import contextlib
import io
import sys
from dataclasses import dataclass
from unittest.mock import patch

from spine import cli


@dataclass(frozen=True, slots=True)
class Said:
    """What a command printed and how it ended."""

    code: int
    out: str
    err: str

    @property
    def reason(self) -> str:
        """The reason of a failure, with which its one line begins."""
        return self.err.split()[0] if self.err.split() else ""


def run(*words: str) -> Said:
    """Run `spine` with these words under the settings that `context.use` was given.

    What this process has loaded by now is its own, so none of it is set aside.
    """
    out, err = io.StringIO(), io.StringIO()
    with (
        patch.object(sys, "argv", ["spine", *words]),
        patch.object(cli, "collecting_nothing", contextlib.nullcontext),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            cli.main()
            code = 0
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 1
    return Said(code, out.getvalue(), err.getvalue())
