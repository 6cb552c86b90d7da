"""Avro written the one way that `exact` reads: numbers in as few bytes as they need, an array in
one block.

A value is written from its attributes as it stands. To copy it into plain values first, for a
library that looks at each to see what it is, gives the same bytes and costs twice as much and more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime
from operator import attrgetter
from typing import Any, Final

from spine.errors import Bug
from spine.event import epoch_ms

# Adds what a value is written as to the parts. OverflowError for a number of more than 64 bits,
# AttributeError or TypeError for a value of another shape.
Writer = Callable[[Any, list[bytes]], None]

_EPOCH_ORDINAL: Final = 719_163  # 1970-01-01 as Python counts days
_LONG_MIN, _LONG_MAX = -(1 << 63), (1 << 63) - 1
_SHORT: Final = tuple(bytes([number]) for number in range(0x80))
_LENGTHS: Final = _SHORT[::2]  # of what is shorter than 64 bytes: no call
_NULL, _SOME, _END = _SHORT[0], _SHORT[2], _SHORT[0]
INSTANTS_MAX: Final = 4_096
_instants: dict[datetime, bytes] = {}


def writer_of(schema: Any) -> Writer:
    """Writes values of a schema, as fastavro has parsed it."""
    return _writer(schema, {})


def written(writer: Writer, value: object, before: bytes = b"") -> bytes:
    """The value as bytes, after those."""
    parts = [before]
    writer(value, parts)
    return b"".join(parts)


def _writer(node: Any, named: dict[str, Writer]) -> Writer:
    match node:
        case str() if node in named:
            return named[node]
        case str() if node in _PRIMITIVES:
            return _PRIMITIVES[node]
        case ["null", inner]:
            return _optional(_writer(inner, named))
        case {"type": "record", "name": name, "fields": fields}:
            made = _record([(f["name"], _writer(f["type"], named)) for f in fields])
            named[name] = made
            return made
        case {"type": "array", "items": items}:
            return _array(_writer(items, named))
        case {"type": str() as kind, **rest} if (kind, rest.get("logicalType")) in _LOGICAL:
            return _LOGICAL[kind, rest.get("logicalType")]
        case {"type": dict() | list() as inner}:
            return _writer(inner, named)
    raise Bug(f"no value of {node} is written here")


def _number(number: int) -> bytes:
    """A zigzag varint."""
    number = number << 1 if number >= 0 else ~(number << 1)
    if number < 0x80:
        return _SHORT[number]
    octets = bytearray()
    while number > 0x7F:
        octets.append(number & 0x7F | 0x80)
        number >>= 7
    octets.append(number)
    return bytes(octets)


def _long(value: int, parts: list[bytes]) -> None:
    if not _LONG_MIN <= value <= _LONG_MAX:
        raise OverflowError("a number of more than 64 bits")
    parts.append(_number(value))


def _boolean(value: bool, parts: list[bytes]) -> None:
    parts.append(_SHORT[bool(value)])


def _bytes(value: bytes, parts: list[bytes]) -> None:
    length = len(value)
    parts += (_LENGTHS[length] if length < 64 else _number(length), value)


def _string(value: str, parts: list[bytes]) -> None:
    text = value.encode()
    length = len(text)
    parts += (_LENGTHS[length] if length < 64 else _number(length), text)


def _instant(value: datetime, parts: list[bytes]) -> None:
    """Most instants of a record are written many times. In a zone where clocks are put back, two of
    them are equal; in UTC only what is the same is.
    """
    if value.tzinfo is not UTC:
        parts.append(_number(epoch_ms(value)))
        return
    known = _instants.get(value)
    if known is None:
        if len(_instants) >= INSTANTS_MAX:
            _instants.clear()
        known = _instants[value] = _number(epoch_ms(value))
    parts.append(known)


def _date(value: date, parts: list[bytes]) -> None:
    parts.append(_number(value.toordinal() - _EPOCH_ORDINAL))


def _optional(inner: Writer) -> Writer:
    def write(value: Any, parts: list[bytes]) -> None:
        if value is None:
            parts.append(_NULL)
        else:
            parts.append(_SOME)
            inner(value, parts)

    return write


def _array(inner: Writer) -> Writer:
    def write(value: Iterable[Any], parts: list[bytes]) -> None:
        items = tuple(value)
        if items:
            parts.append(_number(len(items)))
            for item in items:
                inner(item, parts)
        parts.append(_END)

    return write


def _record(fields: list[tuple[str, Writer]]) -> Writer:
    writers = [(attrgetter(name), writer) for name, writer in fields]

    def write(value: object, parts: list[bytes]) -> None:
        for of, writer in writers:
            writer(of(value), parts)

    return write


_PRIMITIVES: Final[dict[str, Writer]] = {
    "boolean": _boolean,
    "int": _long,  # whoever reads one refuses what is beyond its type
    "long": _long,
    "bytes": _bytes,
    "string": _string,
}
_LOGICAL: Final[dict[tuple[str, Any], Writer]] = {
    **{(name, None): writer for name, writer in _PRIMITIVES.items()},
    ("long", "timestamp-millis"): _instant,
    ("int", "date"): _date,
}
