"""Which processes share the work, and what each folds: for routing, never for deciding.

Processes of one kind find one another by the service files of their data folder and by the
addresses that are set, and ask one another twice a second. Who was late to answer is gone until it
answers again. All of this can only make a read slow: each server decides by its own fold.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from typing import Any, Final

import grpc
import structlog

from spine.dsi.channels import Channels
from spine.dsi.v1 import members_pb2, members_pb2_grpc
from spine.errors import NotPermitted, Pushback, Reason
from spine.follow import Place
from spine.identity import SERVER_PREFIX
from spine.listening import Limits
from spine.policy import Role
from spine.runtime import Runtime
from spine.server import current_caller
from spine.whereabouts import service_targets

ASK_EVERY_S: Final = 0.5
ANSWER_S: Final = 1.0
# Answers that a process may miss; one that refuses the connection is gone at once.
MISSED_MAX: Final = 2
STREAMS_A_CONNECTION: Final = Limits().streams_per_connection
Claims = Mapping[Place, int]
_log = structlog.get_logger()


class Peer:
    """Another process of the kind, as it was when it last answered."""

    def __init__(self, channels: Channels, target: str) -> None:
        self._channels, self._target = channels, target
        self._channel: grpc.aio.Channel | None = None
        self.stub: Any = None  # until it is first asked; nobody else calls who never answered
        self.name = ""
        self.claims: Claims = {}
        self.gone = asyncio.Event()
        self.gone.set()
        self._missed = 0
        self._streams = Counter[int]()

    @contextmanager
    def streaming(self) -> Iterator[Any]:
        """A stub for one stream, for the length of a with block.

        A connection carries so many calls at once, and those beyond wait. Streams stay: on that of
        `stub` they would hold up every other call, and the questions whether it is there.
        """
        number = next(n for n in count(1) if self._streams[n] < STREAMS_A_CONNECTION)
        self._streams[number] += 1
        try:
            yield members_pb2_grpc.MembersStub(self._channels.to(self._target, number))
        finally:
            self._streams[number] -= 1

    async def ask(self, log_id: bytes, asker: str) -> None:
        """Ask what it folds now. Of another log, or the asker itself, it is nobody."""
        try:
            channel = self._channels.to(self._target)
            if channel is not self._channel:
                self._channel, self.stub = channel, members_pb2_grpc.MembersStub(channel)
            said = await self.stub.Standing(members_pb2.StandingRequest(), timeout=ANSWER_S)
        except grpc.aio.AioRpcError as error:
            self._miss(error.code() is grpc.StatusCode.UNAVAILABLE)
            return
        except Pushback as unfit:  # our own certificate is being put in place
            if not self._missed:
                _log.warning("member.unasked", target=self._target, reason=unfit.message)
            self._miss()
            return
        if said.log_id != log_id or said.member == asker:
            self.lost()
            return
        self._missed = 0
        self.name = said.member
        self.claims = {(c.topic, c.partition): c.since_ms for c in said.claims}
        if self.gone.is_set():
            _log.info("member.here", member=self.name)
            self.gone = asyncio.Event()

    def _miss(self, refused: bool = False) -> None:
        self._missed += 1
        if refused or self._missed >= MISSED_MAX:
            self.lost()

    def lost(self) -> None:
        """It does not answer: whoever waits for it need not."""
        if not self.gone.is_set():
            _log.warning("member.gone", member=self.name)
        self.claims = {}
        self.gone.set()

    async def close(self) -> None:
        """Disconnect."""
        await self._channels.close_to(self._target)


class Members:
    """The other processes of one kind, kept up to date from `start` to `close`.

    `name` is this process, which asks under its own certificate; `addresses` are host:port of
    members elsewhere. `on_change` is called after each round.
    """

    def __init__(
        self, runtime: Runtime, kind: str, name: str, addresses: Sequence[str] = ()
    ) -> None:
        self._runtime, self._kind, self._name = runtime, kind, name
        self._addresses = tuple(addresses)
        identities = runtime.settings.data_dir / "identities"
        self._channels = Channels(identities / f"{SERVER_PREFIX}{name}")
        self._peers: dict[str, Peer] = {}
        self._asking: asyncio.Task[None] | None = None
        self.on_change: Callable[[], None] = lambda: None

    @property
    def peers(self) -> list[Peer]:
        """Those that answer."""
        return [peer for peer in self._peers.values() if not peer.gone.is_set()]

    def latest(self, place: Place) -> int:
        """Since when another process folds a place; 0 if none says so."""
        return max((peer.claims.get(place, 0) for peer in self.peers), default=0)

    async def start(self) -> None:
        """Ask everybody once, and then again and again."""
        await self._ask()
        self._asking = asyncio.create_task(self._ask_for_ever())

    async def close(self) -> None:
        """Stop asking, and disconnect."""
        if self._asking is not None:
            self._asking.cancel()
            with suppress(asyncio.CancelledError):
                await self._asking
        for peer in self._peers.values():
            peer.lost()
        await self._channels.close()

    async def _ask_for_ever(self) -> None:
        while True:
            await asyncio.sleep(ASK_EVERY_S)
            try:
                await self._ask()
            except Exception as error:  # who stops asking knows of nobody new for ever
                _log.error("members.unasked", reason=str(error))

    async def _ask(self) -> None:
        found = service_targets(self._runtime.settings.data_dir, self._kind)
        found.pop(self._name, None)
        targets = {*found.values(), *self._addresses}
        for target in targets - self._peers.keys():
            self._peers[target] = Peer(self._channels, target)
        for target in self._peers.keys() - targets:
            peer = self._peers.pop(target)
            peer.lost()
            await peer.close()
        log_id = self._runtime.identity.log_id
        await asyncio.gather(*(peer.ask(log_id, self._name) for peer in self._peers.values()))
        self.on_change()


class MembersService(members_pb2_grpc.MembersServicer):
    """Answers what this process folds. What it does not serve is left to who does."""

    def __init__(self, name: str, log_id: bytes, claims: Callable[[], Claims]) -> None:
        self.name, self.log_id, self._claims = name, log_id, claims

    async def Standing(self, request: Any, context: Any) -> Any:
        """The claims of this process."""
        only_servers()
        return members_pb2.StandingResponse(
            member=self.name,
            log_id=self.log_id,
            claims=[
                members_pb2.Claim(topic=topic, partition=partition, since_ms=since)
                for (topic, partition), since in self._claims().items()
            ],
        )


def only_servers() -> None:
    """NotPermitted(ROLE_NOT_ALLOWED) unless a DSI server calls."""
    if current_caller().role is not Role.DSI:
        raise NotPermitted(Reason.ROLE_NOT_ALLOWED, "only DSI servers call here")
