"""The log on Kafka keeps what the log in memory promises; Faust folds each record once."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType, NewPartitions
from kafka.errors import CorruptRecordError
from kafka.record import memory_records
from kafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder

from domains.consumers.decider import CONSUMERS
from domains.governance.decider import GOVERNANCE
from spine import trust
from spine.embedded import EmbeddedKafka
from spine.errors import Pushback, Reason
from spine.event import LogRecord
from spine.fold import FaustFolds
from spine.live import LiveFold
from spine.log import (
    Appended,
    Appender,
    Kafka,
    LogReader,
    LogUnfit,
    create_topics,
    partition_counts,
    topic_settings,
    verify_topics,
)
from spine.log_client import FETCH_BYTES
from spine.log_thread import ReaderThread
from spine.partition import PartitionFold
from spine.replay import StoredFold, rebuild
from spine.rows import Applied
from spine.store import MemoryRows
from spine.watchdog import ONE_RECORD_BYTES, Ahead
from tests.helpers.records import (
    LOG_ID,
    METER,
    NEIGHBOUR,
    PARTITION,
    PARTITIONS,
    TOOLS,
    MemoryLog,
    PartitionLog,
    command,
    consumers_fold,
    granted,
    moved_in,
    request,
    started,
)

HEADERS = (("t", b"f"), ("twice", b"1"), ("twice", b"2"), ("empty", b""))


# One contract, two logs


@dataclass
class Log:
    """A log with one topic of the test's own, whatever keeps it."""

    topic: str
    reader: Any
    append_to: Callable[..., Any]
    leave_hole: Callable[[], None]
    cut: Callable[[int], None]

    async def append(
        self, value: bytes, key: bytes | None = None, headers: Any = HEADERS
    ) -> Appended:
        appended = await self.append_to(self.topic, 0, key, headers, value)
        assert isinstance(appended, Appended)
        return appended

    async def read(self, start: int, end: int | None = None) -> list[LogRecord]:
        return await asyncio.to_thread(lambda: list(self.reader.read(self.topic, 0, start, end)))

    async def bounds(self) -> tuple[int, int]:
        found: tuple[int, int] = await asyncio.to_thread(self.reader.bounds, self.topic, 0)
        return found

    async def offset_at(self, epoch_ms: int) -> int:
        found: int = await asyncio.to_thread(self.reader.offset_at, self.topic, 0, epoch_ms)
        return found


def in_memory() -> Log:
    log = MemoryLog()
    return Log(
        "t",
        log,
        log.append,
        lambda: log.leave_hole("t", 0),
        lambda below: log.cut("t", 0, below),
    )


def eventually(found: Callable[[], Any], timeout_s: float = 20.0) -> Any:
    """What is found once it is true; asked again until then."""
    deadline = time.monotonic() + timeout_s
    while not (answer := found()) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert answer
    return answer


def transaction(
    broker: EmbeddedKafka, topic: str, end: str, *values: bytes, partition: int = 0
) -> None:
    """Records in a transaction; its end is a control record, which no reader is given.

    The broker writes that record some time after it has said that the transaction has ended.
    """
    reader = LogReader(Kafka(broker.bootstrap))
    _, before = reader.bounds(topic, partition)
    producer = KafkaProducer(
        bootstrap_servers=broker.bootstrap, transactional_id=f"tx-{time.monotonic_ns()}"
    )
    try:
        producer.init_transactions()
        producer.begin_transaction()
        for value in values:
            producer.send(topic, value, partition=partition)
        producer.flush()
        getattr(producer, f"{end}_transaction")()
        eventually(lambda: reader.bounds(topic, partition)[1] == before + len(values) + 1)
    finally:
        producer.close()
        reader.close()


