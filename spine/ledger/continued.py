"""Checks that a later head continues an earlier one, offline; `verifier.py`, beside it, runs it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if __package__:
    from spine.ledger import verifier as v
else:  # copied out, beside verifier.py
    import verifier as v  # type: ignore[import-not-found, no-redef]


def check_consistency(
    old: int, old_root: bytes, new: int, new_root: bytes, path: Sequence[bytes]
) -> None:
    """Wrong unless the older tree is the beginning of the newer one (RFC 9162, 2.1.4.2)."""
    if not 0 <= old <= new or any(len(hash_) != 32 for hash_ in (old_root, new_root, *path)):
        raise v.Wrong("a tree does not shrink")
    if old in (0, new):
        if path:
            raise v.Wrong("there is nothing to prove")
        if old == new and old_root != new_root:
            raise v.Wrong("two trees of one size have different roots")
        return
    if not path:
        raise v.Wrong("the proof is empty")
    steps = [old_root, *path] if old & (old - 1) == 0 else list(path)
    fn, sn = old - 1, new - 1
    while fn & 1:
        fn, sn = fn >> 1, sn >> 1
    was = now = steps[0]
    for step in steps[1:]:
        if sn == 0:
            raise v.Wrong("the proof is too long")
        if fn & 1 or fn == sn:
            was, now = v.node_of(step, was), v.node_of(step, now)
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            now = v.node_of(now, step)
        fn, sn = fn >> 1, sn >> 1
    if sn or was != old_root or now != new_root:
        raise v.Wrong("the older tree is not the beginning of the newer one")


def check_growth(proof: dict[str, Any], keys: v.Keys, since: Path | None = None) -> list[str]:
    """That a newer checkpoint, and every partition under it, continues an older one.

    Wrong if the older one is not the head in the file `since`, whoever signed both.
    """
    kept = kept_head(since) if since else ""
    old, new = (v.check_note(proof[side]["checkpoint"], keys) for side in ("old", "new"))
    if since and proof["old"]["checkpoint"].rpartition("\n\n")[0] != kept:
        raise v.Wrong(f"it begins at checkpoint {old.size}, not at the head in {since.name}")
    path = v.hashes_of(proof["path"])
    v.within("the epochs", check_consistency, old.size, old.root, new.size, new.root, path)
    heads: list[dict[tuple[str, int], dict[str, Any]]] = []
    for side, signed in (("old", old), ("new", new)):
        super_root, count = v.within(
            f"the {side} epoch", v.check_epoch, proof[side]["epoch"], signed
        )
        listed = sorted(proof[side]["heads"], key=lambda h: (h["topic"], h["partition"]))
        root = v.root_of([v.leaf_of(v.head_entry(h)) for h in listed])
        if len(listed) != count or root != super_root:
            raise v.Wrong(f"the {side} heads are not those of its checkpoint")
        heads.append({(h["topic"], h["partition"]): h for h in listed})
    before, after = heads
    for place, head in before.items():
        where = f"{place[0]}-{place[1]}"
        if place not in after:
            raise v.Wrong(f"{where} is gone")
        now = after[place]
        roots = [v.unbase64(h["root"]) for h in (head, now)]
        path = v.hashes_of(proof["growth"].get(where, ()))
        v.within(where, check_consistency, head["size"], roots[0], now["size"], roots[1], path)
    said = f"checkpoint {new.size} of {new.origin} continues checkpoint {old.size}"
    said += ", the head that was kept" if since else ""
    return [said, f"and so does each of the {len(before)} partitions under it"]


def kept_head(path: Path) -> str:
    """What a head says that was kept as a signed note: origin, size and root; else Misused."""
    try:
        text = path.read_text("utf-8").rpartition("\n\n")[0]
    except (OSError, ValueError):
        text = ""
    if text.count("\n") != 2:
        raise v.Misused(f"--since: {path.name} holds no head as `spine ledger head` writes one")
    return text


if __name__ == "__main__":
    sys.exit(v.main())
