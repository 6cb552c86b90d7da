"""Opening a log: its topics, the opening record of every partition, and the first keys.

Trust starts here. The root key signs the openings and the facts that authorise the coordinators'
keys; after that it is needed no more and can be kept away from every running process.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Final

from spine import trust
from spine.codec import Codec
from spine.errors import Reason
from spine.event import (
    NO_PREDECESSOR,
    Command,
    Fact,
    Facts,
    GovernanceCopy,
    Header,
    LogRecord,
    Opening,
    RecordType,
    SignerRole,
    epoch_ms,
    from_epoch_ms,
)
from spine.files import write_whole
from spine.follower import PointReader
from spine.log import Kafka, LogReader, LogUnfit, create_topics, partition_counts
from spine.rows import Malformed, UnknownSchema
from spine.trust import SigningKeyAuthorised, key_id, key_subject
from spine.writer import LogWriter

GENERATION: Final = 1
# What opens a partition: the opening, and the first keys or their copy.
OPENED_BY: Final = 2
# The partition whose first record says whose log it is.
FIRST: Final = (trust.GOVERNANCE_TOPIC, 0)


@dataclass(frozen=True, slots=True)
class LogIdentity:
    """What names a log: its opening, and the id that follows from it."""

    opening: Opening

    @property
    def log_id(self) -> bytes:
        """32 bytes under every signature."""
        return self.opening.log_id()

    @classmethod
    def new(cls, root_key: bytes, partitions: int, now: datetime) -> LogIdentity:
        """The identity of a log that is about to be created."""
        created_at = from_epoch_ms(epoch_ms(now))
        return cls(Opening(GENERATION, partitions, root_key, created_at, os.urandom(16)))

    @classmethod
    def load(cls, path: Path) -> LogIdentity:
        """The identity kept in a file; LogUnfit(LOG_MISSING) if there is none."""
        try:
            kept = json.loads(path.read_text())
        except FileNotFoundError:
            raise LogUnfit(Reason.LOG_MISSING, "no log has been created here") from None
        return cls(
            Opening(
                kept["generation"],
                kept["partition_count"],
                bytes.fromhex(kept["root_key"]),
                from_epoch_ms(kept["created_at_ms"]),
                bytes.fromhex(kept["nonce"]),
            )
        )

    def save(self, path: Path) -> None:
        """Keep it; written whole or not at all."""
        opening = self.opening
        kept = {
            "log_id": self.log_id.hex(),
            "generation": opening.generation,
            "partition_count": opening.partition_count,
            "root_key": opening.root_key.hex(),
            "created_at_ms": epoch_ms(opening.created_at),
            "nonce": opening.nonce.hex(),
        }
        write_whole(path, (json.dumps(kept, indent=2) + "\n").encode(), sync=False)


def check_held(kafka: Kafka, codec: Codec, ours: LogIdentity | None, folder: Path) -> None:
    """LogUnfit(LOG_DIFFERS) if the brokers hold another log than that of the data folder. Blocking.

    `ours` is None where the folder has no log: it may open one only where governance has no record,
    also none that was deleted or cannot be read. Whoever went on would refuse every record, and
    keep a copy of each as quarantined. LogUnfit(LOG_MISSING) if the folder has a log and neither
    the brokers nor its archive have the first record, by which to tell whose log they hold.
    """
    reader = PointReader(kafka)
    try:
        if not reader.partitions_of(trust.GOVERNANCE_TOPIC) or reader.ends([FIRST])[FIRST] == 0:
            return
        if ours is not None and (first := reader.bounds(*FIRST)[0]) > 0:
            raise LogUnfit(
                Reason.LOG_MISSING,
                f"{trust.GOVERNANCE_TOPIC} begins at {first}, so that nothing says whose log the "
                f"brokers hold: set SPINE_ARCHIVE_DIR to the archive of the log of {folder}",
            )
        held = held_opening(reader, codec)
    finally:
        reader.close()
    if ours is not None and held in (None, ours.opening):
        return
    theirs = "a log" if held is None else f"log {held.log_id().hex()[:16]}…"
    here = "has no log.json" if ours is None else f"is of log {ours.log_id.hex()[:16]}…"
    raise LogUnfit(
        Reason.LOG_DIFFERS,
        f"the brokers hold {theirs}, and {folder} {here}: set "
        "SPINE_DATA_DIR to the folder of their log, put its log.json, keys/ and identities/ back "
        "here, or set SPINE_KAFKA_BOOTSTRAP to other brokers",
    )


def held_opening(reader: PointReader, codec: Codec) -> Opening | None:
    """What the first record of governance opens; None if it is not to be had, or no opening."""
    ((_, record),) = reader.found_at({FIRST: 0})
    if record is None or record.value is None:
        return None
    try:
        value = codec.decode(record.value)
    except (Malformed, UnknownSchema):
        return None
    return value if isinstance(value, Opening) else None


def unopened(kafka: Kafka, meter_keyed: int) -> list[str]:
    """The topics that are missing or have a partition that was not opened to the end, for which
    the root key is needed. Blocking.
    """
    reader = PointReader(kafka)
    try:
        counts = partition_counts(meter_keyed)
        there = {topic: min(count, reader.partitions_of(topic)) for topic, count in counts.items()}
        ends = reader.ends([(topic, p) for topic, count in there.items() for p in range(count)])
    finally:
        reader.close()
    begun = {topic for (topic, _), end in ends.items() if end < OPENED_BY}
    return sorted(topic for topic, count in there.items() if count == 0 or topic in begun)


def first_keys(
    keys: Mapping[SignerRole, bytes], at: datetime, encode: Callable[[object], bytes]
) -> Facts:
    """The root's only facts: which key speaks for which role."""
    commands = []
    for role, public_key in sorted(keys.items()):
        fact = SigningKeyAuthorised(public_key, str(role), str(role))
        commands.append(
            Command(
                sha256(b"first-key" + public_key).digest()[:16],
                key_subject(key_id(public_key)),
                sha256(public_key + role.encode()).digest(),
                NO_PREDECESSOR,
                NO_PREDECESSOR,
                "root/root",
                (Fact("governance.SigningKeyAuthorised", at, encode(fact)),),
            )
        )
    return Facts(trust.GOVERNANCE_TOPIC, 0, tuple(commands))


