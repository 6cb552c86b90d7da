"""A DSI server joins a running installation, is killed, comes back and leaves, all under load."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from spine.console import context
from tests.e2e.conftest import Installation, audit
from tests.helpers.servers import (
    METERS,
    TAKEOVER_S,
    Load,
    Reader,
    claimed,
    settle,
    shared,
    takeover_s,
    until,
)

SECOND = "dsi-2"
Start = Callable[[], subprocess.Popen[bytes]]


@pytest.fixture(scope="module", autouse=True)
def meters(spine: Installation) -> None:
    settle(spine)


@pytest.fixture
def start_second(spine: Installation) -> Iterator[Start]:
    """Starts a second DSI server beside the first, and ends it with the test."""
    started: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        environment = os.environ | {
            "SPINE_DATA_DIR": str(spine.data_dir),
            "SPINE_KAFKA_BOOTSTRAP": context.kafka().bootstrap,
        }
        command = [sys.executable, "-m", "spine", "dsi", "--member", "2"]
        with (spine.data_dir / "logs" / f"{SECOND}.log").open("ab") as log:
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        started.append(process)
        file = spine.data_dir / "services" / f"{SECOND}.json"
        until("listening", lambda: file.exists() and f'"pid": {process.pid}' in file.read_text())
        until("shared out", lambda: shared(spine.data_dir, ("dsi", SECOND)))
        return process

    yield start
    for process in started:
        process.kill()
        process.wait(10)


def test_a_killed_or_frozen_servers_partitions_are_answered_soon_and_it_takes_them_back(
    spine: Installation, start_second: Start
) -> None:
    for end in (signal.SIGKILL, signal.SIGSTOP):
        second = start_second()
        reader = Reader(spine.data_dir, "dsi")
        with Load(reader) as load:
            kill = functools.partial(second.send_signal, end)
            taken = takeover_s(spine.data_dir, kill, SECOND, "dsi")
            until("every meter is read again", lambda: load.answered > len(METERS))
        reader.close()
        assert taken < TAKEOVER_S
        assert load.failures == []
        second.kill()


def test_a_server_comes_and_goes_under_load_and_no_read_is_refused_beyond_its_retry_hint(
    spine: Installation, start_second: Start, tmp_path: Path
) -> None:
    reader = Reader(spine.data_dir, "dsi")
    with Load(reader) as load:
        second = start_second()
        through = Reader(spine.data_dir, SECOND)
        with Load(through) as beside:
            until("both answer", lambda: min(load.answered, beside.answered) > 20)
        through.close()
        second.terminate()
        assert second.wait(30) == 0
        before = load.answered
        until("the first goes on", lambda: load.answered > before + 20)
        until("all is its own", lambda: claimed(spine.data_dir, "dsi") == {0, 1, 2, 3})
    reader.close()
    assert load.failures == [] and beside.failures == []
    code, report = audit(spine, tmp_path)
    assert code == 0 and report["counts"]["DIFFERENT"] == 0
