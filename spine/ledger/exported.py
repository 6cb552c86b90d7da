"""Checks an exported folder leaf by leaf, offline, and names the first leaf that is wrong.

An export holds a signed checkpoint, the heads under it, and of each partition the tiles, the leaves
and, where it was asked for, the stored records. Each is computed again from the one below it.
"""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Iterator, Sequence
from itertools import repeat, takewhile
from pathlib import Path
from typing import Any

if __package__:
    from spine.ledger import verifier as v
else:  # copied out, beside verifier.py
    import verifier as v  # type: ignore[import-not-found, no-redef]

WIDTH = 256


def check_export(folder: Path, keys: v.Keys | None, report: v.Report, each: Any = map) -> None:
    """Check everything in the folder; what is wrong is added to the report, a line each.

    No partition needs another one: `each` applies a function to them, as `map` does, or in other
    processes.
    A folder without a manifest is one of proofs, and every one of them has to hold; or an export
    that was not finished, which proves nothing.
    """
    if not (folder / "manifest.json").exists():
        if (folder / "partitions").exists():
            raise v.Wrong("the export was not finished: it has no manifest")
        _check_proofs(folder, keys, report)
        return
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    if manifest["format"] != v.EXPORT_FORMAT:
        raise v.Wrong("not an export of this ledger")
    trusted = keys or v.Keys.of(manifest["keys"])
    signed = v.check_note((folder / "checkpoint").read_text("utf-8"), trusted)
    names = ", ".join(signed.cosigned_by) or "no witness"
    report.checked.append(f"checkpoint {signed.size} of {signed.origin}, cosigned by {names}")
    head = json.loads((folder / "heads.json").read_text("utf-8"))
    super_root, count = v.check_epoch(head["epoch"], signed)
    listed = sorted(head["heads"], key=lambda h: (h["topic"], h["partition"]))
    if (
        len(listed) != count
        or v.root_of([v.leaf_of(v.head_entry(h)) for h in listed]) != super_root
    ):
        raise v.Wrong("the heads are not those of the checkpoint")
    by_place = {(h["topic"], h["partition"]): h for h in listed}
    held = [(topic, partition) for topic, partition in manifest["partitions"]]
    known = list(takewhile(by_place.__contains__, held))
    folders = [folder / "partitions" / topic / str(partition) for topic, partition in known]
    heads = [by_place[place] for place in known]
    shown = "records" if manifest["records"] else "leaves"
    found = each(_check_partition, folders, heads, repeat(manifest["records"]))
    for (topic, partition), own, wrong in zip(known, heads, found, strict=True):
        if wrong:
            report.wrong.append(f"{topic}-{partition}: {wrong}")
        else:
            said = f"all {own['size']} {shown} are those of the tree"
            report.checked.append(f"{topic}-{partition}: {said}")
    if not held:
        raise v.Wrong("it holds no partition")
    if away := len(by_place) - len(set(known)):
        report.checked.append(
            f"{away} of {len(by_place)} partitions under the checkpoint are not here"
        )
    if len(known) < len(held):
        topic, partition = held[len(known)]
        raise v.Wrong(f"{topic}-{partition} is under no head")


def _check_proofs(folder: Path, keys: v.Keys | None, report: v.Report) -> None:
    paths = sorted(folder.glob("*.json"))
    if not paths:
        raise v.Misused(f"{folder.name} holds no proof")
    misused = None
    for path in paths:
        try:
            one = v.verify(path, keys)
        except v.Misused as said:
            misused = said
            continue
        report.checked += [f"{path.name}: {line}" for line in one.checked[-1:]]
        report.wrong += [f"{path.name}: {line}" for line in one.wrong]
    if misused and not report.wrong:  # a forgery among them is one, whatever else is amiss
        raise misused


def _check_partition(folder: Path, head: dict[str, Any], with_records: bool) -> str:
    """What is wrong with a partition, naming the first leaf at fault; empty if nothing is."""
    try:
        _Partition(folder, head).check(with_records)
    except v.Wrong as wrong:
        return str(wrong)
    except FileNotFoundError as missing:
        return f"missing: {Path(missing.filename).relative_to(folder)}"
    except (*v.MALFORMED, struct.error, OSError) as error:
        return f"malformed: {type(error).__name__}: {error}"
    return ""


