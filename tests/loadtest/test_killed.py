"""A load test that is ended, or killed, takes its broker and its processes with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

STARTED_S = 120.0
GONE_S = 60.0


def of_it(folder: Path) -> list[psutil.Process]:
    """What a run has started: the broker names its folder, the others are told it."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.status() == psutil.STATUS_ZOMBIE:
                continue
            told = process.environ().get("SPINE_DATA_DIR", "")
            if any(str(folder) in said for said in (told, *process.cmdline())):
                found.append(process)
    return found


def until(is_so: Callable[[], bool], within_s: float) -> bool:
    deadline = time.monotonic() + within_s
    while not is_so():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True


def ended(run: subprocess.Popen[bytes], number: signal.Signals) -> bool:
    """Whether it has ended; if not it is asked once more, however long it has tidied up."""
    run.send_signal(number)
    return run.poll() is not None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=lambda n: n.name)
def test_nothing_is_left_behind(tmp_path: Path, number: signal.Signals) -> None:
    run = subprocess.Popen(
        [sys.executable, "-m", "spine", "loadtest", "cut", "--meters", "100"],
        env=os.environ | {"TMPDIR": str(tmp_path)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        ready = "spine-load-*/services/consumers.json"
        assert until(lambda: any(tmp_path.glob(ready)) or run.poll() is not None, STARTED_S)
        started = of_it(tmp_path)
        assert len(started) >= 3, "the broker and two coordinators"
        assert until(lambda: ended(run, number), GONE_S)
        assert until(lambda: not of_it(tmp_path), GONE_S), of_it(tmp_path)
        if number == signal.SIGTERM:
            assert not list(tmp_path.glob("spine-load-*")), "and it has tidied up"
    finally:
        run.kill()
        run.wait(GONE_S)
        for process in of_it(tmp_path):
            with suppress(psutil.Error):
                process.kill()
