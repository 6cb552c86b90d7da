"""`AggregatesPublished`, the record of `metering.aggregates.v1`: building, judging, folding one.

A record is one day of one GSP group, published once. It names its predecessor, so that two that
were made at the same time cannot both count: the later in the log is passed over by every fold, as
a duplicate is. So is one that breaks a rule of `aggregates`, whoever signed it. Its figures cannot
be judged without the readings; `spine aggregates check` does that, from the log.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Final

import numpy as np

from domains.metering.aggregates import METERS_MIN, Before, Bundle, Meter, Suppressed, figures_of
from spine.domain import ReadableRows, Rows
from spine.errors import Reason
from spine.event import NO_PREDECESSOR, DataPosition, epoch_ms, from_epoch_ms
from spine.gb import MPAN_DIGITS, PERIODS_PER_UTC_DAY, GspGroup
from spine.trust import AGGREGATES_TOPIC

FIGURES_MAX: Final = 1_000
_VALUES: Final = np.dtype("<i8")
TIP_ROW: Final = b"t/"
BUNDLE_PREFIX: Final = b"u/"
METER_PREFIX: Final = b"m/"
PUBLISHED_PREFIX: Final = b"p/"
FIGURE_PREFIX: Final = b"d/"
_TIP = struct.Struct(">qi")  # offset of the last publication, number of the next bundle
_FIGURE = struct.Struct(">qqi")  # offset, published at (epoch ms), devices; then values or why not


@dataclass(frozen=True, slots=True)
class AggregateFigure:
    """A group's figure: the sum of these bundles, by number, and how many devices they have.

    `values` are 48 signed 64-bit little-endian integers, Wh.
    """

    group: str
    bundles: tuple[int, ...]
    devices: int
    values: bytes


@dataclass(frozen=True, slots=True)
class AggregateSuppressed:
    """A group of which nothing is said, and why."""

    group: str
    reason: str


@dataclass(frozen=True, slots=True)
class AggregatesPublished:
    """The value of a record of type r in `metering.aggregates.v1`. Frozen.

    `day` is a UTC day. `previous` is the offset of the publication before it, of any group;
    `positions` how far the log was read for it. A new bundle's number is `first_bundle` and its
    place in `formed`.
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
    formed: tuple[tuple[str, ...], ...]
    retired: tuple[int, ...]
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
    """The offset of the last publication in these rows, and what it leaves to the next one."""
    previous, next_number = _tip(rows)
    bundled = frozenset(meter.mpxn for meter in meters if _bundled(rows, meter.mpxn))
    return previous, Before(tuple(live_bundles(rows, gsp_group)), bundled, next_number)


def _bundled(rows: ReadableRows, mpxn: str) -> bool:
    return rows.get(METER_PREFIX + mpxn.encode()) is not None


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
        tuple(bundle.mpxns for bundle in made.formed),
        made.retired,
        tuple(
            AggregateFigure(f.group, f.bundles, f.devices, _vector(f.values_wh))
            for f in made.figures
        ),
        tuple(AggregateSuppressed(group, why) for group, why in made.suppressed),
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
    sizes = [figure.devices for figure in record.figures]
    sizes += [len(mpxns) for mpxns in record.formed]
    members = [mpxn for mpxns in record.formed for mpxn in mpxns]
    if least < METERS_MIN or min(sizes, default=least) < least:
        return Reason.AGGREGATE_UNSAFE
    return Reason.AGGREGATE_UNSAFE if len(set(members)) != len(members) else ""


def _well_formed(record: AggregatesPublished) -> bool:
    groups = [f.group for f in record.figures] + [s.group for s in record.suppressed]
    vectors = [figure.values for figure in record.figures]
    whole = all(len(v) == PERIODS_PER_UTC_DAY * _VALUES.itemsize for v in vectors)
    return (
        record.gsp_group in frozenset(GspGroup)
        and whole
        and all(int(np.frombuffer(values, _VALUES).min()) >= 0 for values in vectors)
        and record.gsp_group in groups
        and len(set(groups)) == len(groups) <= FIGURES_MAX + 1
        and all(g.isascii() and g.isprintable() for g in groups)
        and {s.reason for s in record.suppressed} <= set(Suppressed)
        and all(_is_mpan(mpxn) for mpxns in record.formed for mpxn in mpxns)
        and all(len(set(f.bundles)) == len(f.bundles) for f in record.figures)
        and record.first_bundle >= 0
    )


