"""What a process that decides about a meter has folded of it, outside its own chain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from spine import trust
from spine.domain import ReadableRows
from spine.errors import Pushback, Reason
from spine.event import murmur2_partition
from spine.fold import FaustFolds
from spine.policy import MeterAccess
from spine.rows import CLOSED_PREFIX, SUBJECT_PREFIX

MEMO_MAX: Final = 10_000
_ROW: Final = msgspec.msgpack.Decoder(tuple[int, int, msgspec.Raw])


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
    by identity what it has judged before.
    """

    def __init__(self, folds: FaustFolds, topic: str, partitions: int) -> None:
        self._folds, self._topic, self._partitions = folds, topic, partitions
        domain = folds[topic, 0].stored.fold.domain
        assert domain is not None
        self._initial = domain.initial()
        self._decoder: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(domain.state_type)
        self._memo: dict[bytes, Any] = {}

    def of(self, mpxns: Sequence[bytes], partitions: npt.NDArray[np.int64]) -> list[Any]:
        """The state of each meter in the partition beside it, as `known_state` would give it."""
        states: list[Any] = [None] * len(mpxns)
        for partition in np.unique(partitions).tolist():
            fold = self._folds[self._topic, partition].stored.fold
            places = np.flatnonzero(partitions == partition).tolist()
            if fold.closed("") is not None or _any_closed(fold.rows):
                for place in places:
                    mpxn = mpxns[place].decode()
                    states[place] = known_state(self._folds, self._topic, mpxn, self._partitions)
                continue
            rows = fold.rows.get_many([SUBJECT_PREFIX + mpxns[place] for place in places])
            for place, row in zip(places, rows, strict=True):
                states[place] = self._initial if row is None else self._state(row)
        return states

    def _state(self, row: bytes) -> Any:
        packed = bytes(_ROW.decode(row)[2])
        known = self._memo.get(packed)
        if known is None:
            if len(self._memo) >= MEMO_MAX:
                self._memo.clear()
            known = self._memo[packed] = self._decoder.decode(packed)
        return known


def _any_closed(rows: ReadableRows) -> bool:
    return next(rows.scan(CLOSED_PREFIX, CLOSED_PREFIX + b"\xff"), None) is not None
