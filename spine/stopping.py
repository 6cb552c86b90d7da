"""When a process of the spine ends: when it is told to, or when nobody is left to tell it."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from typing import Final

LOOK_EVERY_S: Final = 1.0
TOLD_BY: Final = (signal.SIGTERM, signal.SIGINT)


def stop_told() -> threading.Event:
    """An event that SIGTERM and SIGINT set, for who runs no event loop."""
    told = threading.Event()
    for number in TOLD_BY:
        signal.signal(number, lambda *_: told.set())
    return told


async def told_to_stop(supervisor_pid: int | None) -> None:
    """Return on SIGTERM or SIGINT, and soon after a supervisor that started this process is gone.

    A supervisor that was killed cannot end what it started, and what is left behind would hold
    its stores and its keys against the next `spine up`.
    """
    told = asyncio.Event()
    for number in TOLD_BY:
        asyncio.get_running_loop().add_signal_handler(number, told.set)
    if supervisor_pid is None:
        await told.wait()
        return
    while os.getppid() == supervisor_pid:
        try:
            await asyncio.wait_for(told.wait(), LOOK_EVERY_S)
        except TimeoutError:
            continue
        return
