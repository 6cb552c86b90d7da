"""What is made of many meters side by side is, for each, what is made of it alone."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from domains.metering.readings import MPXN_BYTES, QUALITY_CODE_CHARS_MAX
from domains.metering.rows import REFUSED_PREFIX, ROW_PREFIX
from domains.metering.views import readings_as_of, readings_of_each
from spine.answer import Columns, HalfHours, half_hours, half_hours_digest, half_hours_digests
from spine.dsi.chunks import MAX_MEMBERS_PER_MESSAGE
from spine.dsi.rows import half_hours_in_columns
from spine.dsi.stream import HALF_HOURS_PER_CHUNK
from spine.gb import HALF_HOUR, Interval, half_hour_of
from spine.listening import Limits
from tests.core.test_days_at_once import (
    DAYS,
    ESTIMATED,
    METER,
    REFUSED,
    STARTS,
    WHOLE_DAYS,
    WITHDRAWN,
    Said,
    folded,
    intervals,
    logs,
)
from tests.helpers.rows import MemoryRows

METERS = ("1200000000003", "2000027391990", "7654321", "76543210")
ODD = Said("values", ((0, {n: (-n, "estimated") for n in range(40)}),), ("", "estimated"))


def town_of(said: Sequence[list[Said]], first_day: int) -> MemoryRows:
    """The stores of these meters in one: the rows of each under its own number."""
    store = MemoryRows()
    for mpxn, log in zip(METERS, said, strict=False):
        for prefix in (ROW_PREFIX, REFUSED_PREFIX):
            for key, value in folded(log, first_day).scan(prefix, prefix + b"\xff"):
                name = mpxn.encode().ljust(MPXN_BYTES, b"\x00")
                store.put(key.replace(METER.encode(), name, 1), value)
    return store


@settings(max_examples=60, deadline=None)
@given(
    st.lists(logs, min_size=1, max_size=len(METERS)),
    st.sampled_from(STARTS),
    intervals,
    st.integers(0, 70),
    st.lists(st.integers(0, DAYS * 48), min_size=len(METERS), max_size=len(METERS)),
)
@example([[WHOLE_DAYS], [], [WHOLE_DAYS, ESTIMATED]], STARTS[0], (0, DAYS * 48), 70, [0] * 4)
@example([[], []], STARTS[1], (0, DAYS * 48), 70, [0] * 4)
@example([[WHOLE_DAYS, WITHDRAWN], [ODD], [REFUSED]], STARTS[0], (7, 150), 70, [0, 9, 60, 0])
@example([[WHOLE_DAYS], [WHOLE_DAYS]], STARTS[0], (5, DAYS * 48 - 9), 70, [60, 0, 0, 0])
def test_each_of_many_meters_is_answered_as_if_it_were_asked_alone(
    said: list[list[Said]],
    on: date,
    part: tuple[int, int],
    below: int,
    covered_from: list[int],
) -> None:
    midnight = datetime(on.year, on.month, on.day, tzinfo=UTC)
    first, count = part
    store, mpxns = town_of(said, half_hour_of(midnight) // 48), METERS[: len(said)]
    asked = Interval(midnight + HALF_HOUR * first, midnight + HALF_HOUR * (first + count))
    together = readings_of_each(store, mpxns, "AI", asked, below)
    alone = [readings_as_of(store, mpxn, "AI", asked, below) for mpxn in mpxns]
    rows, rows_alone = (
        [answered(m, c, asked, f) for m, c, f in zip(mpxns, columns, covered_from, strict=False)]
        for columns in (together, alone)
    )
    assert [list(each) for each in rows] == [list(each) for each in rows_alone]
    assert [c.instead.tolist() for c in together] == [c.instead.tolist() for c in alone]
    assert half_hours_digests(rows) == [half_hours_digest(each) for each in rows_alone]
    written = half_hours_in_columns([*rows, ()])
    assert written == [*(half_hours_in_columns([each])[0] for each in rows_alone), b""]


def answered(mpxn: str, columns: object, asked: Interval, covered_from: int) -> HalfHours:
    opens = asked.start + HALF_HOUR * covered_from
    covered = [Interval(opens, opens + HALF_HOUR * 150)]
    return half_hours(mpxn, covered, columns, asked.end)  # type: ignore[arg-type]


def test_large_numbers_beside_small_ones_have_the_digest_they_have_alone() -> None:
    on = Interval(datetime(2025, 6, 1, tzinfo=UTC), datetime(2025, 6, 2, tzinfo=UTC))
    store = town_of([[WHOLE_DAYS], [WHOLE_DAYS]], half_hour_of(on.start) // 48)
    found = readings_of_each(store, METERS[:2], "AI", on, 99)
    rows = [half_hours(m, [on], c, on.end) for m, c in zip(METERS, found, strict=False)]
    found[1].offsets[:] = (1 << 63) - 1 - half_hour_of(on.start) % 7
    found[1].rows[:] = (1 << 31) - 1
    found[1].values_wh[::2] = (1 << 62) - 1
    found[1].values_wh[1::2] = -(1 << 62)
    assert half_hours_digests(rows) == [half_hours_digest(each) for each in rows]


def test_as_many_members_as_a_message_may_hold_fit_into_one_whatever_is_recorded() -> None:
    count = HALF_HOURS_PER_CHUNK
    places, nothing = np.arange(count), np.zeros(count, np.uint8)
    codes = tuple(f"{place:0{QUALITY_CODE_CHARS_MAX}}" for place in range(2))
    most = Columns(
        half_hour_of(datetime(2025, 6, 1, tzinfo=UTC)),
        np.ones(count, np.bool_),
        np.full(count, (1 << 31) - 1),
        places % 2,
        codes,
        (1 << 63) - 1 - places,
        np.full(count, (1 << 31) - 1),
        nothing,
    )
    (written,) = half_hours_in_columns([HalfHours(METER, most, nothing)])
    around = 2_000  # its decision, positions, digest and number
    assert (len(written) + around) * MAX_MEMBERS_PER_MESSAGE < Limits().answer_bytes
