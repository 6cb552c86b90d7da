"""`spine loadtest`: one scenario of the load tests, at any size."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from spine.console.output import err, out, table
from spine.errors import Invalid, Reason
from spine.stopping import end_as_interrupted

LOOK_S = 0.1


def add_to(app: typer.Typer) -> None:
    """The commands of this module."""
    app.command()(loadtest)


def loadtest(
    scenario: Annotated[str, typer.Argument(help="Such as gb-day; an unknown one lists them all.")],
    meters: Annotated[int, typer.Option("--meters", min=100, help="How many meters.")] = 10_000,
    days: Annotated[int, typer.Option("--days", min=1, help="How many days of readings.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Load a spine of its own with one scenario and check every answer; 1 if it does not pass."""
    from loadtest import scenarios
    from loadtest.installation import WrongAnswer
    from loadtest.results import to_json

    if scenario not in scenarios.NAMES:
        message = f"the scenarios are {', '.join(scenarios.NAMES)}"
        raise Invalid(Reason.CODE_UNKNOWN, message, field="scenario")
    end_as_interrupted()
    with _bar() as (note, done):
        try:
            result = scenarios.run(scenario, meters, note, days)
        except WrongAnswer as wrong:
            done()
            err.print(f"WRONG  {wrong}")
            raise typer.Exit(1) from None
    if as_json:
        out.print(to_json(result), soft_wrap=True)
    else:
        rows = [(name, f"{value:,.4g}") for name, value in result.figures.items()]
        rows += [("target missed", str(target)) for target in result.missed()]
        table(f"{result.scenario}, {result.size:,} meters", ("figure", "value"), rows)
    raise typer.Exit(0 if result.passed else 1)


class _bar:
    """A progress bar on standard error, for the length of a with block."""

    def __enter__(self) -> tuple[Callable[[str, int, int], None], Callable[[], None]]:
        columns = (TextColumn("{task.description:<28}"), BarColumn(), MofNCompleteColumn())
        self._progress = Progress(*columns, TimeElapsedColumn(), console=err, transient=True)
        self._progress.start()
        task = self._progress.add_task("", total=None)
        looked = 0.0

        def note(what: str, done: int, total: int) -> None:
            nonlocal looked
            if (now := time.monotonic()) - looked < LOOK_S and total:
                return
            looked = now
            self._progress.update(task, description=what, completed=done, total=total or None)

        return note, self._progress.stop

    def __exit__(self, *error: object) -> None:
        self._progress.stop()
