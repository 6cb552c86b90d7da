"""Text tables as they come: any line ends, any separator a `sep=` line names, quotes or none.

`as_utf8` takes two wrappings off a file before any adapter sees it: UTF-16 with its mark, and
UTF-16 that some program took for UTF-8, of which every second byte is still NUL. A NUL that merely
stands somewhere is left where it is, and makes its own cell unreadable.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from domains.metering.adapters.report import (
    Bucket,
    Collector,
    Note,
    decimal_of,
    double_precision,
    wh_of,
)
from spine.errors import Invalid, Reason

_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_MANGLED_MARK = "\ufffd".encode()
# Of a table in UTF-16 half the bytes are NUL; of no other text more than a few.
_NULS_OF_UTF16 = 3
# No header is longer.
_HEAD_CHARS = 8192
_LINE_END = re.compile("\r\n|\r|\n")
_SEP = re.compile(r"\s*\"?sep=(.)\"?\s*", re.IGNORECASE)
_NULLS = frozenset(("", "null", "none", "n/a"))


@dataclass(frozen=True, slots=True)
class Table:
    """The lines of a text that hold anything, split into cells only as they are asked for."""

    text: str
    separator: str
    lines_before: int  # a `sep=` line
    skipped: int = 0  # the header

    @property
    def rows(self) -> Iterator[tuple[int, list[str]]]:
        """The number in the file and the stripped cells of each line."""
        for number, line in self._filled():
            yield number, [cell.strip() for cell in _cells(line, self.separator)]

    @property
    def count(self) -> int:
        """How many rows there are."""
        return sum(1 for _ in self._filled())

    @property
    def header(self) -> list[str]:
        """The cells of the first line."""
        return next(self.rows, (0, []))[1]

    def _filled(self) -> Iterator[tuple[int, str]]:
        nothing = f'{self.separator}" \t'
        filled = (
            (number, line)
            for number, line in enumerate(_lines(self.text), 1 + self.lines_before)
            if line.strip(nothing)
        )
        return islice(filled, self.skipped, None)


def _lines(text: str) -> Iterator[str]:
    start = 0
    for end in _LINE_END.finditer(text):
        yield text[start : end.start()]
        start = end.end()
    yield text[start:]


def as_utf8(data: bytes) -> bytes:
    """The same text in UTF-8, whatever it came in; other data as they are."""
    if data.startswith(_UTF16_MARKS):
        return data.decode("utf-16", "replace").encode("utf-8", "replace")
    if data.count(0) * _NULS_OF_UTF16 > len(data):
        data = data.replace(b"\0", b"")
        while data.startswith(_MANGLED_MARK):
            data = data.removeprefix(_MANGLED_MARK)
    return data


def without_sep(text: str) -> tuple[str, str, int]:
    """The text behind a `sep=` line, the separator, and how many lines were taken off."""
    end = _LINE_END.search(text)
    first, rest = (text[: end.start()], text[end.end() :]) if end else (text, "")
    if match := _SEP.fullmatch(first):
        return rest, match[1], 1
    return text, ",", 0


def table_of(text: str) -> Table:
    """A whole file, or the start of one."""
    return Table(*without_sep(text))


def header_of(text: str) -> list[str]:
    """The cells of the first line that holds any."""
    return table_of(text[:_HEAD_CHARS]).header


def _cells(line: str, separator: str) -> list[str]:
    if '"' not in line:
        return line.split(separator)
    try:
        return next(csv.reader([line], delimiter=separator), [])
    except csv.Error:
        return [line]


def body_of(data: bytes, what: str, *, header: bool = True) -> tuple[list[str], Table]:
    """The names of the columns and the rows below, of which there must be one."""
    body = table_of(data.decode("utf-8-sig", "replace"))
    names = body.header
    if header:
        body = replace(body, skipped=1)
    if not body.header:
        message = f"the file has the column names of {what} and not one row of readings"
        raise Invalid(Reason.FILE_EMPTY, message, field="file")
    return names, body


def places(names: Sequence[str], *wanted: str) -> list[int] | None:
    """Where the wanted columns stand, or nothing unless each stands there exactly once."""
    if any(names.count(name) != 1 for name in wanted):
        return None
    return [names.index(name) for name in wanted]


def placed(names: Sequence[str], what: str, *wanted: str) -> list[int]:
    """Where the wanted columns stand, or Invalid."""
    found = places(names, *wanted)
    if found is None:
        message = f"the file has not each column of {what} once"
        raise Invalid(Reason.FILE_UNRECOGNISED, message, field="file")
    return found


def fits(collector: Collector, line: int, cells: Sequence[str], width: int) -> bool:
    """Whether a row has as many cells as the header; it is counted as unreadable if not."""
    if len(cells) == width:
        return True
    message = f"the row has {len(cells)} cells, the header {width}"
    collector.reject(line, Bucket.UNREADABLE, message)
    return False


def wh_in(collector: Collector, line: int, kwh: str) -> int | Bucket:
    """The Wh of a cell in kWh, or the bucket that says why there are none."""
    if kwh.lower() in _NULLS:
        return Bucket.NULL
    value = decimal_of(kwh)
    if value is None:
        return Bucket.UNREADABLE
    wh = wh_of(value)
    if wh is Bucket.WRONG_DECIMALS and (meant := double_precision(value)) is not None:
        collector.find(Note.DOUBLE_PRECISION, f"{kwh} kWh is {meant} Wh in double precision", line)
        return meant
    return wh
