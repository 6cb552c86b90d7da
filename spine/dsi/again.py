"""Answers made again, many over the same rows: what is asked repeatedly is read and hashed once.

Exact, and no matter of trust: what the log says of some half hours changes only at the offsets at
which it says something of them, and rows of equal columns and reasons have one digest. An answer of
which every half hour has a value needs no reason, so that beside the columns only what the decision
covers goes into it. Everything else, each answer's own decision and time included, is computed for
each.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final, TypeVar

from domains.metering.views import Said, everything_said
from spine import trust
from spine.answer import Columns, absent_runs, half_hours_digest
from spine.domain import ReadableRows
from spine.dsi.answering import Answer, Sources, answer, explained
from spine.event import AbsentRun, Sealed
from spine.gb import Interval
from spine.policy import Permit
from spine.rows import Decided
from spine.sealing import Opened
from spine.verdict import KEYS_NOT_AT_HAND

KEPT_MAX: Final = 2_048
KEPT_OF_ONE_MAX: Final = 8
# Whoever asks chooses how long an interval is: ten years of one meter are 175,000 half hours. A
# half hour takes some 20 to 35 bytes each time it is kept, a run of absent ones some ten times it.
HALF_HOURS_MAX: Final = 5_000_000
RUN_AS_HALF_HOURS: Final = 8

K = TypeVar("K")
V = TypeVar("V")
_Asked = tuple[str, str, datetime, datetime]
# What was sealed for a consumer reference, opened; or why that cannot be done.
Keys = Callable[[str, Sequence[Sealed]], Opened | str]
_Whole = tuple[int, tuple[Interval, ...]]
_Hashed = tuple[int, bytes, tuple[AbsentRun, ...]]


@dataclass(slots=True)
class _Kept:
    """What the log says of the half hours that were asked of one meter, and what was made of it.

    The number of offsets below the position that is read as of tells all versions of it apart.
    `whole`: answers of which every half hour has a value, by version and what was covered.
    `counted` is what it last counted for.
    """

    asked: _Asked
    rows: ReadableRows
    said: Said
    columns: dict[int, Columns] = field(default_factory=dict)
    hashed: dict[tuple[int, bytes], _Hashed] = field(default_factory=dict)
    whole: dict[_Whole, Answer] = field(default_factory=dict)
    counted: int = 0

    @property
    def half_hours(self) -> int:
        """How many half hours it keeps, each time one is kept."""
        runs = sum(len(absent) for _, _, absent in self.hashed.values())
        times = 1 + len(self.columns) + len(self.hashed) + len(self.whole)
        return self.said.count * times + runs * RUN_AS_HALF_HOURS


def no_keys(subject: str, sealed: Sequence[Sealed]) -> Opened | str:
    """Of an auditor without the vault."""
    return KEYS_NOT_AT_HAND


class Rebuilder:
    """Makes the answers to decisions, as the DSI does, from rows that no longer change below the
    positions named. LookupError if the rows an answer needs are not among them.
    """

    def __init__(self, keys: Keys = no_keys) -> None:
        self._keys = keys
        self._kept: dict[_Asked, _Kept] = {}
        self._half_hours = 0

    def __call__(
        self, decided: Decided, rows: Mapping[str, ReadableRows], below: Mapping[str, int]
    ) -> Answer:
        made = answer(decided, decided.access, Sources(rows, below), self._readings)
        if not made.sealed:
            return made
        opened = self._keys(decided.request.party, made.sealed)
        if isinstance(opened, str):
            return replace(made, untold=opened)
        return replace(made, digest=opened.digest)

    def _readings(self, decided: Decided, sources: Sources) -> Answer:
        kept = self._all_said(decided, sources.rows[trust.READINGS_TOPIC])
        below = sources.below[trust.READINGS_TOPIC]
        version = bisect_left(kept.said.offsets, below)
        whole = goes_into_whole(version, decided)
        if (made_before := kept.whole.get(whole)) is not None:
            return made_before
        columns = kept.columns.get(version)
        if columns is None:
            columns = _keep(kept.columns, version, kept.said.as_of(below), KEPT_OF_ONE_MAX)
        made = explained(decided, columns, sources)
        key = version, made.absent.tobytes()
        hashed = kept.hashed.get(key)
        if hashed is None:
            fresh = made.recorded, half_hours_digest(made), absent_runs(made)
            hashed = _keep(kept.hashed, key, fresh, KEPT_OF_ONE_MAX)
        rebuilt = Answer(*hashed, made)
        if columns.present.all():
            _keep(kept.whole, whole, rebuilt, KEPT_OF_ONE_MAX)
        self._bound(kept)
        return rebuilt

    def _all_said(self, decided: Decided, rows: ReadableRows) -> _Kept:
        request = decided.request
        quantity = request.measurement_quantity
        key = decided.member, quantity, request.interval_from, request.interval_to
        kept = self._kept.get(key)
        if kept is None or kept.rows is not rows:
            self._drop(key)
            asked = Interval(request.interval_from, request.interval_to)
            said = everything_said(rows, decided.member, quantity, asked)
            kept = self._kept[key] = _Kept(key, rows, said)
        return kept

    def _bound(self, grown: _Kept) -> None:
        """Count what one has grown to; those that came first go, if it is too much of all."""
        self._half_hours += grown.half_hours - grown.counted
        grown.counted = grown.half_hours
        while len(self._kept) > KEPT_MAX or self._half_hours > HALF_HOURS_MAX:
            self._drop(next(iter(self._kept)))

    def _drop(self, key: _Asked) -> None:
        gone = self._kept.pop(key, None)
        if gone is not None:
            self._half_hours -= gone.counted


def goes_into_whole(version: int, decided: Decided) -> _Whole:
    """All that goes into an answer of which every half hour has a value, beside what was asked."""
    permit = decided.decision
    assert isinstance(permit, Permit)
    return version, permit.covered


def _keep(kept: dict[K, V], key: K, value: V, most: int) -> V:
    """Keep one more; the one that came first goes, if there are too many."""
    kept[key] = value
    if len(kept) > most:
        del kept[next(iter(kept))]
    return value
