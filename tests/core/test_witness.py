"""A witness cosigns what goes on from what it has seen, and nothing else."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Callable
from contextlib import suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
import structlog
from aiohttp import ClientSession
from aiohttp.test_utils import TestClient, TestServer

from spine.config import Settings
from spine.console.health import status_of_witness
from spine.errors import Invalid, Pushback, Reason, Refused
from spine.ledger import continued, verifier
from spine.ledger.book import Book, Sealed
from spine.ledger.files import StoredTree
from spine.ledger.library import Library
from spine.ledger.note import Checkpoint, Note, VerifierKey, parse_signature
from spine.ledger.witness import Fork, NotNow, Unfit, Unproven, Witness
from spine.ledger.witnessing import WitnessServer, _served, local_witnesses
from spine.signing import verify
from spine.whereabouts import service_target
from tests.helpers.ledger import KEY, PLACES, open_book, record, sealed

FORKED = "a fork: another head of the same size was cosigned before\n"
FIRST = "partitions/consumers.events.v1/0"


def witness(folder: Path, key: VerifierKey = KEY) -> Witness:
    folder.mkdir(exist_ok=True)
    return Witness(folder, "example.com/w", key, now=lambda: 1_767_225_600)


def full(*_: Any, **__: Any) -> None:
    """In place of what writes a file."""
    raise OSError(errno.ENOSPC, "No space left on device")


def growth(book: Book, old: int, made: Sealed) -> dict[str, Any]:
    return Library(book.public).growth(old, made.note)


@pytest.fixture
def book(tmp_path: Path) -> Book:
    return open_book(tmp_path / "ledger")


def test_it_cosigns_what_goes_on(book: Book, tmp_path: Path) -> None:
    one = witness(tmp_path / "w")
    for size, start in ((0, 0), (1, 10), (2, 400)):
        made = sealed(book, [record(n) for n in range(start, start + 300)])
        line = one.add(growth(book, size, made))
        assert one.size == made.head.size == size + 1
        note = made.note.with_signatures([parse_signature(line)])
        assert note.signed_by(one.key, verify) == 1_767_225_600


def test_the_same_head_again_is_cosigned_again(book: Book, tmp_path: Path) -> None:
    one, made = witness(tmp_path / "w"), sealed(book, [record(0)])
    first = one.add(growth(book, 0, made))
    assert one.add(growth(book, 1, made)) == first


def test_it_says_where_it_stands(book: Book, tmp_path: Path) -> None:
    one, made = witness(tmp_path / "w"), sealed(book, [record(0)])
    one.add(growth(book, 0, made))
    later = sealed(book, [record(1)])
    with pytest.raises(NotNow) as refused:
        one.add(growth(book, 0, later))
    assert refused.value.size == 1
    one.add(growth(book, 1, later))


@pytest.mark.parametrize("place", PLACES[:2], ids=str)
def test_a_path_where_nothing_grew_shows_nothing(
    book: Book, tmp_path: Path, place: tuple[str, int]
) -> None:
    one = witness(tmp_path / "w")
    one.add(growth(book, 0, sealed(book, [record(0), record(0, PLACES[1])])))
    request = growth(book, 1, sealed(book, [record(1, PLACES[2])]))
    request["growth"][f"{place[0]}-{place[1]}"] = [b64encode(bytes(32)).decode()]
    with pytest.raises(Unproven, match="there is nothing to prove"):
        one.add(request)


def forked(book: Book, tmp_path: Path, says: str = "") -> Book:
    """The same ledger, copied before it went on: with the log's own key."""
    shutil.copytree(tmp_path / "ledger", tmp_path / f"fork{says}")
    return open_book(tmp_path / f"fork{says}")


def naive(one: Witness, note: Note, request: dict[str, Any]) -> None:
    """A witness that looks at the log's signature and at the size, and keeps no root."""
    assert note.signed_by(KEY, verify) == 0
    assert Checkpoint.parse(note.text).size >= request["old"]


