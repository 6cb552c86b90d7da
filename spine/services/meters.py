"""What a process that decides about a meter has folded of it, outside its own chain."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from spine import trust
from spine.codec import pack
from spine.domain import ReadableRows
from spine.errors import Pushback, Reason
from spine.event import LogRecord, murmur2_partition
from spine.fold import FaustFolds
from spine.policy import MeterAccess
from spine.rows import CLOSED_PREFIX, SUBJECT_PREFIX, Applied

# Of so many meters the state is kept at hand, at about 100 bytes each and two topics.
METERS_KEPT_MAX: Final = 1_000_000
STATES_SHARED_MAX: Final = 10_000


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


class KnownStates:
    """What this process has folded of many meters at once, by one topic.

    Meters in the same state share one object, so that who goes through thousands of them can tell
    by identity what it has judged before. The states of meters that were asked for, or that facts
    were folded of, are kept at hand; a further fact replaces them in the moment in which it is
    folded. `part` leaves of a state only what is asked for: the less that is, the more share it.
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
        self._kept: dict[bytes, Any] = {}
        self._shared: dict[bytes, Any] = {}
        self._initial = self._one_of(domain.initial())
        for partition in range(partitions):
            folds[topic, partition].listeners.append(self._on_facts)

    def of(self, mpxns: Sequence[bytes], partitions: npt.NDArray[np.int64]) -> list[Any]:
        """That part of the state of each meter, in the partition beside it; None while this process
        does not understand all of a meter. Pushback if a whole partition is closed.
        """
        states = list(map(self._kept.get, mpxns))
        unknown = [place for place, state in enumerate(states) if state is None]
        for partition in np.unique(partitions).tolist():
            fold = self._folds[self._topic, partition].stored.fold
            if fold.closed("") is not None or _any_closed(fold.rows):
                for place in np.flatnonzero(partitions == partition).tolist():
                    mpxn = mpxns[place].decode()
                    state = known_state(self._folds, self._topic, mpxn, self._partitions)
                    states[place] = None if state is None else self._one_of(state)
            elif unknown:
                places = [place for place in unknown if partitions[place] == partition]
                rows = fold.rows.get_many([SUBJECT_PREFIX + mpxns[place] for place in places])
                for place, row in zip(places, rows, strict=True):
                    if row is None:  # and not kept: anybody can name meters that are none
                        states[place] = self._initial
                    else:
                        state = fold.tools.unpack(row, self._row_type)[2]
                        states[place] = self._keep(mpxns[place], state)
        return states

    def _on_facts(self, record: LogRecord, applied: Applied) -> None:
        for mpxn, state in applied.states.items():
            self._keep(mpxn.encode(), state)

    def _keep(self, mpxn: bytes, state: Any) -> Any:
        if len(self._kept) >= METERS_KEPT_MAX:
            self._kept.clear()
        kept = self._kept[mpxn] = self._one_of(state)
        return kept

    def _one_of(self, state: Any) -> Any:
        """The object that all meters in that state share."""
        part = self._part(state)
        packed = pack(part)
        shared = self._shared.get(packed)
        if shared is None:
            if len(self._shared) >= STATES_SHARED_MAX:
                self._shared.clear()
            shared = self._shared[packed] = part
        return shared


def _any_closed(rows: ReadableRows) -> bool:
    return next(rows.scan(CLOSED_PREFIX, CLOSED_PREFIX + b"\xff"), None) is not None
