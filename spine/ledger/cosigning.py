"""Asks witnesses to cosign a head, all at once, and is content with as many as are needed."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import aiohttp
import structlog

from spine.ledger.book import Sealed
from spine.ledger.note import MalformedNote, Signature, VerifierKey, parse_signature
from spine.ledger.witnessing import ADD_HEADS
from spine.signing import verify

ANSWER_S: Final = 2.0
ANSWER_BYTES_MAX: Final = 4096
# Of what a witness says that is no signature, for the log.
SAID_MAX: Final = 200
SILENT: Final = "no answer"
WRONG: Final = "a signature that is not of this head by its key"
SIZE: Final = re.compile("[0-9]{1,19}")
AS_JSON: Final = {"Content-Type": "application/json"}
_log = structlog.get_logger()

# The request that takes a witness from so many epochs to a sealed head. Blocking.
Growth = Callable[[int, Sealed], dict[str, Any]]


@dataclass(slots=True)
class Remote:
    """One witness: its key, where it listens, and the epochs it has cosigned as far as we know.

    `refused` is what it said the last time in place of a signature; None if it cosigned.
    """

    key: VerifierKey
    url: str
    size: int = 0
    refused: str | None = None


@dataclass(slots=True)
class Cosigned:
    """What the witnesses said of one head."""

    signatures: list[Signature] = field(default_factory=list)
    ahead: list[str] = field(default_factory=list)
    forks: list[str] = field(default_factory=list)


class _Shown:
    """What takes witnesses to one head: made once for all that stand at the same one before."""

    def __init__(self, sealed: Sealed, growth: Growth) -> None:
        self._sealed, self._growth = sealed, growth
        self._made: dict[int, asyncio.Task[bytes]] = {}

    async def since(self, size: int) -> bytes:
        """The body of the request to a witness that stands at so many epochs."""
        if size not in self._made:
            self._made[size] = asyncio.create_task(self._make(size))
        return await asyncio.shield(self._made[size])

    async def _make(self, size: int) -> bytes:
        if self._sealed.growth_since(size) is not None:  # at hand, and sooner made than handed over
            return self._body(size)
        return await asyncio.to_thread(self._body, size)

    def _body(self, size: int) -> bytes:
        return json.dumps(self._growth(size, self._sealed)).encode()


class Witnesses:
    """The witnesses of a ledger. `listed` gives their addresses by key, anew for every head."""

    def __init__(self, listed: Callable[[], Mapping[str, str]], quorum: int) -> None:
        self._listed, self.quorum = listed, quorum
        self._known: dict[str, Remote] = {}
        self._asked: list[Remote] = []
        self._session: aiohttp.ClientSession | None = None
        self._late: set[asyncio.Task[None]] = set()

    @property
    def keys(self) -> list[str]:
        """The keys of those that were listed when a head was last to be cosigned."""
        return [str(remote.key) for remote in self._asked]

    async def cosign(self, sealed: Sealed, growth: Growth) -> Cosigned:
        """Ask everyone; returns once enough have cosigned, all have answered, or time is up."""
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=ANSWER_S)
            self._session = aiohttp.ClientSession(timeout=timeout)
        said, shown = Cosigned(), _Shown(sealed, growth)
        self._asked = self._remotes()
        waiting = {
            asyncio.create_task(self._ask(remote, sealed, shown, said)) for remote in self._asked
        }
        while waiting and len(said.signatures) < self.quorum:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        self._late |= waiting
        for task in waiting:
            task.add_done_callback(self._late.discard)
        return said

    async def close(self) -> None:
        """Let go of those still asked."""
        for task in list(self._late):
            task.cancel()
        if self._session is not None:
            await self._session.close()

    def _remotes(self) -> list[Remote]:
        listed = self._listed()
        for key, url in listed.items():
            known = self._known.get(key)
            if known is None:
                self._known[key] = Remote(VerifierKey.parse(key), url)
            else:
                known.url = url
        return [self._known[key] for key in listed]

    async def _ask(self, remote: Remote, sealed: Sealed, shown: _Shown, said: Cosigned) -> None:
        """One witness; told that it stands elsewhere, we begin there, once."""
        name = remote.key.name
        try:
            for _ in range(2):
                status, answer = await self._post(remote.url, await shown.since(remote.size))
                if status == 409 and (stands_at := SIZE.fullmatch(answer.strip())):
                    size = int(stands_at[0])
                    if size > sealed.head.size:  # not kept: nothing can be shown from there
                        said.ahead.append(name)
                        return
                    remote.size = size
                    continue
                self._hear(remote, sealed, status, answer, said)
                return
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            if remote.refused != SILENT:
                _log.warning("witness.silent", witness=name, reason=type(error).__name__)
            remote.refused = SILENT

    def _hear(
        self, remote: Remote, sealed: Sealed, status: int, answer: str, said: Cosigned
    ) -> None:
        name = remote.key.name
        if status == 422:
            said.forks.append(f"{name}: {answer.strip()}")
            return
        try:
            signature = parse_signature(answer)
        except MalformedNote:
            said_so = answer.strip()[:SAID_MAX]
            if remote.refused != said_so:
                _log.warning("witness.refused", witness=name, status=status, said=said_so)
            remote.refused = said_so
            return
        if sealed.note.with_signatures([signature]).signed_by(remote.key, verify) is None:
            if remote.refused != WRONG:
                _log.warning("witness.signature_wrong", witness=name)
            remote.refused = WRONG
            return
        remote.size, remote.refused = sealed.head.size, None
        said.signatures.append(signature)

    async def _post(self, url: str, body: bytes) -> tuple[int, str]:
        assert self._session is not None
        async with self._session.post(url + ADD_HEADS, data=body, headers=AS_JSON) as answer:
            said = bytearray()
            async for part in answer.content.iter_chunked(ANSWER_BYTES_MAX):
                said += part
                if len(said) > ANSWER_BYTES_MAX:  # no witness says so much
                    break
            return answer.status, said[:ANSWER_BYTES_MAX].decode("utf-8", "replace")
