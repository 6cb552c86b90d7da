"""`spine`: the one place where settings are read and everything is plugged together."""

from __future__ import annotations

import sys

import grpc
import typer
from pydantic import ValidationError

from spine.console import (
    aggregates,
    archiving,
    assets,
    audits,
    changing,
    conforming,
    consents,
    deleting,
    drifting,
    erasing,
    health,
    histories,
    holds,
    identifiers,
    ingesting,
    ledger,
    loadtest,
    logs,
    meters,
    mine,
    parties,
    processes,
    provenance,
    quarantine,
    reading,
    reference,
    snapshots,
    tokens,
)
from spine.console.output import fail, fail_rpc, fail_settings
from spine.embedded import EmbeddedKafkaError
from spine.errors import Pushback, Reason, SpineError

app = typer.Typer(
    name="spine",
    help="The EnergyOS digital spine: consent-gated energy data on an auditable log.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for module in (
    processes,
    archiving,
    health,
    logs,
    parties,
    consents,
    erasing,
    changing,
    conforming,
    tokens,
    deleting,
    holds,
    identifiers,
    ingesting,
    reading,
    meters,
    reference,
    assets,
    aggregates,
    audits,
    drifting,
    quarantine,
    ledger,
    mine,
    provenance,
    snapshots,
    histories,
    loadtest,
):
    module.add_to(app)


def main() -> None:
    """Run the command line; every failure is a sentence, a reason and a documented exit code."""
    try:
        app()
    except SpineError as error:
        sys.exit(fail(error))
    except grpc.RpcError as error:
        sys.exit(fail_rpc(error))
    except ValidationError as error:
        sys.exit(fail_settings(error))
    except (EmbeddedKafkaError, TimeoutError) as error:
        sys.exit(fail(Pushback(Reason.STARTING, str(error))))
