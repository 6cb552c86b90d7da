"""Commands that copy the stores of a process and put them back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spine.console.context import AsJson, runtime
from spine.console.output import say_json, table
from spine.snapshot import Snapshot
from spine.snapshot import restore as restore_stores
from spine.snapshot import save as save_stores

ProcessName = Annotated[str, typer.Argument(help="The process whose stores, such as readings.")]
Folder = Annotated[Path, typer.Argument(help="Where the snapshot is kept.")]


def add_to(app: typer.Typer) -> None:
    """The commands of this module."""
    snapshots = typer.Typer(no_args_is_help=True, help="Copy stores of a process and restore them.")
    snapshots.command("save")(save)
    snapshots.command("restore")(restore)
    app.add_typer(snapshots, name="snapshot")


def save(process: ProcessName, folder: Folder, as_json: AsJson = False) -> None:
    """Copy the stores of a process that does not run, each with its position and digests."""
    _show(save_stores(runtime(patient=True).stores(process), process, folder), as_json)


def restore(process: ProcessName, folder: Folder, as_json: AsJson = False) -> None:
    """Put a snapshot in the place of the stores of a process that does not run."""
    here = runtime(patient=True)
    stores, log_id = here.stores(process), here.identity.log_id
    _show(restore_stores(folder, process, stores, log_id), as_json)


def _show(snapshot: Snapshot, as_json: bool) -> None:
    rows = [
        (kept.name, kept.offset, kept.record_digest[:16], sum(file.size for file in kept.files))
        for kept in snapshot.stores
    ]
    if as_json:
        names = ("store", "offset", "record_digest", "bytes")
        say_json([dict(zip(names, row, strict=True)) for row in rows])
    else:
        table(f"Stores of {snapshot.process}", ("store", "offset", "record", "bytes"), rows)
