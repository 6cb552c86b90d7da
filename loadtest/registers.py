"""A country's registers as bulk records, for countries too large to be loaded by commands.

The facts are those that the coordinators decide of `loading`'s commands, many commands to a record,
signed with the coordinators' keys and appended without them: a fold cannot tell. How fast commands
are is for `registry` to measure.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from typing import Final

import numpy as np

from domains.consumers.decider import CONSUMERS
from domains.consumers.events import AgentAppointed, SupplyStarted
from domains.metering import METERING
from domains.metering.events import (
    EnergyDirection,
    Fuel,
    MeasurementQuantity,
    MeteringPointRegistered,
)
from domains.metering.readings import partitions_of
from loadtest.country import (
    DATA_SERVICES,
    GSP_GROUPS,
    SENDERS,
    SINCE,
    SUPPLIERS,
    Country,
    Meters,
)
from loadtest.deliveries import BLOCK
from loadtest.direct import ToAppend, append_all, wait_until_folded
from loadtest.installation import CONSENTS_BY, Installation, Note
from spine import trust
from spine.codec import Codec
from spine.domain import Domain
from spine.event import NO_PREDECESSOR, Command, Fact, Facts, RecordType, SignerRole
from spine.orders import COMMANDS_PER_RECORD
from spine.policy import Role
from spine.runtime import Runtime

ACTOR: Final = f"{Role.CONSENT_SERVICE}/{CONSENTS_BY}"


def append_registers(spine: Installation, country: Country, note: Note) -> float:
    """Supplies, appointments and registrations of all metering points. The coordinators are away
    meanwhile; metering comes back and folds them, and no other. So does the readings process, which
    goes again: what is timed later are readings. Seconds in which metering learnt what it keeps at
    hand of them, after it had folded them.
    """
    spine.stop("metering", "consumers", "governance")
    asyncio.run(append_all(spine, _records(spine.runtime, country, note)))
    spine.launch("metering")
    spine.launch("readings")
    wait_until_folded(spine, "metering", [trust.METERING_TOPIC, trust.CONSUMER_LOG], note)
    wait_until_folded(spine, "readings", [trust.METERING_TOPIC], note)
    spine.stop("readings")
    spine.wait_for("metering")
    note("metering learns what it keeps at hand", 0, 0)
    return spine.wait_idle("metering")


def _records(runtime: Runtime, country: Country, note: Note) -> Iterator[ToAppend]:
    bodies = Bodies(runtime.codec, datetime.now(UTC))
    for start in range(0, country.meters, BLOCK):
        meters = country.block(start, start + BLOCK)
        partition_of = partitions_of(meters.mpans, runtime.partitions)
        for partition in range(runtime.partitions):
            here = meters.take(np.flatnonzero(partition_of == partition))
            registered = here.take(here.registered)
            for role, topic, commands in (
                (SignerRole.CONSUMERS, trust.CONSUMER_LOG, bodies.supplies(here)),
                (SignerRole.METERING, trust.METERING_TOPIC, bodies.registrations(registered)),
            ):
                for first in range(0, len(commands), COMMANDS_PER_RECORD):
                    together = tuple(commands[first : first + COMMANDS_PER_RECORD])
                    facts = Facts(topic, partition, together)
                    yield ToAppend(role, RecordType.FACTS, topic, partition, facts)
        note("registers", start, country.meters)


class Bodies:
    """The facts that there can be, each written once: a country has few kinds of them."""

    def __init__(self, codec: Codec, now: datetime) -> None:
        def fact(domain: Domain, event: object) -> Fact:
            return Fact(domain.event_type(event), now, codec.encode(event))

        self._registered = [
            fact(
                METERING,
                MeteringPointRegistered(
                    Fuel.ELECTRICITY,
                    group,
                    EnergyDirection.IMPORT,
                    MeasurementQuantity.ACTIVE_IMPORT,
                    SINCE,
                    now,
                ),
            )
            for group in GSP_GROUPS
        ]
        self._supplied = [fact(CONSUMERS, SupplyStarted(supplier, SINCE)) for supplier in SUPPLIERS]
        self._appointed = [
            fact(CONSUMERS, AgentAppointed(agent, Role.DATA_SERVICE, SINCE)) for agent in SENDERS
        ]

    def registrations(self, meters: Meters) -> Sequence[Command]:
        """A command for each of these metering points."""
        rows = zip(meters.mpans.tolist(), meters.gsp_group.tolist(), strict=True)
        return [_command(b"r-", mpan, (self._registered[group],)) for mpan, group in rows]

    def supplies(self, meters: Meters) -> Sequence[Command]:
        """A command for each: its supply, and who else serves it, if anybody."""
        rows = zip(
            meters.mpans.tolist(), meters.supplier.tolist(), meters.sender.tolist(), strict=True
        )
        return [
            _command(
                b"s-",
                mpan,
                (self._supplied[supplier], self._appointed[sender])
                if SENDERS[sender] in DATA_SERVICES
                else (self._supplied[supplier],),
            )
            for mpan, supplier, sender in rows
        ]


def _command(kind: bytes, mpan: bytes, facts: tuple[Fact, ...]) -> Command:
    digest = sha256(kind + mpan).digest()
    return Command(digest[:16], mpan.decode(), digest, NO_PREDECESSOR, NO_PREDECESSOR, ACTOR, facts)
