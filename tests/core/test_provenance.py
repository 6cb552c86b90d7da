"""Where an answer came from: what is stated holds offline, and any change of it is found."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from domains.metering.readings import ReadingsBatch
from spine import trust
from spine.answer import HalfHours
from spine.console.provenance import columns_of, verify_
from spine.console.reading import page_as_dict
from spine.dsi.rows import half_hours_in, put_half_hours
from spine.dsi.v1 import dsi_pb2
from spine.errors import Invalid, NotFound
from spine.ledger import provenance_check as checker
from spine.ledger import verifier
from spine.ledger.book import KEYS_FILE, Book
from spine.ledger.library import Library
from spine.ledger.note import Note, sign
from spine.ledger.provenance import Batch, Records, batches_of, document, statement
from spine.ledger.proving import LogProver
from tests.core.test_register import register
from tests.helpers.history import History
from tests.helpers.ledger import KEY, PRIVATE, json_bytes
from tests.helpers.records import (
    BEGUN,
    CODEC,
    METER,
    PARTITION,
    MemoryLog,
    granted,
    moved_in,
)

PLACES = [
    (topic, PARTITION) for topic in (trust.CONSUMER_LOG, trust.OUTCOMES_TOPIC, trust.READINGS_TOPIC)
]
KEYS = verifier.Keys(str(KEY))


@dataclass
class Stated:
    """A provenance record, and the answer that it is about as a client keeps it."""

    record: dict[str, Any]
    answer: dict[str, Any]
    rows: HalfHours


@pytest.fixture(scope="module")
def stated(tmp_path_factory: pytest.TempPathFactory) -> Stated:
    """Two batches, an answer that rests on both, and its record."""
    folder = tmp_path_factory.mktemp("provenance")
    history = History()
    history.facts(moved_in())
    history.facts(granted())
    history.readings()
    history.readings(first_wh=500)
    done = history.read()
    rows = history.answer(done.record, done.decided[0]).half_hours
    assert isinstance(rows, HalfHours) and rows.recorded
    book = Book(folder / "ledger", KEY, PRIVATE.sign, PLACES)
    for place in PLACES:
        for record in history.logs[place].records:
            book.append(record)
    sealed = book.seal(1_767_225_600_000)
    assert sealed is not None
    said = json_bytes({"log": str(KEY), "witnesses": [], "quorum": 0})
    (book.public / KEYS_FILE).write_bytes(said)
    book.publish(sealed.note)
    kept = register(folder / "register", history.records())
    (read,) = kept.reads(PARTITION, METER)
    outcome = kept.outcome(PARTITION, read)
    assert outcome is not None
    library, log = Library(book.public), MemoryLog(*history.records())
    prover = LogProver(library.prover(), log, CODEC)  # type: ignore[arg-type]
    batches = {}
    for offset in batches_of(rows):
        record = prover.record((trust.READINGS_TOPIC, PARTITION), offset)
        batch = CODEC.decode(record.value or b"")
        assert isinstance(batch, ReadingsBatch)
        batches[offset] = Batch(record, batch.sender, batch.sender_reference, bytes(32))
    records = Records(
        prover.record((trust.CONSUMER_LOG, PARTITION), read.offset),
        prover.record((trust.OUTCOMES_TOPIC, PARTITION), outcome.offset),
        batches,
    )
    text = statement(bytes(32), read, outcome, rows, records, BEGUN)
    proofs = [prover.proof(batch.record) for batch in batches.values()]
    proofs += [prover.proof(records.request, read.entry), prover.proof(records.outcome)]
    note = Note(text, (sign(text, KEY, PRIVATE.sign),))
    made = json.loads(document(note, proofs, library.keys()))
    kept.close()
    return Stated(made, page(rows, read.offset, read.entry), rows)


def page(rows: HalfHours, offset: int, entry: int) -> dict[str, Any]:
    """An answer as `spine read --json` prints a page."""
    decision = dsi_pb2.Decision(partition=PARTITION, offset=offset, entry=entry)
    answer = dsi_pb2.GetReadingsResponse(decision=decision)
    put_half_hours(answer, rows, in_columns=False)
    made: dict[str, Any] = json.loads(
        json.dumps(page_as_dict(answer), default=lambda raw: raw.hex())
    )
    return made


def test_it_tells_who_sent_it_on_what_leave_and_to_whom(stated: Stated) -> None:
    said = checker.check_provenance(stated.record, KEYS, stated.answer)
    head, origin, permission, transfer, answer = said
    assert head.startswith("checkpoint 1 of")
    given = stated.rows.recorded
    assert f"sent {given} half hours" in origin and trust.READINGS_TOPIC in origin
    assert "ENERGY_ADVICE" in permission and "consent consent-1 v1" in permission
    assert f"{given} half hours released to data_user/adviser" in transfer
    assert "the answer is the one that was released" in answer


def changed(document: Any) -> Iterator[Any]:
    """The document with each of its values changed, one at a time."""
    for key, value in document.items() if isinstance(document, dict) else enumerate(document):
        if isinstance(value, dict | list):
            for inner in changed(value):
                yield copied(document, key, inner)
        elif isinstance(value, str) and value:
            for place in {0, len(value) // 2, len(value) - 1}:
                other = "1" if value[place] != "1" else "2"
                yield copied(document, key, value[:place] + other + value[place + 1 :])
        elif isinstance(value, int):
            yield copied(document, key, value + 1)


def copied(document: Any, key: Any, value: Any) -> Any:
    """The document with that value under that key."""
    made = dict(document) if isinstance(document, dict) else list(document)
    made[key] = value
    return made


def holds(tmp_path: Path, record: Any, answer: Any, keys: verifier.Keys | None = KEYS) -> bool:
    """Whether the checker finds nothing wrong with the files."""
    one, other = tmp_path / "record.json", tmp_path / "answer.json"
    one.write_text(json.dumps(record))
    other.write_text(json.dumps(answer))
    return checker.verify(one, keys, other).ok


def test_any_change_of_the_record_is_found(stated: Stated, tmp_path: Path) -> None:
    assert holds(tmp_path, stated.record, stated.answer)
    # The keys it names itself are not believed where others are known.
    body = {name: value for name, value in stated.record.items() if name != "keys"}
    tried = 0
    for other in changed(body):
        assert not holds(tmp_path, other | {"keys": stated.record["keys"]}, stated.answer), other
        tried += 1
    assert tried > 100


def test_any_change_of_the_answer_is_found(stated: Stated, tmp_path: Path) -> None:
    for place in (0, 17, 47):
        for other in changed(stated.answer["rows"][place]):
            rows = copied(stated.answer["rows"], place, other)
            assert not holds(tmp_path, stated.record, stated.answer | {"rows": rows})
    assert not holds(tmp_path, stated.record, stated.answer | {"rows": stated.answer["rows"][:-1]})


ORIGIN = f"origin: {trust.READINGS_TOPIC}-{PARTITION}@"
PERMISSION, TRANSFER = f"{trust.CONSUMER_LOG}-", f"{trust.OUTCOMES_TOPIC}-"


def swapped(text: str, one: str, other: str) -> str:
    """The text with each of them in the other's place."""
    return text.replace(one, "?").replace(other, one).replace("?", other)