@pytest.fixture(params=["memory", "kafka"])
async def log(request: pytest.FixtureRequest) -> AsyncIterator[Log]:
    """The same log twice: the tests that follow hold for both."""
    if request.param == "memory":
        yield in_memory()
        return
    broker: EmbeddedKafka = request.getfixturevalue("kafka")
    topic = request.getfixturevalue("new_topic")(broker)
    kafka = Kafka(broker.bootstrap)
    appender, reader = Appender(kafka), await asyncio.to_thread(LogReader, kafka)
    await appender.start()

    def cut(below: int) -> None:
        admin = KafkaAdminClient(bootstrap_servers=broker.bootstrap)
        try:
            admin.delete_records({TopicPartition(topic, 0): below})
        finally:
            admin.close()

    yield Log(
        topic,
        reader,
        appender.append,
        lambda: transaction(broker, topic, "commit", b"in a transaction"),
        cut,
    )
    await appender.stop()
    await asyncio.to_thread(reader.close)


async def test_what_was_appended_is_read_as_it_was(log: Log) -> None:
    assert await log.bounds() == (0, 0)
    first = await log.append(b"one", b"key")
    second = await log.append(b"", None, ())
    assert (first.offset, second.offset) == (0, 1)
    assert first.append_ms <= second.append_ms
    assert await log.read(0) == [
        LogRecord(log.topic, 0, 0, first.append_ms, b"key", HEADERS, b"one"),
        LogRecord(log.topic, 0, 1, second.append_ms, None, (), b""),
    ]
    assert await log.bounds() == (0, 2)


async def test_a_range_is_half_open_and_ends_with_the_log(log: Log) -> None:
    for number in range(10):
        await log.append(b"%d" % number)

    async def offsets(start: int, end: int | None = None) -> list[int]:
        return [record.offset for record in await log.read(start, end)]

    assert await offsets(0) == await offsets(0, 99) == list(range(10))
    assert await offsets(3, 7) == [3, 4, 5, 6]
    assert await offsets(9) == await offsets(9, 10) == [9]
    assert await offsets(4, 4) == await offsets(7, 3) == await offsets(10) == []
    assert await offsets(99) == []
    assert await offsets(2, 3) == [2], "a reader can be used again, backwards too"


async def test_a_time_is_turned_into_an_offset(log: Log) -> None:
    appended = []
    for number in range(4):
        appended.append(await log.append(b"%d" % number))
        await asyncio.sleep(0.003)
    for place in appended:
        assert await log.offset_at(place.append_ms) <= place.offset
        assert await log.offset_at(place.append_ms + 1) == place.offset + 1
    assert await log.offset_at(0) == 0
    assert await log.offset_at(appended[-1].append_ms + 60_000) == 4


async def test_a_log_that_does_not_reach_back_is_missing_and_not_shorter(log: Log) -> None:
    for number in range(6):
        await log.append(b"%d" % number)
    log.cut(4)
    assert await log.bounds() == (4, 6)
    for start in (0, 3):
        with pytest.raises(LogUnfit) as unfit:
            await log.read(start)
        assert unfit.value.reason is Reason.LOG_MISSING
    assert [r.value for r in await log.read(4)] == [b"4", b"5"]


async def test_a_hole_is_passed_over_wherever_it_is(log: Log) -> None:
    await log.append(b"before")
    log.leave_hole()
    await log.append(b"between")
    log.leave_hole()
    _, end = await log.bounds()
    begun = time.monotonic()
    found = await log.read(0)
    assert time.monotonic() - begun < 5
    assert [r.value for r in found if r.value != b"in a transaction"] == [b"before", b"between"]
    assert found[-1].offset < end, "the log ends in a hole"
    last = found[-1].offset
    assert await log.read(last + 1) == [], "nothing but a hole is no record"
    assert await log.read(last + 1, end) == []


