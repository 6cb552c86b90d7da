"""Commands about parties that are held: who, why, and the two people it takes to release one."""

from __future__ import annotations

from typing import Annotated

import typer

from spine.console.client import Client
from spine.console.context import OPERATOR, As, AsJson, settings
from spine.console.output import listed, say, say_json, when
from spine.errors import Reason, Refused

Party = Annotated[str, typer.Argument(help="Party id.")]


def add_to(app: typer.Typer) -> None:
    """The commands of this module."""
    hold = typer.Typer(
        no_args_is_help=True, help="Parties that are held for what they asked, and their release."
    )
    hold.command("list")(list_holds)
    hold.command("place")(place)
    hold.command("release")(release)
    app.add_typer(hold, name="hold")


def list_holds(
    all_: Annotated[bool, typer.Option("--all", help="Those that were released too.")] = False,
    as_: As = OPERATOR,
    as_json: AsJson = False,
) -> None:
    """Who is held, since when, for what, and who has approved a release."""
    found = Client(settings().data_dir, as_).governance("ListHolds", all=all_).holds
    columns = ("party", "hold", "held", "kind", "counted", "threshold", "by", "at", "approved")
    rows = [
        (
            h.party,
            h.hold,
            h.held,
            h.kind,
            h.counted,
            h.threshold,
            h.held_by,
            when(h.held_at),
            ", ".join(h.approved_by),
        )
        for h in found
    ]
    listed("Parties that are held", columns, rows, as_json)


def place(party: Party, as_: As = OPERATOR, as_json: AsJson = False) -> None:
    """Have every server answer nothing of a party, until two people release it."""
    hold = Client(settings().data_dir, as_).governance("HoldParty", party=party).hold
    if as_json:
        say_json({"party": party, "hold": hold.hold, "held": hold.held})
    else:
        say(f"{party} is held (hold {hold.hold}); two people have to release it")


def release(
    party: Party,
    reason: Annotated[str, typer.Option(help="Why, as a code.")] = "LOOKED_INTO",
    as_: As = OPERATOR,
    as_json: AsJson = False,
) -> None:
    """Approve the release of a party; it goes on once a second, different person has."""
    calls = Client(settings().data_dir, as_)
    held = [h for h in calls.governance("ListHolds").holds if h.party == party]
    if not held:
        raise Refused(Reason.HOLD_UNKNOWN, f"{party} is not held")
    answer = calls.governance("ApproveRelease", party=party, hold=held[0].hold, reason=reason).hold
    if as_json:
        say_json({"party": party, "held": answer.held, "approved": list(answer.approved_by)})
    elif answer.held:
        say(f"{party} stays held until another person approves too")
    else:
        say(f"{party} is released by {' and '.join(answer.approved_by)}")
