"""The files that an auditor copies out, and the commands: how they are run, and what they say."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer

from spine.console import ledger as commands
from spine.console.ledger import verify_
from spine.errors import Invalid
from spine.ledger import verifier
from spine.ledger.book import Book
from spine.ledger.library import Library, stored_json
from spine.ledger.note import Checkpoint, Note, sign
from spine.ledger.witness import Witness
from tests.helpers.ledger import KEY, PLACES, PRIVATE, open_book, published, record, sealed

HOME = Path(verifier.__file__).parent
FILES = ("verifier.py", "exported.py", "continued.py", "provenance_check.py")
RECORDS = "partitions/consumers.events.v1/0/records.jsonl"
LOG = {place: [record(n, place) for n in range(4)] for place in PLACES}
HOLDS, FORGED, MISUSED = 0, 6, 2


class Kept(NamedTuple):
    """A ledger of two heads, of which the second and third of three witnesses cosigned the last."""

    book: Book
    library: Library
    first: Note
    keys: list[str]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    folder = tmp_path_factory.mktemp("ledger")
    book = open_book(folder / "book")
    first = published(book, sealed(book, [each for log in LOG.values() for each in log[:2]]))
    names = ("first", "second", "third")
    witnesses = [Witness(folder / name, f"w/{name}", KEY) for name in names]
    published(book, sealed(book, [each for log in LOG.values() for each in log[2:]]), witnesses[1:])
    return Kept(book, Library(book.public), first, [str(w.key) for w in witnesses])


@pytest.fixture
def home(kept: Kept, tmp_path: Path) -> Path:
    """The files, a proof, one that the head goes on, the head that was kept, and an export."""
    for name in FILES:
        shutil.copy(HOME / name, tmp_path)
    proof = kept.library.prove(PLACES[0], 2)
    proof["stored"] = stored_json(LOG[PLACES[0]][2], with_value=False)
    (tmp_path / "proof.json").write_text(json.dumps(proof))
    growth = kept.library.consistency(kept.first, kept.library.note())
    # The first head has no witness.
    growth["keys"]["quorum"] = 0
    (tmp_path / "since.json").write_text(json.dumps(growth))
    (tmp_path / "kept").write_text(str(kept.first))
    kept.library.export(tmp_path / "export", PLACES, lambda place: iter(LOG[place]))
    return tmp_path


def run(home: Path, *words: str) -> tuple[int, str]:
    """Exit code of a file that is run by itself, and all that it says."""
    command = [sys.executable, *words]
    done = subprocess.run(command, cwd=home, capture_output=True, text=True, check=False, env={})
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("name", FILES[:3])
def test_each_file_checks_when_it_is_run_by_itself(home: Path, name: str) -> None:
    """Whoever hears nothing and sees exit code 0 takes it that all is well."""
    for path in ("export", "proof.json", "since.json"):
        code, said = run(home, name, path)
        assert code == HOLDS and said, said
    lines = (home / "export" / RECORDS).read_text().splitlines(keepends=True)
    (home / "export" / RECORDS).write_text("".join(lines[:1] + lines[2:]))
    code, said = run(home, name, "export")
    assert code == FORGED and "WRONG  consumers.events.v1-0: record of leaf 1" in said
    for words in ([], ["--nonsense"], ["nowhere"]):
        code, said = run(home, name, *words)
        assert code == MISUSED and "usage" in said


def test_a_file_that_lacks_its_neighbour_says_which(home: Path) -> None:
    for missing, path in (("exported.py", "export"), ("continued.py", "since.json")):
        (home / missing).unlink()
        code, said = run(home, "verifier.py", path)
        assert code == MISUSED and f"this needs {missing} beside verifier.py" in said


def test_a_forgery_in_a_folder_of_proofs_is_one_whatever_else_is_amiss(home: Path) -> None:
    (home / "continued.py").unlink()
    proofs = home / "proofs"
    proofs.mkdir()
    code, said = run(home, "verifier.py", "proofs")
    assert code == MISUSED and "proofs holds no proof" in said
    shutil.copy(home / "since.json", proofs / "1.json")
    shutil.copy(home / "proof.json", proofs / "2.json")
    assert run(home, "verifier.py", "proofs")[0] == MISUSED
    text = (proofs / "2.json").read_text()
    (proofs / "2.json").write_text(text.replace('"index": 2', '"index": 1'))
    code, said = run(home, "verifier.py", "proofs")
    assert code == FORGED and "WRONG  2.json: " in said


def witnessed(keys: list[str]) -> list[str]:
    return ["--key", str(KEY), *(word for key in keys for word in ("--witness", key))]


def test_two_of_the_witnesses_named_have_to_have_cosigned(kept: Kept, home: Path) -> None:
    first, second, third = kept.keys
    assert run(home, "verifier.py", "proof.json", *witnessed(kept.keys))[0] == HOLDS
    for few in ([first, second], [first, third]):
        code, said = run(home, "verifier.py", "proof.json", *witnessed(few))
        assert code == FORGED
        assert "1 of 2 witnesses named cosigned the checkpoint, 2 must have" in said
    # The same key twice, written in two ways, is one witness.
    for twice in ([second, second], [second, f"{second}\n"]):
        code, said = run(home, "verifier.py", "proof.json", *witnessed(twice))
        assert code == MISUSED and "--quorum: 2 must have cosigned, --witness names 1" in said
        keys = verifier.Keys(str(KEY), tuple(twice), 2)
        assert verifier.verify(home / "proof.json", keys).wrong


def test_a_key_that_was_mistyped_is_no_forgery(kept: Kept, home: Path) -> None:
    log, (witness, *_) = str(KEY), kept.keys
    none = "this is no key: one reads NAME+ID+BASE64"
    for words, said in (
        (["--key", "nonsense"], f"--key: {none}"),
        (["--key", ""], f"--key: {none}"),
        (["--key", f"\udcff{log}"], f"--key: {none}"),
        (["--key", f"{log[:-1]}"], f"--key: {none}"),
        (["--key", log.replace("log/0", "log/1")], "--key: the key of energyos.spine/log/1"),
        (["--key", witness], "--key: this is a key of another kind"),
        (["--key", log, "--witness", "x+y"], f"--witness: {none}"),
        (["--key", log, "--witness", log], "--witness: this is a key of another kind"),
    ):
        assert run(home, "verifier.py", "proof.json", *words)[0] == MISUSED
        assert said in run(home, "verifier.py", "proof.json", *words)[1]
        with pytest.raises(Invalid, match=said.replace("+", r"\+")):
            verify_(home / "proof.json", words[1], words[3:])
    # What a document says its key is stays its own fault.
    proof = json.loads((home / "proof.json").read_text())
    proof["keys"]["log"] = "nonsense"
    (home / "proof.json").write_text(json.dumps(proof))
    assert run(home, "verifier.py", "proof.json")[0] == FORGED


def other_head(kept: Kept) -> Note:
    """A head of the size of the first, under the log's key, over another tree."""
    text = Checkpoint(KEY.name, Checkpoint.parse(kept.first.text).size, bytes(32)).text()
    return Note(text, (sign(text, KEY, PRIVATE.sign),))


