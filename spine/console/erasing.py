"""The command that erases what is personal of a consumer."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from spine.console.client import stamp
from spine.console.context import CONSENT_SERVICE, As, AsJson, instant
from spine.console.output import when
from spine.console.parties import acknowledge, client


def add_to(app: typer.Typer) -> None:
    """The command of this module."""
    app.command()(erase)


def erase(
    consumer_ref: Annotated[str, typer.Argument(help="Consumer reference, as of a tenancy.")],
    duty: Annotated[str, typer.Option(help="Legal duty to keep, as a code.")] = "",
    keep_until: Annotated[str, typer.Option(help="With --duty: when it is over.")] = "",
    as_: As = CONSENT_SERVICE,
    as_json: AsJson = False,
) -> None:
    """Destroy the key under which a consumer's name, contact and notices were sealed."""
    fields: dict[str, Any] = {"consumer_ref": consumer_ref, "duty": duty}
    if keep_until:
        fields["keep_until"] = stamp(instant(keep_until, "keep_until"))
    answer = client(as_).erasures("EraseSubject", **fields)
    what = f"{consumer_ref} is {answer.standing}"
    if answer.duty and answer.standing == "RESTRICTED":
        what += f" by {answer.duty} until {when(answer.keep_until)}"
    acknowledge(answer, what, as_json, standing=answer.standing)
