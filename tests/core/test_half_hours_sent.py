"""Half hours as they are sent: in rows or in columns, they are what was answered."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spine.answer import Absent, HalfHour, Recorded
from spine.dsi.rows import QUALITY_CHARS_MAX, half_hours_in, put_half_hours
from spine.dsi.v1 import dsi_pb2
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


@given(start=st.sampled_from(STARTS[1:]), said=said_of_each)
def test_columns_say_the_same_as_rows(start: datetime, said: list[Recorded | Absent]) -> None:
    rows = rows_of(start, said)
    sent = dsi_pb2.GetReadingsResponse()
    put_half_hours(sent, in_columns(rows), in_columns=True)
    assert list(half_hours_in(MPXN, sent.columns)) == rows
