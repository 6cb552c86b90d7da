"""Batches of readings: built, judged, folded and read back as of any position."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, date, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import fastavro
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domains.metering import READINGS
from domains.metering.adapters.report import MeterDays
from domains.metering.readings import (
    BATCH_ROWS,
    BATCH_ROWS_MAX,
    Delivery,
    ReadingsBatch,
    batch_from_columns,
    batch_problem,
    columns,
    partitions_of,
    split,
    take,
)
from domains.metering.rows import BATCH_PREFIX, fold_batch
from domains.metering.views import recorded_between
from spine.answer import Recorded
from spine.domain import Rows
from spine.errors import Bug, Reason
from spine.gb import Interval, SettlementDate, half_hour_of, half_hour_start
from spine.murmur2 import murmur2_partition
from tests.helpers.half_hours import read_back
from tests.helpers.rows import MemoryRows

SCHEMA = Path(__file__).parents[3] / "schemas" / "metering" / "ReadingsBatch" / "1.avsc"
MPAN, OTHER_MPAN, MPRN = "1200000000011", "1300000000016", "123456"
METERS = (MPAN, OTHER_MPAN, MPRN)
DAY = 19_800
DAYS = (DAY, DAY + 1)
ALL = Interval(half_hour_start(DAY * 48), half_hour_start((DAY + 2) * 48))
CODES = ("", "A", "E1")
DELIVERY = Delivery("DATA", "reference-1", bytes(range(32)))

Cells = dict[int, tuple[int, int]]  # half hour of the day -> (Wh, index into CODES)


@dataclass(frozen=True)
class MeterDay:
    """A row in the plain: what the columns say of one meter and day."""

    mpxn: str
    day: int
    cells: Cells


def meter_days(rows: Sequence[MeterDay], quantity: str = "AI") -> MeterDays:
    table = MeterDays(
        mpxns=np.array([row.mpxn for row in rows], "S13"),
        days=np.array([row.day for row in rows], np.int32),
        present=np.zeros((len(rows), 48), np.bool_),
        values_wh=np.zeros((len(rows), 48), np.int32),
        quality=np.zeros((len(rows), 48), np.uint8),
        quality_codes=CODES,
        quantity=quantity,
    )
    for place, row in enumerate(rows):
        for half_hour, (wh, code) in row.cells.items():
            table.present[place, half_hour] = True
            table.values_wh[place, half_hour] = wh
            table.quality[place, half_hour] = code
    return table


def batch_of(
    *rows: MeterDay, reference: str = "reference-1", quantity: str = "AI"
) -> ReadingsBatch:
    return batch_from_columns(
        meter_days(rows, quantity),
        0,
        replace(DELIVERY, sender_reference=reference),
        registration_position=7,
        consumer_log_position=9,
    )


def whole_day(mpxn: str = MPAN, day: int = DAY, wh: int = 100) -> MeterDay:
    return MeterDay(mpxn, day, {i: (wh + i, 1) for i in range(48)})


GAPPED = MeterDay(MPRN, DAY, {0: (5, 2), 9: (0, 1), 47: (2_000_000_000, 0)})
BATCH = batch_of(whole_day(), GAPPED)


EVERYWHERE = 1  # a log of one partition, to which every metering point belongs


cells = st.dictionaries(
    st.integers(0, 47), st.tuples(st.integers(0, 2**31 - 1), st.integers(0, 2)), max_size=4
)
rows_of_meters = st.builds(MeterDay, st.sampled_from(METERS), st.sampled_from(DAYS), cells)
batches = st.lists(rows_of_meters, min_size=1, max_size=4)


# Building


mpxns = st.one_of(
    st.from_regex(r"[0-9]{13}", fullmatch=True), st.from_regex(r"[0-9]{6,10}", fullmatch=True)
)


@given(st.lists(mpxns, max_size=20), st.integers(1, 256))
def test_a_column_is_partitioned_as_each_of_its_points(names: list[str], count: int) -> None:
    expected = [murmur2_partition(name.encode(), count) for name in names]
    assert partitions_of(np.array(names, "S13"), count).tolist() == expected


@given(st.lists(rows_of_meters, max_size=30), st.integers(1, 5))
def test_a_split_keeps_every_row_in_its_partition_and_versions_in_order(
    rows: list[MeterDay], rows_max: int
) -> None:
    numbered = [MeterDay(r.mpxn, r.day, {0: (n, 0)}) for n, r in enumerate(rows)]
    parts = list(split(meter_days(numbered), 4, rows_max))
    seen: list[tuple[str, int, int]] = []
    for partition, part in parts:
        names = [name.decode() for name in part.mpxns.tolist()]
        assert 1 <= len(part) <= rows_max
        assert {murmur2_partition(name.encode(), 4) for name in names} == {partition}
        order = part.values_wh[:, 0].tolist()
        seen += zip(names, part.days.tolist(), order, strict=True)
    assert sorted(seen) == sorted((r.mpxn, r.day, n) for n, r in enumerate(rows))
    for name, day, _ in seen:
        versions = [n for other, on, n in seen if (other, on) == (name, day)]
        assert versions == sorted(versions)


def test_a_split_makes_batches_of_the_usual_size() -> None:
    many = meter_days([whole_day(day=DAY + n) for n in range(BATCH_ROWS * 2 + 1)])
    assert [len(part) for _, part in split(many, 4)] == [BATCH_ROWS, BATCH_ROWS, 1]
    assert list(split(take(many, np.zeros(len(many), np.bool_)), 4)) == []


@given(batches)
def test_the_columns_of_a_batch_are_those_it_was_built_from(rows: list[MeterDay]) -> None:
    built, read = meter_days(rows), columns(batch_of(*rows))
    assert (read.quality_codes, read.quantity) == (built.quality_codes, built.quantity)
    for name in ("mpxns", "days", "present", "values_wh", "quality"):
        was, now = getattr(built, name), getattr(read, name)
        assert was.shape == now.shape
        assert was.tolist() == now.tolist()


def test_columns_copy_nothing_but_the_mask() -> None:
    read = columns(BATCH)
    for view in (read.mpxns, read.days, read.values_wh, read.quality):
        assert not view.flags.owndata and not view.flags.writeable


def test_the_id_follows_from_sender_reference_and_content() -> None:
    assert batch_of(whole_day(), GAPPED) == BATCH
    others = [
        batch_of(whole_day()),
        batch_of(GAPPED, whole_day()),
        batch_of(whole_day(wh=101), GAPPED),
        batch_of(whole_day(), GAPPED, reference="reference-2"),
        batch_of(whole_day(), GAPPED, quantity="AE"),
    ]
    assert len({batch.batch_id for batch in (BATCH, *others)}) == len(others) + 1


def test_the_layout_is_the_one_the_schema_describes() -> None:
    """Read with the schema's doc in hand and nothing of ours."""
    row, half_hour = 1, 47
    assert BATCH.mpxns[13 * row : 13 * row + 13] == b"123456" + bytes(7)
    assert struct.unpack_from("<i", BATCH.days, 4 * row) == (DAY,)
    assert BATCH.present[6 * row : 6 * row + 6] == bytes([0b1, 0b10, 0, 0, 0, 0x80])
    place = 192 * row + 4 * half_hour
    assert struct.unpack_from("<i", BATCH.values, place) == (2_000_000_000,)
    assert BATCH.quality_codes[BATCH.quality[48 * row]] == "E1"


