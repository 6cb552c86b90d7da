"""GB identifiers and the GB calendar: parse once, then trust.

A value of a type in this module is well formed; nothing checks it again. What cannot be parsed
raises `Invalid` with a stable reason and never repeats the identifier, for a meter's number is
personal data and errors travel.

Two calendars meet here. The market's settlement day is a local day of 46, 48 or 50 periods; the
log's day is a UTC day of always 48. Both count the same half hours, so everything is reduced to
one whole number: the half hours since 1970-01-01T00:00Z. Time zone rules come from the pinned
`tzdata` package and never from the machine, so that every server converts alike and
`tzdata_version()` names the rules that were truly used.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from functools import cache, lru_cache
from importlib import import_module, resources
from typing import Self
from zoneinfo import ZoneInfo

from msgspec import Struct
from msgspec.structs import force_setattr

from spine.errors import Invalid, Reason

MPAN_DIGITS = 13
MPRN_DIGITS_MIN = 6
MPRN_DIGITS_MAX = 10
PERIODS_PER_UTC_DAY = 48
HALF_HOUR = timedelta(minutes=30)
# Half-hourly settlement in GB began with the Pool in 1990; a date outside is a slip of the pen.
FIRST_DATE = date(1990, 1, 1)
LAST_DATE = date(2099, 12, 31)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# The end of what has none yet.
FOR_EVER = datetime(9999, 12, 31, tzinfo=UTC)
MPAN_WEIGHTS = (3, 5, 7, 13, 17, 19, 23, 29, 31, 37, 41, 43)


# Identifiers


def _is_digits(text: str) -> bool:
    return text.isascii() and text.isdigit()


class GspGroup(StrEnum):
    """A grid supply point group, the region of settlement. There is no `_I` and no `_O`."""

    EASTERN = "_A"
    EAST_MIDLANDS = "_B"
    LONDON = "_C"
    MERSEYSIDE_AND_NORTH_WALES = "_D"
    WEST_MIDLANDS = "_E"
    NORTH_EASTERN = "_F"
    NORTH_WESTERN = "_G"
    SOUTHERN = "_H"
    SOUTH_EASTERN = "_J"
    SOUTH_WALES = "_K"
    SOUTH_WESTERN = "_L"
    YORKSHIRE = "_M"
    SOUTHERN_SCOTLAND = "_N"
    NORTHERN_SCOTLAND = "_P"

    @classmethod
    def _missing_(cls, value: object) -> Self:
        raise Invalid(Reason.GSP_GROUP_UNKNOWN, "no such GSP group", field="gsp_group")


# The host distributors 10 to 23 in order.
_HOST_GSP_GROUPS = {
    str(number): GspGroup(f"_{letter}") for number, letter in enumerate("ABCDEFGPNJHKLM", 10)
}


def host_gsp_group(distributor_id: str) -> GspGroup | None:
    """The group of a host distributor (10 to 23); an independent one (24 up) tells nothing."""
    return _HOST_GSP_GROUPS.get(distributor_id)


class Mpan(str):
    """An electricity metering point: 13 digits. A wrong check digit is a finding, not a flaw."""

    __slots__ = ()

    def __new__(cls, text: str) -> Self:
        if len(text) != MPAN_DIGITS or not _is_digits(text):
            raise Invalid(Reason.MPAN_FORMAT, "an MPAN is exactly 13 digits", field="mpan")
        return super().__new__(cls, text)

    @property
    def check_digit_ok(self) -> bool:
        """Whether the last digit is the one that the first twelve call for."""
        weighed = sum(int(d) * w for d, w in zip(self, MPAN_WEIGHTS, strict=False))
        return weighed % 11 % 10 == int(self[-1])

    @property
    def distributor_id(self) -> str:
        """The two digits that name the distribution business."""
        return self[:2]

    @property
    def host_gsp_group(self) -> GspGroup | None:
        """The region, where the distributor id alone tells it."""
        return host_gsp_group(self.distributor_id)


class Mprn(str):
    """A gas metering point: 6 to 10 digits. A wrong check digit is a finding, not a flaw."""

    __slots__ = ()

    def __new__(cls, text: str) -> Self:
        if not MPRN_DIGITS_MIN <= len(text) <= MPRN_DIGITS_MAX or not _is_digits(text):
            raise Invalid(Reason.MPRN_FORMAT, "an MPRN is 6 to 10 digits", field="mprn")
        return super().__new__(cls, text)

    @property
    def check_digit_ok(self) -> bool:
        """Whether the last two digits are those that the others call for."""
        body = self[:-2]
        weighed = sum(int(d) * (len(body) - i) for i, d in enumerate(body))
        return weighed % 11 == int(self[-2:])


Mpxn = Mpan | Mprn


def parse_mpxn(text: str) -> Mpxn:
    """An MPAN of 13 digits or an MPRN of 6 to 10; the fuel's own type where the fuel is known."""
    if _is_digits(text) and len(text) == MPAN_DIGITS:
        return Mpan(text)
    if _is_digits(text) and MPRN_DIGITS_MIN <= len(text) <= MPRN_DIGITS_MAX:
        return Mprn(text)
    message = "a metering point is an MPAN of 13 digits or an MPRN of 6 to 10"
    raise Invalid(Reason.MPXN_FORMAT, message, field="mpxn")


