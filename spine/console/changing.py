"""Commands about what became of consents: who has to take it in, and who has not yet."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from spine.console import webhooks
from spine.console.client import Client
from spine.console.context import OPERATOR, As, AsJson, settings
from spine.console.output import listed, say, say_json, when


def add_to(app: typer.Typer) -> None:
    """The commands of this module."""
    changes = typer.Typer(
        no_args_is_help=True, help="What became of consents, until its receivers acknowledge it."
    )
    changes.command("list")(list_changes)
    changes.command("receivers")(receivers)
    changes.command("acknowledge")(acknowledge)
    webhooks.add_to(changes)
    app.add_typer(changes, name="changes")


def list_changes(
    as_: As,
    overdue: Annotated[bool, typer.Option("--overdue", help="Only what is overdue.")] = False,
    as_json: AsJson = False,
) -> None:
    """What you have not acknowledged yet."""
    answer = Client(settings().data_dir, as_).changes("ListChanges", overdue=overdue)
    columns = ("meter", "change", "consent", "version", "state", "since", "overdue")
    rows = [
        (c.mpxn, c.change_id, c.consent_id, c.version, c.state, when(c.since), c.overdue)
        for c in answer.changes
    ]
    listed("Changes of consents that wait for you", columns, rows, as_json)
    if answer.more and not as_json:
        say("and more")


def receivers(as_: As = OPERATOR, as_json: AsJson = False) -> None:
    """Who has something to acknowledge, how much, and since when."""
    client, found, more = Client(settings().data_dir, as_), list[Any](), True
    while more:
        after = found[-1].party if found else ""
        page = client.changes("ListReceivers", after=after)
        found, more = [*found, *page.receivers], page.more
    columns = ("party", "outstanding", "overdue", "oldest", "webhook")
    rows = [(r.party, r.outstanding, r.overdue, when(r.oldest), r.webhook) for r in found]
    listed("Changes of consents that wait", columns, rows, as_json)


def acknowledge(
    mpxn: Annotated[str, typer.Argument(help="The meter.")],
    change: Annotated[str, typer.Argument(help="Id of the change, as listed.")],
    as_: As,
    as_json: AsJson = False,
) -> None:
    """Say that you have taken in how a consent stands at a meter."""
    answer = Client(settings().data_dir, as_).changes(
        "AcknowledgeChange", mpxn=mpxn, change_id=change
    )
    if as_json:
        say_json({"change": change, "replayed": answer.replayed})
    else:
        say(f"{change} is acknowledged")
