"""What every register adapter hands over: declarations, and a report of what became of each row.

Nothing is dropped in silence. Every row of the file and every asset it names falls in exactly one
bucket; rows and assets are counted apart, because one row may name several assets. Findings keep
nothing out and are counted in full, though only the first of each reason are kept as sentences.
"""

from __future__ import annotations

import csv
import hashlib
import io
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time
from decimal import Decimal
from enum import StrEnum
from typing import Final

from domains.btm_assets.commands import DeclareAsset
from spine.errors import Bug, Invalid, Reason
from spine.gb import FIRST_DATE, LAST_DATE, london

FINDINGS_MAX: Final = 100
BYTES_MAX: Final = 100 << 20
_CROCKFORD: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_ULID_CHARS: Final = 26
_DECIMAL: Final = re.compile(r"[0-9]+(\.[0-9]+)?", re.ASCII)


class Bucket(StrEnum):
    """What became of a row, and of the assets it names. Stable: these names are printed."""

    DECLARED = "declared"
    DUPLICATE = "duplicate"  # the same row stood there before
    NOT_THERE_YET = "not_there_yet"  # planned or accepted, not connected
    NO_METER = "no_meter"  # nothing says behind which meter
    OVER_LIMIT = "over_limit"  # rated above what its connection may export
    SHIFTED = "shifted"  # its cells do not stand under their columns
    UNREADABLE = "unreadable"


class Note(StrEnum):
    """A finding that keeps nothing from being declared."""

    BYTE_ORDER_MARK = "byte_order_mark"
    CHECK_DIGIT = "check_digit"
    COLUMN_TWICE = "column_twice"
    DATE = "date"
    LICENCE_AREA = "licence_area"
    LOCATION_ABROAD = "location_abroad"
    LOCATION_ZERO = "location_zero"
    NO_REFERENCE = "no_reference"
    NUMBER = "number"
    NUMBER_NOT_AVAILABLE = "number_not_available"
    SPELLINGS = "spellings"


@dataclass(frozen=True, slots=True)
class Finding:
    """A sentence for a person. `row` counts the rows after the header from 1."""

    reason: Bucket | Note
    message: str
    row: int | None = None


@dataclass(slots=True)
class Tally:
    """A count taken one way, and the same things counted by bucket another way."""

    total: int = 0
    by_bucket: Counter[Bucket] = field(default_factory=Counter)

    @property
    def balanced(self) -> bool:
        """Whether the buckets come to the total."""
        return self.total == sum(self.by_bucket.values())


@dataclass(frozen=True, slots=True)
class Declaration:
    """A command and the meter it is for."""

    mpxn: str
    command: DeclareAsset


@dataclass(frozen=True, slots=True)
class Report:
    """What became of everything in one file; `found` counts the findings, kept or left out."""

    rows: Tally
    assets: Tally
    findings: tuple[Finding, ...]
    found: Counter[Bucket | Note]

    @property
    def balanced(self) -> bool:
        """Whether both tallies come out even."""
        return self.rows.balanced and self.assets.balanced


@dataclass(frozen=True, slots=True)
class Imported:
    """An adapter's whole answer."""

    declarations: tuple[Declaration, ...]
    report: Report


class Collector:
    """Takes the rows of one file in file order and keeps the tallies."""

    def __init__(self, rows: int) -> None:
        self._rows, self._assets = Tally(rows), Tally()
        self._declarations: list[Declaration] = []
        self._findings: list[Finding] = []
        self._found: Counter[Bucket | Note] = Counter()

    def find(self, reason: Bucket | Note, message: str, row: int | None = None) -> None:
        """Tell the person who sent the file about something."""
        self._found[reason] += 1
        if self._found[reason] <= FINDINGS_MAX:
            self._findings.append(Finding(reason, message, row))

    def reject(self, row: int, bucket: Bucket, message: str, assets: int) -> None:
        """A row that declares nothing, and how many assets it names."""
        self.find(bucket, message, row)
        self._count(bucket, assets)

    def declare(self, declarations: Sequence[Declaration]) -> None:
        """A row and all the assets it names."""
        self._count(Bucket.DECLARED, len(declarations))
        self._declarations += declarations

    def _count(self, bucket: Bucket, assets: int) -> None:
        self._rows.by_bucket[bucket] += 1
        self._assets.total += assets
        self._assets.by_bucket[bucket] += assets

    def finish(self) -> Imported:
        """The declarations and the balanced report."""
        report = Report(self._rows, self._assets, tuple(self._findings), self._found)
        recorded = self._assets.by_bucket[Bucket.DECLARED]
        if not report.balanced or recorded != len(self._declarations):
            raise Bug("the report of a register file does not balance")
        return Imported(tuple(self._declarations), report)


@dataclass(frozen=True, slots=True)
class Table:
    """A text table: its header, its rows, and whether it began with a byte order mark."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    marked: bool


def check_size(size: int) -> None:
    """Invalid(REQUEST_TOO_LARGE) if a file of so many bytes is more than is read."""
    if size > BYTES_MAX:
        raise Invalid(Reason.REQUEST_TOO_LARGE, f"a register file is at most {BYTES_MAX} bytes")


def table(data: bytes, wanted: Sequence[str]) -> Table:
    """The table in a CSV file; Invalid if it is empty, damaged or not of these columns."""
    if not data.strip():
        raise Invalid(Reason.FILE_EMPTY, "the file holds nothing")
    check_size(len(data))
    try:
        text = data.decode("utf-8-sig")
        cells = [tuple(row) for row in csv.reader(io.StringIO(text, newline=""), strict=True)]
    except (UnicodeDecodeError, csv.Error):
        raise Invalid(Reason.FILE_UNREADABLE, "the file is damaged, or not UTF-8") from None
    header, *rows = [row for row in cells if row] or [()]
    if missing := [column for column in wanted if column not in header]:
        message = f"the file has no column {missing[0]!r}"
        raise Invalid(Reason.FILE_UNRECOGNISED, message)
    return Table(header, tuple(rows), data.startswith(b"\xef\xbb\xbf"))


def asset_id(*parts: str) -> str:
    """The URN of an asset taken from a register: the same for the same parts, in every import."""
    digest = hashlib.sha256("\x1f".join(parts).encode()).digest()
    return urn(int.from_bytes(digest[:16], "big"))


def urn(number: int) -> str:
    """The URN of the asset whose ULID is this number of 128 bits."""
    digits = [_CROCKFORD[number >> 5 * place & 31] for place in reversed(range(_ULID_CHARS))]
    return "urn:energyos:asset:" + "".join(digits)


def whole(text: str, factor: int) -> int | None:
    """A decimal number times a factor, exactly; None if it is no such number, or not whole."""
    if len(text) > 20 or not _DECIMAL.fullmatch(text):
        return None
    number = Decimal(text) * factor
    return int(number) if number < 10**12 and number == int(number) else None


def local_midnight(text: str) -> datetime | None:
    """The first instant of a local day, UTC; None if the text begins with no plausible date."""
    try:
        day = date.fromisoformat(text[:10])
    except ValueError:
        return None
    # Connections are older than half-hourly settlement, so the day is held to a wider range.
    if not FIRST_DATE.replace(year=1900) <= day <= LAST_DATE:
        return None
    return datetime.combine(day, time(), london()).astimezone(UTC)
