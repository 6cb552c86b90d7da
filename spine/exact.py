"""Avro read so that only the one way to write a value is read: no other bytes give a value.

A decoder that is lenient gives one value for many byte strings, and a signature covers only one of
them. What is refused here is what a writer never writes: a number in more bytes than it needs or
beyond its type, an array in several blocks or with its size before it, bytes left over. To read a
value and write it again, to see that the same bytes come out, says the same at many times the cost.

Of Avro there is what the released schemas use, and booleans; nothing of a schema with more is read
(Bug).
"""

from __future__ import annotations

import types
from collections.abc import Callable
from dataclasses import is_dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final, Union, get_args, get_origin, get_type_hints

from msgspec import Struct

from spine.errors import Bug

# Value and the place after it, of the bytes from a place on. ValueError, LookupError, EOFError or
# OverflowError for what is not the one way to write a value. Whoever calls one looks whether the
# place is still in the bytes (`whole`): of a text that is cut short it lies beyond.
Reader = Callable[..., tuple[Any, int]]

RAW: Final = ""  # no field is called that
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_ORDINAL: Final = 719_163  # 1970-01-01 as Python counts days
INSTANTS_MAX: Final = 4_096
_instants: dict[bytes, datetime] = {}
_INT_MIN, _INT_MAX = -(1 << 31), (1 << 31) - 1


def reader_of(schema: Any, raw_of: str = "", made: Any = None) -> Reader:
    """Reads values of a schema, as fastavro has parsed it: plain values, as fastavro gives them.

    Of records of the name `raw_of` the bytes that they were read from are among their fields, as
    `RAW`: there is no other way to write them. With a type `made`, values of that type are made
    instead of plain ones, and those bytes added to a list that the reader is given; LookupError if
    its fields are not those of the schema, each of its type.

    A fold reads every fact in the log, so Python is written for each schema, in which nothing is
    called for a field as most are: a text of up to 63 bytes, a number of one byte, an instant.
    """
    source = _Source(raw_of)
    value = source.value(schema, made, 1)
    lines = ["def read(raw, at, raws=None):", *source.lines, f"    return {value}, at"]
    exec("\n".join(lines), source.known)
    reader: Reader = source.known["read"]
    return reader


def whole(reader: Reader, raw: bytes, at: int, raws: list[bytes] | None = None) -> Any:
    """The value from that place to the end of the bytes; ValueError if any are left over. `raws`
    gets the bytes of each record that the reader was to tell them of, where it makes values.
    """
    value, end = reader(raw, at, raws)
    if end != len(raw):
        raise ValueError("cut short, or bytes left over")
    return value


class _Source:
    """The lines of a reader, and what they name. `made` is the type to make, None for plain."""

    def __init__(self, raw_of: str) -> None:
        self.lines: list[str] = []
        self.known: dict[str, Any] = dict(_CALLED)
        self._raw_of = raw_of
        self._named: dict[str, Any] = {}
        self._count = 0

    def value(self, node: Any, made: Any, depth: int) -> str:
        """Write how a value is read; returns the name that it has then."""
        match node:
            case str() if node in self._named:
                return self.value(self._named[node], made, depth)
            case {"type": dict() | list() as inner}:
                return self.value(inner, made, depth)
            case {"type": "record", "name": name, "fields": fields}:
                value = self._record(name, fields, made, depth)
                self._named[name] = node
                return value
        value = self._name("v")
        match node:
            case ["null", inner]:
                self._optional(value, inner, made, depth)
            case {"type": "array", "items": items}:
                self._array(value, items, made, depth)
            case _:
                kind = (node, None) if isinstance(node, str) else _logical(node)
                if kind not in _READ:
                    raise Bug(f"no value of {node} is read here")
                type_, lines = _READ[kind]
                if made not in (None, type_):
                    raise LookupError(f"{node} is no {made}")
                self._add(depth, *(line.replace("$", value) for line in lines))
        return value

    def _record(self, name: str, fields: list[Any], made: Any, depth: int) -> str:
        value, start = self._name("v"), self._name("start")
        types_ = _fields_of(made)
        if types_ is not None and set(types_) != {field["name"] for field in fields}:
            raise LookupError(f"{name} has other fields than {made}")
        raw = name == self._raw_of
        if raw:
            self._add(depth, f"{start} = at")
        found = {
            field["name"]: self.value(field["type"], types_ and types_[field["name"]], depth)
            for field in fields
        }
        if types_ is None:
            parts = [f"{key!r}: {part}" for key, part in found.items()]
            parts += [f"{RAW!r}: raw[{start}:at]"] if raw else []
            self._add(depth, f"{value} = {{{', '.join(parts)}}}")
        else:
            self._make(value, made, {key: found[key] for key in types_}, depth)
            if raw:
                self._add(depth, "if raws is not None:", f"    raws.append(raw[{start}:at])")
        return value

    def _make(self, value: str, made: Any, fields: dict[str, str], depth: int) -> None:
        maker, draft = self._name("Make"), _draft_of(made)
        self.known[maker] = made
        if draft is None:
            self._add(depth, f"{value} = {maker}({', '.join(fields.values())})")
            return
        begun = self._name("Draft")
        self.known[begun] = draft
        self._add(depth, f"{value} = {begun}()")
        self._add(depth, *(f"{value}.{key} = {part}" for key, part in fields.items()))
        self._add(depth, f"{value}.__class__ = {maker}")

    def _optional(self, value: str, inner: Any, made: Any, depth: int) -> None:
        if made is not None:
            kinds = get_args(made) if get_origin(made) in (Union, types.UnionType) else ()
            if len(kinds) != 2 or kinds[1] is not type(None):
                raise LookupError(f"{inner} may be null, {made} not")
            made = kinds[0]
        self._add(depth, "byte = raw[at]", "at += 1", f"{value} = None", "if byte == 2:")
        self._add(depth + 1, f"{value} = {self.value(inner, made, depth + 1)}")
        self._add(depth, "elif byte:", "    raise ValueError('no such branch')")

    def _array(self, value: str, items: Any, made: Any, depth: int) -> None:
        if made is not None:
            kinds = get_args(made)
            if get_origin(made) is not tuple or kinds[1:] != (...,):
                raise LookupError(f"{made} is no array")
            made = kinds[0]
        count = self._name("count")
        self._add(depth, f"{value} = []", "byte = raw[at]", "if byte:")
        self._add(depth + 1, "if byte & 0x81:", f"    {count}, at = _count(raw, at)", "else:")
        self._add(depth + 1, f"    {count} = byte >> 1", "    at += 1")
        self._add(depth + 1, f"for _ in range({count}):")
        self._add(depth + 2, f"{value}.append({self.value(items, made, depth + 2)})")
        self._add(depth + 1, "if raw[at]:", "    raise ValueError('an array in several blocks')")
        self._add(depth, "at += 1")
        if made is not None:
            self._add(depth, f"{value} = tuple({value})")

    def _add(self, depth: int, *lines: str) -> None:
        self.lines += ["    " * depth + line for line in lines]

    def _name(self, kind: str) -> str:
        self._count += 1
        return f"{kind}{self._count}"


