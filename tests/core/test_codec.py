"""Decoding is strict: there is one way to write a value, and every other bytes are refused."""

from __future__ import annotations

import struct
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from enum import StrEnum
from io import BytesIO
from typing import Any

import fastavro
import pytest
from fastavro.validation import validate
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Struct, convert

from domains.metering import AGGREGATES, READINGS
from spine import event, exact
from spine.codec import MAX_VALUE_BYTES, SPINE_RECORDS, Codec
from spine.errors import Bug
from spine.event import DataPosition, Facts, Opening, Quarantined, from_epoch_ms
from spine.exact import reader_of, whole
from spine.rows import Malformed, UnknownSchema
from tests.helpers.records import BEGUN, CODEC
from tests.helpers.samples import VALUES

RECORD_TYPES = {*SPINE_RECORDS.values(), *READINGS.records.values(), *AGGREGATES.records.values()}
FRAMED = {name: CODEC.encode(value) for name, value in VALUES.items()}
RECORDS = [name for name, value in VALUES.items() if type(value) in RECORD_TYPES]


def decode(name: str, framed: bytes, codec: Codec = CODEC) -> object:
    """Decode as a fold does: a record as what it says it is, a fact as what it must be."""
    domain, kind, _ = name.split("/")
    return (
        codec.decode(framed) if name in RECORDS else codec.decode_event(f"{domain}.{kind}", framed)
    )


def naively(framed: bytes) -> Any:
    """What fastavro alone makes of the bytes."""
    (schema_id,) = struct.unpack_from(">I", framed, 1)
    schema = CODEC.schemas.by_id[schema_id].parsed
    return fastavro.schemaless_reader(BytesIO(framed[5:]), schema, None)


def zigzag(number: int) -> bytes:
    """An Avro int or long."""
    rest, out = (number << 1) ^ (number >> 63), bytearray()
    while rest > 0x7F:
        out.append(rest & 0x7F | 0x80)
        rest >>= 7
    out.append(rest)
    return bytes(out)


def text(content: str) -> bytes:
    return zigzag(len(content.encode())) + content.encode()


def frame(schema_id: int, body: bytes) -> bytes:
    return b"\x00" + struct.pack(">I", schema_id) + body


@pytest.mark.parametrize("name", VALUES)
def test_what_was_encoded_is_decoded(name: str) -> None:
    assert decode(name, FRAMED[name]) == VALUES[name]
    assert naively(FRAMED[name])


@pytest.mark.parametrize("name", VALUES)
def test_trailing_bytes_are_refused_and_fastavro_alone_ignores_them(name: str) -> None:
    for rest in (b"\x00", b"junk", FRAMED[name]):
        with pytest.raises(Malformed):
            decode(name, FRAMED[name] + rest)
        assert naively(FRAMED[name] + rest) == naively(FRAMED[name])


@pytest.mark.parametrize("name", VALUES)
def test_no_prefix_is_a_value(name: str) -> None:
    for length in range(len(FRAMED[name])):
        with pytest.raises((Malformed, UnknownSchema)):
            decode(name, FRAMED[name][:length])


POSITION = text("t") + zigzag(1) + zigzag(9)


def vectors(body: bytes) -> bytes:
    """Access requests with no entries, whose vectors are these bytes."""
    return frame(4, text("t") + zigzag(3) + text("s") + zigzag(0) + body + zigzag(0))


