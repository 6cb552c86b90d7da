"""The log on Kafka: append, read a range, create and verify the topics.

Appends go through aiokafka (idempotent, acks=all); ranges are read with kafka-python,
which blocks, so hosts call it in a thread. Nothing resets an offset silently: a range outside the
log is an error.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError as AioKafkaError
from aiokafka.helpers import create_ssl_context
from kafka import KafkaAdminClient, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import KafkaError, TopicAlreadyExistsError

from spine import compressing, header_names, log_client, telemetry, trust
from spine.archive import Archive
from spine.errors import OF_THE_BROKERS, Bug, Invalid, Pushback, Reason, SpineError
from spine.event import LogRecord
from spine.log_greeting import greet

APPEND_TIMEOUT_S: Final = 20.0
MAX_RECORD_BYTES: Final = 1 << 20
MAX_VALUE_BYTES: Final = MAX_RECORD_BYTES - (16 << 10)  # so that key and headers still fit
header_names.take_any()
HEARD_OF_S: Final = 5.0
POLL_MS: Final = 100  # a range that ends in a hole is waited for no longer than this
_log = structlog.get_logger()


class LogUnfit(SpineError):
    """The log is not the one pinned, is not there, or its topics are not set as they must be."""

    grpc_code = "UNAVAILABLE"


@dataclass(frozen=True, slots=True)
class Kafka:
    """How to reach the cluster. Plain values, so that tests and tools can make one."""

    bootstrap: str
    security_protocol: str = "PLAINTEXT"
    ssl_cafile: str | None = None
    ssl_certfile: str | None = None
    ssl_keyfile: str | None = None
    sasl_mechanism: str | None = None
    sasl_username: str | None = None
    sasl_password: str | None = None
    archive: Path | None = None

    def options(self) -> dict[str, Any]:
        """Connection options, as kafka-python and aiokafka both call them."""
        options: dict[str, Any] = {
            "bootstrap_servers": self.bootstrap.split(","),
            "security_protocol": self.security_protocol,
        }
        if "SSL" in self.security_protocol:
            options["ssl_context"] = self.ssl_context()
        if self.sasl_mechanism is not None:
            options["sasl_mechanism"] = self.sasl_mechanism
            options["sasl_plain_username"] = self.sasl_username
            options["sasl_plain_password"] = self.sasl_password
        return options

    def ssl_context(self) -> Any:
        """TLS towards the brokers, with our certificate if one is set.

        Pushback(LOG_CERTIFICATE_REFUSED) if a file is not what it should be.
        """
        try:
            return create_ssl_context(
                cafile=self.ssl_cafile, certfile=self.ssl_certfile, keyfile=self.ssl_keyfile
            )
        except OSError as error:
            message = f"a certificate or key for the brokers cannot be read: {error}"
            raise Pushback(Reason.LOG_CERTIFICATE_REFUSED, message) from error


@dataclass(frozen=True, slots=True)
class Appended:
    """Where a record went. `append_ms` is the broker's append time, milliseconds UTC."""

    topic: str
    partition: int
    offset: int
    append_ms: int


class Appender:
    """Appends records, each acknowledged by all in-sync replicas before `append` returns."""

    def __init__(self, kafka: Kafka) -> None:
        self._kafka = kafka
        self._producer: AIOKafkaProducer | None = None
        self._lock = asyncio.Lock()

    async def start(self) -> None:
        """Connect. Pushback if no broker takes us (`greet`)."""
        await self._connected()

    async def append(
        self,
        topic: str,
        partition: int,
        key: bytes | None,
        headers: Sequence[tuple[str, bytes]],
        value: bytes,
    ) -> Appended:
        """Append one record; Pushback(INDETERMINATE) if its fate is unknown.

        Invalid(REQUEST_TOO_LARGE) for a record that no broker would take.
        """
        if len(value) > MAX_VALUE_BYTES:
            message = f"a record holds at most {MAX_VALUE_BYTES} bytes"
            raise Invalid(Reason.REQUEST_TOO_LARGE, message)
        producer = await self._connected()
        started = time.monotonic()
        try:
            sent = await producer.send(
                topic, value, key=key, partition=partition, headers=list(headers)
            )
            metadata = await asyncio.wait_for(asyncio.shield(sent), APPEND_TIMEOUT_S)
        except (AioKafkaError, TimeoutError) as error:
            await self._drop(producer)
            raise Pushback(
                Reason.INDETERMINATE,
                f"the append was not acknowledged ({type(error).__name__}); "
                "repeat it under the same idempotency key",
            ) from error
        elapsed_ms = (time.monotonic() - started) * 1000
        telemetry.append_latency_ms.record(elapsed_ms, {"topic": topic})
        return Appended(topic, partition, metadata.offset, metadata.timestamp)

    async def _connected(self) -> AIOKafkaProducer:
        try:
            async with self._lock:
                if self._producer is None:
                    producer = AIOKafkaProducer(
                        **self._kafka.options(),
                        acks="all",
                        enable_idempotence=True,
                        compression_type=compressing.zstd(),
                        max_request_size=MAX_RECORD_BYTES,
                        request_timeout_ms=int(APPEND_TIMEOUT_S * 1000),
                    )
                    try:
                        await producer.start()
                    except BaseException:
                        await producer.stop()
                        raise
                    self._producer = producer
                return self._producer
        except AioKafkaError as error:
            # Asked why once the lock is free: who waits for it asks a producer of its own.
            await asyncio.to_thread(self._greet)
            raise Pushback(Reason.LOG_UNREACHABLE, "no broker answers") from error

    def _greet(self) -> None:
        """Say in our own log why no broker takes us: callers are not told."""
        try:
            greet(self._kafka.options(), 0.0)
        except Pushback as refused:
            if refused.reason in OF_THE_BROKERS:
                _log.warning("log.refused", reason=str(refused.reason), message=refused.message)
            raise

    async def _drop(self, producer: AIOKafkaProducer) -> None:
        """Start afresh after a failed append: the old producer's sequence numbers are in doubt."""
        async with self._lock:
            if self._producer is producer:
                self._producer = None
        task = asyncio.create_task(_stop_quietly(producer))
        _closing.add(task)
        task.add_done_callback(_closing.discard)

    async def stop(self) -> None:
        """Flush and disconnect."""
        if self._producer is not None:
            await self._producer.stop()
            self._producer = None


