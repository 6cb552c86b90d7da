"""What happens to a metering point in the registry, and the state that follows from it.

A metering point is registered once and deregistered at most once: its number is never used again
for another point. Readings are not facts of this chain; they travel in batches (`readings`).
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Final, assert_never

from msgspec import Struct
from msgspec.structs import replace

from spine.errors import Reason, Refused
from spine.gb import Interval, utc


class Fuel(StrEnum):
    """What the point meters."""

    ELECTRICITY = "ELECTRICITY"
    GAS = "GAS"


class EnergyDirection(StrEnum):
    """Which way the energy flows, seen from the premises. A site that does both has two points."""

    IMPORT = "IMPORT"
    EXPORT = "EXPORT"


class MeasurementQuantity(StrEnum):
    """Active (A) or reactive (R) energy, imported (I) or exported (E)."""

    ACTIVE_IMPORT = "AI"
    ACTIVE_EXPORT = "AE"
    REACTIVE_IMPORT = "RI"
    REACTIVE_EXPORT = "RE"

    @property
    def direction(self) -> EnergyDirection:
        """The way of flow that this quantity counts."""
        return _DIRECTIONS[self]


_DIRECTIONS: Final = {
    quantity: EnergyDirection.IMPORT if quantity.endswith("I") else EnergyDirection.EXPORT
    for quantity in MeasurementQuantity
}


class MeteringPointRegistered(Struct, frozen=True):
    """The metering point is known to the spine; readings from `registered_from` on are accepted.

    `gsp_group` is empty where it is not known, and always for gas.
    """

    fuel: str
    gsp_group: str
    energy_direction: str
    measurement_quantity: str
    registered_from: datetime
    decided_at: datetime


class MeteringPointDeregistered(Struct, frozen=True):
    """The metering point ended; readings from `effective_to` on are refused, earlier ones stay."""

    effective_to: datetime
    decided_at: datetime


class MeterCommunicationLost(Struct, frozen=True):
    """The meter does not communicate from then on; values that came are not touched."""

    effective_from: datetime
    decided_at: datetime


class MeterCommunicationRestored(Struct, frozen=True):
    """The meter communicates from `effective_to` on: its silence ended there."""

    effective_to: datetime
    decided_at: datetime


MeteringEvent = (
    MeteringPointRegistered
    | MeteringPointDeregistered
    | MeterCommunicationLost
    | MeterCommunicationRestored
)


class Silence(Struct, frozen=True):
    """A stretch in which the meter does not communicate; no `effective_to` while it lasts."""

    effective_from: datetime
    effective_to: datetime | None = None


class MeteringPoint(Struct, frozen=True):
    """A metering point as its own chain of facts tells it. Instants are UTC."""

    fuel: Fuel = Fuel.ELECTRICITY
    gsp_group: str = ""
    energy_direction: EnergyDirection = EnergyDirection.IMPORT
    measurement_quantity: MeasurementQuantity = MeasurementQuantity.ACTIVE_IMPORT
    registered_from: datetime | None = None
    effective_to: datetime | None = None
    silences: tuple[Silence, ...] = ()

    @property
    def registered(self) -> bool:
        """Whether it was ever registered; the number of a deregistered point stays taken."""
        return self.registered_from is not None


def evolve(state: MeteringPoint, event: MeteringEvent) -> MeteringPoint:
    """The metering point after one more fact; ValueError for a code that no list holds."""
    match event:
        case MeteringPointRegistered():
            return MeteringPoint(
                Fuel(event.fuel),
                event.gsp_group,
                EnergyDirection(event.energy_direction),
                MeasurementQuantity(event.measurement_quantity),
                utc(event.registered_from),
            )
        case MeteringPointDeregistered():
            if state.registered_from is None:
                raise Refused(Reason.METER_NOT_REGISTERED, "no such metering point is registered")
            ended = Interval(state.registered_from, event.effective_to)
            return replace(state, effective_to=ended.end)
        case MeterCommunicationLost():
            return replace(state, silences=_silent_from(state.silences, utc(event.effective_from)))
        case MeterCommunicationRestored():
            return replace(state, silences=_silent_to(state.silences, utc(event.effective_to)))
        case _:
            assert_never(event)


def _silent_from(silences: tuple[Silence, ...], start: datetime) -> tuple[Silence, ...]:
    """Silent from `start` on: what was said of later times is part of that."""
    if any(s.effective_to is None and s.effective_from <= start for s in silences):
        return silences
    before = [s for s in silences if s.effective_from < start]
    if before and (end := before[-1].effective_to) is not None and end >= start:
        start = before.pop().effective_from
    return (*before, Silence(start))


def _silent_to(silences: tuple[Silence, ...], end: datetime) -> tuple[Silence, ...]:
    """Silent until `end` at the most."""
    before = (s for s in silences if s.effective_from < end)
    return tuple(
        s if s.effective_to is not None and s.effective_to <= end else replace(s, effective_to=end)
        for s in before
    )