def test_a_forked_log_is_refused_and_both_heads_are_kept(book: Book, tmp_path: Path) -> None:
    one = witness(tmp_path / "w")
    one.add(growth(book, 0, sealed(book, [record(0)])))
    fork = forked(book, tmp_path)
    honest, other = sealed(book, [record(1)]), sealed(fork, [record(1, says="other")])
    one.add(growth(book, 1, honest))
    request = growth(fork, 1, other)
    naive(one, other.note, request)
    with pytest.raises(Fork, match="another head of the same size"):
        one.add(request)
    further = sealed(fork, [record(2)])
    with pytest.raises(Unproven, match="not shown to go on"):
        one.add(growth(fork, 1, further) | {"old": 2})
    assert one.size == 2 and one.alarms == 1
    for path in (tmp_path / "w/evidence").iterdir():
        kept = json.loads(path.read_text())
        heads = [Note.parse(kept[side]) for side in ("cosigned", "refused")]
        assert all(head.signed_by(KEY, verify) == 0 for head in heads)
        assert heads[0].text != heads[1].text


def test_a_fork_is_told_where_the_disk_is_full_and_no_evidence_is_written_over(
    book: Book, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = witness(tmp_path / "w")
    one.add(growth(book, 0, sealed(book, [record(0)])))
    forks = [forked(book, tmp_path, f"-{n}") for n in range(3)]
    one.add(growth(book, 1, sealed(book, [record(1)])))
    kept = dict[str, bytes]()
    for n, fork in enumerate(forks):
        other = sealed(fork, [record(1, says=str(n))])
        with monkeypatch.context() as patch, structlog.testing.capture_logs() as logged:
            if n == 0:
                patch.setattr("spine.ledger.witness.write_whole", full)
            server = WitnessServer(witness(tmp_path / "w"))
            answer = server._answer(json.dumps(growth(fork, 1, other)).encode())
        assert (answer.status, answer.text) == (422, FORKED)
        (told,) = [line for line in logged if line["event"] == "witness.fork"]
        assert Note.parse(told["cosigned"]).text != Note.parse(told["refused"]).text
        now = kept_in(tmp_path / "w/evidence") if n else {}
        assert len(now) == n and now.items() >= kept.items()
        kept = now


def test_a_partition_that_was_rewritten_is_refused(book: Book, tmp_path: Path) -> None:
    """The epochs go on, as the log's own key can make them; the partition under them does not."""
    one = witness(tmp_path / "w")
    first = sealed(book, [record(n) for n in range(20)])
    one.add(growth(book, 0, first))
    fork = forked(book, tmp_path)
    shutil.rmtree(fork.public / FIRST)
    fork._trees[PLACES[0]] = StoredTree(fork.public / FIRST)
    fork._next[PLACES[0]] = 0
    rewritten = sealed(fork, [record(n, says="rewritten") for n in range(25)])
    request = growth(fork, 1, rewritten)
    path = verifier.hashes_of(request["path"])
    continued.check_consistency(1, first.head.root, 2, rewritten.head.root, path)
    with pytest.raises(Unproven, match="v1-0: the older tree is not the beginning"):
        one.add(request)


def test_a_partition_cannot_go_or_shrink(book: Book, tmp_path: Path) -> None:
    one = witness(tmp_path / "w")
    one.add(growth(book, 0, sealed(book, [record(n) for n in range(20)])))
    for size in (19, None):
        fork = forked(book, tmp_path, f"-{size}")
        head = fork._heads.pop(PLACES[0])
        if size is not None:
            fork._heads[PLACES[0]] = type(head)(*PLACES[0], size, head.root)
        made = sealed(fork, [record(0, PLACES[1])])
        request = growth(fork, 1, made)
        request["heads"] = [
            {"topic": h.topic, "partition": h.partition, "size": h.size, "root": encoded(h.root)}
            for h in made.heads
        ]
        with pytest.raises(Fork, match=r"shrunk|gone"):
            one.add(request)


def encoded(root: bytes) -> str:
    return b64encode(root).decode()


def test_what_it_cosigned_is_on_its_disk_before_the_answer(
    book: Book, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, made = witness(tmp_path / "w"), sealed(book, [record(0)])
    monkeypatch.setattr("spine.ledger.witness.cosign", lambda *_: pytest.fail("too early"))

    with monkeypatch.context() as patch:
        patch.setattr("spine.ledger.witness.write_whole", full)
        with pytest.raises(OSError, match="No space left"):
            one.add(growth(book, 0, made))
    assert witness(tmp_path / "w").size == 0


def test_killed_and_started_again_it_stands_where_it_stood(book: Book, tmp_path: Path) -> None:
    made = sealed(book, [record(0)])
    witness(tmp_path / "w").add(growth(book, 0, made))
    again = witness(tmp_path / "w")
    assert again.size == 1 and Note.parse(again.note).text == made.note.text
    fork = open_book(tmp_path / "other")
    with pytest.raises(Fork, match="same size"):
        again.add(growth(fork, 0, sealed(fork, [record(0, says="other")])) | {"old": 1})


def edited(state: Path, **values: Any) -> None:
    """The state as something else; of a build that kept no digest of it."""
    kept = json.loads(state.read_text()) | values
    del kept["sha256"]
    state.write_text(json.dumps(kept))


def another_key(folder: Path) -> None:
    """The key of a witness that began again, where the first one's state is."""
    witness(folder.with_name("fresh"))
    shutil.copy(folder.with_name("fresh") / "witness.key", folder / "witness.key")


def one_byte(state: Path) -> None:
    """The root of a partition's head turned by a bad disk; it still reads as one."""
    kept = json.loads(state.read_text())
    kept["heads"][0]["root"] = encoded(bytes(32))
    state.write_text(json.dumps(kept))


def unknown_kind(key: Path) -> None:
    """One byte of it turned, in what says of which kind it is."""
    raw = key.read_bytes()
    key.write_bytes(raw[:40] + b"g" + raw[41:])


def a_folder(state: Path) -> None:
    state.unlink()
    state.mkdir()


DAMAGE: dict[str, Callable[[Path], object]] = {
    "no state": lambda w: (w / "state.json").unlink(),
    "no key": lambda w: (w / "witness.key").unlink(),
    "half a state": lambda w: os.truncate(w / "state.json", 100),
    "an empty state": lambda w: (w / "state.json").write_bytes(b""),
    "no text": lambda w: (w / "state.json").write_bytes(b"\xff\xfe"),
    "a list": lambda w: (w / "state.json").write_text("[]"),
    "an older size": lambda w: edited(w / "state.json", size=0),
    "no head": lambda w: edited(w / "state.json", note=""),
    "another note": lambda w: edited(w / "state.json", note="x"),
    "heads that say nothing": lambda w: edited(w / "state.json", heads=[{}]),
    "a byte of a head": lambda w: one_byte(w / "state.json"),
    "half a key": lambda w: os.truncate(w / "witness.key", 60),
    "an empty key": lambda w: os.truncate(w / "witness.key", 0),
    "a key of an unknown kind": lambda w: unknown_kind(w / "witness.key"),
    "another key": another_key,
    "a folder in its place": lambda w: a_folder(w / "state.json"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_witness_whose_folder_is_not_whole_signs_nothing_until_it_is(
    book: Book, tmp_path: Path, what: str
) -> None:
    one = witness(tmp_path / "w")
    one.add(growth(book, 0, sealed(book, [record(n) for n in range(20)])))
    shutil.copytree(tmp_path / "w", tmp_path / "whole")
    DAMAGE[what](tmp_path / "w")
    before = kept_in(tmp_path / "w")
    for _ in range(2):
        with pytest.raises(Unfit, match="signs nothing") as refused:
            witness(tmp_path / "w")
        assert refused.value.reason is Reason.WITNESS_UNFIT
        assert kept_in(tmp_path / "w") == before, "and changes nothing"
    again = witness(tmp_path / "whole")
    again.add(growth(book, 1, sealed(book, [record(30)])))
    assert again.key == one.key


def kept_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_a_witness_that_was_killed_as_it_began_begins(book: Book, tmp_path: Path) -> None:
    """It had seen nothing, and there was no key yet that could have signed."""
    witness(tmp_path / "w")
    (tmp_path / "w/witness.key").unlink()
    edited(tmp_path / "w/state.json")
    made = json.loads((tmp_path / "w/state.json").read_text())
    del made["key"]
    (tmp_path / "w/state.json").write_text(json.dumps(made))
    witness(tmp_path / "w").add(growth(book, 0, sealed(book, [record(0)])))


def test_a_witness_of_an_earlier_build_goes_on_and_keeps_more_from_then_on(
    book: Book, tmp_path: Path
) -> None:
    witness(tmp_path / "w").add(growth(book, 0, sealed(book, [record(0)])))
    edited(tmp_path / "w/state.json")
    kept = json.loads((tmp_path / "w/state.json").read_text())
    del kept["key"]
    (tmp_path / "w/state.json").write_text(json.dumps(kept))
    assert witness(tmp_path / "w").size == 1
    another_key(tmp_path / "w")
    with pytest.raises(Unfit, match="its key is not the one"):
        witness(tmp_path / "w")


def test_a_witness_that_went_back_to_an_earlier_build_and_cosigned_goes_on(
    book: Book, tmp_path: Path
) -> None:
    """That build kept what it did not know as it was, and so a digest of an earlier head."""
    witness(tmp_path / "w").add(growth(book, 0, sealed(book, [record(0)])))
    state = tmp_path / "w/state.json"
    carried = json.loads(state.read_text())
    second = sealed(book, [record(1)])
    one = witness(tmp_path / "w")
    one.add(growth(book, 1, second))
    newer = json.loads(state.read_text())
    state.write_text(
        json.dumps(carried | {name: newer[name] for name in ("size", "note", "heads")})
    )
    again = witness(tmp_path / "w")
    assert again.size == 2 and again.key == one.key
    state.write_text(json.dumps(newer | {"size": 1, "note": carried["note"]}))
    with pytest.raises(Unfit, match="damaged"):  # nor is it an earlier head than it signed
        witness(tmp_path / "w")
    unsigned = newer["note"].replace("\n\n", "\nanother\n\n", 1)
    state.write_text(json.dumps(newer | {"note": unsigned, "sha256_at": 1}))
    with pytest.raises(Unfit, match="damaged"):
        witness(tmp_path / "w")
    state.write_text(json.dumps(newer | {"sha256": carried["sha256"]}))
    with pytest.raises(Unfit, match="damaged"):
        witness(tmp_path / "w")


def test_the_page_says_how_one_that_carried_an_undated_digest_along_goes_on(
    book: Book, tmp_path: Path
) -> None:
    """A build kept a digest without where it was taken, and one before it left that as it was."""
    one, state = witness(tmp_path / "w"), tmp_path / "w/state.json"
    for size in range(2):
        one.add(growth(book, size, sealed(book, [record(size)])))
        kept = json.loads(state.read_text())
        if size == 0:
            del kept["sha256_at"]
            whole = json.dumps(kept, sort_keys=True).encode()
            carried = hashlib.sha256(whole).hexdigest()
    page = (Path(__file__).parents[2] / "docs/ledger.md").read_text("utf-8")
    (code,) = re.findall(r"^\$ python3 -c '(.*)' witnesses/NAME/state.json$", page, re.M)

    def done() -> int:
        return subprocess.run(
            [sys.executable, "-c", code, state], stderr=subprocess.DEVNULL
        ).returncode

    assert done() != 0 and json.loads(state.read_text()) == kept, "its digest says something"
    del kept["sha256_at"]
    state.write_text(json.dumps(kept | {"sha256": carried}))
    with pytest.raises(Unfit, match="damaged"):
        witness(tmp_path / "w")
    assert done() == 0
    again = witness(tmp_path / "w")
    assert again.size == 2 and again.key == one.key
    again.add(growth(book, 2, sealed(book, [record(2)])))
    assert witness(tmp_path / "w").size == 3


def started(data_dir: Path) -> subprocess.Popen[str]:
    own = {"SPINE_DATA_DIR": str(data_dir), "SPINE_WITNESS_LOG_KEY": str(KEY)}
    return subprocess.Popen(
        [sys.executable, "-m", "spine.ledger.witnessing", "w"],
        env=os.environ | own,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_the_process_stays_and_says_why_it_signs_nothing(book: Book, tmp_path: Path) -> None:
    folder = tmp_path / "data/witnesses/w"
    folder.parent.mkdir(parents=True)
    witness(folder).add(growth(book, 0, sealed(book, [record(0)])))
    os.truncate(folder / "state.json", 100)
    process = started(tmp_path / "data")
    try:
        announced, until = tmp_path / "data/services/witness-w.json", time.monotonic() + 30
        while not announced.exists():
            assert time.monotonic() < until and process.poll() is None
            time.sleep(0.05)
        why = "WITNESS_UNFIT: this witness signs nothing: what it has seen is damaged"
        assert status_of_witness(tmp_path / "data", "witness-w") == f"NOT_SERVING {why}"
        where = HTTPConnection(service_target(tmp_path / "data", "witness-w"), timeout=5)
        for method, path in (("POST", "/add-heads"), ("GET", "/checkpoint"), ("GET", "/key")):
            where.request(method, path, body=b"{}")
            answer = where.getresponse()
            assert (answer.status, answer.read().decode()) == (503, f"NOT_SERVING {why}\n")
        where.close()
        assert local_witnesses(tmp_path / "data") == {}
    finally:
        process.terminate()
        _, said = process.communicate(timeout=30)
    (line,) = [line for line in said.splitlines() if "witness.unfit" in line]
    assert "WITNESS_UNFIT" in line


def test_a_folder_that_cannot_be_used_is_opened_again_until_it_can_be(tmp_path: Path) -> None:
    folder = tmp_path / "data/witnesses/w"
    folder.parent.mkdir(parents=True)
    folder.touch()
    process, said = started(tmp_path / "data"), list[str]()
    try:
        for begins in ("NOT_SERVING WITNESS_UNFIT", "SERVING"):
            until = time.monotonic() + 30
            while not said or not said[-1].startswith(begins):
                assert time.monotonic() < until and process.poll() is None, said
                time.sleep(0.05)
                with suppress(Pushback):
                    said.append(status_of_witness(tmp_path / "data", "witness-w"))
            if folder.is_file():
                folder.unlink()
    finally:
        process.terminate()
        _, logged = process.communicate(timeout=30)
    assert "its folder cannot be used: File exists" in said[0]
    assert logged.count("witness.unfit") == logged.count("witness.ready") == 1
    assert process.returncode == 0


async def test_a_witness_that_cannot_say_where_it_listens_serves(
    book: Book, tmp_path: Path
) -> None:
    (tmp_path / "services").touch()
    chosen = Settings(data_dir=tmp_path)
    with structlog.testing.capture_logs() as logged:
        async with _served(witness(tmp_path / "w"), chosen, "w"), ClientSession() as client:
            (port,) = [line["port"] for line in logged if line["event"] == "witness.not_announced"]
            url = f"http://{chosen.listen_host}:{port}/add-heads"
            async with client.post(url, json=growth(book, 0, sealed(book, [record(0)]))) as answer:
                assert answer.status == 200


async def test_a_witness_that_cannot_write_says_so_until_it_can_and_shows_no_head_meanwhile(
    book: Book, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = witness(tmp_path / "w")
    one.add(growth(book, 0, sealed(book, [record(0)])))
    cosigned, fork = one.note, forked(book, tmp_path)
    body = json.dumps(growth(book, 1, sealed(book, [record(1)]))).encode()
    other = json.dumps(growth(fork, 1, sealed(fork, [record(1, says="other")]))).encode()
    async with TestClient(TestServer(WitnessServer(one).app)) as client:
        for broken, status in ((True, 503), (False, 200)):
            with monkeypatch.context() as patch:
                if broken:
                    patch.setattr("spine.ledger.witness.write_whole", full)
                    with structlog.testing.capture_logs() as logged:
                        for _ in range(3):
                            await client.post("/add-heads", data=body)
                    assert [line["event"] for line in logged] == ["witness.stuck"]
                added = await client.post("/add-heads", data=body)
            health, checkpoint = await client.get("/health"), await client.get("/checkpoint")
            assert {added.status, health.status, checkpoint.status} == {status}
            assert (await health.text()).startswith("NOT_SERVING WITNESS_UNFIT" * broken or "SERV")
            assert (one.note == cosigned) is broken
            # What it has checked and could not keep is no reason to cosign another such head.
            assert (await client.post("/add-heads", data=other)).status == 422


def test_it_watches_over_one_log(book: Book, tmp_path: Path) -> None:
    made = sealed(book, [record(0)])
    request = growth(book, 0, made)
    stranger = VerifierKey(KEY.name, KEY.kind, bytes(32))
    with pytest.raises(Invalid, match="did not sign"):
        witness(tmp_path / "w", stranger).add(request)
    witness(tmp_path / "v").add(request)
    with pytest.raises(Refused, match="another log"):
        witness(tmp_path / "v", stranger)


def test_a_wrong_proof_of_an_honest_head_is_no_alarm(book: Book, tmp_path: Path) -> None:
    """Anybody can read a head and send it to a witness with any proof."""
    one = witness(tmp_path / "w")
    one.add(growth(book, 0, sealed(book, [record(0)])))
    request = growth(book, 1, sealed(book, [record(1)]))
    for part in ("path", "growth", "heads"):
        with pytest.raises(Unproven):
            one.add(request | {part: type(request[part])()})
    one.add(request)
    assert one.size == 2 and one.alarms == 0


def doubled(request: dict[str, Any]) -> list[Any]:
    """The heads, and before them one of the same partition that no log can ever continue."""
    first = request["heads"][0]
    return [first | {"size": 10**9, "root": encoded(bytes(32))}, *request["heads"]]


def test_a_stranger_who_names_a_partition_twice_does_not_stop_it(
    book: Book, tmp_path: Path
) -> None:
    """The published head sent once more, with a head of a stranger's before the true one."""
    one, other = witness(tmp_path / "w"), witness(tmp_path / "naive")
    made = sealed(book, [record(0)])
    for each in (one, other):
        each.add(growth(book, 0, made))
    again = growth(book, 1, made)
    with pytest.raises(Unproven, match="not those of the epoch"):
        one.add(again | {"heads": doubled(again)})
    other._state["heads"] = doubled(again)  # as the naive one keeps what it was sent
    later = growth(book, 1, sealed(book, [record(1)]))
    with pytest.raises(Fork, match="shrunk"):
        other.add(later)
    one.add(later)
    assert one.size == 2 and one.alarms == 0


def test_of_a_head_nothing_is_kept_but_what_was_checked(book: Book, tmp_path: Path) -> None:
    one = witness(tmp_path / "w")
    request = growth(book, 0, sealed(book, [record(0)]))
    more = [
        each | {"more": "x" * 1000} | ({"partition": True} if each["partition"] == 1 else {})
        for each in request["heads"]
    ]
    one.add(request | {"heads": more})
    kept = json.loads((tmp_path / "w/state.json").read_text())["heads"]
    assert json.dumps(kept) == json.dumps(request["heads"])


def test_a_head_that_was_not_shown_to_go_on_is_kept_until_it_is(
    book: Book, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once for each text, as many as there is room for; the fork's stays, and is called none."""
    one = witness(tmp_path / "w")
    one.add(growth(book, 0, sealed(book, [record(0)])))
    fork = forked(book, tmp_path)
    honest = growth(book, 1, sealed(book, [record(1)]))
    sealed(fork, [record(1, says="other")])
    other = growth(fork, 2, sealed(fork, [record(2)])) | {"old": 1}
    third = growth(fork, 3, sealed(fork, [record(3)])) | {"old": 1}
    monkeypatch.setattr("spine.ledger.witness.UNPROVEN_MAX", 2)
    for request in (honest | {"path": []}, other, other, third):
        with pytest.raises(Unproven):
            one.add(request)
    one.add(honest)
    (kept,) = (json.loads(path.read_text()) for path in (tmp_path / "w/unproven").iterdir())
    assert kept["unproven"] == other["note"] and kept["why"]
    assert witness(tmp_path / "w").alarms == one.alarms == 0


@pytest.mark.parametrize(
    "change",
    [
        {"note": ""},
        {"note": 7},
        {"old": "x"},
        {"old": float("inf")},
        {"heads": None},
        {"heads": [{}]},
        {"growth": []},
        {"path": "x"},
        {"epoch": {}},
    ],
    ids=str,
)
def test_nonsense_is_invalid_and_no_alarm(
    book: Book, tmp_path: Path, change: dict[str, Any]
) -> None:
    one = witness(tmp_path / "w")
    one.add(growth(book, 0, sealed(book, [record(0)])))
    request = growth(book, 1, sealed(book, [record(1)])) | change
    with pytest.raises((Invalid, NotNow)):
        one.add(request)
    assert one.size == 1 and one.alarms == 0
