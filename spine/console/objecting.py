"""Commands about uses that need no consent: objecting to one, allowing it again, what stands."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from spine.console.context import CONSENTS, As, AsJson, Mpxn, group
from spine.console.output import listed, when
from spine.console.parties import acknowledge, client

BasisOf = Annotated[str, typer.Option(help="Basis code, such as OPT_OUT or LEGAL_OBLIGATION.")]
PurposeOf = Annotated[str, typer.Option(help="Purpose code, such as BILLING or SETTLEMENT.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Write nothing; say what it would shut or open.")
]
For = Annotated[str, typer.Option(help="The occupier, if you speak for it.")]


def add_to(app: typer.Typer) -> None:
    """The commands of this module."""
    consent = group(app, "consent", CONSENTS)
    consent.command("object")(object_to)
    consent.command("allow")(allow)


def object_to(
    mpxn: Mpxn,
    basis: BasisOf,
    purpose: PurposeOf,
    as_: As,
    consumer_ref: For = "",
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Shut a use of your data that needs no consent. No read begun afterwards passes."""
    asked = {"mpxn": mpxn, "basis": basis, "purpose": purpose, "consumer_ref": consumer_ref}
    answer = client(as_).consumers("ObjectToUse", dry_run=dry_run, **asked)
    _said(answer, f"objected to {purpose} under {basis} at {mpxn}", dry_run, as_json)


def allow(
    mpxn: Mpxn,
    basis: BasisOf,
    purpose: PurposeOf,
    as_: As,
    consumer_ref: For = "",
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Take such an objection back."""
    asked = {"mpxn": mpxn, "basis": basis, "purpose": purpose, "consumer_ref": consumer_ref}
    answer = client(as_).consumers("AllowUse", dry_run=dry_run, **asked)
    _said(answer, f"allowed {purpose} under {basis} at {mpxn}", dry_run, as_json)


def _said(answer: Any, what: str, dry_run: bool, as_json: bool) -> None:
    if not dry_run:
        acknowledge(answer, what, as_json)
        return
    rows = [
        (
            use.reader,
            use.role,
            use.category,
            when(use.metered_from),
            when(use.metered_to) if use.HasField("metered_to") else "",
            use.reads_refused,
        )
        for use in answer.uses
    ]
    columns = ("reader", "role", "category", "metered from", "metered to", "refused anyway")
    listed("Dry run, nothing was written: what this would change", columns, rows, as_json)


def objections(as_: As, as_json: AsJson = False) -> None:
    """What you object to at your meters, of the uses that need no consent."""
    rows = [
        (meter.mpxn, one.basis, one.purpose, when(one.objected_at), _back(meter.mpxn, one, as_))
        for meter in client(as_).ledger("ListOwnMeters").meters
        for one in meter.objections
    ]
    columns = ("meter", "basis", "purpose", "since", "take it back with")
    listed("What you object to", columns, rows, as_json)


def _back(mpxn: str, one: Any, alias: str) -> str:
    use = f"--basis {one.basis} --purpose {one.purpose}"
    return f"spine consent allow {mpxn} {use} --as {alias}"
