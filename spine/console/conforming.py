"""`spine conformance`, and the equivalence table that it is about."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Final

import typer

from domains.governance.equivalence import COLUMNS, parse_table
from spine.console.client import Client
from spine.console.conformance import (
    BOARD,
    CONSENT_SIDE,
    DATA_SIDE,
    Ends,
    Finding,
    Sandbox,
    Subject,
    Verdict,
)
from spine.console.conformance_layers import ACCREDITATION, STANDARDS
from spine.console.conformance_tokens import TECHNICAL, leave_nothing
from spine.console.context import OPERATOR, As, AsJson, settings, target_of
from spine.console.output import EXIT_DIFFERENT, listed, out, say, say_json
from spine.console.parties import acknowledge, client, holding
from spine.errors import Invalid, Reason

CHECKS: Final = (*ACCREDITATION, *STANDARDS, *TECHNICAL)
Address = Annotated[str, typer.Option(help="host:port; empty: that of the data folder.")]


def add_to(app: typer.Typer) -> None:
    """The commands of this module."""
    app.command()(conformance)
    equivalence = typer.Typer(
        no_args_is_help=True, help="Which accreditation of one scheme counts in another."
    )
    equivalence.command()(adopt)
    equivalence.command()(show)
    app.add_typer(equivalence, name="equivalence")


def conformance(
    consumers: Address = "",
    dsi: Address = "",
    governance: Address = "",
    mpxn: Annotated[str, typer.Option(help="A meter to try consents on.")] = "",
    others: Annotated[
        list[str] | None,
        typer.Option("--other-mpxn", help="A second meter of the same home, repeatable."),
    ] = None,
    consumer: Annotated[str, typer.Option(help="Identity of who lives there.")] = "",
    data_user: Annotated[
        str, typer.Option(help="Identity and party of a data user; suspended for a moment.")
    ] = "",
    stranger: Annotated[str, typer.Option(help="Identity of a party not concerned.")] = "",
    purpose: Annotated[str, typer.Option(help="What the consent is tried for.")] = "ENERGY_ADVICE",
    as_: As = OPERATOR,
    as_json: AsJson = False,
) -> None:
    """Check layer by layer whether the consent side and the data side are one trust."""
    data_dir = settings().data_dir
    for alias in (as_, *filter(None, (consumer, data_user, stranger))):
        Client(data_dir, alias)  # refuses an identity that is not there
    given = {CONSENT_SIDE: consumers, DATA_SIDE: dsi, BOARD: governance}
    addresses = {end: at or target_of(data_dir, end) for end, at in given.items()}
    ends = Ends(addresses, data_dir / "identities", as_)
    try:
        box = Sandbox(mpxn, consumer, data_user, stranger, purpose, tuple(others or ()))
        found = examine(Subject(ends, box))
    finally:
        ends.close()
    if as_json:
        checks = [asdict(one) for one in found]
        say_json({"endpoints": addresses, "counts": _counts(found), "checks": checks})
    else:
        _tell(found)
    if any(one.verdict is Verdict.FAIL for one in found):
        raise typer.Exit(EXIT_DIFFERENT)


def examine(subject: Subject) -> list[Finding]:
    """Every check, in order; what they made is taken back, also where they are broken off."""
    try:
        return [check.run(subject) for check in CHECKS]
    finally:
        leave_nothing(subject)


def _counts(found: list[Finding]) -> dict[str, int]:
    counted = Counter(one.verdict for one in found)
    return {str(verdict): counted[verdict] for verdict in Verdict}


def _tell(found: list[Finding]) -> None:
    for layer in dict.fromkeys(one.layer for one in found):
        out.print(f"[bold]{layer.title()}[/]")
        for one in found:
            if one.layer == layer:
                said = "; ".join(filter(None, (one.came, one.why)))
                out.print(f"  {one.verdict:<8} {one.check}: {one.asked} {said}", markup=False)
    counts = _counts(found)
    say(", ".join(f"{number} {verdict}" for verdict, number in counts.items()))
    if counts[Verdict.NOT_RUN]:
        say("What was not run says nothing: give it something to try on.")


# -- the equivalence table ------------------------------------------------------------------------


def adopt(
    path: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="A CSV file.")],
    version: Annotated[int, typer.Option(help="Of the table: one more than the one in force.")],
    as_: As = OPERATOR,
    as_json: AsJson = False,
) -> None:
    """Let accreditations of one scheme count in another by these rows, and by nothing else."""
    try:
        rows = parse_table(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        raise Invalid(Reason.FILE_UNRECOGNISED, f"{path.name} is no text") from None
    answer = client(as_).governance(
        "AdoptEquivalenceTable", version=version, rows=[asdict(row) for row in rows]
    )
    acknowledge(answer, f"table {version} adopted, {len(rows)} rows; {holding(answer)}", as_json)


def show(as_: As = OPERATOR, as_json: AsJson = False) -> None:
    """The table in force."""
    found = client(as_).governance("GetEquivalenceTable").table
    title = f"Equivalence table {found.version}"
    if not found.version:
        title = "No equivalence table was adopted yet: every scheme counts"
    rows = [tuple(getattr(row, column) for column in COLUMNS) for row in found.rows]
    listed(title, COLUMNS, rows, as_json)
