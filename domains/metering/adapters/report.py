"""What every readings adapter hands over: meter-days, and a report of what became of each row.

An adapter reads an outside format and puts each reading it meets into a `Collector`. Out come

- `MeterDays`: columns of integer Wh, one row per metering point and UTC day;
- `Report`: three tallies, each of which must come out even, and findings for people.

Nothing is dropped in silence. Every row of the file, every value of a readable row and every half
hour between a meter's first and last stamp falls in exactly one bucket. Rows, values and half
hours are counted apart because they answer different questions: what did the file hold, what did
each value come to, and what is still not known about the meter.

Of two values for one half hour the first stays. A second that says the same (Wh and quality) is
`duplicate_same`; one that says something else is `duplicate_other`, and a finding. A later file may
well correct an earlier one: that is a new version in the log and none of this module's business.
"""

from __future__ import annotations

import re
from array import array
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from spine.errors import Bug
from spine.gb import PERIODS_PER_UTC_DAY, Interval, Mpan, Mpxn, half_hour_start

QUANTITY = "AI"
# A source that marks no quality: kept as given, which is nothing, and never called actual.
NO_QUALITY = ""
# More than any supply takes in half an hour, and small enough for every column: 1 GWh.
WH_MAX = 1_000_000_000
# No meter prints a longer number; it also keeps decimal arithmetic exact.
DIGITS_MAX = 20
_WHOLE_WH = Decimal("0.001")
# What double precision leaves of a sum of whole Wh: less than a billionth of one, at this many
# decimals or more.
_DOUBLE_NOISE_KWH = Decimal("1e-12")
_DOUBLE_DECIMALS = 15
# As many codes as a column of bytes can tell apart.
QUALITY_CODES_MAX = 255
# Findings kept for each reason; the tallies count them all.
FINDINGS_MAX = 100
STAMP = "%Y-%m-%d %H:%MZ"

# The settlement period quality indicators in use.
_ACTUAL = "A A1 A2 A3 AAE1 AAE2 AAE3"
_ESTIMATED = "E E0 E2 E3 E4 E5 E7 E8 E9 EAE1 EAE2 EAE3"
_FROM_ACTUAL = "EA1 EA2 EA3 EA4 EA5 EA6 EA7 EA8 EA9 EA10 EA11 EA12 EA13"
_ZERO = "ZE2 ZE3"
QUALITY_CODES_KNOWN = frozenset(" ".join((_ACTUAL, _ESTIMATED, _FROM_ACTUAL, _ZERO)).split())


class Bucket(StrEnum):
    """What became of a row, a value or a half hour. Stable: these names are printed and stored."""

    RECORDED = "recorded"
    DUPLICATE_OTHER = "duplicate_other"  # the half hour is taken, by another value
    DUPLICATE_SAME = "duplicate_same"  # the half hour is taken, by the same value
    OFF_GRID = "off_grid"  # stamped at no half hour, or at a period that its day has not
    NULL = "null"  # no value stands where one should
    NEGATIVE = "negative"
    WRONG_DECIMALS = "wrong_decimals"  # finer than a whole Wh
    OUT_OF_RANGE = "out_of_range"  # more than any supply takes
    OTHER_METER = "other_meter"  # another household than the one this file is read for
    OTHER_QUANTITY = "other_quantity"  # not active import
    UNREADABLE = "unreadable"
    MISSING = "missing"  # half hours only: the file says nothing


class Note(StrEnum):
    """A finding that keeps nothing from being recorded."""

    CHECK_DIGIT = "check_digit"
    QUALITY_UNKNOWN = "quality_unknown"
    SINGLE_PRECISION = "single_precision"
    DOUBLE_PRECISION = "double_precision"
    SET_ASIDE = "set_aside"  # a whole column that is not the quantity recorded


