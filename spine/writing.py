"""Avro written from the values themselves, as fastavro writes a dict of each.

To make the dicts and to have them written takes several times as long, and most that is said in a
record of outcomes is said again in each of them: it is put together from parts written once. Of
Avro there is what those records use; a schema with more has no writer here (Bug).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from operator import attrgetter
from typing import Any, Final

from spine.errors import Bug
from spine.event import epoch_ms

Writer = Callable[[Any], bytes]
# Numbers and texts: the meters of many sets, and what their outcomes have in common.
PARTS_KEPT: Final = 1 << 16
LONG_END: Final = 1 << 63


def writer_of(schema: Any) -> Writer:
    """Writes values of a schema, as fastavro has parsed it, whose records are objects with its
    fields as attributes.
    """
    match schema:
        case {"type": "long", "logicalType": "timestamp-millis"}:
            return _instant
        case {"type": "record", "fields": fields}:
            return _record(fields)
        case {"type": "array", "items": items}:
            return _array(writer_of(items))
        case "int" | "long":
            return _number
        case "bytes":
            return _octets
        case "string":
            return _text
    raise Bug(f"there is no writer of {schema}")


def _record(fields: Any) -> Writer:
    values = attrgetter(*(field["name"] for field in fields))  # a tuple, as there are several
    writers = [writer_of(field["type"]) for field in fields]

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


def _instant(instant: Any) -> bytes:
    return _number(epoch_ms(instant))


def _octets(octets: bytes) -> bytes:
    return _number(len(octets)) + octets


@lru_cache(PARTS_KEPT)
def _text(text: str) -> bytes:
    return _octets(text.encode())
