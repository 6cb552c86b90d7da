"""Standing data in files that people review: one code list to a file, CSV with a preamble.

    # standing-data: 1
    # domain: metering
    # list: gsp_groups
    # source: the document that says so
    # licence: OGL-UK-3.0
    code,label,effective_from,effective_to,withdrawn
    _A,Eastern,1996-04-01,,

UTF-8. The first five lines are required, in any order; other lines that begin with `#` before the
header are remarks. Columns beyond these five are attributes of the list; an empty cell says
nothing. A text under `withdrawn` says why the entry is taken out, and its label may then be empty.
A file is read whole or refused whole, and every problem is told with its line.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Final

from spine.codelist import Attribute, CodeListed, CodeWithdrawn, LoadCodes
from spine.domain import Actor
from spine.errors import Invalid, Reason

FORMAT: Final = "1"
FILE_BYTES_MAX: Final = 1 << 20
PROBLEMS_SHOWN: Final = 5
PREAMBLE: Final = ("standing-data", "domain", "list", "source", "licence")
COLUMNS: Final = ("code", "label", "effective_from", "effective_to", "withdrawn")
_REMARK: Final = re.compile(r"#\s*([a-z-]+):\s*(.*?)\s*")
_DAY: Final = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)


@dataclass(frozen=True, slots=True)
class CodeFile:
    """What a file says of one list; `lines` are those of the listed rows, then the withdrawn."""

    domain: str
    list_name: str
    listed: tuple[CodeListed, ...]
    withdrawn: tuple[CodeWithdrawn, ...]
    lines: tuple[int, ...]

    def command(self, by: Actor) -> LoadCodes:
        """The command that records it."""
        return LoadCodes(by, self.list_name, self.listed, self.withdrawn)


def parse(data: bytes) -> CodeFile:
    """Read a file of standing data.

    Invalid(FILE_EMPTY), Invalid(FILE_UNRECOGNISED) if it is no such file, Invalid(FILE_UNREADABLE)
    with the lines at fault.
    """
    if not data.strip():
        raise Invalid(Reason.FILE_EMPTY, "the file is empty")
    if len(data) > FILE_BYTES_MAX:
        message = f"a file of standing data has at most {FILE_BYTES_MAX} bytes"
        raise Invalid(Reason.REQUEST_TOO_LARGE, message)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise Invalid(Reason.FILE_UNRECOGNISED, "the file is not text in UTF-8") from None
    lines = text.splitlines(keepends=True)
    remarks = _remarks(lines)
    said = _preamble(lines[:remarks])
    try:
        cells = list(_cells(lines[remarks:], remarks))
    except csv.Error as error:
        raise unreadable([f"this is no CSV: {error}"]) from None
    if not cells:
        raise Invalid(Reason.FILE_EMPTY, "the file names a list and no code")
    return _file(said, cells)


def unreadable(problems: list[str]) -> Invalid:
    """One error for all that is wrong with the lines of a file; the first few are told."""
    more = len(problems) - PROBLEMS_SHOWN
    shown = "; ".join(problems[:PROBLEMS_SHOWN]) + (f"; and {more} more" if more > 0 else "")
    return Invalid(Reason.FILE_UNREADABLE, shown)


def _remarks(lines: list[str]) -> int:
    """How many lines stand before the header."""
    for number, line in enumerate(lines):
        if line.strip() and not line.startswith("#"):
            return number
    return len(lines)


def _preamble(lines: list[str]) -> Mapping[str, str]:
    found = [m.groups() for line in lines if (m := _REMARK.fullmatch(line.rstrip()))]
    said = {name: value for name, value in found if name in PREAMBLE}
    missing = [name for name in PREAMBLE if not said.get(name)]
    if missing:
        message = f"no file of standing data: its first lines do not say {', '.join(missing)}"
        raise Invalid(Reason.FILE_UNRECOGNISED, message)
    if said["standing-data"] != FORMAT:
        message = f"this build reads files of standing data of format {FORMAT}"
        raise Invalid(Reason.FILE_UNRECOGNISED, message)
    return said


def _cells(lines: list[str], before: int) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows below the header, each with its line in the file."""
    reader = csv.reader(io.StringIO("".join(lines), newline=""), strict=True)
    header = next(reader, None)
    if header is None:
        return
    if tuple(header[: len(COLUMNS)]) != COLUMNS or len(set(header)) < len(header):
        message = f"the columns begin with {','.join(COLUMNS)}, and none comes twice"
        raise Invalid(Reason.FILE_UNRECOGNISED, message)
    for row in reader:
        if not row:
            continue
        line = before + reader.line_num
        if len(row) != len(header):
            raise unreadable([f"line {line}: {len(row)} cells where {len(header)} are due"])
        yield line, {name: cell.strip() for name, cell in zip(header, row, strict=True)}


def _file(said: Mapping[str, str], rows: list[tuple[int, dict[str, str]]]) -> CodeFile:
    listed: list[tuple[int, CodeListed]] = []
    withdrawn: list[tuple[int, CodeWithdrawn]] = []
    wrong: list[str] = []
    name = said["list"]
    for line, row in rows:
        start, end = _day(row["effective_from"]), _day(row["effective_to"])
        if start is None or (end is None and row["effective_to"]):
            wrong.append(f"line {line}: a day is written YYYY-MM-DD")
        elif row["withdrawn"]:
            withdrawn.append((line, CodeWithdrawn(name, row["code"], start, row["withdrawn"])))
        else:
            attributes = tuple(
                sorted(Attribute(k, v) for k, v in row.items() if k not in COLUMNS and v)
            )
            entry = CodeListed(
                name,
                row["code"],
                row["label"],
                attributes,
                start,
                end,
                said["source"],
                said["licence"],
            )
            listed.append((line, entry))
    if wrong:
        raise unreadable(wrong)
    return CodeFile(
        said["domain"],
        name,
        tuple(entry for _, entry in listed),
        tuple(gone for _, gone in withdrawn),
        tuple(line for line, _ in (*listed, *withdrawn)),
    )


def _day(text: str) -> date | None:
    if not _DAY.fullmatch(text):
        return None
    try:
        return date.fromisoformat(text)
    except ValueError:
        return None
