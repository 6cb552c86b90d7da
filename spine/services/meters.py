"""What a process that decides about a meter has folded of it, outside its own chain."""

from __future__ import annotations

from collections.abc import Callable
from itertools import compress
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from domains.metering.judging import Alike, Points, numbers_of
from domains.metering.readings import MPXN_BYTES
from spine import trust
from spine.codec import pack
from spine.domain import ReadableRows
from spine.errors import Pushback, Reason
from spine.event import LogRecord, murmur2_partition
from spine.fold import FaustFolds
from spine.policy import MeterAccess
from spine.rows import CLOSED_PREFIX, SUBJECT_PREFIX, Applied

# Of so many meters the state is kept at hand, of two topics: at 16 bytes each, and some 250 for a
# state that no other meter shares.
METERS_KEPT_MAX: Final = 1_000_000
STATES_SHARED_MAX: Final = 10_000
# States that no meter is in any longer are dropped when there may be so many of them, and as many
# as of the others.
STATES_OVER_MAX: Final = 10_000
# Put beside the columns of `Kept` at most, at about 100 bytes each.
PUT_BESIDE_MAX: Final = 10_000
# What it takes to look one meter up beside the columns, in meters of columns that are made again.
MADE_AGAIN_FOR_ONE: Final = 4
_UNKNOWN: Final = -1
# Places of what `KnownStates` says of a meter that is not understood, and of one never named.
_NOT_UNDERSTOOD, _INITIAL = 0, 1


def known_state(folds: FaustFolds, topic: str, mpxn: str, partitions: int) -> Any:
    """What this process knows of a meter by one topic; None while it does not understand all of
    it. Pushback if the whole partition is closed.
    """
    fold = folds[topic, murmur2_partition(mpxn.encode(), partitions)].stored.fold
    match fold.closed(mpxn):
        case None:
            return fold.subject(mpxn).state
        case Reason.METER_CLOSED:
            return None
        case closed:
            message = "closed until a build understands what it holds"
            raise Pushback(closed, message, retry_after_s=60)


def known_access(folds: FaustFolds, mpxn: str, partitions: int) -> MeterAccess:
    """Who supplies, serves and occupies a meter, and what was allowed there, as far as known."""
    known: MeterAccess | None = known_state(folds, trust.CONSUMER_LOG, mpxn, partitions)
    return MeterAccess() if known is None else known


class Kept:
    """A small number for each of many meters: two columns, by the numbers of the meters.

    Thousands are looked up at once without a miss of the processor's cache for each, which is what
    a dictionary of all meters comes to. What was put last stands in one beside the columns, until
    looking there has taken as long as it takes to make the columns again.
    """

    def __init__(self) -> None:
        self._numbers, self._kept = np.zeros((2, 0), np.int64)
        self._beside: dict[int, int] = {}
        self._looked_beside = self._meters = 0

    def __len__(self) -> int:
        """How many meters."""
        return self._meters

    def of(self, numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """What is kept of each of these meters, (n,); `_UNKNOWN` where that is nothing."""
        if self._looked_beside * MADE_AGAIN_FOR_ONE > len(self):
            self._make_again()
        kept = np.full(len(numbers), _UNKNOWN)
        if len(self._numbers):
            places, there = self._in_columns(numbers)
            kept = np.where(there, self._kept[places], kept)
        if self._beside:
            self._looked_beside += len(numbers)
            found = map(self._beside.get, numbers.tolist(), kept.tolist())
            kept = np.fromiter(found, np.int64, len(numbers))
        return kept

    def put(self, numbers: npt.NDArray[np.int64], kept: npt.NDArray[np.int64]) -> None:
        """Keep that of these meters, whatever was kept of them before."""
        new = numbers[~self._in_columns(numbers)[1]] if len(self._numbers) else numbers
        self._meters += sum(number not in self._beside for number in set(new.tolist()))
        self._beside.update(zip(numbers.tolist(), kept.tolist(), strict=True))
        if len(self._beside) > PUT_BESIDE_MAX:
            self._make_again()

    def used(self, numbers: int) -> npt.NDArray[np.bool_]:
        """Which of `range(numbers)` are kept of any meter, (numbers,)."""
        self._make_again()
        used = np.zeros(numbers, np.bool_)
        used[self._kept] = True
        return used

    def renumber(self, now: npt.NDArray[np.int64]) -> None:
        """Keep `now[n]` wherever n is kept."""
        self._make_again()
        self._kept = now[self._kept]

    def _in_columns(
        self, numbers: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.bool_]]:
        """Where each meter is in the columns, if it is found there; they are not empty."""
        places = np.minimum(np.searchsorted(self._numbers, numbers), len(self._numbers) - 1)
        return places, self._numbers[places] == numbers

    def _make_again(self) -> None:
        beside, count = self._beside, len(self._beside)
        numbers = np.concatenate((np.fromiter(beside, np.int64, count), self._numbers))
        kept = np.concatenate((np.fromiter(beside.values(), np.int64, count), self._kept))
        self._numbers, first = np.unique(numbers, return_index=True)  # of two the one put last
        self._kept = kept[first]
        self._beside.clear()
        self._looked_beside = 0


