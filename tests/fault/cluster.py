"""Embedded brokers that stand up to faults: one or three, each also reachable through a proxy.

A broker has a second listener for clients behind its proxy: who begins there is told of the proxies
of all brokers and never meets them directly. Three brokers are a real KRaft cluster; their topics
have three replicas, of which two must hold a record before it counts.
"""

from __future__ import annotations

import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

from kafka import KafkaAdminClient, TopicPartition
from kafka.protocol.admin import ElectionType

from spine.classes import JAVA_FLAGS
from spine.embedded import EmbeddedKafka, free_port
from tests.fault.proxy import Proxy

HEAP = "-Xmx256m"
# A broker that starts beside two others and all of a spine, on a machine with much else to do.
ANSWERS_WITHIN_S = 240.0
NETWORK = ("broker", "controller", "proxied", "proxy")


class Broker(EmbeddedKafka):
    """One broker of a cluster on this machine."""

    def __init__(self, data_dir: Path, node_id: int, cluster: Cluster) -> None:
        super().__init__(data_dir, node_id=node_id)
        self._cluster = cluster
        self.network: dict[str, int] = {}
        for name in NETWORK:
            taken = [*self.network.values(), *cluster.ports()]
            self.network[name] = free_port(avoid=taken)
        self.proxy = Proxy(self.network["proxy"], self.network["proxied"])

    @property
    def node_id(self) -> int:
        """Its number in the cluster."""
        return self._node_id

    def _choose_ports(self) -> dict[str, int]:
        self._wanted_port = self.network["broker"]
        (self.folder / "ports.json").write_text(
            f'{{"broker": {self.network["broker"]}, "controller": {self.network["controller"]}}}'
        )
        return super()._choose_ports()

    def _wait_until_it_answers(self, timeout_s: float) -> None:
        super()._wait_until_it_answers(max(timeout_s, ANSWERS_WITHIN_S))

    def _java(self, classpath: str, *command: str) -> list[str]:
        java = super()._java(classpath, *command)
        return [HEAP if word == JAVA_FLAGS[0] else word for word in java]

    def _settings(self, ports: dict[str, int]) -> str:
        network, replicas = self.network, len(self._cluster.brokers)
        voters = ",".join(
            f"{b.node_id}@127.0.0.1:{b.network['controller']}" for b in self._cluster.brokers
        )
        return f"""{super()._settings(ports)}
# What stands here wins over what stands above.
controller.quorum.voters={voters}
listeners=PLAINTEXT://127.0.0.1:{network["broker"]},PROXIED://127.0.0.1:{network["proxied"]},\
CONTROLLER://127.0.0.1:{network["controller"]}
advertised.listeners=PLAINTEXT://127.0.0.1:{network["broker"]},\
PROXIED://127.0.0.1:{network["proxy"]}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=PLAINTEXT
default.replication.factor={replicas}
min.insync.replicas={max(1, replicas - 1)}
offsets.topic.replication.factor={replicas}
transaction.state.log.replication.factor={replicas}
transaction.state.log.min.isr={max(1, replicas - 1)}
replica.lag.time.max.ms=5000
"""

    def _cluster_id(self) -> str:
        return self._cluster.id


class Cluster:
    """Some brokers that begin and end together, and their proxies."""

    def __init__(self, data_dir: Path, count: int) -> None:
        self.brokers: list[Broker] = []
        self.id = urlsafe_b64encode(uuid4().bytes).decode().rstrip("=")
        for node_id in range(1, count + 1):
            self.brokers.append(Broker(data_dir, node_id, self))

    def ports(self) -> list[int]:
        """Every port that is spoken for."""
        return [port for broker in self.brokers for port in broker.network.values()]

    @property
    def bootstrap(self) -> str:
        """Where clients without a proxy begin."""
        return ",".join(f"127.0.0.1:{b.network['broker']}" for b in self.brokers)

    @property
    def proxied(self) -> str:
        """Where clients behind the proxies begin."""
        return ",".join(f"127.0.0.1:{b.network['proxy']}" for b in self.brokers)

    @property
    def replicas(self) -> int:
        """Copies of each topic."""
        return len(self.brokers)

    def start(self, brokers: Sequence[Broker] | None = None) -> None:
        """Start these brokers (all if None) side by side; a controller alone elects nobody."""
        chosen = self.brokers if brokers is None else brokers
        with ThreadPoolExecutor(len(chosen)) as pool:
            list(pool.map(Broker.start, chosen))

    def leader(self, topic: str, partition: int) -> Broker:
        """Who leads a partition, by what the brokers that answer know."""
        admin = KafkaAdminClient(bootstrap_servers=self.alive())
        try:
            (described,) = admin.describe_topics([topic])
        finally:
            admin.close()
        (found,) = (p for p in described["partitions"] if p["partition_index"] == partition)
        return self.brokers[int(found["leader_id"]) - 1]

    def lead(self, topic: str, partition: int, broker: Broker) -> None:
        """Have this broker lead a partition; who led it goes on as a follower."""
        place = TopicPartition(topic, partition)
        others = [b.node_id for b in self.brokers if b is not broker]
        admin = KafkaAdminClient(bootstrap_servers=self.alive())
        try:
            admin.alter_partition_reassignments({place: [broker.node_id, *others]})
            until("reassigned", lambda: not admin.list_partition_reassignments([place]))
            admin.elect_leaders(ElectionType.PREFERRED, {topic: [partition]}, raise_errors=False)
        finally:
            admin.close()
        until("another leader", lambda: self.leader(topic, partition) is broker)

    def controller(self) -> Broker:
        """The broker whose controller is the active one."""
        admin = KafkaAdminClient(bootstrap_servers=self.alive())
        try:
            (told,) = admin.describe_metadata_quorum()["topics"]
        finally:
            admin.close()
        return self.brokers[int(told["partitions"][0]["leader_id"]) - 1]

    def settle(self, topic: str, partition: int) -> None:
        """Wait until every replica of a partition is in sync."""
        until("replicas in sync", lambda: self._in_sync(topic, partition) == self.replicas)

    def _in_sync(self, topic: str, partition: int) -> int:
        admin = KafkaAdminClient(bootstrap_servers=self.alive())
        try:
            (described,) = admin.describe_topics([topic])
        finally:
            admin.close()
        (found,) = (p for p in described["partitions"] if p["partition_index"] == partition)
        return len(found["isr_nodes"])

    def alive(self) -> list[str]:
        """The addresses of the brokers whose process runs."""
        return [f"127.0.0.1:{b.network['broker']}" for b in self.brokers if b.is_alive()]

    def __enter__(self) -> Cluster:
        self.start()
        for broker in self.brokers:
            broker.proxy.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        for broker in self.brokers:
            broker.proxy.__exit__(None, None, None)
        with ThreadPoolExecutor(len(self.brokers)) as pool:
            list(pool.map(Broker.stop, self.brokers))


def until(what: str, holds: Callable[[], bool], timeout_s: float = 60.0) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, f"in vain: {what}"
        time.sleep(0.1)
