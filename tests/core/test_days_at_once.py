"""What is done for whole days at once says, half hour by half hour, what the definitions say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from itertools import groupby
from typing import Any, Final

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from domains.metering.adapters.report import MeterDays
from domains.metering.readings import Delivery, batch_from_columns
from domains.metering.rows import fold_batch, note_refused
from domains.metering.views import as_of_each, everything_said, readings_as_of
from domains.metering.withdrawals import withdrawal
from spine.answer import ABSENT, Absent, HalfHour, Recorded, half_hours, half_hours_digest
from spine.dsi.rows import half_hours_in, half_hours_in_columns, put_half_hours
from spine.dsi.v1 import dsi_pb2
from spine.event import epoch_ms
from spine.gb import HALF_HOUR, Interval, half_hour_of, half_hour_start
from tests.helpers.half_hours import digest_row_by_row
from tests.helpers.rows import MemoryRows

METER: Final = "1200000000003"
# Around the change to summer time, and around a leap day.
STARTS: Final = (date(2025, 3, 29), date(2024, 2, 28))
DAYS: Final = 4
CODES: Final = (("A", "E"), ("E", "A"), ("A",), ("", "estimated"))
FULL: Final = (1 << 48) - 1

Cell = tuple[int, str]


@dataclass(frozen=True)
class Said:
    """What one record says of the meter: values, or that they are withdrawn, or refused ones."""

    kind: str
    rows: tuple[tuple[int, dict[int, Cell]], ...]
    codes: tuple[str, ...]


masks = st.one_of(st.just(FULL), st.integers(1, FULL))


@st.composite
def records(draw: st.DrawFn) -> Said:
    kind = draw(st.sampled_from(("values", "values", "values", "withdrawn", "refused")))
    codes = draw(st.sampled_from(CODES))
    if kind == "withdrawn":
        first = draw(st.integers(0, DAYS * 48 - 1))
        end = draw(st.integers(first + 1, DAYS * 48))
        days = range(first // 48, (end - 1) // 48 + 1)
        cut = {day: range(max(first - day * 48, 0), min(end - day * 48, 48)) for day in days}
        return Said(kind, tuple((day, dict.fromkeys(cut[day], (0, ""))) for day in days), codes)
    rows = []
    many = draw(st.booleans())
    for day in (
        range(DAYS) if many else draw(st.lists(st.integers(0, DAYS - 1), min_size=1, max_size=3))
    ):
        mask, wh = draw(masks), draw(st.sampled_from((0, 7, 63, 64, 9_000, 2_000_000_000)))
        code = draw(st.sampled_from(codes))
        odd = draw(st.integers(0, 47)), draw(st.sampled_from(codes))
        cells = {
            n: (min(wh + n, (1 << 31) - 1), odd[1] if n == odd[0] else code)
            for n in range(48)
            if mask >> n & 1
        }
        rows.append((day, cells))
    return Said(kind, tuple(rows), codes)


logs = st.lists(records(), max_size=6)


def folded(log: Sequence[Said], first_day: int) -> MemoryRows:
    """The store that a fold makes of it; the record of a number stands at ten times that."""
    store = MemoryRows()
    for number, said in enumerate(log, 1):
        offset, sender = number * 10, Delivery("sender", f"reference-{number}")
        if said.kind == "withdrawn":
            half_hours_cut = [day * 48 + n for day, cells in said.rows for n in cells]
            start = half_hour_start(first_day * 48 + half_hours_cut[0])
            end = half_hour_start(first_day * 48 + half_hours_cut[-1] + 1)
            record: Any = withdrawal(
                METER,
                "AI",
                Interval(start, end),
                partition=0,
                sender="sender",
                sender_reference=f"reference-{number}",
                reason="WRONG_METER",
                registration_position=0,
                consumer_log_position=0,
            )
            fold_batch(record, offset, store)
            continue
        cells = [[row.get(n) for n in range(48)] for _, row in said.rows]
        days = MeterDays(
            np.array([METER.encode()] * len(said.rows), "S13"),
            np.array([first_day + day for day, _ in said.rows], np.int32),
            np.array([[cell is not None for cell in row] for row in cells], np.bool_),
            np.array([[cell[0] if cell else 0 for cell in row] for row in cells], np.int32),
            np.array(
                [[said.codes.index(cell[1]) if cell else 0 for cell in row] for row in cells],
                np.uint8,
            ),
            said.codes,
        )
        record = batch_from_columns(
            days, 0, sender, registration_position=0, consumer_log_position=0
        )
        (note_refused if said.kind == "refused" else fold_batch)(record, offset, store)
    return store


def plainly(log: Sequence[Said], first: int, count: int, below: int) -> list[Recorded | str]:
    """The same half hour by half hour: what was said last of each, or why there is nothing."""
    found: list[Recorded | str] = []
    for half_hour in range(first, first + count):
        kept: Recorded | None = None
        withdrawn = refused = 0
        for number, said in enumerate(log, 1):
            for row, (day, cells) in enumerate(said.rows):
                cell = cells.get(half_hour - day * 48)
                if cell is None or number * 10 >= below:
                    continue
                if said.kind == "values":
                    kept, withdrawn = Recorded(*cell, number * 10, row), 0
                elif said.kind == "refused":
                    refused = number * 10
                elif kept or withdrawn:
                    kept, withdrawn = None, number * 10
        if kept is not None:
            found.append(kept)
        elif refused > withdrawn:
            found.append(Absent.QUARANTINED)
        else:
            found.append(Absent.WITHDRAWN if withdrawn else "")
    return found


intervals = st.tuples(st.integers(0, DAYS * 48 - 1), st.integers(1, DAYS * 48)).map(
    lambda drawn: (drawn[0], min(drawn[1], DAYS * 48 - drawn[0]))
)
WHOLE_DAYS: Final = Said(
    "values", tuple((d, {n: (n, "A") for n in range(48)}) for d in range(4)), ("A", "E")
)
ESTIMATED: Final = Said("values", ((2, {n: (n, "E") for n in range(48)}),), ("A", "E"))

REFUSED: Final = Said("refused", ((1, {n: (n, "A") for n in range(10, 30)}),), ("A", "E"))
WITHDRAWN: Final = Said("withdrawn", ((1, dict.fromkeys(range(20, 40), (0, ""))),), ("A", "E"))
DAY_WITHDRAWN: Final = Said("withdrawn", ((2, dict.fromkeys(range(48), (0, ""))),), ("A", "E"))


@settings(max_examples=150, deadline=None)
@given(logs, st.sampled_from(STARTS), intervals, st.integers(0, 70), st.integers(0, DAYS * 48))
@example([WHOLE_DAYS, ESTIMATED], STARTS[0], (0, DAYS * 48), 70, 0)
@example([WHOLE_DAYS], STARTS[1], (5, DAYS * 48 - 9), 70, 0)
@example([REFUSED, ESTIMATED, WHOLE_DAYS, WITHDRAWN], STARTS[0], (0, DAYS * 48), 70, 0)
@example([WHOLE_DAYS, ESTIMATED, DAY_WITHDRAWN], STARTS[0], (0, DAYS * 48), 70, 0)
@example([WHOLE_DAYS, REFUSED, WITHDRAWN], STARTS[0], (0, DAYS * 48), 70, 60)
@example([WHOLE_DAYS, WITHDRAWN, REFUSED], STARTS[0], (0, DAYS * 48), 70, 60)
def test_an_answer_in_columns_is_the_answer_half_hour_by_half_hour(
    log: list[Said], on: date, part: tuple[int, int], below: int, covered_from: int
) -> None:
    midnight = datetime(on.year, on.month, on.day, tzinfo=UTC)
    first_day, (first, count) = half_hour_of(midnight) // 48, part
    store = folded(log, first_day)
    asked = Interval(midnight + HALF_HOUR * first, midnight + HALF_HOUR * (first + count))
    columns = readings_as_of(store, METER, "AI", asked, below)
    right = plainly(log, first, count, below)
    said = [
        columns.at(place) or str(ABSENT[columns.instead[place]] or "") for place in range(count)
    ]
    assert said == right
    (again,) = as_of_each([everything_said(store, METER, "AI", asked)], [below])
    assert [again.at(place) for place in range(count)] == [
        columns.at(place) for place in range(count)
    ]
    assert again.instead.tolist() == columns.instead.tolist()

    opens = midnight + HALF_HOUR * covered_from
    covered = [Interval(opens, opens + HALF_HOUR * 150)]
    rows = half_hours(METER, covered, columns, asked.end)
    assert half_hours_digest(rows) == digest_row_by_row(rows)
    answer = dsi_pb2.StreamReadingsResponse()
    put_half_hours(answer, rows, in_columns=True)
    right = by_the_library(rows)
    assert answer.columns == right
    in_a_member = dsi_pb2.MemberChunk(columns=right).SerializeToString()
    assert half_hours_in_columns([rows]) == [in_a_member]
    assert list(half_hours_in(METER, answer.columns)) == list(rows)
    one_by_one = dsi_pb2.StreamReadingsResponse()
    put_half_hours(one_by_one, rows, in_columns=False)
    assert list(one_by_one.rows) == [row_by_the_library(row) for row in rows]


def by_the_library(rows: Sequence[HalfHour]) -> Any:
    """The columns of an answer, as a message made of messages."""

    def kind(row: HalfHour) -> tuple[Any, ...]:
        said = row.recorded
        return (row.absent,) if said is None else (said.quality, said.offset, said.row)

    message = dsi_pb2.HalfHourColumns()
    message.start.FromDatetime(rows[0].start)
    message.values_wh.extend(row.recorded.value_wh for row in rows if row.recorded)
    for _, run in groupby(rows, kind):
        alike = list(run)
        shown = row_by_the_library(alike[0])
        if alike[0].recorded is None:
            message.runs.add(half_hours=len(alike), absent=shown.absent)
        else:
            message.runs.add(half_hours=len(alike), quality=shown.quality, version=shown.version)
    return message


def row_by_the_library(row: HalfHour) -> Any:
    """One half hour as a message."""
    said = row.recorded
    message = dsi_pb2.HalfHour(absent=None if said else f"ABSENT_{row.absent}")
    message.start.seconds = epoch_ms(row.start) // 1_000
    if said is not None:
        message.value_wh, message.quality = said.value_wh, said.quality
        message.version.offset, message.version.row = said.offset, said.row
        message.version.SetInParent()
    return message


def test_large_places_in_the_log_are_written_whole() -> None:
    on = Interval(datetime(2025, 6, 1, tzinfo=UTC), datetime(2025, 6, 2, tzinfo=UTC))
    store = folded([WHOLE_DAYS], half_hour_of(on.start) // 48)
    rows = half_hours(METER, [on], readings_as_of(store, METER, "AI", on, 99), on.end)
    rows.columns.offsets[:] = (1 << 62) + np.arange(48) // 7
    rows.columns.rows[:] = 127 + np.arange(48) // 5
    answer = dsi_pb2.StreamReadingsResponse()
    put_half_hours(answer, rows, in_columns=True)
    assert answer.columns == by_the_library(rows)
    in_a_member = dsi_pb2.MemberChunk(columns=by_the_library(rows)).SerializeToString()
    assert half_hours_in_columns([rows]) == [in_a_member]