class KnownStates:
    """What this process has folded of many meters at once, by one topic.

    Meters in the same state share one object, so that who goes through thousands of them judges
    each state once. The states of meters that were asked for, or that facts were folded of, are
    kept at hand; a further fact replaces them in the moment in which it is folded. `part` leaves of
    a state only what is asked for: the less that is, the more share it.
    """

    def __init__(
        self,
        folds: FaustFolds,
        topic: str,
        partitions: int,
        part: Callable[[Any], Any] = lambda state: state,
    ) -> None:
        self._folds, self._topic, self._partitions, self._part = folds, topic, partitions, part
        domain = folds[topic, 0].stored.fold.domain
        assert domain is not None
        self._row_type = domain.row_type
        self._never_named = domain.initial()
        self._forget()
        for partition in range(partitions):
            folds[topic, partition].listeners.append(self._on_facts)

    def of(self, points: Points, partitions: npt.NDArray[np.int64]) -> Alike[Any]:
        """That part of the state of each meter, in the partition beside it; None while this process
        does not understand all of a meter. Pushback if a whole partition is closed.
        """
        self._forget_if_full()
        places = self._kept.of(points.numbers)
        for partition in np.unique(partitions).tolist():
            fold = self._folds[self._topic, partition].stored.fold
            own = partitions == partition
            if fold.closed("") is not None or _any_closed(fold.rows):
                for place in np.flatnonzero(own).tolist():
                    mpxn = points.names[place].decode()
                    state = known_state(self._folds, self._topic, mpxn, self._partitions)
                    places[place] = _NOT_UNDERSTOOD if state is None else self._place_of(state)
            elif (unknown := np.flatnonzero(own & (places == _UNKNOWN))).size:
                mpxns = points.names[unknown].tolist()
                rows = fold.rows.get_many([SUBJECT_PREFIX + mpxn for mpxn in mpxns])
                places[unknown] = [
                    _INITIAL
                    if row is None
                    else self._place_of(fold.tools.unpack(row, self._row_type)[2])
                    for row in rows
                ]
                # Of the others nothing is kept: anybody can name meters that are none.
                named = unknown[[row is not None for row in rows]]
                self._kept.put(points.numbers[named], places[named])
        met, of_point = np.unique(places, return_inverse=True)
        return Alike([self._states[place] for place in met.tolist()], of_point)

    def _on_facts(self, record: LogRecord, applied: Applied) -> None:
        self._forget_if_full()
        named = {mpxn: state for mpxn, state in applied.states.items() if _has_number(mpxn)}
        mpxns = np.array([mpxn.encode() for mpxn in named], f"S{MPXN_BYTES}")
        places = [self._place_of(state) for state in named.values()]
        self._kept.put(numbers_of(mpxns), np.array(places, np.int64))

    def _forget_if_full(self) -> None:
        if len(self._kept) >= METERS_KEPT_MAX:
            self._forget()
        elif len(self._states) > self._states_max:
            self._drop_superseded()

    def _forget(self) -> None:
        self._kept = Kept()
        self._states: list[Any] = [None]
        self._places: dict[bytes, int] = {}
        self._place_of(self._never_named)
        self._states_max = STATES_OVER_MAX

    def _drop_superseded(self) -> None:
        """Forget the states that no meter is in any longer."""
        used = self._kept.used(len(self._states))
        used[[_NOT_UNDERSTOOD, _INITIAL]] = True
        now = np.cumsum(used) - 1
        self._kept.renumber(now)
        self._states = list(compress(self._states, used.tolist()))
        self._places = {
            packed: int(now[place]) for packed, place in self._places.items() if used[place]
        }
        self._states_max = min(2 * len(self._states), METERS_KEPT_MAX) + STATES_OVER_MAX

    def _place_of(self, state: Any) -> int:
        """The place in `_states` of what all meters in that state share."""
        part = self._part(state)
        packed = pack(part)
        place = self._places.get(packed)
        if place is None:
            if len(self._places) >= STATES_SHARED_MAX:
                self._places.clear()
            place = self._places[packed] = len(self._states)
            self._states.append(part)
        return place


def _has_number(subject: str) -> bool:
    """Whether it may be a metering point at all; no other is ever asked for."""
    return len(subject) <= MPXN_BYTES and subject.isascii() and subject.isdigit()


def _any_closed(rows: ReadableRows) -> bool:
    return next(rows.scan(CLOSED_PREFIX, CLOSED_PREFIX + b"\xff"), None) is not None