def test_the_schema_holds_a_batch() -> None:
    schema = json.loads(SCHEMA.read_text())
    assert [field["name"] for field in schema["fields"]] == list(asdict(BATCH))
    assert all(field["doc"] for field in schema["fields"])
    parsed = fastavro.parse_schema(schema)
    stream = BytesIO()
    fastavro.schemaless_writer(stream, parsed, asdict(BATCH), strict=True)
    stream.seek(0)
    plain: Any = fastavro.schemaless_reader(stream, parsed, None)
    assert ReadingsBatch(**plain | {"quality_codes": tuple(plain["quality_codes"])}) == BATCH


# Judging


def test_a_sound_batch_has_no_problem() -> None:
    assert batch_problem(BATCH, EVERYWHERE) == ""
    assert batch_problem(batch_of(whole_day()), EVERYWHERE) == ""
    full = batch_of(*(whole_day(day=DAY + n) for n in range(BATCH_ROWS_MAX)))
    assert batch_problem(full, EVERYWHERE) == ""


def packed(*numbers: int) -> bytes:
    return struct.pack(f"<{len(numbers)}i", *numbers)


def patched(vector: bytes, place: int, new: bytes) -> bytes:
    return vector[:place] + new + vector[place + len(new) :]


ROW_1 = 192  # where the values of GAPPED start; it is absent in half hour 1
TOO_MANY = [whole_day(day=DAY + n) for n in range(BATCH_ROWS_MAX + 1)]

