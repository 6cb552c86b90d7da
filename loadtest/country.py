"""A country of metering points, made from a seed: the same numbers give the same bytes anywhere.

Every attribute of a metering point is a hash of the seed and its index, and every meter-day one of
the seed, the index and the day. So any block of any day can be made alone, in any order, by any
process, and whoever checks an answer makes again what was sent instead of remembering it.

The daily shapes are real days of real homes (`shapes.csv`, licences in README.md), scaled and
shaken. Everything here is columns: no Python runs for a single meter.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cache, cached_property, lru_cache
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from domains.metering.adapters.report import MeterDays
from spine.gb import MPAN_WEIGHTS, PERIODS_PER_UTC_DAY, GspGroup, host_gsp_group, london

Ints = npt.NDArray[np.uint64]

SUPPLIERS: Final = tuple(f"supplier-{name}" for name in ("ash", "beech", "cedar", "elm", "oak"))
DATA_SERVICES: Final = ("data-service-lark", "data-service-wren")
SENDERS: Final = SUPPLIERS + DATA_SERVICES
# The first instant of everything: registrations, supplies, appointments, tenancies.
SINCE: Final = datetime(2024, 1, 1, tzinfo=UTC)
# Both clock changes of 2024; a run over several days takes them first.
CLOCK_CHANGES: Final = (date(2024, 3, 31), date(2024, 10, 27))
QUALITY_CODES: Final = ("A", "E")
HOSTS: Final = tuple(range(10, 24))
INDEPENDENTS: Final = tuple(range(24, 39))
UNIQUE_NUMBERS: Final = 10**10
# Odd and no multiple of 5, so that every index below 10^9 gets a number of its own.
STRIDE: Final = 6_180_339_887
SHAKES: Final = 1_021
GAP_MAX: Final = 8


@dataclass(frozen=True, slots=True)
class Rates:
    """How often things go as they do in life, each in so many of 10,000."""

    wrong_check_digit: int = 10  # of metering points; a finding, and recorded all the same
    unregistered: int = 10  # of metering points: every row of them is refused
    misdirected: int = 10  # of meter-days: sent by somebody who is not appointed
    independent: int = 1_200  # of metering points: in the network of an independent distributor
    data_service: int = 2_000  # of metering points: a data service sends, and not the supplier
    estimated: int = 200  # of meter-days, whole
    gap: int = 100  # of meter-days: 1 to 8 half hours are missing
    late: int = 100  # of meter-days: delivered with those of the next day
    corrected: int = 50  # of meter-days: sent again later with other values
    duplicate: int = 100  # of deliveries: sent twice


RATES: Final = Rates()


def _mixed(numbers: Ints) -> Ints:
    """The finaliser of SplitMix64 (Steele, Lea, Flood 2014); uint64 wraps as it wants."""
    mixed = numbers + np.uint64(0x9E37_79B9_7F4A_7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58_476D_1CE4_E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D0_49BB_1331_11EB)
    out: Ints = mixed ^ (mixed >> np.uint64(31))
    return out


@dataclass(frozen=True, slots=True)
class Meters:
    """Metering points as columns, (n,) each: number, who sends, who supplies, where, how much."""

    index: Ints
    mpans: npt.NDArray[np.bytes_]
    sender: npt.NDArray[np.int64]  # into SENDERS
    supplier: npt.NDArray[np.int64]  # into SUPPLIERS
    gsp_group: npt.NDArray[np.int64]  # into GSP_GROUPS
    registered: npt.NDArray[np.bool_]
    check_digit_ok: npt.NDArray[np.bool_]
    scale: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.index)

    def take(self, rows: npt.NDArray[np.bool_] | npt.NDArray[np.int64]) -> Meters:
        """Those only."""
        columns = (getattr(self, name) for name in self.__slots__)
        return Meters(*(column[rows] for column in columns))


GSP_GROUPS: Final = tuple(GspGroup)


@cache
def shapes() -> npt.NDArray[np.float32]:
    """Real days, (n, 48): Wh in each half hour of a local day."""
    with (Path(__file__).parent / "shapes.csv").open(newline="") as file:
        rows = [[int(value) for value in row[2:]] for row in list(csv.reader(file))[1:]]
    return np.array(rows, np.float32)


@cache
def _shakes() -> npt.NDArray[np.float32]:
    """Factors from 0.75 to 1.25 by which a real day becomes another one, (SHAKES, 48)."""
    count = SHAKES * PERIODS_PER_UTC_DAY
    thousandths = _mixed(np.arange(count, dtype=np.uint64)) % np.uint64(501)
    factors = (thousandths.astype(np.float32) + np.float32(750)) / np.float32(1000)
    return factors.reshape(SHAKES, PERIODS_PER_UTC_DAY)


@lru_cache(maxsize=1024)
def local_slots(day: date) -> npt.NDArray[np.int64]:
    """The half hour of the local day, 0 to 47, that each half hour of a UTC day falls in, (48,).

    People live by the clock: in summer, and from within the day on which it changes, the shape of
    a day stands an hour earlier in UTC.
    """
    start = datetime(day.year, day.month, day.day, tzinfo=UTC)
    halves = (start + timedelta(minutes=30 * n) for n in range(PERIODS_PER_UTC_DAY))
    local = (half.astimezone(london()) for half in halves)
    return np.array([at.hour * 2 + at.minute // 30 for at in local], np.int64)


def day_number(day: date) -> int:
    """Days since 1970-01-01, as the log counts them."""
    return day.toordinal() - date(1970, 1, 1).toordinal()


@dataclass(frozen=True)
class Country:
    """`meters` metering points under a seed. Blocks are half-open ranges of their indexes."""

    meters: int
    seed: int = 2024
    rates: Rates = RATES

    @cached_property
    def _salt(self) -> np.uint64:
        return np.uint64(_mixed(np.array([self.seed], np.uint64))[0])

    def _draw(self, index: Ints, what: int, day: int = 0) -> Ints:
        """A number for each index that depends on nothing else but seed, purpose and day."""
        purpose = np.uint64((what << 32) | day)
        return _mixed(_mixed(index ^ self._salt) + _mixed(np.array([purpose], np.uint64)))

    def _chance(
        self, index: Ints, what: int, per_10_000: int, day: int = 0
    ) -> npt.NDArray[np.bool_]:
        return self._draw(index, what, day) % np.uint64(10_000) < per_10_000

    def block(self, start: int, end: int) -> Meters:
        """The metering points of those indexes."""
        index = np.arange(start, min(end, self.meters), dtype=np.uint64)
        rates = self.rates
        independent = self._chance(index, 1, rates.independent)
        where = self._draw(index, 2)
        host = np.array(HOSTS)[where % np.uint64(len(HOSTS))]
        other = np.array(INDEPENDENTS)[where % np.uint64(len(INDEPENDENTS))]
        distributor = np.where(independent, other, host)
        by_host = np.array([GSP_GROUPS.index(_group(str(number))) for number in HOSTS])
        supplier = self._draw(index, 3) % np.uint64(len(SUPPLIERS))
        service = self._draw(index, 4) % np.uint64(len(DATA_SERVICES)) + np.uint64(len(SUPPLIERS))
        by_service = self._chance(index, 5, rates.data_service)
        wrong = self._chance(index, 6, rates.wrong_check_digit)
        spread = (self._draw(index, 8) % np.uint64(1_000)).astype(np.float32)
        return Meters(
            index,
            _mpans(distributor, index, wrong),
            np.where(by_service, service, supplier).astype(np.int64),
            supplier.astype(np.int64),
            by_host[host - HOSTS[0]],
            ~self._chance(index, 7, rates.unregistered),
            ~wrong,
            np.float32(0.25) + spread / np.float32(500),
        )

    def misdirected(self, meters: Meters, day: date) -> npt.NDArray[np.bool_]:
        """Whose readings of that day are sent by a party that is not appointed."""
        return self._chance(meters.index, 9, self.rates.misdirected, day_number(day))

    def late(self, meters: Meters, day: date) -> npt.NDArray[np.bool_]:
        """Whose readings of that day come with those of the next."""
        return self._chance(meters.index, 10, self.rates.late, day_number(day))

    def corrected(self, meters: Meters, day: date) -> npt.NDArray[np.bool_]:
        """Whose readings of that day are sent again later, with other values."""
        return self._chance(meters.index, 11, self.rates.corrected, day_number(day))

    def repeated(self, delivery: int, day: date) -> bool:
        """Whether the delivery of that number is sent twice."""
        index = np.array([delivery], np.uint64)
        return bool(self._chance(index, 12, self.rates.duplicate, day_number(day))[0])

    def day(self, meters: Meters, day: date, version: int = 0) -> MeterDays:
        """The readings of these meters on that UTC day; a correction is a later version."""
        number, index = day_number(day), meters.index
        drawn = self._draw(index, 13 + version, number)
        picked = shapes()[drawn % np.uint64(len(shapes()))][:, local_slots(day)]
        shaken = _shakes()[(drawn >> np.uint64(16)) % np.uint64(SHAKES)]
        values = (picked * shaken * meters.scale[:, np.newaxis]).astype(np.int32)
        present = np.ones(values.shape, np.bool_)
        gaps = np.flatnonzero(self._chance(index, 14, 0 if version else self.rates.gap, number))
        first = (drawn[gaps] >> np.uint64(32)) % np.uint64(PERIODS_PER_UTC_DAY - GAP_MAX)
        length = np.uint64(1) + (drawn[gaps] >> np.uint64(48)) % np.uint64(GAP_MAX)
        places = np.arange(PERIODS_PER_UTC_DAY, dtype=np.uint64)
        start = first[:, np.newaxis]
        present[gaps] = (places < start) | (places >= start + length[:, np.newaxis])
        values[~present] = 0
        estimated = self._chance(index, 15, 0 if version else self.rates.estimated, number)
        quality = np.zeros(values.shape, np.uint8)
        quality[estimated] = 1
        quality[~present] = 0
        days = np.full(len(index), number, np.int32)
        return MeterDays(meters.mpans, days, present, values, quality, QUALITY_CODES)


def _group(distributor: str) -> GspGroup:
    group = host_gsp_group(distributor)
    assert group is not None
    return group


def _mpans(
    distributor: npt.NDArray[np.int64], index: Ints, wrong: npt.NDArray[np.bool_]
) -> npt.NDArray[np.bytes_]:
    """13 digits: distributor, a number of its own, and the check digit, or the one after it."""
    unique = (index * np.uint64(STRIDE) % np.uint64(UNIQUE_NUMBERS)).astype(np.int64)
    body = distributor * UNIQUE_NUMBERS + unique
    places = 10 ** np.arange(11, -1, -1, dtype=np.int64)
    digits = body[:, np.newaxis] // places % 10
    check = (digits * MPAN_WEIGHTS).sum(axis=1) % 11 % 10
    check = np.where(wrong, (check + 1) % 10, check)
    octets = np.empty((len(index), 13), np.uint8)
    octets[:, :12] = digits + ord("0")
    octets[:, 12] = check + ord("0")
    return octets.reshape(-1).view("S13")
