"""Proofs made from what the ledger publishes: its checkpoint, tiles and leaves, and nothing else.

Whoever has the public folder can make every proof; nobody needs to ask the ledger's process. What
is made is JSON, with hashes and leaves in base64, as `spine.ledger.verifier` reads it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Final

from spine import merkle
from spine.errors import Invalid, NotFound, Reason
from spine.event import LogRecord
from spine.files import write_whole
from spine.ledger.book import CHECKPOINT_FILE, KEYS_FILE, Growth
from spine.ledger.entries import (
    FULL_EVERY,
    Epoch,
    Head,
    Place,
    RecordLeaf,
    super_leaves,
)
from spine.ledger.files import TileFolder
from spine.ledger.note import Checkpoint, Note
from spine.ledger.tree import ENTRIES, TILE_WIDTH, Proofs, TileAddress, tiles_of, width_of
from spine.ledger.verifier import CONSISTENCY_FORMAT, EXPORT_FORMAT, PROOF_FORMAT

Json = dict[str, Any]
ReadAll = Callable[[Place], Iterator[LogRecord]]
MANIFEST_FILE: Final = "manifest.json"


class Library:
    """Reads the public folder of a ledger."""

    def __init__(self, public: Path) -> None:
        self._public = public
        self._epochs = TileFolder(public)
        self._told: tuple[int, dict[Place, int]] = (0, {})

    def note(self) -> Note:
        """The published checkpoint; NotFound(STARTING) if none is yet."""
        try:
            return Note.parse((self._public / CHECKPOINT_FILE).read_text("utf-8"))
        except FileNotFoundError:
            raise NotFound(Reason.STARTING, "the ledger has not published anything yet") from None

    def keys(self) -> Json:
        """Whose signatures a checkpoint of this ledger bears, as the ledger says."""
        keys: Json = json.loads((self._public / KEYS_FILE).read_text("utf-8"))
        return keys

    def sizes(self, size: int) -> dict[Place, int]:
        """Records of each partition under the checkpoint of that many epochs."""
        if not size:
            return {}
        bundle = (size - 1) // FULL_EVERY
        known, told = self._told  # whoever follows the heads reads each epoch once
        if not bundle * FULL_EVERY < known <= size:
            known, told = bundle * FULL_EVERY, {}
        entries = self._epochs.entries(bundle, width_of(size, 0, bundle))
        sizes = dict(told)
        for entry in entries[known - bundle * FULL_EVERY :]:
            sizes |= {(t, p): grown for t, p, grown in Epoch.decode(entry).sizes}
        self._told = size, sizes
        return dict(sorted(sizes.items()))

    def heads(self, size: int) -> dict[Place, Head]:
        """The heads of all partitions under the checkpoint of that many epochs."""
        return {
            place: Head(*place, grown, Proofs(self.tree(place), grown).root())
            for place, grown in self.sizes(size).items()
        }

    def tree(self, place: Place) -> TileFolder:
        """The tree of a partition."""
        return TileFolder(self._public / "partitions" / place[0] / str(place[1]))

    def index_of(self, place: Place, offset: int, size: int) -> int:
        """Which leaf the record at that offset is; NotFound(POSITION_INVALID) if it is none."""
        tree, low, high = self.tree(place), 0, size
        while low < high:
            middle = (low + high) // 2
            if RecordLeaf.decode(tree.entry(middle, size)).offset < offset:
                low = middle + 1
            else:
                high = middle
        if low < size and RecordLeaf.decode(tree.entry(low, size)).offset == offset:
            return low
        message = f"{place[0]}-{place[1]} holds no record at {offset} under this checkpoint"
        raise NotFound(Reason.POSITION_INVALID, message)

    def prove(self, place: Place, offset: int) -> Json:
        """That a record stands where it stands, under the published checkpoint."""
        return self.prover().prove(place, offset)

    def prover(self) -> Prover:
        """Makes many proofs under one checkpoint, the published one."""
        return Prover(self)

    def epoch(self, size: int) -> Json:
        """The last epoch under a checkpoint, with its path."""
        path = Proofs(self._epochs, size).inclusion(size - 1)
        return {"entry": text(self._epochs.entry(size - 1, size)), "path": texts(path)}

    def growth(self, old: int, new: Note, under: Iterable[Head] | None = None) -> Json:
        """What takes a witness from the checkpoint of `old` epochs, 0 for none, to a newer one.

        `under`: the heads under the newer one, where they are at hand and need not be computed.
        """
        size = Checkpoint.parse(new.text).size
        heads = self.heads(size) if under is None else {head.place: head for head in under}
        epochs = Proofs(self._epochs, size)
        growth = Growth(
            epochs.consistency(old),
            self._epochs.entry(size - 1, size),
            epochs.inclusion(size - 1),
            {
                place: Proofs(self.tree(place), heads[place].size).consistency(before)
                for place, before in self.sizes(old).items()
                if 0 < before < heads[place].size
            },
        )
        return growth_json(old, new, heads.values(), growth)

    def consistency(self, old: Note, new: Note) -> Json:
        """That a newer checkpoint, and every partition under it, continues an older one."""
        before, after = (Checkpoint.parse(note.text).size for note in (old, new))
        if not 0 < before <= after:
            raise Invalid(Reason.POSITION_INVALID, "the older checkpoint comes first")
        grown = self.growth(before, new)
        return {
            "format": CONSISTENCY_FORMAT,
            "keys": self.keys(),
            "path": grown["path"],
            "growth": grown["growth"],
            "old": {
                "checkpoint": str(old),
                "epoch": self.epoch(before),
                "heads": [head_json(head) for head in self.heads(before).values()],
            },
            "new": {"checkpoint": str(new), "epoch": grown["epoch"], "heads": grown["heads"]},
        }

    def export(
        self, folder: Path, places: Iterable[Place], records: ReadAll | None = None
    ) -> dict[Place, int]:
        """Write a folder that can be checked anywhere; the sizes of the partitions in it.

        With `records`, which reads a partition from its beginning, the stored bytes too. The
        manifest goes first and comes last: a folder without it was not finished.
        """
        note = self.note()
        size = Checkpoint.parse(note.text).size
        heads = self.heads(size)
        chosen = [place for place in heads if place in set(places)]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MANIFEST_FILE).unlink(missing_ok=True)
        for place in chosen:
            own = folder / "partitions" / place[0] / str(place[1])
            shutil.rmtree(own, ignore_errors=True)
            own.mkdir(parents=True)
            self._export_tree(own, place, heads[place].size)
            if records is not None:
                _export_records(own, islice(records(place), heads[place].size))
        said = {"epoch": self.epoch(size), "heads": [head_json(h) for h in heads.values()]}
        manifest = {
            "format": EXPORT_FORMAT,
            "keys": self.keys(),
            "partitions": chosen,
            "records": records is not None,
        }
        write_whole(folder / "heads.json", json.dumps(said, indent=1).encode(), sync=True)
        write_whole(folder / CHECKPOINT_FILE, str(note).encode(), sync=True)
        write_whole(folder / MANIFEST_FILE, json.dumps(manifest, indent=1).encode(), sync=True)
        return {place: heads[place].size for place in chosen}

    def _export_tree(self, own: Path, place: Place, size: int) -> None:
        tree = self.tree(place)
        bundles = [
            TileAddress(ENTRIES, index, width_of(size, 0, index))
            for index in range(-(-size // TILE_WIDTH))
        ]
        for address in (*tiles_of(size), *bundles):
            write_whole(own / address.path, tree.raw(address), sync=False)


def growth_json(old: int, new: Note, under: Iterable[Head], growth: Growth) -> Json:
    """What takes a witness from `old` epochs to a checkpoint that has these heads under it."""
    return {
        "old": old,
        "note": str(new),
        "path": texts(growth.path),
        "epoch": {"entry": text(growth.entry), "path": texts(growth.entry_path)},
        "heads": [head_json(head) for head in sorted(under, key=lambda head: head.place)],
        "growth": {f"{t}-{p}": texts(path) for (t, p), path in growth.partitions.items()},
    }


def _export_records(own: Path, records: Iterable[LogRecord]) -> None:
    """Write the stored bytes of a partition beside its leaves."""
    with (own / "records.jsonl").open("w", encoding="utf-8") as lines:
        for record in records:
            lines.write(json.dumps(stored_json(record, with_value=True)) + "\n")


class Prover:
    """Proofs under one checkpoint."""

    def __init__(self, library: Library) -> None:
        self._library = library
        self._note = library.note()
        size = Checkpoint.parse(self._note.text).size
        self.heads = library.heads(size)
        self._leaves = super_leaves(self.heads.values())
        self._epoch, self._keys = library.epoch(size), library.keys()

    def prove(self, place: Place, offset: int) -> Json:
        """That a record stands where it stands; NotFound(POSITION_INVALID) if it does not."""
        head = self.heads.get(place)
        if head is None:
            raise NotFound(Reason.POSITION_INVALID, f"there is no {place[0]}-{place[1]}")
        index = self._library.index_of(place, offset, head.size)
        tree, at = self._library.tree(place), list(self.heads).index(place)
        return {
            "format": PROOF_FORMAT,
            "keys": self._keys,
            "checkpoint": str(self._note),
            "epoch": self._epoch,
            "head": head_json(head)
            | {"index": at, "count": len(self.heads), "path": texts(merkle.path(self._leaves, at))},
            "record": {
                "entry": text(tree.entry(index, head.size)),
                "index": index,
                "path": texts(Proofs(tree, head.size).inclusion(index)),
            },
        }


def stored_json(record: LogRecord, *, with_value: bool) -> Json:
    """A record as proofs and exports show it: whole, or with the digest of its value only."""
    said: Json = {
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "append_ms": record.append_ms,
        "key": None if record.key is None else text(record.key),
        "headers": [[name, text(value)] for name, value in record.headers],
    }
    if with_value:
        return said | {"value": None if record.value is None else text(record.value)}
    value = bytes(32) if record.value is None else hashlib.sha256(record.value).digest()
    return said | {"value_sha256": text(value)}


def shown_json(salt_seed: bytes, entries: Sequence[bytes], entry: int) -> Json:
    """One entry of an access record, with its salt and path; the others stay hidden."""
    salts = [merkle.salt(salt_seed, index) for index in range(len(entries))]
    leaves = [merkle.salted_leaf(*pair) for pair in zip(salts, entries, strict=True)]
    return {
        "entry": entry,
        "count": len(entries),
        "salt": text(salts[entry]),
        "request": text(entries[entry]),
        "path": texts(merkle.path(leaves, entry)),
    }


def head_json(head: Head) -> Json:
    """A partition's head."""
    return {
        "topic": head.topic,
        "partition": head.partition,
        "size": head.size,
        "root": text(head.root),
    }


def text(raw: bytes) -> str:
    """Bytes in JSON."""
    return b64encode(raw).decode()


def texts(hashes: Iterable[bytes]) -> list[str]:
    """Hashes in JSON."""
    return [text(each) for each in hashes]
