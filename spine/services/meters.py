"""What a process that decides about a meter has folded of it, outside its own chain."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import compress, islice
from typing import Any, Final, NamedTuple

import msgspec
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
from spine.rows import CLOSED_PREFIX, SUBJECT_PREFIX, Applied, Tools

# Of so many meters the state is kept at hand, of two topics: all of the country's, at 12 bytes
# each, and some 250 for a state that no other meter shares.
METERS_KEPT_MAX: Final = 40_000_000
STATES_SHARED_MAX: Final = 10_000
# States that no meter is in any longer are dropped when there may be so many of them, and as many
# as of the others.
STATES_OVER_MAX: Final = 10_000
# So short a run of `Kept` is put together with any other.
SHORT_RUN: Final = 8_192
# Rows of a store that are learnt before others have their turn: some thousandths of a second.
LEARNT_AT_ONCE: Final = 1_000
_UNKNOWN: Final = -1
# Places of what `KnownStates` says of a meter that is not understood, and of one never named.
_NOT_UNDERSTOOD, _INITIAL = 0, 1
_PAST_SUBJECTS: Final = SUBJECT_PREFIX + b"\xff"
# A row of a subject whose state is left as it is packed.
_ROW_UNREAD: Final = tuple[int, int, msgspec.Raw]


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


class _Run(NamedTuple):
    """Meters by their numbers, sorted, and what is kept of each; (n,) both."""

    numbers: npt.NDArray[np.int64]
    kept: npt.NDArray[np.int32]

    @classmethod
    def of(cls, numbers: npt.NDArray[np.int64], kept: npt.NDArray[np.int32]) -> _Run:
        """A run of these, which come in any order."""
        order = np.argsort(numbers, kind="stable")  # what is sorted in parts is merged
        return cls(numbers[order], kept[order])

    def places(
        self, numbers: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.bool_]]:
        """Where each of these meters is, if it is here at all."""
        places = np.minimum(np.searchsorted(self.numbers, numbers), len(self.numbers) - 1)
        return places, self.numbers[places] == numbers

    def with_all_of(self, other: _Run) -> _Run:
        """Both together; no meter is in both."""
        return _Run.of(
            np.concatenate((self.numbers, other.numbers)), np.concatenate((self.kept, other.kept))
        )


class Kept:
    """A small number for each of many meters, at 12 bytes each: columns by the meters' numbers.

    Thousands are looked up at once without a miss of the processor's cache for each, which is what
    a dictionary of all meters comes to. New ones make a run of columns, which takes in those before
    it that are not much longer: there are few runs, and each meter moves few times.
    """

    def __init__(self) -> None:
        self._runs: list[_Run] = []

    def __len__(self) -> int:
        """How many meters."""
        return sum(len(run.numbers) for run in self._runs)

    def of(self, numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
        """What is kept of each of these meters, (n,); `_UNKNOWN` where that is nothing."""
        kept = np.full(len(numbers), _UNKNOWN, np.int32)
        for run in self._runs:
            places, here = run.places(numbers)
            np.copyto(kept, run.kept[places], where=here)
        return kept

    def put(self, numbers: npt.NDArray[np.int64], kept: npt.NDArray[np.int32]) -> None:
        """Keep that of these meters, each named once, whatever was kept of them before."""
        for run in self._runs:
            places, here = run.places(numbers)
            run.kept[places[here]] = kept[here]
            numbers, kept = numbers[~here], kept[~here]
        if len(numbers):
            self._add(_Run.of(numbers, kept))

    def _add(self, new: _Run) -> None:
        runs = self._runs
        while runs and len(runs[-1].numbers) <= max(SHORT_RUN, 2 * len(new.numbers)):
            new = runs.pop().with_all_of(new)
        runs.append(new)

    def used(self, numbers: int) -> npt.NDArray[np.bool_]:
        """Which of `range(numbers)` are kept of any meter, (numbers,)."""
        used = np.zeros(numbers, np.bool_)
        for run in self._runs:
            used[run.kept] = True
        return used

    def renumber(self, now: npt.NDArray[np.int32]) -> None:
        """Keep `now[n]` wherever n is kept."""
        self._runs = [_Run(run.numbers, now[run.kept]) for run in self._runs]


class KnownStates:
    """What this process has folded of many meters at once, by one topic.

    Meters in the same state share one object, so that who goes through thousands of them judges
    each state once. The states of meters that were learnt or asked for, or that facts were folded
    of, are kept at hand; a further fact replaces them in the moment in which it is folded. `part`
    leaves of a state only what is asked for: the less that is, the more share it.
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
        self._state_type = type(domain.initial())
        self._never_named = domain.initial()
        self._forget()
        for partition in range(partitions):
            folds[topic, partition].listeners.append(self._on_facts)

    async def learn(self) -> None:
        """Keep at hand what was folded before, for as many meters as can be kept. Whoever else has
        work in this thread does it meanwhile: a meter that is asked for first is looked up.
        """
        for partition in range(self._partitions):
            fold, begin = self._folds[self._topic, partition].stored.fold, SUBJECT_PREFIX
            while rows := list(islice(fold.rows.scan(begin, _PAST_SUBJECTS), LEARNT_AT_ONCE)):
                if len(self._kept) + len(rows) >= METERS_KEPT_MAX:
                    return
                found = ((key.removeprefix(SUBJECT_PREFIX), row) for key, row in rows)
                named = {mpxn: row for mpxn, row in found if _has_number(mpxn)}
                mpxns = np.array(list(named), f"S{MPXN_BYTES}")
                places = [self._place_in(row, fold.tools) for row in named.values()]
                self._kept.put(numbers_of(mpxns), np.array(places, np.int32))
                begin = rows[-1][0] + b"\x00"
                await asyncio.sleep(0)

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
                    _INITIAL if row is None else self._place_in(row, fold.tools) for row in rows
                ]
                # Of the others nothing is kept: anybody can name meters that are none.
                named = unknown[[row is not None for row in rows]]
                self._kept.put(points.numbers[named], places[named])
        met, of_point = np.unique(places, return_inverse=True)
        return Alike([self._states[place] for place in met.tolist()], of_point)

    def _on_facts(self, record: LogRecord, applied: Applied) -> None:
        self._forget_if_full()
        states = ((mpxn.encode(), state) for mpxn, state in applied.states.items())
        named = {mpxn: state for mpxn, state in states if _has_number(mpxn)}
        mpxns = np.array(list(named), f"S{MPXN_BYTES}")
        places = [self._place_of(state) for state in named.values()]
        self._kept.put(numbers_of(mpxns), np.array(places, np.int32))

    def _forget_if_full(self) -> None:
        if len(self._kept) >= METERS_KEPT_MAX:
            self._forget()
        elif len(self._states) > self._states_max:
            self._drop_superseded()

    def _forget(self) -> None:
        self._kept = Kept()
        self._states: list[Any] = [None]
        self._places: dict[bytes, int] = {}
        self._read: dict[bytes, int] = {}
        self._place_of(self._never_named)
        self._states_max = STATES_OVER_MAX

    def _drop_superseded(self) -> None:
        """Forget the states that no meter is in any longer."""
        used = self._kept.used(len(self._states))
        used[[_NOT_UNDERSTOOD, _INITIAL]] = True
        now = np.cumsum(used, dtype=np.int32) - 1
        self._kept.renumber(now)
        self._states = list(compress(self._states, used.tolist()))
        self._places = {
            packed: int(now[place]) for packed, place in self._places.items() if used[place]
        }
        self._read.clear()
        self._states_max = min(2 * len(self._states), METERS_KEPT_MAX) + STATES_OVER_MAX

    def _place_in(self, row: bytes, tools: Tools) -> int:
        """The same of a row of the store. One that holds the state of another is not read again."""
        _, _, packed = tools.unpack(row, _ROW_UNREAD)
        unread = bytes(packed)
        place = self._read.get(unread)
        if place is None:
            place = self._place_of(tools.unpack(unread, self._state_type))
            if len(self._read) >= STATES_SHARED_MAX:
                self._read.clear()
            self._read[unread] = place
        return place

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


def _has_number(subject: bytes) -> bool:
    """Whether it may be a metering point at all; no other is ever asked for."""
    return len(subject) <= MPXN_BYTES and subject.isdigit()


def _any_closed(rows: ReadableRows) -> bool:
    return next(rows.scan(CLOSED_PREFIX, CLOSED_PREFIX + b"\xff"), None) is not None
