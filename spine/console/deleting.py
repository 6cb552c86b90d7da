"""Commands about deletions: what data users owe after a consent is over, and its confirmation."""

from __future__ import annotations

from typing import Annotated

import typer

from spine.console.client import Client
from spine.console.context import OPERATOR, As, AsJson, Mpxn, settings
from spine.console.output import listed, say, say_json, when


def add_to(app: typer.Typer) -> None:
    """The commands of this module."""
    deletion = typer.Typer(
        no_args_is_help=True, help="What data users have to delete once a consent is over."
    )
    deletion.command("list")(list_deletions)
    deletion.command()(confirm)
    deletion.command()(owed)
    app.add_typer(deletion, name="deletion")


def list_deletions(
    as_: As,
    mpxn: Annotated[str, typer.Option(help="One meter; a consumer has to name it.")] = "",
    overdue: Annotated[bool, typer.Option("--overdue", help="Only what is late.")] = False,
    as_json: AsJson = False,
) -> None:
    """What you have to delete, or what is owed to you as the consumer at a meter."""
    answer = Client(settings().data_dir, as_).deletions(
        "ListDeletions", only_mpxn=mpxn, overdue=overdue
    )
    columns = ("meter", "consent", "data user", "over since", "due", "overdue", "confirmed")
    rows = [
        (
            *(d.mpxn, d.consent_id, d.data_user, when(d.since), when(d.due), d.overdue),
            when(d.confirmed_at) if d.HasField("confirmed_at") else "",
        )
        for d in answer.deletions
    ]
    listed("Deletions", columns, rows, as_json)
    if answer.more and not as_json:
        say("and more")


def confirm(
    mpxn: Mpxn,
    consent_id: Annotated[str, typer.Argument(help="The consent that is over.")],
    as_: As,
    as_json: AsJson = False,
) -> None:
    """Say that you have deleted what you got under a consent, as its data user."""
    answer = Client(settings().data_dir, as_).deletions(
        "ConfirmDeletion", mpxn=mpxn, consent_id=consent_id
    )
    if as_json:
        say_json({"consent_id": consent_id, "replayed": answer.replayed})
    else:
        say(f"the deletion for consent {consent_id} is confirmed")


def owed(as_: As = OPERATOR, as_json: AsJson = False) -> None:
    """Which data users have deletions to confirm, how many, and until when."""
    found = Client(settings().data_dir, as_).deletions("ListDeletionsOwed").owed
    columns = ("data user", "outstanding", "overdue", "first due")
    rows = [(d.data_user, d.outstanding, d.overdue, when(d.first_due)) for d in found]
    listed("Deletions that are owed", columns, rows, as_json)