_closing: set[asyncio.Task[None]] = set()


async def _stop_quietly(producer: AIOKafkaProducer) -> None:
    with contextlib.suppress(AioKafkaError, TimeoutError):
        await asyncio.wait_for(producer.stop(), APPEND_TIMEOUT_S)


class LogReader:
    """Reads ranges of partitions straight from the log. Blocking; one user at a time."""

    def __init__(self, kafka: Kafka, fetch_bytes: int = log_client.FETCH_BYTES) -> None:
        self._archive = Archive(kafka.archive)
        self._consumer = log_client.connect(kafka.options(), fetch_bytes)

    def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        """First offset in the log, archive included, and the offset after the last."""
        start, end = self._held(topic, partition)
        return self._archive.reaches(topic, partition, start), end

    def _held(self, topic: str, partition: int) -> tuple[int, int]:
        """The same of what the broker itself holds."""
        place = TopicPartition(topic, partition)
        start: int = log_client.ask(self._consumer.beginning_offsets, [place])[place]
        return start, log_client.ask(self._consumer.end_offsets, [place])[place]

    def ends(
        self, places: Collection[tuple[str, int]], within_s: float | None = None
    ) -> dict[tuple[str, int], int]:
        """The offset after the last, of each of these topic-partitions, in one question."""
        asked = [TopicPartition(*place) for place in places]
        found = log_client.ask(self._consumer.end_offsets, asked, within_s)
        return {(place.topic, place.partition): found[place] for place in asked}

    def offset_at(self, topic: str, partition: int, epoch_ms: int) -> int:
        """The first offset appended at or after that time; the end of the log if there is none."""
        place = TopicPartition(topic, partition)
        asked = {place: max(0, epoch_ms)}
        found = log_client.ask(self._consumer.offsets_for_times, asked).get(place)
        held_from, end = self._held(topic, partition)
        archived = self._archive.offset_at(topic, partition, epoch_ms, held_from)
        return archived if archived is not None else end if found is None else found.offset

    def read(
        self, topic: str, partition: int, start: int, end: int | None = None
    ) -> Iterator[LogRecord]:
        """Records with start <= offset < end (the present end if None), in order.

        Holes (control records of transactions) are passed over. LogUnfit if the log no longer
        reaches back to `start`, neither at the broker nor in the archive.
        """
        first, last = self._held(topic, partition)
        end = last if end is None else min(end, last)
        if start < self._archive.reaches(topic, partition, first):
            raise LogUnfit(Reason.LOG_MISSING, f"{topic}-{partition} starts at {first}")
        if start < first:
            yield from self._archive.read(topic, partition, start, min(end, first))
            start = first
        if start >= end:
            return
        place = TopicPartition(topic, partition)
        self._consumer.assign([place])
        self._consumer.seek(place, start)
        reached, moved = start, time.monotonic()
        try:
            while (position := self._consumer.position(place)) < end:
                if position > reached:
                    reached, moved = position, time.monotonic()
                elif time.monotonic() - moved > log_client.ANSWER_WITHIN_S:
                    raise log_client.unanswered()
                for message in self._consumer.poll(timeout_ms=POLL_MS).get(place, ()):
                    if message.offset >= end:
                        return
                    yield from_consumer(message)
        except KafkaError as error:
            raise log_client.unanswered() from error

    def close(self) -> None:
        """Disconnect."""
        self._consumer.close()