def test_a_proof_has_to_begin_at_the_head_that_was_kept(
    kept: Kept, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = run(home, "verifier.py", "since.json", "--since", "kept")
    assert code == HOLDS and "continues checkpoint 1, the head that was kept" in said
    assert "that was kept" not in run(home, "verifier.py", "since.json")[1]
    verify_(home / "since.json", since=home / "kept")
    # Cosigned by others since, it is the same head.
    text, _, signed = str(kept.first).rpartition("\n\n")
    (home / "kept").write_text(f"{text}\n\n{signed}\u2014 other AAAA\n")
    assert run(home, "verifier.py", "since.json", "--since", "kept")[0] == HOLDS
    for other in (other_head(kept), kept.library.note()):
        (home / "kept").write_text(str(other))
        code, said = run(home, "verifier.py", "since.json", "--since", "kept")
        assert code == FORGED and "it begins at checkpoint 1, not at the head in kept" in said
        with pytest.raises(typer.Exit) as ended:
            verify_(home / "since.json", since=home / "kept")
        assert ended.value.exit_code == FORGED
    capsys.readouterr()


def test_who_makes_a_proof_of_an_altered_head_hears_that_it_does_not_hold(
    kept: Kept, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(commands, "library", lambda: kept.library)
    commands.consistency(str(home / "kept"), out_=home / "made.json")  # without witnesses then
    last = str(kept.library.note())
    (home / "kept").write_text(last)
    commands.consistency(str(home / "kept"), out_=home / "made.json")
    assert verifier.verify(home / "made.json").ok
    (home / "kept").write_text(last.replace("\n2\n", "\n1\n"))
    with pytest.raises(typer.Exit) as ended:
        commands.consistency(str(home / "kept"), out_=home / "made.json")
    assert ended.value.exit_code == FORGED
    assert "it does not hold: the log did not sign" in capsys.readouterr().err
    assert not verifier.verify(home / "made.json").ok


def test_a_head_that_was_kept_is_asked_for_where_one_is_continued(home: Path) -> None:
    for path in ("proof.json", "export"):
        code, said = run(home, "verifier.py", path, "--since", "kept")
        assert code == MISUSED and "--since: " in said
    for text in ("", "{}", "one line\n\n"):
        (home / "kept").write_text(text)
        code, said = run(home, "verifier.py", "since.json", "--since", "kept")
        assert code == MISUSED and "--since: kept holds no head" in said


@pytest.mark.parametrize("shown", [False, True])
def test_of_each_proof_in_a_folder_its_place_is_told(kept: Kept, home: Path, shown: bool) -> None:
    """Also where no request is shown, as of one that names other meters too."""
    folder = home / "mine"
    folder.mkdir()
    proof: dict[str, Any] = kept.library.prove(PLACES[0], 2)
    if shown:
        proof["stored"] = stored_json(LOG[PLACES[0]][2], with_value=False)
    (folder / "0001.json").write_text(json.dumps(proof))
    (said,) = verifier.verify(folder).checked
    assert said.startswith("0001.json: consumers.events.v1-0@2 is ")
