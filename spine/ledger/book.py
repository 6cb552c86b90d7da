"""The book: a tree for each partition, epochs over all of them, a signed head that only grows.

What is signed is on the disk before anybody sees it, so a process that is killed goes on from it.
The leaves themselves may be lost with the power: the log has them, and a tree made again must lead
to the root that was signed, or the log below it is another one and nothing is signed any more.
"""

from __future__ import annotations

import json
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import structlog

from spine.errors import Reason
from spine.event import LogRecord
from spine.files import write_whole
from spine.ledger import note as notes
from spine.ledger.entries import (
    ENTRY_BYTES_MAX,
    Epoch,
    Head,
    Place,
    RecordLeaf,
    epoch_after,
    record_entry,
)
from spine.ledger.files import StoredTree
from spine.ledger.note import Checkpoint, Note, VerifierKey
from spine.ledger.tree import EMPTY_ROOT, Proofs
from spine.log import LogUnfit

STATE_FILE: Final = "state.json"
PUBLIC: Final = "public"
CHECKPOINT_FILE: Final = "checkpoint"
KEYS_FILE: Final = "keys.json"
EVIDENCE: Final = "evidence"
_log = structlog.get_logger()


def origin_of(log_id: bytes) -> str:
    """The name of a log's ledger, in checkpoints and of its key."""
    return f"energyos.spine/log/{log_id.hex()}"


@dataclass(frozen=True, slots=True)
class Growth:
    """What shows that an epoch goes on from another: paths of consistency, of the epochs and of
    each partition that has grown, and the new epoch with its path under the new head.
    """

    path: Sequence[bytes]
    entry: bytes
    entry_path: Sequence[bytes]
    partitions: Mapping[Place, Sequence[bytes]]


@dataclass(frozen=True, slots=True)
class Sealed:
    """An epoch that is signed and kept: its head, signed by the log alone, and what is under it.

    `growth` takes a witness there from the epoch before, where that was at hand.
    """

    head: Checkpoint
    note: Note
    heads: tuple[Head, ...]
    growth: Growth | None = None

    def growth_since(self, epochs: int) -> Growth | None:
        """What shows that it goes on from so many epochs; None if only the tiles tell."""
        return self.growth if epochs == self.head.size - 1 else None