async def open_log(
    kafka: Kafka,
    identity: LogIdentity,
    writer: LogWriter,
    keys: Mapping[SignerRole, bytes],
    replicas: int,
    min_insync_replicas: int,
) -> list[str]:
    """Create what is missing of the log; safe to repeat after a crash at any point.

    `writer` signs with the root key. Returns the names of the topics that were created. Who calls
    asks `check_held` first, so that no topic of another log is opened as one of this.
    """
    opening = identity.opening
    created = await asyncio.to_thread(
        create_topics, kafka, opening.partition_count, replicas, min_insync_replicas
    )
    counts = partition_counts(opening.partition_count)
    reader = await asyncio.to_thread(LogReader, kafka)
    try:
        ends = {
            (topic, partition): reader.bounds(topic, partition)[1]
            for topic, count in counts.items()
            for partition in range(count)
        }
        for (topic, partition), end in ends.items():
            if end == 0:
                await writer.write(RecordType.OPENING, topic, partition, opening)
        if ends[trust.GOVERNANCE_TOPIC, 0] <= 1:
            facts = first_keys(keys, opening.created_at, writer.codec.encode)
            await writer.write(RecordType.FACTS, trust.GOVERNANCE_TOPIC, 0, facts)
        home = next(reader.read(trust.GOVERNANCE_TOPIC, 0, 1))
        for (topic, partition), end in ends.items():
            if end <= 1 and topic != trust.GOVERNANCE_TOPIC:
                await write_copy(writer, topic, partition, home, NO_PREDECESSOR)
    finally:
        await asyncio.to_thread(reader.close)
    return created


async def write_copy(
    writer: LogWriter, topic: str, partition: int, home: LogRecord, previous_home_offset: int
) -> None:
    """Append a copy of a home record of governance to a partition it concerns (rule 12)."""
    assert home.value is not None
    copy = GovernanceCopy(
        home.topic,
        home.partition,
        home.offset,
        home.append_ms,
        previous_home_offset,
        home.key,
        tuple(Header(name, value) for name, value in home.headers),
        home.value,
    )
    await writer.write(RecordType.COPY, topic, partition, copy)
