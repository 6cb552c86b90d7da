"""Answers made again, many over the same rows: what is asked repeatedly is read and hashed once.

Exact, and no matter of trust: what the log says of some half hours changes only at the offsets at
which it says something of them, and rows of equal columns and reasons have one digest. An answer of
which every half hour has a value needs no reason, so that beside the columns only what the decision
covers goes into it. Everything else, each answer's own decision and time included, is computed for
each. What is new of several meters, each read as of its own position, is put together side by side.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final, TypeVar

from domains.metering.views import Said, as_of_each, everything_said_of_each
from spine import trust
from spine.answer import Columns, HalfHours, absent_runs, half_hours_digests
from spine.domain import ReadableRows
from spine.dsi.answering import Answer, Sources, answer, explained
from spine.event import AbsentRun, Sealed
from spine.gb import HALF_HOUR, Interval
from spine.policy import Category, Permit
from spine.rows import Decided
from spine.sealing import Opened
from spine.verdict import KEYS_NOT_AT_HAND, ToRebuild

KEPT_MAX: Final = 2_048
KEPT_OF_ONE_MAX: Final = 8
# Whoever asks chooses how long an interval is: ten years of one meter are 175,000 half hours. A
# half hour takes some 20 to 35 bytes each time it is kept, a run of absent ones some ten times it.
HALF_HOURS_MAX: Final = 5_000_000
RUN_AS_HALF_HOURS: Final = 8
RECORDS: Final = frozenset({Category.METERING_POINT, Category.CONSENTS, Category.ASSET})

K = TypeVar("K")
V = TypeVar("V")
_Over = tuple[str, datetime, datetime]
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


@dataclass(slots=True)
class _Wanted:
    """One of several answers that are made side by side, and what it is made from."""

    decided: Decided
    sources: Sources
    kept: _Kept
    below: int
    version: int
    columns: Columns | None = None
    made: HalfHours | None = None

    @classmethod
    def of(cls, asked: ToRebuild, kept: _Kept) -> _Wanted:
        sources = Sources(asked.rows, asked.below)
        below = sources.below[trust.READINGS_TOPIC]
        version = bisect_left(kept.said.offsets, below)
        return cls(asked.decided, sources, kept, below, version, kept.columns.get(version))

    @property
    def place(self) -> tuple[int, int]:
        """The same for all that are of one meter's half hours as of one version."""
        return id(self.kept), self.version


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

    def half_hours(self, decided: Decided, below: Mapping[str, int]) -> int:
        """How many half hours the answer is about, if it can be made side by side with others by
        `each`; 0 if it is made by itself.
        """
        request = decided.request
        if request.category in RECORDS or trust.READINGS_TOPIC not in below:
            return 0
        return 1 + (request.interval_to - request.interval_from) // HALF_HOUR

    def each(self, asked: Sequence[ToRebuild]) -> list[Answer]:
        """What a call gives of each of these, of all of which `half_hours` says that it can be made
        side by side.
        """
        wanted = list(map(_Wanted.of, asked, self._each_said(asked)))
        known = {n: a for n, each in enumerate(wanted) if (a := _made_before(each)) is not None}
        left = [each for number, each in enumerate(wanted) if number not in known]
        _give_columns(left)
        for each in left:
            assert each.columns is not None
            each.made = explained(each.decided, each.columns, each.sources)
        made = iter(_hashed_each(left))
        answers = [known[n] if n in known else next(made) for n in range(len(wanted))]
        for each in left:
            if self._kept.get(each.kept.asked) is each.kept:
                self._bound(each.kept)
        return answers

    def _each_said(self, asked: Sequence[ToRebuild]) -> list[_Kept]:
        """What is kept of each of these; what is new is looked for at once."""
        found: dict[tuple[int, _Asked], _Kept] = {}
        new: dict[tuple[int, _Over], list[ToRebuild]] = {}
        places = [(id(each.rows[trust.READINGS_TOPIC]), _asked(each.decided)) for each in asked]
        for place, each in zip(places, asked, strict=True):
            if place in found:
                continue
            kept = self._kept.get(place[1])
            if kept is not None and kept.rows is each.rows[trust.READINGS_TOPIC]:
                found[place] = kept
            else:
                new.setdefault((place[0], place[1][1:]), []).append(each)
        for (rows, over), alike in new.items():
            members = list(dict.fromkeys(each.decided.member for each in alike))
            store = alike[0].rows[trust.READINGS_TOPIC]
            quantity, start, end = over
            each_said = everything_said_of_each(store, members, quantity, Interval(start, end))
            for member, said in zip(members, each_said, strict=True):
                key = member, *over
                self._drop(key)
                found[rows, key] = self._kept[key] = _Kept(key, store, said)
        return [found[place] for place in places]

    def _readings(self, decided: Decided, sources: Sources) -> Answer:
        (made,) = self.each([ToRebuild(decided, sources.rows, sources.below)])
        return made

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


