"""Documents, exports and records of the log that were made to mislead or end who reads them."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from spine import trust
from spine.audit_report import Line
from spine.console import ledger as commands
from spine.errors import Invalid, Reason
from spine.event import LogRecord
from spine.ledger import provenance_check, verifier
from spine.ledger.library import Library, stored_json
from spine.ledger.note import Checkpoint, Note, PublishedHead, VerifierKey, sign
from spine.ledger.published import heads_in
from spine.log import LogUnfit
from spine.verdict import Verdict
from tests.helpers.ledger import KEY, PLACES, PRIVATE, open_book, published, record, sealed
from tests.helpers.records import CODEC

OWN = "By the keys that it names itself"
RECORDS = "partitions/{}/{}/records.jsonl"
LOG = {place: [record(n, place) for n in range(4)] for place in PLACES}


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    book = open_book(tmp_path_factory.mktemp("ledger"))
    published(book, sealed(book, [each for records in LOG.values() for each in records]))
    return Library(book.public)


@pytest.fixture
def proof(library: Library, tmp_path: Path) -> Path:
    made = library.prove(PLACES[0], 2)
    made["stored"] = stored_json(LOG[PLACES[0]][2], with_value=False)
    (tmp_path / "proof.json").write_text(json.dumps(made))
    return tmp_path / "proof.json"


@pytest.fixture
def exported(library: Library, tmp_path: Path) -> Path:
    library.export(tmp_path / "export", PLACES, lambda place: iter(LOG[place]))
    return tmp_path / "export"


# By whose keys


def said_by(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str
) -> tuple[int, str]:
    """What the file says that an auditor copied out, and its exit code."""
    monkeypatch.setattr(sys, "argv", ["verifier.py", *words])
    try:
        code = verifier.main()
    except SystemExit as ended:
        code = int(ended.code or 0)
    heard = capsys.readouterr()
    return code, heard.out + heard.err


def test_the_file_that_runs_alone_goes_by_keys_that_are_known(
    proof: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, said = said_by(capsys, monkeypatch, str(proof))
    assert code == 0 and OWN in said
    known = [str(proof), "--key", str(KEY), "--quorum"]
    code, said = said_by(capsys, monkeypatch, *known, "0")
    assert code == 0 and OWN not in said
    stranger = str(VerifierKey("energyos.spine/log/1", KEY.kind, KEY.public))
    code, said = said_by(capsys, monkeypatch, str(proof), "--key", stranger, "--quorum", "0")
    assert code == 6 and "the key of energyos.spine/log/1" in said
    for words in ([], [str(proof), "--witness", str(KEY)], [*known, "1"], [*known, "-1"]):
        code, said = said_by(capsys, monkeypatch, *words)
        assert code == 2 and "usage" in said


@pytest.mark.parametrize("key", [None, str(KEY)])
def test_json_says_whether_a_proof_was_checked_by_its_own_keys(
    proof: Path, key: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    commands.verify_(proof, key=key, quorum=0, as_json=True)
    said = json.loads(capsys.readouterr().out)
    assert said["ok"] and said["own_keys"] == (not key)


# Exports


def test_an_export_of_nothing_proves_nothing_and_one_of_a_part_says_so(
    library: Library, tmp_path: Path
) -> None:
    library.export(tmp_path, PLACES[:1])
    report = verifier.verify(tmp_path)
    assert report.ok
    assert report.checked[-1] == "2 of 3 partitions under the checkpoint are not here"
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps(manifest | {"partitions": []}))
    shutil.rmtree(tmp_path / "partitions")
    assert verifier.verify(tmp_path).wrong == ["it holds no partition"]


@pytest.mark.parametrize(
    "change",
    [{"offset": 10**20}, {"headers": [[7, ""]]}, {"headers": 7}, {"partition": "x"}],
    ids=str,
)
def test_a_malformed_record_is_named_and_the_rest_is_checked(
    exported: Path, change: dict[str, Any]
) -> None:
    path = exported / RECORDS.format(*PLACES[0])
    lines = path.read_text().splitlines()
    lines[2] = json.dumps(json.loads(lines[2]) | change)
    path.write_text("\n".join(lines))
    report = verifier.verify(exported)
    (wrong,) = report.wrong
    assert wrong.startswith("consumers.events.v1-0: record of leaf 2 (offset 2) is malformed")
    assert len(report.checked) == 1 + len(PLACES) - 1


NESTED = "[" * 100_000


@pytest.mark.parametrize("check", [verifier.verify, provenance_check.verify])
def test_no_document_ends_the_check(
    check: Callable[[Path], verifier.Report], proof: Path, exported: Path
) -> None:
    naive = (ValueError, KeyError, TypeError, AttributeError, OSError)
    for error, text in {
        RecursionError: NESTED,
        OverflowError: proof.read_text().replace('"quorum": 0', '"quorum": 1e999'),
    }.items():
        assert not issubclass(error, naive)
        proof.write_text(text)
        assert check(proof).wrong
    path = exported / RECORDS.format(*PLACES[0])
    path.write_text(NESTED)
    report = verifier.verify(exported)
    assert "v1-0: record of leaf 0" in report.wrong[0] and len(report.checked) == len(PLACES)


def test_a_command_says_that_nested_text_is_no_proof(tmp_path: Path) -> None:
    (tmp_path / "file").write_text(NESTED)
    with pytest.raises(Invalid, match="no proof"):
        commands.check_kind(tmp_path / "file")


@pytest.mark.parametrize("text", ['{"checkpoint": 7}', '{"a": ' + NESTED, "{}", ""], ids=range(4))
def test_a_command_says_that_a_file_holds_no_head(
    library: Library, tmp_path: Path, text: str
) -> None:
    (tmp_path / "file").write_text(text)
    with pytest.raises(Invalid, match="holds no head"):
        commands._note(library, str(tmp_path / "file"))


# What anybody may have written into the log


def in_topic(*values: bytes | None) -> Iterator[LogRecord]:
    for offset, value in enumerate(values):
        yield LogRecord(trust.CHECKPOINTS_TOPIC, 0, offset, 0, None, (), value)


def test_of_the_topic_of_the_heads_only_heads_under_our_key_count(library: Library) -> None:
    note = library.note()
    other = Checkpoint("another/log", 9, bytes(32)).text()
    values = [
        PublishedHead(str(Note(text, (sign(text, KEY, PRIVATE.sign),))))
        for text in ("energyos.provenance.v1\nlog: 00\n", other)
    ]
    forged = PublishedHead(str(note).replace("\n1\n", "\n2\n"))
    heads = [CODEC.encode(each) for each in (*values, forged, PublishedHead(str(note)))]
    found = list(heads_in(in_topic(None, b"", b"\xff", *heads), CODEC, KEY))
    assert found == [(1, note)]


class Log:
    """A log of one access record that nobody can decode; its broker knows no other place."""

    def read(self, topic: str, partition: int, start: int, end: int) -> Iterator[LogRecord]:
        if start < 0 or (topic, partition) not in PLACES:
            raise LogUnfit(Reason.LOG_MISSING, "nowhere")
        return iter(LOG[topic, partition][start:end])

    def close(self) -> None:
        """Nothing is held."""


def test_a_line_without_a_decision_hides_no_other(
    library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Outcomes name places where no decision can be; what was read at the others is shown."""
    at = datetime(2026, 1, 1, tzinfo=UTC)
    places = [(0, -1, 0), (9999, 0, 0), (0, 1, 0), (0, 99, -1), (0, 2, -1)]

    def audit(take: Callable[[Line], None], *_: Any) -> None:
        for place in places:
            take(Line(Verdict.SAME, "", at, *place, bytes(16), "1600000000029"))

    monkeypatch.setattr(commands, "run_audit", audit)
    monkeypatch.setattr(commands, "library", lambda: library)
    monkeypatch.setattr(commands, "runtime", lambda: SimpleNamespace(reader=Log, codec=CODEC))
    commands.reads("1600000000029", tmp_path / "out", as_json=True)
    proofs = {line["place"].rpartition("-v1-")[2]: line["proof"] for line in said(capsys)}
    (name,) = filter(None, proofs.values())
    assert len(proofs) == 5 and name == "0003.json"
    assert verifier.verify(tmp_path / "out" / name).ok


def said(capsys: Any) -> Any:
    return json.loads(capsys.readouterr().out)
