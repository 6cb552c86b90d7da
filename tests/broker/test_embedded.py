"""The embedded broker is a real one, keeps its records through a kill -9, and has one owner."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from spine.embedded import EmbeddedKafka, EmbeddedKafkaError, answers, free_port
from spine.jars import KAFKA_VERSION, default_jar_dir, fetch_jars, pinned_jars

NewTopicOn = Callable[[EmbeddedKafka], str]
LONG_AGO_MS = 946_684_800_000  # 2000-01-01, which no broker would give as its append time


def append(broker: EmbeddedKafka, topic: str, value: bytes) -> Any:
    producer = KafkaProducer(bootstrap_servers=broker.bootstrap, acks="all")
    try:
        sent = producer.send(topic, value, partition=0, timestamp_ms=LONG_AGO_MS)
        return sent.get(timeout=20)
    finally:
        producer.close()


def read_one(broker: EmbeddedKafka, topic: str) -> Any:
    consumer = KafkaConsumer(bootstrap_servers=broker.bootstrap, consumer_timeout_ms=20_000)
    try:
        consumer.assign([TopicPartition(topic, 0)])
        consumer.seek_to_beginning()
        return next(consumer)
    finally:
        consumer.close()


def test_it_speaks_over_tcp_from_a_process_of_its_own(kafka: EmbeddedKafka) -> None:
    host, port = kafka.bootstrap.split(":")
    assert answers(int(port))
    assert kafka.pid not in (None, os.getpid())
    assert psutil.Process(kafka.pid).exe().endswith("java")
    with socket.create_connection((host, int(port)), timeout=5):
        pass


def test_the_append_time_is_the_brokers(kafka: EmbeddedKafka, new_topic: NewTopicOn) -> None:
    topic = new_topic(kafka)
    before_ms = time.time() * 1000 - 1
    append(kafka, topic, b"a record that claims to be of the year 2000")
    record = read_one(kafka, topic)
    assert record.timestamp_type == 1  # LogAppendTime
    assert before_ms <= record.timestamp <= time.time() * 1000


def test_no_topic_appears_by_itself(kafka: EmbeddedKafka) -> None:
    consumer = KafkaConsumer(bootstrap_servers=kafka.bootstrap)
    try:
        assert not consumer.partitions_for_topic("never-created")
        assert "never-created" not in consumer.topics()
    finally:
        consumer.close()


def test_a_record_survives_kill_9(own_kafka: EmbeddedKafka, new_topic: NewTopicOn) -> None:
    topic, address = new_topic(own_kafka), own_kafka.bootstrap
    for kill in range(2):
        assert append(own_kafka, topic, b"kept").offset == kill
        pid = own_kafka.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        psutil.wait_procs([psutil.Process(pid)], timeout=10)
        assert not own_kafka.is_alive()
        own_kafka.start()
        assert own_kafka.bootstrap == address
        assert read_one(own_kafka, topic).value == b"kept"


def test_the_next_run_finds_port_and_records(tmp_path: Path, new_topic: NewTopicOn) -> None:
    port = free_port()
    with EmbeddedKafka(tmp_path, port=port) as first:
        assert first.bootstrap == f"127.0.0.1:{port}"
        topic = new_topic(first)
        append(first, topic, b"of the first run")
    assert not first.is_alive()
    with EmbeddedKafka(tmp_path) as second:
        assert second.bootstrap == first.bootstrap
        assert read_one(second, topic).value == b"of the first run"


def test_a_guest_attaches_and_does_not_end_it(kafka: EmbeddedKafka) -> None:
    data_dir = kafka.folder.parent.parent
    with EmbeddedKafka(data_dir) as guest:
        assert not guest.is_owner
        assert (guest.pid, guest.bootstrap) == (kafka.pid, kafka.bootstrap)
    assert kafka.is_alive()


def test_the_broker_of_a_killed_owner_is_adopted(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from spine.embedded import EmbeddedKafka;"
        "broker = EmbeddedKafka(Path(sys.argv[1])); broker.start();"
        "print(broker.pid, flush=True); time.sleep(600)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        pid = int(owner.stdout.readline())
        owner.kill()
    with EmbeddedKafka(tmp_path) as heir:
        assert heir.is_owner
        assert heir.pid == pid
    assert not psutil.pid_exists(pid)


def test_a_taken_port_is_refused_in_words(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", free_port())) as other:
        port = other.getsockname()[1]
        with pytest.raises(EmbeddedKafkaError, match=f"port {port} is in use"):
            EmbeddedKafka(tmp_path, port=port).start()


@contextmanager
def copied_jars(folder: Path) -> Iterator[Path]:
    """The jars as links, so that a test may change one without copying or harming the rest."""
    for jar, file in zip(pinned_jars(), fetch_jars(), strict=True):
        target = folder / jar.path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(file)
    yield folder


def test_a_tampered_jar_is_refused(tmp_path: Path) -> None:
    with copied_jars(tmp_path / "jars") as jar_dir:
        clients = next(jar for jar in pinned_jars() if "kafka-clients" in str(jar.path))
        content = (jar_dir / clients.path).read_bytes()
        (jar_dir / clients.path).unlink()
        (jar_dir / clients.path).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        broker = EmbeddedKafka(tmp_path, jar_dir=jar_dir)
        with pytest.raises(EmbeddedKafkaError, match=r"kafka-clients.*is not the file"):
            broker.start()
    assert not broker.is_alive()
    assert not broker.is_owner


def test_every_jar_of_kafka_is_of_one_version() -> None:
    versions = {
        jar.coordinate[2] for jar in pinned_jars() if jar.coordinate[0] == "org.apache.kafka"
    }
    assert versions == {KAFKA_VERSION}
    assert default_jar_dir().is_relative_to(sys.prefix)
