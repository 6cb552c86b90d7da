"""`spine drift`: whether what the processes of this data folder serve is what the log says."""

from __future__ import annotations

from contextlib import closing
from typing import Annotated, Final

import structlog
import typer

from spine.console.context import AsJson, runtime, settings
from spine.console.output import EXIT_DIFFERENT, listed
from spine.drift import DriftWatcher
from spine.errors import Pushback
from spine.stopping import stop_told
from spine.telemetry import set_up_logging, set_up_telemetry

COLUMNS: Final = ("process", "topic", "partition", "offset", "verdict", "rows", "evidence")
FOLDER: Final = "drift"
_log = structlog.get_logger()


def add_to(app: typer.Typer) -> None:
    """The command of this module."""
    app.command()(drift)


def drift(
    every: Annotated[
        float, typer.Option(min=0, help="Look again after so many seconds, until it is stopped.")
    ] = 0.0,
    as_json: AsJson = False,
) -> None:
    """Fold the log again by itself and compare the rows of every store of this data folder."""
    chosen = settings()
    if every:
        set_up_logging(chosen.log_level)
        set_up_telemetry("spine-drift", chosen.telemetry, chosen.otlp_endpoint)
    this = runtime(patient=bool(every))
    if every:
        this.verify_held()
    with closing(this.reader()) as reader:
        log_id, own = this.identity.log_id, chosen.data_dir / FOLDER
        stores = chosen.data_dir / "stores"
        with closing(
            DriftWatcher(stores, own, log_id, reader, this.stored_fold, this.domains.layouts)
        ) as watcher:
            if every:
                _watch(watcher, every)
                return
            found = watcher.look()
    rows = [
        (c.process, c.topic, c.partition, c.offset, c.verdict, c.differ, c.evidence) for c in found
    ]
    listed("What is served, against the log", COLUMNS, rows, as_json)
    if any(compared.drifted for compared in found):
        raise typer.Exit(EXIT_DIFFERENT)


def _watch(watcher: DriftWatcher, every: float) -> None:
    """Look until told to stop. A broker that is away is no reason to end."""
    stop = stop_told()
    while True:
        try:
            found = watcher.look()
            left = [c for c in found if c.verdict == "NOT_COMPARED"]
            _log.info("drift.looked", stores=len(found), not_compared=len(left))
        except Pushback as unreachable:
            _log.warning("drift.look_failed", reason=str(unreachable.reason))
        if stop.wait(every):
            return
