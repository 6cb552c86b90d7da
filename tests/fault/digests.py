"""A live store against a replay of the log as far as it has come: the same rows, byte for byte."""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from spine import trust
from spine.errors import Pushback
from spine.event import LogRecord
from spine.log import LogReader
from spine.rows import Applied, rows_digest
from spine.runtime import Runtime
from spine.store import POSITION_ROW, StorePosition, StoreReader

STEADY_WITHIN_S, PATIENCE_S = 10.0, 120.0
T = TypeVar("T")


def same_again(runtime: Runtime, process: str) -> list[str]:
    """The stores of a process whose content is not what the log says, in words."""
    stores = runtime.stores(process)
    reader = runtime.reader()
    with tempfile.TemporaryDirectory(prefix="spine-replay-") as folder:
        try:
            return [
                found
                for store in sorted(stores.iterdir())
                if (place := _place(store.name)) is not None
                for found in _differs(runtime, reader, store, *place, Path(folder))
            ]
        finally:
            reader.close()


def patiently(work: Callable[[], T]) -> T:
    """What a replay comes to, begun again while brokers are still finding each other."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return work()
        except Pushback:
            if time.monotonic() > deadline:
                raise
            time.sleep(1.0)


def applied_places(runtime: Runtime) -> Counter[tuple[int, int]]:
    """How many commands a replay of the consumer log applies at each (partition, offset)."""
    found: Counter[tuple[int, int]] = Counter()

    def note(record: LogRecord, applied: Applied) -> None:
        found[record.partition, record.offset] += applied.applied

    reader = runtime.reader()
    with tempfile.TemporaryDirectory(prefix="spine-replay-") as folder:
        for partition in range(runtime.partitions):
            fold = runtime.stored_fold(Path(folder), trust.CONSUMER_LOG, partition)
            fold.catch_up(reader, on_record=note)
            fold.close()
    reader.close()
    return found


def _place(name: str) -> tuple[str, int] | None:
    topic, _, partition = name.rpartition("-")
    return (topic, int(partition)) if topic in trust.TOPICS else None


def _differs(
    runtime: Runtime, reader: LogReader, store: Path, topic: str, partition: int, folder: Path
) -> list[str]:
    position, live = _as_it_stands(store, folder / f"secondary-{store.name}")
    replayed = runtime.stored_fold(folder / "replayed", topic, partition)
    try:
        replayed.catch_up(reader, end=position.offset + 1)
        if replayed.store.digest() == live:
            return []
        return [f"{topic}-{partition} differs from its replay at {position.offset}"]
    finally:
        replayed.close()


def _as_it_stands(store: Path, secondary: Path) -> tuple[StorePosition, bytes]:
    """Position and digest of a store that its process may be writing."""
    reader = StoreReader(store, secondary)
    deadline = time.monotonic() + STEADY_WITHIN_S
    try:
        while True:
            assert time.monotonic() < deadline, f"{store.name} cannot be read"
            if reader.refresh() and (position := reader.position()) is not None:
                return position, rows_digest(reader.scan(b"", POSITION_ROW))
    finally:
        reader.close()