def with_records_exchanged(text: str) -> str:
    """The permission about the outcome's record and the transfer about the request's."""
    *before, permission, transfer = text.splitlines()
    (kind, place, leaf, *said), (other, *its) = permission.split(" "), transfer.split(" ")
    lines = [" ".join((kind, *its[:2], *said)), " ".join((other, place, leaf, *its[2:]))]
    return "".join(f"{line}\n" for line in (*before, *lines))


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace(ORIGIN, f"{ORIGIN}9"),
        lambda text: swapped(text, PERMISSION, TRANSFER),
        lambda text: text.replace("leaf=", "leaf=00", 1),
        lambda text: with_records_exchanged(text),
        lambda text: text.replace("permission: ", "transfer: "),
        lambda text: text.replace("\ntransfer: ", "\norigin: "),
        lambda text: text.replace("log: 00", "log: 01"),
        lambda text: text.replace("\nmetering point", "\nmetering point: 1\nmetering point"),
        lambda text: text.replace("half hours: 2025-06-01", "half hours: 2025-05-01"),
        lambda text: text.replace("entry=0", "entry=1"),
        lambda text: text.replace("half-hours=", "half-hours=1"),
        lambda text: "".join(line for line in text.splitlines(True) if ORIGIN not in line),
    ],
)
def test_a_statement_that_the_proofs_or_the_answer_belie_is_found_whoever_signed(
    stated: Stated, tmp_path: Path, change: Any
) -> None:
    text = stated.record["statement"].rpartition("\n\n")[0] + "\n"
    other = change(text)
    assert other != text
    note = Note(other, (sign(other, KEY, PRIVATE.sign),))
    assert not holds(tmp_path, stated.record | {"statement": str(note)}, stated.answer)
    # Whoever looks at the signature alone takes it.
    assert note.signed_by(KEY, lambda public, message, blob: PRIVATE.sign(message) == blob) == 0


def test_a_step_about_a_record_of_another_topic_is_found_without_the_answer_too(
    stated: Stated,
) -> None:
    text = with_records_exchanged(stated.record["statement"].rpartition("\n\n")[0] + "\n")
    note = Note(text, (sign(text, KEY, PRIVATE.sign),))
    with pytest.raises(verifier.Wrong, match="another topic"):
        checker.check_provenance(stated.record | {"statement": str(note)}, KEYS)


