"""Witnesses are asked all at once, and what they are shown is made once for those that agree."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog
from aiohttp import web

from spine.ledger import cosigning, verifier
from spine.ledger.book import KEYS_FILE, Sealed
from spine.ledger.cosigning import Witnesses
from spine.ledger.library import Library
from spine.ledger.witness import Witness
from spine.ledger.witnessing import WitnessServer, local_witnesses
from spine.signing import verify
from tests.helpers.ledger import KEY, PLACES, open_book, published, record, sealed

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
HOSTILE = {
    "a size of 5,000 digits": (409, b"9" * 5_000),
    "a size that no number has": (409, "\u0663\u00b2".encode()),
    "a size in which there is no log yet": (409, b"9" * 19),
    "not UTF-8": (200, b"\xff\xfe"),
    "no end of it": (200, b"x" * (1 << 20)),
    "nothing": (200, b""),
}


@asynccontextmanager
async def served(app: web.Application) -> AsyncIterator[str]:
    """Where it listens."""
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@pytest.mark.parametrize("says", HOSTILE)
async def test_whatever_one_witness_says_the_others_suffice(
    tmp_path: Path, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is asked head after head, for what it said of the last one must not end the next."""
    monkeypatch.setattr(cosigning, "ANSWER_S", 60.0)
    book, (status, body) = open_book(tmp_path / "ledger"), HOSTILE[says]
    asked = Counter[str]()

    async def answer(request: web.Request) -> web.Response:
        asked[says] += 1
        return web.Response(status=status, body=body)

    hostile, honest = web.Application(), []
    hostile.router.add_post("/add-heads", answer)
    for name in ("bad", "one", "two"):
        (tmp_path / name).mkdir()
        honest.append(Witness(tmp_path / name, f"example.com/{name}", KEY))
    apps = [hostile, *(WitnessServer(each).app for each in honest[1:])]
    async with served(apps[0]) as bad, served(apps[1]) as one, served(apps[2]) as two:
        listed = dict(zip((str(each.key) for each in honest), (bad, one, two), strict=True))
        witnesses = Witnesses(lambda: listed, quorum=2)
        library = Library(book.public)
        for offset in range(3):
            made = sealed(book, [record(offset)])
            said = await witnesses.cosign(made, lambda old, new: library.growth(old, new.note))
            assert len(said.signatures) == 2 and not said.forks
            async with asyncio.timeout(30):  # the bad one may have been the last to answer
                while asked[says] <= offset:
                    await asyncio.sleep(0.01)
        alone = Witnesses(lambda: {str(honest[0].key): bad}, quorum=1)
        for _ in range(2):
            assert not (await alone.cosign(made, lambda old, new: {"old": old})).signatures
        await witnesses.close()
        await alone.close()


def test_a_witness_whose_file_is_damaged_or_gone_is_not_there(
    tmp_path: Path,
) -> None:
    (tmp_path / "w").mkdir()
    services = tmp_path / "services"
    services.mkdir()
    key = str(Witness(tmp_path / "w", "example.com/w", KEY).key)
    whole = {"host": "127.0.0.1", "port": 1, "key": key}
    (services / "witness-a.json").write_text("{")
    (services / "witness-b.json").write_text("[]")
    (services / "witness-c.json").write_text(json.dumps(whole | {"key": "none"}))
    (services / "witness-d.json").symlink_to("vanished")
    (services / "witness-e.json").write_text(json.dumps(whole))
    assert local_witnesses(tmp_path) == {key: "http://127.0.0.1:1"}


def test_a_witness_that_is_listed_no_longer_is_named_while_its_signature_counts(
    tmp_path: Path,
) -> None:
    """A proof is checked by the keys that it names: those of the head that is published."""
    book, keys = open_book(tmp_path / "ledger"), dict[str, str]()
    witnesses = list[Witness]()
    for name in ("one", "two", "three"):
        (tmp_path / name).mkdir()
        witnesses.append(Witness(tmp_path / name, f"example.com/{name}", KEY))
        keys[name] = str(witnesses[-1].key)

    def said() -> list[str]:
        named: list[str] = json.loads((book.public / KEYS_FILE).read_text())["witnesses"]
        return named

    def proven() -> bool:
        path = tmp_path / "proof.json"
        path.write_text(json.dumps(Library(book.public).prove(PLACES[0], 0)))
        return bool(verifier.verify(path).ok)

    made = sealed(book, [record(0), record(1)])
    book.write_keys(list(keys.values()), 2, verify)
    published(book, made, witnesses[:2])
    book.write_keys(list(keys.values()), 2, verify)
    assert said() == list(keys.values()) and proven()
    for _ in range(2):  # in the same process, and in one that begins anew
        book.write_keys([keys["two"], keys["three"]], 2, verify)
        assert said() == [keys["two"], keys["three"], keys["one"]] and proven()
    made = sealed(book, [record(2)])
    witnesses[2].add(Library(book.public).growth(0, made.note))
    published(book, made, witnesses[1:])
    (book.public / KEYS_FILE).write_text("[]")
    for _ in range(2):
        book.write_keys([keys["two"], keys["three"]], 2, verify)
        assert said() == [keys["two"], keys["three"]] and proven()
    (book.public / KEYS_FILE).write_text(json.dumps({"witnesses": list(keys.values())}))
    book.write_keys([keys["two"], keys["three"]], 2, verify)
    assert said() == [keys["two"], keys["three"]]


