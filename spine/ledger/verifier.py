"""Checks what the ledger proves, offline: the standard library and an Ed25519 library, no more.

It shares no code with what makes proofs, so that a mistake there cannot prove itself right; an
auditor may copy this file out (with `exported.py` beside it for folders, and `continued.py` for
heads that go on) and run it: `python verifier.py PROOF.json|FOLDER [--key KEY --witness KEY ...]`.
Hashing: RFC 9162, sections 2.1.3 and 2.1.4 (as RFC 6962); notes: C2SP signed-note, tlog-checkpoint,
tlog-cosignature.
"""

from __future__ import annotations

import hashlib
import json
import struct
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
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


class Misused(Exception):
    """Why nothing can be checked as it was asked for, in a sentence that names what was typed."""


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
    witnesses = dict.fromkeys(map(key_of, keys.witnesses))
    for name, kind, key_id, public in witnesses:
        blob = signatures.get((name, key_id), b"")
        at = int.from_bytes(blob[:8], "big")
        message = f"cosignature/v1\ntime {at}\n{text}".encode()
        if kind == WITNESS_KEY and signed_by(public, message, blob[8:]):
            cosigned.append(name)
    if len(cosigned) < keys.quorum:
        named = f"{len(cosigned)} of {len(witnesses)} witnesses named"
        raise Wrong(f"{named} cosigned the checkpoint, {keys.quorum} must have")
    return SignedHead(origin, int(lines[1]), unbase64(lines[2]), tuple(cosigned))


def key_of(vkey: str) -> tuple[str, int, bytes, bytes]:
    """Name, kind, id and bytes of a key as it is written; Wrong if it is malformed."""
    try:
        name, key_id, encoded = vkey.strip().split("+", 2)
        raw = unbase64(encoded)
        expected = sha256(f"{name}\n".encode() + raw)[:4]
    except ValueError:
        raise Wrong("this is no key: one reads NAME+ID+BASE64") from None
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
    super_root, partitions = within("the epoch", check_epoch, proof["epoch"], signed)
    head, record = proof["head"], proof["record"]
    where = f"{head['topic']}-{head['partition']}"
    if head["count"] != partitions:
        raise Wrong("the head is of another number of partitions")
    leaf, path = leaf_of(head_entry(head)), hashes_of(head["path"])
    within(
        f"the head of {where}", check_inclusion, leaf, head["index"], partitions, path, super_root
    )
    said.append(f"{where} held {head['size']} records then")
    entry = unbase64(record["entry"])
    topic, partition, offset = place_of(entry)
    if (topic, partition) != (head["topic"], head["partition"]):
        raise Wrong(f"the leaf of {topic}-{partition} in a proof about {where}")
    root, path = unbase64(head["root"]), hashes_of(record["path"])
    name = f"{where}@{offset}"
    within(name, check_inclusion, leaf_of(entry), record["index"], head["size"], path, root)
    said.append(f"{name} is leaf {record['index']} of them")
    if "stored" in proof:
        if record_entry(proof["stored"]) != entry:
            raise Wrong(f"{name}: the record shown is not the one in the tree")
        shown = "as a whole" if "value" in proof["stored"] else "without its value"
        said.append(f"{name} is shown {shown}")
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
    within(what, check_inclusion, leaf_of(salted), shown["entry"], shown["count"], path, root)
    return f"{what} is the request shown, one of {shown['count']}; the others stay hidden"


def root_of(leaves: Sequence[bytes]) -> bytes:
    """The root over leaf hashes; of none, SHA-256 of nothing."""
    level = list(leaves)
    while len(level) > 1:
        pairs = zip(level[::2], level[1::2], strict=False)
        level = [*(node_of(left, right) for left, right in pairs), *level[len(level) & ~1 :]]
    return level[0] if level else sha256(b"")


def within(what: str, check: Any, *args: Any) -> Any:
    """What a check comes to; where it says Wrong, that says of what."""
    try:
        return check(*args)
    except Wrong as wrong:
        raise Wrong(f"{what}: {wrong}") from None