ONE_VECTOR = zigzag(1) + zigzag(2) + POSITION * 2 + zigzag(0) + zigzag(0)
REFUSED = {
    "nothing": b"",
    "magic alone": b"\x00",
    "half a schema id": b"\x00\x00\x00",
    "another magic byte": b"\x01" + FRAMED["spine/Facts/1"][1:],
    "no body": frame(2, b""),
    "an event where a record must be": FRAMED["consumers/SupplyEnded/1"],
    "over-long varint": frame(2, text("t") + b"\x86\x00" + zigzag(0)),
    "over-long zero": frame(2, text("t") + zigzag(3) + b"\x80\x00"),
    "over-long length": frame(2, b"\x82\x00t" + zigzag(3) + zigzag(0)),
    "a varint without end": frame(2, b"\xff" * 64),
    "a varint beyond 64 bits": frame(2, text("t") + b"\xff" * 10 + b"\x01" + zigzag(0)),
    "a number beyond its type": frame(2, text("t") + zigzag(1 << 31) + zigzag(0)),
    "a number below its type": frame(2, text("t") + zigzag(-(1 << 31) - 1) + zigzag(0)),
    "negative length": frame(2, zigzag(-1) + zigzag(3) + zigzag(0)),
    "text that is not UTF-8": frame(2, zigzag(2) + b"\xff\xfe" + zigzag(3) + zigzag(0)),
    "surrogates": frame(2, zigzag(3) + b"\xed\xa0\x80" + zigzag(3) + zigzag(0)),
    "over-long UTF-8": frame(2, zigzag(2) + b"\xc1\x81" + zigzag(3) + zigzag(0)),
    "a split block": vectors(
        zigzag(1) + zigzag(1) + POSITION + zigzag(1) + POSITION + zigzag(0) + zigzag(0)
    ),
    "a block with its size": vectors(
        zigzag(1) + zigzag(-2) + zigzag(len(POSITION * 2)) + POSITION * 2 + zigzag(0) + zigzag(0)
    ),
    "a block with a wrong size": vectors(
        zigzag(1) + zigzag(-2) + zigzag(1) + POSITION * 2 + zigzag(0) + zigzag(0)
    ),
    "an array without end": vectors(zigzag(1) + zigzag(2) + POSITION * 2),
    "a huge array": vectors(zigzag(1 << 62)),
    "a huge negative array": vectors(zigzag(-(1 << 62)) + zigzag(9)),
    "a huge inner array": vectors(zigzag(1) + zigzag(1 << 40) + POSITION),
    "a huge text": frame(2, zigzag(1 << 62) + b"t"),
    "arrays of nothing, deep": vectors(zigzag(1) * 100_000),
    "an unknown branch of a union": frame(
        101, text("r") + text("s") + text("t") + zigzag(0) + zigzag(0) + zigzag(2)
    ),
    "an instant beyond the calendar": frame(212, zigzag(1) + text("GRANT") + zigzag(1 << 60)),
    "an instant before the calendar": frame(212, zigzag(1) + text("GRANT") + zigzag(-(1 << 60))),
    "more than a broker takes": frame(2, bytes(MAX_VALUE_BYTES)),
}


def test_the_tables_own_blocks_decode_when_they_are_written_as_they_must_be() -> None:
    """So what is refused below is refused for what it says, and for nothing else."""
    value = CODEC.decode(vectors(ONE_VECTOR))
    assert isinstance(value, event.AccessRequests)
    assert value.vectors == ((DataPosition("t", 1, 9),) * 2,)
    assert CODEC.decode(frame(2, text("t") + zigzag(3) + zigzag(0))) == Facts("t", 3, ())


@pytest.mark.parametrize("framed", REFUSED.values(), ids=REFUSED)
def test_what_is_malformed_is_refused_soon_and_in_little_room(framed: bytes) -> None:
    tracemalloc.start()
    begun = time.perf_counter()
    try:
        with pytest.raises(Malformed):
            CODEC.decode(framed)
        with pytest.raises((Malformed, UnknownSchema)):
            CODEC.decode_event("consumers.FanOutCompleted", framed)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert time.perf_counter() - begun < 2
    assert peak < 64 << 20


@pytest.mark.parametrize(
    "name", ["a split block", "a block with its size", "over-long zero", "over-long length"]
)
def test_fastavro_alone_takes_a_second_way_to_write_a_value(name: str) -> None:
    assert naively(REFUSED[name])


def test_fastavro_alone_takes_a_number_beyond_its_type() -> None:
    assert naively(REFUSED["a number beyond its type"])["partition"] == 1 << 31


def test_an_unknown_id_is_no_malformation() -> None:
    for unknown in (0, 99, 999, 0xFFFFFFFF):
        with pytest.raises(UnknownSchema):
            CODEC.decode(frame(unknown, b"whatever"))
    with pytest.raises(UnknownSchema):
        CODEC.decode_event("consumers.SupplyEnded", frame(999, b""))
    with pytest.raises(UnknownSchema):
        CODEC.decode_event("consumers.NeverHeardOf", FRAMED["consumers/SupplyEnded/1"])


def test_a_fact_is_of_the_type_it_says() -> None:
    """The bytes of a revocation are no grant, however the fact is named."""
    with pytest.raises(Malformed):
        CODEC.decode_event("consumers.ConsentResumed", FRAMED["consumers/ConsentRevoked/1"])
    with pytest.raises(Malformed):
        CODEC.decode_event("consumers.ConsentRevoked", FRAMED["spine/Facts/1"])


def test_a_number_that_a_type_does_not_hold_is_never_written_and_read_back() -> None:
    huge = CODEC.encode(Opening(1, 1 << 40, bytes(32), BEGUN, bytes(16)))
    with pytest.raises(Malformed):
        CODEC.decode(huge)


