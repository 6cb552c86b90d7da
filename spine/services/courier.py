"""Posts over https to addresses that others chose, and to no network that they must not reach.

An address is looked up for every message, and what is connected to is checked itself: a name that
leads elsewhere a moment later changes nothing. Nothing is followed, no cookie is kept, no proxy of
the environment is used, and of an answer nothing but its status is read: with what comes before it
at most 16 KiB.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Final

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.client_proto import ResponseHandler

from spine.services.pushing import Outcome
from spine.webhook import Network, may_reach

ANSWER_S: Final = 10.0
CONNECT_S: Final = 5.0
# Lookups that hang must hold up neither one another nor what else the process does in threads.
LOOKUPS_MAX: Final = 64
GONE: Final = 410
# "Not now": too many requests. So is every answer of a server that is broken: it says nothing of
# this message, and would say the same of all the others.
NOT_NOW: Final = 429
BROKEN: Final = 500
# A final status line with its headers, and the interim answers (1xx) before it.
BEFORE_ANSWER_BYTES_MAX: Final = 16_384
USER_AGENT: Final = "energyos-spine"


class ForbiddenAddress(OSError):
    """The name leads into a network that no webhook may reach."""


class Lookups(AbstractResolver):
    """Looks names up in threads of its own."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(LOOKUPS_MAX, thread_name_prefix="webhook-names")

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Every address of the name."""
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(
            self._threads, socket.getaddrinfo, host, port, family, socket.SOCK_STREAM
        )
        return [
            ResolveResult(
                hostname=host,
                host=str(address[0]),
                port=port,
                family=kind,
                proto=protocol,
                flags=socket.AI_NUMERICHOST,
            )
            for kind, _, protocol, _, address in found
        ]

    async def close(self) -> None:
        """Wait for no lookup that is under way."""
        self._threads.shutdown(wait=False, cancel_futures=True)


class Brief(ResponseHandler):
    """A connection whose answer has to have come within `BEFORE_ANSWER_BYTES_MAX`.

    Any number of interim answers may precede an answer, and aiohttp reads all of them: one receiver
    that sends nothing else would keep the whole process busy until its time is up.
    """

    _before, _answered = 0, False

    def feed_data(self, data: Any, size: int = 0) -> None:
        """Take in one answer, interim or final."""
        self._answered = self._answered or data[0].code >= 200
        super().feed_data(data, size)

    def data_received(self, data: bytes) -> None:
        """Take in no more than may still come; break off if that was no answer."""
        if not self._answered:
            left = BEFORE_ANSWER_BYTES_MAX - self._before
            first, data = data[:left], data[left:]
            self._before += len(first)
            super().data_received(first)
            if not self._answered:
                if self._before >= BEFORE_ANSWER_BYTES_MAX:
                    self.abort()
                return
        if data:
            super().data_received(data)


class Courier:
    """Posts messages. `also` are networks that may be reached although they are not public."""

    def __init__(
        self,
        trusted: ssl.SSLContext,
        also: Sequence[Network] = (),
        names: AbstractResolver | None = None,
        answer_s: float = ANSWER_S,
    ) -> None:
        self._also = also
        self._names = names or Lookups()
        connector = aiohttp.TCPConnector(
            ssl=trusted,
            resolver=self._names,
            use_dns_cache=False,
            force_close=True,
            limit=0,
            socket_factory=self._socket,
        )
        # aiohttp has no option for what a connection is read by, nor one for a limit of this kind.
        read_by: Any = partial(Brief, loop=asyncio.get_running_loop())
        connector._factory = read_by
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": USER_AGENT, "Content-Type": "application/json"},
            timeout=aiohttp.ClientTimeout(total=answer_s, sock_connect=min(CONNECT_S, answer_s)),
        )

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Outcome:
        """Send it once; what became of it."""
        try:
            answer = await self._session.post(
                url, data=body, headers=headers, allow_redirects=False
            )
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            forbidden = isinstance(error.__cause__, ForbiddenAddress)
            return Outcome.FORBIDDEN if forbidden else Outcome.SILENT
        answer.close()
        if 200 <= answer.status < 300:
            return Outcome.TAKEN
        if answer.status == NOT_NOW or answer.status >= BROKEN:
            return Outcome.SILENT
        return Outcome.GONE if answer.status == GONE else Outcome.REFUSED

    async def close(self) -> None:
        """Close what is open."""
        await self._session.close()
        await self._names.close()

    def _socket(self, info: Any) -> socket.socket:
        """A socket for an address that is about to be connected to, if it may be."""
        family, kind, protocol, _, address = info
        if not may_reach(str(address[0]), self._also):
            raise ForbiddenAddress("the address is in a network that no webhook may reach")
        return socket.socket(family, kind, protocol)


def trusted_authorities(besides: Path | None) -> ssl.SSLContext:
    """Who may vouch for a receiver: the authorities of the system, and those of the PEM file."""
    trusted = ssl.create_default_context()
    if besides is not None:
        trusted.load_verify_locations(besides)
    return trusted
