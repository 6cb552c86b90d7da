"""Commands about the log itself: its topics and its schemas."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import typer

from spine.codec import Codec
from spine.config import Settings
from spine.console.context import (
    CONSENT_SERVICE,
    OPERATOR,
    AsJson,
    kafka,
    runtime,
    settings,
)
from spine.console.output import out, say, say_json, table
from spine.errors import Invalid, Reason
from spine.event import SignerRole
from spine.identity import Authority, signing_key
from spine.installation import DOMAINS
from spine.ledger.process import LEDGER, prepare_topic
from spine.log import Appender, Kafka, LogUnfit, partition_counts
from spine.opening import LogIdentity, check_held, open_log, unopened
from spine.policy import Role
from spine.runtime import LOG_FILE
from spine.schemas import Schemas
from spine.signing import Signer
from spine.writer import LogWriter

FIRST_KEYS: Final = (
    SignerRole.GOVERNANCE,
    SignerRole.CONSUMERS,
    SignerRole.METERING,
    SignerRole.BTM_ASSETS,
    SignerRole.DSI,
)


def add_to(app: typer.Typer) -> None:
    """The commands of this module."""
    topics = typer.Typer(no_args_is_help=True, help="Create and check the topics of the log.")
    topics.command("create")(create)
    topics.command("verify")(verify)
    app.add_typer(topics, name="topics")
    schemas = typer.Typer(no_args_is_help=True, help="Check the released schemas.")
    schemas.command("check")(check)
    app.add_typer(schemas, name="schemas")


def create(as_json: AsJson = False) -> None:
    """Create the log: its topics, opening records and first keys. Safe to repeat."""
    created = asyncio.run(ensure_log(settings(), kafka()))
    issue_identities(settings().data_dir)
    identity = LogIdentity.load(settings().data_dir / LOG_FILE)
    if as_json:
        say_json({"log_id": identity.log_id.hex(), "created": created})
    else:
        say(f"log {identity.log_id.hex()[:16]}…, {len(created)} topics created")


def verify(as_json: AsJson = False) -> None:
    """Check that every topic is set as the log needs it."""
    this = runtime()
    this.verify_log()
    reader = this.reader()
    rows = [
        (topic, count, sum(reader.bounds(topic, p)[1] for p in range(count)))
        for topic, count in partition_counts(this.partitions).items()
    ]
    reader.close()
    if as_json:
        say_json([{"topic": t, "partitions": n, "records": r} for t, n, r in rows])
    else:
        table("Topics as they must be", ("topic", "partitions", "records"), rows)


def check(as_json: AsJson = False) -> None:
    """Check that every released schema reads every other version of itself."""
    released = Schemas.load()
    problems = list(released.incompatibilities())
    if as_json:
        say_json({"schemas": len(released.by_id), "problems": problems})
    else:
        for problem in problems:
            out.print(f"[red]✗[/] {problem}")
        say(f"{len(released.by_id)} released schemas, {len(problems)} incompatibilities")
    if problems:
        raise Invalid(Reason.SCHEMA_INCOMPATIBLE, "a released schema was broken")


async def ensure_log(chosen: Settings, cluster: Kafka) -> list[str]:
    """Open the log of this data folder if it is not open yet; the names of topics created.

    LogUnfit(LOG_DIFFERS) if the brokers hold another one, LOG_MISSING if they and the archive have
    not its beginning, and nothing is made. The root key may be away unless there is something to
    open: LogUnfit(TOPIC_SETTINGS) then.
    """
    path = chosen.data_dir / LOG_FILE
    if not path.exists() and chosen.log_id is not None:
        raise LogUnfit(Reason.LOG_MISSING, "the log that is pinned was not created here")
    known = LogIdentity.load(path) if path.exists() else None
    if known is not None and chosen.log_id not in (None, known.log_id.hex()):
        raise LogUnfit(Reason.LOG_DIFFERS, "the log here is not the one that is pinned")
    codec = Codec(Schemas.load(), DOMAINS)
    await asyncio.to_thread(check_held, cluster, codec, known, chosen.data_dir)
    copies = (chosen.replication_factor, chosen.min_insync_replicas)
    root_key = chosen.data_dir / "keys" / f"{SignerRole.ROOT}.key"
    if known is not None and not root_key.exists():
        await asyncio.to_thread(_refuse_unopened, cluster, known, root_key)
        return await asyncio.to_thread(prepare_topic, cluster, *copies)
    root = Signer.of(signing_key(chosen.data_dir, SignerRole.ROOT))
    if known is not None and root.public_key != known.opening.root_key:
        raise LogUnfit(Reason.LOG_DIFFERS, f"{root_key} is not the root key of the log here")
    identity = known or LogIdentity.new(root.public_key, chosen.partitions, datetime.now(UTC))
    if known is None:
        identity.save(path)
    signing_key(chosen.data_dir, LEDGER)  # made with the others, so that it can be handed out
    keys = {role: Signer.of(signing_key(chosen.data_dir, role)).public_key for role in FIRST_KEYS}
    appender = Appender(cluster)
    writer = LogWriter(appender, root, identity.log_id, codec, "/energyos/root")
    try:
        created = await open_log(cluster, identity, writer, keys, *copies)
        return created + await asyncio.to_thread(prepare_topic, cluster, *copies)
    finally:
        await appender.stop()


def _refuse_unopened(cluster: Kafka, known: LogIdentity, root_key: Path) -> None:
    missing = unopened(cluster, known.opening.partition_count)
    if missing:
        raise LogUnfit(
            Reason.TOPIC_SETTINGS,
            f"this build needs {', '.join(missing)}, which only the root key of the log opens: put "
            f"it back as {root_key}, and once this command is done take it away again",
        )


def issue_identities(data_dir: Path) -> None:
    """Certificates for who runs the installation: the governance board and the consent service."""
    authority = Authority.open_or_create(data_dir / "identities")
    authority.issue_client(Role.GOVERNANCE, OPERATOR)
    authority.issue_client(Role.CONSENT_SERVICE, CONSENT_SERVICE)
