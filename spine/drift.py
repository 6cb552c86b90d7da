"""The drift watcher: what serving folds hold against a replay of the log that shares nothing.

A store says itself how far it has come, and its checksums hold for whatever was written last. So
neither tells of a row that was changed behind the log's back. Here every store is opened read-only,
the log is folded as far as the store says, in throw-away stores and by the same pure reducers, and
the rows of both are held against each other one by one.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Final

import structlog

from spine import telemetry, trust
from spine.domain import HistoryLayout
from spine.files import claimed, write_whole
from spine.log import LogUnfit
from spine.replay import BUILD_ROW, RangeReader, StoredFold
from spine.rocks import DamagedStore
from spine.store import POSITION_ROW, StorePosition, StoreReader

EVIDENCE: Final = "evidence"
ROWS_KEPT: Final = 20
Row = tuple[bytes, bytes]
Place = tuple[str, int]
OpenFold = Callable[[Path, str, int], StoredFold]
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Difference:
    """A row that the served store and the log do not agree on; None: it is not there."""

    key: bytes
    served: bytes | None
    replayed: bytes | None


@dataclass(frozen=True, slots=True)
class Compared:
    """One store at one position. `verdict`: SAME, ROWS_DIFFER, POSITION_DIFFERS, or NOT_COMPARED.

    Not compared is what stands behind where an earlier look found it, such as a store that is being
    folded again, and what cannot be read just now. `first` are some of the rows that differ.
    """

    process: str
    topic: str
    partition: int
    offset: int
    verdict: str
    differ: int = 0
    first: tuple[Difference, ...] = ()
    evidence: str = ""

    @property
    def drifted(self) -> bool:
        """Whether the served view and the log disagree."""
        return self.verdict in ("ROWS_DIFFER", "POSITION_DIFFERS")


class DriftWatcher:
    """Looks at every store below `stores`, each in the folder of its process; keeps to `own`.

    `open_fold(path, topic, partition)` gives a fold over a store below `path`. A replay begins with
    the first record of the log when the watcher is made, and goes on from there look by look.
    Pushback(STARTING) if another watches from the same folder.
    """

    def __init__(
        self,
        stores: Path,
        own: Path,
        log_id: bytes,
        reader: RangeReader,
        open_fold: OpenFold,
        layouts: Mapping[str, HistoryLayout],
    ) -> None:
        self._stores, self._own, self._log_id = stores, own, log_id
        self._reader, self._open_fold, self._layouts = reader, open_fold, layouts
        self._claim = claimed(own, "a drift watcher")
        for scratch in ("replayed", "seen"):
            shutil.rmtree(own / scratch, ignore_errors=True)
        self._seen: dict[tuple[str, Place], StoreReader] = {}
        self._alarmed: set[tuple[str, Place]] = set()

    def look(self) -> list[Compared]:
        """Compare every store once. What has drifted since the last look raises an alarm."""
        by_place: dict[Place, list[str]] = {}
        for process, place in sorted(_served(self._stores)):
            by_place.setdefault(place, []).append(process)
        return [
            self._told(compared)
            for place, served in by_place.items()
            for compared in self._compare(place, served)
        ]

    def close(self) -> None:
        """Let go of the stores."""
        for reader in self._seen.values():
            reader.close()
        self._claim.close()

    def _compare(self, place: Place, processes: list[str]) -> Iterator[Compared]:
        """The stores of one topic-partition, in the order of how far they have come."""
        found = []
        for process in processes:
            reader, position = self._opened(process, place)
            if position is None:
                yield Compared(process, *place, -1, "NOT_COMPARED")
            else:
                found.append((position.offset, process, reader, position))
        if not found:
            return
        replayed = self._open_fold(self._own / "replayed", *place)
        try:
            for offset, process, reader, position in sorted(found, key=lambda one: one[:2]):
                if not self._in_the_log(place, position):
                    yield Compared(process, *place, offset, "POSITION_DIFFERS")
                    continue
                replayed.catch_up(self._reader, end=offset + 1)
                yield self._rows(process, place, offset, reader, replayed)
        finally:
            replayed.close()

    def _opened(self, process: str, place: Place) -> tuple[StoreReader, StorePosition | None]:
        """A store as it stands now, and how far it says it has come."""
        name = f"{place[0]}-{place[1]}"
        reader = self._seen.get((process, place))
        if reader is None:
            seen = self._own / "seen" / process / name
            path, layout = self._stores / process / name, self._layouts.get(place[0])
            reader = StoreReader(path, seen, layout, bystander=True)
            self._seen[process, place] = reader
        try:
            return reader, reader.position() if reader.refresh() else None
        except DamagedStore:
            return reader, None

    def _in_the_log(self, place: Place, position: StorePosition) -> bool:
        """Whether the log holds the very record that a store says it stands on."""
        if (position.log_id, position.topic, position.partition) != (self._log_id, *place):
            return False
        try:
            record = next(self._reader.read(*place, position.offset, position.offset + 1), None)
        except LogUnfit:  # before the first record there is
            return False
        return record is not None and record.digest() == position.record_digest

    def _rows(
        self, process: str, place: Place, offset: int, served: StoreReader, replayed: StoredFold
    ) -> Compared:
        if replayed.next_offset != offset + 1:
            return Compared(process, *place, offset, "NOT_COMPARED")
        found = differences(served.scan(b"", POSITION_ROW), replayed.store.scan(b"", POSITION_ROW))
        try:
            first = tuple(islice(found, ROWS_KEPT))
            differ = len(first) + sum(1 for _ in found)
        except DamagedStore:
            return Compared(process, *place, offset, "NOT_COMPARED")
        verdict = "ROWS_DIFFER" if differ else "SAME"
        return Compared(process, *place, offset, verdict, differ, first)

    def _told(self, compared: Compared) -> Compared:
        """The alarm is raised once, until the store was found to be the same again."""
        store = (compared.process, (compared.topic, compared.partition))
        if compared.verdict == "SAME":
            self._alarmed.discard(store)
        if not compared.drifted or store in self._alarmed:
            return compared
        self._alarmed.add(store)
        evidence = _kept(self._own / EVIDENCE, compared)
        telemetry.drift_alarms.add(1, {"kind": compared.verdict})
        _log.error(
            "drift.alarm",
            kind=compared.verdict,
            process=compared.process,
            topic=compared.topic,
            partition=compared.partition,
            offset=compared.offset,
            rows=compared.differ,
            evidence=evidence,
        )
        return replace(compared, evidence=evidence)


def differences(served: Iterator[Row], replayed: Iterator[Row]) -> Iterator[Difference]:
    """Where two scans in key order part. Which build began a store is not the log's concern."""
    end: Row = (POSITION_ROW, b"")
    ours, theirs = next(served, end), next(replayed, end)
    while (key := min(ours[0], theirs[0])) != POSITION_ROW:
        mine = ours[1] if ours[0] == key else None
        its = theirs[1] if theirs[0] == key else None
        if mine != its and key != BUILD_ROW:
            yield Difference(key, mine, its)
        if mine is not None:
            ours = next(served, end)
        if its is not None:
            theirs = next(replayed, end)


def _served(stores: Path) -> Iterator[tuple[str, Place]]:
    """Every store of every process."""
    for path in stores.glob("*/*-*"):
        topic, _, partition = path.name.rpartition("-")
        if topic in trust.TOPICS and partition.isdecimal():
            yield path.parent.name, (topic, int(partition))


def _kept(folder: Path, compared: Compared) -> str:
    """Put what contradicts what on the disk; the name of the file."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    name = f"{compared.topic}-{compared.partition}-{time.time_ns()}.json"
    content = {
        "process": compared.process,
        "topic": compared.topic,
        "partition": compared.partition,
        "offset": compared.offset,
        "kind": compared.verdict,
        "rows": compared.differ,
        "first": [
            {"key": d.key.hex(), "served": _hex(d.served), "replayed": _hex(d.replayed)}
            for d in compared.first
        ],
    }
    write_whole(folder / name, json.dumps(content, indent=2).encode(), sync=True)
    return name


def _hex(value: bytes | None) -> str | None:
    return None if value is None else value.hex()
