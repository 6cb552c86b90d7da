"""Commands about identifiers that a party has for itself: who has them, and what they stand for."""

from __future__ import annotations

from typing import Annotated

import typer

from spine.console.context import OPERATOR, As, AsJson, settings
from spine.console.output import say, say_json
from spine.console.parties import acknowledge, client, holding
from spine.errors import Invalid, NotFound, Reason
from spine.gb import parse_mpxn
from spine.identifiers import NAMES, Identifiers, Kind
from spine.trust import Identifiers as Given

Party = Annotated[str, typer.Argument(help="Party id.")]


def add_to(app: typer.Typer) -> None:
    """The commands of this module."""
    group = typer.Typer(
        no_args_is_help=True, help="Identifiers that a data user has for itself, and no other."
    )
    group.command("set")(set_identifiers)
    group.command("open")(open_identifier)
    group.command("show")(show)
    app.add_typer(group, name="identifiers")


def set_identifiers(
    party: Party,
    identifiers: Annotated[Given, typer.Argument(help="PAIRWISE, or MPXN again.")],
    ground: Annotated[str, typer.Option(help="Why, as a code.")] = "NO_NEED_OF_MPXN",
    as_: As = OPERATOR,
    as_json: AsJson = False,
) -> None:
    """Have a data user told its own identifiers in place of MPxNs from now on, or MPxNs again."""
    answer = client(as_).governance(
        "SetIdentifiers", party=party, identifiers=identifiers, ground=ground
    )
    acknowledge(answer, f"{party} is given {identifiers} identifiers; {holding(answer)}", as_json)


def open_identifier(
    party: Party,
    text: Annotated[str, typer.Argument(help="The identifier, such as mtr_…")],
    as_json: AsJson = False,
) -> None:
    """Say what an identifier of a party stands for, by the key in the data folder."""
    kind = next((kind for kind in NAMES if text.startswith(f"{kind}_")), None)
    if kind is None:
        message = f"an identifier begins with {', '.join(f'{kind}_' for kind in NAMES)}"
        raise Invalid(Reason.IDENTIFIER_UNKNOWN, message)
    name = _made().open(kind, party, text)
    if name is None:
        raise NotFound(Reason.IDENTIFIER_UNKNOWN, f"{party} was given no such identifier")
    _tell(party, kind, name, text, name, as_json)


def show(
    party: Party,
    mpxn: Annotated[str, typer.Argument(help="MPAN (13 digits) or MPRN (6 to 10 digits).")],
    as_json: AsJson = False,
) -> None:
    """Say which identifier a party has for a meter, whether or not it was ever told it."""
    name = str(parse_mpxn(mpxn))
    text = _made().close(Kind.METER, party, name)
    _tell(party, Kind.METER, name, text, text, as_json)


def _made() -> Identifiers:
    return Identifiers.kept(settings().data_dir, settings().identifiers_key)


def _tell(party: str, kind: Kind, name: str, text: str, asked: str, as_json: bool) -> None:
    if as_json:
        say_json({"party": party, "kind": kind.name, "name": name, "identifier": text})
    else:
        say(asked)
