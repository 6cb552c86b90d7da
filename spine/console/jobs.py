"""Processes of a command that share its work, and end with it however it ends."""

from __future__ import annotations

import os
import signal
import sys
import threading
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from spine.stopping import stop_after


def processes(jobs: int) -> ProcessPoolExecutor:
    """So many of them. One whose command was killed would wait for work for ever."""
    context = get_context(start_method())
    return ProcessPoolExecutor(jobs, context, _begin, (os.getpid(),))


def _begin(command_pid: int) -> None:
    """Told to stop, it removes what it has in temporary folders."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    stop_after(command_pid)


def start_method() -> str:
    """How they begin: as copies of this process, which has all modules loaded already, if nothing
    else runs in it that a copy would be without.
    """
    alone = sys.platform == "linux" and threading.active_count() == 1
    return "fork" if alone else "spawn"
