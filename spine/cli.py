"""`spine`: the one place where settings are read and everything is plugged together.

A command loads the modules that make it and no others, so that a process of the spine, or whoever
asks it something, does not wait for what only other commands need.
"""

from __future__ import annotations

import sys
from functools import cache
from importlib import import_module
from typing import Final

import grpc
import typer
from pydantic import ValidationError

from spine.collecting import collecting_nothing
from spine.console.output import fail, fail_rpc, fail_settings
from spine.errors import Pushback, Reason, SpineError
from spine.jars import EmbeddedKafkaError

# The modules of spine.console in the order of the help, each with the commands it adds to.
MODULES: Final = {
    "processes": ("up", "coordinator", "dsi", "readings", "demo"),
    "archiving": ("archive",),
    "health": ("health",),
    "logs": ("topics", "schemas"),
    "parties": ("participant", "meter", "tenancy"),
    "identities": ("identity",),
    "consents": ("consent",),
    "policies": ("policy",),
    "erasing": ("erase",),
    "changing": ("changes",),
    "conforming": ("conformance", "equivalence"),
    "tokens": ("token",),
    "deleting": ("deletion",),
    "holds": ("hold",),
    "identifiers": ("identifiers",),
    "ingesting": ("ingest",),
    "reading": ("read", "watch", "meter", "consent"),
    "consent_records": ("consent",),
    "objecting": ("consent",),
    "meters": ("meter",),
    "reference": ("reference", "coordinators"),
    "assets": ("assets",),
    "aggregates": ("aggregates",),
    "audits": ("audit", "access"),
    "drifting": ("drift",),
    "quarantine": ("quarantine",),
    "ledger": ("ledger", "witness"),
    "mine": ("my",),
    "provenance": ("provenance",),
    "snapshots": ("snapshot",),
    "histories": ("history",),
    "loadtest": ("loadtest",),
}
COMMANDS: Final = frozenset(name for names in MODULES.values() for name in names)


@cache
def command_line(command: str | None = None) -> typer.Typer:
    """The command line: as much of it as one command needs, or the whole."""
    app = typer.Typer(
        name="spine",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    # So that a command is one of several even where no other is loaded.
    app.callback()(_spine)
    for module, names in MODULES.items():
        if command is None or command in names:
            import_module(f"spine.console.{module}").add_to(app)
    return app


def _spine() -> None:
    """The EnergyOS digital spine: consent-gated energy data on an auditable log."""


def main() -> None:
    """Run the command line; every failure is a sentence, a reason and a documented exit code."""
    first = sys.argv[1] if len(sys.argv) > 1 else ""
    try:
        with collecting_nothing():
            app = command_line(first if first in COMMANDS else None)
        app()
    except SpineError as error:
        sys.exit(fail(error))
    except grpc.RpcError as error:
        sys.exit(fail_rpc(error))
    except ValidationError as error:
        sys.exit(fail_settings(error))
    except (EmbeddedKafkaError, TimeoutError) as error:
        sys.exit(fail(Pushback(Reason.STARTING, str(error))))
