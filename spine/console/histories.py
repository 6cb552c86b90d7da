"""Commands about old readings: hand them over from the stores to columnar files, and list these."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.progress import Progress

from spine.console.context import AsJson, instant, runtime
from spine.console.output import err, listed
from spine.errors import Pushback, Reason, Refused
from spine.history import FOLDER, HistoryFile
from spine.rocks import DamagedStore
from spine.runtime import Runtime
from spine.store import Store, StoreInUse

READINGS: Final = "readings"
EPOCH: Final = date(1970, 1, 1)
COLUMNS: Final = ("store", "before", "rows", "bytes", "file")
Of = Annotated[str, typer.Option("--process", help="Whose stores, such as readings-2.")]


def add_to(app: typer.Typer) -> None:
    """The commands of this module."""
    history = typer.Typer(no_args_is_help=True, help="Old readings in columnar files.")
    history.command("move")(move)
    history.command("list")(list_)
    app.add_typer(history, name="history")


def move(
    before: Annotated[str, typer.Option(help="Readings of UTC days before this one.")],
    process: Of = READINGS,
    as_json: AsJson = False,
) -> None:
    """Hand old readings of a process that does not run over to Parquet; answers stay the same."""
    day = (instant(before, "before").date() - EPOCH).days
    rows = []
    stores = list(_stores(runtime(patient=True), process))
    with Progress(console=err, disable=as_json, transient=True) as bar:
        for path, store in bar.track(stores, description="moving"):
            try:
                moved = store.move_to_history(day)
            finally:
                store.close()
            rows += [_row(path, moved)] if moved else []
    listed(f"Handed over by {process}", COLUMNS, rows, as_json)


def list_(process: Of = READINGS, as_json: AsJson = False) -> None:
    """The files that the stores of a process that does not run have handed readings over to."""
    rows = []
    for path, store in _stores(runtime(patient=True), process):
        rows += [_row(path, file) for file in store.history]
        store.close()
    listed(f"History of {process}", COLUMNS, rows, as_json)


def _stores(this: Runtime, process: str) -> Iterator[tuple[Path, Store]]:
    """The stores of a process that may hand rows over; Pushback(STARTING) while it runs."""
    for topic, layout in this.domains.layouts.items():
        for partition in range(this.partitions):
            path = this.stores(process) / f"{topic}-{partition}"
            if not path.exists():
                continue
            try:
                yield path, Store(path, layout)
            except StoreInUse:
                message = f"{process} runs: stop it before its stores are changed"
                raise Pushback(Reason.STARTING, message) from None
            except DamagedStore as damage:
                message = f"{damage}: start {process}, which folds it anew"
                raise Refused(Reason.DATA_BEHIND, message) from None


def _row(path: Path, file: HistoryFile) -> tuple[object, ...]:
    before = EPOCH + timedelta(days=file.before_day)
    return path.name, str(before), file.rows, file.size, f"{FOLDER}/{file.name}"