FLAWS: dict[str, dict[str, Any]] = {
    **{
        f"{vector} {words}": {vector: change(getattr(BATCH, vector))}
        for vector in ("mpxns", "days", "present", "values", "quality", "batch_id", "source_digest")
        for words, change in {
            "one byte short": lambda content: content[:-1],
            "one byte long": lambda content: content + b"\x00",
            "empty": lambda content: b"",
        }.items()
    },
    "rows one too few": {"rows": 1},
    "rows one too many": {"rows": 3},
    "rows negative": {"rows": -2},
    "no rows": {
        "rows": 0,
        "mpxns": b"",
        "days": b"",
        "present": b"",
        "values": b"",
        "quality": b"",
    },
    "too many rows": asdict(batch_of(*TOO_MANY)),
    "another unit": {"unit": "kWh"},
    "no sender": {"sender": ""},
    "a sender too long": {"sender": "x" * 65},
    "no reference": {"sender_reference": ""},
    "a reference too long": {"sender_reference": "x" * 129},
    "no quantity": {"measurement_quantity": ""},
    "a long quantity": {"measurement_quantity": "AIX"},
    "a small quantity": {"measurement_quantity": "ai"},
    "an outlandish quantity": {"measurement_quantity": "ÄI"},
    "a position before the log": {"registration_position": -1},
    "a consumer position before the log": {"consumer_log_position": -1},
    "no codes": {"quality_codes": ()},
    "a code twice": {"quality_codes": ("A", "A", "E1")},
    "a code too long": {"quality_codes": ("A", "E" * 17, "E1")},
    "a code with a mark of ours in it": {"quality_codes": ("A", "\x1f", "E1")},
    "an outlandish code": {"quality_codes": ("A", "É", "E1")},
    "too many codes": {"quality_codes": tuple(map(str, range(256)))},
    "a code too few": {"quality_codes": ("", "A")},
    "a letter in an MPxN": {"mpxns": patched(BATCH.mpxns, 3, b"x")},
    "an MPxN of 5 digits": {"mpxns": patched(BATCH.mpxns, 18, b"\x00")},
    "an MPxN of 11 digits": {"mpxns": patched(BATCH.mpxns, 13, b"12345678901")},
    "an MPxN with a hole": {"mpxns": patched(BATCH.mpxns, 14, b"\x00")},
    "an MPxN that starts late": {"mpxns": patched(BATCH.mpxns, 13, b"\x00123456")},
    "a day before half-hourly metering": {"days": packed(DAY, 7_304)},
    "a day too far ahead": {"days": packed(47_482, DAY)},
    "a value where none is present": {"values": patched(BATCH.values, ROW_1 + 4, packed(1))},
    "a quality where none is present": {"quality": patched(BATCH.quality, 49, b"\x01")},
    "a mask that hides a value": {"present": patched(BATCH.present, 6, b"\x00")},
    "an index beyond the codes": {"quality": patched(BATCH.quality, 0, b"\x03")},
}


@pytest.mark.parametrize("flaw", FLAWS)
def test_a_malformed_batch_is_refused(flaw: str) -> None:
    assert batch_problem(replace(BATCH, **FLAWS[flaw]), EVERYWHERE) == Reason.READINGS_MALFORMED


def test_the_first_and_the_last_day_there_is() -> None:
    edges = replace(BATCH, days=packed(7_305, 47_481))
    assert batch_problem(edges, EVERYWHERE) == ""


def test_a_negative_value_is_out_of_range() -> None:
    negative = replace(BATCH, values=patched(BATCH.values, 0, packed(-1)))
    assert batch_problem(negative, EVERYWHERE) == Reason.READING_OUT_OF_RANGE


def test_a_batch_of_another_partition_is_void() -> None:
    home = murmur2_partition(MPAN.encode(), 4)
    batch = replace(batch_of(whole_day(), whole_day(day=DAY + 1)), partition=home)
    assert batch_problem(batch, 4) == ""
    assert batch_problem(replace(batch, partition=(home + 1) % 4), 4) == Reason.VOID_PARTITION


