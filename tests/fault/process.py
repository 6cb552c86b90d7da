"""A process of the spine with failpoints: `python -m tests.fault.process POINT[:N] ARGUMENTS...`

A failpoint is a place in the product's code, named below, at which the process ends by SIGKILL when
it comes by for the N-th time (the first if no N is given). The product knows nothing of them: this
launcher puts them around the functions named, so they cost nothing and cannot be armed in an
installation, which does not hold the tests. A point whose function is gone fails at the start.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
import signal
import sys
from collections.abc import Callable
from importlib import import_module
from itertools import count
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

# Name: module, what in it, and whether the process dies before or after it has done its work.
POINTS: Final[dict[str, tuple[str, str, str]]] = {
    "append.before": ("spine.log", "Appender.append", "before"),
    "append.after-send": ("aiokafka", "AIOKafkaProducer.send", "after"),
    "append.after-ack": ("spine.log", "Appender.append", "after"),
    "fold.before": ("spine.replay", "StoredFold.apply", "before"),
    "fold.before-commit": ("spine.store", "Store.commit", "before"),
    "fold.after-commit": ("spine.store", "Store.commit", "after"),
    "fold.after": ("spine.fold", "LiveFold.deliver", "after"),
    "recover.before-commit": ("spine.replay", "StoredFold._commit", "before"),
    "recover.after-commit": ("spine.replay", "StoredFold._commit", "after"),
    "recover.discard": ("spine.store", "Store.discard", "after"),
    "read.before-answer": ("spine.dsi.reads", "Reads.answer", "before"),
    "read.before-outcome": ("spine.dsi.reads", "Reads.release", "before"),
    "read.after-outcome": ("spine.access", "OutcomeLog.add", "after"),
    "spread.before-copy": ("spine.spread", "write_copy", "before"),
    "spread.after-copy": ("spine.spread", "write_copy", "after"),
}
# Not points but orders: governance sends its copies one after the other, not side by side; a read
# without the fence waits for all that the leader of its partition says there is.
ONE_BY_ONE: Final = "spread.one-by-one"
END_OFFSETS: Final = "read.end-offsets"


def arm(told: str) -> None:
    """Put the failpoint in its place."""
    name, _, at = told.partition(":")
    if name == ONE_BY_ONE:
        _copy_one_by_one()
        return
    if name == END_OFFSETS:
        _wait_for_end_offsets()
        return
    module, path, when = POINTS[name]
    owner: Any = import_module(module)
    *outer, last = path.split(".")
    for part in outer:
        owner = getattr(owner, part)
    setattr(owner, last, _around(getattr(owner, last), when, int(at or 1)))


def _copy_one_by_one() -> None:
    module: Any = import_module("spine.spread")
    write, turn = module.write_copy, asyncio.Lock()

    async def in_turn(*given: Any) -> None:
        async with turn:
            await write(*given)

    module.write_copy = in_turn


def _wait_for_end_offsets() -> None:
    """The fence that is none: each read asks the leader, with a client that does nothing else."""
    from spine import log_client
    from spine.access import AccessLog
    from spine.console import context

    clients: list[AIOKafkaConsumer] = []
    connecting = asyncio.Lock()

    async def client() -> AIOKafkaConsumer:
        async with connecting:
            if not clients:
                made = AIOKafkaConsumer(**context.kafka().options(), request_timeout_ms=120_000)
                await made.start()
                clients.append(made)
        return clients[0]

    async def decide(self: Any, request: Any, vector: Any, *, at_once: bool = False) -> Any:
        stored = self.live.stored
        place = TopicPartition(stored.topic, stored.partition)
        try:
            end = (await (await client()).end_offsets([place]))[place]
        except KafkaError as error:
            raise log_client.unanswered() from error
        await self.live.passed(end - 1, 30)
        return self._decide_unfenced(request, vector)

    AccessLog.decide = decide  # type: ignore[method-assign]


def _around(work: Callable[..., Any], when: str, nth: int) -> Callable[..., Any]:
    calls = count(1)

    def die() -> None:
        if next(calls) == nth:
            os.kill(os.getpid(), signal.SIGKILL)

    @functools.wraps(work)
    def plain(*given: Any, **more: Any) -> Any:
        if when == "before":
            die()
        result = work(*given, **more)
        if when == "after":
            die()
        return result

    @functools.wraps(work)
    async def waiting(*given: Any, **more: Any) -> Any:
        if when == "before":
            die()
        result = await work(*given, **more)
        if when == "after":
            die()
        return result

    return waiting if inspect.iscoroutinefunction(work) else plain


if __name__ == "__main__":
    armed, *arguments = sys.argv[1:]
    for each in filter(None, armed.split(",")):
        arm(each)
    sys.argv = ["spine", *arguments]
    from spine.cli import main

    main()
