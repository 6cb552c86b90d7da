"""A log of a test's own: topics, openings and first keys on a broker that has none yet."""

from datetime import UTC, datetime
from pathlib import Path

from spine.codec import Codec
from spine.config import Settings
from spine.embedded import EmbeddedKafka
from spine.event import SignerRole
from spine.identity import Authority, signing_key
from spine.installation import DOMAINS
from spine.log import Appender, Kafka
from spine.opening import LogIdentity, open_log
from spine.runtime import LOG_FILE
from spine.schemas import Schemas
from spine.signing import Signer, public_bytes
from spine.writer import LogWriter

PARTITIONS = 4
ROLES = (
    SignerRole.GOVERNANCE,
    SignerRole.CONSUMERS,
    SignerRole.METERING,
    SignerRole.BTM_ASSETS,
    SignerRole.DSI,
)


async def open_new_log(broker: EmbeddedKafka, data_dir: Path) -> tuple[Settings, Kafka]:
    """Open a log on a broker without topics; its identity, keys and authority are in `data_dir`."""
    Authority.open_or_create(data_dir / "identities")
    kafka = Kafka(broker.bootstrap)
    root = Signer.of(signing_key(data_dir, SignerRole.ROOT))
    identity = LogIdentity.new(root.public_key, PARTITIONS, datetime.now(UTC))
    identity.save(data_dir / LOG_FILE)
    keys = {role: public_bytes(signing_key(data_dir, role)) for role in ROLES}
    appender = Appender(kafka)
    await appender.start()
    try:
        codec = Codec(Schemas.load(), DOMAINS)
        writer = LogWriter(appender, root, identity.log_id, codec, "/energyos/opening/test")
        await open_log(kafka, identity, writer, keys, 1, 1)
    finally:
        await appender.stop()
    return Settings(data_dir=data_dir, partitions=PARTITIONS), kafka
