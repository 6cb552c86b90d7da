"""What somebody does to the topics while all runs is an alarm of the ledger; work goes on."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from kafka import KafkaAdminClient, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType

from spine import telemetry, trust
from spine.archive import Archive
from spine.config import Settings
from spine.embedded import EmbeddedKafka
from spine.errors import SpineError
from spine.installation import DOMAINS
from spine.ledger.process import prepare_topic
from spine.ledger.topic_watch import TopicWatch, found_wrong
from spine.log import Kafka, LogReader, partition_counts, topic_settings, verify_settings
from spine.runtime import Runtime
from spine.services import ledger
from spine.services.ledger import start_ledger
from tests.helpers.log import PARTITIONS
from tests.helpers.records import LOG_ID

WAIT_S = 30.0
LOG, READINGS = trust.CONSUMER_LOG, trust.READINGS_TOPIC


class Alarms(Counter[str]):
    """The counter of alarms, by their kind."""

    def add(self, number: int, attributes: dict[str, str]) -> None:
        self[attributes["kind"]] += number


class AtTheStart(TopicWatch):
    """Naive: what was right at the start stays right."""

    looked = False

    async def look(self) -> None:
        if not self.looked:
            self.looked = True
            await super().look()


@pytest.fixture
def alarms(monkeypatch: pytest.MonkeyPatch) -> Alarms:
    found = Alarms()
    monkeypatch.setattr(telemetry, "ledger_alarms", found)
    return found


@pytest.fixture
def admin(own_kafka: EmbeddedKafka) -> Iterator[KafkaAdminClient]:
    admin = KafkaAdminClient(bootstrap_servers=own_kafka.bootstrap)
    yield admin
    admin.close()


def alter(admin: KafkaAdminClient, topic: str, setting: str, value: str) -> None:
    admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, {setting: value})])


def archived(kafka: Kafka, folder: Path) -> None:
    """Copy a partition to an archive."""
    reader = LogReader(kafka)
    try:
        Archive(folder).extend(LOG_ID, LOG, 1, reader.read(LOG, 1, 0))
    finally:
        reader.close()


async def looked(watch: TopicWatch, *told: str) -> None:
    """Look until that is what is wrong: a broker hears of a change a little late."""
    deadline = time.monotonic() + WAIT_S
    while True:
        await watch.look()
        wrong = sorted(watch.wrong)
        if len(wrong) == len(told) and all(map(str.startswith, wrong, told)):
            return
        assert time.monotonic() < deadline, wrong
        await asyncio.sleep(0.1)


async def test_each_thing_that_is_done_to_the_topics_is_one_alarm(
    own_log: tuple[Settings, Kafka], admin: KafkaAdminClient, alarms: Alarms, tmp_path: Path
) -> None:
    kafka, wanted = own_log[1], topic_settings(1)
    await asyncio.to_thread(prepare_topic, kafka, 1, 1)
    watch, naive = TopicWatch(kafka, PARTITIONS, 1), AtTheStart(kafka, PARTITIONS, 1)
    await naive.look()
    await looked(watch)
    assert not alarms

    done = 0
    for topic, setting, value in (
        (LOG, "retention.ms", "604800000"),
        (READINGS, "cleanup.policy", "compact"),
        (trust.CHECKPOINTS_TOPIC, "retention.bytes", "1000000"),
    ):
        alter(admin, topic, setting, value)
        await looked(watch, f"{topic}: {setting} is {value}, must be {wanted[setting]}")
        await watch.look()
        done += 1
        assert alarms["topics"] == done, "said once"
        alter(admin, topic, setting, wanted[setting])
        await looked(watch)

    weaker = TopicWatch(kafka, PARTITIONS, 2)
    topics = sorted((*partition_counts(PARTITIONS), trust.CHECKPOINTS_TOPIC))
    await looked(weaker, *(f"{topic}: min.insync.replicas is 1, must be 2" for topic in topics))

    await asyncio.to_thread(archived, kafka, tmp_path / "archive")
    await asyncio.to_thread(admin.delete_records, {TopicPartition(LOG, 1): 2})
    await looked(watch, f"{LOG}-1: the brokers deleted its first records")
    reads_on = TopicWatch(replace(kafka, archive=tmp_path / "archive"), PARTITIONS, 1)
    await looked(reads_on)
    assert alarms.pop("topics") == done + len(topics) + 1 and not alarms

    await naive.look()
    assert naive.wrong == frozenset(), "naive: the log lost its beginning, and nobody was told"


async def only_the_first(watch: TopicWatch) -> frozenset[str]:
    """Naive: what verifies topics at a start, and a damaged archive ends the look."""
    kafka, counts, min_insync = watch._asked

    def ask() -> frozenset[str]:
        reader = LogReader(kafka)
        try:
            reader.bounds(LOG, 1)
            verify_settings(kafka, counts, min_insync)
        except SpineError as error:
            return frozenset({error.message})
        finally:
            reader.close()
        return frozenset()

    return await asyncio.to_thread(ask)


async def test_what_is_wrong_for_long_hides_nothing_that_comes_later(
    own_log: tuple[Settings, Kafka], admin: KafkaAdminClient, alarms: Alarms, tmp_path: Path
) -> None:
    kafka = replace(own_log[1], archive=tmp_path / "archive")
    await asyncio.to_thread(prepare_topic, kafka, 1, 1)
    watch = TopicWatch(kafka, PARTITIONS, 1)
    standing, later = sorted((LOG, READINGS), key=list(partition_counts(PARTITIONS)).index)
    alter(admin, standing, "cleanup.policy", "compact,delete")
    told = f"{standing}: cleanup.policy is compact,delete, must be delete"
    await looked(watch, told)
    before = await only_the_first(watch)
    alter(admin, later, "retention.ms", "604800000")
    alter(admin, standing, "retention.ms", "604800000")
    told_later = [f"{topic}: retention.ms is 604800000, must be -1" for topic in (standing, later)]
    await looked(watch, *sorted([told, *told_later]))
    assert alarms["topics"] == 3
    assert await only_the_first(watch) == before == {told}, "naive: the later ones are not seen"

    await asyncio.to_thread(archived, kafka, tmp_path / "archive")
    (segment,) = (tmp_path / "archive" / f"{LOG}-1").iterdir()
    segment.write_bytes(b"torn")
    await asyncio.to_thread(admin.delete_records, {TopicPartition(LOG, 1): 2})
    damaged = f"{LOG}-1: the brokers deleted its first records, and the archive is damaged: "
    await looked(watch, *sorted([told, *told_later, damaged]))
    assert any(segment.name in wrong for wrong in watch.wrong)
    assert alarms["topics"] == 4
    (naive,) = await only_the_first(watch)
    assert segment.name in naive, "naive: the settings are not asked for at all"


async def test_the_ledger_looks_while_it_signs_and_goes_on(
    own_log: tuple[Settings, Kafka],
    admin: KafkaAdminClient,
    alarms: Alarms,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ledger, "LOOK_EVERY_S", 0.1)
    chosen = own_log[0].model_copy(update={"ledger_quorum": 0, "ledger_witnesses": ""})
    process = await start_ledger(Runtime.of(chosen, own_log[1], DOMAINS))
    try:
        alter(admin, LOG, "retention.ms", "604800000")
        async with asyncio.timeout(WAIT_S):
            while not alarms["topics"]:
                await asyncio.sleep(0.05)
        assert process.serves() and process.keeper.keeps
    finally:
        await process.stop()


def test_a_topic_that_is_gone_is_told_of_too(
    own_kafka: EmbeddedKafka, admin: KafkaAdminClient, own_log: tuple[Settings, Kafka]
) -> None:
    counts = {LOG: PARTITIONS, "never.created.v1": 1}
    wrong = found_wrong(own_log[1], counts, 1)
    assert wrong == {"never.created.v1 has 0 partitions, not 1"}
