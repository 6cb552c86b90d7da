"""`spine ingest readings`: files in, and exactly what became of every row and half hour."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from spine.console.client import Client
from spine.console.context import As, AsJson, settings, target_of
from spine.console.output import err, say, say_json
from spine.ingest import IngestReport, Step, ingest_file
from spine.whereabouts import service_target

Files = Annotated[list[Path], typer.Argument(exists=True, dir_okay=False, help="Readings files.")]
MpxnOption = Annotated[str, typer.Option("--mpxn", help="The meter, where the file names none.")]

CalorificOption = Annotated[
    str, typer.Option("--calorific-value", help="MJ/m3, where the file counts gas in m3.")
]


def add_to(app: typer.Typer) -> None:
    """The commands of this module."""
    ingest = typer.Typer(no_args_is_help=True, help="Take in files.")
    ingest.command("readings")(readings)
    ingest.callback()(_files)
    app.add_typer(ingest, name="ingest")


def _files() -> None:
    """Take in files."""


def readings(
    files: Files,
    as_: As,
    mpxn: MpxnOption = "",
    calorific_value: CalorificOption = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Read, do not send.")] = False,
    as_json: AsJson = False,
) -> None:
    """Record half-hourly readings as the supplier or data service that --as names."""
    if not dry_run:
        Client(settings().data_dir, as_)
        target_of(settings().data_dir, "metering")
    reports = []
    for path in files:
        report = send(
            path,
            as_,
            mpxn=mpxn or None,
            calorific_value=calorific_value or None,
            dry_run=dry_run,
            show=not as_json,
        )
        reports.append(report)
        if not as_json:
            for line in report.lines():
                say(line)
    if as_json:
        say_json([report.as_dict() for report in reports])


def send(
    path: Path,
    alias: str,
    *,
    mpxn: str | None = None,
    calorific_value: str | None = None,
    dry_run: bool = False,
    data_dir: Path | None = None,
    show: bool = False,
) -> IngestReport:
    """Take in one file as that identity, with a progress bar if somebody watches a terminal."""
    home = data_dir or settings().data_dir
    if not dry_run:
        Client(home, alias)
    target = "" if dry_run else service_target(home, "metering")
    with _bar(shown=show and err.is_terminal) as bar:
        task = bar.add_task(path.name, total=path.stat().st_size, rows=0, days=0)

        def progress(step: Step) -> None:
            bar.update(task, completed=step.bytes_read, rows=step.rows, days=step.meter_days)

        return asyncio.run(
            ingest_file(
                path,
                target,
                home / "identities" / alias,
                mpxn=mpxn,
                calorific_value=calorific_value,
                dry_run=dry_run,
                progress=progress,
            )
        )


def _bar(*, shown: bool) -> Progress:
    """Bytes, rows and meter-days as they are read and sent; nothing at all unless it is shown.

    Bytes run twice: once for the file's digest, then as it is read and sent.
    """
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TextColumn("{task.fields[rows]:,} rows, {task.fields[days]:,} meter-days"),
        TimeRemainingColumn(),
        console=err,
        disable=not shown,
        transient=True,
    )


def in_a_line(report: IngestReport) -> str:
    """The report of one file, in a line."""
    return f"half hours {report.half_hours}; {report.total_kwh:,.1f} kWh"
