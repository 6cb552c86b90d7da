"""Every process runs with what its pod mounts and nothing else: its folder, its key, the authority.

The pods' folders are laid out on this machine as `infra/README.md` hands things out, over an
embedded broker, and `spine health` is asked as the probes ask it.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from spine import trust
from spine.config import Settings
from spine.console import context
from spine.console.client import Client
from spine.console.context import OPERATOR
from spine.console.logs import ensure_log, issue_identities
from spine.embedded import EmbeddedKafka, free_port
from spine.errors import Reason
from spine.event import RecordType, SignerRole
from spine.identity import Authority
from spine.installation import DOMAINS
from spine.log import Appender, Kafka
from spine.murmur2 import murmur2_partition
from spine.opening import LogIdentity
from spine.policy import Role
from spine.quarantine import Place, read_cases
from spine.runtime import Runtime
from spine.server import error_from
from spine.supervise import PROCESSES
from spine.whereabouts import announce, service_target
from tests.helpers.command_line import run
from tests.helpers.samples import METER, readings_batch

READY_S = 120.0
TOLD_S = 60.0
STARTING = 5
COMMANDS_MAX = 3
# Which processes share a pod and so a folder, and whose signing key is mounted there.
PODS = {
    "governance": ("governance",),
    "consumers": ("consumers",),
    "metering": ("metering",),
    "assets": ("assets",),
    "dsi": ("dsi", "readings"),
    "ledger": ("ledger",),
}
# A pod that is not told where the others are.
UNTOLD = "assets"


@pytest.fixture(scope="module")
def bootstrap(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    broker = EmbeddedKafka(tmp_path_factory.mktemp("broker"))
    broker.start()
    yield broker.bootstrap
    broker.stop()


@pytest.fixture(scope="module")
def opened(bootstrap: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the opening leaves behind for an operator."""
    folder = tmp_path_factory.mktemp("opened")
    chosen = Settings(data_dir=folder, kafka_bootstrap=bootstrap)
    asyncio.run(ensure_log(chosen, Kafka(bootstrap)))
    issue_identities(folder)
    return folder


def key_of(pod: str) -> str:
    """The role its first process signs as, the last word of the command; the ledger has its own."""
    return "ledger" if pod == "ledger" else PROCESSES[PODS[pod][0]][-1]


def mounted(opened: Path, pod: Path, key: str) -> None:
    """The folder of a pod before its first start."""
    (pod / "keys").mkdir(parents=True)
    shutil.copy(opened / "keys" / f"{key}.key", pod / "keys")
    shutil.copytree(opened / "identities" / "ca", pod / "identities" / "ca")
    shutil.copy(opened / "log.json", pod)
    (pod / "keys").chmod(0o500)


def environment(opened: Path, pod: Path, bootstrap: str, told: dict[str, str]) -> dict[str, str]:
    return os.environ | {
        "SPINE_DATA_DIR": str(pod),
        "SPINE_KAFKA_BOOTSTRAP": bootstrap,
        "SPINE_LOG_ID": LogIdentity.load(opened / "log.json").log_id.hex(),
        "SPINE_LISTEN_HOST": "0.0.0.0",
        "SPINE_ANOMALY_COMMANDS_PER_HOUR": str(COMMANDS_MAX),
        **told,
    }