@given(batches, st.data())
def test_no_bytes_whatever_make_a_judge_or_a_fold_raise(
    rows: list[MeterDay], data: st.DataObject
) -> None:
    batch = batch_of(*rows)
    name = data.draw(st.sampled_from(("mpxns", "days", "present", "values", "quality")))
    vector = bytearray(getattr(batch, name))
    vector[data.draw(st.integers(0, len(vector) - 1))] = data.draw(st.integers(0, 255))
    changes: Any = {name: bytes(vector)}
    damaged = replace(batch, **changes)
    if not batch_problem(damaged, EVERYWHERE):
        store = MemoryRows()
        assert fold_batch(damaged, 1, store)
        for mpxn in {name.decode() for name in columns(damaged).mpxns.tolist()}:
            read_back(store, mpxn, "AI", ALL, 2)


# Folding and reading back


class Oracle:
    """What should be read back, kept the slow and obvious way: each value said, with its place."""

    def __init__(self) -> None:
        self.said: list[tuple[str, datetime, Recorded]] = []
        self.ids: set[bytes] = set()

    def fold(self, batch: ReadingsBatch, rows: Sequence[MeterDay], offset: int) -> bool:
        if batch.batch_id in self.ids:
            return False
        self.ids.add(batch.batch_id)
        for place, row in enumerate(rows):
            for half_hour, (wh, code) in row.cells.items():
                start = half_hour_start(row.day * 48 + half_hour)
                self.said.append((row.mpxn, start, Recorded(wh, CODES[code], offset, place)))
        return True

    def as_of(self, mpxn: str, interval: Interval, below: int) -> dict[datetime, Recorded]:
        return {
            start: recorded
            for name, start, recorded in self.said
            if name == mpxn and start in interval and recorded.offset < below
        }


logs = st.lists(st.tuples(batches, st.integers(1, 3), st.booleans()), max_size=6)


@settings(deadline=None)
@given(logs, st.integers(0, 95), st.integers(1, 96))
def test_a_read_as_of_any_offset_is_what_the_log_said_up_to_there(
    log: list[tuple[list[MeterDay], int, bool]], first: int, length: int
) -> None:
    store, oracle, offset, ends = MemoryRows(), Oracle(), 10, [0, 10]
    part = Interval(ALL.start + timedelta(minutes=30 * first), ALL.end + timedelta(days=length))
    for number, (rows, gap, again) in enumerate(log):
        batch = batch_of(*rows, reference=f"reference-{number}")
        for _ in range(1 + again):
            assert fold_batch(batch, offset, store) is oracle.fold(batch, rows, offset)
            offset += gap
            ends.append(offset)
    for below in ends:
        for mpxn in METERS:
            for interval in (ALL, part):
                found = read_back(store, mpxn, "AI", interval, below)
                assert found == oracle.as_of(mpxn, interval, below)
                assert list(found) == sorted(found)


@given(st.lists(batches, max_size=5))
def test_replay_twice_is_replay_once_and_every_prefix_is_a_store_of_its_own(
    log: list[list[MeterDay]],
) -> None:
    records = [batch_of(*rows, reference=f"r{n}") for n, rows in enumerate(log)]
    store = MemoryRows()
    for offset, batch in enumerate(records):
        assert fold_batch(batch, offset, store)
    once = dict(store.by_key)
    assert not any(fold_batch(batch, offset, store) for offset, batch in enumerate(records))
    assert store.by_key == once
    prefix = MemoryRows()
    for below, batch in enumerate(records, 1):
        fold_batch(batch, below - 1, prefix)
        for mpxn in METERS:
            as_of = read_back(store, mpxn, "AI", ALL, below)
            assert as_of == read_back(prefix, mpxn, "AI", ALL, below)


def test_a_duplicate_changes_nothing_and_keeps_its_first_place() -> None:
    store = MemoryRows()
    assert fold_batch(BATCH, 4, store)
    assert not fold_batch(BATCH, 5, store)
    assert store.get(BATCH_PREFIX + BATCH.batch_id) == struct.pack(">q", 4)
    assert {r.offset for r in read_back(store, MPAN, "AI", ALL, 9).values()} == {4}


