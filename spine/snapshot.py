"""Snapshots of a process's stores: copied whole, checked, each with the position it stands at.

A snapshot spares a rebuild, nothing more: the log stays the only truth. A restored store says how
far it has come, and the start of its process checks that place against the log (`StoredFold.check`)
and folds on from there. The process must not run meanwhile: a store has one writer.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from spine.errors import Pushback, Reason, Refused, SpineError
from spine.files import claimed
from spine.rocks import DAMAGE_MARK, DamagedStore
from spine.store import FIRST_LIFE, Store, StoreInUse, StorePosition

MANIFEST: Final = "manifest.json"
VERSION: Final = 1
BLOCK_BYTES: Final = 1 << 20


class SnapshotUnfit(SpineError):
    """The snapshot is incomplete, damaged, or of another log."""

    grpc_code = "FAILED_PRECONDITION"


@dataclass(frozen=True, slots=True)
class KeptFile:
    """One file of a store: its name, its bytes and their SHA-256."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class KeptStore:
    """One store of a snapshot. The position is that of its rows; offset -1: it had folded none."""

    name: str
    log_id: str
    offset: int
    record_digest: str
    files: tuple[KeptFile, ...]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What stands in a manifest."""

    version: int
    process: str
    stores: tuple[KeptStore, ...]


def save(stores: Path, process: str, target: Path) -> Snapshot:
    """Copy every store of a process, with the digest of every file.

    SnapshotUnfit(SNAPSHOT_UNFIT) if it has none. Pushback(STARTING) while it runs.
    Refused(DATA_BEHIND) if a store is damaged: it is made good by a start. An earlier snapshot at
    `target` goes once the new one is whole.
    """
    found = list(_stores_in(stores))
    if not found:
        raise SnapshotUnfit(Reason.SNAPSHOT_UNFIT, f"{process} has no stores here")
    draft = target.with_name(target.name + ".new")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    with claimed(stores, f"a {process} process"):
        kept = tuple(_save_one(path, draft / path.name) for path in found)
    snapshot = Snapshot(VERSION, process, kept)
    (draft / MANIFEST).write_bytes(msgspec.json.encode(snapshot))
    shutil.rmtree(target, ignore_errors=True)
    draft.rename(target)
    return snapshot


def restore(target: Path, process: str, stores: Path, log_id: bytes) -> Snapshot:
    """Put the stores of a snapshot in the place of those that are there, every file checked.

    SnapshotUnfit(SNAPSHOT_UNFIT) for one that is damaged or of another process, LOG_DIFFERS for one
    of another log: then nothing is touched. Pushback(STARTING) while the process runs.
    """
    snapshot = _read(target)
    if snapshot.version != VERSION or snapshot.process != process:
        raise SnapshotUnfit(Reason.SNAPSHOT_UNFIT, f"it is no snapshot of {process} for this build")
    for kept in snapshot.stores:
        if kept.log_id and kept.log_id != log_id.hex():
            raise SnapshotUnfit(Reason.LOG_DIFFERS, "the snapshot is of another log")
        for file in kept.files:
            if _described(target / kept.name, target / kept.name / file.name) != file:
                raise SnapshotUnfit(Reason.SNAPSHOT_UNFIT, f"{kept.name}/{file.name} is damaged")
    with claimed(stores, f"a {process} process"):
        for path in _stores_in(stores):
            with suppress(DamagedStore):  # what a snapshot is for
                _opened(path).close()
        for kept in snapshot.stores:
            home = stores / kept.name
            shutil.rmtree(home, ignore_errors=True)
            shutil.copytree(target / kept.name, home / FIRST_LIFE)
            # A server that reads it may have taken what went just now for lost.
            (home / DAMAGE_MARK).unlink(missing_ok=True)
    return snapshot


def _save_one(path: Path, target: Path) -> KeptStore:
    try:
        store = _opened(path)
    except DamagedStore as damage:
        message = f"{damage}: start the process, which folds it anew"
        raise Refused(Reason.DATA_BEHIND, message) from None
    try:
        position = store.position() or StorePosition(b"", "", 0, -1, b"")
        store.copy_to(target)
    finally:
        store.close()
    files = sorted(file for file in target.rglob("*") if file.is_file())
    return KeptStore(
        path.name,
        position.log_id.hex(),
        position.offset,
        position.record_digest.hex(),
        tuple(_described(target, file) for file in files),
    )


def _opened(path: Path) -> Store:
    try:
        return Store(path)
    except StoreInUse:
        message = "the process runs: stop it before its stores are copied or replaced"
        raise Pushback(Reason.STARTING, message) from None


def _stores_in(stores: Path) -> Iterator[Path]:
    """The folders of a process that hold a store."""
    if stores.exists():
        yield from sorted(p for p in stores.iterdir() if any(p.glob("[0-9]*/CURRENT")))


def _read(target: Path) -> Snapshot:
    try:
        return msgspec.json.decode((target / MANIFEST).read_bytes(), type=Snapshot)
    except (FileNotFoundError, msgspec.MsgspecError):
        raise SnapshotUnfit(Reason.SNAPSHOT_UNFIT, "there is no snapshot") from None


def _described(root: Path, file: Path) -> KeptFile:
    digest, size = hashlib.sha256(), 0
    try:
        with file.open("rb") as content:
            while block := content.read(BLOCK_BYTES):
                digest.update(block)
                size += len(block)
    except FileNotFoundError:
        pass  # described as empty, which no file of a store is said to be under this digest
    return KeptFile(str(file.relative_to(root)), size, digest.hexdigest())
