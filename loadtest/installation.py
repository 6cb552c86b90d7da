"""A whole spine of a load test's own: a broker and the processes it needs, each a process.

They are the real ones, started by the command that `spine up` starts them by, over TLS on loopback.
None of them outlives the run, however it ends.
Only what bounds a single party is set as high as a country needs.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import psutil

from loadtest.country import DATA_SERVICES, SUPPLIERS
from spine.config import Settings
from spine.console.client import Client, stamp
from spine.console.context import CONSENT_SERVICE, OPERATOR
from spine.console.logs import ensure_log, issue_identities
from spine.console.parties import issue
from spine.embedded import EmbeddedKafka
from spine.governance.v1 import governance_pb2, governance_pb2_grpc
from spine.installation import DOMAINS
from spine.ledger.process import ledger_key
from spine.log import Kafka
from spine.policy import Role
from spine.runtime import Runtime
from spine.server import connect
from spine.supervise import WITNESS_PREFIX, processes
from spine.supervise import WITNESSES as LOCAL_WITNESSES
from spine.whereabouts import service_target

# What is being done, how much of it is done, and of how much.
Note = Callable[[str, int, int], None]
READY_S: Final = 120.0
MEMBERS_MAX: Final = 4
COMMANDS: Final = processes({"dsi": MEMBERS_MAX, "readings": MEMBERS_MAX})
# What the broker is called among the processes that are looked at.
BROKER: Final = "broker"
WITNESSES: Final = tuple(f"{WITNESS_PREFIX}{name}" for name in LOCAL_WITNESSES)
STOP_S: Final = 30.0
# A process that is idle uses less than this share of a core.
IDLE_SHARE: Final = 0.2
IDLE_LOOK_S: Final = 2.0
IDLE_S: Final = 1_800.0
ADVISERS_LEAST, ADVISERS_MOST = 4, 1_000
METERS_AN_ADVISER: Final = 5
# Of the 100 streams that a connection may have. Many are answered at one moment, and for a server
# they last until their ends have crossed, so each may stand there twice.
ADMITTED_AT_ONCE: Final = 32
ADMIT_S: Final = 29.0
# What keeps one party from taking everybody's share would end a load test in its first second.
UNBOUNDED: Final = {
    "SPINE_PARTY_COST_PER_S": "1e9",
    "SPINE_PARTY_BURST": "1000000000",
    "SPINE_PARTY_METERS_PER_HOUR": "1000000000",
    "SPINE_ANOMALY_READS_PER_HOUR": "1000000000",
    "SPINE_ANOMALY_COMMANDS_PER_HOUR": "1000000000",
    "SPINE_ANOMALY_REFUSALS_PER_HOUR": "1000000000",
    "SPINE_LOG_LEVEL": "WARNING",
}


class WrongAnswer(Exception):
    """The spine answered something else than was recorded. It fails the run."""


def expect(right: bool, said: str) -> None:
    """WrongAnswer unless it is so."""
    if not right:
        raise WrongAnswer(said)


@dataclass
class Installation:
    """A broker and the processes started so far."""

    data_dir: Path
    kafka: Kafka
    runtime: Runtime
    advisers: tuple[str, ...]
    broker_pid: int
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, *names: str) -> None:
        """Start these processes; returns once all of them answer."""
        for name in names:
            self._launch(name)
        self.wait_for(*names)

    def wait_for(self, *names: str) -> None:
        """Return once all of these processes answer."""
        deadline = time.monotonic() + READY_S
        for name in names:
            while not self._answers(name):
                expect(self.processes[name].poll() is None, f"{name} ended: {self.tail(name)}")
                expect(time.monotonic() < deadline, f"{name} did not start in {READY_S:g} s")
                time.sleep(0.05)

    def launch(self, name: str) -> None:
        """Start a process and do not wait for it."""
        self._launch(name)

    def wait_idle(self, name: str) -> float:
        """Return once this process has next to nothing left to do; for how many seconds it was
        busy, to the look.
        """
        started, used = time.monotonic(), -IDLE_LOOK_S
        while (now := self.cpu_s(name)) - used > IDLE_SHARE * IDLE_LOOK_S:
            waited = time.monotonic() - started
            expect(waited < IDLE_S, f"{name} was busy for {IDLE_S:g} s")
            used = now
            time.sleep(IDLE_LOOK_S)
        return waited

    def stop(self, *names: str) -> None:
        """End these processes in order, as SIGTERM asks them to."""
        for name in names:
            self.processes[name].terminate()
        for name in names:
            try:
                self.processes.pop(name).wait(STOP_S)
            except subprocess.TimeoutExpired as slow:
                raise WrongAnswer(f"{name} did not end in {STOP_S:g} s") from slow

    def end(self) -> None:
        """End whatever is left, by force if need be."""
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.processes.clear()

    def environment(self) -> dict[str, str]:
        """The environment of every process of this spine."""
        own = {
            "SPINE_DATA_DIR": str(self.data_dir),
            "SPINE_KAFKA_BOOTSTRAP": self.kafka.bootstrap,
            "SPINE_SUPERVISOR_PID": str(os.getpid()),
            "SPINE_WITNESS_LOG_KEY": str(ledger_key(self.data_dir, self.runtime.identity.log_id)),
        }
        return os.environ | UNBOUNDED | own

    def process(self, name: str) -> psutil.Process:
        """The process of that name, or the broker's, to look at."""
        return psutil.Process(self.broker_pid if name == BROKER else self.processes[name].pid)

    def cpu_s(self, name: str) -> float:
        """CPU seconds a process has used so far, user and system."""
        times = self.process(name).cpu_times()
        return float(times.user + times.system)

    def resident(self) -> dict[str, int]:
        """Resident bytes of every process of the spine."""
        return {name: int(self.process(name).memory_info().rss) for name in self.processes}

    def client(self, alias: str) -> Client:
        """The calls of one identity."""
        return Client(self.data_dir, alias)

    def target(self, service: str) -> str:
        """host:port of a service."""
        return service_target(self.data_dir, service)

    def identity(self, alias: str) -> Path:
        """The folder of an identity."""
        return self.data_dir / "identities" / alias

    def tail(self, name: str) -> str:
        """The end of what a process said."""
        return (self.data_dir / "logs" / f"{name}.log").read_text(errors="replace")[-600:]

    def _launch(self, name: str) -> None:
        (self.data_dir / "services" / f"{name}.json").unlink(missing_ok=True)
        logs = self.data_dir / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        with (logs / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", *_module(name)],
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _answers(self, name: str) -> bool:
        try:
            said = json.loads((self.data_dir / "services" / f"{name}.json").read_text())
        except (FileNotFoundError, ValueError):
            return False
        return bool(said["pid"] == self.processes[name].pid)

    # -- who there is -----------------------------------------------------------------------------

    def govern(self) -> None:
        """Admit and accredit everybody: suppliers, data services and advisers."""
        everybody = [
            (role, party)
            for role, parties in (
                (Role.SUPPLIER, SUPPLIERS),
                (Role.DATA_SERVICE, DATA_SERVICES),
                (Role.DATA_USER, self.advisers),
            )
            for party in parties
        ]
        for role, party in everybody:
            issue(self.data_dir, role, party)
        asyncio.run(self._admit(everybody))

    async def _admit(self, everybody: Sequence[tuple[Role, str]]) -> None:
        """Many calls at once over one connection: what governance spreads to all partitions
        meanwhile, it spreads together.
        """
        start = stamp(datetime.now(UTC) - timedelta(minutes=1))
        waiting = iter(everybody)
        async with connect(self.target("governance"), self.identity(OPERATOR)) as channel:
            board = governance_pb2_grpc.GovernanceStub(channel)

            async def admit() -> None:
                for role, party in waiting:
                    admitted = governance_pb2.AdmitParticipantRequest(
                        idempotency_key=f"admit-{party}", party=party, name=party
                    )
                    await board.AdmitParticipant(admitted, timeout=ADMIT_S)
                    granted = governance_pb2.GrantAccreditationRequest(
                        idempotency_key=f"grant-{party}",
                        party=party,
                        role=role,
                        scheme="DSI",
                        tier="1",
                        effective_from=start,
                    )
                    await board.GrantAccreditation(granted, timeout=ADMIT_S)

            await asyncio.gather(*(admit() for _ in range(ADMITTED_AT_ONCE)))


def advisers_of(meters: int) -> tuple[str, ...]:
    """Who advises the occupiers of so many meters: one for each few of them, a thousand at most."""
    count = min(ADVISERS_MOST, max(ADVISERS_LEAST, meters // METERS_AN_ADVISER))
    return tuple(f"adviser-{n}" for n in range(count))


def _module(name: str) -> tuple[str, ...]:
    if name in WITNESSES:
        return "spine.ledger.witnessing", name.removeprefix(WITNESS_PREFIX)
    return "spine", *COMMANDS[name]


@contextmanager
def installation(
    folder: Path,
    processes: Sequence[str],
    note: Callable[[str], None] = lambda _: None,
    *,
    meters: int = 0,
) -> Iterator[Installation]:
    """A spine in a folder of its own for the length of a with block, everybody admitted; advisers
    as so many meters have."""
    chosen = Settings(data_dir=folder, log_level="WARNING")
    note("starting a broker")
    with EmbeddedKafka(folder, outlives_us=False) as broker:
        kafka = Kafka(broker.bootstrap)
        asyncio.run(ensure_log(chosen, kafka))
        issue_identities(folder)
        runtime, pid = Runtime.of(chosen, kafka, DOMAINS), broker.pid
        expect(pid is not None, "the broker ended")
        assert pid is not None
        made = Installation(folder, kafka, runtime, advisers_of(meters), pid)
        try:
            note("starting the processes")
            made.start("governance", "consumers")
            made.govern()
            made.start(*(name for name in processes if name not in made.processes))
            yield made
        finally:
            made.end()


CONSENTS_BY: Final = CONSENT_SERVICE
