"""Commands about certificates: what there is, and issuing one again. They ask no process."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

import typer

from spine.certificates import Pair, authority_of
from spine.console.context import AsJson, settings
from spine.console.output import instant_said, listed, say, say_json
from spine.errors import Invalid, Reason
from spine.identity import CA_ALIAS, Authority, Identity
from spine.policy import Role

COLUMNS: Final = ("name", "role", "party", "valid until", "state")


def add_to(app: typer.Typer) -> None:
    """The commands of this module."""
    identity = typer.Typer(no_args_is_help=True, help="Certificates of this data folder.")
    identity.command("issue")(issue)
    identity.command("list")(list_identities)
    app.add_typer(identity, name="identity")


def issue(
    role: Annotated[Role, typer.Argument(help="Role that it names.")],
    party: Annotated[str, typer.Argument(help="Party id that it names.")],
    alias: Annotated[
        str, typer.Option("--alias", help="Name of the identity; the party id if not given.")
    ] = "",
    new_authority: Annotated[
        bool, typer.Option("--new-authority", help="Make an authority first if there is none.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Issue a development certificate, with a new key, in place of the one there."""
    identities = settings().data_dir / "identities"
    opened = Authority.open_or_create if new_authority else Authority.open
    made = opened(identities).issue_client(role, party, alias or None, anew=True)
    pair = Pair.read(made)
    until = instant_said(pair.not_after)
    if as_json:
        say_json({"name": made.folder.name, "role": role, "party": party, "valid until": until})
    else:
        say(f"{made.folder.name} is {pair.caller} until {until}")


def list_identities(as_json: AsJson = False) -> None:
    """Every identity here, its role and party, until when it is valid, and how it stands."""
    identities = settings().data_dir / "identities"
    rows = list(_rows(identities, datetime.now(UTC)))
    if not rows:
        raise Invalid(Reason.IDENTITY_MISSING, f"there are no identities in {identities}")
    listed("Identities", COLUMNS, rows, as_json)


def _rows(identities: Path, now: datetime) -> Iterator[tuple[str | None, ...]]:
    authority = authority_of(identities)
    if authority is not None:
        yield CA_ALIAS, None, None, instant_said(authority.not_valid_after_utc), "authority"
    for folder in sorted(identities.glob("[!.]*/")):
        if folder.name == CA_ALIAS:
            continue
        try:
            pair = Pair.read(Identity(folder))
        except Invalid:
            yield folder.name, None, None, None, "unfit"
        else:
            told, caller = instant_said(pair.not_after), pair.caller
            yield folder.name, caller.role, caller.party, told, pair.standing(authority, now)
