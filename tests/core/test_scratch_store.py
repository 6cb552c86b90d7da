"""A store that is thrown away says what any other says, before it has files and after."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spine import replay, scratch
from spine.event import NO_PREDECESSOR
from spine.scratch import ScratchStore
from spine.store import Store, StorePosition
from tests.helpers.records import LOG_ID, MemoryLog, consumers_fold
from tests.helpers.stories import consumers_story

KEYS = st.integers(0, 60).map(lambda number: b"k%02d" % number)
ROWS = st.dictionaries(KEYS, st.binary(max_size=3), max_size=40)


def position(offset: int) -> StorePosition:
    return StorePosition(LOG_ID, "t", 0, offset, bytes(32))


def said(store: Store, start: bytes, end: bytes) -> object:
    keys = [b"k%02d" % number for number in range(60)]
    found = store.get_many(keys)
    assert list(found) == [store.get(key) for key in keys]
    return found, list(store.scan(start, end)), store.position()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(ROWS, KEYS, KEYS, st.booleans()), max_size=8), st.integers(1, 60))
def test_it_says_what_a_store_says(
    rounds: list[tuple[dict[bytes, bytes], bytes, bytes, bool]], most: int
) -> None:
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(scratch, "ROWS_IN_MEMORY", most)
        stores = Store(Path(folder) / "store"), ScratchStore(Path(folder) / "scratch")
        for offset, (rows, start, end, commits) in enumerate(rounds):
            for store in stores:
                for key, value in rows.items():
                    store.put(key, value)
                if commits:
                    store.commit(position(offset))
            assert said(stores[0], start, end) == said(stores[1], start, end)
        for store in stores:
            store.commit(position(NO_PREDECESSOR))
        assert stores[0].digest() == stores[1].digest()
        for store in stores:
            store.discard()
        assert said(stores[0], b"", b"\xff") == said(stores[1], b"", b"\xff")
        for store in stores:
            store.close()


@pytest.mark.parametrize(
    ("bound", "most", "rows", "size", "files"),
    [
        ("ROWS_IN_MEMORY", 21, 20, 0, True),  # that of the position is the 21st
        ("ROWS_IN_MEMORY", 22, 20, 0, False),
        # Of a meter with a thousand consents, each command keeps half a MB.
        ("BYTES_IN_MEMORY", 20_000, 3, 10_000, True),
        ("BYTES_IN_MEMORY", 40_000, 3, 10_000, False),
    ],
)
def test_files_are_made_for_many_rows_or_large_ones_only(
    bound: str,
    most: int,
    rows: int,
    size: int,
    files: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scratch, bound, most)
    store = ScratchStore(tmp_path / "store")
    for number in range(rows):
        store.put(b"%d" % number, bytes(size))
    store.commit(position(1))
    assert any(tmp_path.rglob("MANIFEST-*")) == files
    store.close()


@pytest.mark.parametrize("most", [1, 40, scratch.ROWS_IN_MEMORY])
def test_a_fold_comes_to_the_same_rows(
    most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scratch, "ROWS_IN_MEMORY", most)
    monkeypatch.setattr(replay, "RECORDS_PER_COMMIT", 3)
    found = []
    for name, kind in {"store": Store, "scratch": ScratchStore}.items():
        fold = consumers_fold(tmp_path / name, open_store=kind)
        fold.catch_up(MemoryLog(*consumers_story()))
        found.append((fold.store.digest(), fold.store.position(), fold.fold.head))
        fold.close()
    assert found[0] == found[1]
