"""Posts to real receivers over TLS: what they answer, and where nothing may go."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.client_proto import ResponseHandler

from spine.config import Settings
from spine.console import processes
from spine.identity import Authority
from spine.policy import Role
from spine.services.courier import (
    BEFORE_ANSWER_BYTES_MAX,
    Brief,
    Courier,
    trusted_authorities,
)
from spine.services.pushing import Outcome, Pusher
from spine.webhook import LOOPBACK, may_reach, networks

BODY = b'{"type":"consent.changed"}'
HEADERS = {"webhook-id": "f0" * 16}
ENDLESS = 1 << 30
PUBLIC = "8.8.8.8"
HERE = networks(LOOPBACK)


class Receiver:
    """A server of a receiver, over TLS, that answers each path in its own way."""

    def __init__(self, authority: Authority, alias: str = "receiver") -> None:
        identity = authority.issue_server(Role.DATA_USER, "adviser", alias=alias)
        self.tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.tls.load_cert_chain(identity.folder / "cert.pem", identity.folder / "key.pem")
        self.got: list[tuple[str, bytes, dict[str, str]]] = []
        self.stop = asyncio.Event()
        self.port = 0

    async def answer(self, request: web.Request) -> web.StreamResponse:
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.got.append((request.path, await request.read(), headers))
        match request.path:
            case "/hangs":
                await self.stop.wait()
                return web.Response()
            case "/moved":
                return web.Response(status=307, headers={"Location": self.url("/taken")})
            case "/cookie":
                return web.Response(headers={"Set-Cookie": "follow=you"})
            case "/endless":
                stream = web.StreamResponse(status=200)
                stream.content_length = ENDLESS
                await stream.prepare(request)
                return stream
            case path:
                return web.Response(status=int(path.removeprefix("/")))

    @asynccontextmanager
    async def up(self, port: int = 0) -> AsyncIterator[Receiver]:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self.answer)
        runner = web.AppRunner(app, shutdown_timeout=0)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port, ssl_context=self.tls).start()
        self.port = runner.addresses[0][1]
        try:
            yield self
        finally:
            self.stop.set()
            await runner.cleanup()

    def url(self, path: str, host: str = "localhost") -> str:
        return f"https://{host}:{self.port}{path}"


Post = Callable[..., Awaitable[Outcome]]


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.open_or_create(tmp_path)


@pytest.fixture
def ours(authority: Authority, tmp_path: Path) -> Path:
    """The certificate of the authority that vouches for the receiver."""
    return tmp_path / "ca" / "cert.pem"


@pytest.fixture
async def receiver(authority: Authority) -> AsyncIterator[Receiver]:
    async with Receiver(authority).up() as up:
        yield up


@pytest.fixture
async def courier(ours: Path) -> AsyncIterator[Courier]:
    made = Courier(trusted_authorities(ours), HERE)
    yield made
    await made.close()


@pytest.mark.parametrize(
    ("path", "outcome"),
    [
        ("/200", Outcome.TAKEN),
        ("/204", Outcome.TAKEN),
        ("/endless", Outcome.TAKEN),
        ("/moved", Outcome.REFUSED),
        ("/304", Outcome.REFUSED),
        ("/400", Outcome.REFUSED),
        ("/404", Outcome.REFUSED),
        ("/500", Outcome.SILENT),
        ("/501", Outcome.SILENT),
        ("/599", Outcome.SILENT),
        ("/410", Outcome.GONE),
        ("/429", Outcome.SILENT),
        ("/503", Outcome.SILENT),
    ],
)
async def test_what_is_answered(
    courier: Courier, receiver: Receiver, path: str, outcome: Outcome
) -> None:
    assert await courier.post(receiver.url(path), HEADERS, BODY) is outcome
    ((asked, body, headers),) = receiver.got  # a redirect is not followed
    assert (asked, body) == (path, BODY)
    assert headers["webhook-id"] == HEADERS["webhook-id"]
    assert headers["content-type"] == "application/json"


async def test_who_hangs_is_waited_for_so_long_and_no_longer(
    ours: Path, receiver: Receiver
) -> None:
    impatient = Courier(trusted_authorities(ours), HERE, answer_s=0.05)
    assert await impatient.post(receiver.url("/hangs"), HEADERS, BODY) is Outcome.SILENT
    await impatient.close()


@asynccontextmanager
async def floods(tls: ssl.SSLContext) -> AsyncIterator[str]:
    """The address of a server that sends 2 MB of interim answers and nothing else."""

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        with suppress(OSError):
            for _ in range(32):
                writer.write(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 2_520)
                await writer.drain()
            await reader.read()
        writer.close()

    server = await asyncio.start_server(flood, "127.0.0.1", 0, ssl=tls)
    try:
        yield f"https://localhost:{server.sockets[0].getsockname()[1]}/"
    finally:
        server.close()


async def interim_answers_read(trusted: Path, url: str, brief: bool) -> tuple[int, Outcome]:
    """How many answers are taken in from there before the sending ends, and how it does."""
    read: list[int] = []

    def counting(handler: type[ResponseHandler]) -> type[ResponseHandler]:
        class Counting(handler):  # type: ignore[valid-type, misc]
            def feed_data(self, data: Any, size: int = 0) -> None:
                read.append(data[0].code)
                super().feed_data(data, size)

        return Counting

    # The naive way ends by its time alone.
    made_for_it = Courier(trusted_authorities(trusted), HERE, answer_s=3_600 if brief else 2.0)
    connector: Any = made_for_it._session.connector
    made = connector._factory
    assert made.func is Brief, "aiohttp makes its connections by this"
    handler = counting(Brief if brief else ResponseHandler)
    connector._factory = partial(handler, **made.keywords)
    outcome = await made_for_it.post(url, HEADERS, BODY)
    await made_for_it.close()
    return len(read), outcome


async def test_of_answers_without_end_before_the_answer_little_is_read(
    ours: Path, receiver: Receiver
) -> None:
    """Taking them in keeps the loop busy, and nobody else is served meanwhile."""
    async with floods(receiver.tls) as url:
        count, outcome = await interim_answers_read(ours, url, brief=True)
        assert outcome is Outcome.SILENT
        assert 0 < count <= BEFORE_ANSWER_BYTES_MAX // len("HTTP/1.1 103 Early Hints\r\n\r\n")
        naive, outcome = await interim_answers_read(ours, url, brief=False)
        assert outcome is Outcome.SILENT
        assert naive > 10 * count, "the naive way reads as many as are sent"


async def test_interim_answers_and_a_long_body_are_no_reason_to_break_off(
    courier: Courier, receiver: Receiver
) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        long = b"a" * 100_000
        head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(long)
        writer.write(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 9 + head + long)
        with suppress(OSError):
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=receiver.tls)
    url = f"https://localhost:{server.sockets[0].getsockname()[1]}/"
    assert await courier.post(url, HEADERS, BODY) is Outcome.TAKEN
    server.close()


async def test_no_cookie_is_kept(courier: Courier, receiver: Receiver) -> None:
    for _ in range(2):
        await courier.post(receiver.url("/cookie"), HEADERS, BODY)
    assert all("cookie" not in headers for _, _, headers in receiver.got)


async def test_who_is_not_there_or_has_another_name_or_authority_gets_nothing(
    courier: Courier, receiver: Receiver
) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        address = f"https://localhost:{nobody.getsockname()[1]}/200"
        assert await courier.post(address, HEADERS, BODY) is Outcome.SILENT
    other_name = receiver.url("/200", "127.0.0.2")
    assert await courier.post(other_name, HEADERS, BODY) is Outcome.SILENT
    stranger = Courier(trusted_authorities(None), HERE)
    assert await stranger.post(receiver.url("/200"), HEADERS, BODY) is Outcome.SILENT
    await stranger.close()
    assert receiver.got == []


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]", "[::ffff:127.0.0.1]"])
async def test_a_network_that_is_not_public_is_not_reached(
    ours: Path, receiver: Receiver, host: str
) -> None:
    closed = Courier(trusted_authorities(ours))
    assert await closed.post(receiver.url("/200", host), HEADERS, BODY) is Outcome.FORBIDDEN
    await closed.close()
    assert receiver.got == []


@pytest.mark.parametrize("host", ["2130706433", "0x7f000001", "127.1", "0177.0.0.1"])
async def test_an_odd_spelling_of_loopback_is_no_way_around(
    ours: Path, receiver: Receiver, host: str
) -> None:
    closed = Courier(trusted_authorities(ours))
    assert await closed.post(receiver.url("/200", host), HEADERS, BODY) is not Outcome.TAKEN
    await closed.close()
    assert receiver.got == []


async def one_queue(courier: Courier, urls: list[str]) -> None:
    """The naive way: everybody in turn."""
    for url in urls:
        await courier.post(url, HEADERS, BODY)


@dataclass(frozen=True)
class Item:
    """What is told."""

    id: str


async def test_who_hangs_delays_nobody_and_in_one_queue_everybody(
    ours: Path, authority: Authority, receiver: Receiver
) -> None:
    """Real receivers: one never answers, the other does."""
    patient = Courier(trusted_authorities(ours), HERE, answer_s=3_600)
    hangs = receiver.url("/hangs")
    async with Receiver(authority, "prompt").up() as prompt:
        queue = asyncio.ensure_future(one_queue(patient, [hangs, prompt.url("/200")]))
        while not receiver.got:
            await asyncio.sleep(0.01)
        assert prompt.got == [], "it waits for the one that hangs, and would for an hour"
        queue.cancel()
        told = {
            url: {f"m-{n}": [Item(f"{n}")] for n in range(30)}
            for url in (hangs, prompt.url("/200"))
        }

        async def deliver(url: str, mpxn: str, item: Item) -> Outcome:
            outcome = await patient.post(url, HEADERS | {"webhook-id": item.id}, BODY)
            if outcome is Outcome.TAKEN:
                del told[url][mpxn]
            return outcome

        pusher: Pusher[str, Item] = Pusher(
            lambda: told,
            lambda url: told[url],
            deliver,
            lambda: datetime.now(UTC),
            lambda: 0.0,
        )
        running = asyncio.ensure_future(pusher.run())
        while told[prompt.url("/200")]:
            await asyncio.sleep(0.01)
        assert {headers["webhook-id"] for _, _, headers in prompt.got} == {
            str(n) for n in range(30)
        }
        assert len(told[hangs]) == 30
        running.cancel()
        await pusher.close()
    await patient.close()


class Turning(AbstractResolver):
    """Names that lead to a public address when asked first, and to loopback from then on."""

    def __init__(self, *addresses: str) -> None:
        self.left = list(addresses)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        address = self.left.pop(0) if len(self.left) > 1 else self.left[0]
        made = ResolveResult(
            hostname=host, host=address, port=port, family=socket.AF_INET, proto=0, flags=0
        )
        return [made]

    async def close(self) -> None:
        """Nothing is open."""


async def look_then_go(names: AbstractResolver, trusted: ssl.SSLContext, url: str) -> bool:
    """The naive guard: the name is looked up and checked, and then looked up again to go there."""
    found = await names.resolve("localhost")
    if not all(may_reach(one["host"]) for one in found):
        return False
    connector = aiohttp.TCPConnector(ssl=trusted, resolver=names)
    async with aiohttp.ClientSession(connector=connector) as session, session.post(url) as answer:
        return answer.status == 200


async def test_a_name_that_leads_elsewhere_after_the_check_is_not_followed(
    ours: Path, receiver: Receiver
) -> None:
    trusted = trusted_authorities(ours)
    leaked = await look_then_go(Turning(PUBLIC, "127.0.0.1"), trusted, receiver.url("/200"))
    assert leaked and len(receiver.got) == 1, "the naive guard leaks"
    names = Turning("127.0.0.1")
    guarded = Courier(trusted, names=names)
    assert await guarded.post(receiver.url("/200"), HEADERS, BODY) is Outcome.FORBIDDEN
    await guarded.close()
    assert len(receiver.got) == 1


async def test_a_name_is_looked_up_for_every_message(ours: Path, receiver: Receiver) -> None:
    """So a name that led to a receiver and leads into the machine later is found then."""
    outside, inside = "127.0.0.1", "127.0.0.2"
    names = Turning(outside, inside)
    guarded = Courier(trusted_authorities(ours), networks(f"{outside}/32"), names)
    assert await guarded.post(receiver.url("/200"), HEADERS, BODY) is Outcome.TAKEN
    assert await guarded.post(receiver.url("/200"), HEADERS, BODY) is Outcome.FORBIDDEN
    await guarded.close()


def test_only_what_runs_on_one_machine_is_let_in_there_and_not_against_a_setting(
    ours: Path, tmp_path: Path
) -> None:
    alone = Settings(data_dir=tmp_path)
    assert alone.webhook_networks is None and alone.webhook_ca is None, "closed by default"
    made = processes.receivers_here(alone)
    assert networks(made["SPINE_WEBHOOK_NETWORKS"]) == HERE
    assert set(made) == {"SPINE_WEBHOOK_NETWORKS", "SPINE_WEBHOOK_CA"}
    chosen = Settings(data_dir=tmp_path, webhook_networks="10.0.0.0/8", webhook_ca=ours)
    assert processes.receivers_here(chosen) == {}


@pytest.mark.parametrize("text", ["everywhere", "10.0.0.1/8", "10.0.0.0/8;::/0"])
def test_what_is_no_network_is_told_at_the_start(text: str) -> None:
    with pytest.raises(ValueError, match="webhook_networks names networks"):
        Settings(webhook_networks=text)
