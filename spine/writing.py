"""Avro written from the values themselves, as fastavro writes a dict of each.

To make the dicts and to have them written takes several times as long, and most that is said in a
record of outcomes or of facts is said again in each of them: it is put together from parts written
once. Of Avro there is what those records use; a schema with more has no writer here (Bug).
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime
from functools import lru_cache
from operator import attrgetter
from typing import Any, Final

from spine.errors import Bug
from spine.event import epoch_ms

Writer = Callable[[Any], bytes]
Said = Callable[[Any], bool]
# Numbers and texts: the meters of many sets, and what their outcomes have in common.
PARTS_KEPT: Final = 1 << 16
INT_END: Final = 1 << 31
LONG_END: Final = 1 << 63
_EPOCH_ORDINAL: Final = date(1970, 1, 1).toordinal()


def writer_of(schema: Any) -> Writer:
    """Writes values of a schema, as fastavro has parsed it, whose records are objects with its
    fields as attributes.
    """
    match schema:
        case {"type": "long", "logicalType": "timestamp-millis"}:
            return _instant
        case {"type": "int", "logicalType": "date"}:
            return _date
        case {"type": "record", "fields": fields}:
            return _record(fields)
        case {"type": "array", "items": items}:
            return _array(writer_of(items))
        case ["null", inner]:
            return _optional(writer_of(inner))
        case "boolean":
            return _boolean
        case "int" | "long":
            return _number
        case "bytes":
            return _octets
        case "string":
            return _text
    raise Bug(f"there is no writer of {schema}")


def said_by(schema: Any) -> Said | None:
    """Whether what is written of a value is sure to say all of it, so that reading gives it back;
    None if it always is. Of an instant Avro says neither microseconds nor the time zone; an `int`
    of more than 32 bits is written and not read.
    """
    match schema:
        case {"type": "long", "logicalType": "timestamp-millis"}:
            return lambda at: at.tzinfo is UTC and not at.microsecond % 1_000
        case {"type": "int", "logicalType": "date"}:
            return lambda day: type(day) is date
        case {"type": "record", "fields": fields}:
            found = ((attrgetter(field["name"]), said_by(field["type"])) for field in fields)
            parts = [(value, said) for value, said in found if said is not None]
            if parts:
                return lambda record: all(said(value(record)) for value, said in parts)
        case {"type": "array", "items": items}:
            if (item := said_by(items)) is not None:
                return lambda values: all(map(item, values))
        case ["null", inner]:
            if (given := said_by(inner)) is not None:
                return lambda value: value is None or given(value)
        case "int":
            return lambda number: -INT_END <= number < INT_END
    return None


def _record(fields: Any) -> Writer:
    values = attrgetter(*(field["name"] for field in fields))  # a tuple, if there are several
    writers = [writer_of(field["type"]) for field in fields]
    if len(writers) == 1:
        return lambda record: writers[0](values(record))

    def write(record: Any) -> bytes:
        return b"".join(
            [write(value) for write, value in zip(writers, values(record), strict=True)]
        )

    return write


def _array(item: Writer) -> Writer:
    def write(items: Any) -> bytes:
        if not items:
            return b"\x00"
        return b"".join([_number(len(items)), *map(item, items), b"\x00"])

    return write


@lru_cache(PARTS_KEPT)
def _number(number: int) -> bytes:
    if not -LONG_END <= number < LONG_END:
        raise OverflowError("no long is as large")
    left, octets = number << 1 ^ number >> 63, bytearray()
    while left > 0x7F:
        octets.append(left & 0x7F | 0x80)
        left >>= 7
    octets.append(left)
    return bytes(octets)


@lru_cache(PARTS_KEPT)
def _instant(instant: datetime) -> bytes:
    return _number(epoch_ms(instant))


def _date(day: date) -> bytes:
    return _number(day.toordinal() - _EPOCH_ORDINAL)


def _boolean(value: bool) -> bytes:
    return b"\x01" if value else b"\x00"


def _optional(inner: Writer) -> Writer:
    def write(value: Any) -> bytes:
        return b"\x00" if value is None else b"\x02" + inner(value)

    return write


def _octets(octets: bytes) -> bytes:
    return _number(len(octets)) + octets


@lru_cache(PARTS_KEPT)
def _text(text: str) -> bytes:
    return _octets(text.encode())
