"""One record of each of many partitions: what is there, what is a hole, what is gone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from kafka import KafkaAdminClient, TopicPartition

from spine.archive import Archive
from spine.embedded import EmbeddedKafka
from spine.follower import PointReader
from spine.log import Appender, Kafka, LogReader
from tests.broker.test_archive import dropped, filled
from tests.broker.test_log import transaction
from tests.helpers.records import LOG_ID

NewTopic = Callable[[EmbeddedKafka], str]


async def test_every_record_asked_for_is_the_one_that_stands_there(
    kafka: EmbeddedKafka, new_topic: NewTopic
) -> None:
    topics, reached = [new_topic(kafka) for _ in range(3)], Kafka(kafka.bootstrap)
    appender = Appender(reached)
    await appender.start()
    for topic in topics:
        for number in range(5):
            await appender.append(topic, 0, None, (), b"%d" % number)
    await appender.stop()
    await asyncio.to_thread(transaction, kafka, topics[2], "commit", b"in a transaction")

    def look() -> None:
        reader, plain = PointReader(reached), LogReader(reached)
        asked = {(topics[0], 0): 1, (topics[1], 0): 4, (topics[2], 0): 6}
        found = dict(reader.found_at(asked))
        assert found == {
            (topics[0], 0): next(plain.read(topics[0], 0, 1, 2)),
            (topics[1], 0): next(plain.read(topics[1], 0, 4, 5)),
            (topics[2], 0): None,  # the mark that ends a transaction is no record
        }
        assert dict(reader.found_at({(topics[0], 0): 5, (topics[1], 0): 0}))[topics[0], 0] is None
        admin = KafkaAdminClient(bootstrap_servers=kafka.bootstrap)
        admin.delete_records({TopicPartition(topics[0], 0): 2})
        admin.close()
        again = dict(reader.found_at(asked))
        assert again[topics[0], 0] is None, "it was cut off"
        assert again[topics[1], 0] == found[topics[1], 0]
        assert dict(reader.found_at({})) == {}
        reader.close()
        plain.close()

    await asyncio.to_thread(look)


async def test_what_only_the_archive_holds_is_found_there(
    kafka: EmbeddedKafka, new_topic: NewTopic, tmp_path: Path
) -> None:
    topic = new_topic(kafka)
    records = await filled(kafka, topic)
    Archive(tmp_path).extend(LOG_ID, topic, 0, records[:30], segment_bytes=500)
    dropped(kafka, topic, 25)

    def look() -> None:
        bare, reader = (
            PointReader(Kafka(kafka.bootstrap, archive=folder)) for folder in (None, tmp_path)
        )
        for offset in (0, 24, 25, 39):
            assert dict(reader.found_at({(topic, 0): offset}))[topic, 0] == records[offset]
        assert dict(bare.found_at({(topic, 0): 24})) == {(topic, 0): None}
        dropped(kafka, topic, 35)  # further than was archived: a gap is no log
        assert dict(reader.found_at({(topic, 0): 24})) == {(topic, 0): None}
        bare.close()
        reader.close()

    await asyncio.to_thread(look)