def test_an_answer_of_another_decision_or_with_more_in_it_is_found(
    stated: Stated, tmp_path: Path
) -> None:
    answer = stated.answer
    for name in ("partition", "offset", "entry"):
        decision = answer["decision"] | {name: answer["decision"][name] + 1}
        assert not holds(tmp_path, stated.record, answer | {"decision": decision})
    first, *rest = answer["rows"]
    for odd in (first | {"value_kwh": 1}, first | {"version": f" {first['version']}"}):
        assert not holds(tmp_path, stated.record, answer | {"rows": [odd, *rest]})
    assert not holds(tmp_path, stated.record, answer | {"rows": [*rest, first]})
    assert not holds(tmp_path, stated.record, answer | {"rows": [first, first, *rest[1:]]})
    twice = json.dumps(answer).replace('"value_wh": ', '"value_wh": 1, "value_wh": ', 1)
    record, other = tmp_path / "record.json", tmp_path / "answer.json"
    record.write_text(json.dumps(stated.record))
    other.write_text(twice)
    assert not checker.verify(record, KEYS, other).ok


def test_copied_out_it_says_by_whose_keys_it_goes(stated: Stated, tmp_path: Path) -> None:
    here = Path(checker.__file__).parent
    for name in ("provenance_check.py", "verifier.py"):
        shutil.copy(here / name, tmp_path)
    (tmp_path / "record.json").write_text(json.dumps(stated.record))

    def run(*words: str) -> tuple[int, str]:
        command = [sys.executable, "provenance_check.py", "record.json", *words]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout

    assert run()[0] == 0 and "By the keys that it names itself" in run()[1]
    known = ("--key", str(KEY), "--quorum", "0")
    assert run(*known)[0] == 0 and "By the keys" not in run(*known)[1]
    assert run("--key", str(KEY))[0] == 2  # two witnesses are wanted, and none is named


def test_of_an_answer_of_several_pages_one_is_named(stated: Stated, tmp_path: Path) -> None:
    """A page that is not there is a slip of who asks, and no forgery."""
    here = Path(checker.__file__).parent
    for name in ("provenance_check.py", "verifier.py"):
        shutil.copy(here / name, tmp_path)
    first, *rest = stated.answer["rows"]
    other = stated.answer | {"rows": [first | {"value_wh": 1}, *rest]}
    (tmp_path / "record.json").write_text(json.dumps(stated.record))
    (tmp_path / "answer.json").write_text(json.dumps([other, stated.answer, other]))

    def run(*words: str) -> tuple[int, str]:
        command = [sys.executable, "provenance_check.py", "record.json", *words]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr

    code, said = run("answer.json", "--page", "2")
    assert code == 0 and "page 2: the answer is the one that was released" in said
    assert run("answer.json", "--page", "1")[0] == run("answer.json", "--page", "3")[0] == 6
    for words in ([], ["--page", "0"], ["--page", "-1"], ["--page", "4"]):
        code, said = run("answer.json", *words)
        assert code == 2 and "--page: the answer has 3 pages" in said
    assert run("--page", "2")[0] == run("nowhere.json")[0] == 2
    verify_(tmp_path / "record.json", tmp_path / "answer.json", page=2)
    with pytest.raises(Invalid, match="has 3 pages"):
        verify_(tmp_path / "record.json", tmp_path / "answer.json", page=4)


def test_proofs_of_other_records_or_one_too_few_are_found(stated: Stated, tmp_path: Path) -> None:
    proofs = stated.record["proofs"]
    for other in (proofs[:-1], proofs[1:], [proofs[0], *proofs], [*proofs[:-1], proofs[0]]):
        assert not holds(tmp_path, stated.record | {"proofs": other}, stated.answer)


def test_columns_go_there_and_back(stated: Stated) -> None:
    again = half_hours_in(METER, columns_of(stated.answer["rows"]))
    assert page(again, 0, 0)["rows"] == stated.answer["rows"]
    assert list(again) == list(stated.rows)


@pytest.mark.parametrize(
    "harm",
    [
        lambda c: c.values_wh.append(1),
        lambda c: c.runs.add(half_hours=0),
        lambda c: c.runs.add(half_hours=-1, absent=5),
        lambda c: c.runs.add(half_hours=20_000, absent=5),
        lambda c: c.runs.add(half_hours=1, absent=99),
        lambda c: c.runs.__delitem__(slice(None)),
        lambda c: c.start.FromSeconds(1),
        lambda c: setattr(c.runs[0], "quality", "A" * 300),
    ],
)
def test_what_is_no_answer_is_refused(stated: Stated, harm: Any) -> None:
    columns = deepcopy(columns_of(stated.answer["rows"]))
    harm(columns)
    with pytest.raises(Invalid):
        half_hours_in(METER, columns)


def test_a_record_that_no_head_covers_yet_is_not_found(stated: Stated, tmp_path: Path) -> None:
    history = History()
    book = Book(tmp_path, KEY, PRIVATE.sign, PLACES)
    first = history.logs[PLACES[0]].records
    book.append(first[0])
    sealed = book.seal(1_767_225_600_000)
    assert sealed is not None
    (book.public / KEYS_FILE).write_bytes(
        json_bytes({"log": str(KEY), "witnesses": [], "quorum": 0})
    )
    book.publish(sealed.note)
    prover = LogProver(Library(book.public).prover(), MemoryLog(*history.records()), CODEC)  # type: ignore[arg-type]
    prover.proof(first[0])
    with pytest.raises(NotFound):
        prover.proof(first[1])
    with pytest.raises(NotFound):
        prover.record(PLACES[0], 10_000)
