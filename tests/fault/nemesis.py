"""What breaks things: processes killed, stopped and continued, links slowed and cut.

Only processes of the run's own installation are touched, each by its number.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import time
from collections.abc import Iterator

from tests.fault.cluster import Broker
from tests.fault.installation import Faulty
from tests.fault.race import Nemesis, Race

BACK_WITHIN_S = 180.0
# When processes of this run were killed, or found dead at a failpoint: seconds since 1970.
kills: list[float] = []


@contextlib.contextmanager
def frozen(pid: int) -> Iterator[None]:
    """Stopped for the length of a with block, and always continued."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def kill_broker(broker: Broker) -> None:
    """SIGKILL a broker."""
    pid = broker.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    while broker.is_alive():
        time.sleep(0.01)


def restart(spine: Faulty, name: str) -> None:
    """SIGKILL a process and return once its successor answers."""
    before = spine.supervisor.children[name].process
    os.kill(before.pid, signal.SIGKILL)
    kills.append(time.time())
    await_successor(spine, name, before.pid)


def await_successor(spine: Faulty, name: str, pid: int) -> None:
    """Return once another process of that name answers."""
    deadline = time.monotonic() + BACK_WITHIN_S
    children = spine.supervisor.children
    while children[name].process.pid == pid or not spine.supervisor.answers(name):
        assert time.monotonic() < deadline, f"{name} did not come back"
        time.sleep(0.1)


# What runs beside a race


def broker_frozen(broker: Broker, at: float, seconds: float) -> Nemesis:
    """Stop a broker after this part of the rounds, and continue it some seconds later."""

    async def nemesis(race: Race) -> None:
        await race.reached(at)
        pid = broker.pid
        assert pid is not None
        with frozen(pid):
            await asyncio.sleep(seconds)

    return nemesis


def broker_killed(broker: Broker, at: float, seconds: float) -> Nemesis:
    """Kill a broker after this part of the rounds, and start it again some seconds later."""

    async def nemesis(race: Race) -> None:
        await race.reached(at)
        kill_broker(broker)
        await asyncio.sleep(seconds)
        await asyncio.to_thread(broker.start)

    return nemesis


def process_killed(spine: Faulty, name: str, at: float) -> Nemesis:
    """Kill a process after this part of the rounds; the supervisor starts it again."""

    async def nemesis(race: Race) -> None:
        await race.reached(at)
        await asyncio.to_thread(restart, spine, name)

    return nemesis


def process_frozen(spine: Faulty, name: str, at: float, seconds: float) -> Nemesis:
    """Stop a process after this part of the rounds, and continue it some seconds later."""

    async def nemesis(race: Race) -> None:
        await race.reached(at)
        with frozen(spine.supervisor.children[name].process.pid):
            await asyncio.sleep(seconds)

    return nemesis


def slow_links(spine: Faulty, longest_s: float) -> Nemesis:
    """What brokers answer to those behind the proxies takes half of this to all of it.

    A server behind such a link knows of a revocation later than who acknowledged it.
    """

    async def nemesis(race: Race) -> None:
        chance = random.Random(race.seed)
        while race.done < race.rounds:
            for broker in spine.cluster.brokers:
                broker.proxy.delay_s = chance.uniform(longest_s / 2, longest_s)
            await asyncio.sleep(0.5)
        for broker in spine.cluster.brokers:
            broker.proxy.delay_s = 0.0

    return nemesis