def spine(environment: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "spine", *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def until_serving(environment: dict[str, str], name: str) -> None:
    """What a startup probe does, but for the starts of Python while it does not serve yet."""
    deadline = time.monotonic() + READY_S
    pod = Path(environment["SPINE_DATA_DIR"])
    while not (pod / "services" / f"{name}.json").exists():
        assert time.monotonic() < deadline, f"{name} does not listen"
        time.sleep(0.2)
    before = context.settings()
    context.use(Settings(data_dir=pod))
    try:
        while (here := run("health", name)).code:
            assert here.code == STARTING, here.err
            assert time.monotonic() < deadline, f"{name}: {here.err}"
            time.sleep(0.5)
    finally:
        context.use(before)
    said = spine(environment, "health", name)
    assert said.returncode == 0, said.stderr


@dataclass(frozen=True)
class Apart:
    """The pods' folders below `home`, and that of the operator, who reaches them by their ports."""

    home: Path
    opened: Path
    bootstrap: str

    @property
    def runtime(self) -> Runtime:
        """The log, with every signing key at hand."""
        chosen = Settings(data_dir=self.opened, kafka_bootstrap=self.bootstrap)
        return Runtime.of(chosen, Kafka(self.bootstrap), DOMAINS)

    def says(self, process: str) -> str:
        """What the process has logged."""
        return (self.home / f"{process}.log").read_text()

    def refused(self, process: str, party: str, method: str) -> str:
        """The reason for which an empty command of a data user is refused."""
        Authority.open_or_create(self.opened / "identities").issue_client(Role.DATA_USER, party)
        call: Any = getattr(Client(self.opened, party), process)
        with pytest.raises(grpc.RpcError) as refused:
            call(method)
        return error_from(refused.value).reason

    def until_held(self, process: str, party: str, method: str) -> None:
        """Have the process hold the party for its commands."""
        reasons = [self.refused(process, party, method) for _ in range(COMMANDS_MAX + 1)]
        assert Reason.PARTY_HELD not in reasons[:COMMANDS_MAX]
        assert reasons[-1] == Reason.PARTY_HELD


def until(what: str, seen: Callable[[], bool]) -> None:
    """Wait until it is seen."""
    deadline = time.monotonic() + TOLD_S
    while not seen():
        assert time.monotonic() < deadline, what
        time.sleep(0.2)


@pytest.fixture(scope="module")
def apart(
    bootstrap: str, opened: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Apart]:
    """Every process, started where and as its pod starts it."""
    home = tmp_path_factory.mktemp("pods")
    ports = {"governance": free_port()}
    ports["readings"] = free_port(avoid=ports.values())
    peers = {f"SPINE_{name.upper()}_PEERS": f"127.0.0.1:{port}" for name, port in ports.items()}
    fixed = {f"SPINE_{name.upper()}_PORT": str(port) for name, port in ports.items()}
    running: list[subprocess.Popen[bytes]] = []
    try:
        environments = {}
        for pod, names in PODS.items():
            mounted(opened, home / pod, key_of(pod))
            told = fixed if pod == UNTOLD else fixed | peers
            environments[pod] = environment(opened, home / pod, bootstrap, told)
            for name in names:
                command = [sys.executable, "-m", "spine", *PROCESSES[name]]
                with (home / f"{name}.log").open("wb") as log:
                    its = environments[pod]
                    running.append(subprocess.Popen(command, env=its, stdout=log, stderr=log))
        for pod, names in PODS.items():
            for name in names:
                until_serving(environments[pod], name)
                # An operator reaches a process by a forwarded port, from the folder of the opening.
                host, port = service_target(home / pod, name).split(":")
                assert host == "0.0.0.0"
                announce(opened, name, "127.0.0.1", int(port))
        yield Apart(home, opened, bootstrap)
    finally:
        for process in running:
            process.terminate()
        ended = [process.wait(60) for process in running]
    assert ended == [0] * len(running)


@pytest.mark.timeout(300)
def test_each_process_needs_its_own_key_and_no_other(apart: Apart) -> None:
    assert {name for names in PODS.values() for name in names} == PROCESSES.keys()
    for pod in PODS:
        assert [p.stem for p in (apart.home / pod / "keys").iterdir()] == [key_of(pod)]
    answer = Client(apart.opened, OPERATOR).governance(
        "AdmitParticipant", party="north-supply", name="North Supply"
    )
    assert answer.partitions_total > 1
    assert json.loads((apart.opened / "log.json").read_text())["partition_count"] == 4


@pytest.mark.timeout(300)
def test_whom_one_pod_holds_every_pod_holds(apart: Apart) -> None:
    """But not where the pod is not told where governance is."""
    apart.until_held(UNTOLD, "hasty-data", "DeclareAsset")
    apart.until_held("consumers", "greedy-data", "RequestConsent")
    until("nobody says so", lambda: '"hold.not_told"' in apart.says(UNTOLD))
    held = "RegisterMeteringPoint"
    reason = Reason.PARTY_HELD
    until("not held", lambda: apart.refused("metering", "greedy-data", held) == reason)
    holds = Client(apart.opened, OPERATOR).governance("ListHolds").holds
    assert [(hold.party, hold.held_by) for hold in holds] == [
        ("greedy-data", "coordinator/consumers")
    ]
    assert apart.refused("metering", "hasty-data", held) != reason
    assert "hold.not_told" not in apart.says("consumers")


@pytest.mark.timeout(300)
def test_what_the_readings_process_refuses_is_kept_by_a_pod_that_has_none_of_its_stores(
    apart: Apart,
) -> None:
    runtime = apart.runtime
    partition = murmur2_partition(METER.encode(), runtime.partitions)
    batch = readings_batch(METER, partition, 100)
    broken = replace(batch, rows=batch.rows + 1)

    async def appended() -> Place:
        appender = Appender(runtime.kafka)
        await appender.start()
        try:
            writer = runtime.writer(appender, SignerRole.METERING, "hand")
            topic = trust.READINGS_TOPIC
            record = await writer.write(RecordType.READINGS, topic, partition, broken)
            return Place(topic, partition, record.offset, 0)
        finally:
            await appender.stop()

    place = asyncio.run(appended())
    with closing(runtime.reader()) as reader:
        fold = runtime.memory_fold
        until(
            "not kept",
            lambda: place in read_cases(reader, fold(trust.QUARANTINE_TOPIC, 0)),
        )
    # The naive way: to look at the stores, or for the processes, of the folder.
    for folder in ("stores", "services"):
        assert list((apart.home / "metering" / folder).glob("readings*")) == []


@pytest.mark.timeout(300)
def test_an_audit_needs_nothing_but_the_log_and_its_name(apart: Apart) -> None:
    """But not a folder that does not know which log it is."""
    folders = {name: apart.home / name for name in ("auditing", "naive")}
    found = {}
    for name, folder in folders.items():
        folder.mkdir()
        if name == "auditing":
            shutil.copy(apart.opened / "log.json", folder)
        found[name] = spine(
            environment(apart.opened, folder, apart.bootstrap, {}), "audit", "--all"
        )
    assert found["auditing"].returncode == 0, found["auditing"].stderr
    assert {path.name for path in folders["auditing"].iterdir()} == {"log.json", "scratch"}
    assert "LOG_MISSING" in found["naive"].stderr
