"""JSON documents as they come, a value at a time, numbers as exact decimals.

A document may be of any length: `walk` enters the objects and lists it is told to, and gives every
other value whole. A document that breaks off, or is no JSON from some place on, gives one last
value, `Broken`: what stood before it is as good as ever. No field is named twice in silence.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from domains.metering.adapters.wrappings import Text
from spine.errors import Invalid, Reason

# A way into a document: names of fields, and EACH for every member of a list.
Path = tuple[str, ...]
EACH = "[]"
# The longest value that is given whole.
VALUE_CHARS_MAX = 1 << 20
_SPACES = " \t\r\n"


@dataclass(frozen=True, slots=True)
class Broken:
    """In place of all that could not be read from there to the end."""

    message: str = "from here on the file is not whole JSON; nothing behind it was read"


class _Fault(Exception):
    """No JSON from here on."""


def walk(text: Text, enter: Collection[Path]) -> Iterator[tuple[Path, Any]]:
    """Every value of the document by its way, in order; what lies on a way in `enter` is entered.

    An object or list that is entered comes first, as an empty one of its kind. Numbers are Decimal;
    an object that names a field twice is None, for JSON would silently keep the last.
    """
    scanner = _Scanner(text())
    try:
        yield from _walk(scanner, (), enter)
        if scanner.peek():
            raise _Fault
    except _Fault:
        yield (), Broken()


def members_of(text: Text, where: Path, what: str, members: str) -> Iterator[object]:
    """The members of one list as they come, `Broken` last if the document is not whole.

    Invalid(FILE_UNREADABLE) if there is no such list, or nothing of it can be read.
    """
    ways = {where[:end] for end in range(len(where) + 1)}
    found = some = False
    for way, value in walk(text, ways):
        if way == (*where, EACH) or (some and isinstance(value, Broken)):
            some = True
            yield value
        elif isinstance(value, Broken):
            message = f"the file starts like {what} but is not whole JSON"
            raise Invalid(Reason.FILE_UNREADABLE, message, field="file")
        found = found or (way == where and isinstance(value, list))
    if not found:
        at = f" in `{where[-1]}`" if where else ""
        message = f"the file starts like {what} but has no list of {members}{at}"
        raise Invalid(Reason.FILE_UNREADABLE, message, field="file")


def no_object(member: object, what: str) -> str:
    """The sentence for a member of a list that should have been an object."""
    if isinstance(member, Broken):
        return member.message
    return f"{what} is not an object, or names a field twice"


def _walk(scanner: _Scanner, way: Path, enter: Collection[Path]) -> Iterator[tuple[Path, Any]]:
    opening = scanner.peek() if way in enter else ""
    if opening == "{":
        yield way, {}
        names = set()
        for _ in scanner.items("{", "}"):
            name = scanner.value() if scanner.peek() == '"' else None
            if not isinstance(name, str) or name in names:
                raise _Fault
            names.add(name)
            scanner.expect(":")
            yield from _walk(scanner, (*way, name), enter)
    elif opening == "[":
        yield way, []
        for _ in scanner.items("[", "]"):
            yield from _walk(scanner, (*way, EACH), enter)
    else:
        yield way, scanner.value()


class _Scanner:
    """A text of which only the part being read is in memory."""

    def __init__(self, pieces: Iterator[str]) -> None:
        self._pieces, self._text, self._at = pieces, "", 0
        self._decoder = json.JSONDecoder(
            parse_float=Decimal,
            parse_int=Decimal,
            parse_constant=Decimal,
            object_pairs_hook=_unique,
        )

    def _more(self) -> bool:
        piece = next(self._pieces, "")
        self._text, self._at = self._text[self._at :] + piece, 0
        return bool(piece)

    def peek(self) -> str:
        """The next character that is no space; nothing at the end."""
        while True:
            while self._at < len(self._text):
                if (char := self._text[self._at]) not in _SPACES:
                    return char
                self._at += 1
            if not self._more():
                return ""

    def expect(self, char: str) -> None:
        """Pass over that character."""
        if self.peek() != char:
            raise _Fault
        self._at += 1

    def items(self, opening: str, closing: str) -> Iterator[None]:
        """Stand before each member in turn; whoever asks passes over it."""
        self.expect(opening)
        if self.peek() != closing:
            yield
            while self.peek() == ",":
                self._at += 1
                yield
        self.expect(closing)

    def value(self) -> Any:
        """The next value, whole."""
        self.peek()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
            except (ValueError, RecursionError, ArithmeticError) as error:
                if len(self._text) - self._at > VALUE_CHARS_MAX or not self._more():
                    raise _Fault from error
                continue
            length = end - self._at
            if end == len(self._text) and self._more():
                continue  # a number may go on
            self._at += length
            return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any] | None:
    """An object, or nothing if it names a field twice."""
    fields = dict(pairs)
    return fields if len(fields) == len(pairs) else None
