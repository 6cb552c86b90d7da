"""Channels of a process to others of the installation, under the certificate that it has now."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

import grpc

from spine.certificates import Pair
from spine.errors import Invalid, Pushback, Reason
from spine.identity import DEV_SERVER_NAME, Identity
from spine.listening import Limits
from spine.server import connect


def _options(connected_within_ms: int) -> tuple[tuple[str, int], ...]:
    """A process that comes back is to be found again at once. The least time between two attempts
    to connect is also what gRPC gives each of them.
    """
    return (
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", connected_within_ms),
        ("grpc.max_reconnect_backoff_ms", 500),
        # A connection of its own, whoever else goes there.
        ("grpc.use_local_subchannel_pool", 1),
    )


CHANNEL: Final = _options(100)
# For who would rather wait than be told that a server is busy.
PATIENT: Final = _options(5_000)
# As long as a call may last that was begun before a renewal.
CALLS_END_S: Final = Limits().stream_deadline_s


class Channels:
    """One to each target, or several by their numbers, opened when they are first asked for. Those
    beside the first, of number 0, are patient.

    A channel shows for ever the certificate that it was opened with, so a renewed one takes
    another channel; the former ends once its calls have.
    """

    def __init__(self, identity: Path, first: tuple[tuple[str, int], ...] = CHANNEL) -> None:
        self._identity, self._first = Identity(identity), first
        self._stamp = self._identity.stamp
        self._open: dict[tuple[str, int], grpc.aio.Channel] = {}
        self._former: set[asyncio.Task[None]] = set()

    def to(self, target: str, number: int = 0) -> grpc.aio.Channel:
        """The channel to host:port for the next call.

        Pushback(STARTING) while a file of the identity is away and no channel is open yet.
        """
        self._look()
        if (target, number) not in self._open:
            try:
                self._open[target, number] = connect(
                    target,
                    self._identity.folder,
                    PATIENT if number else self._first,
                    server_name=DEV_SERVER_NAME,
                )
            except OSError as error:
                message = f"the identity {self._identity.folder.name} cannot be read just now"
                raise Pushback(Reason.STARTING, message) from error
        return self._open[target, number]

    def _look(self) -> None:
        stamp = self._identity.stamp
        if stamp == self._stamp:
            return
        if self._open:
            try:
                Pair.read(self._identity)
            except Invalid:  # it is being put in place, or does not serve: the former still may
                return
        self._stamp = stamp
        for channel in self._open.values():
            ending = asyncio.create_task(channel.close(CALLS_END_S))
            self._former.add(ending)
            ending.add_done_callback(self._former.discard)
        self._open = {}

    async def close_to(self, target: str) -> None:
        """Disconnect from one."""
        for key in [key for key in self._open if key[0] == target]:
            await self._open.pop(key).close(None)

    async def close(self) -> None:
        """Disconnect from all. Calls of before a renewal are for those who made them to end."""
        for ending in self._former:
            ending.cancel()
        await asyncio.gather(*self._former, return_exceptions=True)
        for channel in self._open.values():
            await channel.close(None)
        self._open = {}
