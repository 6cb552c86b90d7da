"""Rows of a file on their way to meter-days: placed, counted, handed on while the file is read.

The rules stand in `report`. However large the file is, only the `Window` is in memory; days that
leave it are handed on as they are. If a later row names one of them again, its new half hours leave
as a further row of that day, and a half hour that was taken before is found to be a duplicate.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from domains.metering.adapters.report import (
    FINDINGS_MAX,
    NO_QUALITY,
    QUALITY_CODES_KNOWN,
    QUALITY_CODES_MAX,
    STAMP,
    WH_MAX,
    Bucket,
    Finding,
    MeterDays,
    Note,
    Report,
    Tally,
)
from domains.metering.adapters.window import NOTHING, MemoryShelf, Shelf, Window, named
from domains.metering.gas import VOLUME_DM3_MAX, Conversion
from spine.errors import Bug, Invalid, Reason
from spine.gb import PERIODS_PER_UTC_DAY, Interval, Mpan, Mpxn, half_hour_start

# Days kept at hand, about 1 kB each with what is made of them when they leave.
WINDOW_DAYS = 16_384
_WITHOUT_LIMIT = 1 << 62
# Before any day: on the shelf it says that the metering point's check digit was noted.
_NOTED = -(1 << 31)

RowT = TypeVar("RowT")


class Entry(NamedTuple):
    """One value of a row: its half hour if it has one, its Wh or why it has none, its quality.

    Where a file counts gas by volume (`Collector.in_volume`), `wh` is dm3.
    """

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
_SENTENCES_OF_VOLUMES = _SENTENCES | {
    Bucket.WRONG_DECIMALS: "is finer than a whole dm3",
    Bucket.OUT_OF_RANGE: f"is more than {VOLUME_DM3_MAX} dm3",
}
# A row of several values counts under the first of these that any of its values came to.
_ORDER = {bucket: place for place, bucket in enumerate(Bucket)}
# How a `Window` says why a half hour has no value; 0 is for none.
_LOST = {bucket: place for place, bucket in enumerate(Bucket, 1)}
_BUCKETS = tuple(Bucket)


class Collector:
    """Takes the rows of one file in file order and keeps the tallies.

    Without a shelf nothing leaves before the end. With one, `full` says when `drain` is due.
    """

    def __init__(
        self,
        shelf: Shelf | None = None,
        window_days: int | None = None,
        conversion: Conversion | None = None,
    ) -> None:
        limit = WINDOW_DAYS if window_days is None else window_days
        self._shelf = MemoryShelf() if shelf is None else shelf
        self._window = Window(_WITHOUT_LIMIT if shelf is None else limit, self._shelf)
        self._rows, self._values, self._half_hours = Tally(), Tally(), Tally()
        self._handed_on = 0
        self._codes: dict[str, int] = {}
        self._findings: list[Finding] = []
        self._finding_counts: Counter[Bucket | Note] = Counter()
        self._last_checked = ""
        self._given = conversion
        self._conversion: Conversion | None = None
        self._most = WH_MAX

    @property
    def rows(self) -> int:
        """How many rows were met so far."""
        return self._rows.total

    @property
    def full(self) -> bool:
        """Whether `drain` should be called before the next row."""
        return self._window.full

    def in_volume(self, what: str) -> None:
        """From now on values are dm3 of gas; Invalid(FIELD_MISSING) if nothing was said of it."""
        if self._given is None:
            message = f"{what} counts m3 of gas; say its calorific value in MJ/m3"
            raise Invalid(Reason.FIELD_MISSING, message, field="calorific_value")
        self._conversion, self._most = self._given, VOLUME_DM3_MAX

    def each(self, rows: Iterable[RowT]) -> Iterator[RowT]:
        """The same rows, counted; each must then be taken or rejected once."""
        for row in rows:
            self._rows.total += 1
            yield row

    def find(self, reason: Bucket | Note, message: str, line: int | None = None) -> None:
        """Tell the person who sent the file about something."""
        self._finding_counts[reason] += 1
        if self._finding_counts[reason] <= FINDINGS_MAX:
            self._findings.append(Finding(reason, message, line))

    def note_check_digit(self, mpxn: Mpxn, line: int | None = None) -> None:
        """Say once for each metering point that its check digit is wrong, if it is."""
        if mpxn == self._last_checked:
            return
        self._last_checked = mpxn
        if not mpxn.check_digit_ok and self._shelf.get(mpxn, _NOTED) is None:
            self._shelf.put([(mpxn, _NOTED, b"")])
            kind = "MPAN" if isinstance(mpxn, Mpan) else "MPRN"
            self.find(Note.CHECK_DIGIT, f"the {kind} has a wrong check digit", line)

    def reject(self, line: int, bucket: Bucket, message: str) -> None:
        """A row of which no value can be used."""
        self._rows.by_bucket[bucket] += 1
        self.find(bucket, message, line)

    def take(self, line: int, mpxn: Mpxn, entries: Sequence[Entry]) -> None:
        """A row with its values, at least one."""
        self.note_check_digit(mpxn, line)
        buckets = [self._place(line, mpxn, entry) for entry in entries]
        self._values.total += len(entries)
        if recorded := buckets.count(Bucket.RECORDED):
            self._values.by_bucket[Bucket.RECORDED] += recorded
        self._values.by_bucket.update(b for b in buckets if b is not Bucket.RECORDED)
        row = Bucket.RECORDED if recorded else min(buckets, key=_ORDER.__getitem__)
        self._rows.by_bucket[row] += 1

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
        sentences = _SENTENCES if self._conversion is None else _SENTENCES_OF_VOLUMES
        sentence = f"{entry.label} {sentences[bucket]}"
        if bucket is Bucket.OFF_GRID and isinstance(entry.wh, Bucket):
            sentence += f", and its value is {entry.wh}"
        self.find(bucket, sentence, line)
        if entry.half_hour is not None:
            number, within = divmod(entry.half_hour, PERIODS_PER_UTC_DAY)
            place = self._window.place(mpxn, number) + within
            self._window.lost[place] = self._window.lost[place] or _LOST[bucket]
        return bucket

    def _judge(self, line: int, mpxn: Mpxn, entry: Entry) -> Bucket:
        half_hour, wh, quality, _ = entry
        if half_hour is None:
            return Bucket.OFF_GRID
        if isinstance(wh, Bucket):
            return wh
        if wh > self._most:
            return Bucket.OUT_OF_RANGE
        if quality not in self._codes and not self._accept_code(line, quality):
            return Bucket.UNREADABLE
        number, within = divmod(half_hour, PERIODS_PER_UTC_DAY)
        window, code = self._window, self._codes[quality]
        place = window.place(mpxn, number) + within
        known = window.values[place]
        if known == NOTHING:
            window.values[place], window.codes[place], window.fresh[place] = wh, code, 1
            return Bucket.RECORDED
        same = known == wh and window.codes[place] == code
        return Bucket.DUPLICATE_SAME if same else Bucket.DUPLICATE_OTHER

    def _accept_code(self, line: int, code: str) -> bool:
        """Keep any new code a column can hold; note one that the sector does not list."""
        if len(self._codes) == QUALITY_CODES_MAX or not re.fullmatch(r"[A-Za-z0-9]{0,8}", code):
            return False
        self._codes[code] = len(self._codes)
        if code != NO_QUALITY and code not in QUALITY_CODES_KNOWN:
            self.find(Note.QUALITY_UNKNOWN, f"no list names the quality code {code}", line)
        return True

    def drain(self, *, everything: bool = False) -> MeterDays:
        """The values that came since they were last handed on: of the older days, or of all."""
        taken = self._window.take(everything=everything)
        codes = tuple(sorted(self._codes))
        sorted_index = np.zeros(QUALITY_CODES_MAX + 1, np.uint8)
        for index, code in enumerate(codes):
            sorted_index[self._codes[code]] = index
        values = np.where(taken.fresh, taken.values, np.int32(0))
        conversion = self._conversion
        days = MeterDays(
            mpxns=np.array([mpxn for mpxn, _ in taken.keys], "S13"),
            days=np.array([number for _, number in taken.keys], np.int32),
            present=taken.fresh,
            values_wh=values if conversion is None else conversion.wh(values),
            quality=np.where(taken.fresh, sorted_index[taken.codes], np.uint8(0)),
            quality_codes=codes,
            volumes_dm3=None if conversion is None else values,
            conversion=conversion,
        )
        self._handed_on += days.recorded
        return days

    def finish(self) -> Report:
        """The balanced report, once everything was drained."""
        tally = _HalfHours(self._half_hours, self)
        for mpxn, number, cells in self._shelf.days():
            if number != _NOTED:
                tally.count(mpxn, number, cells)
        left_out = sum(max(0, count - FINDINGS_MAX) for count in self._finding_counts.values())
        report = Report(self._rows, self._values, self._half_hours, tuple(self._findings), left_out)
        recorded = self._half_hours.by_bucket[Bucket.RECORDED]
        if not report.balanced or recorded != self._handed_on:
            raise Bug("the report of a readings file does not balance")
        return report


class _HalfHours:
    """Counts the half hours from each metering point's first stamp to its last, day after day."""

    def __init__(self, tally: Tally, collector: Collector) -> None:
        self._tally, self._collector = tally, collector
        self._mpxn = ""
        self._next: int | None = None

    def count(self, mpxn: str, number: int, cells: bytes) -> None:
        """The next day, by metering point and number."""
        kept, lost = named(cells)
        first = number * PERIODS_PER_UTC_DAY
        if mpxn != self._mpxn:
            self._mpxn, self._next = mpxn, None
        recorded = int(np.count_nonzero(kept))
        by_bucket = self._tally.by_bucket
        by_bucket[Bucket.RECORDED] += recorded
        self._tally.total += recorded
        if recorded == PERIODS_PER_UTC_DAY:
            self._reach(first, first + PERIODS_PER_UTC_DAY)
            return
        for within, has_value in enumerate(kept.tolist()):
            if not has_value and not lost[within]:
                continue
            self._reach(first + within, first + within + 1)
            if not has_value:
                by_bucket[_BUCKETS[lost[within] - 1]] += 1
                self._tally.total += 1

    def _reach(self, start: int, end: int) -> None:
        """Something is said of these half hours; what lies between them and the last is missing."""
        if self._next is not None and (absent := start - self._next):
            self._tally.by_bucket[Bucket.MISSING] += absent
            self._tally.total += absent
            gap = Interval(half_hour_start(self._next), half_hour_start(start))
            message = f"nothing from {gap.start:{STAMP}} to {gap.end:{STAMP}}"
            self._collector.find(Bucket.MISSING, message)
        self._next = end
