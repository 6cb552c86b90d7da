"""Publications in the log: which ones count, for every fold alike, and what is read of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given

from domains.metering import AGGREGATES
from domains.metering.aggregates import METERS_MIN, Before, Suppressed, figures_of
from domains.metering.bundle_table import live_bundles
from domains.metering.publications import (
    AggregateFigure,
    AggregatesPublished,
    AggregateSuppressed,
    FeederBundles,
    before_next,
    fold_publication,
    formed_by,
    publication_problem,
    published_at,
    published_figures,
)
from spine import trust
from spine.errors import Reason
from spine.event import RecordType
from spine.rows import Applied
from tests.domains.metering.test_aggregates import FEEDERS as HOMES
from tests.domains.metering.test_aggregates import Day, after, lives
from tests.helpers.aggregates import DAY, FEEDERS, meters, published
from tests.helpers.records import BY_CONSUMERS, BY_DSI, BY_METERING, CODEC, Scene
from tests.helpers.rows import MemoryRows

NEXT_DAY = DAY + timedelta(days=1)


@pytest.fixture
def rows() -> MemoryRows:
    return MemoryRows()


def said(rows: MemoryRows, day: date = DAY) -> dict[str, tuple[int, str]]:
    return {f.group: (f.devices, f.suppressed) for f in published_figures(rows, day)}


def test_what_was_published_is_read_back(rows: MemoryRows) -> None:
    assert fold_publication(published(rows), 7, rows)
    assert said(rows) == {
        "_A": (6, ""),
        FEEDERS[0]: (6, ""),
        FEEDERS[1]: (0, Suppressed.DIFFERENCING),
    }
    whole = {f.group: f for f in published_figures(rows, DAY)}["_A"]
    assert whole.values_wh == tuple(2_100 + 6 * h for h in range(48))
    assert (whole.day, whole.offset, whole.gsp_group) == (DAY, 7, "_A")
    assert whole.published_at == datetime(2025, 6, 3, 4, 5, tzinfo=UTC)
    assert said(rows, NEXT_DAY) == {}


def test_no_figure_tells_of_a_meter_by_its_number(rows: MemoryRows) -> None:
    fold_publication(published(rows), 7, rows)
    shown = repr(list(published_figures(rows, DAY)))
    assert "10000000" not in shown


def test_a_day_is_published_once_whatever_is_corrected_later(rows: MemoryRows) -> None:
    fold_publication(published(rows), 7, rows)
    before = dict(rows.by_key)
    assert not fold_publication(published(rows), 8, rows)
    assert rows.by_key == before


def test_of_two_that_were_made_at_once_the_first_in_the_log_counts(rows: MemoryRows) -> None:
    first, second = published(rows), published(rows, day=NEXT_DAY)
    assert fold_publication(first, 7, rows)
    assert not fold_publication(second, 8, rows)
    assert fold_publication(published(rows, day=NEXT_DAY), 9, rows)
    assert published_at(rows, "_A", NEXT_DAY) == 9


def test_groups_share_one_order_and_no_meter_is_new_in_two_of_them(rows: MemoryRows) -> None:
    assert fold_publication(published(rows), 7, rows)
    elsewhere = published(rows, gsp_group="_B")
    assert elsewhere.bundles == () and elsewhere.figures == ()
    assert fold_publication(elsewhere, 8, rows)
    assert list(live_bundles(rows, "_B")) == []
    assert [b.number for b in live_bundles(rows, "_A")] == [0]


def test_a_bundle_that_is_retired_is_live_no_more(rows: MemoryRows) -> None:
    fold_publication(published(rows), 7, rows)
    later = published(rows, meters(range(2, 7)), NEXT_DAY)
    assert later.retired == b"\x01"
    assert fold_publication(later, 8, rows)
    assert list(live_bundles(rows, "_A")) == []
    assert said(rows, NEXT_DAY)["_A"] == (0, Suppressed.DIFFERENCING)


class CountedRows(MemoryRows):
    """Counts the rows that are asked for."""

    asked = 0

    def get(self, key: bytes) -> bytes | None:
        self.asked += 1
        return super().get(key)

    def get_many(self, keys: Sequence[bytes]) -> Sequence[bytes | None]:
        self.asked += len(keys)
        return super().get_many(keys)

    def scan(self, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        for row in super().scan(start, end):
            self.asked += 1
            yield row


def test_a_fold_asks_for_no_more_rows_where_more_bundles_are_live() -> None:
    asked = set()
    for count in (5, 500):
        rows = CountedRows()
        assert fold_publication(published(rows, meters(range(count))), 7, rows)
        later = published(rows, meters(range(count)), NEXT_DAY)
        rows.asked = 0
        assert fold_publication(later, 8, rows)
        asked.add(rows.asked)
    assert len(asked) == 1


FEW = tuple(1_000_000_000_020 + n for n in range(4))
TOO_LONG = tuple(10_000_000_000_000 + n for n in range(5))
NEGATIVE = (-5, -4, -3, -2, -1)
SAME = tuple(1_000_000_000_001 + n for n in range(5))
OTHERS = tuple(1_000_000_000_030 + n for n in range(5))


def forming(record: AggregatesPublished, *bundles: tuple[int, ...]) -> AggregatesPublished:
    """The same, with further bundles on the first feeder."""
    formed = tuple(bundle for each in record.bundles for bundle in each.formed)
    return replace(record, bundles=(FeederBundles(FEEDERS[0], (*formed, *bundles), ()),))


def figures(record: AggregatesPublished, **instead: Any) -> tuple[AggregateFigure, ...]:
    return tuple(replace(figure, **instead) for figure in record.figures)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda r: replace(r, meters_min=4), Reason.AGGREGATE_UNSAFE),
        (lambda r: replace(r, figures=figures(r, devices=4)), Reason.AGGREGATE_UNSAFE),
        (lambda r: replace(r, meters_min=7), Reason.AGGREGATE_UNSAFE),
        (lambda r: forming(r, FEW), Reason.AGGREGATE_UNSAFE),
        (lambda r: forming(r, SAME), Reason.AGGREGATE_UNSAFE),
        (lambda r: replace(r, gsp_group="_I"), Reason.AGGREGATE_MALFORMED),
        (lambda r: replace(r, suppressed=(*r.suppressed * 2,)), Reason.AGGREGATE_MALFORMED),
        (lambda r: replace(r, figures=r.figures[1:]), Reason.AGGREGATE_MALFORMED),
        (lambda r: replace(r, figures=figures(r, values=b"")), Reason.AGGREGATE_MALFORMED),
        (
            lambda r: replace(r, figures=figures(r, values=b"\xff" * 384)),
            Reason.AGGREGATE_MALFORMED,
        ),
        (
            lambda r: replace(r, suppressed=(AggregateSuppressed("x", "SIX_OF_THEM"),)),
            Reason.AGGREGATE_MALFORMED,
        ),
        (lambda r: forming(r, TOO_LONG), Reason.AGGREGATE_MALFORMED),
        (lambda r: forming(r, NEGATIVE), Reason.AGGREGATE_MALFORMED),
        (lambda r: replace(r, bundles=r.bundles * 2), Reason.AGGREGATE_MALFORMED),
        (
            lambda r: replace(r, bundles=(FeederBundles("f\n", (), ()),)),
            Reason.AGGREGATE_MALFORMED,
        ),
        (
            lambda r: replace(r, bundles=(FeederBundles("f", (), (3, 3)),)),
            Reason.AGGREGATE_MALFORMED,
        ),
        (lambda r: r, ""),
    ],
)
def test_what_is_wrong_with_a_publication_by_itself(change: Any, reason: str) -> None:
    assert publication_problem(change(published()), 4) == reason


@pytest.mark.parametrize(
    "change",
    [
        lambda r: replace(r, previous=6),
        lambda r: replace(r, first_bundle=3),
        lambda r: replace(r, day=DAY),
        lambda r: replace(r, retired=b"\x02"),
        lambda r: replace(r, retired=b""),
        lambda r: replace(r, retired=b"\x01", apart=b"", left_out=b""),
        lambda r: replace(r, left_out=b"\x01"),
        lambda r: replace(r, left_out=b"\x02"),
        lambda r: replace(r, left_out=b"\x00\x00"),
        lambda r: replace(r, apart=b"\x01"),
        lambda r: replace(r, apart=b""),
        lambda r: replace(r, bundles=(FeederBundles(FEEDERS[1], (), (0,)),)),
        lambda r: replace(r, bundles=(FeederBundles(FEEDERS[0], (), (1,)),)),
        lambda r: forming(r, SAME),
        lambda r: replace(forming(r, (*SAME, *OTHERS)), left_out=b"\x02"),
        lambda r: replace(r, figures=figures(r, devices=5)),
        lambda r: replace(r, meters_min=7),
    ],
)
def test_what_does_not_follow_is_passed_over(change: Any, rows: MemoryRows) -> None:
    fold_publication(published(rows), 7, rows)
    record, before = published(rows, day=NEXT_DAY), dict(rows.by_key)
    assert not fold_publication(change(record), 8, rows)
    assert rows.by_key == before
    assert fold_publication(record, 8, rows)


def test_old_meters_in_a_new_bundle_are_found_whoever_signed_it(rows: MemoryRows) -> None:
    """Four new ones and those of a retired bundle: enough by number, and a leak by subtraction."""
    fold_publication(published(rows), 7, rows)
    later = published(rows, meters([2, 3, 4, 5, 6, 11, 12, 13, 14]), NEXT_DAY)
    assert (later.retired, later.bundles) == (b"\x01", ())
    forged = forming(later, tuple(1_000_000_000_000 + n for n in (2, 3, 11, 12, 13, 14)))
    forged = replace(forged, apart=b"\x00", left_out=b"\x00")
    assert publication_problem(forged, 4) == ""
    assert not fold_publication(forged, 8, rows)


@given(lives(METERS_MIN, 16))
def test_whatever_is_published_honestly_is_taken_and_leaves_what_it_should(days: list[Day]) -> None:
    rows, before = MemoryRows(), Before()
    for number, found in enumerate(days):
        record = published(rows, found, DAY + timedelta(days=number), feeders=HOMES)
        assert publication_problem(record, 4) == ""
        assert CODEC.decode(CODEC.encode(record)) == record
        made = figures_of("_A", HOMES, found, before, METERS_MIN)
        assert [f.devices for f in record.figures] == [f.devices for f in made.figures]
        assert formed_by(record) == list(made.formed)
        assert fold_publication(record, number, rows)
        before = after(before, made)
        previous, left = before_next(rows, "_A", [m for one in days for m in one])
        assert (previous, left) == (number, before)


# In a partition


def applied(*records: object, by: Any = BY_METERING) -> tuple[Scene, list[Applied]]:
    scene = Scene(topic=trust.AGGREGATES_TOPIC, partition=0, domain=AGGREGATES)
    return scene, [scene.send(scene.log.build(RecordType.READINGS, r, by)) for r in records]


def test_every_fold_applies_quarantines_and_passes_over_alike() -> None:
    record = published()
    unsafe = replace(published(), meters_min=2)
    scene, done = applied(record, record, unsafe, replace(record, partition=1))
    assert [one.applied for one in done] == [1, 0, 0, 0]
    assert done[1].duplicates == 1
    assert done[2].refusals[0].reason is Reason.AGGREGATE_UNSAFE
    assert done[3].refusals[0].reason is Reason.VOID_PARTITION
    assert scene.fold.head is not None and scene.fold.head.counts.balanced


@pytest.mark.parametrize("by", [BY_DSI, BY_CONSUMERS])
def test_nobody_but_metering_publishes(by: Any) -> None:
    _, (done,) = applied(published(), by=by)
    assert done.refusals[0].reason is Reason.VOID_ROLE


def test_a_publication_goes_into_bytes_and_back() -> None:
    record = published()
    assert CODEC.decode(CODEC.encode(record)) == record