@dataclass(frozen=True, slots=True)
class Finding:
    """A sentence for a person. `line` is the file's line, in JSON the nth object of the list."""

    reason: Bucket | Note
    message: str
    line: int | None = None


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
class MeterDays:
    """Readings as columns, one row per metering point and UTC day, sorted by both.

    Where `present` is false the value and the quality are 0 and mean nothing.
    """

    mpxns: npt.NDArray[np.bytes_]  # (n,) S13
    days: npt.NDArray[np.int32]  # (n,) days since 1970-01-01, UTC
    present: npt.NDArray[np.bool_]  # (n, 48)
    values_wh: npt.NDArray[np.int32]  # (n, 48)
    quality: npt.NDArray[np.uint8]  # (n, 48) index into quality_codes
    quality_codes: tuple[str, ...]
    quantity: str = QUANTITY

    def __len__(self) -> int:
        return len(self.days)

    @property
    def recorded(self) -> int:
        """How many half hours hold a value."""
        return int(self.present.sum())

    @property
    def total_wh(self) -> int:
        """The sum of all values."""
        return int(self.values_wh.sum(dtype=np.int64))

    def count_by_quality(self) -> dict[str, int]:
        """How many half hours hold each quality code."""
        counts = np.bincount(self.quality[self.present], minlength=len(self.quality_codes))
        return dict(zip(self.quality_codes, counts.tolist(), strict=True))


@dataclass(frozen=True, slots=True)
class Report:
    """What became of everything in one file."""

    rows: Tally
    values: Tally
    half_hours: Tally
    findings: tuple[Finding, ...]
    findings_left_out: int  # beyond FINDINGS_MAX of one reason

    @property
    def balanced(self) -> bool:
        """Whether each tally comes out even and all agree on what was recorded."""
        recorded = (t.by_bucket[Bucket.RECORDED] for t in (self.values, self.half_hours))
        tallies = (self.rows, self.values, self.half_hours)
        return len(set(recorded)) == 1 and all(tally.balanced for tally in tallies)


@dataclass(frozen=True, slots=True)
class Parsed:
    """An adapter's whole answer."""

    meter_days: MeterDays
    report: Report


def decimal_of(text: str) -> Decimal | None:
    """A plain decimal number, or nothing: Decimal itself would take `1_0`, `NaN` and `१`."""
    if re.fullmatch(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,3})?", text, re.ASCII):
        return Decimal(text)
    return None


def wh_of(kwh: Decimal) -> int | Bucket:
    """The kWh as whole Wh, exactly, or the bucket that says why not. Nothing is ever rounded."""
    if not kwh.is_finite():
        return Bucket.UNREADABLE
    if not kwh:
        return 0
    if kwh < 0:
        return Bucket.NEGATIVE
    if kwh > WH_MAX // 1000:
        return Bucket.OUT_OF_RANGE
    _, digits, exponent = kwh.as_tuple()
    if len(digits) > DIGITS_MAX or int(exponent) < -DIGITS_MAX:
        return Bucket.WRONG_DECIMALS
    wh = kwh.scaleb(3)
    return int(wh) if wh == wh.to_integral_value() else Bucket.WRONG_DECIMALS


def double_precision(kwh: Decimal) -> int | None:
    """The whole Wh that a sum in double precision meant, such as 398 by 0.39799999999999996."""
    _, digits, exponent = kwh.as_tuple()
    if kwh < 0 or len(digits) > DIGITS_MAX or int(exponent) > -_DOUBLE_DECIMALS:
        return None
    whole = kwh.quantize(_WHOLE_WH)
    return int(whole.scaleb(3)) if abs(whole - kwh) < _DOUBLE_NOISE_KWH else None


@dataclass(frozen=True, slots=True)
class Entry:
    """One value of a row: its half hour if it has one, its Wh or why it has none, its quality."""

    half_hour: int | None
    wh: int | Bucket
    quality: str
    label: str  # as the file names it, for findings