def verify(
    path: Path, keys: Keys | None = None, each: Any = map, since: Path | None = None
) -> Report:
    """Check a proof, or all leaves of an exported folder, `each` partition, by keys (None: its).

    A proof of a later head has to begin at the head in the file `since`; Misused for others.
    """
    report = Report()
    try:
        document = {} if path.is_dir() else json.loads(path.read_text("utf-8"))
        if since and document.get("format") != CONSISTENCY_FORMAT:
            raise Misused(f"--since: {path.name} is no proof that a later head continues one")
        if path.is_dir():
            _beside("exported").check_export(path, keys, report, each)
        elif document["format"] == PROOF_FORMAT:
            report.checked += check_proof(document, keys or Keys.of(document["keys"]))
        elif document["format"] == CONSISTENCY_FORMAT:
            trusted = keys or Keys.of(document["keys"])
            report.checked += _beside("continued").check_growth(document, trusted, since)
        else:
            raise Wrong("not a proof of this ledger")
    except Wrong as wrong:
        report.wrong.append(str(wrong))
    except (*MALFORMED, struct.error, OSError) as error:
        report.wrong.append(f"malformed: {type(error).__name__}: {error}")
    return report


def _beside(name: str) -> Any:
    """The module of that name in this one's package, or beside this file where it was copied."""
    try:
        return import_module(f"{__package__}.{name}" if __package__ else name)
    except ModuleNotFoundError:
        raise Misused(f"this needs {name}.py beside verifier.py") from None


def keys_named(key: str | None, witnesses: Sequence[str], quorum: int) -> Keys | None:
    """The keys as typed; None without any, to go by a proof's own. Misused for what is no key."""
    if key is None:
        if witnesses:
            raise Misused("--witness: witnesses count beside the log's --key")
        return None
    typed = [("--key", key, LOG_KEY), *(("--witness", each, WITNESS_KEY) for each in witnesses)]
    for option, text, kind in typed:
        try:
            if key_of(text)[1] != kind:
                raise Wrong("this is a key of another kind")
        except Wrong as wrong:
            raise Misused(f"{option}: {wrong}") from None
    known = len({key_of(each) for each in witnesses})
    if not 0 <= quorum <= known:
        raise Misused(f"--quorum: {quorum} must have cosigned, --witness names {known}")
    return Keys(key, tuple(witnesses), quorum)


def there(typed: str) -> Path:
    """A file or folder as typed; ArgumentTypeError if there is none."""
    if not Path(typed).exists():
        raise ArgumentTypeError(f"{typed} is not there")
    return Path(typed)


def run(words: ArgumentParser, check: Callable[[Namespace, Keys | None], Report]) -> int:
    """Check what the command line names, by its keys; 0 if all holds, 6 if not, 2 if misused."""
    words.add_argument("--key", help="the log's key as you know it")
    words.add_argument("--witness", action="append", default=[], help="a witness's, likewise")
    words.add_argument("--quorum", type=int, default=2, help="how many of them must have cosigned")
    said = words.parse_args()
    try:
        keys = keys_named(said.key, said.witness, said.quorum)
        report = check(said, keys)
    except Misused as misused:
        words.error(str(misused))
    sys.stdout.write("".join(f"{line}\n" for line in report.checked))
    if report.ok and keys is None:
        sys.stdout.write("By the keys that it names itself: compare them with those you know.\n")
    sys.stderr.write("".join(f"WRONG  {line}\n" for line in report.wrong))
    return 0 if report.ok else 6


def main() -> int:
    """Check the file or folder named on the command line; 0 if all of it holds, else 6."""
    words = ArgumentParser(description="Checks what the ledger proves, offline.")
    words.add_argument("path", type=there, help="a proof, or a folder that was exported")
    words.add_argument("--since", type=there, help="the head you kept, where a later one goes on")
    return run(words, lambda said, keys: verify(said.path, keys, since=said.since))


if __name__ == "__main__":
    sys.modules["verifier"] = sys.modules["spine.ledger.verifier"] = sys.modules[__name__]
    sys.exit(main())
