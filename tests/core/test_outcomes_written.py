"""What is written part by part has the bytes that fastavro writes: outcomes, facts and events."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domains.consumers.events import ConsentGranted, ConsentTermsRecorded
from domains.consumers.record import RecordTerms
from spine.codec import _framed, _plain
from spine.codelist import Attribute, CodeListed
from spine.errors import Bug
from spine.event import AbsentRun, AccessOutcome, AccessOutcomes, Command, Fact, Facts, Sealed
from spine.trust import ParticipantAdmitted
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


seals = st.none() | st.builds(Sealed, texts, octets, octets, texts)
facts = st.builds(
    Facts,
    *(texts, ints),
    st.lists(
        st.builds(
            Command,
            *(octets, texts, octets, longs, ints, texts),
            st.lists(st.builds(Fact, texts, instants, octets), max_size=2).map(tuple),
        ),
        max_size=3,
    ).map(tuple),
)
granted = st.builds(
    ConsentGranted,
    *(texts, texts, texts, texts, texts),
    st.lists(texts, max_size=3).map(tuple),
    *(instants, instants, instants, instants),
    *(octets, texts, seals, texts, texts),
)
recorded = st.builds(
    ConsentTermsRecorded,
    texts,
    st.builds(
        RecordTerms, onward_sharing=st.booleans(), recipients=st.lists(texts, max_size=2).map(tuple)
    ),
    instants,
)
listed = st.builds(
    CodeListed,
    *(texts, texts, texts),
    st.lists(st.builds(Attribute, texts, texts), max_size=2).map(tuple),
    *(st.dates(), st.none() | st.dates(), texts, texts),
)
admitted = st.builds(ParticipantAdmitted, texts)


@given(facts | granted | recorded | listed | admitted)
def test_what_is_to_be_appended_has_the_bytes_that_it_always_had(value: object) -> None:
    assert CODEC.encode_to_append(value) == CODEC.encode(value)


@pytest.mark.parametrize("schema", ["double", ["string", "null"], ["null", "string", "int"]])
def test_of_a_schema_with_more_nothing_is_written(schema: object) -> None:
    with pytest.raises(Bug):
        writer_of(schema)


def test_a_number_beyond_its_type_is_not_written() -> None:
    for number in (1 << 63, -(1 << 63) - 1):
        with pytest.raises(OverflowError):
            writer_of("long")(number)


def test_equal_instants_of_a_clock_that_was_put_back_are_told_apart() -> None:
    write = writer_of({"type": "long", "logicalType": "timestamp-millis"})
    summer = datetime(2026, 10, 25, 1, 30, tzinfo=ZoneInfo("Europe/London"))
    winter = summer.replace(fold=1)
    assert summer == winter
    assert write(summer) == write(summer.astimezone(UTC))
    assert write(winter) == write(winter.astimezone(UTC)) != write(summer)


def test_what_is_no_array_is_not_written_as_an_empty_one() -> None:
    write = writer_of({"type": "array", "items": "string"})
    assert write(()) == b"\0"
    with pytest.raises(TypeError):
        write(None)
