"""Commands about consent tokens: have one issued, and have both sides check it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from domains.consumers.tokens import read
from spine.console.consents import ConsentId, Meters
from spine.console.context import As, AsJson
from spine.console.output import EXIT_DIFFERENT, out, say_json, table, when
from spine.console.parties import client
from spine.errors import Invalid, Reason

SIDES = ("consumers", "dsi")


def add_to(app: typer.Typer) -> None:
    """The commands of this module."""
    token = typer.Typer(no_args_is_help=True, help="Consent tokens, which both sides check.")
    token.command()(issue)
    token.command()(check)
    app.add_typer(token, name="token")


def issue(consent_id: ConsentId, mpxns: Meters, as_: As, as_json: AsJson = False) -> None:
    """A token for a live consent to you, good for 15 minutes; no permission by itself."""
    answer = client(as_).consent_token(consent_id=consent_id, mpxns=mpxns)
    if as_json:
        say_json({"token": answer.token, "good_until": when(answer.good_until)})
    else:
        out.print(answer.token, end="", markup=False)


def check(
    path: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="A token.")],
    as_: As,
    as_json: AsJson = False,
) -> None:
    """Have both sides check a token; exit code 6 if one finds it not valid."""
    try:
        token = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise Invalid(Reason.FILE_UNRECOGNISED, f"{path.name} is no text") from None
    read(token)  # what is no token is not sent
    calls = client(as_)
    said = {side: calls.shared_trust(side, "CheckConsentToken", token=token) for side in SIDES}
    if as_json:
        say_json({side: {"valid": one.valid, "reason": one.reason} for side, one in said.items()})
    else:
        rows = [
            (side, "valid" if one.valid else "not valid", one.reason) for side, one in said.items()
        ]
        table("Consent token", ("side", "finds it", "reason"), rows)
    if not all(one.valid for one in said.values()):
        raise typer.Exit(EXIT_DIFFERENT)
