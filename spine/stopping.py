"""When a process of the spine ends: when it is told to, or when nobody is left to tell it."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Final

LOOK_EVERY_S: Final = 1.0
# How long a process without a supervisor may take to end as it should. The broker may be gone with
# the supervisor, and some of what it waits for is an answer of the broker.
ORPHAN_GRACE_S: Final = 15.0
TOLD_BY: Final = (signal.SIGTERM, signal.SIGINT)
PR_SET_PDEATHSIG: Final = 1


def stop_told() -> threading.Event:
    """An event that SIGTERM and SIGINT set, for who runs no event loop."""
    told = threading.Event()
    for number in TOLD_BY:
        signal.signal(number, lambda *_: told.set())
    return told


def stop_after(supervisor_pid: int | None) -> None:
    """Have this process told to stop soon after the supervisor that started it is gone, from now
    on and whatever it is at: before `told_to_stop` it ends at once, and in `ORPHAN_GRACE_S` anyhow.

    A supervisor that was killed cannot end what it started, and what is left behind would hold
    its stores and its keys against the next `spine up`.
    """
    if supervisor_pid is not None:
        threading.Thread(target=_follow, args=(supervisor_pid,), daemon=True).start()


def _follow(supervisor_pid: int) -> None:
    while os.getppid() == supervisor_pid:
        time.sleep(LOOK_EVERY_S)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(ORPHAN_GRACE_S)
    os.kill(os.getpid(), signal.SIGKILL)


async def told_to_stop() -> None:
    """Return on SIGTERM or SIGINT."""
    told = asyncio.Event()
    for number in TOLD_BY:
        asyncio.get_running_loop().add_signal_handler(number, told.set)
    await told.wait()


def end_as_interrupted() -> None:
    """Let SIGTERM be to this process what Ctrl-C is: what it started is ended on the way out, which
    no further one cuts short.

    Also in the background of a script, where a shell has Ctrl-C ignored.
    """

    def interrupt(*_: object) -> None:
        # A function, as what is started from now on would be given SIG_IGN as well.
        signal.signal(signal.SIGTERM, lambda *_: None)
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
            raise KeyboardInterrupt
        signal.raise_signal(signal.SIGINT)

    signal.signal(signal.SIGTERM, interrupt)


def with_its_parent() -> Callable[[], None] | None:
    """What a child does before it becomes another program (`preexec_fn`), to be told to end as soon
    as the thread that starts it is gone, however that came; None where only Linux can.
    """
    if sys.platform != "linux":
        return None
    parent, prctl = os.getpid(), ctypes.CDLL(None).prctl

    def ask() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it was gone before we asked
            os._exit(0)

    return ask