def from_consumer(message: Any) -> LogRecord:
    """A record as kafka-python gives it."""
    return LogRecord(
        message.topic,
        message.partition,
        message.offset,
        message.timestamp,
        message.key,
        tuple((name, value) for name, value in message.headers or ()),
        message.value,
    )


# -- topics ---------------------------------------------------------------------------------------


def partition_counts(meter_keyed: int) -> dict[str, int]:
    """Every topic of the spine and how many partitions it has."""
    return dict.fromkeys(trust.METER_KEYED, meter_keyed) | dict.fromkeys(trust.SINGLE_PARTITION, 1)


def topic_settings(min_insync_replicas: int) -> dict[str, str]:
    """What every topic of the log must be set to: kept for ever, timed by the broker (rule 11)."""
    return {
        "cleanup.policy": "delete",
        "retention.ms": "-1",
        "retention.bytes": "-1",
        "message.timestamp.type": "LogAppendTime",
        "min.insync.replicas": str(min_insync_replicas),
        "unclean.leader.election.enable": "false",
        "max.message.bytes": str(MAX_RECORD_BYTES),
    }


def create_topics(kafka: Kafka, meter_keyed: int, replicas: int, min_insync: int) -> list[str]:
    """Create the topics of the spine that are not there yet; returns their names."""
    return create_missing(kafka, partition_counts(meter_keyed), replicas, min_insync)


def create_missing(
    kafka: Kafka, counts: Mapping[str, int], replicas: int, min_insync: int
) -> list[str]:
    """Create those topics that are not there yet, of so many partitions; returns their names."""
    with _admin(kafka) as admin:
        present = set(admin.list_topics())
        missing = {t: n for t, n in counts.items() if t not in present}
        if missing:
            wanted = {
                topic: {
                    "num_partitions": count,
                    "replication_factor": replicas,
                    "configs": topic_settings(min_insync),
                }
                for topic, count in missing.items()
            }
            with contextlib.suppress(TopicAlreadyExistsError):
                admin.create_topics(wanted, wait_for_metadata=True)
        return sorted(missing)


def verify_topics(kafka: Kafka, meter_keyed: int, min_insync: int) -> None:
    """LogUnfit(TOPIC_SETTINGS) naming the first topic that is missing or not set as it must be."""
    verify_settings(kafka, partition_counts(meter_keyed), min_insync)


def verify_settings(kafka: Kafka, counts: Mapping[str, int], min_insync: int) -> None:
    """The same of these topics, which must have so many partitions."""
    for wrong in wrong_settings(kafka, counts, min_insync):
        raise LogUnfit(Reason.TOPIC_SETTINGS, wrong)


def wrong_settings(kafka: Kafka, counts: Mapping[str, int], min_insync: int) -> Iterator[str]:
    """A sentence for each thing that is wrong with these topics, in their order."""
    with _admin(kafka) as admin:
        described = _described(admin, list(counts))
        resources = [ConfigResource(ConfigResourceType.TOPIC, t) for t in counts]
        found = admin.describe_configs(resources, config_filter="all")["topic"]
    for topic, count in counts.items():
        partitions = described.get(topic, {}).get("partitions", ())
        if len(partitions) != count:
            yield f"{topic} has {len(partitions)} partitions, not {count}"
        if not partitions:
            continue
        copied = len(partitions[0]["replica_nodes"]) >= 3
        for setting, value in topic_settings(max(min_insync, 2) if copied else min_insync).items():
            if (actual := _config_value(found[topic], setting)) != value:
                yield f"{topic}: {setting} is {actual}, must be {value}"


def _described(admin: KafkaAdminClient, topics: list[str]) -> dict[str, Any]:
    """What brokers say of topics. Which was asked may have yet to hear of one just created."""
    deadline = time.monotonic() + HEARD_OF_S
    while True:
        found = {topic["name"]: topic for topic in admin.describe_topics(topics)}
        heard = all(found.get(topic, {}).get("partitions") for topic in topics)
        if heard or time.monotonic() > deadline:
            return found
        time.sleep(POLL_MS / 1000)


def _config_value(settings: Mapping[str, Any], name: str) -> str:
    entry = settings.get(name)
    if entry is None:
        raise Bug(f"the broker did not say what {name} is")
    return str(entry["value"] if isinstance(entry, Mapping) else entry)


class _admin:
    """An admin client for the length of a with block; its failures are ours."""

    def __init__(self, kafka: Kafka) -> None:
        self._kafka = kafka

    def __enter__(self) -> KafkaAdminClient:
        options = self._kafka.options()
        greet(options, log_client.ANSWER_WITHIN_S)
        try:
            self._client = KafkaAdminClient(**options)
        except KafkaError as error:
            raise Pushback(Reason.LOG_UNREACHABLE, "no broker answers") from error
        return self._client

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._client.close()
        if isinstance(error, KafkaError):
            raise Pushback(Reason.LOG_UNREACHABLE, "the log does not answer") from error
