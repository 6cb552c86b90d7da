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
from collections.abc import Iterator
from pathlib import Path

import pytest

from spine.config import Settings
from spine.console import context
from spine.console.client import Client
from spine.console.context import OPERATOR
from spine.console.logs import ensure_log, issue_identities
from spine.embedded import EmbeddedKafka
from spine.log import Kafka
from spine.opening import LogIdentity
from spine.supervise import PROCESSES
from spine.whereabouts import announce, service_target
from tests.helpers.command_line import run

READY_S = 120.0
STARTING = 5
# Which processes share a pod and so a folder, and whose signing key is mounted there.
PODS = {
    "governance": ("governance",),
    "consumers": ("consumers",),
    "metering": ("metering",),
    "assets": ("assets",),
    "dsi": ("dsi", "readings"),
    "ledger": ("ledger",),
}


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


def environment(opened: Path, pod: Path, bootstrap: str) -> dict[str, str]:
    return os.environ | {
        "SPINE_DATA_DIR": str(pod),
        "SPINE_KAFKA_BOOTSTRAP": bootstrap,
        "SPINE_LOG_ID": LogIdentity.load(opened / "log.json").log_id.hex(),
        "SPINE_LISTEN_HOST": "0.0.0.0",
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


@pytest.mark.timeout(300)
def test_each_process_needs_its_own_key_and_no_other(
    bootstrap: str, opened: Path, tmp_path: Path
) -> None:
    assert {name for names in PODS.values() for name in names} == PROCESSES.keys()
    running: list[subprocess.Popen[bytes]] = []
    try:
        for pod, names in PODS.items():
            mounted(opened, tmp_path / pod, key_of(pod))
            for name in names:
                command = [sys.executable, "-m", "spine", *PROCESSES[name]]
                its = environment(opened, tmp_path / pod, bootstrap)
                with (tmp_path / f"{name}.log").open("wb") as log:
                    running.append(subprocess.Popen(command, env=its, stdout=log, stderr=log))
        for pod, names in PODS.items():
            for name in names:
                until_serving(environment(opened, tmp_path / pod, bootstrap), name)
            assert [p.stem for p in (tmp_path / pod / "keys").iterdir()] == [key_of(pod)]
        # An operator reaches a process by a forwarded port, from the folder of the opening.
        host, port = service_target(tmp_path / "governance", "governance").split(":")
        assert host == "0.0.0.0"
        announce(opened, "governance", "127.0.0.1", int(port))
        answer = Client(opened, OPERATOR).governance(
            "AdmitParticipant", party="north-supply", name="North Supply"
        )
        assert answer.partitions_total > 1
    finally:
        for process in running:
            process.terminate()
        ended = [process.wait(60) for process in running]
    assert ended == [0] * len(running)
    assert json.loads((opened / "log.json").read_text())["partition_count"] == 4