def test_who_must_cosign_is_written_when_it_changes_and_else_not_even_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A head comes every half second, and witnesses stay. What somebody took away comes back."""
    (tmp_path / "w").mkdir()
    book = open_book(tmp_path / "ledger")
    path, keys = book.public / KEYS_FILE, [str(Witness(tmp_path / "w", "example.com/w", KEY).key)]
    read = list[Path]()
    reads = Path.read_text

    def counted(self: Path, encoding: str | None = None) -> str:
        read.append(self)
        return reads(self, encoding)

    monkeypatch.setattr(Path, "read_text", counted)
    for _ in range(3):
        book.write_keys(keys, 1, verify)
    assert read.count(path) == 1
    book.write_keys(keys, 2, verify)
    book.write_keys(keys, 2, verify)
    assert read.count(path) == 2
    said = path.read_bytes()
    assert json.loads(said)["quorum"] == 2
    path.unlink()
    book.write_keys(keys, 2, verify)
    assert path.read_bytes() == said


async def test_what_a_witness_says_in_place_of_signatures_is_logged_when_it_changes(
    tmp_path: Path,
) -> None:
    (tmp_path / "w").mkdir()
    one = Witness(tmp_path / "w", "example.com/w", KEY)
    book, app, says = open_book(tmp_path / "ledger"), WitnessServer(one).app, list[str]()

    @web.middleware
    async def refusing(request: web.Request, handler: Handler) -> web.StreamResponse:
        return web.Response(status=503, text=says[-1]) if says else await handler(request)

    app.middlewares.append(refusing)
    async with served(app) as url:
        witnesses, library = Witnesses(lambda: {str(one.key): url}, quorum=1), Library(book.public)
        with structlog.testing.capture_logs() as logged:
            heads: list[str | None] = ["unfit", "unfit", "", "", None, "", "unfit"]
            for offset, said in enumerate(heads):
                says[:] = [] if said is None else [said]
                made = sealed(book, [record(offset)])
                await witnesses.cosign(made, lambda old, new: library.growth(old, new.note))
        await witnesses.close()
    told = [each["said"] for each in logged if each["event"] == "witness.refused"]
    assert told == ["unfit", "", "", "unfit"]


async def test_a_wrong_signature_is_logged_when_it_begins_and_not_at_every_head(
    tmp_path: Path,
) -> None:
    for name in ("listed", "other"):
        (tmp_path / name).mkdir()
    listed, other = (Witness(tmp_path / name, "example.com/w", KEY) for name in ("listed", "other"))
    book, signs = open_book(tmp_path / "ledger"), [listed]
    library = Library(book.public)

    async def answer(request: web.Request) -> web.Response:
        asked = await request.json()
        lines = {each: each.add(asked) for each in (listed, other)}
        return web.Response(text=lines[signs[-1]])

    app = web.Application()
    app.router.add_post("/add-heads", answer)
    async with served(app) as url:
        witnesses = Witnesses(lambda: {str(listed.key): url}, quorum=1)
        with structlog.testing.capture_logs() as logged:
            for offset, signer in enumerate([other, other, listed, other, other]):
                signs.append(signer)
                # Where it stands is not what is tried here.
                for each in witnesses._known.values():
                    each.size = listed.size
                made = sealed(book, [record(offset)])
                said = await witnesses.cosign(made, lambda old, new: library.growth(old, new.note))
                assert len(said.signatures) == (signer is listed)
        await witnesses.close()
    told = [each["event"] for each in logged if each["event"].startswith("witness.")]
    assert told == ["witness.signature_wrong"] * 2


async def test_what_witnesses_are_shown_is_made_once_for_each_place_where_they_stand(
    tmp_path: Path,
) -> None:
    book = open_book(tmp_path / "ledger")
    library, asked = Library(book.public), Counter[int]()

    def growth(size: int, head: Sealed) -> dict[str, Any]:
        asked[size] += 1
        return library.growth(size, head.note, head.heads)

    listed, runners = dict[str, str](), []
    for name in ("one", "two", "three"):
        (tmp_path / name).mkdir()
        witness = Witness(tmp_path / name, f"example.com/{name}", KEY)
        runner = web.AppRunner(WitnessServer(witness).app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        runners.append(runner)
        listed[str(witness.key)] = f"http://127.0.0.1:{runner.addresses[0][1]}"
    witnesses = Witnesses(lambda: listed, quorum=3)
    for offset in range(3):
        made = sealed(book, [record(offset)])
        said = await witnesses.cosign(made, growth)
        assert len(said.signatures) == 3 and not said.forks and not said.ahead
    assert asked == {0: 1, 1: 1, 2: 1}
    anew = Witnesses(lambda: listed, quorum=3)  # it does not know yet where they stand
    assert len((await anew.cosign(sealed(book, [record(3)]), growth)).signatures) == 3
    assert asked == {0: 2, 1: 1, 2: 1, 3: 1}
    for each in (witnesses, anew):
        await each.close()
    for runner in runners:
        await runner.cleanup()
