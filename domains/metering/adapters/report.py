"""What every readings adapter hands over: meter-days, and a report of what became of each row.

An adapter reads an outside format and puts each reading it meets into a `Collector`
(`collecting`). Out come

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
from collections import Counter
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from domains.metering.gas import Conversion

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
    WRONG_DECIMALS = "wrong_decimals"  # finer than a whole Wh, or dm3 of gas
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

    Where `present` is false the value and the quality are 0 and mean nothing. Of a gas meter that
    counts volume, `volumes_dm3` is what it counted and `values_wh` what that comes to by
    `conversion`; of all others both are None.
    """

    mpxns: npt.NDArray[np.bytes_]  # (n,) S13
    days: npt.NDArray[np.int32]  # (n,) days since 1970-01-01, UTC
    present: npt.NDArray[np.bool_]  # (n, 48)
    values_wh: npt.NDArray[np.int32]  # (n, 48)
    quality: npt.NDArray[np.uint8]  # (n, 48) index into quality_codes
    quality_codes: tuple[str, ...]
    quantity: str = QUANTITY
    volumes_dm3: npt.NDArray[np.int32] | None = None  # (n, 48)
    conversion: Conversion | None = None

    def __len__(self) -> int:
        return len(self.days)

    @property
    def recorded(self) -> int:
        """How many half hours hold a value."""
        return int(np.count_nonzero(self.present))

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
    """The kWh as whole Wh, exactly, or the bucket that says why not. Nothing is ever rounded.

    The same makes whole dm3 of m3.
    """
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
