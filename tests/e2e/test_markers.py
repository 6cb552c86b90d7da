"""After an erasure nothing yields what was personal: no topic, store, copy, export or log line.

What is looked for is planted, and looked for everywhere by one search: in the bytes of every file
and under its compression, in every record, and in whatever the keys at hand open. A marker that
nobody sealed, and the sealed ones before the erasure, show that it finds what is there.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import grpc
import pytest
import zstandard
from msgspec import Struct
from typer.testing import CliRunner

from spine.archive import SUFFIX
from spine.cli import command_line
from spine.codec import Codec
from spine.config import Settings
from spine.console import context
from spine.console.client import Client, stamp
from spine.console.context import CONSENT_SERVICE, OPERATOR
from spine.consumers.v1 import consumers_pb2
from spine.event import Facts, LogRecord, Sealed
from spine.log import partition_counts
from spine.rocks import DamagedStore
from spine.sealing import VAULT_FILE, Vault
from spine.services import wire
from spine.snapshot import save
from spine.store import POSITION_ROW, StoreReader
from tests.e2e.conftest import SINCE, Installation, audit, grant

MPAN = "1900012345945"
PERSON = {"name": "Name-Marker Example", "contact": "contact-marker@example.org"}
NOTICE = "Notice-Marker: what you allow"
RECORD = {
    "purpose_text": "Purpose-Marker: to look at your evenings",
    "account_reference": "Account-Marker 4711",
    "evidence_id": "Evidence-Marker 99",
}
SEALED = {*PERSON.values(), NOTICE, *RECORD.values()}
OPEN = "Open-Marker Ltd"  # the name of an organisation, which nobody seals
# Kafka allots 10 MB to each index, empty ones too. What is searched of the zeros at the end of a
# file is as many as the longest needle, a digest, could end with.
ZEROS = bytes(32)
BLOCK = bytes(1 << 20)
WAIT_S = 60.0


@dataclasses.dataclass(frozen=True)
class Search:
    """Where a marker is looked for, and the keys that what is sealed is tried with."""

    folders: tuple[Path, ...]
    scratch: Path
    vault: Path

    def found(self, *needles: bytes) -> dict[bytes, set[str]]:
        """In which kinds of places each of them is."""
        hits: dict[bytes, set[str]] = {needle: set() for needle in needles}
        for kind, content in self._everything():
            for needle in needles:
                if needle in content:
                    hits[needle].add(kind)
        return hits

    def _everything(self) -> Iterator[tuple[str, bytes]]:
        for folder in self.folders:
            yield from self._files(folder)
            yield from self._rows(folder)
        yield from self._records()

    def _files(self, folder: Path) -> Iterator[tuple[str, bytes]]:
        for path in folder.rglob("*"):
            try:
                content = path.read_bytes() if path.is_file() else b""
            except FileNotFoundError:
                continue
            yield "file", without_its_zeros(content) + ZEROS
            if path.suffix == SUFFIX:
                yield "archive", zstandard.ZstdDecompressor().decompressobj().decompress(content)

    def _rows(self, folder: Path) -> Iterator[tuple[str, bytes]]:
        """Every store, a snapshot's too; its tables are compressed."""
        for current in folder.rglob("CURRENT"):
            store = current.parent.parent
            if not current.parent.name.isdecimal():
                continue
            seen = self.scratch / sha256(bytes(store)).hexdigest()
            reader = StoreReader(store, seen, bystander=True)
            try:
                if reader.refresh():
                    for key, value in reader.scan(b"", POSITION_ROW):
                        yield "store", key + value
            except DamagedStore:
                continue
            finally:
                reader.close()

    def _records(self) -> Iterator[tuple[str, bytes]]:
        this = context.runtime()
        opener = Vault.open(self.vault)
        with closing(this.reader()) as log, closing(opener):
            codec = this.codec
            for topic, count in partition_counts(this.partitions).items():
                for partition in range(count):
                    for record in log.read(topic, partition, 0):
                        yield "topic", repr(record.headers).encode() + (record.key or b"")
                        yield "topic", record.value or b""
                        for sealed in seals(codec, record):
                            yield "opened", opener.unseal(sealed) or b""


