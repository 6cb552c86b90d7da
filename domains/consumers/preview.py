"""What a command would open and shut at a meter, told before it is given.

A consent opens what was metered in one stretch of time to who reads in another: as of the policy,
half hours from `history_from` and moving in until moving out, read from `valid_from` until it
expires or its occupier moves out. The difference of two states in both times is what a command
changes. Whether the data user is accredited is not looked at: nobody reads who is not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import Final

from spine.gb import Interval
from spine.policy import Consent, ConsentState, MeterAccess

FOR_EVER: Final = datetime(9999, 12, 31, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Opened:
    """Half hours of `metered`, of one category and for one purpose, to who reads during `read`.

    `FOR_EVER` ends what has no end yet.
    """

    purpose: str
    category: str
    metered: Interval
    read: Interval


def opened(access: MeterAccess, data_user: str, now: datetime) -> tuple[Opened, ...]:
    """What all consents of one data user open from now on; several may open the same."""
    return tuple(
        Opened(consent.purpose, category, *stretches)
        for consent in access.consents
        if consent.data_user == data_user and consent.state is ConsentState.ACTIVE
        if (stretches := _stretches(consent, access, now)) is not None
        for category in consent.categories
    )


def difference(these: Iterable[Opened], those: Iterable[Opened]) -> tuple[Opened, ...]:
    """What these open and those do not, in as few parts as side by side allow."""
    these, those = tuple(these), tuple(those)
    kinds = sorted({(one.purpose, one.category) for one in these})
    return tuple(
        Opened(*kind, metered, read)
        for kind in kinds
        for metered, read in _outside(_of(kind, these), _of(kind, those))
    )


_Area = tuple[Interval, Interval]


def _stretches(consent: Consent, access: MeterAccess, now: datetime) -> _Area | None:
    tenancy = next((t for t in access.tenancies if t.tenancy_id == consent.tenancy_id), None)
    if tenancy is None:
        return None
    moves_out = tenancy.effective_to or FOR_EVER
    metered = (max(consent.history_from, tenancy.effective_from), moves_out)
    read = (
        max(now, consent.valid_from, tenancy.effective_from),
        min(consent.expires, moves_out),
    )
    if metered[0] >= metered[1] or read[0] >= read[1]:
        return None
    return Interval(*metered), Interval(*read)


def _of(kind: tuple[str, str], opened: Iterable[Opened]) -> list[_Area]:
    return [(one.metered, one.read) for one in opened if (one.purpose, one.category) == kind]


def _outside(these: list[_Area], those: list[_Area]) -> Iterator[_Area]:
    """The parts of these areas that lie in none of those: equal columns of cells are one part."""
    edges = sorted({edge for metered, _ in (*these, *those) for edge in _ends(metered)})
    column: tuple[Interval, ...] = ()
    began = ended = edges[0]
    for start, end in pairwise(edges):
        across = tuple(_cells(_reads(these, start), _reads(those, start)))
        if across != column:
            yield from ((Interval(began, ended), read) for read in column)
            column, began = across, start
        ended = end
    yield from ((Interval(began, ended), read) for read in column)


def _reads(areas: list[_Area], at: datetime) -> list[Interval]:
    return [read for metered, read in areas if at in metered]


def _cells(these: list[Interval], those: list[Interval]) -> Iterator[Interval]:
    """The stretches in one of these and in none of those, neighbours joined."""
    edges = sorted({edge for stretch in (*these, *those) for edge in _ends(stretch)})
    start: datetime | None = None
    for edge in edges:
        inside = any(edge in one for one in these) and not any(edge in one for one in those)
        if inside and start is None:
            start = edge
        elif not inside and start is not None:
            yield Interval(start, edge)
            start = None


def _ends(stretch: Interval) -> tuple[datetime, datetime]:
    return stretch.start, stretch.end