def _asked(decided: Decided) -> _Asked:
    request = decided.request
    quantity = request.measurement_quantity
    return decided.member, quantity, request.interval_from, request.interval_to


def _made_before(wanted: _Wanted) -> Answer | None:
    return wanted.kept.whole.get(goes_into_whole(wanted.version, wanted.decided))


def _rows(wanted: _Wanted) -> HalfHours:
    assert wanted.made is not None
    return wanted.made


def _give_columns(wanted: Iterable[_Wanted]) -> None:
    """To each that has none; those of equally long intervals are made at once."""
    new: dict[tuple[int, int], dict[tuple[int, int], list[_Wanted]]] = {}
    for each in wanted:
        if each.columns is None:
            over = each.kept.said.first, each.kept.said.count
            new.setdefault(over, {}).setdefault(each.place, []).append(each)
    for places in new.values():
        firsts = [alike[0] for alike in places.values()]
        made = as_of_each([each.kept.said for each in firsts], [each.below for each in firsts])
        for alike, columns in zip(places.values(), made, strict=True):
            _keep(alike[0].kept.columns, alike[0].version, columns, KEPT_OF_ONE_MAX)
            for each in alike:
                each.columns = columns


def _hashed_each(wanted: Sequence[_Wanted]) -> list[Answer]:
    """The answers of what was made; what is new of equally long rows is hashed at once."""
    hashed: dict[tuple[int, int, bytes], _Hashed] = {}
    new: dict[tuple[object, ...], dict[tuple[int, int, bytes], _Wanted]] = {}
    keys = [(*each.place, _rows(each).absent.tobytes()) for each in wanted]
    for key, each in zip(keys, wanted, strict=True):
        known = hashed.get(key) or each.kept.hashed.get(key[1:])
        if known is not None:
            hashed[key] = known
            continue
        made = _rows(each)
        alike = made.columns.first, len(made), len(made.mpxn), made.columns.qualities
        new.setdefault(alike, {})[key] = each
    for fresh in new.values():
        rows = [_rows(each) for each in fresh.values()]
        digests = half_hours_digests(rows)
        for (key, each), made, digest in zip(fresh.items(), rows, digests, strict=True):
            found = made.recorded, digest, absent_runs(made)
            hashed[key] = _keep(each.kept.hashed, key[1:], found, KEPT_OF_ONE_MAX)
    answers = []
    for key, each in zip(keys, wanted, strict=True):
        answer = Answer(*hashed[key], _rows(each))
        if _rows(each).columns.whole:
            whole = goes_into_whole(each.version, each.decided)
            _keep(each.kept.whole, whole, answer, KEPT_OF_ONE_MAX)
        answers.append(answer)
    return answers


def _keep(kept: dict[K, V], key: K, value: V, most: int) -> V:
    """Keep one more; the one that came first goes, if there are too many."""
    kept[key] = value
    if len(kept) > most:
        del kept[next(iter(kept))]
    return value
