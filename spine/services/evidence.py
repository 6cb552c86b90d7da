"""What aggregates are made from: readings, register and standing data, folded from the log here.

No store that serves is read. The coordinator keeps stores of its own between two publications, so
that each costs what was appended since; who checks a publication folds into a throw-away folder.
Either way only what stands below given positions is looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Final

from domains.metering.aggregates import Meter
from domains.metering.catalogue import LV_FEEDERS
from domains.metering.events import MeteringPoint
from domains.metering.feeders import FeederRing, feeders_of, gsp_group_of, meter_of
from spine import trust
from spine.codelist import CodeList
from spine.event import DataPosition
from spine.gb import GspGroup
from spine.replay import RangeReader, StoredFold
from spine.rows import SUBJECT_PREFIX, subject_history

OpenFold = Callable[[Path, str, int], StoredFold]
Place = tuple[str, int]
_AFTER_SUBJECTS: Final = SUBJECT_PREFIX[:-1] + bytes([SUBJECT_PREFIX[-1] + 1])


@dataclass(frozen=True, slots=True)
class Group:
    """A GSP group on a day: the feeders that are listed, and all its meters."""

    feeders: tuple[str, ...]
    meters: Sequence[Meter]


class Evidence:
    """The log as folded here."""

    def __init__(self, folds: Mapping[Place, StoredFold], partitions: int) -> None:
        self._folds, self._partitions = folds, partitions

    def positions(self) -> tuple[DataPosition, ...]:
        """How far everything is folded."""
        return tuple(DataPosition(*place, f.next_offset) for place, f in self._folds.items())

    def groups(self, day: date, positions: Sequence[DataPosition]) -> dict[str, Group]:
        """Every GSP group that has a meter, as the log below these positions has that day.

        Of a place that no position names, nothing is seen.
        """
        below = {(p.topic, p.partition): p.offset for p in positions}
        reference = (trust.METERING_REFERENCE, 0)
        listed = self._state(reference, LV_FEEDERS, below.get(reference, 0))
        lv_feeders = listed if isinstance(listed, CodeList) else CodeList()
        feeders = {str(group): feeders_of(group, lv_feeders, day) for group in GspGroup}
        rings = {group: FeederRing(names) for group, names in feeders.items()}
        found: dict[str, list[Meter]] = {}
        for partition in range(self._partitions):
            registered = below.get((trust.METERING_TOPIC, partition), 0)
            recorded = below.get((trust.READINGS_TOPIC, partition), 0)
            rows = self._folds[trust.READINGS_TOPIC, partition].fold.rows
            for mpxn, point in self._points(partition, registered):
                group = gsp_group_of(mpxn, point, day)
                if group in feeders:
                    meter = meter_of(rows, recorded, mpxn, rings[group], day)
                    found.setdefault(group, []).append(meter)
        return {group: Group(feeders[group], meters) for group, meters in sorted(found.items())}

    def _points(self, partition: int, below: int) -> Iterator[tuple[str, MeteringPoint]]:
        """Every metering point of a partition."""
        place = (trust.METERING_TOPIC, partition)
        for key, _ in self._folds[place].fold.rows.scan(SUBJECT_PREFIX, _AFTER_SUBJECTS):
            mpxn = key[len(SUBJECT_PREFIX) :].decode()
            point = self._state(place, mpxn, below)
            if isinstance(point, MeteringPoint):
                yield mpxn, point

    def _state(self, place: Place, subject: str, below: int) -> object:
        """The state of a subject below an offset; None if nothing was said of it by then."""
        fold = self._folds[place].fold
        assert fold.domain is not None
        state = None
        for known in subject_history(fold.rows, fold.tools.unpack, fold.domain, subject, below):
            state = known.state
        return state


@contextmanager
def evidence(
    open_fold: OpenFold,
    folder: Path,
    reader: RangeReader,
    partitions: int,
) -> Iterator[Evidence]:
    """Fold the log as it is now in stores of that folder, on from where they stand. Blocking."""
    metered = (trust.READINGS_TOPIC, trust.METERING_TOPIC)
    places = [(topic, p) for topic in metered for p in range(partitions)]
    folds: dict[Place, StoredFold] = {}
    with ExitStack() as opened:
        for place in (*places, (trust.METERING_REFERENCE, 0)):
            folds[place] = open_fold(folder, *place)
            opened.callback(folds[place].close)
            folds[place].check(reader)
            folds[place].catch_up(reader)
        yield Evidence(folds, partitions)
