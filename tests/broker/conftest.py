"""Brokers that a test may kill, and topics of its own on the shared one."""

from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from kafka import KafkaAdminClient
from kafka.admin import NewTopic

from spine.config import Settings
from spine.embedded import EmbeddedKafka
from spine.log import Kafka
from tests.helpers.log import open_new_log


@pytest.fixture
def own_kafka(tmp_path: Path) -> Iterator[EmbeddedKafka]:
    """A broker of the test's own, started, to be killed and started at will."""
    with EmbeddedKafka(tmp_path) as broker:
        yield broker


@pytest.fixture
async def own_log(own_kafka: EmbeddedKafka, tmp_path: Path) -> tuple[Settings, Kafka]:
    """A log of the test's own, opened, with the signing keys of every role in its data folder."""
    return await open_new_log(own_kafka, tmp_path)


@pytest.fixture
def new_topic() -> Callable[[EmbeddedKafka], str]:
    """Creates a topic nobody else uses and returns its name."""

    def create(broker: EmbeddedKafka) -> str:
        name = f"test-{uuid4().hex}"
        admin = KafkaAdminClient(bootstrap_servers=broker.bootstrap)
        try:
            admin.create_topics(
                [NewTopic(name, num_partitions=1, replication_factor=1)], wait_for_metadata=True
            )
        finally:
            admin.close()
        return name

    return create