def test_quantities_and_points_are_kept_apart() -> None:
    store = MemoryRows()
    fold_batch(batch_of(MeterDay("1234567", DAY, {0: (7, 0)})), 1, store)
    fold_batch(batch_of(MeterDay("12345678", DAY, {0: (8, 0)})), 2, store)
    fold_batch(batch_of(MeterDay("1234567", DAY, {0: (9, 0)}), quantity="AE"), 3, store)
    read = {
        (mpxn, quantity): [r.value_wh for r in read_back(store, mpxn, quantity, ALL, 9).values()]
        for mpxn in ("123456", "1234567", "12345678")
        for quantity in ("AI", "AE")
    }
    assert {key: found for key, found in read.items() if found} == {
        ("1234567", "AI"): [7],
        ("12345678", "AI"): [8],
        ("1234567", "AE"): [9],
    }


def test_an_interval_off_the_grid_holds_the_half_hours_that_start_in_it() -> None:
    store = MemoryRows()
    fold_batch(batch_of(whole_day()), 1, store)
    minute = timedelta(minutes=1)
    noon = datetime(2024, 3, 18, 12, tzinfo=UTC)
    asked = Interval(noon - minute, noon + 31 * minute)
    assert list(read_back(store, MPAN, "AI", asked, 2)) == [noon, noon + 30 * minute]
    inside = Interval(noon + minute, noon + 2 * minute)
    assert read_back(store, MPAN, "AI", inside, 2) == {}


@pytest.mark.parametrize(
    ("local", "periods"),
    [(date(2024, 3, 31), 46), (date(2024, 10, 27), 50), (date(2024, 6, 1), 48)],
)
def test_a_settlement_day_comes_back_whole_on_both_clock_changes(local: date, periods: int) -> None:
    day = SettlementDate(local)
    by_utc_day: dict[int, Cells] = {}
    for number in range(periods):
        utc_day, half_hour = divmod(day.first_half_hour + number, 48)
        by_utc_day.setdefault(utc_day, {})[half_hour] = (number + 1, 1)
    store = MemoryRows()
    fold_batch(batch_of(*(MeterDay(MPAN, d, c) for d, c in by_utc_day.items())), 1, store)
    found = read_back(store, MPAN, "AI", day.interval, 2)
    assert [half_hour_of(start) for start in found] == [
        day.first_half_hour + n for n in range(periods)
    ]
    assert [recorded.value_wh for recorded in found.values()] == list(range(1, periods + 1))


# What would go wrong


class OverwritingRows(MemoryRows):
    """The naive store: one row for each meter and day, without its place in the log in the key."""

    def put(self, key: bytes, value: bytes) -> None:
        if key.startswith(b"r/"):
            for earlier, _ in list(self.scan(key[:-12], key[:-12] + b"\xff" * 12)):
                self._keys.remove(earlier)
                del self.by_key[earlier]
        super().put(key, value)


def history(store: Rows) -> tuple[int | None, int]:
    """A day, then its first half hour corrected: that value as of before, all rows as of after."""
    fold_batch(batch_of(whole_day()), 1, store)
    fold_batch(batch_of(MeterDay(MPAN, DAY, {0: (999, 2)}), reference="correction"), 2, store)
    before = read_back(store, MPAN, "AI", ALL, 2).get(ALL.start)
    return None if before is None else before.value_wh, len(read_back(store, MPAN, "AI", ALL, 3))


def test_a_store_that_overwrites_forgets_what_it_answered_and_what_was_not_corrected() -> None:
    assert history(MemoryRows()) == (100, 48)
    assert history(OverwritingRows()) == (None, 1)


@pytest.mark.parametrize("call", [READINGS.decide, READINGS.evolve])
def test_readings_have_no_facts(call: Callable[..., object]) -> None:
    with pytest.raises(Bug):
        call(READINGS.initial(), object())


@given(st.lists(batches, min_size=2, max_size=4), st.data())
def test_what_was_recorded_between_two_places_is_what_the_batches_there_said(
    sent: list[list[MeterDay]], data: st.DataObject
) -> None:
    store = MemoryRows()
    for offset, rows in enumerate(sent):
        fold_batch(batch_of(*rows, reference=str(offset)), offset, store)
    since = data.draw(st.integers(0, len(sent)))
    said = [
        row.day * 48 + half_hour
        for rows in sent[since:]
        for row in rows
        if row.mpxn == MPAN
        for half_hour in row.cells
    ]
    found = recorded_between(store, MPAN, "AI", ALL, since, len(sent))
    if not said:
        assert found is None
    else:
        assert found == Interval(half_hour_start(min(said)), half_hour_start(max(said) + 1))
