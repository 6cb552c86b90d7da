"""Checks what the ledger proves, offline: the standard library and an Ed25519 library, no more.

It shares no code with what makes proofs, so that a mistake there cannot prove itself right; an
auditor may copy this file out (for exported folders with `exported.py` beside it) and run it:
`python verifier.py PROOF.json|FOLDER [--key KEY --witness KEY ...]`. Hashing: RFC 9162, sections
2.1.3 and 2.1.4 (as RFC 6962); notes: C2SP signed-note, tlog-checkpoint, tlog-cosignature.
"""

from __future__ import annotations

import hashlib
import json
import struct
import sys
from argparse import ArgumentParser, Namespace
from base64 import b64decode, b64encode
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

PROOF_FORMAT = "energyos-ledger-proof/1"
CONSISTENCY_FORMAT = "energyos-ledger-consistency/1"
EXPORT_FORMAT = "energyos-ledger-export/1"
LOG_KEY, WITNESS_KEY = 0x01, 0x04
# What a document that is none of ours may end in.
MALFORMED = (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError)


class Wrong(Exception):
    """What does not hold, in a sentence."""


@dataclass
class Report:
    """What was checked, and what does not hold; nothing wrong means that all of it does."""

    checked: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether everything holds, and there was something."""
        return bool(self.checked) and not self.wrong


@dataclass(frozen=True)
class Keys:
    """Whose signatures count: the log's key, the witnesses', and how many of them are needed."""

    log: str
    witnesses: tuple[str, ...] = ()
    quorum: int = 0

    @classmethod
    def of(cls, said: dict[str, Any]) -> Keys:
        """The keys that a bundle names itself."""
        return cls(said["log"], tuple(said["witnesses"]), int(said["quorum"]))


def sha256(data: bytes) -> bytes:
    """SHA-256."""
    return hashlib.sha256(data).digest()


def unbase64(text: str) -> bytes:
    """The bytes of a text in base64, written the one way; ValueError for another."""
    raw = b64decode(text, validate=True)
    if b64encode(raw).decode() != text:
        raise ValueError("not the one way to write this in base64")
    return raw


def leaf_of(entry: bytes) -> bytes:
    """The hash of a leaf."""
    return sha256(b"\x00" + entry)


def node_of(left: bytes, right: bytes) -> bytes:
    """The hash of an inner node."""
    return sha256(b"\x01" + left + right)


def check_inclusion(leaf: bytes, index: int, size: int, path: Sequence[bytes], root: bytes) -> None:
    """Wrong unless the leaf is the `index`-th of the tree with that root (RFC 9162, 2.1.3.2)."""
    if not 0 <= index < size or any(len(hash_) != 32 for hash_ in (leaf, root, *path)):
        raise Wrong("no tree has such a leaf")
    fn, sn, reached = index, size - 1, leaf
    for sibling in path:
        if sn == 0:
            raise Wrong("the path is too long")
        if fn & 1 or fn == sn:
            reached = node_of(sibling, reached)
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            reached = node_of(reached, sibling)
        fn, sn = fn >> 1, sn >> 1
    if sn:
        raise Wrong("the path is too short")
    if reached != root:
        raise Wrong("the path leads to another root")


def check_consistency(
    old: int, old_root: bytes, new: int, new_root: bytes, path: Sequence[bytes]
) -> None:
    """Wrong unless the older tree is the beginning of the newer one (RFC 9162, 2.1.4.2)."""
    if not 0 <= old <= new or any(len(hash_) != 32 for hash_ in (old_root, new_root, *path)):
        raise Wrong("a tree does not shrink")
    if old in (0, new):
        if path:
            raise Wrong("there is nothing to prove")
        if old == new and old_root != new_root:
            raise Wrong("two trees of one size have different roots")
        return
    if not path:
        raise Wrong("the proof is empty")
    steps = [old_root, *path] if old & (old - 1) == 0 else list(path)
    fn, sn = old - 1, new - 1
    while fn & 1:
        fn, sn = fn >> 1, sn >> 1
    was = now = steps[0]
    for step in steps[1:]:
        if sn == 0:
            raise Wrong("the proof is too long")
        if fn & 1 or fn == sn:
            was, now = node_of(step, was), node_of(step, now)
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            now = node_of(now, step)
        fn, sn = fn >> 1, sn >> 1
    if sn or was != old_root or now != new_root:
        raise Wrong("the older tree is not the beginning of the newer one")


@dataclass(frozen=True)
class SignedHead:
    """A checkpoint whose signatures hold: the log's tree of epochs at one size."""

    origin: str
    size: int
    root: bytes
    cosigned_by: tuple[str, ...] = ()