def _draft_of(made: Any) -> type | None:
    """A class of the same slots that may be written, so that a value of it becomes one of `made`.
    A frozen dataclass sets each field by a call, which takes longer than to read it. None where
    more is done than to set fields, or less is known of them.
    """
    fields = getattr(made, "__dataclass_fields__", {})
    plain = vars(made).get("__slots__") == (*fields,) and made.__bases__ == (object,)
    if not fields or not plain or hasattr(made, "__post_init__"):
        return None
    if not made.__dataclass_params__.init or not all(field.init for field in fields.values()):
        return None
    return type(f"{made.__name__}Draft", (), {"__slots__": (*fields,)})


def _fields_of(made: Any) -> dict[str, Any] | None:
    """The fields of a type with their types, as they are given to make one; None for plain."""
    if made is None:
        return None
    if not isinstance(made, type) or not (is_dataclass(made) or issubclass(made, Struct)):
        raise LookupError(f"{made} has no fields")
    types_ = get_type_hints(made)
    names = made.__struct_fields__ if issubclass(made, Struct) else made.__dataclass_fields__
    return {name: types_[name] for name in names}


def _logical(node: Any) -> tuple[str, Any]:
    match node:
        case {"type": str() as kind, **rest}:
            return kind, rest.get("logicalType")
    return "", None


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


def _count(raw: bytes, at: int) -> tuple[int, int]:
    """How many items an array has."""
    count, at = _long(raw, at)
    if count < 0 or count > len(raw) - at:  # no item takes no bytes
        raise ValueError("not the one way to write an array")
    return count, at


_CALLED: Final[dict[str, Any]] = {
    "_boolean": _boolean,
    "_bytes": _bytes,
    "_count": _count,
    "_date": _date,
    "_instant": _instant,
    "_instants": _instants,
    "_int": _int,
    "_long": _long,
    "_string": _string,
}


def _short(read: str, made: str) -> tuple[str, ...]:
    return (
        "byte = raw[at]",
        "if byte & 0x81:",
        f"    $, at = {read}(raw, at)",
        "else:",
        "    start = at + 1",
        "    at = start + (byte >> 1)",
        f"    $ = {made}",
    )


def _number(read: str) -> tuple[str, ...]:
    return (
        "byte = raw[at]",
        "if byte & 0x80:",
        f"    $, at = {read}(raw, at)",
        "else:",
        "    at += 1",
        "    $ = byte >> 1 if not byte & 1 else ~(byte >> 1)",
    )


# How a value is read into `$`, and its type, by what a schema calls it.
_READ: Final[dict[tuple[str, Any], tuple[type, tuple[str, ...]]]] = {
    ("boolean", None): (bool, ("$, at = _boolean(raw, at)",)),
    ("int", None): (int, _number("_int")),
    ("long", None): (int, _number("_long")),
    ("bytes", None): (bytes, _short("_bytes", "raw[start:at]")),
    ("string", None): (str, _short("_string", "raw[start:at].decode()")),
    ("int", "date"): (date, ("$, at = _date(raw, at)",)),
    ("long", "timestamp-millis"): (
        datetime,
        (
            "$ = _instants.get(raw[at : at + 6])",
            "if $ is None:",
            "    $, at = _instant(raw, at)",
            "else:",
            "    at += 6",
        ),
    ),
}
