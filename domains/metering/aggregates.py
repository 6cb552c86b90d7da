"""What many meters used together, fit for everybody: who is summed, and what is left unsaid.

A published figure is the same for all and for ever, so there are no queries whose overlaps could be
subtracted. What can be subtracted are the figures themselves: a feeder from its GSP group, a day
from another day. So meters are not summed one by one. They are put into bundles, and a figure is a
sum of whole bundles. A bundle has at least `meters_min` meters that were in no bundle before it.

Take any published figures, of whatever groups and days, multiply, add and subtract them as you
like. What comes out is a weighted sum of bundles. Of those with a weight other than 0, look at the
one formed last: its new meters are in no earlier bundle, and in no later one that has a weight, so
all of them are in the result. It says nothing, or it is about `meters_min` meters or more.

The price: a bundle is left out of a day on which one of its meters has no whole day of readings.
Not done: nothing is said of a meter that uses nearly all of its bundle (dominance), and whoever
owns meters of a bundle knows that much more of the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from spine.gb import PERIODS_PER_UTC_DAY

# What the distributors publish by: fewer devices are suppressed.
METERS_MIN: Final = 5
NO_FEEDER: Final = ""
# What a publication may take of a record, whose value is 1,032,192 bytes at most: the rest is for
# its head and the positions of up to 500 partitions. What has no room waits for the next day.
ROOM_BYTES: Final = 1_000_000
# What the parts of a publication take, at most.
_CELL_BYTES: Final = 420  # 48 numbers of 8 bytes, lengths, counts; its name comes twice on top
MOVE_BYTES: Final = 5
METER_BYTES: Final = 8  # 7, and a share of what the bundle takes

Ints = NDArray[np.int64]


class Suppressed(StrEnum):
    """Why nothing is said of a group on a day. No count stands beside it.

    There is one reason, be there few meters or many: two would tell whoever knows four of them
    whether a fifth sent a whole day.
    """

    DIFFERENCING = "DIFFERENCING"


@dataclass(frozen=True, slots=True, eq=False)
class Meter:
    """A metering point of a GSP group on a day, and its feeder.

    `values_wh` are its 48 half hours of the UTC day, in Wh; None unless each is an actual reading.
    """

    mpxn: str
    feeder: str
    values_wh: Ints | None


@dataclass(frozen=True, slots=True)
class Bundle:
    """Meters of a GSP group that are summed together or not at all.

    It counts on `feeder` as long as all of them are on it, and always in the GSP group.
    """

    number: int
    mpxns: tuple[str, ...]
    feeder: str = NO_FEEDER


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Before:
    """What earlier publications leave: the live bundles of the GSP group, which meters of it were
    ever in a bundle, live or not, of any group, and the number of the next bundle.
    """

    live: tuple[Bundle, ...] = ()
    bundled: frozenset[str] = frozenset()
    next_number: int = 0


@dataclass(frozen=True, slots=True)
class Figure:
    """What the devices of a group used in each of the 48 half hours of a UTC day, in Wh.

    `bundles` are the numbers of those that it is the sum of.
    """

    group: str
    bundles: tuple[int, ...]
    devices: int
    values_wh: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Figures:
    """One day of a GSP group: its own figure and those of its feeders, or why there is none.

    Bundles by number: `retired` ones take part in nothing any more; `formed` ones are new; `moved`
    ones count on another feeder from here on; those `apart` count on no feeder today, as their
    meters are on several, or have moved and find no room; those `left_out` lack a whole day.
    """

    retired: tuple[int, ...]
    formed: tuple[Bundle, ...]
    moved: Mapping[int, str]
    apart: tuple[int, ...]
    left_out: tuple[int, ...]
    figures: tuple[Figure, ...]
    suppressed: tuple[tuple[str, Suppressed], ...]


def figures_of(
    gsp_group: str,
    feeders: Sequence[str],
    meters: Iterable[Meter],
    before: Before,
    meters_min: int,
) -> Figures:
    """The figures of a day. `meters` are all of the GSP group on it, with readings or without."""
    there = {meter.mpxn: meter for meter in meters}
    kept = [b for b in before.live if _stands(b, there, meters_min)]
    room = room_of(gsp_group, feeders, len(before.live))
    homes = {bundle.number: _home(bundle, there) for bundle in kept}
    strangers = [b for b in kept if homes[b.number] not in (b.feeder, NO_FEEDER)]
    moved = {b.number: homes[b.number] for b in strangers[: room // MOVE_BYTES]}
    kept = [replace(b, feeder=moved[b.number]) if b.number in moved else b for b in kept]
    taken = {mpxn for bundle in kept for mpxn in bundle.mpxns}
    complete = [m for m in there.values() if m.values_wh is not None]
    free = [m for m in complete if m.mpxn not in taken]
    room -= len(moved) * MOVE_BYTES
    formed = _formed(free, before, meters_min, room // METER_BYTES)
    whole = [b for b in (*kept, *formed) if _complete(b, there)]
    at_home = [b for b in whole if homes.get(b.number, b.feeder) == b.feeder]
    bundles = {gsp_group: whole, **_grouped(at_home, lambda bundle: bundle.feeder)}
    figures, suppressed = [], []
    for group in (gsp_group, *feeders):
        if summed := bundles.get(group):
            figures.append(_sum(group, summed, there))
        else:
            suppressed.append((group, Suppressed.DIFFERENCING))
    stands, summed_up = ({b.number for b in some} for some in (kept, whole))
    return Figures(
        tuple(b.number for b in before.live if b.number not in stands),
        formed,
        moved,
        tuple(b.number for b in kept if homes[b.number] != b.feeder),
        tuple(b.number for b in kept if b.number not in summed_up),
        tuple(figures),
        tuple(suppressed),
    )


def room_of(gsp_group: str, feeders: Sequence[str], live: int) -> int:
    """How many bytes are left of a publication for meters that are new to a bundle or have moved.

    Each live bundle takes three bits: is it retired, apart, left out.
    """
    cells = sum(_CELL_BYTES + 2 * len(group) for group in (gsp_group, *feeders))
    return max(0, ROOM_BYTES - cells - 3 * (live // 8 + 1))


def _grouped(things: Iterable[T], group_of: Callable[[T], str]) -> dict[str, list[T]]:
    found: dict[str, list[T]] = {}
    for each in things:
        found.setdefault(group_of(each), []).append(each)
    return found


def _stands(bundle: Bundle, there: Mapping[str, Meter], meters_min: int) -> bool:
    """Whether it has all its meters still, and they are enough; else it can never count."""
    return len(bundle.mpxns) >= meters_min and all(mpxn in there for mpxn in bundle.mpxns)


def _home(bundle: Bundle, there: Mapping[str, Meter]) -> str:
    """The feeder that all its meters are on; none if they are on several."""
    feeders = {there[mpxn].feeder for mpxn in bundle.mpxns}
    return feeders.pop() if len(feeders) == 1 else NO_FEEDER


def _complete(bundle: Bundle, there: Mapping[str, Meter]) -> bool:
    return all(there[mpxn].values_wh is not None for mpxn in bundle.mpxns)


def _formed(
    free: Sequence[Meter], before: Before, meters_min: int, room: int
) -> tuple[Bundle, ...]:
    """Bundles of meters that are in none, feeder by feeder, with room for so many meters.

    Each gets `meters_min` or more that never were in one; who once was only comes along. Those of a
    feeder who have to wait are enough for a bundle, so that none waits for ever.
    """
    made: list[Bundle] = []
    for feeder, meters in sorted(_grouped(free, lambda meter: meter.feeder).items()):
        mpxns = sorted(meter.mpxn for meter in meters)
        fresh = [mpxn for mpxn in mpxns if mpxn not in before.bundled]
        count = min(len(fresh), room) // meters_min
        some_wait = len(fresh) > room
        if some_wait and len(fresh) - count * meters_min < meters_min:
            count -= 1
        if count < 1:
            continue
        again = [mpxn for mpxn in mpxns if mpxn in before.bundled][:meters_min]
        rest = [] if some_wait else fresh[count * meters_min :]
        parts = [fresh[n * meters_min : (n + 1) * meters_min] for n in range(count)]
        parts[-1] += [*rest, *again][: room - count * meters_min]
        for part in parts:
            made.append(Bundle(before.next_number + len(made), tuple(sorted(part)), feeder))
            room -= len(part)
    return tuple(made)


def _sum(group: str, bundles: Sequence[Bundle], there: Mapping[str, Meter]) -> Figure:
    mpxns = [mpxn for bundle in bundles for mpxn in bundle.mpxns]
    total: Ints = np.zeros(PERIODS_PER_UTC_DAY, np.int64)
    for mpxn in mpxns:
        if (values := there[mpxn].values_wh) is not None:
            total += values
    numbers = tuple(bundle.number for bundle in bundles)
    return Figure(group, numbers, len(mpxns), tuple(total.tolist()))