def check_note(raw: str, keys: Keys) -> SignedHead:
    """The head in a signed note; Wrong unless the log and enough witnesses signed it."""
    text, blank, signed = raw.rpartition("\n\n")
    text += "\n"
    lines = text.split("\n")
    if not blank or signed[-1:] != "\n" or len(lines) != 4 or lines[3] or not lines[1].isdecimal():
        raise Wrong("the checkpoint is malformed")
    signatures: dict[tuple[str, bytes], bytes] = {}
    for line in signed[:-1].split("\n"):
        mark, name, encoded = line.split(" ")
        blob = unbase64(encoded)
        if mark != "\u2014":
            raise Wrong("the checkpoint is malformed")
        signatures[name, blob[:4]] = blob[4:]
    origin, kind, key_id, public = key_of(keys.log)
    if kind != LOG_KEY or origin != lines[0]:
        raise Wrong(f"the checkpoint is of {lines[0]}, the key of {origin}")
    if not signed_by(public, text.encode(), signatures.get((origin, key_id), b"")):
        raise Wrong("the log did not sign the checkpoint")
    cosigned = []
    for name, kind, key_id, public in map(key_of, dict.fromkeys(keys.witnesses)):
        blob = signatures.get((name, key_id), b"")
        at = int.from_bytes(blob[:8], "big")
        message = f"cosignature/v1\ntime {at}\n{text}".encode()
        if kind == WITNESS_KEY and signed_by(public, message, blob[8:]):
            cosigned.append(name)
    if len(cosigned) < keys.quorum:
        raise Wrong(f"{len(cosigned)} of {keys.quorum} witnesses cosigned the checkpoint")
    return SignedHead(origin, int(lines[1]), unbase64(lines[2]), tuple(cosigned))


def key_of(vkey: str) -> tuple[str, int, bytes, bytes]:
    """Name, kind, id and bytes of a key as it is written; Wrong if it is malformed."""
    name, key_id, encoded = vkey.strip().split("+", 2)
    raw = unbase64(encoded)
    expected = sha256(f"{name}\n".encode() + raw)[:4]
    if len(raw) != 33 or expected.hex() != key_id:
        raise Wrong(f"the key of {name} is malformed")
    return name, raw[0], expected, raw[1:]


def signed_by(public: bytes, message: bytes, signature: bytes) -> bool:
    """Whether that Ed25519 key signed the message."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def text_bytes(text: str) -> bytes:
    """Length and bytes of a text, as leaves hold it."""
    return struct.pack(">H", len(text.encode())) + text.encode()


def record_entry(stored: dict[str, Any]) -> bytes:
    """The leaf of a stored record: place, append time, digests of headers and of key and value."""
    headers = b"energyos-headers-v1\x00"
    for name, content in stored["headers"]:
        for part in (name.encode("utf-8", "surrogatepass"), unbase64(content)):
            headers += struct.pack(">i", len(part)) + part
    if "value" in stored:
        value = stored["value"]
        digest = bytes(32) if value is None else sha256(unbase64(value))
    else:
        digest = unbase64(stored["value_sha256"])
    key = None if stored["key"] is None else unbase64(stored["key"])
    framed = struct.pack(">i", -1) if key is None else struct.pack(">i", len(key)) + key
    place = struct.pack(">iqq", stored["partition"], stored["offset"], stored["append_ms"])
    content_digest = sha256(b"energyos-content-v1\x00" + framed + digest)
    topic = text_bytes(stored["topic"])
    return b"energyos-leaf-v1\x00" + topic + place + sha256(headers) + content_digest


def place_of(entry: bytes) -> tuple[str, int, int]:
    """Topic, partition and offset of a record's leaf."""
    tag = b"energyos-leaf-v1\x00"
    rest = entry[len(tag) :]
    end = 2 + int.from_bytes(rest[:2], "big")
    if not entry.startswith(tag) or len(rest) != end + 84:
        raise Wrong("not the leaf of a record")
    partition, offset, _ = struct.unpack(">iqq", rest[end : end + 20])
    return rest[2:end].decode(), partition, offset