class _Partition:
    """The tiles, leaves and records of one partition."""

    def __init__(self, folder: Path, head: dict[str, Any]) -> None:
        self._folder, self._head = folder, head
        self._size = int(head["size"])
        self._offset = -1

    def check(self, with_records: bool) -> None:
        """Wrong, naming the first leaf that does not fit, the tile, or the root."""
        records = self._records() if with_records else None
        full: list[bytes] = []
        right: bytes | None = None
        for index in range(-(-self._size // WIDTH)):
            width = min(WIDTH, self._size - index * WIDTH)
            tile = self._tile(0, index, width)
            entries = self._entries(index, width)
            self._check_leaves(index * WIDTH, tile, entries)
            if records is not None:
                self._check_records(index * WIDTH, entries, records)
            if width == WIDTH:
                full.append(v.root_of(tile))
            else:
                right = _joined(tile, None)
        if records is not None and next(records, None) is not None:
            raise v.Wrong(f"a record stands after the last one, leaf {self._size - 1}")
        self._check_upper(full, right)

    def _check_leaves(self, first: int, tile: list[bytes], entries: list[bytes]) -> None:
        found = [v.leaf_of(entry) for entry in entries]
        fault = _first_fault(tile, found)
        if fault is not None:
            at, what = fault
            raise v.Wrong(f"leaf {first + at}{_at_offset(entries, at)} {what}")
        for at, entry in enumerate(entries):
            topic, partition, offset = v.place_of(entry)
            if (topic, partition) != (self._head["topic"], self._head["partition"]):
                raise v.Wrong(f"leaf {first + at} is of {topic}-{partition}")
            if offset <= self._offset:
                raise v.Wrong(f"leaf {first + at} (offset {offset}) stands behind its place")
            self._offset = offset

    def _check_records(
        self, first: int, entries: list[bytes], records: Iterator[dict[str, Any]]
    ) -> None:
        found: list[bytes] = []
        try:
            for _, record in zip(entries, records, strict=False):
                found.append(v.record_entry(record))
        except (*v.MALFORMED, struct.error) as error:
            at = len(found)
            what = f"is malformed: {type(error).__name__}: {error}"
            raise v.Wrong(f"record of leaf {first + at}{_at_offset(entries, at)} {what}") from None
        fault = _first_fault(entries, found)
        if fault is not None:
            at, what = fault
            raise v.Wrong(f"record of leaf {first + at}{_at_offset(entries, at)} {what}")

    def _check_upper(self, hashes: list[bytes], right: bytes | None) -> None:
        """The levels above: a full tile below is a hash above, and at last there is one root."""
        level = 0
        while hashes:
            level += 1
            above = []
            for index in range(-(-len(hashes) // WIDTH)):
                computed = hashes[index * WIDTH : (index + 1) * WIDTH]
                if self._tile(level, index, len(computed)) != computed:
                    raise v.Wrong(f"tile {level}/{index} is not made of the tiles below it")
                if len(computed) == WIDTH:
                    above.append(v.root_of(computed))
                else:
                    right = _joined(computed, right)
            hashes = above
        if (right or v.root_of(())) != v.unbase64(self._head["root"]):
            raise v.Wrong(f"its {self._size} leaves do not lead to the signed root")

    def _tile(self, level: int, index: int, width: int) -> list[bytes]:
        raw = (self._folder / tile_path(str(level), index, width)).read_bytes()
        if len(raw) != 32 * width:
            raise v.Wrong(f"tile {level}/{index} holds {len(raw)} bytes, not {32 * width}")
        return [raw[i : i + 32] for i in range(0, len(raw), 32)]

    def _entries(self, index: int, width: int) -> list[bytes]:
        raw = (self._folder / tile_path("entries", index, width)).read_bytes()
        entries: list[bytes] = []
        at = 0
        while at < len(raw):
            length = int.from_bytes(raw[at : at + 2], "big")
            if len(raw) < at + 2 + length:
                raise v.Wrong(f"leaf {index * WIDTH + len(entries)} is cut short")
            entries.append(raw[at + 2 : at + 2 + length])
            at += 2 + length
        return entries

    def _records(self) -> Iterator[dict[str, Any]]:
        with (self._folder / "records.jsonl").open(encoding="utf-8") as lines:
            for line in lines:
                yield json.loads(line)


def tile_path(level: str, index: int, width: int) -> str:
    """Where a tile lies (C2SP tlog-tiles)."""
    digits = f"{index:03d}"
    digits = digits.zfill(-(-len(digits) // 3) * 3)
    groups = [digits[i : i + 3] for i in range(0, len(digits), 3)]
    name = "/".join([*(f"x{group}" for group in groups[:-1]), groups[-1]])
    return f"tile/{level}/{name}" + ("" if width == WIDTH else f".p/{width}")


def _joined(hashes: Sequence[bytes], right: bytes | None) -> bytes | None:
    """The root over hashes of equal width and what stands right of them, which is less wide."""
    end = len(hashes)
    while end:
        width = end & -end
        left = v.root_of(hashes[end - width : end])
        right = left if right is None else v.node_of(left, right)
        end -= width
    return right


def _first_fault(wanted: Sequence[bytes], found: Sequence[bytes]) -> tuple[int, str] | None:
    """Where two lists first differ, and how: edited, missing, twice, or out of order."""
    for at, right in enumerate(wanted):
        if at >= len(found):
            return at, "is missing"
        if found[at] == right:
            continue
        if at and found[at] == wanted[at - 1]:
            return at, "is there, but the one before it stands there twice"
        after = wanted[at + 1 : at + 2]
        if after and found[at] == after[0] and right not in found:
            return at, "is missing"
        if found[at] in wanted:
            return at, f"is out of order: leaf {wanted.index(found[at]) - at:+d} stands there"
        return at, "is not what the tree holds: edited or another one"
    if len(found) > len(wanted):
        return len(wanted), "is one too many"
    return None


def _at_offset(entries: Sequence[bytes], at: int) -> str:
    try:
        return f" (offset {v.place_of(entries[at])[2]})"
    except (v.Wrong, IndexError, ValueError):
        return ""


if __name__ == "__main__":
    sys.exit(v.main())