async def test_what_an_aborted_transaction_wrote_stands_in_the_log_for_every_reader(
    kafka: EmbeddedKafka, new_topic: Callable[[EmbeddedKafka], str]
) -> None:
    """Offsets and bytes are the truth: nobody can unwrite a record by not committing it."""
    topic = new_topic(kafka)
    await asyncio.to_thread(transaction, kafka, topic, "abort", b"one", b"two")
    reader = LogReader(Kafka(kafka.bootstrap))
    try:
        found = await asyncio.to_thread(lambda: list(reader.read(topic, 0, 0)))
        assert [r.value for r in found] == [b"one", b"two"]
        assert reader.bounds(topic, 0) == (0, 3)
    finally:
        reader.close()


async def test_the_ends_of_topics_met_later_are_found_with_those_known(
    kafka: EmbeddedKafka, new_topic: Callable[[EmbeddedKafka], str]
) -> None:
    """The client gives up on all when it knows the leaders of some: a follower would die of it."""
    known, later = new_topic(kafka), new_topic(kafka)
    consumer = KafkaConsumer(bootstrap_servers=kafka.bootstrap)
    reader = LogReader(Kafka(kafka.bootstrap))
    try:
        consumer.end_offsets([TopicPartition(known, 0)])
        with pytest.raises(KeyError):
            consumer.end_offsets([TopicPartition(known, 0), TopicPartition(later, 0)])
        await asyncio.to_thread(reader.bounds, known, 0)
        both = await asyncio.to_thread(reader.ends, [(known, 0), (later, 0)])
        assert both == {(known, 0): 0, (later, 0): 0}
    finally:
        consumer.close()
        reader.close()


async def test_whether_there_is_a_record_is_learnt_from_one_and_not_from_megabytes(
    kafka: EmbeddedKafka,
    new_topic: Callable[[EmbeddedKafka], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    topic, reached = new_topic(kafka), Kafka(kafka.bootstrap)
    appender = Appender(reached)
    await appender.start()
    for _ in range(6):
        await appender.append(topic, 0, None, (), os.urandom(900_000))
    await appender.stop()
    came: list[int] = []
    poll = KafkaConsumer.poll

    def counted(self: KafkaConsumer, **how: Any) -> Any:
        batches = poll(self, **how)
        came.append(sum(map(len, batches.values())))
        return batches

    monkeypatch.setattr(KafkaConsumer, "poll", counted)
    stored: Any = SimpleNamespace(topic=topic, partition=0, next_offset=1)
    for fetch_bytes, most in ((ONE_RECORD_BYTES, 1), (FETCH_BYTES, 5)):
        came.clear()
        ahead = Ahead(ReaderThread(reached, fetch_bytes))
        assert await ahead.holds_more(LiveFold(stored), 6)
        assert max(came) == most
        await ahead.close()
    ahead = Ahead(ReaderThread(reached, ONE_RECORD_BYTES))
    await asyncio.to_thread(transaction, kafka, topic, "commit", b"in a transaction")
    stored.next_offset = 7
    assert not await ahead.holds_more(LiveFold(stored), 8)
    await ahead.close()


async def test_no_broker_is_a_pushback() -> None:
    nobody = Kafka("127.0.0.1:1")
    with pytest.raises(Pushback) as refused:
        await Appender(nobody).start()
    assert refused.value.reason is Reason.LOG_UNREACHABLE


async def test_nobody_waits_while_another_asks_why_no_broker_takes_us(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Under the appender's lock those who wait would ask in turn, each as long as it takes."""
    both = threading.Barrier(2, timeout=30)

    def ask(options: object, within_s: float) -> None:
        both.wait()
        raise Pushback(Reason.LOG_UNREACHABLE, "no broker answers")

    monkeypatch.setattr("spine.log.greet", ask)
    appender = Appender(Kafka("127.0.0.1:1"))
    found = await asyncio.gather(appender.start(), appender.start(), return_exceptions=True)
    assert [type(each) for each in found] == [Pushback, Pushback]


# Topics


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedKafka]:
    """A broker whose topics are the log's own, and may be set wrong."""
    with EmbeddedKafka(tmp_path_factory.mktemp("log")) as broker:
        create_topics(Kafka(broker.bootstrap), PARTITIONS, 1, 1)
        yield broker


@pytest.fixture(scope="module")
def admin(broker: EmbeddedKafka) -> Iterator[KafkaAdminClient]:
    admin = KafkaAdminClient(bootstrap_servers=broker.bootstrap)
    yield admin
    admin.close()


def why_unfit(broker: EmbeddedKafka) -> str:
    """Why the topics are refused; empty if they are not."""
    try:
        verify_topics(Kafka(broker.bootstrap), PARTITIONS, 1)
    except LogUnfit as unfit:
        assert unfit.reason is Reason.TOPIC_SETTINGS
        return unfit.message
    return ""


def test_topics_as_created_are_as_they_must_be(broker: EmbeddedKafka) -> None:
    kafka = Kafka(broker.bootstrap)
    assert create_topics(kafka, PARTITIONS, 1, 1) == [], "and creating them again changes nothing"
    verify_topics(kafka, PARTITIONS, 1)


@pytest.mark.parametrize(
    ("topic", "setting", "value"),
    [
        (trust.CONSUMER_LOG, "retention.ms", "604800000"),
        (trust.READINGS_TOPIC, "retention.bytes", "1000000000"),
        (trust.CONSUMER_LOG, "cleanup.policy", "compact"),
        (trust.METERING_TOPIC, "cleanup.policy", "compact,delete"),
        (trust.CONSUMER_LOG, "message.timestamp.type", "CreateTime"),
        (trust.OUTCOMES_TOPIC, "unclean.leader.election.enable", "true"),
        (trust.GOVERNANCE_TOPIC, "max.message.bytes", "2000000"),
        (trust.QUARANTINE_TOPIC, "min.insync.replicas", "2"),
    ],
)
def test_a_topic_that_is_set_wrong_is_refused(
    broker: EmbeddedKafka, admin: KafkaAdminClient, topic: str, setting: str, value: str
) -> None:
    def set_to(wanted: str) -> None:
        admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, {setting: wanted})])

    set_to(value)
    try:
        refused = eventually(lambda: why_unfit(broker))
        assert f"{topic}: {setting} is {value}" in refused
    finally:
        set_to(topic_settings(1)[setting])
    eventually(lambda: not why_unfit(broker))


