"""What a command would open and shut at a meter, told before it is given.

A consent opens what was metered in one stretch of time to who reads in another: as of the policy,
half hours from `history_from` and moving in until moving out, read from `valid_from` until it
expires or its occupier moves out. It opens standing data besides; a party's own consents it sees
in any case, so CONSENTS is left out. The difference of two states in both times is what a command
changes. Whether the data user is accredited is said beside it (`spine.in_force.reader_refusal`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from domains.consumers.evolve import find_consent, find_tenancy
from spine.errors import Reason, Refused
from spine.gb import FOR_EVER, Interval
from spine.policy import Category, Consent, ConsentState, MeterAccess

# Of the same data user, for the same purpose. Who has more is told nothing by a dry run.
OTHERS_MAX: Final = 20


@dataclass(frozen=True, slots=True)
class Opened:
    """Half hours of `metered`, of one category and for one purpose, to who reads during `read`.

    `FOR_EVER` ends what has no end yet.
    """

    purpose: str
    category: str
    metered: Interval
    read: Interval


def changed(
    before: MeterAccess, after: MeterAccess, consent_id: str, now: datetime
) -> tuple[tuple[Opened, ...], tuple[Opened, ...]]:
    """What a command about one consent opens and what it shuts, from now on.

    Refused(REQUEST_TOO_LARGE) if more than `OTHERS_MAX` other consents may open the same.
    """
    own = [find_consent(access, consent_id) for access in (before, after)]
    terms = own[1] or own[0]
    if terms is None or not terms.data_user:
        return (), ()
    others = [
        consent
        for consent in after.consents
        if (consent.data_user, consent.purpose) == (terms.data_user, terms.purpose)
        and consent.consent_id != consent_id
    ]
    if len(others) > OTHERS_MAX:
        message = f"more than {OTHERS_MAX} other consents of the data user may open the same"
        raise Refused(Reason.REQUEST_TOO_LARGE, message)
    still = [one for consent in others for one in opened_by(consent, after, now)]
    was, is_ = (
        () if consent is None else opened_by(consent, access, now)
        for consent, access in zip(own, (before, after), strict=True)
    )
    return difference(is_, (*was, *still)), difference(was, (*is_, *still))


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


def opened_by(consent: Consent, access: MeterAccess, now: datetime) -> tuple[Opened, ...]:
    """What one consent opens from now on, whatever others open."""
    if consent.state is not ConsentState.ACTIVE:
        return ()
    stretches = _stretches(consent, access, now)
    if stretches is None:
        return ()
    categories = {*consent.categories, str(Category.METERING_POINT)} - {str(Category.CONSENTS)}
    return tuple(Opened(consent.purpose, each, *stretches) for each in sorted(categories))


def _stretches(consent: Consent, access: MeterAccess, now: datetime) -> _Area | None:
    tenancy = find_tenancy(access, consent.tenancy_id)
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
    began = edges[0]
    for start in edges[:-1]:
        across = tuple(_cells(_reads(these, start), _reads(those, start)))
        if across != column:
            yield from ((Interval(began, start), read) for read in column)
            column, began = across, start
    yield from ((Interval(began, edges[-1]), read) for read in column)


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
