"""`make load` and `make load-gb`: every scenario at one size, a table, and the results kept.

python -m loadtest small           every gate, about two minutes; changes no file
python -m loadtest full            every target; writes results.json, RESULTS.md, plots, sizing
python -m loadtest full NAME ...   those scenarios only, beside what was kept of the others;
                                   NAME=METERS one run at that size, NAME=METERS:DAYS over so
                                   many days; without them over those stated for that size, or one
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

from rich.console import Console
from rich.table import Table

from loadtest import report, scenarios
from loadtest.installation import WrongAnswer
from loadtest.results import Result
from spine.stopping import end_as_interrupted

SMALL_SECONDS = 4.0
NOTE_S = 10.0
# Scenario, meters, days; the same scenario may come at several sizes.
SMALL = (("growth", 200_000, 1), ("gb-day", 3_000, 2), ("bulk", 200, 1))
SMALL_SERVED = 200
FULL = (
    ("growth", 10_000, 480),
    ("growth", 100_000, 50),
    ("growth", 1_000_000, 6),
    ("growth", 10_000_000, 1),
    ("growth", 32_000_000, 1),
    ("gb-day", 1_000_000, 1),
    ("peers", 1_000_000, 1),
    ("rebuild", 1_000_000, 6),
    ("members", 1_000_000, 4),
    ("registry", 1_000_000, 1),
    ("reads", 500, 1),
    ("reads", 5_000, 1),
    ("reads", 50_000, 1),
    ("access", 5_000, 1),
    ("audit", 5_000, 1),
    ("bulk", 100_000, 1),
    ("ledger", 5_000, 1),
    ("moves", 5_000, 1),
    ("mixed", 5_000, 1),
    ("cut", 2_500, 1),
)
console = Console()


def small() -> Iterator[Result]:
    """Short runs that only gates are held against."""
    for name, meters, days in SMALL:
        yield scenarios.run(name, meters, _note, days)
    yield from scenarios.run_on_one(
        ["reads", "access", "audit", "mixed", "cut"], SMALL_SERVED, _note, SMALL_SECONDS
    )


def full(asked: list[str]) -> Iterator[Result]:
    """Every scenario at the size its targets speak of, or as near as RESULTS.md says."""
    for name, meters, days in chosen(asked):
        console.print(f"[bold]{name}[/] at {meters:,} meters, {days} days")
        yield scenarios.run(name, meters, _note, days)


def chosen(asked: list[str]) -> Iterator[tuple[str, int, int]]:
    """Scenario, meters and days of each run that is asked for; all that there are for nothing."""
    stated = {(name, meters): days for name, meters, days in FULL}
    if not asked:
        yield from FULL
    for each in asked:
        name, _, size = each.partition("=")
        if size:
            meters, _, days = size.partition(":")
            yield name, int(meters), int(days or stated.get((name, int(meters)), 1))
        else:
            yield from (entry for entry in FULL if entry[0] == name)


def main() -> int:
    """0 if every gate was met and every answer was right."""
    end_as_interrupted()
    size, *names = sys.argv[1:] or ["small"]
    results: list[Result] = []
    try:
        for result in small() if size == "small" else full(names):
            results.append(result)
            _show(result)
            if size == "full":
                report.keep(result)
    except WrongAnswer as wrong:
        console.print(f"[red]WRONG[/]  {wrong}")
        return 1
    if size == "full":
        report.write()
    failed = [result.scenario for result in results if not result.passed]
    console.print(f"gates missed: {', '.join(failed)}" if failed else "every gate met")
    return 1 if failed else 0


_last: tuple[float, str] = (0.0, "")


def _note(what: str, done: int, total: int) -> None:
    """A line now and then: logs of continuous integration have no progress bars."""
    global _last
    now, (then, before) = time.monotonic(), _last
    if now - then > NOTE_S or (what != before and now - then > 1):
        _last = (now, what)
        console.print(f"  {what} {done:,}/{total:,}" if total else f"  {what}")


def _show(result: Result) -> None:
    table = Table(title=f"{result.scenario}, {result.size:,} meters", title_justify="left")
    table.add_column("figure")
    table.add_column("value", justify="right")
    for name, value in result.figures.items():
        table.add_row(name, f"{value:,.4g}" if value < 10_000 else f"{value:,.0f}")
    for target in result.missed():
        table.add_row("target missed", str(target))
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
