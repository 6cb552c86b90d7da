"""What commands share: settings, the way to the log, instants as people type them."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

import typer

from spine.config import Settings
from spine.embedded import EmbeddedKafka
from spine.errors import Invalid, Pushback, Reason
from spine.installation import DOMAINS
from spine.log import Kafka
from spine.runtime import Runtime

OPERATOR: Final = "governance-board"
CONSENT_SERVICE: Final = "consent-service"

As = Annotated[str, typer.Option("--as", help="Identity whose certificate to use.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document instead of tables.")]
Mpxn = Annotated[str, typer.Argument(help="MPAN (13 digits) or MPRN (6 to 10 digits).")]


_used: list[Settings] = []


def settings() -> Settings:
    """The settings of this process, read once."""
    if not _used:
        _used.append(Settings())
    return _used[-1]


def use(chosen: Settings) -> None:
    """Let this process go on with other settings, such as a demonstration's own folder."""
    _used.append(chosen)


def kafka() -> Kafka:
    """The way to the log: the cluster that is set, or the embedded broker that is running."""
    chosen = settings()
    if chosen.kafka_bootstrap is None:
        return Kafka(embedded_bootstrap(chosen.data_dir))
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
    )


def embedded_bootstrap(data_dir: Path) -> str:
    """Where the embedded broker of a data folder listens; Pushback(STARTING) if it never did."""
    try:
        return EmbeddedKafka(data_dir).bootstrap
    except KeyError:
        message = "no broker runs here yet: start it with `spine up`"
        raise Pushback(Reason.STARTING, message) from None


def runtime() -> Runtime:
    """This process's view of the installation."""
    return Runtime.of(settings(), kafka(), DOMAINS)


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
