"""`spine archive`: segments of the log in files, and whether they are whole."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import typer

from spine.archive import Archive
from spine.console.context import AsJson, runtime, settings
from spine.console.output import listed
from spine.errors import Invalid, Reason
from spine.log import LogUnfit, partition_counts
from spine.runtime import Runtime

COLUMNS = ("topic", "partition", "from", "to", "records")


def add_to(app: typer.Typer) -> None:
    """The commands of this module."""
    archive = typer.Typer(no_args_is_help=True, help="Archived segments of the log.")
    archive.command()(segments)
    archive.command()(verify)
    app.add_typer(archive, name="archive")


def segments(as_json: AsJson = False) -> None:
    """Archive what the archive does not hold yet of every topic. Safe to repeat."""
    archive, this, rows = _archive(), runtime(), []
    with closing(this.reader()) as reader:
        for place in _places(this):
            known, (_, end) = archive.bounds(*place), reader.bounds(*place)
            records = reader.read(*place, known[1] if known else 0, end)
            for made in archive.extend(this.identity.log_id, *place, records):
                rows.append((*place, made.header.first, made.header.next, made.header.records))
    listed("New segments", COLUMNS, rows, as_json)


def verify(as_json: AsJson = False) -> None:
    """Check every segment, and that nothing is missing between the archive and the broker."""
    archive, this, rows = _archive(), runtime(), []
    with closing(this.reader()) as reader:
        for place in _places(this):
            records = archive.verify(this.identity.log_id, *place)
            if (start := reader.bounds(*place)[0]) > 0:
                message = f"{place[0]}-{place[1]}: neither archive nor broker reaches below {start}"
                raise LogUnfit(Reason.LOG_MISSING, message)
            rows.append((*place, *(archive.bounds(*place) or (0, 0)), records))
    listed("The archive is whole", COLUMNS, rows, as_json)


def _archive() -> Archive:
    folder = settings().archive_dir
    if folder is None:
        message = "SPINE_ARCHIVE_DIR names no folder for the archive"
        raise Invalid(Reason.FIELD_MISSING, message, field="archive_dir")
    return Archive(folder)


def _places(this: Runtime) -> Iterator[tuple[str, int]]:
    for topic, count in partition_counts(this.partitions).items():
        yield from ((topic, partition) for partition in range(count))