def without_its_zeros(content: bytes) -> bytes:
    """Without those at its end, which are looked at by the block: a file may be of nothing else."""
    end = len(content)
    while end >= len(BLOCK) and content[end - len(BLOCK) : end] == BLOCK:
        end -= len(BLOCK)
    return content[:end].rstrip(b"\0")


def seals(codec: Codec, record: LogRecord) -> Iterator[Sealed]:
    """Whatever is sealed in the facts of a record."""
    if record.header("t") != b"f" or record.value is None:
        return
    value = codec.decode(record.value)
    assert isinstance(value, Facts)
    for command in value.commands:
        for fact in command.facts:
            yield from within(codec.decode_event(fact.type, fact.body))


def within(value: Any) -> Iterator[Sealed]:
    if isinstance(value, Sealed):
        yield value
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from within(getattr(value, field.name))
    elif isinstance(value, Struct):
        for name in value.__struct_fields__:
            yield from within(getattr(value, name))
    elif isinstance(value, (tuple, list)):
        for each in value:
            yield from within(each)


def run(*words: str) -> str:
    done = CliRunner().invoke(command_line(words[0]), list(words))
    assert done.exit_code == 0, (words, done.output)
    return done.stdout


def copies(spine: Installation, folder: Path) -> None:
    """An archive, an export with its records, and a snapshot of every process's stores."""
    before = context.settings()
    chosen = before.model_dump(exclude_unset=True, exclude={"archive_dir"})
    context.use(Settings(archive_dir=folder / "archive", **chosen))
    try:
        run("archive", "segments")
    finally:
        context.use(before)
    run("ledger", "export", str(folder / "export"), "--records")
    for home in sorted((spine.data_dir / "stores").iterdir()):
        still = folder / "still" / home.name
        shutil.copytree(home, still, ignore=shutil.ignore_patterns("LOCK", "data", "faust"))
        (folder / "snapshots").mkdir(exist_ok=True)
        save(still, home.name, folder / "snapshots" / home.name)


def proof(place: str, file: Path) -> None:
    """A proof of a record with its value, once the ledger covers it."""
    deadline = time.monotonic() + WAIT_S
    while (
        CliRunner()
        .invoke(command_line("ledger"), ["ledger", "prove", place, "--value", "--out", str(file)])
        .exit_code
    ):
        assert time.monotonic() < deadline, "the ledger never covered it"
        time.sleep(0.2)


def guessed() -> bytes:
    """The bare digest of the request that named the person, by one who knows all else of it."""
    since = stamp(SINCE)
    guess = consumers_pb2.StartTenancyRequest(mpxn=MPAN, effective_from=since, person=PERSON)
    return wire.request_digest(guess)


def known() -> bytes:
    """The same of a request that names no person, which is kept bare."""
    since = stamp(SINCE)
    said = consumers_pb2.StartSupplyRequest(
        mpxn=MPAN, supplier="north-supply", effective_from=since
    )
    return wire.request_digest(said)


@pytest.fixture(scope="module")
def robin(spine: Installation) -> Client:
    spine.as_(OPERATOR).governance("AdmitParticipant", party="open-marker", name=OPEN)
    spine.meter(MPAN, "north-supply")
    client = spine.occupier(MPAN, "marked", PERSON)
    notice = {"text": NOTICE, "language": "en"}
    grant(client, MPAN, "bright-advice", notice=notice, record=RECORD)
    client.dsi("GetMeteringPoint", mpxn=MPAN, purpose="OWN_USE", basis="SUBJECT")
    client.dsi("ListTenancies", mpxn=MPAN, purpose="OWN_USE", basis="SUBJECT")
    (shown,) = client.dsi("ListConsents", mpxn=MPAN, purpose="OWN_USE", basis="SUBJECT").consents
    assert shown.record.purpose.details
    own = client.dsi("GetPersonalRecord", mpxn=MPAN, purpose="OWN_USE", basis="SUBJECT")
    assert {text.text for text in own.texts} == SEALED
    table = run("my", "record", MPAN, "--as", "marked")
    assert all(marker in table for marker in SEALED)
    told = json.loads(run("my", "record", MPAN, "--as", "marked", "--json"))
    assert {text["text"] for text in told} == SEALED
    return client