class Book:
    """The ledger of one log in a folder. One writer; blocking."""

    def __init__(
        self, folder: Path, key: VerifierKey, sign: notes.Sign, places: Iterable[Place]
    ) -> None:
        """Open or begin it. LogUnfit(LOG_DIFFERS) if its own files contradict what was signed."""
        self._folder, self.key, self._sign = folder, key, sign
        self.public = folder / PUBLIC
        state = self._load()
        self._heads = {place: Head(*place, 0, EMPTY_ROOT) for place in sorted(places)}
        for topic, partition, size, root in state["heads"]:
            self._heads[topic, partition] = Head(topic, partition, size, bytes.fromhex(root))
        self._before = {(topic, partition): size for topic, partition, size, _ in state["heads"]}
        self._missing = dict[Place, Head]()
        self._trees = {place: self._open(head) for place, head in self._heads.items()}
        # The last entry of each tree, and the offset after it.
        self._last = {place: _last_entry(tree) for place, tree in self._trees.items()}
        self._next = {
            place: RecordLeaf.decode(entry).offset + 1 if entry else 0
            for place, entry in self._last.items()
        }
        self._epochs = self._open_epochs(state["epochs"], bytes.fromhex(state["root"]))
        self._note = Note.parse(state["note"]) if state["note"] else None
        self._grown: set[Place] = set()
        # What keys.json says, and what was there then.
        self._keys: tuple[object, object] = None, None

    @property
    def size(self) -> int:
        """Epochs that were signed."""
        return self._epochs.size

    @property
    def places(self) -> dict[Place, int]:
        """Every partition, and the offset from which its records are still missing."""
        return dict(self._next)

    @property
    def missing(self) -> list[Place]:
        """Partitions whose trees are made again and do not yet hold all that was signed."""
        return list(self._missing)

    @property
    def sealed_at_ms(self) -> int:
        """When the last epoch was sealed, by the clock of who sealed it; 0 before the first."""
        size = self._epochs.size
        return Epoch.decode(self._epochs.entry(size - 1, size)).at_ms if size else 0

    @property
    def sealed(self) -> Sealed | None:
        """The last epoch that was signed."""
        if self._note is None:
            return None
        heads = tuple(self._heads.values())
        return Sealed(Checkpoint.parse(self._note.text), self._note, heads)

    @property
    def published(self) -> Note | None:
        """The head that was last published."""
        try:
            return Note.parse((self.public / CHECKPOINT_FILE).read_text("utf-8"))
        except FileNotFoundError:
            return None

    def last_leaves(self) -> list[RecordLeaf]:
        """The last leaf of every tree that has one: what the log must still hold there."""
        return [RecordLeaf.decode(entry) for entry in self._last.values() if entry]

    def append(self, record: LogRecord) -> None:
        """Take the next record of a partition; one that is in already is passed over."""
        place = (record.topic, record.partition)
        if record.offset < self._next[place]:
            return
        entry, tree = record_entry(record), self._trees[place]
        tree.append(entry)
        self._last[place], self._next[place] = entry, record.offset + 1
        self._grown.add(place)
        signed = self._missing.get(place)
        if signed is not None and tree.size == signed.size:
            if tree.root() != signed.root:
                self.keep_evidence(
                    "log-differs", {"signed": repr(signed), "root": tree.root().hex()}
                )
                raise _differs(f"{place[0]}-{place[1]} leads to another root than was signed")
            del self._missing[place]

    def ended(self, place: Place) -> None:
        """The log ends here. LogUnfit(LOG_DIFFERS) if more was signed of a partition made again."""
        signed = self._missing.get(place)
        if signed is not None:
            held = self._trees[place].size
            self.keep_evidence("log-differs", {"signed": repr(signed), "held": held})
            name = f"{place[0]}-{place[1]}"
            raise _differs(f"{name} ends after {held} records of the {signed.size} signed")

    def seal(self, at_ms: int) -> Sealed | None:
        """Sign what has come in; None if nothing has, or a tree is still being made again."""
        if not self._grown or self._missing:
            return None
        for place in self._grown:
            tree = self._trees[place]
            tree.flush()
            self._heads[place] = Head(*place, tree.size, tree.root())
        epoch = epoch_after(self._epochs.size, at_ms, list(self._heads.values()), self._before)
        entry = epoch.encode()
        if len(entry) > ENTRY_BYTES_MAX:
            raise LogUnfit(Reason.TOPIC_SETTINGS, "more partitions than one epoch can list")
        growth = self._growth(entry)
        self._epochs.flush()
        head = Checkpoint(self.key.name, self._epochs.size, self._epochs.root())
        self._note = Note(head.text(), (notes.sign(head.text(), self.key, self._sign),))
        self._save(head)
        self._before = {place: each.size for place, each in self._heads.items()}
        self._grown.clear()
        return Sealed(head, self._note, tuple(self._heads.values()), growth)

    def _growth(self, entry: bytes) -> Growth | None:
        """Take an epoch, and show what it goes on with while that is at hand; None if it is not."""
        size = self._epochs.size
        self._epochs.append(entry)
        epochs = self._epochs.continued(size)
        olds = {place: self._before.get(place, 0) for place in self._grown}
        grown = {place: self._trees[place].continued(old) for place, old in olds.items()}
        paths = {
            place: tree.consistency(olds[place])
            for place, tree in grown.items()
            if tree is not None and olds[place]
        }
        if epochs is None or any(tree is None for tree in grown.values()):
            return None
        return Growth(epochs.consistency(size), entry, epochs.inclusion(size), paths)

    def publish(self, note: Note) -> None:
        """Let everybody see a head; never one before another that was seen."""
        before = self.published
        if before is not None:
            sizes = [Checkpoint.parse(each.text).size for each in (before, note)]
            if sizes[1] < sizes[0]:
                raise _differs("a head that was published would go backwards")
        write_whole(self.public / CHECKPOINT_FILE, str(note).encode(), sync=True)

    def write_keys(self, listed: Sequence[str], quorum: int, verify: notes.Verify) -> None:
        """Say whose signatures a head of ours bears; an auditor compares it with what they know.

        A witness that is listed no longer is named until a head is published without it.
        """
        path = self.public / KEYS_FILE
        said = {"log": str(self.key), "witnesses": [*listed], "quorum": quorum}
        if self._keys == (said, _stands_as(path)):  # as at nearly every head: it is not even read
            return
        published = self.published
        try:
            before = json.loads(path.read_text("utf-8"))
            named = {key: VerifierKey.parse(key) for key in before["witnesses"]}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            before, named = None, {}
        bears = published.signed_by if published else lambda *_: None
        still = [k for k in named if k not in listed and bears(named[k], verify) is not None]
        said["witnesses"] = [*listed, *still]
        if said != before:
            write_whole(path, json.dumps(said).encode(), sync=True)
        self._keys = said, _stands_as(path)

    def check_published(self, note: Note | None, verify: notes.Verify) -> None:
        """LogUnfit(LOG_DIFFERS) unless this book goes on from a head of ours seen elsewhere."""
        if note is None or note.signed_by(self.key, verify) is None:
            return
        head = Checkpoint.parse(note.text)
        if head.size > self.size:
            self.keep_evidence("rolled-back", {"published": str(note), "ours": str(self._note)})
            raise _differs(
                f"epoch {head.size} was published, this folder ends at {self.size}: it was rolled "
                "back, or another ledger signs with its key"
            )
        if self.root_at(head.size) != head.root:
            self.keep_evidence("fork", {"published": str(note), "ours": str(self._note)})
            raise _differs(f"another epoch {head.size} was published under our key")

    def check_log(
        self, leaves: Iterable[RecordLeaf], read: Callable[[RecordLeaf], LogRecord | None]
    ) -> None:
        """LogUnfit(LOG_DIFFERS) unless the log still holds the records of these leaves of ours."""
        for leaf in leaves:
            record = read(leaf)
            if record is None or RecordLeaf.of(record) != leaf:
                name = f"{leaf.topic}-{leaf.partition}@{leaf.offset}"
                self.keep_evidence("log-differs", {"place": name, "leaf": leaf.encode().hex()})
                raise _differs(f"the log no longer holds the record at {name} that was signed")

    def root_at(self, size: int) -> bytes:
        """The root over the first epochs."""
        return Proofs(self._epochs, self._epochs.size).root(size)

    def keep_evidence(self, kind: str, content: dict[str, Any]) -> None:
        """Put what contradicts what on the disk, under a name of its own, and say so.

        Never an error: what was found is acted upon, also where a full disk cannot keep it.
        """
        folder = self._folder / EVIDENCE
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # In order of time, and another one for each thread: two may find something at once.
            path = folder / f"{kind}-{time.time_ns()}-{secrets.token_hex(4)}.json"
            write_whole(path, json.dumps(content, indent=2).encode(), sync=True)
        except OSError as error:
            _log.error("ledger.alarm", kind=kind, evidence=content, not_kept=str(error))
        else:
            _log.error("ledger.alarm", kind=kind, evidence=path.name)

    # What lies in the folder

    def _load(self) -> dict[str, Any]:
        try:
            state: dict[str, Any] = json.loads((self._folder / STATE_FILE).read_text("utf-8"))
        except FileNotFoundError:
            return {"epochs": 0, "root": EMPTY_ROOT.hex(), "heads": [], "note": ""}
        if state["key"] != str(self.key):
            raise _differs("the ledger here is of another log, or was signed by another key")
        return state

    def _save(self, head: Checkpoint) -> None:
        state = {
            "key": str(self.key),
            "epochs": head.size,
            "root": head.root.hex(),
            "heads": [(h.topic, h.partition, h.size, h.root.hex()) for h in self._heads.values()],
            "note": str(self._note),
        }
        write_whole(self._folder / STATE_FILE, json.dumps(state).encode(), sync=True)

    def _open(self, head: Head) -> StoredTree:
        folder = self.public / "partitions" / head.topic / str(head.partition)
        try:
            tree = StoredTree(folder, head.size)
            if tree.root() == head.root:
                return tree
        except LookupError:
            pass
        _log.warning("ledger.rebuild", topic=head.topic, partition=head.partition)
        shutil.rmtree(folder, ignore_errors=True)
        self._missing[head.place] = head
        return StoredTree(folder)

    def _open_epochs(self, size: int, root: bytes) -> StoredTree:
        try:
            tree = StoredTree(self.public, size, sync=True)
            if tree.root() == root:
                return tree
        except LookupError:
            pass
        raise _differs("the epochs in this folder are not those that were signed")


def _stands_as(path: Path) -> tuple[int, int, int] | None:
    """What tells a file from another one, or from itself after it was written again."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def _last_entry(tree: StoredTree) -> bytes:
    return tree.entry(tree.size - 1, tree.size) if tree.size else b""


def _differs(message: str) -> LogUnfit:
    return LogUnfit(Reason.LOG_DIFFERS, message)
