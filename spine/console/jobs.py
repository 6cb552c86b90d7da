"""Processes of a command that share its work, and end with it however it ends."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from spine.stopping import stop_after


def processes(
    jobs: int, begin: Callable[[], object] | None = None, method: str = ""
) -> ProcessPoolExecutor:
    """So many of them; each calls `begin` first. One whose command was killed would wait for work
    for ever. `method`: how they begin, if not by `start_method`.
    """
    context = get_context(method or start_method())
    return ProcessPoolExecutor(jobs, context, _begin, (os.getpid(), begin))


def _begin(command_pid: int, begin: Callable[[], object] | None) -> None:
    """Told to stop, it removes what it has in temporary folders."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    stop_after(command_pid)
    if begin is not None:
        begin()


def start_method() -> str:
    """How they begin: as copies of this process, which has all modules loaded already, if nothing
    else runs in it that a copy would be without. Never from a fork server: what it starts is its
    own, would take this process for gone, and end at once (`stop_after`).
    """
    alone = sys.platform == "linux" and threading.active_count() == 1
    return "fork" if alone else "spawn"
