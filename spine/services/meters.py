"""What a process that decides about a meter has folded of it, outside its own chain."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from itertools import compress, islice
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import structlog

from domains.metering.judging import Alike, Points, numbers_of
from domains.metering.readings import MPXN_BYTES, those_in
from spine import trust
from spine.domain import ReadableRows
from spine.errors import Pushback, Reason
from spine.event import LogRecord
from spine.fold import FaustFolds
from spine.murmur2 import murmur2_partition
from spine.policy import MeterAccess
from spine.rows import CLOSED_PREFIX, SUBJECT_PREFIX, Applied, Tools

# Of so many meters the state is kept at hand: all of the country's, electricity and gas, at 16
# bytes each for two topics.
METERS_KEPT_MAX: Final = 64_000_000
# So many different states are, of each of the two: one takes up to 1 KB.
STATES_KEPT_MAX: Final = 500_000
STATES_READ_MAX: Final = 10_000
# States that no meter is in any longer are dropped when there may be so many of them, and as many
# as of the others.
STATES_OVER_MAX: Final = 10_000
# So short a run of `Kept` is put together with any other.
SHORT_RUN: Final = 8_192
# A power of two: of every so many numbers of a run one stands apart, few enough to stay in the
# processor's cache.
STRETCH: Final = 512
# From so many on it is dearer to wait for the memory of one meter after the other.
MANY: Final = 64
# Rows of a store that are learnt before others have their turn: some thousandths of a second.
LEARNT_AT_ONCE: Final = 256
_UNKNOWN: Final = -1
_FIRST_BESIDE: Final = -2
# The place of what `KnownStates` says of a meter that was never named.
_INITIAL: Final = 0
_PAST_SUBJECTS: Final = SUBJECT_PREFIX + b"\xff"
# A row of a subject whose state is left as it is packed.
_ROW_UNREAD: Final = tuple[int, int, msgspec.Raw]
# The places of meters in a run, and whether each is there.
_Found = tuple[npt.NDArray[np.intp], npt.NDArray[np.bool_]]

_log = structlog.get_logger()


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
    """Meters by their numbers, sorted, (n,), and what is kept of each, (columns, n). `lasts` are
    the last number of each whole `STRETCH`.
    """

    numbers: npt.NDArray[np.int64]
    kept: npt.NDArray[np.int32]
    lasts: npt.NDArray[np.int64]

    @classmethod
    def of(cls, numbers: npt.NDArray[np.int64], kept: npt.NDArray[np.int32]) -> _Run:
        """A run of these, which come in any order."""
        order = np.argsort(numbers, kind="stable")  # what is sorted in parts is merged
        return cls.sorted(numbers[order], kept.take(order, axis=1))

    @classmethod
    def sorted(cls, numbers: npt.NDArray[np.int64], kept: npt.NDArray[np.int32]) -> _Run:
        """A run of these, which come in the order of their numbers."""
        return cls(numbers, kept, numbers[STRETCH - 1 :: STRETCH].copy())

    def places(self, numbers: npt.NDArray[np.int64]) -> _Found:
        """Where each of these meters is, if it is here at all."""
        places = np.minimum(np.searchsorted(self.numbers, numbers), len(self.numbers) - 1)
        return places, self.numbers.take(places) == numbers

    def places_of_many(self, numbers: npt.NDArray[np.int64]) -> _Found:
        """The same, side by side: the processor waits for the memory of many at once."""
        places, half = np.searchsorted(self.lasts, numbers) * STRETCH, STRETCH // 2
        while half:
            places += half * (self.numbers.take(places + (half - 1), mode="clip") < numbers)
            half //= 2
        np.minimum(places, len(self.numbers) - 1, out=places)
        return places, self.numbers.take(places) == numbers

    def with_all_of(self, other: _Run) -> _Run:
        """Both together; no meter is in both."""
        if self.numbers[-1] < other.numbers[0]:  # as rows are learnt
            numbers = np.concatenate((self.numbers, other.numbers))
            return _Run.sorted(numbers, np.concatenate((self.kept, other.kept), axis=1))
        places = np.searchsorted(self.numbers, other.numbers)
        numbers = np.insert(self.numbers, places, other.numbers)
        return _Run.sorted(numbers, np.insert(self.kept, places, other.kept, axis=1))


class Kept:
    """Small numbers for each of many meters, one in each column; for one column 12 bytes a meter.

    Thousands are looked up at once without a miss of the processor's cache for each, which is what
    a dictionary of all meters comes to. New ones make a run of columns, which takes in those before
    it that are not much longer: there are few runs, and each meter moves few times.
    """

    def __init__(self, columns: int = 1) -> None:
        self._columns = columns
        self._runs: list[_Run] = []
        self._asked, self._found = np.zeros(0, np.int64), list[_Found]()

    def __len__(self) -> int:
        """How many meters."""
        return sum(len(run.numbers) for run in self._runs)

    def of(self, column: int, numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
        """What the column has of each of these meters, (n,); `_UNKNOWN` where that is nothing."""
        kept = np.full(len(numbers), _UNKNOWN, np.int32)
        for run, (places, here) in zip(self._runs, self._places(numbers), strict=True):
            np.copyto(kept, run.kept[column].take(places), where=here)
        return kept

    def _places(self, numbers: npt.NDArray[np.int64]) -> list[_Found]:
        """Where these meters are in each run. Who asks for one column asks for the next."""
        if len(self._found) != len(self._runs) or not np.array_equal(self._asked, numbers):
            many = len(numbers) >= MANY
            find = _Run.places_of_many if many else _Run.places
            self._asked, self._found = numbers.copy(), [find(run, numbers) for run in self._runs]
        return self._found

    def put(
        self,
        column: int,
        numbers: npt.NDArray[np.int64],
        kept: npt.NDArray[np.int32],
        room: int,
    ) -> None:
        """Keep that of these meters, each named once, whatever the column had of them before; of
        meters that no column knows, of so many at most.
        """
        for run in self._runs:
            places, here = run.places(numbers)
            run.kept[column, places[here]] = kept[here]
            numbers, kept = numbers[~here], kept[~here]
        known = np.flatnonzero(kept != _UNKNOWN)[: max(0, room)]
        if len(known):
            columns = np.full((self._columns, len(known)), _UNKNOWN, np.int32)
            columns[column] = kept[known]
            self._add(_Run.of(numbers[known], columns))

    def _add(self, new: _Run) -> None:
        runs = self._runs
        while runs and len(runs[-1].numbers) <= max(SHORT_RUN, 2 * len(new.numbers)):
            new = runs.pop().with_all_of(new)
        runs.append(new)
        self._found = []

    def in_one(self) -> None:
        """Have one run, as long as no new meters come: each is looked for in one place only."""
        while len(self._runs) > 1:
            last = self._runs.pop()
            self._runs.append(self._runs.pop().with_all_of(last))
        self._found = []

    def mark(self, column: int, used: npt.NDArray[np.bool_]) -> None:
        """Set `used` at what the column has of any meter."""
        for run in self._runs:
            kept = run.kept[column]
            used[kept[kept != _UNKNOWN]] = True

    def renumber(self, column: int, now: npt.NDArray[np.int32]) -> None:
        """Have `now[n]` wherever the column has n."""
        for run in self._runs:
            kept = run.kept[column]
            np.copyto(kept, now[kept], where=kept != _UNKNOWN)


class KnownStates:
    """What this process has folded of many meters at once, by one topic.

    Meters in the same state share one object, so that who goes through thousands of them judges
    each state once. The states of meters that were learnt or asked for, or that facts were folded
    of, are kept at hand; a further fact replaces them in the moment in which it is folded. `part`
    leaves of a state only what is asked for: the less that is, the more share it. What finds no
    room is looked up each time. `kept` has a column for each topic of which states are asked for:
    the same meters are named in all.
    """

    def __init__(
        self,
        folds: FaustFolds,
        topic: str,
        partitions: int,
        part: Callable[[Any], Any] = lambda state: state,
        kept: Sequence[Kept] | None = None,
        column: int = 0,
    ) -> None:
        self._folds, self._topic, self._part = folds, topic, part
        self._partitions = partitions
        domain = folds[topic, 0].stored.fold.domain
        assert domain is not None
        self._state_type = domain.state_type
        never_named = part(domain.initial())
        self._kept, self._column = kept or [Kept() for _ in range(partitions)], column
        self._states: list[Any] = [never_named]
        self._places: dict[Any, int] = {never_named: _INITIAL}
        self._states_max, self._without_room = STATES_OVER_MAX, 0
        self._read: dict[bytes, Any] = {}
        for partition in range(partitions):
            folds[topic, partition].listeners.append(self._on_facts)

    def __len__(self) -> int:
        """Of how many meters anything is at hand, by this topic or another."""
        return sum(map(len, self._kept))

    async def learn(self) -> None:
        """Keep at hand what was folded before, of all meters for which there is room. Whoever else
        has work in this thread does it meanwhile: a meter that is asked for first is looked up.
        """
        for partition in range(self._partitions):
            fold, begin = self._folds[self._topic, partition].stored.fold, SUBJECT_PREFIX
            while rows := list(islice(fold.rows.scan(begin, _PAST_SUBJECTS), LEARNT_AT_ONCE)):
                found = ((key.removeprefix(SUBJECT_PREFIX), row) for key, row in rows)
                named = {mpxn: row for mpxn, row in found if _has_number(mpxn)}
                states = [self._state_in(row, fold.tools) for row in named.values()]
                self._keep(partition, _numbers(named), states)
                begin = rows[-1][0] + b"\x00"
                await asyncio.sleep(0)
            self._kept[partition].in_one()
        _log.info("meters.learnt", topic=self._topic, meters=len(self), states=len(self._states))

    def of(self, points: Points, partitions: npt.NDArray[np.int64]) -> Alike[Any]:
        """That part of the state of each meter, in the partition beside it; None while this process
        does not understand all of a meter. Pushback if a whole partition is closed.
        """
        self._drop_superseded()
        places = np.empty(len(points.names), np.int32)
        beside: dict[Any, int] = {}
        for partition in those_in(partitions):
            fold = self._folds[self._topic, partition].stored.fold
            own = np.flatnonzero(partitions == partition)
            if fold.closed("") is not None or (fold.may_be_closed and _any_closed(fold.rows)):
                known = [
                    known_state(self._folds, self._topic, mpxn.decode(), self._partitions)
                    for mpxn in points.names[own].tolist()
                ]
                states = [None if state is None else self._part(state) for state in known]
                places[own] = [_beside(beside, state) for state in states]
                continue
            places[own] = self._kept[partition].of(self._column, points.numbers[own])
            if (unknown := own[places[own] == _UNKNOWN]).size:
                places[unknown] = self._looked_up(partition, points, unknown, beside)
        met, of_point = np.unique(places, return_inverse=True)
        others = list(beside)
        different = [
            self._states[place] if place >= 0 else others[_FIRST_BESIDE - place]
            for place in met.tolist()
        ]
        return Alike(different, of_point)

    def _looked_up(
        self,
        partition: int,
        points: Points,
        unknown: npt.NDArray[np.int64],
        beside: dict[Any, int],
    ) -> npt.NDArray[np.int32]:
        """The places of meters of which nothing is kept, from the rows of the store."""
        fold = self._folds[self._topic, partition].stored.fold
        rows = fold.rows.get_many([SUBJECT_PREFIX + m for m in points.names[unknown].tolist()])
        places = np.full(len(rows), _INITIAL, np.int32)
        # Of the others nothing is kept: anybody can name meters that are none.
        named = np.flatnonzero([row is not None for row in rows])
        states = [self._state_in(row, fold.tools) for row in rows if row is not None]
        kept = self._keep(partition, points.numbers[unknown[named]], states)
        places[named] = [
            _beside(beside, state) if place == _UNKNOWN else place
            for place, state in zip(kept.tolist(), states, strict=True)
        ]
        return places

    def _on_facts(self, record: LogRecord, applied: Applied) -> None:
        if not applied.states:  # as most records of the consumer log, which hold reads
            return
        self._drop_superseded()
        states = ((mpxn.encode(), state) for mpxn, state in applied.states.items())
        named = {mpxn: self._part(state) for mpxn, state in states if _has_number(mpxn)}
        self._keep(record.partition, _numbers(named), list(named.values()))

    def _keep(
        self, partition: int, numbers: npt.NDArray[np.int64], states: list[Any]
    ) -> npt.NDArray[np.int32]:
        """The places of states that these meters are in; `_UNKNOWN` where there is no room."""
        places = np.array([self._place_of(state) for state in states], np.int32)
        self._kept[partition].put(self._column, numbers, places, METERS_KEPT_MAX - len(self))
        return places

    def _place_of(self, state: Any) -> int:
        place = self._places.get(state, _UNKNOWN)
        if place == _UNKNOWN and len(self._states) < STATES_KEPT_MAX:
            place = self._places[state] = len(self._states)
            self._states.append(state)
        self._without_room += place == _UNKNOWN
        return place

    def _drop_superseded(self) -> None:
        """Forget the states that no meter is in any longer, if there may be many of them."""
        seldom = max(STATES_OVER_MAX, len(self._states), len(self) // 16)  # as it may free nothing
        if len(self._states) <= self._states_max and self._without_room <= seldom:
            return
        used = np.zeros(len(self._states), np.bool_)
        used[_INITIAL] = True
        for kept in self._kept:
            kept.mark(self._column, used)
        now = np.cumsum(used, dtype=np.int32) - 1
        for kept in self._kept:
            kept.renumber(self._column, now)
        self._states = list(compress(self._states, used.tolist()))
        self._places = {state: place for place, state in enumerate(self._states)}
        self._states_max, self._without_room = 2 * len(self._states) + STATES_OVER_MAX, 0

    def _state_in(self, row: bytes, tools: Tools) -> Any:
        """That part of the state in a row of the store. What another row held is not read again."""
        _, _, packed = tools.unpack(row, _ROW_UNREAD)
        unread = bytes(packed)
        state = self._read.get(unread)
        if state is None:
            if len(self._read) >= STATES_READ_MAX:
                self._read.clear()
            state = self._read[unread] = self._part(tools.unpack(unread, self._state_type))
        return state


def _beside(beside: dict[Any, int], state: Any) -> int:
    """The place of a state that is not kept, in one answer; below that of `_UNKNOWN`."""
    return beside.setdefault(state, _FIRST_BESIDE - len(beside))


def _numbers(mpxns: Iterable[bytes]) -> npt.NDArray[np.int64]:
    return numbers_of(np.array(list(mpxns), f"S{MPXN_BYTES}"))


def _has_number(subject: bytes) -> bool:
    """Whether it may be a metering point at all; no other is ever asked for."""
    return len(subject) <= MPXN_BYTES and subject.isdigit()


def _any_closed(rows: ReadableRows) -> bool:
    return next(rows.scan(CLOSED_PREFIX, CLOSED_PREFIX + b"\xff"), None) is not None
