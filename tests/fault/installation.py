"""A whole installation on a cluster of the test's own, whose processes can be armed one by one."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from spine.config import Settings
from spine.console import context, ingesting
from spine.console.context import kafka
from spine.console.logs import ensure_log, issue_identities
from spine.gb import Mpan
from spine.policy import Role
from spine.supervise import PROCESSES, Supervisor
from tests.e2e.conftest import Installation
from tests.fault.cluster import Cluster
from tests.fault.race import Meter

COLUMNS = "LCLid,stdorToU,DateTime,KWH/hh,Acorn,Acorn_grouped"
FIRST_MPAN = 1_900_000_000_000
SUPPLIER, ADVISER = "north-supply", "bright-advice"
# One adviser asks as fast as it can: its share of a server is not what is tried here.
PLENTY = "1000000"
ENVIRONMENT = {
    "SPINE_PARTY_COST_PER_S": PLENTY,
    "SPINE_PARTY_BURST": PLENTY,
    "SPINE_ANOMALY_READS_PER_HOUR": PLENTY,
    "SPINE_ANOMALY_REFUSALS_PER_HOUR": PLENTY,
}


class ArmedSupervisor(Supervisor):
    """A supervisor that can start a process with failpoints armed or in an environment of its own.

    `armed[name]`: what `tests.fault.process` is told; `extra[name]`: variables of that process.
    """

    def __init__(self, data_dir: Path, cluster: Cluster) -> None:
        environment = {
            "SPINE_DATA_DIR": str(data_dir),
            "SPINE_KAFKA_BOOTSTRAP": cluster.bootstrap,
            "SPINE_REPLICATION_FACTOR": str(cluster.replicas),
            "SPINE_MIN_INSYNC_REPLICAS": str(max(1, cluster.replicas - 1)),
        }
        super().__init__(data_dir, None, environment | ENVIRONMENT)
        self.armed: dict[str, str] = {}
        self.extra: dict[str, dict[str, str]] = {}
        self._held = False

    def look(self) -> None:
        """Start again whatever has ended, unless it is meant to stay down."""
        if not self._held:
            super().look()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """No process runs for the length of a with block; all are started again afterwards."""
        self._held = True
        for child in self.children.values():
            child.process.terminate()
        for child in self.children.values():
            child.process.wait(30)
        try:
            yield
        finally:
            self._held = False

    def command(self, name: str) -> tuple[list[str], dict[str, str]]:
        """As ever, unless the process is armed."""
        command, environment = super().command(name)
        if name in self.armed:
            command = [sys.executable, "-m", "tests.fault.process", self.armed[name]]
            command += PROCESSES[name]
        return command, environment | self.extra.get(name, {})


@dataclass(frozen=True)
class Faulty(Installation):
    """An installation that is there to be broken."""

    supervisor: ArmedSupervisor
    cluster: Cluster = field(kw_only=True)


@contextlib.contextmanager
def installed(data_dir: Path, brokers: int) -> Iterator[Faulty]:
    """Brokers, log and every process, kept up; a supplier and an adviser are accredited."""
    with Cluster(data_dir, brokers) as cluster:
        chosen = Settings(
            data_dir=data_dir,
            kafka_bootstrap=cluster.bootstrap,
            replication_factor=cluster.replicas,
            min_insync_replicas=max(1, cluster.replicas - 1),
        )
        context.use(chosen)
        supervisor = ArmedSupervisor(data_dir, cluster)
        supervisor.extra["dsi"] = {"SPINE_KAFKA_BOOTSTRAP": cluster.proxied}
        stop = threading.Event()
        keeper = threading.Thread(target=supervisor.run, args=(stop.is_set,))
        try:
            asyncio.run(ensure_log(chosen, kafka()))
            issue_identities(data_dir)
            supervisor.start()
            keeper.start()
            spine = Faulty(data_dir, supervisor, cluster=cluster)
            spine.party(SUPPLIER, Role.SUPPLIER)
            spine.party(ADVISER, Role.DATA_USER)
            yield spine
        finally:
            stop.set()
            if keeper.ident is not None:
                keeper.join()
            supervisor.stop()


def mpans(count: int, first: int = FIRST_MPAN) -> list[str]:
    """Metering points with good check digits."""
    numbers = (str(number) for number in range(first, first + 100 * count))
    return [number for number in numbers if Mpan(number).check_digit_ok][:count]


def settle_meters(spine: Installation, count: int, folder: Path) -> list[Meter]:
    """Registered meters, each with a day of readings and its occupier's certificate."""
    file = folder / "day.csv"
    rows = (
        f"MAC000001,Std,2024-07-01 {n // 2:02d}:{n % 2 * 30:02d}:00,0.100,A,A" for n in range(48)
    )
    file.write_text("\n".join([COLUMNS, *rows]) + "\n")
    meters = []
    for number, mpxn in enumerate(mpans(count)):
        spine.meter(mpxn, SUPPLIER)
        alias = f"occupier-{number}"
        spine.occupier(mpxn, alias)
        ingesting.send(file, SUPPLIER, mpxn=mpxn)
        meters.append(Meter(mpxn, alias))
    return meters