_SENTENCES = {
    Bucket.DUPLICATE_OTHER: "stands here twice with different values; the first was kept",
    Bucket.DUPLICATE_SAME: "stands here twice with the same value",
    Bucket.OFF_GRID: "is at no half hour of its day",
    Bucket.NULL: "has no value",
    Bucket.NEGATIVE: "is less than zero",
    Bucket.WRONG_DECIMALS: "is finer than a whole Wh",
    Bucket.OUT_OF_RANGE: f"is more than {WH_MAX} Wh",
    Bucket.UNREADABLE: "cannot be read",
}
# A row of several values counts under the first of these that any of its values came to.
_ORDER = {bucket: place for place, bucket in enumerate(Bucket)}


# A half hour of a `_Day` without a value.
_NOTHING = -1


class _Day:
    """What is kept of one metering point and UTC day; small, for there may be a great many."""

    __slots__ = ("code", "wh")

    def __init__(self) -> None:
        self.wh = array("i", (_NOTHING,)) * PERIODS_PER_UTC_DAY
        self.code = bytearray(PERIODS_PER_UTC_DAY)


def _days() -> defaultdict[int, _Day]:
    return defaultdict(_Day)


class Collector:
    """Takes the rows of one file in file order and keeps the tallies."""

    def __init__(self, rows: int) -> None:
        self._rows = Tally(rows)
        self._values = Tally()
        self._kept: defaultdict[Mpxn, defaultdict[int, _Day]] = defaultdict(_days)
        self._not_kept: defaultdict[Mpxn, dict[int, Bucket]] = defaultdict(dict)
        self._codes: dict[str, int] = {}
        self._findings: list[Finding] = []
        self._finding_counts: Counter[Bucket | Note] = Counter()
        self._meters_noted: set[Mpxn] = set()

    def find(self, reason: Bucket | Note, message: str, line: int | None = None) -> None:
        """Tell the person who sent the file about something."""
        self._finding_counts[reason] += 1
        if self._finding_counts[reason] <= FINDINGS_MAX:
            self._findings.append(Finding(reason, message, line))

    def note_check_digit(self, mpxn: Mpxn, line: int | None = None) -> None:
        """Say once for each metering point that its check digit is wrong, if it is."""
        if not mpxn.check_digit_ok and mpxn not in self._meters_noted:
            kind = "MPAN" if isinstance(mpxn, Mpan) else "MPRN"
            self.find(Note.CHECK_DIGIT, f"the {kind} has a wrong check digit", line)
        self._meters_noted.add(mpxn)

    def reject(self, line: int, bucket: Bucket, message: str) -> None:
        """A row of which no value can be used."""
        self._rows.by_bucket[bucket] += 1
        self.find(bucket, message, line)

    def take(self, line: int, mpxn: Mpxn, entries: Sequence[Entry]) -> None:
        """A row with its values, at least one."""
        self.note_check_digit(mpxn, line)
        buckets = [self._place(line, mpxn, entry) for entry in entries]
        self._values.total += len(entries)
        self._values.by_bucket.update(buckets)
        self._rows.by_bucket[min(buckets, key=_ORDER.__getitem__)] += 1

    def set_aside(self, bucket: Bucket, count: int, message: str) -> None:
        """Values of rows that are taken for another of their values; one finding for them all."""
        if count:
            self._values.total += count
            self._values.by_bucket[bucket] += count
            self.find(Note.SET_ASIDE, message)

    def _place(self, line: int, mpxn: Mpxn, entry: Entry) -> Bucket:
        """Keep the value or find the bucket that says why not."""
        bucket = self._judge(line, mpxn, entry)
        if bucket is Bucket.RECORDED:
            return bucket
        sentence = f"{entry.label} {_SENTENCES[bucket]}"
        if bucket is Bucket.OFF_GRID and isinstance(entry.wh, Bucket):
            sentence += f", and its value is {entry.wh}"
        self.find(bucket, sentence, line)
        if entry.half_hour is not None:
            self._not_kept[mpxn].setdefault(entry.half_hour, bucket)
        return bucket

    def _judge(self, line: int, mpxn: Mpxn, entry: Entry) -> Bucket:
        if entry.half_hour is None:
            return Bucket.OFF_GRID
        if isinstance(entry.wh, Bucket):
            return entry.wh
        if not self._accept_code(line, entry.quality):
            return Bucket.UNREADABLE
        number, place = divmod(entry.half_hour, PERIODS_PER_UTC_DAY)
        day, code = self._kept[mpxn][number], self._codes[entry.quality]
        if day.wh[place] == _NOTHING:
            day.wh[place], day.code[place] = entry.wh, code
            return Bucket.RECORDED
        same = (day.wh[place], day.code[place]) == (entry.wh, code)
        return Bucket.DUPLICATE_SAME if same else Bucket.DUPLICATE_OTHER

    def _accept_code(self, line: int, code: str) -> bool:
        """Keep any code a column can hold; note one that the sector does not list."""
        if code in self._codes:
            return True
        if len(self._codes) == QUALITY_CODES_MAX or not re.fullmatch(r"[A-Za-z0-9]{0,8}", code):
            return False
        self._codes[code] = len(self._codes)
        if code != NO_QUALITY and code not in QUALITY_CODES_KNOWN:
            self.find(Note.QUALITY_UNKNOWN, f"no list names the quality code {code}", line)
        return True

    def finish(self) -> Parsed:
        """The columns and the balanced report."""
        half_hours = Tally()
        for mpxn in self._meters_noted:
            self._tally_half_hours(mpxn, half_hours)
        left_out = sum(max(0, count - FINDINGS_MAX) for count in self._finding_counts.values())
        report = Report(self._rows, self._values, half_hours, tuple(self._findings), left_out)
        meter_days = self._columns()
        if not report.balanced or meter_days.recorded != half_hours.by_bucket[Bucket.RECORDED]:
            raise Bug("the report of a readings file does not balance")
        return Parsed(meter_days, report)

    def _tally_half_hours(self, mpxn: Mpxn, tally: Tally) -> None:
        not_kept = self._not_kept[mpxn]
        kept = {
            number * PERIODS_PER_UTC_DAY + place
            for number, day in self._kept[mpxn].items()
            for place, wh in enumerate(day.wh)
            if wh != _NOTHING
        }
        named = sorted(kept | not_kept.keys())
        if not named:
            return
        tally.total += named[-1] - named[0] + 1
        tally.by_bucket[Bucket.RECORDED] += len(kept)
        tally.by_bucket.update(not_kept[half_hour] for half_hour in not_kept.keys() - kept)
        for before, after in pairwise(named):
            if absent := after - before - 1:
                tally.by_bucket[Bucket.MISSING] += absent
                gap = Interval(half_hour_start(before + 1), half_hour_start(after))
                self.find(Bucket.MISSING, f"nothing from {gap.start:{STAMP}} to {gap.end:{STAMP}}")

    def _columns(self) -> MeterDays:
        codes = tuple(sorted(self._codes))
        sorted_index = np.zeros(QUALITY_CODES_MAX + 1, np.uint8)
        for index, code in enumerate(codes):
            sorted_index[self._codes[code]] = index
        keys = sorted((mpxn, number) for mpxn, days in self._kept.items() for number in days)
        shape = (len(keys), PERIODS_PER_UTC_DAY)
        values_wh = np.zeros(shape, np.int32)
        quality = np.zeros(shape, np.uint8)
        for row, (mpxn, number) in enumerate(keys):
            day = self._kept[mpxn][number]
            values_wh[row], quality[row] = day.wh, sorted_index[list(day.code)]
        present = values_wh != _NOTHING
        values_wh[~present] = quality[~present] = 0
        return MeterDays(
            mpxns=np.array([mpxn for mpxn, _ in keys], "S13"),
            days=np.array([number for _, number in keys], np.int32),
            present=present,
            values_wh=values_wh,
            quality=quality,
            quality_codes=codes,
        )
