"""What the families of one row a day share: 48 columns of kWh, whatever their names.

48 columns name every half hour of a day only if the day always has 48, so the days of these files
are UTC days: none follows the clock change. The one sample that spans such a day (27 October 2019)
fills all its 48 columns and no more.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from functools import lru_cache

from domains.metering.adapters.collecting import Collector, Entry
from domains.metering.adapters.report import NO_QUALITY, Bucket
from domains.metering.adapters.stamps import date_of, first_of
from domains.metering.adapters.tables import wh_in
from spine.gb import PERIODS_PER_UTC_DAY, Mpan

COLUMNS = PERIODS_PER_UTC_DAY


def clock(minutes: int) -> str:
    """The time of day so many minutes after midnight, 24:00 for the last."""
    return f"{minutes // 60:02}:{minutes % 60:02}"


STARTS = tuple(clock(30 * n) for n in range(COLUMNS))
ENDS = tuple(clock(30 * n) for n in range(1, COLUMNS + 1))


def take_day(collector: Collector, line: int, mpan: Mpan, text: str, kwhs: Sequence[str]) -> None:
    """A row of 48 values, the nth being the nth half hour of its day."""
    day = date_of(text)
    if day is None:
        collector.reject(line, Bucket.UNREADABLE, "the date cannot be read")
        return
    first, labels = first_of(day), _labels(day)
    collector.take(
        line,
        mpan,
        [
            Entry(first + n, wh_in(collector, line, kwh), NO_QUALITY, labels[n])
            for n, kwh in enumerate(kwhs)
        ],
    )


@lru_cache(maxsize=1 << 10)
def _labels(day: date) -> tuple[str, ...]:
    """What findings call the half hours of a day."""
    return tuple(f"{day} {start}" for start in STARTS)
