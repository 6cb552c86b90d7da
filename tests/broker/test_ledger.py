"""The ledger's process over a real broker: it publishes what witnesses cosigned, and never less."""

from __future__ import annotations

import asyncio
import json
import shutil
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from kafka import KafkaAdminClient

from spine import trust
from spine.config import Settings
from spine.embedded import EmbeddedKafka
from spine.follower import PointReader
from spine.installation import DOMAINS
from spine.ledger import continued, verifier
from spine.ledger.book import PUBLIC, Book
from spine.ledger.library import Library, stored_json
from spine.ledger.note import Checkpoint, Note
from spine.ledger.process import LEDGER, ledger_key, prepare_topic
from spine.ledger.witness import Witness
from spine.ledger.witnessing import WitnessServer
from spine.log import Kafka, LogReader
from spine.runtime import Runtime
from spine.services.ledger import LedgerProcess, start_ledger
from spine.whereabouts import service_target

WAIT_S = 20.0
CONSUMERS = (trust.CONSUMER_LOG, 0)


@dataclass
class Watching:
    """Witnesses of a test's own, each of which can fall silent."""

    servers: dict[str, web.AppRunner] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    urls: dict[str, str] = field(default_factory=dict)

    async def begin(self, name: str, witness: Witness) -> None:
        runner = web.AppRunner(WitnessServer(witness).app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.servers[name], self.keys[name] = runner, str(witness.key)
        self.urls[name] = f"http://127.0.0.1:{runner.addresses[0][1]}"

    async def end(self, name: str) -> None:
        await self.servers.pop(name).cleanup()

    def listed(self) -> str:
        return ",".join(f"{self.keys[name]}@{self.urls[name]}" for name in self.keys)


@pytest.fixture
async def watching(own_log: tuple[Settings, Kafka], tmp_path: Path) -> AsyncIterator[Watching]:
    """Three witnesses of the log."""
    runtime = Runtime.of(*own_log, DOMAINS)
    key = ledger_key(own_log[0].data_dir, runtime.identity.log_id)
    watching = Watching()
    for name in ("first", "second", "third"):
        (tmp_path / name).mkdir()
        await watching.begin(name, Witness(tmp_path / name, f"example.com/{name}", key))
    yield watching
    for name in list(watching.servers):
        await watching.end(name)


@asynccontextmanager
async def kept(own_log: tuple[Settings, Kafka], watching: Watching) -> AsyncIterator[LedgerProcess]:
    """The ledger's process, running."""
    chosen = own_log[0].model_copy(
        update={"ledger_witnesses": watching.listed(), "ledger_epoch_s": 0.05}
    )
    process = await start_ledger(Runtime.of(chosen, own_log[1], DOMAINS))
    try:
        yield process
    finally:
        await process.stop()


def library(settings: Settings) -> Library:
    return Library(settings.data_dir / LEDGER / PUBLIC)


def published(settings: Settings) -> int:
    path = settings.data_dir / LEDGER / PUBLIC / "checkpoint"
    return Checkpoint.parse(Note.parse(path.read_text()).text).size if path.exists() else 0


async def until(what: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not what():
            await asyncio.sleep(0.02)


async def append(process: LedgerProcess, says: bytes) -> int:
    """Something that anybody might write; the ledger does not judge it."""
    appended = await process.appender.append(*CONSUMERS, None, (("t", b"?"),), says)
    return appended.offset


def covered(settings: Settings, offset: int) -> bool:
    size = published(settings)
    return bool(size) and library(settings).sizes(size)[CONSUMERS] > offset


async def test_what_is_appended_is_proved_and_the_heads_go_on(
    own_log: tuple[Settings, Kafka], watching: Watching
) -> None:
    settings, kafka = own_log
    async with kept(own_log, watching) as process:
        await until(lambda: covered(settings, 0))
        first = library(settings).note()
        offset = await append(process, b"something")
        await until(lambda: covered(settings, offset))
        assert process.serves()
        proof = library(settings).prove(CONSUMERS, offset)
        reader = LogReader(kafka)
        record = next(reader.read(*CONSUMERS, offset))
        await until(lambda: reader.bounds(trust.CHECKPOINTS_TOPIC, 0)[1] >= 2)
        reader.close()
        proof["stored"] = stored_json(record, with_value=True)
        keys = verifier.Keys.of(proof["keys"])
        assert keys.quorum == 2 and len(keys.witnesses) == 3
        assert verifier.check_proof(proof, keys)[-1].endswith(" is shown as a whole")
        growth = library(settings).consistency(first, library(settings).note())
        continued.check_growth(growth, keys)
        await over_http(process, proof["checkpoint"])


async def over_http(process: LedgerProcess, checkpoint: str) -> None:
    """The same files by HTTP, with the types that C2SP tlog-tiles asks for."""
    target = service_target(process.runtime.settings.data_dir, "ledger-http")
    async with aiohttp.ClientSession(f"http://{target}") as session:
        async with session.get("/checkpoint") as answer:
            assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
            assert await answer.text() == checkpoint
        for path, size in (
            ("/tile/0/000.p/1", 32),
            ("/partitions/quarantine.v1/0/tile/0/000.p/2", 64),
        ):
            async with session.get(path) as answer:
                assert answer.headers["Content-Type"] == "application/octet-stream"
                assert len(await answer.read()) == size
        for path in (
            "/tile/0/000",
            "/tile/0/..%2f..%2fstate.json",
            "/state.json",
            "/partitions/x/0/tile/0/000",
        ):
            async with session.get(path) as answer:
                assert answer.status == 404, path


async def test_silent_witnesses_hold_the_head_back_until_they_are_heard(
    own_log: tuple[Settings, Kafka],
    watching: Watching,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("spine.ledger.process.HELD_BACK_AFTER_S", 0.2)
    settings = own_log[0]
    async with kept(own_log, watching) as process:
        await until(lambda: covered(settings, 0))
        await watching.end("first")
        offset = await append(process, b"with two of three")
        await until(lambda: covered(settings, offset))
        await watching.end("second")
        held = await append(process, b"with one of three")
        await until(lambda: process.keeper.held_back)
        assert not covered(settings, held)
        assert process.serves(), "the log goes on, and so do reads"
        state = Witness(tmp_path / "second", "example.com/second", process.keeper.key)
        await watching.begin("second", state)
        process.keeper._witnesses._listed = lambda: dict(
            zip(watching.keys.values(), watching.urls.values(), strict=True)
        )
        await until(lambda: covered(settings, held))
        await until(lambda: not process.keeper.held_back)


async def test_a_look_at_the_log_holds_up_no_head_and_a_log_that_differs_ends_them(
    own_log: tuple[Settings, Kafka], watching: Watching, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, looked, go_on = own_log[0], list[int](), threading.Event()

    def slow(book: Book, reader: PointReader) -> None:
        looked.append(len(book.last_leaves()))
        if len(looked) > 1:
            assert go_on.wait(WAIT_S)
            looked.append(0)
            book.check_log(book.last_leaves(), lambda leaf: None)

    monkeypatch.setattr("spine.ledger.process.CHECK_LOG_EVERY_S", 0.05)
    monkeypatch.setattr("spine.ledger.process.check_log", slow)
    async with kept(own_log, watching) as process:
        await until(lambda: len(looked) == 2)
        offset = await append(process, b"while it looks")
        await until(lambda: covered(settings, offset))
        assert looked[2:] == [], "it still looks"
        go_on.set()
        await until(lambda: not process.serves())
        assert "no longer holds the record at" in process.keeper.refusal
        assert process.keeper.book is not None
        tasks = process.keeper._tasks
        await until(lambda: all(task.done() for task in tasks))  # what was under way ended
        last, sealed = published(settings), process.keeper.book.size
        await append(process, b"never signed")
        await asyncio.sleep(0.5)
        assert (published(settings), process.keeper.book.size) == (last, sealed)


async def test_started_again_it_goes_on_and_a_folder_rolled_back_signs_nothing(
    own_log: tuple[Settings, Kafka], watching: Watching, tmp_path: Path
) -> None:
    settings = own_log[0]
    async with kept(own_log, watching):
        await until(lambda: covered(settings, 0))
    first, backup = published(settings), tmp_path / "backup"
    shutil.copytree(settings.data_dir / LEDGER, backup)
    async with kept(own_log, watching) as process:
        offset = await append(process, b"later")
        await until(lambda: covered(settings, offset))
    assert published(settings) > first
    shutil.rmtree(settings.data_dir / LEDGER)
    shutil.copytree(backup, settings.data_dir / LEDGER)
    async with kept(own_log, watching) as process:
        assert "was published, this folder ends at" in process.keeper.refusal
        assert not process.serves()
        await append(process, b"never signed")
        await asyncio.sleep(0.5)
        assert published(settings) == first
    assert list((settings.data_dir / LEDGER / "evidence").iterdir())


async def test_trees_that_are_gone_are_made_again_unless_the_log_ends_before_what_was_signed(
    own_log: tuple[Settings, Kafka], watching: Watching
) -> None:
    settings = own_log[0]
    async with kept(own_log, watching) as process:
        offset = await append(process, b"before")
        await until(lambda: covered(settings, offset))
    trees, state = settings.data_dir / LEDGER / PUBLIC / "partitions", settings.data_dir / LEDGER
    shutil.rmtree(trees)
    async with kept(own_log, watching) as process:
        offset = await append(process, b"after")
        await until(lambda: covered(settings, offset))
        assert process.serves()
    shutil.rmtree(trees)
    said = json.loads((state / "state.json").read_text())
    for head in said["heads"]:
        head[2] += tuple(head[:2]) == CONSUMERS  # the log has lost its last record, as it were
    (state / "state.json").write_text(json.dumps(said))
    async with kept(own_log, watching) as process:
        await until(lambda: not process.serves())
        assert "records of the" in process.keeper.refusal


async def test_a_log_opened_before_there_was_a_ledger_gets_its_topic(
    own_log: tuple[Settings, Kafka], own_kafka: EmbeddedKafka, watching: Watching
) -> None:
    settings = own_log[0]
    admin = KafkaAdminClient(bootstrap_servers=own_kafka.bootstrap)
    assert trust.CHECKPOINTS_TOPIC not in admin.list_topics()
    admin.close()
    async with kept(own_log, watching):
        await until(lambda: covered(settings, 0))
    assert await asyncio.to_thread(prepare_topic, own_log[1], 1, 1) == []