def head_entry(head: dict[str, Any]) -> bytes:
    """The leaf of a partition's head in the super-root."""
    numbers = struct.pack(">iq", head["partition"], head["size"])
    root = unbase64(head["root"])
    return b"energyos-head-v1\x00" + text_bytes(head["topic"]) + numbers + root


def epoch_super_root(entry: bytes, number: int) -> tuple[bytes, int]:
    """The super-root in an epoch's leaf, and over how many partitions it is."""
    tag = b"energyos-epoch-v1\x00"
    rest = entry[len(tag) :]
    if not entry.startswith(tag) or len(rest) < 54:
        raise Wrong("not the leaf of an epoch")
    said, _, partitions, _ = struct.unpack_from(">qqiH", rest)
    if said != number:
        raise Wrong(f"the epoch says it is number {said}, and stands as number {number}")
    return rest[22:54], partitions


def hashes_of(encoded: Sequence[str]) -> list[bytes]:
    """Hashes as JSON holds them."""
    return [unbase64(each) for each in encoded]


def check_epoch(said: dict[str, Any], head: SignedHead) -> tuple[bytes, int]:
    """The super-root of the last epoch under a checkpoint, and over how many partitions."""
    entry, path = unbase64(said["entry"]), hashes_of(said["path"])
    check_inclusion(leaf_of(entry), head.size - 1, head.size, path, head.root)
    return epoch_super_root(entry, head.size - 1)


def check_proof(proof: dict[str, Any], keys: Keys) -> list[str]:
    """What an inclusion proof shows, statement by statement; Wrong at the first that does not."""
    signed = check_note(proof["checkpoint"], keys)
    names = ", ".join(signed.cosigned_by) or "no witness"
    said = [f"checkpoint {signed.size} of {signed.origin}, cosigned by {names}"]
    super_root, partitions = _in("the epoch", check_epoch, proof["epoch"], signed)
    head, record = proof["head"], proof["record"]
    where = f"{head['topic']}-{head['partition']}"
    if head["count"] != partitions:
        raise Wrong("the head is of another number of partitions")
    leaf, path = leaf_of(head_entry(head)), hashes_of(head["path"])
    _in(f"the head of {where}", check_inclusion, leaf, head["index"], partitions, path, super_root)
    said.append(f"{where} held {head['size']} records then")
    entry = unbase64(record["entry"])
    topic, partition, offset = place_of(entry)
    if (topic, partition) != (head["topic"], head["partition"]):
        raise Wrong(f"the leaf of {topic}-{partition} in a proof about {where}")
    root, path = unbase64(head["root"]), hashes_of(record["path"])
    name = f"{where}@{offset}"
    _in(name, check_inclusion, leaf_of(entry), record["index"], head["size"], path, root)
    said.append(f"{name} is leaf {record['index']} of them")
    if "stored" in proof:
        if record_entry(proof["stored"]) != entry:
            raise Wrong(f"{name}: the record shown is not the one in the tree")
        shown = "as a whole" if "value" in proof["stored"] else "without its value"
        said.append(f"the record is shown {shown}")
        if "shown" in proof:
            said.append(_check_shown(proof, name))
    return said


def _check_shown(proof: dict[str, Any], name: str) -> str:
    """One entry of a batch under the salted root in the record's `mr` header."""
    shown = proof["shown"]
    roots = [value for header, value in proof["stored"]["headers"] if header == "mr"]
    if len(roots) != 1:
        raise Wrong(f"{name} has no root over its entries")
    salted = unbase64(shown["salt"]) + unbase64(shown["request"])
    path, root = hashes_of(shown["path"]), unbase64(roots[0])
    what = f"{name}.{shown['entry']}"
    _in(what, check_inclusion, leaf_of(salted), shown["entry"], shown["count"], path, root)
    return f"{what} is the request shown, one of {shown['count']}; the others stay hidden"


