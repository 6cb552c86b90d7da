"""The readings process's stores, read-only: which positions there are, and rows below them."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Final

from spine import trust
from spine.dsi.answering import Sources
from spine.errors import Pushback, Reason
from spine.event import DataPosition
from spine.store import StoreReader

REFRESH_EVERY_S: Final = 0.02
POLL_S: Final = 0.02


def store_path(stores: Path, topic: str, partition: int) -> Path:
    """Where a process keeps the store of a topic-partition."""
    return stores / f"{topic}-{partition}"


class DataViews:
    """Secondary readers of the readings process's stores, refreshed when they are asked."""

    def __init__(self, stores: Path, own: Path, log_id: bytes, partitions: int) -> None:
        self._log_id = log_id
        self._readers = {
            (topic, p): StoreReader(store_path(stores, topic, p), store_path(own, topic, p))
            for topic in trust.DATA_TOPICS
            for p in range(partitions)
        }
        self._refreshed: dict[tuple[str, int], float] = {}

    def next_offset(self, topic: str, partition: int) -> int:
        """Below which offset rows can be read; Pushback(DATA_BEHIND) if there is no store."""
        place = (topic, partition)
        reader = self._readers[place]
        if time.monotonic() - self._refreshed.get(place, 0.0) >= REFRESH_EVERY_S:
            if not reader.refresh():
                raise Pushback(Reason.DATA_BEHIND, "the readings process is not ready yet")
            self._refreshed[place] = time.monotonic()
        position = reader.position()
        if position is None or position.log_id != self._log_id:
            raise Pushback(Reason.DATA_BEHIND, "the readings process is not ready yet")
        return position.offset + 1

    async def reach(self, topic: str, partition: int, offset: int, timeout_s: float) -> None:
        """Return once rows below `offset` can be read; Pushback(FOLD_BEHIND) after the timeout."""
        deadline = time.monotonic() + timeout_s
        while self.next_offset(topic, partition) < offset:
            if time.monotonic() >= deadline:
                raise Pushback(Reason.FOLD_BEHIND, "the readings are not folded that far yet")
            await asyncio.sleep(POLL_S)

    def sources(self, vector: tuple[DataPosition, ...]) -> Sources:
        """The rows of those positions; Pushback(DATA_BEHIND) if they are not there just now.

        A store may have been discarded since the positions were picked, and be coming back.
        """
        for p in vector:
            if self.next_offset(p.topic, p.partition) < p.offset:
                raise Pushback(Reason.DATA_BEHIND, "the readings are being folded again")
        return Sources(
            {p.topic: self._readers[p.topic, p.partition] for p in vector},
            {p.topic: p.offset for p in vector},
        )

    def close(self) -> None:
        """Let go of the stores."""
        for reader in self._readers.values():
            reader.close()