def test_a_missing_topic_or_another_partition_count_is_refused(
    broker: EmbeddedKafka, admin: KafkaAdminClient
) -> None:
    kafka = Kafka(broker.bootstrap)
    with pytest.raises(LogUnfit):
        verify_topics(kafka, PARTITIONS * 2, 1)
    topic = trust.BTM_ASSETS_TOPIC
    admin.create_partitions({topic: NewPartitions(PARTITIONS + 1)})
    assert f"{topic} has {PARTITIONS + 1} partitions" in eventually(lambda: why_unfit(broker))
    admin.delete_topics([topic])
    eventually(lambda: f"{topic} has 0 partitions" in why_unfit(broker))
    assert create_topics(kafka, PARTITIONS, 1, 1) == [topic]
    eventually(lambda: not why_unfit(broker))
    assert partition_counts(PARTITIONS)[topic] == PARTITIONS


@pytest.mark.parametrize("patient", [True, False])
def test_a_broker_may_hear_of_a_new_topic_a_little_late(
    broker: EmbeddedKafka,
    admin: KafkaAdminClient,
    monkeypatch: pytest.MonkeyPatch,
    patient: bool,
) -> None:
    kafka, topic = Kafka(broker.bootstrap), trust.BTM_ASSETS_TOPIC
    admin.delete_topics([topic])
    eventually(lambda: topic not in admin.list_topics())
    described = KafkaAdminClient.describe_topics

    def before_it_hears(self: KafkaAdminClient, topics: list[str]) -> Any:
        monkeypatch.undo()
        found = described(self, topics)
        create_topics(kafka, PARTITIONS, 1, 1)
        return found

    monkeypatch.setattr(KafkaAdminClient, "describe_topics", before_it_hears)
    if not patient:
        monkeypatch.setattr("spine.log.HEARD_OF_S", 0)
    if patient:
        verify_topics(kafka, PARTITIONS, 1)
    else:
        with pytest.raises(LogUnfit, match="has 0 partitions"):
            verify_topics(kafka, PARTITIONS, 1)
    eventually(lambda: not why_unfit(broker))


