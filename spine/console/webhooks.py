"""Commands about webhooks: where changes are sent, and whether a message came from here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from spine import webhook
from spine.console.client import Client
from spine.console.context import As, AsJson, settings
from spine.console.output import EXIT_DIFFERENT, details, err, say, say_json, when
from spine.errors import Invalid, Reason
from spine.signing import verify


def add_to(changes: typer.Typer) -> None:
    """The commands of this module, below those about changes."""
    group = typer.Typer(no_args_is_help=True, help="Where changes are sent by webhook.")
    group.command("set")(set_)
    group.command()(show)
    group.command()(remove)
    group.command("verify")(check)
    changes.add_typer(group, name="webhook")


def set_(
    url: Annotated[str, typer.Argument(help="https address; kept in clear, so no secret in it.")],
    as_: As,
    as_json: AsJson = False,
) -> None:
    """Have your changes sent to an address, in place of the one before."""
    answer = Client(settings().data_dir, as_).webhooks("SetWebhook", url=url)
    if as_json:
        say_json({"url": url, "replayed": answer.replayed})
    else:
        say(f"changes are sent to {url}")


def show(as_: As, as_json: AsJson = False) -> None:
    """Show where your changes are sent, and the key that messages are checked by."""
    found = Client(settings().data_dir, as_).webhooks("GetWebhook")
    last = {}
    if found.last_outcome:
        last = {"last outcome": found.last_outcome, "last sent": when(found.last_sent)}
    said = {"url": found.url, "key": found.public_key, **last}
    if as_json:
        say_json(said)
    elif found.url:
        details("Your webhook", said)
    else:
        details("You have no webhook", {"key": found.public_key})


def remove(as_: As, as_json: AsJson = False) -> None:
    """Have nothing more sent; what waits for you goes on waiting."""
    answer = Client(settings().data_dir, as_).webhooks("RemoveWebhook")
    if as_json:
        say_json({"removed": True, "replayed": answer.replayed})
    else:
        say("nothing more is sent; what waits for you goes on waiting")


def check(
    path: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, help="The body, byte for byte.")
    ],
    id_: Annotated[str, typer.Option("--id", help="Header webhook-id.")],
    timestamp: Annotated[str, typer.Option(help="Header webhook-timestamp.")],
    signature: Annotated[str, typer.Option(help="Header webhook-signature.")],
    key: Annotated[str, typer.Option(help="The coordinator's key, whpk_ and base64.")],
    as_json: AsJson = False,
) -> None:
    """Check offline that a message was signed by that key; exit code 6 if it was not."""
    body = path.read_bytes()
    if not body:
        raise Invalid(Reason.FILE_EMPTY, f"{path.name} is empty")
    try:
        json.loads(body)
    except (ValueError, RecursionError):
        raise Invalid(Reason.FILE_UNRECOGNISED, f"{path.name} is no message") from None
    headers = {webhook.ID: id_, webhook.SENT_AT: timestamp, webhook.SIGNATURES: signature}
    genuine = webhook.is_genuine(headers, body, webhook.parsed_key(key), None, verify)
    if as_json:
        say_json({"genuine": genuine})
    elif genuine:
        say(
            "[green]✓[/] genuine: that key signed every byte of it; how old it is was not looked at"
        )
    else:
        err.print("[bold red]✗[/] the message was changed, or that key never signed it")
    if not genuine:
        raise typer.Exit(EXIT_DIFFERENT)
