"""The ledger's leaves are for ever: what a proof covers today is rebuilt on any day."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

from spine.event import LogRecord
from spine.ledger.entries import Epoch, Head, RecordLeaf, super_root

HERE = Path(__file__).parent / "ledger.json"
RECORD = LogRecord(
    "consumers.events.v1", 3, 17, 1_767_225_600_123, b"1200000000003", (("t", b"f"),), b"value"
)
HEADS = (
    Head("consumers.events.v1", 1, 18, sha256(b"one").digest()),
    Head("access.outcomes.v1", 0, 0, bytes(32)),
)


def leaves() -> dict[str, str]:
    """Every layout, with a key and without, with sizes and without."""
    bare = replace(RECORD, key=None, value=None, headers=())
    epoch = Epoch(7, 1_767_225_600_456, 2, super_root(HEADS), (("consumers.events.v1", 1, 18),))
    return {
        "record": RecordLeaf.of(RECORD).encode().hex(),
        "bare_record": RecordLeaf.of(bare).encode().hex(),
        "head": HEADS[0].encode().hex(),
        "empty_head": HEADS[1].encode().hex(),
        "super_root": super_root(HEADS).hex(),
        "epoch": epoch.encode().hex(),
        "quiet_epoch": replace(epoch, sizes=()).encode().hex(),
    }


def test_the_leaves_of_the_ledger_are_as_ever() -> None:
    if os.environ.get("SPINE_REWRITE_GOLDEN") == "1":
        HERE.write_text(json.dumps(leaves(), indent=1) + "\n")
    assert leaves() == json.loads(HERE.read_text())


def test_a_leaf_is_read_back_whole() -> None:
    leaf = RecordLeaf.of(RECORD)
    assert RecordLeaf.decode(leaf.encode()) == leaf