def _is_mpan(text: str) -> bool:
    return len(text) == MPAN_DIGITS and text.isascii() and text.isdigit()


def _follows(record: AggregatesPublished, rows: ReadableRows) -> bool:
    """Whether it is the next publication, the first of its day, and made of whole bundles."""
    if (record.previous, record.first_bundle) != _tip(rows):
        return False
    if rows.get(_published_row(record.gsp_group, record.day)) is not None:
        return False
    for mpxns in record.formed:
        if sum(not _bundled(rows, mpxn) for mpxn in mpxns) < record.meters_min:
            return False
    live = {bundle.number: bundle for bundle in live_bundles(rows, record.gsp_group)}
    retired = set(record.retired)
    if not retired <= set(live):
        return False
    summed = {number: bundle for number, bundle in live.items() if number not in retired}
    summed |= {bundle.number: bundle for bundle in _formed(record)}
    members = [mpxn for bundle in summed.values() for mpxn in bundle.mpxns]
    if len(set(members)) != len(members):
        return False
    sizes = {number: len(bundle.mpxns) for number, bundle in summed.items()}
    return all(_sums_whole_bundles(figure, sizes, record.meters_min) for figure in record.figures)


def _sums_whole_bundles(figure: AggregateFigure, sizes: Mapping[int, int], least: int) -> bool:
    found = [sizes.get(number, 0) for number in figure.bundles]
    return min(found, default=0) >= least and sum(found) == figure.devices


def _formed(record: AggregatesPublished) -> Iterator[Bundle]:
    for number, mpxns in enumerate(record.formed, record.first_bundle):
        yield Bundle(number, mpxns)


# Folding


def fold_publication(record: AggregatesPublished, offset: int, rows: Rows) -> bool:
    """Put the figures of a publication; False, and nothing is put, if it does not follow."""
    if not _follows(record, rows):
        return False
    for number in record.retired:
        rows.put(_bundle_row(record.gsp_group, number), b"")
    for bundle in _formed(record):
        members = "".join(bundle.mpxns).encode()
        rows.put(_bundle_row(record.gsp_group, bundle.number), members)
        for mpxn in bundle.mpxns:
            rows.put(METER_PREFIX + mpxn.encode(), struct.pack(">i", bundle.number))
    at = epoch_ms(record.published_at)
    for figure in record.figures:
        head = _FIGURE.pack(offset, at, figure.devices)
        rows.put(_figure_row(record, figure.group), head + figure.values)
    for left_out in record.suppressed:
        head = _FIGURE.pack(offset, at, 0)
        rows.put(_figure_row(record, left_out.group), head + left_out.reason.encode())
    rows.put(_published_row(record.gsp_group, record.day), struct.pack(">q", offset))
    next_number = record.first_bundle + len(record.formed)
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


def _bundle_row(gsp_group: str, number: int) -> bytes:
    return BUNDLE_PREFIX + gsp_group.encode() + struct.pack(">i", number)


def _published_row(gsp_group: str, day: date) -> bytes:
    return PUBLISHED_PREFIX + gsp_group.encode() + _day(day)


def _figure_row(record: AggregatesPublished, group: str) -> bytes:
    return FIGURE_PREFIX + _day(record.day) + f"{record.gsp_group}{group}".encode()


# Reading


def live_bundles(rows: ReadableRows, gsp_group: str) -> Iterator[Bundle]:
    """The bundles of a GSP group that are not retired, in order of number."""
    prefix = BUNDLE_PREFIX + gsp_group.encode()
    for key, stored in rows.scan(prefix, prefix + b"\xff\xff\xff\xff\xff"):
        if stored:
            (number,) = struct.unpack(">i", key[len(prefix) :])
            text = stored.decode()
            starts = range(0, len(text), MPAN_DIGITS)
            yield Bundle(number, tuple(text[start : start + MPAN_DIGITS] for start in starts))


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
