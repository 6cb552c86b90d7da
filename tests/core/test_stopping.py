"""A process whose supervisor was killed does not stay behind."""

from __future__ import annotations

import signal
import subprocess
import sys

import psutil
import pytest

CHILD = """
import asyncio, signal, sys, time
from spine import stopping
from spine.stopping import stop_after, told_to_stop
stopping.ORPHAN_GRACE_S = 1.0
if sys.argv[2] == "hanging":
    signal.signal(signal.SIGTERM, lambda *_: None)
stop_after(int(sys.argv[1]) or None)
print("ready", flush=True)
while sys.argv[2] != "running":
    time.sleep(600)
asyncio.run(told_to_stop())
"""
SUPERVISOR = f"""
import os, subprocess, sys, time
told = str(os.getpid()) if sys.argv[1] == "told" else "0"
command = [sys.executable, "-c", {CHILD!r}, told, sys.argv[2]]
child = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
child.stdout.readline()
print(child.pid, flush=True)
time.sleep(600)
"""
LEFT_BEHIND_S = 5.0


def orphan_of_a_killed_supervisor(told: str, at: str = "running") -> psutil.Process:
    command = [sys.executable, "-c", SUPERVISOR, told, at]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as supervisor:
        assert supervisor.stdout is not None
        child = psutil.Process(int(supervisor.stdout.readline()))
        supervisor.kill()
    return child


@pytest.mark.parametrize("at", ["running", "starting", "hanging"])
def test_it_ends_when_its_supervisor_is_gone(at: str) -> None:
    orphan = orphan_of_a_killed_supervisor("told", at)
    try:
        orphan.wait(60)
    finally:
        if orphan.is_running():
            orphan.kill()


def test_a_process_that_does_not_know_its_supervisor_stays() -> None:
    orphan = orphan_of_a_killed_supervisor("untold")
    try:
        with pytest.raises(psutil.TimeoutExpired):
            orphan.wait(LEFT_BEHIND_S)
        orphan.terminate()
        orphan.wait(60)
    finally:
        if orphan.is_running():
            orphan.kill()


INTERRUPTED = """
import asyncio, signal, sys, time
from spine.stopping import end_as_interrupted
signal.signal(signal.SIGINT, getattr(signal, sys.argv[1]))
end_as_interrupted()
async def wait():
    print("ready", flush=True)
    await asyncio.sleep(600)
try:
    asyncio.run(wait())
except KeyboardInterrupt:
    print("tidied up")
"""


@pytest.mark.parametrize("ctrl_c", ["default_int_handler", "SIG_IGN"])
def test_one_that_is_ended_tidies_up_also_where_ctrl_c_is_ignored(ctrl_c: str) -> None:
    command = [sys.executable, "-c", INTERRUPTED, ctrl_c]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as run:
        assert run.stdout is not None
        run.stdout.readline()
        run.send_signal(signal.SIGTERM)
        try:
            assert run.communicate(timeout=60)[0] == b"tidied up\n"
        finally:
            run.kill()


TIDYING = """
import signal, sys, time
from spine.stopping import end_as_interrupted
end_as_interrupted()
if sys.argv[1] == "naive":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
try:
    print("ready", flush=True)
    time.sleep(600)
except KeyboardInterrupt:
    print("tidying up", flush=True)
    sys.stdin.readline()
    print("tidied up", flush=True)
"""


@pytest.mark.parametrize(("which", "end"), [("ours", "tidied up\n"), ("naive", "")])
def test_being_ended_again_cuts_no_tidying_up_short(which: str, end: str) -> None:
    run = subprocess.Popen(
        [sys.executable, "-c", TIDYING, which],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with run:
        assert run.stdin is not None and run.stdout is not None
        for said in ("ready\n", "tidying up\n"):
            assert run.stdout.readline() == said
            run.send_signal(signal.SIGTERM)
        try:
            assert run.communicate("go on\n", timeout=60)[0] == end
        finally:
            run.kill()


POOL = """
import os, sys, time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from spine.console import jobs
naive = ProcessPoolExecutor(1, get_context(sys.argv[2]))
pool = naive if sys.argv[1] == "naive" else jobs.processes(1, method=sys.argv[2])
print(pool.submit(os.getpid).result(), flush=True)
time.sleep(600)
"""


def worker_of_a_killed_command(which: str, method: str) -> psutil.Process:
    command = [sys.executable, "-c", POOL, which, method]
    out, err = subprocess.PIPE, subprocess.DEVNULL
    with subprocess.Popen(command, stdout=out, stderr=err) as run:
        assert run.stdout is not None
        worker = psutil.Process(int(run.stdout.readline()))
        run.kill()
    return worker


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize("which", ["ours", "naive"])
def test_what_shares_the_work_of_a_killed_command_ends_and_naively_waits_for_ever(
    which: str, method: str
) -> None:
    worker = worker_of_a_killed_command(which, method)
    try:
        if which == "naive":
            with pytest.raises(psutil.TimeoutExpired):
                worker.wait(LEFT_BEHIND_S)
        else:
            worker.wait(60)
    finally:
        if worker.is_running():
            worker.kill()
