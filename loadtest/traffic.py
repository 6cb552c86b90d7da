"""Load that does not wait for answers: calls at a stated pace, latencies from when they are due.

A caller that waits for each answer before it asks again never sees a queue: it stops asking as
soon as the server is slow. Here every call has an intended start, and waiting for its turn counts.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import grpc

from loadtest.installation import WrongAnswer, expect
from loadtest.results import percentile
from spine.errors import Reason
from spine.identity import Identity
from spine.server import error_from

BEHIND_MAX: Final = 20_000
# No server takes a call with one answer that may last much longer.
CALL_MOST_S: Final = 25.0
Call = Callable[[int], Awaitable[None]]
# What a server that is asked for too much says, if it says anything.
NO_TIME: Final = frozenset(
    {
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    }
)
# What gRPC makes of a call that it cut off itself; the spine would name a reason. These codes also
# say that a server failed, unless gRPC says what was cut.
CUT_OFF: Final = frozenset({grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN})
SAID_OF_IT: Final = ("RST_STREAM", "Stream removed", "Socket closed", "GOAWAY")


class Unanswered(Exception):
    """A call ended, and nobody had answered it: there was no time, or gRPC hung up."""


@contextmanager
def answer_to(what: str, refused_for: Reason | None = None) -> Iterator[None]:
    """Calls within are answered, or Unanswered, or refused for that reason, which is right.

    WrongAnswer if they end in any other way.
    """
    try:
        yield
    except grpc.aio.AioRpcError as error:
        failure = error_from(error)
        reason = failure.reason
        if refused_for is not None and reason == refused_for:
            return
        cut = error.code() is grpc.StatusCode.CANCELLED or (
            error.code() in CUT_OFF and any(words in failure.message for words in SAID_OF_IT)
        )
        if error.code() in NO_TIME or (cut and not reason):
            raise Unanswered(what) from error
        said = f"{what} ended with {error.code().name} {reason or failure.message}"
        raise WrongAnswer(said) from error


@dataclass(slots=True)
class Taken:
    """Latencies of the calls of one run, in milliseconds from the intended start.

    Those that were `unanswered` are among them, with the time until their caller gave up.
    """

    latencies_ms: list[float] = field(default_factory=list)
    unanswered: int = 0
    seconds: float = 0.0

    @property
    def per_s(self) -> float:
        """Calls answered a second."""
        return (len(self.latencies_ms) - self.unanswered) / self.seconds

    def at(self, per_cent: float) -> float:
        """A percentile of the latencies, in milliseconds."""
        return percentile(self.latencies_ms, per_cent)


async def at_pace(call: Call, per_s: float, seconds: float) -> Taken:
    """Make calls at that pace for so long, whether or not the ones before are answered.

    A call that raises Unanswered is counted, and the pace is kept. WrongAnswer if so many wait that
    the pace is beyond all reach, or if a call found one.
    """
    taken = Taken()
    under_way: set[asyncio.Task[None]] = set()
    failed: list[BaseException] = []
    started = time.perf_counter()

    async def one(number: int, due: float) -> None:
        try:
            await call(number)
        except Unanswered:
            taken.unanswered += 1
        taken.latencies_ms.append((time.perf_counter() - due) * 1000)

    def ended(task: asyncio.Task[None]) -> None:
        under_way.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            failed.append(error)

    for number in range(int(per_s * seconds)):
        due = started + number / per_s
        if (wait := due - time.perf_counter()) > 0:
            await asyncio.sleep(wait)
        elif number % 64 == 0:
            await asyncio.sleep(0)
        if failed:
            break
        expect(len(under_way) < BEHIND_MAX, f"{len(under_way)} calls wait at {per_s:g}/s")
        task = asyncio.create_task(one(number, due))
        under_way.add(task)
        task.add_done_callback(ended)
    if under_way:
        await asyncio.wait(under_way)
    if failed:
        raise failed[0]
    taken.seconds = time.perf_counter() - started
    return taken


async def by_callers(call: Call, callers: int, seconds: float) -> Taken:
    """So many callers, each asking again as soon as it is answered: how much there can be."""
    taken = Taken()
    started = time.perf_counter()
    numbers = iter(range(1 << 62))

    async def caller() -> None:
        while (asked := time.perf_counter()) < started + seconds:
            await call(next(numbers))
            taken.latencies_ms.append((time.perf_counter() - asked) * 1000)

    await asyncio.gather(*(caller() for _ in range(callers)))
    taken.seconds = time.perf_counter() - started
    return taken


@dataclass(slots=True)
class Patience:
    """A caller that asks again when it is told to: after the hint, until its deadline."""

    deadline_s: float = 20.0
    count: int = 0

    async def until_answered(self, call: Any, request: Any) -> Any:
        """The answer, however often it had to be asked for."""
        end = time.monotonic() + self.deadline_s
        while True:
            try:
                left_s = max(0.01, end - time.monotonic())
                return await call(request, timeout=min(left_s, CALL_MOST_S))
            except grpc.aio.AioRpcError as error:
                hint = error_from(error).retry_after_s
                if hint is None or time.monotonic() + hint >= end:
                    raise
                self.count += 1
                await asyncio.sleep(hint)


def secure_channel(target: str, identity: Path) -> grpc.aio.Channel:
    """A connection of its own, shared with no other channel to the same server."""
    held = Identity(identity)
    return grpc.aio.secure_channel(
        target,
        grpc.ssl_channel_credentials(held.ca, held.key, held.cert),
        [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", 8 << 20)],
    )


@asynccontextmanager
async def channels(target: str, identities: Iterator[Path]) -> Any:
    """A connection for each identity, made already, for the length of a with block."""
    async with AsyncExitStack() as held:
        made = [await held.enter_async_context(secure_channel(target, one)) for one in identities]
        for channel in made:  # a handshake is no part of what is measured
            await channel.channel_ready()
        yield made