class Mpid(str):
    """A market participant id: four upper-case characters. One company may hold several."""

    __slots__ = ()

    def __new__(cls, text: str) -> Self:
        if not re.fullmatch(r"[A-Z0-9]{4}", text):
            message = "a market participant id is four upper-case characters"
            raise Invalid(Reason.MPID_FORMAT, message, field="mpid")
        return super().__new__(cls, text)


# Time zone rules


@cache
def london() -> ZoneInfo:
    """The rules of Europe/London from the pinned package, whatever the machine has."""
    rules = resources.files("tzdata").joinpath("zoneinfo", "Europe", "London")
    with rules.open("rb") as file:
        return ZoneInfo.from_file(file, key="Europe/London")


@cache
def tzdata_version() -> str:
    """The IANA version of the rules in use, such as 2026a; outcomes record it."""
    return str(import_module("tzdata").IANA_VERSION)


# Half hours


def utc(instant: datetime) -> datetime:
    """The same instant in UTC; a time without a zone is not an instant and is refused."""
    if instant.tzinfo is UTC:
        return instant
    if instant.utcoffset() is None:
        raise Invalid(Reason.TIME_INVALID, "a time needs a zone", field="time")
    return instant.astimezone(UTC)


def iso_milliseconds(instant: datetime) -> str:
    """A UTC instant as signed texts and messages have it: to the millisecond, with a Z."""
    return instant.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def half_hour_of(instant: datetime) -> int:
    """The half hour that holds the instant, counted from 1970-01-01T00:00Z."""
    return (utc(instant) - _EPOCH) // HALF_HOUR


def half_hour_start(half_hour: int) -> datetime:
    """The UTC instant at which that half hour starts."""
    return _EPOCH + half_hour * HALF_HOUR


def first_half_hour_from(instant: datetime) -> int:
    """The first half hour that starts at this instant or after it."""
    return half_hour_of(instant + HALF_HOUR - datetime.resolution)


def on_the_grid(instant: datetime) -> bool:
    """Whether a half hour starts at exactly this instant."""
    return half_hour_start(half_hour_of(instant)) == utc(instant)


def utc_day_and_period(instant: datetime) -> tuple[int, int]:
    """The UTC day (days since 1970-01-01) and its period, 1 to 48, as MHHS messages count."""
    day, index = divmod(half_hour_of(instant), PERIODS_PER_UTC_DAY)
    return day, index + 1


def utc_half_hour(day: int, period: int) -> Interval:
    """The half hour of a UTC day (days since 1970-01-01) and its period, 1 to 48."""
    if not 1 <= period <= PERIODS_PER_UTC_DAY:
        message = "a UTC day has periods 1 to 48"
        raise Invalid(Reason.SETTLEMENT_PERIOD_INVALID, message, field="period")
    return Interval.of_half_hour(day * PERIODS_PER_UTC_DAY + period - 1)