def test_a_value_has_as_many_bytes_as_a_broker_takes_and_no_more() -> None:
    empty = Quarantined("t", 0, 0, 0, 0, "r", None, (), b"")
    about = 1_000_000
    room = about + MAX_VALUE_BYTES - len(CODEC.encode(replace(empty, value=bytes(about))))
    fits = CODEC.encode(replace(empty, value=bytes(room)))
    assert len(fits) == MAX_VALUE_BYTES
    assert CODEC.decode(fits) == replace(empty, value=bytes(room))
    with pytest.raises(Malformed):
        CODEC.decode(CODEC.encode(replace(empty, value=bytes(room + 1))))


def test_the_same_bytes_are_decoded_once_and_equal_ones_again() -> None:
    """A fold decodes a record and then its host does; nobody is given another record's value."""
    codec, framed = Codec(CODEC.schemas), FRAMED["spine/Facts/1"]
    with pytest.raises(Malformed):
        codec.decode(b"")
    value = codec.decode(framed)
    assert codec.decode(framed) is value
    again = bytes(bytearray(framed))
    assert codec.decode(again) == value and codec.decode(again) is not value
    other = FRAMED["spine/AccessRequests/1"]
    assert codec.decode(other) == VALUES["spine/AccessRequests/1"]
    with pytest.raises(Malformed):
        codec.decode(framed[:-1])
    assert codec.decode(framed) == value


# Mutants


def mutant(framed: bytes, data: st.DataObject) -> bytes:
    """Other bytes: some changed, left out, doubled or put in."""
    changed = bytearray(framed)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(changed) - 1))
        match data.draw(st.sampled_from(["set", "flip", "drop", "double", "insert", "varint"])):
            case "set":
                changed[at] = data.draw(st.integers(0, 255))
            case "flip":
                changed[at] ^= 1 << data.draw(st.integers(0, 7))
            case "drop":
                del changed[at]
            case "double":
                changed[at:at] = changed[at : at + data.draw(st.integers(1, 8))]
            case "insert":
                changed[at:at] = data.draw(st.binary(min_size=1, max_size=4))
            case "varint":
                changed[at : at + 1] = bytes([changed[at] | 0x80, 0])
        if not changed:
            break
    return bytes(changed)


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_no_two_byte_strings_are_one_value(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(VALUES)))
    other = mutant(FRAMED[name], data)
    try:
        value = decode(name, other)
    except (Malformed, UnknownSchema):
        return
    assert (value == VALUES[name]) is (other == FRAMED[name])
    assert CODEC.encode(value) == other


def read_and_written_again(schema: Any, body: bytes) -> Any:
    """The value, if fastavro reads all of the bytes and writes them again; what `exact` is for."""
    stream, again = BytesIO(body), BytesIO()
    plain = fastavro.schemaless_reader(stream, schema, None)
    fits = validate(plain, schema, raise_errors=False)
    fastavro.schemaless_writer(again, schema, plain)
    if stream.tell() != len(body) or not fits or again.getvalue() != body:
        raise ValueError("not the one way to write this value")
    return plain


def outcome(read: Callable[[], Any]) -> Any:
    try:
        return read()
    except (ValueError, LookupError, EOFError, OverflowError, TypeError, MemoryError):
        return None


@settings(max_examples=600, deadline=None)
@given(data=st.data())
def test_what_is_read_exactly_is_what_comes_out_as_it_went_in(data: st.DataObject) -> None:
    """The cheap check takes and refuses what reading, writing and comparing do."""
    name = data.draw(st.sampled_from(sorted(VALUES)))
    framed = FRAMED[name]
    if data.draw(st.booleans()):
        framed = framed[:5] + mutant(framed, data)[5:]
    (schema_id,) = struct.unpack_from(">I", framed, 1)
    schema = CODEC.schemas.by_id[schema_id].parsed
    exactly = outcome(lambda: whole(reader_of(schema), framed, 5))
    assert exactly == outcome(lambda: read_and_written_again(schema, framed[5:]))


@settings(max_examples=600, deadline=None)
@given(data=st.data())
def test_a_value_that_is_made_while_it_is_read_is_the_one_made_of_plain_values(
    data: st.DataObject,
) -> None:
    name = data.draw(st.sampled_from(sorted(VALUES)))
    framed = FRAMED[name]
    if data.draw(st.booleans()):
        framed = framed[:5] + mutant(framed, data)[5:]
    (schema_id,) = struct.unpack_from(">I", framed, 1)
    schema, made = CODEC.schemas.by_id[schema_id].parsed, type(VALUES[name])
    at_once = outcome(lambda: whole(reader_of(schema, made=made), framed, 5))
    assert at_once == outcome(lambda: convert(whole(reader_of(schema), framed, 5), made))


