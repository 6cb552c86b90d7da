"""Snapshots of stores: whole, checked, with their position; and what is refused."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from spine.config import Settings
from spine.console import context
from spine.errors import Pushback, Reason, Refused
from spine.files import claimed
from spine.opening import LogIdentity
from spine.rocks import DAMAGE_MARK, DamagedStore
from spine.runtime import LOG_FILE
from spine.snapshot import SnapshotUnfit, restore, save
from spine.store import Store, StorePosition
from tests.helpers.command_line import run

LOG = bytes(range(32))
NAME = "metering.readings.v1-0"


def filled(stores: Path, log: bytes = LOG) -> bytes:
    """A store of a thousand rows at offset 7; its digest."""
    store = Store(stores / NAME)
    for number in range(1_000):
        store.put(b"r/%04d" % number, bytes(100))
    store.commit(StorePosition(log, "metering.readings.v1", 0, 7, b"d" * 32))
    digest = store.digest()
    store.close()
    return digest


def test_a_restored_store_has_the_same_rows_at_the_same_position(tmp_path: Path) -> None:
    digest = filled(tmp_path / "stores")
    saved = save(tmp_path / "stores", "readings", tmp_path / "kept")
    assert [(kept.name, kept.offset) for kept in saved.stores] == [(NAME, 7)]
    later = Store(tmp_path / "stores" / NAME)
    later.put(b"r/later", b"")
    later.commit(StorePosition(LOG, "metering.readings.v1", 0, 8, b"e" * 32))
    later.close()
    assert restore(tmp_path / "kept", "readings", tmp_path / "stores", LOG) == saved
    store = Store(tmp_path / "stores" / NAME)
    position = store.position()
    assert store.digest() == digest and position is not None and position.offset == 7
    store.close()


def test_a_snapshot_of_another_log_or_process_replaces_nothing(tmp_path: Path) -> None:
    digest = filled(tmp_path / "stores")
    save(tmp_path / "stores", "readings", tmp_path / "kept")
    for process, log, reason in (
        ("readings", bytes(32), Reason.LOG_DIFFERS),
        ("dsi", LOG, Reason.SNAPSHOT_UNFIT),
    ):
        with pytest.raises(SnapshotUnfit) as refused:
            restore(tmp_path / "kept", process, tmp_path / "stores", log)
        assert refused.value.reason is reason
    with pytest.raises(SnapshotUnfit):
        restore(tmp_path / "none", "readings", tmp_path / "stores", LOG)
    store = Store(tmp_path / "stores" / NAME)
    assert store.digest() == digest
    store.close()


def test_a_process_that_runs_keeps_a_store_that_it_has_just_marked(tmp_path: Path) -> None:
    """Its mark is seen before the lock of the store is, so the lock alone would not be."""
    filled(tmp_path / "stores")
    save(tmp_path / "stores", "readings", tmp_path / "kept")
    with claimed(tmp_path / "stores", "a readings process"):
        running = Store(tmp_path / "stores" / NAME)
        marked(tmp_path / "stores" / NAME)
        with pytest.raises(Pushback):
            restore(tmp_path / "kept", "readings", tmp_path / "stores", LOG)
        running.close()
    restore(tmp_path / "kept", "readings", tmp_path / "stores", LOG)
    Store(tmp_path / "stores" / NAME).close()


def test_a_process_without_stores_has_no_snapshot(tmp_path: Path) -> None:
    filled(tmp_path / "stores")
    kept = save(tmp_path / "stores", "readings", tmp_path / "kept")
    with pytest.raises(SnapshotUnfit, match="no stores"):
        save(tmp_path / "misspelt", "raedings", tmp_path / "kept")
    assert restore(tmp_path / "kept", "readings", tmp_path / "stores", LOG) == kept


def test_a_changed_or_missing_file_is_found_before_anything_is_touched(tmp_path: Path) -> None:
    filled(tmp_path / "stores")
    save(tmp_path / "stores", "readings", tmp_path / "kept")
    files = [file for file in (tmp_path / "kept" / NAME).iterdir() if file.stat().st_size]
    whole = files[0].read_bytes()
    files[0].write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    with pytest.raises(SnapshotUnfit, match="damaged"):
        restore(tmp_path / "kept", "readings", tmp_path / "stores", LOG)
    files[0].unlink()
    with pytest.raises(SnapshotUnfit, match="damaged"):
        restore(tmp_path / "kept", "readings", tmp_path / "stores", LOG)
    assert (tmp_path / "stores" / NAME).exists()


def marked(store: Path) -> None:
    store.joinpath(DAMAGE_MARK).touch()


def torn(store: Path) -> None:
    next(store.joinpath("1").glob("MANIFEST-*")).write_bytes(b"no manifest")


@pytest.mark.parametrize("damage", [marked, torn])
def test_a_damaged_store_is_replaced_and_not_saved(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    digest = filled(tmp_path / "stores")
    saved = save(tmp_path / "stores", "readings", tmp_path / "kept")
    damage(tmp_path / "stores" / NAME)
    with pytest.raises(DamagedStore):
        Store(tmp_path / "stores" / NAME)
    with pytest.raises(Refused) as refused:
        save(tmp_path / "stores", "readings", tmp_path / "other")
    assert refused.value.reason is Reason.DATA_BEHIND
    assert restore(tmp_path / "kept", "readings", tmp_path / "stores", LOG) == saved
    store = Store(tmp_path / "stores" / NAME)
    assert store.digest() == digest
    store.close()


def test_a_process_that_runs_keeps_its_stores(tmp_path: Path) -> None:
    filled(tmp_path / "stores")
    save(tmp_path / "stores", "readings", tmp_path / "kept")
    running = Store(tmp_path / "stores" / NAME)
    with pytest.raises(Pushback):
        save(tmp_path / "stores", "readings", tmp_path / "other")
    with pytest.raises(Pushback):
        restore(tmp_path / "kept", "readings", tmp_path / "stores", LOG)
    running.close()


def test_a_process_that_is_stopped_is_copied_while_no_broker_runs(tmp_path: Path) -> None:
    """With `spine up` the broker is stopped, too."""
    identity = LogIdentity.new(bytes(32), 4, datetime.now(UTC))
    identity.save(tmp_path / LOG_FILE)
    digest = filled(tmp_path / "stores" / "readings", identity.log_id)
    context.use(Settings(data_dir=tmp_path, kafka_bootstrap="127.0.0.1:1"))
    with pytest.raises(Pushback, match="no broker answers"):
        context.runtime()
    kept = str(tmp_path / "kept")
    for words in (("snapshot", "save"), ("snapshot", "restore")):
        said = run(*words, "readings", kept, "--json")
        assert said.code == 0 and NAME in said.out, said.err
    assert run("history", "list").code == 0
    store = Store(tmp_path / "stores" / "readings" / NAME)
    assert store.digest() == digest
    store.close()
