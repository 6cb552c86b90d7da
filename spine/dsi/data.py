"""The readings process's stores, read-only: which positions there are, and rows below them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from spine import trust
from spine.domain import HistoryLayout
from spine.dsi.answering import Sources
from spine.errors import Pushback, Reason
from spine.event import DataPosition
from spine.reducers import Folded
from spine.replay import BUILD_ROW, folded_in
from spine.store import StoreReader

REFRESH_EVERY_S: Final = 0.05
POLL_S: Final = 0.02
# How soon a read follows a partition that another readings process has taken over.
COMPARE_EVERY_S: Final = 0.25
Place = tuple[str, int]
# How old rows of a topic's stores lie in files.
Layouts = Mapping[str, HistoryLayout]


def store_path(stores: Path, topic: str, partition: int) -> Path:
    """Where a process keeps the store of a topic-partition."""
    return stores / f"{topic}-{partition}"


class DataViews:
    """Secondary readers of the stores that readings processes keep, refreshed when they are asked.

    `stores` is where the first of these processes keeps its own; those of the others lie beside it.
    A partition is read where it is folded furthest: a process that has lost it stands still.
    """

    def __init__(
        self, stores: Path, own: Path, log_id: bytes, partitions: int, layouts: Layouts
    ) -> None:
        self._stores, self._own, self._log_id, self._layouts = stores, own, log_id, layouts
        places = [(topic, p) for topic in trust.DATA_TOPICS for p in range(partitions)]
        self._readers: dict[Place, dict[str, StoreReader]] = {place: {} for place in places}
        self._furthest: dict[Place, StoreReader] = {}
        self._refreshed: dict[Place, float] = {}
        self._compared: dict[Place, float] = {}
        self._members: list[Path] = []
        self._looked = 0.0

    def next_offset(self, topic: str, partition: int) -> int:
        """Below which offset rows can be read; Pushback(DATA_BEHIND) if there is no store."""
        place = (topic, partition)
        now = time.monotonic()
        if now - self._compared.get(place, 0.0) >= COMPARE_EVERY_S:
            self._compare(place)
            self._compared[place] = self._refreshed[place] = now
        elif now - self._refreshed.get(place, 0.0) >= REFRESH_EVERY_S:
            if place in self._furthest and not self._furthest[place].refresh():
                self._compare(place)
            self._refreshed[place] = now
        offset = self._offset(self._furthest.get(place))
        if offset < 0:
            raise Pushback(Reason.DATA_BEHIND, "the readings process is not ready yet")
        return offset + 1

    def _compare(self, place: Place) -> None:
        """Find the stores of a place, and which of them has come furthest."""
        readers = self._readers[place]
        for home in self._homes():
            path = store_path(home, *place)
            if home.name not in readers and path.exists():
                secondary = store_path(self._own / home.name, *place)
                readers[home.name] = StoreReader(path, secondary, self._layouts.get(place[0]))
        ready = [reader for _, reader in sorted(readers.items()) if reader.refresh()]
        self._furthest.pop(place, None)
        if ready:
            self._furthest[place] = max(ready, key=self._offset)

    def _homes(self) -> list[Path]:
        """Where the readings processes keep their stores, looked for as often as one compares."""
        now = time.monotonic()
        if now - self._looked >= COMPARE_EVERY_S:
            kind = self._stores.name
            self._members = [
                home
                for home in self._stores.parent.glob(f"{kind}*")
                if home.name == kind or home.name.startswith(f"{kind}-")
            ]
            self._looked = now
        return self._members

    def _offset(self, reader: StoreReader | None) -> int:
        """The last offset folded in a store of this log; -1 if there is none."""
        position = None if reader is None else reader.position()
        if position is None or position.log_id != self._log_id:
            return -1
        return position.offset

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
            {p.topic: self._furthest[p.topic, p.partition] for p in vector},
            {p.topic: p.offset for p in vector},
        )

    def folded(self, vector: tuple[DataPosition, ...]) -> dict[str, Folded]:
        """The versions of the reducers that folded what these positions are read from, as the
        stores say it: their process may be of another build than this one.
        """
        places = [(p.topic, p.partition) for p in vector]
        readers = {place[0]: self._furthest.get(place) for place in places}
        return {
            topic: folded
            for topic, reader in readers.items()
            if reader is not None and (folded := folded_in(reader.constant(BUILD_ROW))) is not None
        }

    def close(self) -> None:
        """Let go of the stores."""
        for readers in self._readers.values():
            for reader in readers.values():
                reader.close()
