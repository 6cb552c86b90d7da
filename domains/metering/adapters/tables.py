"""Text tables as they come: any line ends, any separator a `sep=` line names, quotes or none.

A table may be of any length: its lines are read as they are asked for, once.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import chain

from domains.metering.adapters.collecting import Collector
from domains.metering.adapters.report import Bucket, Note, decimal_of, double_precision, wh_of
from domains.metering.adapters.wrappings import Text
from spine.errors import Invalid, Reason

# No header is longer.
_HEAD_CHARS = 8192
# No row is longer; what is, cannot be read.
LINE_CHARS_MAX = 1 << 16
_UNREADABLE_LINE = "\0"
_LINE_END = re.compile("\r\n|\r|\n")
_SEP = re.compile(r"\s*\"?sep=(.)\"?\s*", re.IGNORECASE)
_NULLS = frozenset(("", "null", "none", "n/a"))

# The number of a line in the file, and its cells without the spaces around them.
Row = tuple[int, list[str]]


def rows_of(pieces: Iterable[str]) -> Iterator[Row]:
    """The lines of a text that hold anything, split into cells; a `sep=` line only says how."""
    separator = ","
    for number, line in enumerate(_lines(pieces), 1):
        if number == 1 and (match := _SEP.fullmatch(line)):
            separator = match[1]
        elif line.strip(f'{separator}" \t'):
            yield number, [cell.strip() for cell in _cells(line, separator)]


def _lines(pieces: Iterable[str]) -> Iterator[str]:
    """A line that is too long comes as one that no adapter can read."""
    rest, too_long = "", False
    for piece in pieces:
        held = "\r" if piece.endswith("\r") else ""  # its other half may come
        lines = _LINE_END.split(rest + piece.removesuffix(held))
        rest = lines.pop() + held
        for line in lines:
            yield _UNREADABLE_LINE if too_long else line
            too_long = False
        if len(rest) > LINE_CHARS_MAX:
            rest, too_long = held, True
    for line in _LINE_END.split(rest):
        yield _UNREADABLE_LINE if too_long else line
        too_long = False


def without_sep(text: str) -> str:
    """The text behind a `sep=` line."""
    end = _LINE_END.search(text)
    first, rest = (text[: end.start()], text[end.end() :]) if end else (text, "")
    return rest if _SEP.fullmatch(first) else text


def header_of(text: str) -> list[str]:
    """The cells of the first line that holds any."""
    return next(rows_of([text[:_HEAD_CHARS]]), (0, []))[1]


def _cells(line: str, separator: str) -> list[str]:
    if '"' not in line:
        return line.split(separator)
    try:
        return next(csv.reader([line], delimiter=separator), [])
    except csv.Error:
        return [line]


def body_of(text: Text, what: str, *, header: bool = True) -> tuple[list[str], Iterator[Row]]:
    """The names of the columns and the rows below, of which there must be one."""
    rows = rows_of(text())
    first = next(rows, (0, []))
    if not header:
        return first[1], chain((first,), rows)
    if (second := next(rows, None)) is None:
        message = f"the file has the column names of {what} and not one row of readings"
        raise Invalid(Reason.FILE_EMPTY, message, field="file")
    return first[1], chain((second,), rows)


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
    wh, doubled = _wh_of_text(kwh)
    if doubled:
        collector.find(Note.DOUBLE_PRECISION, f"{kwh} kWh is {wh} Wh in double precision", line)
    return wh


# A file has a few thousand different values.
@lru_cache(maxsize=1 << 14)
def _wh_of_text(kwh: str) -> tuple[int | Bucket, bool]:
    """The same, and whether double precision left something of it that was not meant."""
    if kwh.lower() in _NULLS:
        return Bucket.NULL, False
    value = decimal_of(kwh)
    if value is None:
        return Bucket.UNREADABLE, False
    wh = wh_of(value)
    if wh is Bucket.WRONG_DECIMALS and (meant := double_precision(value)) is not None:
        return meant, True
    return wh, False
