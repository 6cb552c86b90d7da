"""A record of outcomes is written, part by part, as fastavro writes it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spine.codec import _framed, _plain
from spine.errors import Bug
from spine.event import AbsentRun, AccessOutcome, AccessOutcomes
from spine.writing import writer_of
from tests.helpers.records import CODEC

SCHEMA = CODEC.schemas.named("spine.AccessOutcomes")
ints, longs = st.integers(-(1 << 31), (1 << 31) - 1), st.integers(-(1 << 63), (1 << 63) - 1)
texts, octets = st.text(max_size=90), st.binary(max_size=90)
instants = st.integers(-(1 << 41), 1 << 41).map(
    lambda ms: datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ms)
)
runs = st.lists(st.builds(AbsentRun, instants, ints, texts), max_size=3).map(tuple)
outcomes = st.builds(
    AccessOutcome,
    *(octets, ints, longs, ints, texts, ints),
    *(texts, texts, texts, texts, texts),
    *(ints, ints, ints, octets, texts, ints, octets, runs),
)
records = st.builds(AccessOutcomes, texts, ints, texts, st.lists(outcomes, max_size=3).map(tuple))


@given(records)
def test_outcomes_have_the_bytes_that_they_always_had(record: AccessOutcomes) -> None:
    written = CODEC.encode(record)
    assert written == _framed(SCHEMA, _plain(record))
    assert CODEC.decode(written) == record


@pytest.mark.parametrize(
    "schema", ["double", ["null", "string"], {"type": "int", "logicalType": "date"}]
)
def test_of_a_schema_with_more_nothing_is_written(schema: object) -> None:
    with pytest.raises(Bug):
        writer_of(schema)


def test_a_number_beyond_its_type_is_not_written() -> None:
    for number in (1 << 63, -(1 << 63) - 1):
        with pytest.raises(OverflowError):
            writer_of("long")(number)