@pytest.mark.timeout(400)
def test_nothing_yields_a_marker_and_everything_still_proves(
    spine: Installation, robin: Client, tmp_path: Path
) -> None:
    vault, old = spine.data_dir / VAULT_FILE, tmp_path / "old.sqlite"
    subject = spine.references["marked"]
    needles = [marker.encode() for marker in SEALED]
    earlier, later = tmp_path / "earlier", tmp_path / "later"
    shutil.copy(vault, old)
    copies(spine, earlier)
    proof(started_at(subject), tmp_path / "proof.json")
    search = Search((spine.data_dir, earlier), tmp_path / "scratch", vault)
    before = search.found(OPEN.encode(), known(), guessed(), *needles)
    assert before.pop(OPEN.encode()) == {"topic", "store", "archive", "file"}, (
        "it finds what is there"
    )
    assert before.pop(known()) >= {"topic", "store", "archive"}, "and what a guess comes to"
    code, report = audit(spine, tmp_path, "--mpxn", MPAN, "--vault", str(vault))
    assert (code, report["findings"]) == (0, [])
    _, report = audit(spine, tmp_path, "--mpxn", MPAN)
    assert {line["why"] for line in report["findings"]} == {"keys not at hand"}
    assert before == {guessed(): set()} | {needle: {"opened"} for needle in needles}

    assert robin.erasures("EraseSubject", consumer_ref=subject).standing == "ERASED"
    refused_with_the_name(spine, subject)
    copies(spine, later)
    everywhere = Search((spine.data_dir, earlier, later), tmp_path / "scratch", vault)
    assert everywhere.found(guessed(), *needles) == {n: set() for n in (guessed(), *needles)}
    restored(vault, old, subject)
    assert everywhere.found(*needles) == {needle: set() for needle in needles}

    run("ledger", "verify", str(tmp_path / "proof.json"))
    for folder in (earlier, later):
        run("ledger", "verify", str(folder / "export"))
    code, report = audit(spine, tmp_path, "--mpxn", MPAN)
    assert code == 0 and report["counts"]["SAME"] >= 3
    assert report["counts"]["DIFFERENT"] == 0
    told = [line for line in report["findings"] if line["method"] == "GetPersonalRecord"]
    assert {line["why"] for line in told} == {"erased"}, "whatever an old vault holds"
    assert report["counts"]["CANNOT TELL"] == len(told) == 3
    code, report = audit(spine, tmp_path, "--mpxn", MPAN, "--vault", str(old))
    assert code == 0 and report["counts"]["CANNOT TELL"] == 3


def started_at(subject: str) -> str:
    """Where the log holds the record that somebody moved in, with what was sealed."""
    this = context.runtime()
    with closing(this.reader()) as log:
        for partition in range(this.partitions):
            for record in log.read("consumers.events.v1", partition, 0):
                if subject.encode() in (record.value or b"") and list(seals(this.codec, record)):
                    return f"{record.topic}-{partition}@{record.offset}"
    raise AssertionError("nobody moved in")


def refused_with_the_name(spine: Installation, subject: str) -> None:
    """Somebody says it once more, and is refused; what they said must not be kept either."""
    with pytest.raises(grpc.RpcError):
        spine.as_(CONSENT_SERVICE).consumers(
            "StartTenancy",
            mpxn="1900012345954",
            consumer_ref=subject,
            effective_from=stamp(datetime.now(UTC)),
            person=PERSON,
        )


def restored(vault: Path, old: Path, subject: str) -> None:
    """An old copy of the keys is put back, and outlived by the erasure."""
    with closing(sqlite3.connect(old)) as copy:
        rows = copy.execute("SELECT key_id, subject, key FROM keys").fetchall()
    assert subject in {row[1] for row in rows}
    with closing(sqlite3.connect(vault, timeout=10)) as db, db:
        db.executemany("INSERT OR REPLACE INTO keys VALUES (?, ?, ?)", rows)
    deadline = time.monotonic() + WAIT_S
    while True:
        with closing(sqlite3.connect(vault, timeout=10)) as db:
            if not db.execute("SELECT 1 FROM keys WHERE subject = ?", (subject,)).fetchone():
                return
        assert time.monotonic() < deadline, "the key that was brought back stays"
        time.sleep(0.2)