class Plain(Struct):
    """What the schema below says, its fields in another order."""

    a: str
    b: tuple[int, ...]
    c: str | None


class Colour(StrEnum):
    RED = "red"


class Coloured(Plain):
    a: Colour


class Listed(Plain):
    b: list[int]  # type: ignore[assignment]


class Sure(Plain):
    c: str


class Long(Plain):
    d: int = 0


class Short(Struct):
    a: str
    b: tuple[int, ...]


ABC: Any = {
    "type": "record",
    "name": "Plain",
    "fields": [
        {"name": "c", "type": ["null", "string"]},
        {"name": "a", "type": "string"},
        {"name": "b", "type": {"type": "array", "items": "int"}},
    ],
}


def test_only_what_has_the_fields_of_the_schema_each_of_its_type_is_made_at_once() -> None:
    """Any text would pass for a code, and null for what is always there."""
    body = b"\x00" + text("red") + zigzag(1) + zigzag(7) + b"\x00"
    assert whole(reader_of(ABC, made=Plain), body, 0) == Plain("red", (7,), None)
    for other in (Coloured, Listed, Sure, Long, Short, Colour, str):
        with pytest.raises(LookupError):
            reader_of(ABC, made=other)


@pytest.mark.parametrize("number", [0, -1, 63, 64, -64, -65, 1 << 31, (1 << 63) - 1, -(1 << 63)])
def test_a_number_is_read_at_every_length_and_written_in_no_other(number: int) -> None:
    reader, written = reader_of("long"), zigzag(number)
    assert whole(reader, written, 0) == number
    for other in (written[:-1] + bytes([written[-1] | 0x80, 0]), written + b"\x00", written[:-1]):
        with pytest.raises((ValueError, LookupError)):
            whole(reader, other, 0)
    for beyond in (zigzag(1 << 63), b"\xff" * 9 + b"\x02", b"\x80" * 10 + b"\x01"):
        with pytest.raises(ValueError):
            whole(reader, beyond, 0)


UNREAD: tuple[Any, ...] = (
    "null",
    "double",
    ["int", "string"],
    {"type": "map", "values": "int"},
    {"type": "long", "logicalType": "time-micros"},
)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(-(1 << 38), 1 << 40), min_size=1, max_size=12), st.integers(1, 4))
def test_an_instant_is_read_as_ever_whatever_was_read_before(numbers: list[int], most: int) -> None:
    """Those kept from before are told from longer and shorter numbers that begin or end alike."""
    reader = reader_of({"type": "long", "logicalType": "timestamp-millis"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exact, "INSTANTS_MAX", most)
        for number in (*numbers, *numbers, *(n << 7 for n in numbers), *(n >> 7 for n in numbers)):
            written = zigzag(number)
            read = from_epoch_ms(number)
            assert reader(written + b"\x80rest", 0) == (read, len(written))
            with pytest.raises((ValueError, LookupError)):
                whole(reader, written[:-1], 0)


def test_a_truth_is_one_of_two_bytes() -> None:
    reader = reader_of({"type": "boolean"})
    assert [whole(reader, raw, 0) for raw in (b"\x00", b"\x01")] == [False, True]
    with pytest.raises(ValueError):
        whole(reader, b"\x02", 0)


@pytest.mark.parametrize("schema", UNREAD, ids=str)
def test_a_schema_that_no_release_has_is_not_read_by_guesswork(schema: Any) -> None:
    with pytest.raises(Bug):
        reader_of(schema)


@settings(max_examples=150, deadline=None)
@given(schema_id=st.sampled_from(sorted(CODEC.schemas.by_id)), body=st.binary(max_size=200))
def test_no_bytes_end_in_anything_but_a_value_or_a_refusal(schema_id: int, body: bytes) -> None:
    framed = frame(schema_id, body)
    schema = CODEC.schemas.by_id[schema_id]
    for attempt in (CODEC.decode, lambda f: CODEC.decode_event(schema.name, f)):
        try:
            value = attempt(framed)
        except (Malformed, UnknownSchema):
            continue
        assert CODEC.encode(value) == framed


def test_malleability_is_there_without_the_check() -> None:
    """An over-long varint is the same value to fastavro: a second signature could cover it."""
    framed = FRAMED["consumers/SupplyEnded/1"]
    assert framed[5] == 2 * len("supplier-1")
    other = framed[:5] + bytes([framed[5] | 0x80, 0]) + framed[6:]
    assert naively(other) == naively(framed)
    with pytest.raises(Malformed):
        CODEC.decode_event("consumers.SupplyEnded", other)
