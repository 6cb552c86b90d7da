"""What commands share: settings, the way to the log, instants as people type them.

What reads the log is loaded by who reads it: most commands only ask a process.
"""

from __future__ import annotations

import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from spine.config import Settings, from_environment
from spine.embedded import EmbeddedKafka
from spine.errors import Invalid, NotFound, Pushback, Reason
from spine.whereabouts import service_target

if TYPE_CHECKING:
    from spine.log import Kafka
    from spine.runtime import Runtime

OPERATOR: Final = "governance-board"
CONSENT_SERVICE: Final = "consent-service"
UP: Final = "`spine up`"
# What the help says of groups that several modules add to.
METERING_POINTS: Final = "Metering points."
CONSENTS: Final = "What consumers allow."
# Time for one address to take a connection, before somebody is told that nothing runs.
REACH_S: Final = 2.0

As = Annotated[str, typer.Option("--as", help="Identity whose certificate to use.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document instead of tables.")]
Mpxn = Annotated[str, typer.Argument(help="MPAN (13 digits) or MPRN (6 to 10 digits).")]


def group(app: typer.Typer, name: str, text: str) -> typer.Typer:
    """The group of commands of that name, which several modules may add to."""
    for known in app.registered_groups:
        if known.name == name and known.typer_instance is not None:
            return known.typer_instance
    made = typer.Typer(no_args_is_help=True, help=text)
    app.add_typer(made, name=name)
    return made


_used: list[Settings] = []


def settings() -> Settings:
    """The settings of this process, read once. Invalid(FIELD_INVALID) for one that is none."""
    if not _used:
        _used.append(from_environment())
    return _used[-1]


def use(chosen: Settings) -> None:
    """Let this process go on with other settings, such as a demonstration's own folder."""
    _used.append(chosen)


def kafka(*, patient: bool = False) -> Kafka:
    """The way to the log: the cluster that is set, or the embedded broker that is running.

    Pushback(LOG_UNREACHABLE) if none of its addresses can be reached now; `patient` leaves that to
    the clients, which wait for a broker as a process should.
    """
    from spine.log import Kafka

    chosen = settings()
    bootstrap = chosen.kafka_bootstrap or embedded_bootstrap(chosen.data_dir)
    if not patient and not any(map(reached, bootstrap.split(","))):
        message = f"no broker answers at {bootstrap}: is {UP} running?"
        raise Pushback(Reason.LOG_UNREACHABLE, message)
    if chosen.kafka_bootstrap is None:
        return Kafka(bootstrap, archive=chosen.archive_dir)
    password = chosen.kafka_sasl_password
    return Kafka(
        chosen.kafka_bootstrap,
        chosen.kafka_security_protocol,
        _text(chosen.kafka_ssl_cafile),
        _text(chosen.kafka_ssl_certfile),
        _text(chosen.kafka_ssl_keyfile),
        chosen.kafka_sasl_mechanism,
        chosen.kafka_sasl_username,
        password.get_secret_value() if password else None,
        chosen.archive_dir,
    )


def embedded_bootstrap(data_dir: Path) -> str:
    """Where the embedded broker of a data folder listens; Pushback(STARTING) if it never did."""
    try:
        return EmbeddedKafka(data_dir).bootstrap
    except KeyError:
        message = f"no broker runs here yet: start it with {UP}"
        raise Pushback(Reason.STARTING, message) from None


def runtime(*, patient: bool = False) -> Runtime:
    """This process's view of the installation; `patient` as for `kafka`, and for what needs no
    broker: what is done to a process that is stopped, as the broker of `spine up` is then, too.

    LogUnfit(LOG_DIFFERS or LOG_MISSING) as `check_held`; a patient caller asks that by itself.
    """
    from spine.installation import DOMAINS
    from spine.runtime import Runtime

    made = Runtime.of(settings(), kafka(patient=patient), DOMAINS)
    if not patient:
        made.verify_held()
    return made


def target_of(data_dir: Path, process: str) -> str:
    """host:port of a process of the data folder; Pushback(STARTING) if it does not answer there."""
    try:
        target = service_target(data_dir, process)
    except NotFound as never:
        raise Pushback(never.reason, f"{never.message}: {UP} starts everything") from None
    if not reached(target):
        message = f"{process} does not answer at {target}: is {UP} running?"
        raise Pushback(Reason.STARTING, message)
    return target


def reached(address: str) -> bool:
    """Whether somebody listens at host:port."""
    host, _, port = address.strip().rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), REACH_S):
            return True
    except (OSError, ValueError):
        return False


def instant(text: str, field: str = "time") -> datetime:
    """An instant as typed: a date is its midnight UTC; a time without a zone is UTC."""
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        raise Invalid(
            Reason.TIME_INVALID, f"{field}: {text!r} is no date or time", field=field
        ) from None
    return parsed.replace(tzinfo=UTC) if parsed.tzinfo is None else parsed.astimezone(UTC)


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
