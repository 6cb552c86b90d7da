"""The book, its proofs and its exports: what holds is said to hold, and any change is found."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from base64 import b64decode, b64encode
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from copy import deepcopy
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spine import merkle
from spine.console.ledger import verify_
from spine.errors import Invalid, NotFound, Reason
from spine.event import LogRecord
from spine.files import write_whole
from spine.ledger import continued, verifier
from spine.ledger.book import KEYS_FILE, Book, origin_of
from spine.ledger.entries import Epoch, Head, Place, RecordLeaf
from spine.ledger.files import CAME_MAX
from spine.ledger.library import Library, growth_json, shown_json, stored_json
from spine.ledger.note import ED25519, Checkpoint, Note, VerifierKey
from spine.ledger.witness import Witness
from spine.log import LogUnfit
from spine.signing import public_bytes, verify
from tests.helpers.ledger import KEY, PLACES, open_book, published, record, sealed

NEW_PRIVATE = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
NEW_KEY = VerifierKey(origin_of(bytes(32)), ED25519, public_bytes(NEW_PRIVATE))
LOG = {
    place: [record(n, place) for n in range(size)]
    for place, size in zip(PLACES, (300, 3, 40), strict=True)
}


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a ledger of a few hundred records, two heads of it published."""
    folder = tmp_path_factory.mktemp("ledger")
    book = open_book(folder)
    first = sealed(book, [r for records in LOG.values() for r in records[:2]])
    (folder / "first").write_text(str(published(book, first)))
    published(book, sealed(book, [r for records in LOG.values() for r in records[2:]]))
    return folder


@pytest.fixture(scope="module")
def library(kept: Path) -> Library:
    return Library(kept / "public")


