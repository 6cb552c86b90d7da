"""Commands about where an answer came from: have it stated, and check what was stated anywhere."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any

import typer

from spine.console.client import stamp
from spine.console.context import As, AsJson, Mpxn, instant
from spine.console.ledger import (
    LogKey,
    Quorum,
    WitnessKeys,
    as_typed,
    check_kind,
    keys_of,
    report_checks,
)
from spine.console.output import out, say
from spine.console.parties import client
from spine.dsi.v1 import dsi_pb2
from spine.errors import Invalid, Reason
from spine.ledger.provenance_check import verify


def add_to(app: typer.Typer) -> None:
    """The commands of this module."""
    provenance = typer.Typer(no_args_is_help=True, help="Where an answer came from.")
    provenance.command("get")(get)
    provenance.command("verify")(verify_)
    app.add_typer(provenance, name="provenance")


def get(
    mpxn: Mpxn,
    answer: Annotated[
        Path,
        typer.Argument(
            exists=True, dir_okay=False, help="What `spine read --json` printed; one page of it."
        ),
    ],
    as_: As,
    page: Annotated[int, typer.Option(min=1, help="Which page of the answer.")] = 1,
    out_: Annotated[Path | None, typer.Option("--out", help="Write it to this file.")] = None,
) -> None:
    """Have an answer's origin, permission and transfer stated, signed and proved."""
    asked = _page(answer, page)
    decision = asked["decision"]
    said = client(as_).ledger(
        "GetProvenance",
        mpxn=mpxn,
        columns=columns_of(asked["rows"]),
        **{name: decision[name] for name in ("partition", "offset", "entry")},
    )
    if out_ is None:
        out.print(said.provenance, end="", markup=False)
    else:
        out_.write_text(said.provenance, "utf-8")
        say(f"written to {out_}")


def verify_(
    path: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="A provenance record.")],
    answer: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="The answer that it is of a page of."),
    ] = None,
    page: Annotated[
        int | None, typer.Option(min=1, help="Which page, where the answer has several.")
    ] = None,
    key: LogKey = None,
    witness: WitnessKeys = None,
    quorum: Quorum = 2,
    as_json: AsJson = False,
) -> None:
    """Check a record offline, and the answer against it; exit code 6, and why, if it fails."""
    keys = keys_of(key, witness, quorum)
    check_kind(path)
    with as_typed():
        report = verify(path, keys, answer, page)
    report_checks(report, keys, as_json)


def _page(answer: Path, number: int) -> Any:
    """That page of an answer; Invalid(FILE_UNRECOGNISED) if the file holds no such thing."""
    try:
        pages = json.loads(answer.read_text("utf-8"))
        page = pages[number - 1]
        page["decision"]["entry"], page["rows"][0]["start"]
    except (ValueError, LookupError, TypeError):
        message = f"{answer.name} is no answer with a page {number}"
        raise Invalid(Reason.FILE_UNRECOGNISED, message) from None
    return page


def columns_of(rows: list[dict[str, Any]]) -> Any:
    """The half hours of a page as columns. Invalid(FILE_UNRECOGNISED) for what is none."""
    try:
        return dsi_pb2.HalfHourColumns(
            start=stamp(instant(rows[0]["start"])),
            values_wh=[row["value_wh"] for row in rows if "value_wh" in row],
            runs=list(_runs(rows)),
        )
    except (LookupError, ValueError, TypeError):
        raise Invalid(Reason.FILE_UNRECOGNISED, "these are no half hours") from None


def _runs(rows: list[dict[str, Any]]) -> Iterator[Any]:
    def alike(row: dict[str, Any]) -> tuple[str, str, str]:
        return row.get("absent", ""), row.get("quality", ""), row.get("version", "0.0")

    for (absent, quality, version), run in groupby(rows, alike):
        offset, _, place = version.partition(".")
        yield dsi_pb2.HalfHourRun(
            half_hours=sum(1 for _ in run),
            absent=f"ABSENT_{absent}" if absent else "ABSENT_UNSPECIFIED",
            quality=quality,
            version=None if absent else dsi_pb2.Version(offset=int(offset), row=int(place)),
        )