def check_growth(proof: dict[str, Any], keys: Keys) -> list[str]:
    """That a newer checkpoint, and every partition under it, continues an older one."""
    old, new = (check_note(proof[side]["checkpoint"], keys) for side in ("old", "new"))
    path = hashes_of(proof["path"])
    _in("the epochs", check_consistency, old.size, old.root, new.size, new.root, path)
    heads: list[dict[tuple[str, int], dict[str, Any]]] = []
    for side, signed in (("old", old), ("new", new)):
        super_root, count = _in(f"the {side} epoch", check_epoch, proof[side]["epoch"], signed)
        listed = sorted(proof[side]["heads"], key=lambda h: (h["topic"], h["partition"]))
        if len(listed) != count or root_of([leaf_of(head_entry(h)) for h in listed]) != super_root:
            raise Wrong(f"the {side} heads are not those of its checkpoint")
        heads.append({(h["topic"], h["partition"]): h for h in listed})
    before, after = heads
    for place, head in before.items():
        where = f"{place[0]}-{place[1]}"
        if place not in after:
            raise Wrong(f"{where} is gone")
        now = after[place]
        roots = [unbase64(h["root"]) for h in (head, now)]
        path = hashes_of(proof["growth"].get(where, ()))
        _in(where, check_consistency, head["size"], roots[0], now["size"], roots[1], path)
    said = f"checkpoint {new.size} of {new.origin} continues checkpoint {old.size}"
    return [said, f"and so does each of the {len(before)} partitions under it"]


def root_of(leaves: Sequence[bytes]) -> bytes:
    """The root over leaf hashes; of none, SHA-256 of nothing."""
    level = list(leaves)
    while len(level) > 1:
        pairs = zip(level[::2], level[1::2], strict=False)
        level = [*(node_of(left, right) for left, right in pairs), *level[len(level) & ~1 :]]
    return level[0] if level else sha256(b"")


def _in(what: str, check: Any, *args: Any) -> Any:
    try:
        return check(*args)
    except Wrong as wrong:
        raise Wrong(f"{what}: {wrong}") from None


def verify(path: Path, keys: Keys | None = None, each: Any = map) -> Report:
    """Check a proof, or all leaves of an exported folder, `each` partition, by keys (None: its)."""
    report = Report()
    try:
        if path.is_dir():
            # In its package, or beside this file where it was copied.
            name = "spine.ledger.exported" if __name__ != "__main__" else "exported"
            import_module(name).check_export(path, keys, report, each)
        else:
            document = json.loads(path.read_text("utf-8"))
            check = {PROOF_FORMAT: check_proof, CONSISTENCY_FORMAT: check_growth}
            if document["format"] not in check:
                raise Wrong("not a proof of this ledger")
            report.checked += check[document["format"]](document, keys or Keys.of(document["keys"]))
    except Wrong as wrong:
        report.wrong.append(str(wrong))
    except (*MALFORMED, struct.error, OSError) as error:
        report.wrong.append(f"malformed: {type(error).__name__}: {error}")
    return report


def run(words: ArgumentParser, check: Callable[[Namespace, Keys | None], Report]) -> int:
    """Check what the command line names, by the keys it names; 0 if all of it holds, else 6."""
    words.add_argument("--key", help="the log's key as you know it")
    words.add_argument("--witness", action="append", default=[], help="a witness's, likewise")
    words.add_argument("--quorum", type=int, default=2, help="how many must have cosigned")
    said = words.parse_args()
    if said.witness and not said.key:
        words.error("witnesses count beside the log's key")
    keys = Keys(said.key, tuple(said.witness), said.quorum) if said.key else None
    report = check(said, keys)
    sys.stdout.write("".join(f"{line}\n" for line in report.checked))
    if report.ok and keys is None:
        sys.stdout.write("By the keys that it names itself: compare them with those you know.\n")
    sys.stderr.write("".join(f"WRONG  {line}\n" for line in report.wrong))
    return 0 if report.ok else 6


def main() -> int:
    """Check the file or folder named on the command line; 0 if all of it holds, else 6."""
    words = ArgumentParser(description="Checks what the ledger proves, offline.")
    words.add_argument("path", type=Path, help="a proof, or a folder that was exported")
    return run(words, lambda said, keys: verify(said.path, keys))


if __name__ == "__main__":
    sys.modules["verifier"] = sys.modules["spine.ledger.verifier"] = sys.modules[__name__]
    sys.exit(main())
