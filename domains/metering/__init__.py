"""Metering: the registry of metering points, and their readings as batches of meter-days.

Three values for the command line to hand to the spine: `METERING` is the chained facts of each
metering point, `READINGS` the columnar batches, which no chain orders, `AGGREGATES` what was
published of many meters together. All are signed by the metering coordinator.
"""

from __future__ import annotations

from typing import Final, Never

from domains.metering import (
    decider,
    events,
    history,
    publications,
    readings,
    rows,
    withdrawals,
)
from spine.domain import Domain
from spine.errors import Bug
from spine.event import SignerRole
from spine.trust import AGGREGATES_TOPIC, METERING_TOPIC, READINGS_TOPIC

__all__ = ["AGGREGATES", "METERING", "READINGS"]


def _no_facts(*_: object) -> Never:
    raise Bug("readings and aggregates are batches: they have no commands, facts or state")


METERING: Final = Domain(
    name="metering",
    topic=METERING_TOPIC,
    signer=SignerRole.METERING,
    version=2,
    events={
        f"metering.{event.__name__}": event
        for event in (
            events.MeteringPointRegistered,
            events.MeteringPointDeregistered,
            events.MeterCommunicationLost,
            events.MeterCommunicationRestored,
        )
    },
    state_type=events.MeteringPoint,
    initial=events.MeteringPoint,
    evolve=events.evolve,
    decide=decider.decide,
)

READINGS: Final = Domain(
    name="metering",
    topic=READINGS_TOPIC,
    signer=SignerRole.METERING,
    version=2,
    events={},
    state_type=type(None),
    initial=lambda: None,
    evolve=_no_facts,
    decide=_no_facts,
    records={
        "metering.ReadingsBatch": readings.ReadingsBatch,
        "metering.GasVolumeBatch": readings.GasVolumeBatch,
        "metering.ReadingsWithdrawn": withdrawals.ReadingsWithdrawn,
    },
    fold_batch=rows.fold_batch,
    batch_problem=withdrawals.record_problem,
    note_refused=rows.note_refused,
    history=history.LAYOUT,
)

AGGREGATES: Final = Domain(
    name="metering",
    topic=AGGREGATES_TOPIC,
    signer=SignerRole.METERING,
    version=1,
    events={},
    state_type=type(None),
    initial=lambda: None,
    evolve=_no_facts,
    decide=_no_facts,
    records={"metering.AggregatesPublished": publications.AggregatesPublished},
    fold_batch=publications.fold_publication,
    batch_problem=publications.publication_problem,
)
