"""Avro read so that only the one way to write a value is read: no other bytes give a value.

A decoder that is lenient gives one value for many byte strings, and a signature covers only one of
them. What is refused here is what a writer never writes: a number in more bytes than it needs or
beyond its type, an array in several blocks or with its size before it, bytes left over. To read a
value and write it again, to see that the same bytes come out, says the same at many times the cost.

Of Avro there is what the released schemas use, and booleans: a `Codec` is not made of schemas with
more (Bug).
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

from spine.errors import Bug

# Value and the place after it, of the bytes from a place on. ValueError, LookupError, EOFError or
# OverflowError for what is not the one way to write a value.
Reader = Callable[[bytes, int], tuple[Any, int]]

RAW: Final = ""  # no field is called that
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_ORDINAL: Final = 719_163  # 1970-01-01 as Python counts days
INSTANTS_MAX: Final = 4_096
_instants: dict[bytes, datetime] = {}
_INT_MIN, _INT_MAX = -(1 << 31), (1 << 31) - 1


def reader_of(schema: Any, raw_of: str = "") -> Reader:
    """Reads values of a schema, as fastavro has parsed it: plain values, as fastavro gives them.

    Of records of the name `raw_of` the bytes that they were read from are among their fields, as
    `RAW`: there is no other way to write them.
    """
    return _reader(schema, {}, raw_of)


def whole(reader: Reader, raw: bytes, at: int) -> Any:
    """The value from that place to the end of the bytes; ValueError if any are left over."""
    value, end = reader(raw, at)
    if end != len(raw):
        raise ValueError("bytes left over")
    return value


def _reader(node: Any, named: dict[str, Reader], raw_of: str) -> Reader:
    match node:
        case str() if node in named:
            return named[node]
        case str() if node in _PRIMITIVES:
            return _PRIMITIVES[node]
        case ["null", inner]:
            return _optional(_reader(inner, named, raw_of))
        case {"type": "record", "name": name, "fields": fields}:
            made = _record([(f["name"], _reader(f["type"], named, raw_of)) for f in fields])
            named[name] = _with_raw(made) if name == raw_of else made
            return named[name]
        case {"type": "array", "items": items}:
            return _array(_reader(items, named, raw_of))
        case {"type": str() as kind, **rest} if (kind, rest.get("logicalType")) in _LOGICAL:
            return _LOGICAL[kind, rest.get("logicalType")]
        case {"type": dict() | list() as inner}:
            return _reader(inner, named, raw_of)
    raise Bug(f"no value of {node} is read here")


def _long(raw: bytes, at: int) -> tuple[int, int]:
    """A zigzag varint of at most 64 bits, in as few bytes as it needs."""
    byte = raw[at]
    if byte < 0x80:
        return byte >> 1 if not byte & 1 else ~(byte >> 1), at + 1
    number, shift = byte & 0x7F, 7
    while True:
        at += 1
        byte = raw[at]
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
        shift += 7
        if shift > 63:
            raise ValueError("a number without an end")
    if not byte or number >> 64:
        raise ValueError("not the one way to write a number")
    return number >> 1 if not number & 1 else ~(number >> 1), at + 1


def _boolean(raw: bytes, at: int) -> tuple[bool, int]:
    if raw[at] > 1:
        raise ValueError("neither true nor false")
    return raw[at] == 1, at + 1


def _int(raw: bytes, at: int) -> tuple[int, int]:
    number, at = _long(raw, at)
    if not _INT_MIN <= number <= _INT_MAX:
        raise ValueError("a number beyond its type")
    return number, at


def _length(raw: bytes, at: int) -> tuple[int, int]:
    """Where bytes begin that stand after their length, and where they end."""
    byte = raw[at]
    if byte < 0x80 and not byte & 1:  # most are short: no call
        start = at + 1
        end = start + (byte >> 1)
    else:
        length, start = _long(raw, at)
        end = start + length
    if not start <= end <= len(raw):
        raise EOFError("cut short")
    return start, end


def _bytes(raw: bytes, at: int) -> tuple[bytes, int]:
    start, end = _length(raw, at)
    return raw[start:end], end


def _string(raw: bytes, at: int) -> tuple[str, int]:
    byte = raw[at]
    start, end = at + 1, at + 1 + (byte >> 1)
    if byte & 0x81 or end > len(raw):
        start, end = _length(raw, at)
    return raw[start:end].decode(), end


def _instant(raw: bytes, at: int) -> tuple[datetime, int]:
    """Instants of our time take six bytes, and few of them are many: no number is the beginning of
    another one, so six bytes that were read before say the same again.
    """
    seen = _instants.get(raw[at : at + 6])
    if seen is not None:
        return seen, at + 6
    number, end = _long(raw, at)
    instant = _EPOCH + timedelta(milliseconds=number)
    if end - at == 6:
        if len(_instants) >= INSTANTS_MAX:
            _instants.clear()
        _instants[raw[at:end]] = instant
    return instant, end


def _date(raw: bytes, at: int) -> tuple[date, int]:
    number, at = _int(raw, at)
    return date.fromordinal(number + _EPOCH_ORDINAL), at


def _optional(inner: Reader) -> Reader:
    def read(raw: bytes, at: int) -> tuple[Any, int]:
        branch = raw[at]
        if branch == 2:
            return inner(raw, at + 1)
        if branch:
            raise ValueError("no such branch")
        return None, at + 1

    return read


def _array(inner: Reader) -> Reader:
    def read(raw: bytes, at: int) -> tuple[list[Any], int]:
        count, at = _long(raw, at)
        if count < 0 or count > len(raw) - at:  # no item takes no bytes
            raise ValueError("not the one way to write an array")
        items: list[Any] = []
        for _ in range(count):
            item, at = inner(raw, at)
            items.append(item)
        if count:
            if raw[at]:
                raise ValueError("an array in several blocks")
            at += 1
        return items, at

    return read


def _record(fields: list[tuple[str, Reader]]) -> Reader:
    """Most fields are short texts or bytes, which are read here: to call for each took longer."""
    planned = [(name, inner, _MADE_OF.get(inner)) for name, inner in fields]

    def read(raw: bytes, at: int) -> tuple[dict[str, Any], int]:
        made: dict[str, Any] = {}
        size = len(raw)
        for name, inner, made_of in planned:
            if made_of is not None:
                byte = raw[at]
                end = at + 1 + (byte >> 1)
                if not byte & 0x81 and end <= size:
                    made[name] = made_of(raw[at + 1 : end])
                    at = end
                    continue
            made[name], at = inner(raw, at)
        return made, at

    return read


def _with_raw(inner: Reader) -> Reader:
    def read(raw: bytes, at: int) -> tuple[dict[str, Any], int]:
        made, end = inner(raw, at)
        made[RAW] = raw[at:end]
        return made, end

    return read


_MADE_OF: Final[dict[Reader, Callable[[bytes], Any]]] = {_string: bytes.decode, _bytes: bytes}
_PRIMITIVES: Final[dict[str, Reader]] = {
    "boolean": _boolean,
    "int": _int,
    "long": _long,
    "bytes": _bytes,
    "string": _string,
}
_LOGICAL: Final[dict[tuple[str, Any], Reader]] = {
    **{(name, None): reader for name, reader in _PRIMITIVES.items()},
    ("long", "timestamp-millis"): _instant,
    ("int", "date"): _date,
}
