"""A workbook (.xlsx) as the CSV that its first sheet might have been, line n being row n.

Rows are read as they are asked for; of each, openpyxl keeps about a hundred bytes, and a sheet has
1,048,576 at most. What formulas came to when the file was last saved is read; formulas themselves
are not. A sheet keeps its texts in a table of their own, which is read whole: a workbook with more
text than `TEXTS_BYTES_MAX` is refused.
"""

from __future__ import annotations

import csv
import warnings
from collections.abc import Iterator
from datetime import date, datetime
from io import StringIO
from typing import IO, Final
from zipfile import ZipFile

from openpyxl import load_workbook

from spine.errors import Invalid, Reason

MAGIC: Final = b"PK\x03\x04"
TEXTS_BYTES_MAX: Final = 64 * 1024 * 1024
# Of the parts that are read whole, all but the sheets.
_SHEETS: Final = "xl/worksheets/"
_PIECE_CHARS: Final = 1 << 16


def csv_of(name: str, file: IO[bytes]) -> Iterator[bytes]:
    """The first sheet as CSV in UTF-8, piece by piece.

    Invalid: REQUEST_TOO_LARGE as said above; FILE_UNREADABLE for what is no workbook, or a damaged
    one, wherever the damage shows.
    """
    try:
        _check_size(name, file)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of styles and print areas, which are not read
            yield from _pieces(file)
    except Invalid:
        raise
    except Exception as error:  # openpyxl raises whatever the damage happens to lead to
        message = f"{name} is a ZIP file but no workbook that can be read"
        raise Invalid(Reason.FILE_UNREADABLE, message, field="file") from error


def _check_size(name: str, file: IO[bytes]) -> None:
    with ZipFile(file) as parts:
        whole = sum(p.file_size for p in parts.infolist() if not p.filename.startswith(_SHEETS))
    if whole > TEXTS_BYTES_MAX:
        message = f"{name} holds more than {TEXTS_BYTES_MAX // 1024**2} MiB of text; split it"
        raise Invalid(Reason.REQUEST_TOO_LARGE, message, field="file")


def _pieces(file: IO[bytes]) -> Iterator[bytes]:
    out = StringIO()
    writer = csv.writer(out, lineterminator="\n")
    width = 0
    for cells in _rows(file):
        while cells and not cells[-1]:
            cells.pop()
        width = width or len(cells)
        if cells:
            writer.writerow(cells + [""] * (width - len(cells)))
        else:
            out.write("\n")
        if out.tell() >= _PIECE_CHARS:
            yield out.getvalue().encode()
            out.seek(0)
            out.truncate()
    yield out.getvalue().encode()


def _rows(file: IO[bytes]) -> Iterator[list[str]]:
    book = load_workbook(file, read_only=True, data_only=True)
    try:
        for row in book.worksheets[0].iter_rows(values_only=True):
            yield [_cell(value) for value in row]
    finally:
        book.close()


def _cell(value: object) -> str:
    """The shortest text that names the value; a whole number has no point, as an MPAN has none."""
    match value:
        case None:
            return ""
        case float():
            return str(int(value)) if value.is_integer() else repr(value)
        case datetime():
            return value.isoformat(" ", "seconds")
        case date():
            return value.isoformat()
        case _:
            return " ".join(str(value).split())
