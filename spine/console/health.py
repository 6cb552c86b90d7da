"""`spine health`: whether a process of this data folder answers, for people, probes and scripts.

It asks as the process's own identity, over mutual TLS like every caller. A process listens only
once its folds have caught up with the log, and its event loop gives the answer, so SERVING means
caught up once and alive now. A fold that stands still afterwards ends its process within about
half a minute, and before that this says no; one whose records wait in line behind others has five
minutes, and reads of it are UNAVAILABLE while this still says SERVING. A broker that is away is
not a reason to say no: starting the process again would not bring it back.
"""

from __future__ import annotations

from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Annotated, Final

import grpc
import typer
from grpc_health.v1 import health_pb2, health_pb2_grpc

from spine.console.context import AsJson, settings
from spine.console.output import say, say_json
from spine.errors import Invalid, NotFound, Pushback, Reason
from spine.identity import DEV_SERVER_NAME, SERVER_PREFIX
from spine.server import connect_sync
from spine.supervise import PROCESSES, SHARED, WITNESS_PREFIX, kind_of
from spine.whereabouts import service_target

ANSWER_S: Final = 5.0
SAID_MAX: Final = 1_000


def add_to(app: typer.Typer) -> None:
    """The command of this module."""
    app.command()(health)


def health(
    process: Annotated[
        str, typer.Argument(help=f"{', '.join(PROCESSES)}; or such as dsi-2, witness-first.")
    ],
    as_json: AsJson = False,
) -> None:
    """Ask a process of this data folder whether it serves; exit code 5 if not."""
    witness = process.startswith(WITNESS_PREFIX)
    if kind_of(process) not in PROCESSES and not witness:
        message = f"there is no process called {process}"
        raise Invalid(Reason.CODE_UNKNOWN, message, field="process")
    if process in SHARED and (member := settings().member) is not None:
        process = f"{process}-{member}"
    asked = status_of_witness if witness else status_of_process
    status = asked(settings().data_dir, process)
    if status != "SERVING":
        raise Pushback(Reason.STARTING, f"{process} says {status}")
    if as_json:
        say_json({"process": process, "status": status})
    else:
        say(f"{process} is {status}")


def status_of_process(data_dir: Path, process: str) -> str:
    """What the process says of itself: SERVING or NOT_SERVING. Pushback(STARTING) if it never
    started here, grpc's own error if nobody answers.
    """
    target = _target(data_dir, process)
    identity = data_dir / "identities" / f"{SERVER_PREFIX}{process}"
    if not identity.exists():
        raise Pushback(Reason.STARTING, f"{process} has no identity here")
    try:
        with connect_sync(target, identity, server_name=DEV_SERVER_NAME) as channel:
            answer = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), timeout=ANSWER_S
            )
    except grpc.RpcError as error:
        error.add_note(f"{process} at {target}")
        raise
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


def status_of_witness(data_dir: Path, process: str) -> str:
    """What a witness says of itself: SERVING, or NOT_SERVING and why.

    Pushback(STARTING) if it never started here or does not answer.
    """
    from spine.ledger.witnessing import HEALTH

    target = _target(data_dir, process)
    connection = HTTPConnection(target, timeout=ANSWER_S)
    try:
        connection.request("GET", HEALTH)
        return connection.getresponse().read(SAID_MAX).decode("utf-8", "replace").strip()
    except (OSError, HTTPException) as error:
        message = f"{process} does not answer at {target}"
        raise Pushback(Reason.STARTING, message) from error
    finally:
        connection.close()


def _target(data_dir: Path, process: str) -> str:
    try:
        return service_target(data_dir, process)
    except NotFound as never:
        raise Pushback(never.reason, never.message) from None