@pytest.fixture(scope="module")
def exported(library: Library, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything, with the records."""
    folder = tmp_path_factory.mktemp("export")
    library.export(folder, PLACES, records_of)
    return folder


def records_of(place: Place) -> Iterator[LogRecord]:
    return iter(LOG[place])


def check(proof: Any) -> verifier.Report:
    report = verifier.Report()
    try:
        report.checked += verifier.check_proof(proof, verifier.Keys.of(proof["keys"]))
    except verifier.Wrong as wrong:
        report.wrong.append(str(wrong))
    return report


# Leaves


@given(st.text(), st.integers(0, 2**31 - 1), st.integers(0, 2**62))
def test_leaves_and_epochs_are_read_back(topic: str, partition: int, number: int) -> None:
    leaf = RecordLeaf(topic, partition, number, number, bytes(32), bytes(range(32)))
    assert RecordLeaf.decode(leaf.encode()) == leaf
    epoch = Epoch(number, number, partition, bytes(32), ((topic, partition, number),) * 2)
    assert Epoch.decode(epoch.encode()) == epoch
    for raw in (leaf.encode(), epoch.encode()):
        for kind in (RecordLeaf, Epoch):
            with pytest.raises(ValueError):
                kind.decode(raw[:-1])


def test_every_part_of_a_record_is_under_its_leaf() -> None:
    one = LogRecord("t", 1, 2, 3, b"k", (("a", b"b"), ("c", b"d")), b"v")
    others = [
        LogRecord("u", 1, 2, 3, b"k", one.headers, b"v"),
        LogRecord("t", 0, 2, 3, b"k", one.headers, b"v"),
        LogRecord("t", 1, 1, 3, b"k", one.headers, b"v"),
        LogRecord("t", 1, 2, 4, b"k", one.headers, b"v"),
        LogRecord("t", 1, 2, 3, None, one.headers, b"v"),
        LogRecord("t", 1, 2, 3, b"", one.headers, b"v"),
        LogRecord("t", 1, 2, 3, b"k", one.headers[::-1], b"v"),
        LogRecord("t", 1, 2, 3, b"k", (("ab", b""), ("c", b"d")), b"v"),
        LogRecord("t", 1, 2, 3, b"k", one.headers, b""),
        LogRecord("t", 1, 2, 3, b"k", one.headers, None),
    ]
    assert len({RecordLeaf.of(each).encode() for each in (one, *others)}) == 11


# The book


def test_a_head_goes_on_and_never_back(tmp_path: Path) -> None:
    book = open_book(tmp_path)
    assert book.seal(0) is None, "an empty log has no head"
    first = sealed(book, [record(0)])
    assert book.seal(0) is None, "nothing new, no new head"
    second = sealed(book, [record(1), record(0, PLACES[1])])
    assert (first.head.size, second.head.size) == (1, 2)
    published(book, second)
    with pytest.raises(LogUnfit, match="backwards"):
        book.publish(first.note)


def test_a_record_delivered_again_is_no_second_leaf(tmp_path: Path) -> None:
    book = open_book(tmp_path)
    made = sealed(book, [record(0), record(1), record(0), record(1), record(2)])
    assert made.heads[0].size == 3


class Killed(Exception):
    """Stands for the end of the process."""


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(kills=st.lists(st.integers(0, 12), min_size=1, max_size=6))
def test_killed_at_any_write_it_goes_on_from_what_was_signed(
    kills: list[int], tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every head that was seen is the beginning of every later one, whatever file came last."""
    folder = tmp_path_factory.mktemp("killed")
    seen = list[Note]()
    for writes in kills:
        left = [writes]

        def dying(path: Path, content: bytes, *, sync: bool, left: list[int] = left) -> None:
            if not left[0]:
                raise Killed
            left[0] -= 1
            write_whole(path, content, sync=sync)

        with monkeypatch.context() as patch:
            patch.setattr("spine.ledger.files.write_whole", dying)
            patch.setattr("spine.ledger.book.write_whole", dying)
            try:
                book = open_book(folder)
                for _ in range(3):
                    start = book.places[PLACES[0]]
                    made = sealed(book, [record(n) for n in range(start, start + 100)])
                    book.publish(made.note)
                    seen.append(made.note)
            except Killed:
                pass
    book = open_book(folder)
    start = book.places[PLACES[0]]
    last = published(book, sealed(book, [record(start)]))
    library = Library(book.public)
    for note in seen:
        proof = library.consistency(note, last)
        continued.check_growth(proof, verifier.Keys.of(proof["keys"]))
    leaves = [merkle.leaf_hash(RecordLeaf.of(record(n)).encode()) for n in range(start + 1)]
    heads = library.heads(Checkpoint.parse(last.text).size)
    assert heads[PLACES[0]] == Head(*PLACES[0], start + 1, merkle.root(leaves))


def test_trees_that_were_lost_are_made_again_from_the_log(tmp_path: Path) -> None:
    book = open_book(tmp_path)
    before = sealed(book, [record(n) for n in range(300)])
    shutil.rmtree(book.public / "partitions")
    book = open_book(tmp_path)
    assert book.places[PLACES[0]] == 0
    book.append(record(0))
    assert book.seal(0) is None, "nothing is signed until what was signed is there again"
    after = sealed(book, [record(n) for n in range(1, 301)])
    proof = Library(book.public).growth(before.head.size, after.note)
    continued.check_consistency(
        1, before.head.root, 2, after.head.root, verifier.hashes_of(proof["path"])
    )


def test_another_log_below_is_not_signed(tmp_path: Path) -> None:
    book = open_book(tmp_path)
    sealed(book, [record(n) for n in range(300)])
    shutil.rmtree(book.public / "partitions")
    book = open_book(tmp_path)
    with pytest.raises(LogUnfit, match="another root"):
        for n in range(300):
            book.append(record(n, says="rewritten" if n == 7 else ""))
    assert list((tmp_path / "evidence").iterdir())


@pytest.mark.parametrize("now", [None, record(2, says="rewritten")], ids=["gone", "rewritten"])
def test_a_log_that_lost_its_last_record_is_not_signed(
    tmp_path: Path, now: LogRecord | None
) -> None:
    book = open_book(tmp_path)
    sealed(book, [record(n) for n in range(3)])
    leaves = book.last_leaves()
    book.check_log(leaves, lambda leaf: record(leaf.offset, (leaf.topic, leaf.partition)))
    with pytest.raises(LogUnfit, match="no longer holds the record at"):
        book.check_log(leaves, lambda leaf: now)


def test_a_folder_that_was_rolled_back_is_detected(tmp_path: Path) -> None:
    book = open_book(tmp_path / "now")
    sealed(book, [record(0)])
    shutil.copytree(tmp_path / "now", tmp_path / "before")
    later = sealed(book, [record(1)])
    book.check_published(later.note, verify)
    back = open_book(tmp_path / "before")
    with pytest.raises(LogUnfit, match="rolled back"):
        back.check_published(later.note, verify)
    other = sealed(back, [record(1, says="other")])
    assert other.head.size == later.head.size
    with pytest.raises(LogUnfit, match="another epoch 2 was published"):
        back.check_published(later.note, verify)
    assert len(list((tmp_path / "before" / "evidence").iterdir())) == 2


def test_a_head_that_somebody_else_wrote_is_nothing_to_us(tmp_path: Path) -> None:
    book = open_book(tmp_path)
    made = sealed(book, [record(0)])
    forged = Note(Checkpoint(KEY.name, 9, bytes(32)).text(), made.note.signatures)
    book.check_published(forged, verify)
    book.check_published(None, verify)


def test_epochs_that_were_edited_are_not_gone_on_from(tmp_path: Path) -> None:
    book = open_book(tmp_path)
    sealed(book, [record(0)])
    tile = book.public / "tile/0/000.p/1"
    tile.write_bytes(bytes(32))
    with pytest.raises(LogUnfit, match="not those that were signed"):
        open_book(tmp_path)


def test_growth_is_the_same_with_the_heads_at_hand(tmp_path: Path) -> None:
    """Whoever follows head by head need not compute what was just sealed, nor read it twice."""
    book = open_book(tmp_path)
    follows, next_offset = Library(book.public), 0
    for epochs in range(300):
        offsets = range(next_offset, next_offset + 1 + epochs % 3)
        next_offset = offsets.stop
        made = sealed(book, [record(n, PLACES[epochs % 2]) for n in offsets])
        grown = follows.growth(epochs, made.note, made.heads)
        at_hand = made.growth_since(epochs)
        assert at_hand is not None
        assert growth_json(epochs, made.note, made.heads, at_hand) == grown
        if epochs % 17 == 0 or epochs in (255, 256, 257):
            assert grown == Library(book.public).growth(epochs, made.note)
    assert follows.sizes(7) == Library(book.public).sizes(7)


def test_what_is_at_hand_shows_one_epoch_and_no_more(tmp_path: Path) -> None:
    """After a start, too; but not of trees that were made again, or that grew by too much."""
    book = open_book(tmp_path)
    sealed(book, [record(n, place) for n in range(300) for place in PLACES[:2]])
    book = open_book(tmp_path)
    made = sealed(book, [record(n) for n in range(300, 305)])
    at_hand = made.growth_since(1)
    assert at_hand is not None and made.growth_since(0) is None and made.growth_since(2) is None
    grown = Library(book.public).growth(1, made.note)
    assert growth_json(1, made.note, made.heads, at_hand) == grown
    shutil.rmtree(book.public / "partitions")
    book = open_book(tmp_path)
    lost = [record(n) for n in range(306)] + [record(n, PLACES[1]) for n in range(300)]
    assert sealed(book, lost).growth_since(2) is None
    assert sealed(book, [record(306)]).growth_since(3) is not None
    after = 307 + CAME_MAX
    assert sealed(book, [record(n) for n in range(307, after + 2)]).growth_since(4) is None
    assert sealed(book, [record(after + 2)]).growth_since(5) is not None


# Proofs of one record


@pytest.mark.parametrize("place", PLACES, ids=str)
def test_every_record_is_proved(library: Library, place: tuple[str, int]) -> None:
    prover = library.prover()
    for each in LOG[place][::17]:
        proof = prover.prove(place, each.offset)
        proof["stored"] = stored_json(each, with_value=True)
        report = check(proof)
        assert report.ok, report.wrong
        assert f"@{each.offset} is leaf {each.offset} of them" in report.checked[2]


def test_what_is_not_there_is_not_proved(library: Library) -> None:
    for place, offset in ((PLACES[1], 3), (("no.topic", 0), 0)):
        with pytest.raises(NotFound) as refused:
            library.prove(place, offset)
        assert refused.value.reason is Reason.POSITION_INVALID


def test_a_record_can_be_shown_without_its_value(library: Library) -> None:
    proof = library.prove(PLACES[0], 4)
    proof["stored"] = stored_json(LOG[PLACES[0]][4], with_value=False)
    assert check(proof).checked[-1].endswith(" is shown without its value")
    proof["stored"]["value_sha256"] = b64encode(bytes(32)).decode()
    assert check(proof).wrong == [
        "consumers.events.v1-0@4: the record shown is not the one in the tree"
    ]


def test_one_request_of_a_batch_is_shown_and_the_others_are_hidden(tmp_path: Path) -> None:
    requests = [b"somebody's request %d" % n for n in range(5)]
    seed = bytes(range(32))
    value = b"seed and all requests" + seed + b"".join(requests)
    headers = (("t", b"a"), ("mr", merkle.salted_root(seed, requests)))
    batch = LogRecord(*PLACES[0], 0, 1, None, headers, value)
    book = open_book(tmp_path)
    published(book, sealed(book, [batch]))
    proof = Library(book.public).prove(PLACES[0], 0)
    proof["stored"] = stored_json(batch, with_value=False)
    proof["shown"] = shown_json(seed, requests, 3)
    assert check(proof).checked[-1] == (
        "consumers.events.v1-0@0.3 is the request shown, one of 5; the others stay hidden"
    )
    said = json.dumps(proof)
    hidden = [b64encode(each).decode() for each in (seed, *requests[:3], requests[4])]
    assert not any(each in said for each in hidden)
    proof["shown"]["request"] = b64encode(requests[2]).decode()
    assert "another root" in check(proof).wrong[0]


def confirmed(shown: dict[str, Any], guesses: list[bytes]) -> list[bytes]:
    """The guesses at hidden requests that somebody shown one request finds to be true."""
    path, own = map(b64decode, shown["path"]), b64decode(shown["salt"])
    known = set(path)
    return [
        guess
        for guess in guesses
        if {merkle.salted_leaf(salt, guess) for salt in (b"", own)} & known
    ]


def test_who_is_shown_one_request_cannot_try_guesses_at_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A request is easily guessed: who reads, which meter, which week."""
    requests = [b"somebody's request %d" % n for n in range(5)]
    guesses = [*requests[:3], requests[4]]
    assert confirmed(shown_json(bytes(range(32)), requests, 3), guesses) == []
    # Naive: no salts, or one for the whole record. Two other leaves stand in the path.
    for salt in (b"", bytes(16)):
        monkeypatch.setattr(merkle, "salt", lambda seed, index, salt=salt: salt)
        assert confirmed(shown_json(bytes(range(32)), requests, 3), guesses) == requests[2::2]


def leaves_of(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to everything in a document that is no list or object itself."""
    if isinstance(value, dict):
        return [way for key in value for way in leaves_of(value[key], (*at, key))]
    if isinstance(value, list):
        return [way for n in range(len(value)) for way in leaves_of(value[n], (*at, n))]
    return [at]


def changed(value: Any, by: int) -> Any:
    """Another value of the same kind."""
    if isinstance(value, int):
        return value + 1 + by
    if value is None:
        return "AAAA"
    at = by % len(value)
    return value[:at] + ("A" if value[at] != "A" else "B") + value[at + 1 :]


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_no_single_change_of_a_proof_passes(library: Library, data: st.DataObject) -> None:
    """But of what it says about itself: its name, and whose keys it suggests."""
    place = data.draw(st.sampled_from(PLACES))
    each = data.draw(st.sampled_from(LOG[place]))
    proof = library.prove(place, each.offset)
    proof["stored"] = stored_json(each, with_value=True)
    keys = verifier.Keys.of(deepcopy(proof["keys"]))
    ways = [way for way in leaves_of(proof) if way[0] not in ("format", "keys")]
    *path, last = data.draw(st.sampled_from(ways))
    inside: Any = proof
    for step in path:
        inside = inside[step]
    inside[last] = changed(inside[last], data.draw(st.integers(0, 500)))
    with pytest.raises((verifier.Wrong, ValueError, OverflowError)):
        verifier.check_proof(proof, keys)


# Heads that go on


def test_a_later_head_goes_on_from_an_earlier_one(kept: Path, library: Library) -> None:
    proof = library.consistency(Note.parse((kept / "first").read_text()), library.note())
    said = continued.check_growth(proof, verifier.Keys.of(proof["keys"]))
    assert said[1] == "and so does each of the 3 partitions under it"


# Exports


def test_an_export_holds_as_a_whole(exported: Path) -> None:
    report = verifier.verify(exported)
    assert report.ok, report.wrong
    assert report.checked[1:] == [
        f"{topic}-{partition}: all {len(LOG[topic, partition])} records are those of the tree"
        for topic, partition in PLACES
    ]


def test_processes_that_share_an_export_find_what_one_finds(exported: Path, tmp_path: Path) -> None:
    """In the same order, and up to the same end where a partition is under no head."""
    copy = tmp_path / "copy"
    shutil.copytree(exported, copy)
    lines = (copy / RECORDS).read_text().splitlines(keepends=True)
    (copy / RECORDS).write_text("".join(edited(lines)))
    astray = tmp_path / "astray"
    shutil.copytree(copy, astray)
    manifest = json.loads((astray / "manifest.json").read_text())
    manifest["partitions"].insert(1, ["nowhere", 0])
    (astray / "manifest.json").write_text(json.dumps(manifest))
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        for folder in (exported, copy, astray):
            assert verifier.verify(folder, None, pool.map) == verifier.verify(folder)
    assert verifier.verify(copy).wrong and "nowhere-0" in verifier.verify(astray).wrong[-1]


def test_the_command_says_the_same_with_any_number_of_processes(
    exported: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = []
    for jobs in (1, 2):
        verify_(exported, jobs=jobs)
        said.append(capsys.readouterr().out)
    assert said[0] == said[1] and "all 300 records" in said[0]


def test_a_partition_that_nobody_checked_is_missed(exported: Path) -> None:
    def forgetful(check: Any, *of: Any) -> list[str]:
        return list(map(check, *of))[:-1]

    assert not verifier.verify(exported, None, forgetful).ok


def test_it_is_checked_without_the_spine(exported: Path, tmp_path: Path) -> None:
    """Two files copied out, another interpreter, no path to the spine."""
    home = Path(verifier.__file__).parent
    for name in ("verifier.py", "exported.py"):
        shutil.copy(home / name, tmp_path / name)
    command = [sys.executable, "-P", "-c"]
    script = (
        f"import sys; sys.path[:] = [p for p in sys.path if 'site-packages' in p or 'lib' in p]\n"
        f"sys.modules['spine'] = None\nsys.path.insert(0, {str(tmp_path)!r})\n"
        f"sys.argv = ['verifier.py', {str(exported)!r}]\n"
        "import runpy; runpy.run_path(sys.path[0] + '/verifier.py', run_name='__main__')"
    )
    done = subprocess.run([*command, script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "all 300 records are those of the tree" in done.stdout


def test_a_copy_says_what_is_wrong_where_the_spine_is_installed_too(
    exported: Path, tmp_path: Path
) -> None:
    """And goes by itself there, and not by the one that is installed."""
    home, copies, cut = Path(verifier.__file__).parent, tmp_path / "copies", tmp_path / "cut"
    copies.mkdir()
    for name in ("verifier.py", "exported.py"):
        shutil.copy(home / name, copies / name)
    shutil.copytree(exported, cut)
    (cut / "manifest.json").unlink()
    command = [sys.executable, str(copies / "verifier.py"), str(cut)]
    root = {"PYTHONPATH": str(home.parents[1])}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=root)
    assert (done.returncode, done.stdout) == (6, "")
    assert done.stderr == "WRONG  the export was not finished: it has no manifest\n"


RECORDS = "partitions/consumers.events.v1/0/records.jsonl"


def with_lines(exported: Path, folder: Path, change: Any) -> list[str]:
    """What is wrong with a copy of the export in which the lines of one partition were changed."""
    shutil.copytree(exported, folder)
    path = folder / RECORDS
    path.write_text("".join(change(path.read_text().splitlines(keepends=True))))
    return verifier.verify(folder).wrong


def edited(lines: list[str]) -> list[str]:
    record = json.loads(lines[7])
    record["value"] = b64encode(b"edited").decode()
    return [*lines[:7], json.dumps(record) + "\n", *lines[8:]]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (edited, "record of leaf 7 (offset 7) is not what the tree holds: edited or another one"),
        (lambda ls: ls[:7] + ls[8:], "record of leaf 7 (offset 7) is missing"),
        (lambda ls: ls[:-1], "record of leaf 299 (offset 299) is missing"),
        (
            lambda ls: [*ls[:7], ls[8], ls[7], *ls[9:]],
            "record of leaf 7 (offset 7) is out of order: leaf +1 stands there",
        ),
        (
            lambda ls: [*ls[:7], ls[6], *ls[7:]],
            "record of leaf 7 (offset 7) is there, but the one before it stands there twice",
        ),
        (lambda ls: [*ls, ls[-1]], "a record stands after the last one, leaf 299"),
    ],
    ids=["edited", "missing", "cut off", "reordered", "doubled", "one too many"],
)
def test_a_changed_record_is_found_and_named(
    exported: Path, tmp_path: Path, change: Any, said: str
) -> None:
    assert with_lines(exported, tmp_path / "copy", change) == [f"consumers.events.v1-0: {said}"]


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_no_single_byte_of_an_export_can_be_changed(
    exported: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    keys = verifier.Keys.of(json.loads((exported / "manifest.json").read_text())["keys"])
    whole = [p for p in sorted(exported.rglob("*")) if p.is_file() and p.suffix != ".json"]
    path = data.draw(st.sampled_from(whole))
    raw = path.read_bytes()
    at, by = data.draw(st.integers(0, len(raw) - 1)), data.draw(st.integers(1, 255))
    written = raw[:at] + bytes([raw[at] ^ by]) + raw[at + 1 :]
    if path.suffix == ".jsonl" and means_the_same(raw, written):
        return
    try:
        path.write_bytes(written)
        report = verifier.verify(exported, keys)
    finally:
        path.write_bytes(raw)
    assert report.wrong, (path.name, at, by)


@pytest.mark.parametrize("end", ["", "\v", "\r\n", "\n\n", "\N{LINE SEPARATOR}"])
def test_a_checkpoint_ends_in_one_newline(exported: Path, end: str) -> None:
    keys = verifier.Keys.of(json.loads((exported / "manifest.json").read_text())["keys"])
    raw = (exported / "checkpoint").read_text()
    assert verifier.check_note(raw, keys).size
    with pytest.raises((verifier.Wrong, ValueError)):
        verifier.check_note(raw.removesuffix("\n") + end, keys)


def means_the_same(one: bytes, other: bytes) -> bool:
    """Whether two files of lines differ in blanks only."""
    try:
        return all(
            json.loads(before) == json.loads(after)
            for before, after in zip(one.splitlines(), other.splitlines(), strict=True)
        )
    except ValueError:
        return False


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(writes=st.integers(0, 40))
def test_an_export_that_was_killed_is_not_finished_and_can_be_made_again(
    writes: int,
    library: Library,
    exported: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Over one that was whole: what a kill leaves must never pass for it, nor blame the log."""
    folder = tmp_path_factory.mktemp("killed") / "export"
    shutil.copytree(exported, folder)
    left = writes

    def step() -> None:
        nonlocal left
        if not left:
            raise Killed
        left -= 1

    def dying(path: Path, content: bytes, *, sync: bool) -> None:
        step()
        write_whole(path, content, sync=sync)

    def read(place: Place) -> Iterator[LogRecord]:
        for number, one in enumerate(records_of(place)):
            if number % 50 == 0:
                step()
            yield one

    finished = True
    with monkeypatch.context() as patch:
        patch.setattr("spine.ledger.library.write_whole", dying)
        try:
            library.export(folder, PLACES, read)
        except Killed:
            finished = False
    wrong = verifier.verify(folder).wrong
    assert wrong == ([] if finished else ["the export was not finished: it has no manifest"])
    library.export(folder, PLACES, records_of)
    assert verifier.verify(folder).ok


def test_a_ledger_rewritten_with_a_new_key_is_not_the_one_that_was_kept(
    exported: Path, tmp_path: Path
) -> None:
    """Whoever holds the log may write it anew, and sign that; not with a key that others know."""
    with pytest.raises(LogUnfit, match="signed by another key"):
        Book(a_known_ledger(tmp_path), NEW_KEY, NEW_PRIVATE.sign, PLACES)
    anew = Book(tmp_path / "anew", NEW_KEY, NEW_PRIVATE.sign, PLACES)
    rewritten = [replace(r, value=b"rewritten") for records in LOG.values() for r in records]
    sealed_anew = sealed(anew, rewritten)
    published(anew, sealed_anew)
    keys = {"log": str(NEW_KEY), "witnesses": [], "quorum": 0}
    (anew.public / KEYS_FILE).write_text(json.dumps(keys))
    Library(anew.public).export(tmp_path / "export", PLACES)
    assert verifier.verify(tmp_path / "export").ok, "by the keys it brings along, it is in order"
    known = verifier.Keys.of(json.loads((exported / "manifest.json").read_text())["keys"])
    assert verifier.verify(tmp_path / "export", known).wrong == [
        "the log did not sign the checkpoint"
    ]
    witness = Witness(tmp_path / "witness", "first", KEY)
    with pytest.raises(Invalid, match="did not sign that"):
        witness.add(Library(anew.public).growth(0, sealed_anew.note))


def a_known_ledger(folder: Path) -> Path:
    """A ledger under the key that is known, with something in it."""
    book = open_book(folder / "ledger")
    published(book, sealed(book, [record(0)]))
    return folder / "ledger"


def test_a_manifest_left_behind_would_blame_the_log(
    library: Library, exported: Path, tmp_path: Path
) -> None:
    """The naive export, which writes records after it has said that they are there."""
    library.export(tmp_path, PLACES)
    shutil.copy(exported / "manifest.json", tmp_path)
    assert verifier.verify(tmp_path).wrong == [
        f"{topic}-{partition}: missing: records.jsonl" for topic, partition in PLACES
    ]


@pytest.mark.parametrize("name", ["checkpoint", "heads.json", "manifest.json", RECORDS])
def test_a_file_that_is_missing_is_missed(exported: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(exported, tmp_path / "copy")
    (tmp_path / "copy" / name).unlink()
    assert verifier.verify(tmp_path / "copy").wrong


@pytest.mark.parametrize("text", ["", "{}", "[]", "nonsense", '{"format": 1}', "null"])
def test_what_is_no_proof_is_said_to_be_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "file").write_text(text)
    assert verifier.verify(tmp_path / "file").wrong
    assert verifier.verify(tmp_path / "not there").wrong


def test_a_folder_of_proofs_is_checked_one_by_one(library: Library, tmp_path: Path) -> None:
    prover = library.prover()
    for offset in (3, 4):
        proof = prover.prove(PLACES[0], offset)
        (tmp_path / f"000{offset}.json").write_text(json.dumps(proof))
    assert verifier.verify(tmp_path).checked == [
        f"000{offset}.json: consumers.events.v1-0@{offset} is leaf {offset} of them"
        for offset in (3, 4)
    ]
    proof["record"]["index"] = 5
    (tmp_path / "0004.json").write_text(json.dumps(proof))
    report = verifier.verify(tmp_path)
    assert report.wrong == ["0004.json: consumers.events.v1-0@4: the path leads to another root"]
    assert not verifier.verify(tmp_path / "empty").ok