class Interval(Struct, frozen=True, order=True):
    """A stretch of time [start, end): the start belongs to it, the end does not. Always UTC."""

    start: datetime
    end: datetime

    def __post_init__(self) -> None:
        if self.start.tzinfo is not UTC or self.end.tzinfo is not UTC:
            force_setattr(self, "start", utc(self.start))
            force_setattr(self, "end", utc(self.end))
        if self.end <= self.start:
            message = "an interval ends after it starts"
            raise Invalid(Reason.INTERVAL_INVALID, message, field="interval")

    @classmethod
    def of_half_hour(cls, half_hour: int) -> Self:
        """The stretch of one half hour, counted from 1970-01-01T00:00Z."""
        return cls(half_hour_start(half_hour), half_hour_start(half_hour + 1))

    def __contains__(self, instant: datetime) -> bool:
        return self.start <= utc(instant) < self.end

    def contains(self, other: Interval) -> bool:
        """Whether the whole of the other lies within this one."""
        return self.start <= other.start and other.end <= self.end

    def intersect(self, other: Interval) -> Interval | None:
        """What both have in common, if anything."""
        if other.contains(self):  # as most often: nothing need be made
            return self
        start, end = max(self.start, other.start), min(self.end, other.end)
        return Interval(start, end) if start < end else None

    def half_hours(self) -> Iterator[Interval]:
        """Its half hours in order; both its ends must lie on the half-hour grid."""
        if not (on_the_grid(self.start) and on_the_grid(self.end)):
            message = "both ends must be on the hour or the half hour"
            raise Invalid(Reason.INTERVAL_INVALID, message, field="interval")
        return map(Interval.of_half_hour, range(half_hour_of(self.start), half_hour_of(self.end)))


# Settlement days and periods (local)


@lru_cache(maxsize=4096)
def _first_half_hour(local: date) -> int:
    return half_hour_of(datetime(local.year, local.month, local.day, tzinfo=london()))


@dataclass(frozen=True, slots=True, order=True)
class SettlementDate:
    """A settlement day: the local day in London, of 46, 48 or 50 half hours."""

    local: date

    def __post_init__(self) -> None:
        if isinstance(self.local, datetime) or not FIRST_DATE <= self.local <= LAST_DATE:
            message = f"a settlement date is a day from {FIRST_DATE} to {LAST_DATE}"
            raise Invalid(Reason.TIME_INVALID, message, field="settlement_date")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `YYYY-MM-DD`, and no other of the forms that ISO 8601 knows."""
        if re.fullmatch(r"\d{4}-\d\d-\d\d", text, re.ASCII):
            try:
                return cls(date.fromisoformat(text))
            except ValueError:
                pass
        message = "a date is written YYYY-MM-DD"
        raise Invalid(Reason.TIME_INVALID, message, field="settlement_date")

    @classmethod
    def at(cls, instant: datetime) -> Self:
        """The settlement day that holds the instant."""
        return cls(utc(instant).astimezone(london()).date())

    @property
    def first_half_hour(self) -> int:
        """The half hour, counted from 1970-01-01T00:00Z, that starts at local midnight."""
        return _first_half_hour(self.local)

    @property
    def periods(self) -> int:
        """46 on the spring change, 50 on the autumn change, else 48."""
        return _first_half_hour(self.local + timedelta(days=1)) - self.first_half_hour

    @property
    def interval(self) -> Interval:
        """From local midnight to the next local midnight."""
        first = self.first_half_hour
        return Interval(half_hour_start(first), half_hour_start(first + self.periods))

    def __str__(self) -> str:
        return self.local.isoformat()


@dataclass(frozen=True, slots=True, order=True)
class SettlementPeriod:
    """A half hour as the market names it: settlement date and period, from 1 at local midnight."""

    date: SettlementDate
    number: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.date.periods:
            message = f"{self.date} has periods 1 to {self.date.periods}"
            raise Invalid(Reason.SETTLEMENT_PERIOD_INVALID, message, field="settlement_period")

    @classmethod
    def at(cls, instant: datetime) -> Self:
        """The settlement period that holds the instant."""
        day = SettlementDate.at(instant)
        return cls(day, half_hour_of(instant) - day.first_half_hour + 1)

    @property
    def half_hour(self) -> int:
        """The same half hour, counted from 1970-01-01T00:00Z."""
        return self.date.first_half_hour + self.number - 1

    @property
    def interval(self) -> Interval:
        """The same half hour as a UTC interval."""
        return Interval.of_half_hour(self.half_hour)


def periods_in(local: date) -> int:
    """How many settlement periods a local day has: 46, 48 or 50."""
    return SettlementDate(local).periods