# Faust hosts the folds


@dataclass
class Guarded:
    """A partition of the consumer log on the broker, appended to record by record."""

    kafka: Kafka
    appender: Appender
    log: PartitionLog
    path: Path
    topic: str = trust.CONSUMER_LOG

    async def append(self, record: LogRecord) -> int:
        """Append what was built as the next record."""
        assert record.value is not None
        appended = await self.appender.append(
            record.topic, record.partition, record.key, record.headers, record.value
        )
        self.log.keep(record)
        assert appended.offset == record.offset
        return appended.offset

    def stored(self, name: str) -> StoredFold:
        return consumers_fold(self.path / name, self.topic)

    def folds(self, name: str, **how: Any) -> FaustFolds:
        return FaustFolds(
            f"{self.path.name}-{name}",
            self.kafka,
            [self.stored(name)],
            datadir=self.path / "faust",
            **how,
        )

    def replayed(self) -> bytes:
        """The digest that a plain reader comes to, in another store."""
        reader, fold = LogReader(self.kafka), self.stored("replayed")
        try:
            rebuild(fold, reader)
            return fold.store.digest()
        finally:
            fold.close()
            reader.close()


@pytest.fixture
async def guarded(broker: EmbeddedKafka, tmp_path: Path) -> AsyncIterator[Guarded]:
    """A partition that is open and has one fact in it. Its topic is made anew for each test."""
    kafka = Kafka(broker.bootstrap)
    admin = KafkaAdminClient(bootstrap_servers=broker.bootstrap)
    try:
        admin.delete_topics([trust.CONSUMER_LOG])
        while trust.CONSUMER_LOG in admin.list_topics():
            await asyncio.sleep(0.05)
    finally:
        admin.close()
    create_topics(kafka, PARTITIONS, 1, 1)
    appender = Appender(kafka)
    await appender.start()
    log, _ = started()
    guarded = Guarded(kafka, appender, PartitionLog(), tmp_path)
    for record in log.records:
        await guarded.append(record)
    await guarded.append(guarded.log.facts(command(METER, moved_in(), granted())))
    yield guarded
    await appender.stop()


async def faust_moves(live: LiveFold) -> None:
    """From here on nothing but Faust's delivery moves the fold."""
    deadline = time.monotonic() + 20
    while not live.by_faust and time.monotonic() < deadline:
        await asyncio.sleep(0.02)
    assert live.by_faust


def listened(folds: FaustFolds) -> list[tuple[int, Applied]]:
    """What the fold tells its listeners from now on."""
    heard: list[tuple[int, Applied]] = []
    live = folds[trust.CONSUMER_LOG, PARTITION]
    live.listeners.append(lambda record, applied: heard.append((record.offset, applied)))
    return heard


async def test_faust_folds_each_record_once_before_and_after_its_start(guarded: Guarded) -> None:
    folds = guarded.folds("live")
    live = folds[trust.CONSUMER_LOG, PARTITION]
    heard = listened(folds)
    await folds.start()
    try:
        assert live.next_offset == 4 and heard == []
        fact = guarded.log.facts(command(NEIGHBOUR, moved_in()))
        begun = await guarded.append(fact)
        await live.passed(begun, 20)
        for _ in range(3):
            await guarded.append(guarded.log.access(request()))
            last = await guarded.append(guarded.log.facts(command(NEIGHBOUR, moved_in())))
        await live.passed(last, 20)
        assert [offset for offset, _ in heard] == list(range(begun, last + 1))
        assert [a.duplicates for _, a in heard] == [0, 0, 1, 0, 1, 0, 1]
        assert live.stored.store.digest() == await asyncio.to_thread(guarded.replayed)
    finally:
        await folds.stop()
        folds.close()


