"""Avro written from the values themselves, as fastavro writes a dict of each.

To make the dicts and to have them written takes several times as long, and most that is said in a
record of outcomes or of facts is said again in each of them: it is put together from parts written
once. Of Avro there is what those records use; a schema with more has no writer here (Bug).
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime
from functools import lru_cache
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
    return _made(_joined(_Source().parts(schema, "value")))


def said_by(schema: Any) -> Said | None:
    """Whether what is written of a value is sure to say all of it, so that reading gives it back;
    None if it always is. Of an instant Avro says neither microseconds nor the time zone; an `int`
    of more than 32 bits is written and not read.
    """
    sure = _Source().sure(schema, "value")
    return _made(sure) if sure else None


def _made(expression: str) -> Callable[[Any], Any]:
    made: Callable[[Any], Any] = eval(f"lambda value: {expression}", _CALLED)
    return made


def _joined(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f'b"".join(({", ".join(parts)}))'


class _Source:
    """Python for each schema, as in `exact`, in which little is called for a field."""

    def __init__(self) -> None:
        self._count = 0

    def parts(self, schema: Any, value: str) -> list[str]:
        """Expressions of the bytes that stand for that expression, one after the other."""
        match schema:
            case {"type": "record", "fields": fields}:
                named = ((field["type"], f"{value}.{field['name']}") for field in fields)
                return [part for kind, each in named for part in self.parts(kind, each)]
            case {"type": "array", "items": items}:
                many, item = self._name(), self._name()
                each = f'b"".join([{_joined(self.parts(items, item))} for {item} in {many}])'
                there = f"number(len({many})) + {each}"
                return [f'({there} if len({many} := {value}) else b"") + b"\\0"']
            case ["null", inner]:
                given = self._name()
                there = _joined(self.parts(inner, given))
                return [f'(b"\\0" if ({given} := {value}) is None else b"\\2" + {there})']
            case "bytes":
                given = self._name()
                return [f"number(len({given} := {value}))", given]
        kind = schema if isinstance(schema, str) else _logical(schema)
        if kind not in _WRITTEN:
            raise Bug(f"there is no writer of {schema}")
        return [f"{_WRITTEN[kind]}({value})"]

    def sure(self, schema: Any, value: str) -> str:
        """An expression of whether those bytes say all of it; nothing if they always do."""
        match schema:
            case {"type": "record", "fields": fields}:
                found = [self.sure(field["type"], f"{value}.{field['name']}") for field in fields]
                return " and ".join(each for each in found if each)
            case {"type": "array", "items": items}:
                item = self._name()
                inner = self.sure(items, item)
                return inner and f"all([{inner} for {item} in {value}])"
            case ["null", inner]:
                given = self.sure(inner, value)
                return given and f"({value} is None or {given})"
        kind = schema if isinstance(schema, str) else _logical(schema)
        return _SURE.get(kind, "").replace("$", value)

    def _name(self) -> str:
        self._count += 1
        return f"v{self._count}"


def _logical(schema: Any) -> Any:
    match schema:
        case {"type": str() as kind, "logicalType": logical}:
            return kind, logical
    return None


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


def _instant(instant: datetime) -> bytes:
    # Only instants in UTC are the same whenever they are equal.
    return _utc(instant) if instant.tzinfo is UTC else _number(epoch_ms(instant))


@lru_cache(PARTS_KEPT)
def _utc(instant: datetime) -> bytes:
    return _number(epoch_ms(instant))


def _date(day: date) -> bytes:
    return _number(day.toordinal() - _EPOCH_ORDINAL)


def _boolean(value: bool) -> bytes:
    return b"\x01" if value else b"\x00"


@lru_cache(PARTS_KEPT)
def _text(text: str) -> bytes:
    octets = text.encode()
    return _number(len(octets)) + octets


_CALLED: Final[dict[str, Any]] = {
    "UTC": UTC,
    "boolean": _boolean,
    "date": date,
    "day": _date,
    "instant": _instant,
    "number": _number,
    "text": _text,
}
# What writes a value, and when it says all of it, by what a schema calls it.
_WRITTEN: Final[dict[Any, str]] = {
    "boolean": "boolean",
    "int": "number",
    "long": "number",
    "string": "text",
    ("int", "date"): "day",
    ("long", "timestamp-millis"): "instant",
}
_SURE: Final[dict[Any, str]] = {
    "int": f"{-INT_END} <= $ < {INT_END}",
    ("int", "date"): "type($) is date",
    ("long", "timestamp-millis"): "$.tzinfo is UTC and not $.microsecond % 1_000",
}
