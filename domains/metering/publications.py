"""`AggregatesPublished`, the record of `metering.aggregates.v1`: building, judging, folding one.

A record is one day of one GSP group, published once. It names its predecessor, so that two that
were made at the same time cannot both count: the later in the log is passed over by every fold, as
a duplicate is. So is one that breaks a rule of `aggregates`, whoever signed it. Its figures cannot
be judged without the readings; `spine aggregates check` does that, from the log.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from itertools import islice
from typing import Final

import numpy as np

from domains.metering.aggregates import (
    METERS_MIN,
    Before,
    Bundle,
    Figures,
    Meter,
    Suppressed,
    figures_of,
)
from domains.metering.bundle_table import (
    BundleTable,
    from_bits,
    is_live,
    live_bundles,
    put_members,
    put_retired,
    put_table,
    table_of,
    to_bits,
)
from spine.domain import ReadableRows, Rows
from spine.errors import Reason
from spine.event import NO_PREDECESSOR, DataPosition, epoch_ms, from_epoch_ms
from spine.gb import MPAN_DIGITS, PERIODS_PER_UTC_DAY, GspGroup
from spine.trust import AGGREGATES_TOPIC

FIGURES_MAX: Final = 1_000
_AT_ONCE: Final = 10_000  # rows of meters read
_VALUES: Final = np.dtype("<i8")
TIP_ROW: Final = b"t/"
METER_PREFIX: Final = b"m/"
PUBLISHED_PREFIX: Final = b"p/"
FIGURE_PREFIX: Final = b"d/"
_MEMBER = struct.Struct(">i")  # number of the bundle that a meter was in last; then its GSP group
_TIP = struct.Struct(">qi")  # offset of the last publication, number of the next bundle
_FIGURE = struct.Struct(">qqi")  # offset, published at (epoch ms), devices; then values or why not


@dataclass(frozen=True, slots=True)
class AggregateFigure:
    """A group's figure: the sum of its bundles that are not left out, and how many devices they
    have. `values` are 48 signed 64-bit little-endian integers, Wh.
    """

    group: str
    devices: int
    values: bytes


@dataclass(frozen=True, slots=True)
class AggregateSuppressed:
    """A group of which nothing is said, and why."""

    group: str
    reason: str


@dataclass(frozen=True, slots=True)
class FeederBundles:
    """The bundles that count on a feeder from here on: new ones, as the MPANs of each, and by
    number those that have moved to it.
    """

    feeder: str
    formed: tuple[tuple[int, ...], ...]
    moved: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class AggregatesPublished:
    """The value of a record of type r in `metering.aggregates.v1`. Frozen.

    `day` is a UTC day. `previous` is the offset of the publication before it, of any group;
    `positions` how far the log was read for it. A new bundle's number is `first_bundle` and its
    place among all new ones. `retired` has a bit for each live bundle, `apart` and `left_out` one
    for each that is live then, in order of number (`bundle_table.to_bits`).
    """

    topic: str
    partition: int
    gsp_group: str
    day: date
    meters_min: int
    previous: int
    published_at: datetime
    positions: tuple[DataPosition, ...]
    first_bundle: int
    retired: bytes
    bundles: tuple[FeederBundles, ...]
    apart: bytes
    left_out: bytes
    figures: tuple[AggregateFigure, ...]
    suppressed: tuple[AggregateSuppressed, ...]


@dataclass(frozen=True, slots=True)
class PublishedFigure:
    """A published cell as a reader sees it. Without values it is suppressed, for that reason."""

    gsp_group: str
    group: str
    day: date
    devices: int
    values_wh: tuple[int, ...]
    suppressed: str
    published_at: datetime
    offset: int


def before_next(rows: ReadableRows, gsp_group: str, meters: Iterable[Meter]) -> tuple[int, Before]:
    """The offset of the last publication in these rows, and what it leaves to the next one.

    May run beside the fold of these rows: the offset is read first, so that what is made of rows of
    two publications names the earlier one, and counts nowhere.
    """
    previous, next_number = _tip(rows)
    mpxns = iter([meter.mpxn for meter in meters])
    bundled: set[str] = set()
    while some := list(islice(mpxns, _AT_ONCE)):
        found = zip(some, _last_bundles(rows, some), strict=True)
        bundled.update(mpxn for mpxn, last in found if last is not None)
    return previous, Before(tuple(live_bundles(rows, gsp_group)), frozenset(bundled), next_number)


def _last_bundles(rows: ReadableRows, mpxns: Sequence[str]) -> Sequence[bytes | None]:
    """The bundle that each meter was in last, as it is stored; None if it never was in one."""
    return rows.get_many([METER_PREFIX + mpxn.encode() for mpxn in mpxns])


def publication(
    following: tuple[int, Before],
    gsp_group: str,
    day: date,
    feeders: Sequence[str],
    meters: Sequence[Meter],
    *,
    meters_min: int,
    made_at: datetime,
    positions: tuple[DataPosition, ...],
) -> AggregatesPublished:
    """The record of that day, following on what `before_next` gave."""
    previous, before = following
    made = figures_of(gsp_group, feeders, meters, before, meters_min)
    live = [bundle.number for bundle in before.live]
    gone = set(made.retired)
    then_live = [n for n in live if n not in gone] + [bundle.number for bundle in made.formed]
    return AggregatesPublished(
        AGGREGATES_TOPIC,
        0,
        gsp_group,
        day,
        meters_min,
        previous,
        made_at,
        positions,
        before.next_number,
        to_bits(made.retired, live),
        _by_feeder(made),
        to_bits(made.apart, then_live),
        to_bits(made.left_out, then_live),
        tuple(AggregateFigure(f.group, f.devices, _vector(f.values_wh)) for f in made.figures),
        tuple(AggregateSuppressed(group, why) for group, why in made.suppressed),
    )


def _by_feeder(made: Figures) -> tuple[FeederBundles, ...]:
    """In the order of the feeders, which is that of the new numbers too."""
    formed: dict[str, list[tuple[int, ...]]] = {}
    for bundle in made.formed:
        formed.setdefault(bundle.feeder, []).append(tuple(map(int, bundle.mpxns)))
    moved: dict[str, list[int]] = {}
    for number, feeder in made.moved.items():
        moved.setdefault(feeder, []).append(number)
    return tuple(
        FeederBundles(feeder, tuple(formed.get(feeder, ())), tuple(moved.get(feeder, ())))
        for feeder in sorted({*formed, *moved})
    )


def _vector(values_wh: Sequence[int]) -> bytes:
    return np.array(values_wh, _VALUES).tobytes()


# Judging


def publication_problem(record: AggregatesPublished, partition_count: int) -> str:
    """The `Reason` to refuse a record by itself, or an empty string.

    AGGREGATE_MALFORMED  a group, reason or vector is not as the schema describes it
    AGGREGATE_UNSAFE     a figure or a new bundle of fewer meters than the least there may be
    """
    if not _well_formed(record):
        return Reason.AGGREGATE_MALFORMED
    least = record.meters_min
    formed = [mpxns for each in record.bundles for mpxns in each.formed]
    sizes = [figure.devices for figure in record.figures] + [len(mpxns) for mpxns in formed]
    members = [mpxn for mpxns in formed for mpxn in mpxns]
    if least < METERS_MIN or min(sizes, default=least) < least:
        return Reason.AGGREGATE_UNSAFE
    return Reason.AGGREGATE_UNSAFE if len(set(members)) != len(members) else ""


def _well_formed(record: AggregatesPublished) -> bool:
    groups = [f.group for f in record.figures] + [s.group for s in record.suppressed]
    feeders = [each.feeder for each in record.bundles]
    moved = [number for each in record.bundles for number in each.moved]
    vectors = [figure.values for figure in record.figures]
    whole = all(len(v) == PERIODS_PER_UTC_DAY * _VALUES.itemsize for v in vectors)
    return (
        record.gsp_group in frozenset(GspGroup)
        and whole
        and all(int(np.frombuffer(values, _VALUES).min()) >= 0 for values in vectors)
        and record.gsp_group in groups
        and len(set(groups)) == len(groups) <= FIGURES_MAX + 1
        and all(g.isascii() and g.isprintable() for g in (*groups, *feeders))
        and feeders == sorted(set(feeders))
        and len(set(moved)) == len(moved)
        and {s.reason for s in record.suppressed} <= set(Suppressed)
        and all(
            0 <= mpxn < 10**MPAN_DIGITS
            for each in record.bundles
            for mpxns in each.formed
            for mpxn in mpxns
        )
        and record.first_bundle >= 0
    )


def _next_table(record: AggregatesPublished, rows: ReadableRows) -> BundleTable | None:
    """The bundles that are live then, if it is the next publication, the first of its day, and made
    of whole bundles; else None.
    """
    if (record.previous, record.first_bundle) != _tip(rows):
        return None
    if rows.get(_published_row(record.gsp_group, record.day)) is not None:
        return None
    table = table_of(rows, record.gsp_group)
    retired = from_bits(record.retired, len(table.rows))
    if retired is None:
        return None
    gone = frozenset(table.rows["number"][retired].tolist())
    formed = formed_by(record)
    if not all(_is_new(bundle, record.meters_min, gone, rows) for bundle in formed):
        return None
    moved = {each.feeder: each.moved for each in record.bundles}
    kept = table.without(retired).with_homes(moved)
    found = None if kept is None else kept.with_new(formed)
    return found if found is not None and _sums_whole_bundles(record, found) else None


def _is_new(bundle: Bundle, least: int, gone: frozenset[int], rows: ReadableRows) -> bool:
    """Whether it has enough meters that never were in a bundle, and none that is in a live one."""
    last = _last_bundles(rows, bundle.mpxns)
    if sum(stored is None for stored in last) < least:
        return False
    return not any(_is_in(stored, gone, rows) for stored in last if stored is not None)


def _is_in(stored: bytes, gone: frozenset[int], rows: ReadableRows) -> bool:
    """Whether the bundle that a meter was in last is live, of whatever group."""
    (number,) = _MEMBER.unpack_from(stored)
    gsp_group = stored[_MEMBER.size :].decode()
    return number not in gone and is_live(rows, gsp_group, number)


def _sums_whole_bundles(record: AggregatesPublished, table: BundleTable) -> bool:
    """Whether each figure has just the meters of its bundles, none of which is too small."""
    left_out = from_bits(record.left_out, len(table.rows))
    apart = from_bits(record.apart, len(table.rows))
    if left_out is None or apart is None:
        return False
    if int(table.rows["devices"].min(initial=record.meters_min)) < record.meters_min:
        return False
    whole, devices = table.devices(~left_out, apart)
    devices |= {record.gsp_group: whole}
    return all(devices.get(figure.group) == figure.devices for figure in record.figures)


def formed_by(record: AggregatesPublished) -> list[Bundle]:
    """The bundles that it forms."""
    formed = ((each.feeder, mpxns) for each in record.bundles for mpxns in each.formed)
    return [
        Bundle(number, tuple(f"{mpxn:0{MPAN_DIGITS}}" for mpxn in mpxns), feeder)
        for number, (feeder, mpxns) in enumerate(formed, record.first_bundle)
    ]


# Folding


def fold_publication(record: AggregatesPublished, offset: int, rows: Rows) -> bool:
    """Put the figures of a publication; False, and nothing is put, if it does not follow."""
    table = _next_table(record, rows)
    if table is None:
        return False
    formed = formed_by(record)
    before = table_of(rows, record.gsp_group)
    gone = np.setdiff1d(before.rows["number"], table.rows["number"])
    put_retired(rows, record.gsp_group, gone.tolist())
    put_members(rows, record.gsp_group, formed)
    put_table(rows, record.gsp_group, table)
    for bundle in formed:
        member = _MEMBER.pack(bundle.number) + record.gsp_group.encode()
        for mpxn in bundle.mpxns:
            rows.put(METER_PREFIX + mpxn.encode(), member)
    at = epoch_ms(record.published_at)
    for figure in record.figures:
        head = _FIGURE.pack(offset, at, figure.devices)
        rows.put(_figure_row(record, figure.group), head + figure.values)
    for left_out in record.suppressed:
        head = _FIGURE.pack(offset, at, 0)
        rows.put(_figure_row(record, left_out.group), head + left_out.reason.encode())
    rows.put(_published_row(record.gsp_group, record.day), struct.pack(">q", offset))
    next_number = record.first_bundle + len(formed)
    rows.put(TIP_ROW, _TIP.pack(offset, next_number))
    return True


def _tip(rows: ReadableRows) -> tuple[int, int]:
    stored = rows.get(TIP_ROW)
    if stored is None:
        return NO_PREDECESSOR, 0
    offset, number = _TIP.unpack(stored)
    return int(offset), int(number)


def _day(day: date) -> bytes:
    return struct.pack(">I", day.toordinal())


def _published_row(gsp_group: str, day: date) -> bytes:
    return PUBLISHED_PREFIX + gsp_group.encode() + _day(day)


def _figure_row(record: AggregatesPublished, group: str) -> bytes:
    return FIGURE_PREFIX + _day(record.day) + f"{record.gsp_group}{group}".encode()


# Reading


def published_at(rows: ReadableRows, gsp_group: str, day: date) -> int | None:
    """The offset of the publication of that day; None if there is none."""
    stored = rows.get(_published_row(gsp_group, day))
    return None if stored is None else int(struct.unpack(">q", stored)[0])


def published_figures(rows: ReadableRows, day: date) -> Iterator[PublishedFigure]:
    """All that was published of a UTC day: each GSP group, then its feeders."""
    prefix = FIGURE_PREFIX + _day(day)
    for key, stored in rows.scan(prefix, prefix + b"\xff"):
        name = key[len(prefix) :].decode()
        offset, at, devices = _FIGURE.unpack_from(stored)
        said = stored[_FIGURE.size :]
        values = tuple(np.frombuffer(said, _VALUES).tolist()) if devices else ()
        yield PublishedFigure(
            name[:2],
            name[2:],
            day,
            devices,
            values,
            "" if devices else said.decode(),
            from_epoch_ms(at),
            offset,
        )