async def test_what_faust_gives_is_the_record_that_the_log_holds(
    guarded: Guarded, broker: EmbeddedKafka
) -> None:
    """Headers given twice, no key, no value: both hosts must see the same record."""
    folds = guarded.folds("same")
    live = folds[trust.CONSUMER_LOG, PARTITION]
    seen: list[LogRecord] = []
    live.listeners.append(lambda record, _: seen.append(record))
    await folds.start()
    try:
        producer = KafkaProducer(bootstrap_servers=broker.bootstrap)
        place = {"topic": trust.CONSUMER_LOG, "partition": PARTITION}
        producer.send(**place, value=b"v", headers=list(HEADERS))
        producer.send(**place, value=None, key=b"k", headers=[("t", b"f")])
        producer.send(**place, value=b"", key=b"")
        producer.flush()
        producer.close()
        await live.passed(6, 20)
        reader = LogReader(guarded.kafka)
        plain = await asyncio.to_thread(lambda: list(reader.read(trust.CONSUMER_LOG, 3, 4)))
        reader.close()
        assert seen == plain
        assert [r.digest() for r in seen] == [r.digest() for r in plain]
    finally:
        await folds.stop()
        folds.close()


async def test_a_gap_in_delivery_is_read_from_the_log(
    guarded: Guarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    folds = guarded.folds("gap")
    live = folds[trust.CONSUMER_LOG, PARTITION]
    heard = listened(folds)
    deliver, lost = folds._deliver, {5, 6}

    async def lossy(record: LogRecord) -> None:
        if record.offset not in lost:
            await deliver(record)

    monkeypatch.setattr(folds, "_deliver", lossy)
    monkeypatch.setattr("spine.fold.HEAL_AFTER_ASSIGNMENT_S", ())
    await folds.start()
    try:
        await faust_moves(live)
        for number in range(4):
            fact = command(NEIGHBOUR, moved_in(), previous=(number, 0))
            last = await guarded.append(guarded.log.facts(fact))
        await live.passed(last, 20)
        assert [offset for offset, _ in heard] == list(range(4, last + 1))
        assert live.stored.fold.head is not None and live.stored.fold.head.holes == 0
        assert live.stored.store.digest() == await asyncio.to_thread(guarded.replayed)
    finally:
        await folds.stop()
        folds.close()


async def test_a_transactions_end_is_a_hole_and_stops_nothing(
    guarded: Guarded, broker: EmbeddedKafka
) -> None:
    folds = guarded.folds("hole")
    live = folds[trust.CONSUMER_LOG, PARTITION]
    await folds.start()
    try:
        await asyncio.to_thread(
            transaction, broker, trust.CONSUMER_LOG, "abort", b"unsigned", partition=PARTITION
        )
        appended = await guarded.appender.append(
            trust.CONSUMER_LOG, PARTITION, None, (("t", b"f"),), b"after the hole"
        )
        assert appended.offset == 6
        await live.passed(6, 20)
        head = live.stored.fold.head
        assert head is not None and head.holes == 1 and head.counts.balanced
        assert head.counts.quarantined == 2, "the aborted record stands in the log all the same"
        assert live.stored.store.digest() == await asyncio.to_thread(guarded.replayed)
    finally:
        await folds.stop()
        folds.close()


async def test_a_log_that_ends_in_a_hole_is_no_fold_that_stands_still(
    guarded: Guarded, broker: EmbeddedKafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or whoever can write to a topic could end the process whenever nothing else is written."""
    monkeypatch.setattr("spine.fold.WATCH_EVERY_S", 0.1)
    monkeypatch.setattr("spine.watchdog.STALLED_AFTER_S", 0.3)
    monkeypatch.setattr("spine.watchdog.ASKED_ABOUT_AFTER_S", 0.1)
    failures: list[BaseException] = []
    folds = guarded.folds("level", on_failure=failures.append)
    live = folds[trust.CONSUMER_LOG, PARTITION]
    await folds.start()
    try:
        await asyncio.to_thread(
            transaction, broker, trust.CONSUMER_LOG, "commit", b"unsigned", partition=PARTITION
        )
        await live.passed(4, 20)
        failures.clear()
        await folds.level(5)
        await asyncio.sleep(1)
        assert failures == []
        assert live.next_offset == 5
    finally:
        await folds.stop()
        folds.close()


async def test_who_asks_to_be_level_at_once_asks_the_log_once(
    guarded: Guarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    ends = LogReader.ends

    def counted(self: LogReader, places: Any) -> Any:
        asked.append(len(places))
        return ends(self, places)

    monkeypatch.setattr(LogReader, "ends", counted)
    monkeypatch.setattr("spine.fold.WATCH_EVERY_S", 60)
    folds = guarded.folds("at-once")
    live = folds[trust.CONSUMER_LOG, PARTITION]
    await folds.start()
    try:
        asked.clear()
        last = await guarded.append(guarded.log.facts(command(NEIGHBOUR, moved_in())))
        await asyncio.gather(*(folds.level(20) for _ in range(50)))
        assert live.next_offset == last + 1
        assert 1 <= len(asked) < 10  # beside what follows the log once a second
    finally:
        await folds.stop()
        folds.close()


async def test_a_fold_that_stands_still_while_the_log_goes_on_ends_the_process(
    guarded: Guarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spine.fold.WATCH_EVERY_S", 0.1)
    monkeypatch.setattr("spine.watchdog.STALLED_AFTER_S", 0.3)
    monkeypatch.setattr("spine.watchdog.ASKED_ABOUT_AFTER_S", 0.1)
    monkeypatch.setattr("spine.fold.HEAL_AFTER_ASSIGNMENT_S", ())
    failures: list[BaseException] = []
    folds = guarded.folds("still", on_failure=failures.append)

    async def deaf(*_: object) -> None:
        return None

    monkeypatch.setattr(folds, "_deliver", deaf)
    monkeypatch.setattr("spine.live.heal", deaf)
    await folds.start()
    try:
        await guarded.append(guarded.log.facts(command(NEIGHBOUR, moved_in())))
        with pytest.raises(Pushback):
            await folds.level(0.2)
        deadline = time.monotonic() + 20
        while not failures and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        assert "stands still" in str(failures[0])
    finally:
        await folds.stop()
        folds.close()


class NotUtf8(str):
    """A header name as only a client that means harm writes it."""

    def encode(self, *_: Any, **__: Any) -> bytes:
        return b"\xff\xfe"


async def test_a_header_name_that_is_no_text_ends_a_process_once_and_the_next_reads_past_it(
    guarded: Guarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """kafka-python reads it as text; aiokafka cannot, and Faust hangs there until we end it."""
    monkeypatch.setattr("spine.fold.WATCH_EVERY_S", 0.1)
    monkeypatch.setattr("spine.watchdog.STALLED_AFTER_S", 3.0)
    monkeypatch.setattr("spine.watchdog.ASKED_ABOUT_AFTER_S", 1.0)
    monkeypatch.setattr("spine.fold.HEAL_AFTER_ASSIGNMENT_S", ())
    failures: list[BaseException] = []
    folds = guarded.folds("names", on_failure=failures.append)
    await folds.start()
    producer = KafkaProducer(bootstrap_servers=guarded.kafka.bootstrap)
    sent = producer.send(
        trust.CONSUMER_LOG, b"poison", headers=[(NotUtf8("x"), b"")], partition=PARTITION
    )
    offset = (await asyncio.to_thread(sent.get, 10)).offset
    producer.close()
    try:
        deadline = time.monotonic() + 30
        while not failures and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        assert failures
    finally:
        await folds.stop()
        folds.close()
    again = guarded.folds("names")
    await again.start()
    live = again[trust.CONSUMER_LOG, PARTITION]
    try:
        assert live.next_offset == offset + 1
        head = live.stored.fold.head
        assert head is not None and head.counts.quarantined == 1 and head.counts.balanced
    finally:
        await again.stop()
        again.close()


def test_without_the_lenient_batch_that_name_stops_every_reader() -> None:
    builder = DefaultRecordBatchBuilder(2, 0, False, -1, -1, -1, 1 << 16)
    builder.append(0, 0, None, b"value", [(NotUtf8("x"), b"")])
    framed = bytes(builder.build())
    with pytest.raises(CorruptRecordError):
        list(DefaultRecordBatch(framed))
    (record,) = memory_records.DefaultRecordBatch(framed)
    assert record.headers == [("\\xff\\xfe", b"")]


async def test_a_stopped_fold_stands_still_and_the_next_one_goes_on(guarded: Guarded) -> None:
    folds = guarded.folds("stopping")
    live = folds[trust.CONSUMER_LOG, PARTITION]
    await folds.start()
    last = await guarded.append(guarded.log.facts(command(NEIGHBOUR, moved_in())))
    await live.passed(last, 20)
    await folds.stop()
    missed = await guarded.append(guarded.log.facts(command(NEIGHBOUR, moved_in())))
    with pytest.raises(Pushback) as behind:
        await live.passed(missed, 1.0)
    assert behind.value.reason is Reason.FOLD_BEHIND
    assert live.next_offset == missed
    folds.close()
    again = guarded.folds("stopping")
    heard = listened(again)
    await again.start()
    try:
        live = again[trust.CONSUMER_LOG, PARTITION]
        assert live.next_offset == missed + 1 and heard == []
        last = await guarded.append(guarded.log.facts(command(NEIGHBOUR, moved_in())))
        await live.passed(last, 20)
        assert [offset for offset, _ in heard] == [last]
        assert live.stored.store.digest() == await asyncio.to_thread(guarded.replayed)
    finally:
        await again.stop()
        again.close()


async def test_what_no_rule_foresaw_ends_the_process_and_is_never_passed_over(
    guarded: Guarded,
) -> None:
    failures: list[BaseException] = []
    folds = guarded.folds("failing", on_failure=failures.append)

    def broken(record: LogRecord, applied: Applied) -> None:
        raise ZeroDivisionError

    folds[trust.CONSUMER_LOG, PARTITION].listeners.append(broken)
    await folds.start()
    try:
        await faust_moves(folds[trust.CONSUMER_LOG, PARTITION])
        await guarded.append(guarded.log.facts(command(NEIGHBOUR, moved_in())))
        deadline = time.monotonic() + 20
        while not failures and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        assert isinstance(failures[0], ZeroDivisionError)
    finally:
        await folds.stop()
        folds.close()


def test_a_fold_in_memory_comes_to_the_same_state_as_one_in_a_store(tmp_path: Path) -> None:
    log, _ = started()
    log.keep(log.facts(command(METER, moved_in(), granted())))
    rows = MemoryRows()
    fold = PartitionFold(log.topic, PARTITION, LOG_ID, TOOLS, rows, CONSUMERS, GOVERNANCE)
    for record in log.records:
        fold.apply(record)
    stored = StoredFold(
        tmp_path / "s", log.topic, PARTITION, LOG_ID, TOOLS, CONSUMERS, GOVERNANCE, b"set"
    )
    rebuild(stored, cast(LogReader, MemoryLog(*log.records)))
    in_store = [row for row in stored.store.scan(b"", b"\xff") if row[0] != b"\x00build"]
    assert in_store == list(rows.scan(b"", b"\xff"))
    stored.close()
