"""Half hours as they are sent: in rows or in columns, they are what was answered."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spine.answer import Absent, HalfHour, Recorded
from spine.dsi.rows import QUALITY_CHARS_MAX, half_hours_in, page_with, put_half_hours
from spine.dsi.v1 import dsi_pb2
from spine.encoded import as_message
from spine.gb import HALF_HOUR
from tests.helpers.half_hours import in_columns

MPXN = "1200000000003"
STARTS = (
    datetime(1901, 12, 13, tzinfo=UTC),
    datetime(1970, 1, 1, tzinfo=UTC),
    datetime(2024, 2, 29, tzinfo=UTC),
    datetime(2025, 3, 30, tzinfo=UTC),
    datetime(2116, 10, 25, tzinfo=UTC),
)

recorded = st.builds(
    Recorded,
    st.one_of(st.integers(-(2**31), 2**31 - 1), st.integers(0, 300)),
    st.sampled_from(("A", "E", "", "estimated", "geschätzt", "\U0001f50c" * QUALITY_CHARS_MAX)),
    st.integers(0, 2**62),
    st.integers(0, 999),
)
said_of_each = st.lists(st.one_of(recorded, st.sampled_from(Absent)), min_size=1, max_size=60)


def rows_of(start: datetime, said: Sequence[Recorded | Absent]) -> list[HalfHour]:
    return [
        HalfHour(MPXN, start + HALF_HOUR * place, None, one)
        if isinstance(one, Absent)
        else HalfHour(MPXN, start + HALF_HOUR * place, one)
        for place, one in enumerate(said)
    ]


def message_of(row: HalfHour) -> Any:
    """One half hour by itself, as the interface describes it."""
    message = dsi_pb2.HalfHour(absent=None if row.recorded else f"ABSENT_{row.absent}")
    message.start.FromDatetime(row.start)
    if row.recorded is None:
        return message
    message.value_wh, message.quality = row.recorded.value_wh, row.recorded.quality
    message.version.offset, message.version.row = row.recorded.offset, row.recorded.row
    return message


@pytest.mark.parametrize("answer", [dsi_pb2.GetReadingsResponse, dsi_pb2.StreamReadingsResponse])
@given(start=st.sampled_from(STARTS), said=said_of_each)
def test_rows_are_the_messages_of_their_half_hours(
    answer: Any, start: datetime, said: list[Recorded | Absent]
) -> None:
    rows = rows_of(start, said)
    sent = answer(digest=b"kept")
    put_half_hours(sent, in_columns(rows), in_columns=False)
    one_by_one = answer(digest=b"kept", rows=[message_of(row) for row in rows])
    assert sent == one_by_one
    assert sent.SerializeToString() == one_by_one.SerializeToString()


@pytest.mark.parametrize("columns", [False, True])
@given(start=st.sampled_from(STARTS), said=said_of_each)
def test_a_page_is_the_bytes_that_the_library_makes_of_it(
    columns: bool, start: datetime, said: list[Recorded | Absent]
) -> None:
    rows = in_columns(rows_of(start, said))
    others = dsi_pb2.GetReadingsResponse(digest=b"kept", next_cursor="more")
    others.decision.offset = 7
    page = page_with(others, rows, columns)
    put_half_hours(others, rows, columns)
    assert page.raw == others.SerializeToString()
    assert as_message(page) == others


def test_a_page_without_half_hours_is_one_all_the_same() -> None:
    others = dsi_pb2.GetReadingsResponse(digest=b"kept")
    for columns in (False, True):
        page = page_with(others, in_columns([]), columns)
        put_half_hours(others, in_columns([]), columns)
        assert as_message(page) == others
    assert as_message(page_with(others, (), in_columns=True)) == others


@given(start=st.sampled_from(STARTS[1:]), said=said_of_each)
def test_columns_say_the_same_as_rows(start: datetime, said: list[Recorded | Absent]) -> None:
    rows = rows_of(start, said)
    sent = dsi_pb2.GetReadingsResponse()
    put_half_hours(sent, in_columns(rows), in_columns=True)
    assert list(half_hours_in(MPXN, sent.columns)) == rows


@pytest.mark.parametrize(
    "values",
    [
        [0, 1, 63, 64, 65, 8_191, 0, 0],
        [0] * 48,
        [64] * 48,
        [0, 63, 64, 8_127, 0],
        [0, 63, 64, 8_127, 8_128],
        [0, 63, 64, 8_191, 8_192],
        [0, 63, 64, 8_191, -1],
        [2**31 - 1, 0, -(2**31)],
    ],
)
def test_values_in_columns_are_the_bytes_that_the_library_makes_of_them(values: list[int]) -> None:
    said: list[Recorded | Absent] = [Recorded(value, "A", 7, 3) for value in values]
    absent = [Absent.LATE, *said, Absent.WITHDRAWN]
    for each in (said, absent):
        sent = dsi_pb2.StreamReadingsResponse()
        put_half_hours(sent, in_columns(rows_of(STARTS[3], each)), in_columns=True)
        alone = dsi_pb2.HalfHourColumns(values_wh=values)
        assert dsi_pb2.HalfHourColumns(values_wh=sent.columns.values_wh) == alone
        assert alone.SerializeToString() in sent.columns.SerializeToString()


def test_runs_in_columns_are_those_of_the_library() -> None:
    said: list[Recorded | Absent] = [
        Recorded(1, "A", 0, 0),
        Recorded(1, "A", 0, 1),
        Absent.QUARANTINED,
        Recorded(1, "\U0001f50c" * QUALITY_CHARS_MAX, (1 << 63) - 1, (1 << 31) - 1),
        Recorded(1, "", 7, 999),
    ]
    sent = dsi_pb2.StreamReadingsResponse()
    put_half_hours(sent, in_columns(rows_of(STARTS[3], said)), in_columns=True)
    alone = [
        dsi_pb2.HalfHourRun(half_hours=1, absent=f"ABSENT_{one}")
        if isinstance(one, Absent)
        else dsi_pb2.HalfHourRun(
            half_hours=1,
            quality=one.quality,
            version=dsi_pb2.Version(offset=one.offset, row=one.row),
        )
        for one in said
    ]
    assert list(sent.columns.runs) == alone
    assert [run.SerializeToString() for run in sent.columns.runs] == [
        run.SerializeToString() for run in alone
    ]
