"""The metering coordinator: the `Metering` service of `proto/spine/metering/v1` and its process.

Registry commands go the way of all commands, through the coordinator. Readings are columns and go
another way (`recording`). Their topic is not folded here; what was appended before is known from a
cache (`deliveries`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any, Final

from domains.metering.catalogue import DATA_DOMAIN, DISTRIBUTORS, GSP_GROUPS
from domains.metering.decider import (
    DeregisterMeteringPoint,
    MeteringCommand,
    RegisterMeteringPoint,
    ReportCommunication,
    check_registrar,
)
from domains.metering.events import EnergyDirection, Fuel, MeasurementQuantity
from spine import telemetry, trust
from spine.claims import Claims
from spine.codelist import CodeList
from spine.common.v1 import common_pb2
from spine.coordinator import Coordinator
from spine.domain import Actor
from spine.errors import Invalid, NotPermitted, Reason
from spine.event import SignerRole
from spine.gb import Mpan, parse_mpxn
from spine.metering.v1 import metering_pb2, metering_pb2_grpc
from spine.orders import Order
from spine.policy import Role
from spine.runtime import Process, Runtime
from spine.server import Service, current_caller
from spine.services import bulk, wire
from spine.services.aggregates import aggregates
from spine.services.background import keep_quarantined, once
from spine.services.deliveries import Deliveries
from spine.services.holds import watch_holds
from spine.services.operations import operations
from spine.services.quarantined_readings import keep_quarantined_readings
from spine.services.recording import Intake, Recorder, Tally
from spine.services.reference import StandingData, serve_standing_data
from spine.services.withdrawing import withdraw

SENDERS: Final = frozenset({Role.SUPPLIER, Role.DATA_SERVICE})
REQUEST_BYTES_MAX: Final = 1 << 20
ACTIVE: Final[Mapping[str, MeasurementQuantity]] = {
    quantity.direction: quantity
    for quantity in (MeasurementQuantity.ACTIVE_IMPORT, MeasurementQuantity.ACTIVE_EXPORT)
}
CACHE_FILE: Final = "deliveries.sqlite"


async def start_metering(runtime: Runtime, name: str = "metering") -> Process:
    """Start the metering coordinator; returns once it answers."""
    process = Process(runtime, name)
    own = [trust.METERING_TOPIC, trust.METERING_REFERENCE, trust.AGGREGATES_TOPIC]
    topics = [*own, trust.CONSUMER_LOG]
    folds = await process.fold(topics, holds=True)
    watch_holds(process)
    writer = runtime.writer(process.appender, SignerRole.METERING, name)
    await keep_quarantined(process, writer, own)
    deliveries = Deliveries(runtime.stores(name) / CACHE_FILE, runtime.identity.log_id)
    process.on_end(deliveries.close)
    reader = await asyncio.to_thread(runtime.reader)
    try:
        await asyncio.to_thread(deliveries.check, reader, runtime.codec)
    finally:
        await asyncio.to_thread(reader.close)
    recorder = Recorder(folds, writer, deliveries, runtime.partitions)
    process.on_end(recorder.drain)
    domain = runtime.domains.by_topic[trust.METERING_TOPIC]
    claims = Claims(runtime.stores(name), runtime.identity.log_id)
    process.on_end(claims.close)
    coordinator = Coordinator(domain, folds, writer, runtime.partitions, tightens, claims)
    standing = await serve_standing_data(process, DATA_DOMAIN, writer, claims)
    service = MeteringService(coordinator, recorder, standing, runtime.identity.log_id)
    await process.serve(
        Role.COORDINATOR,
        [
            Service(
                metering_pb2.DESCRIPTOR.services_by_name["Metering"].full_name,
                metering_pb2_grpc.add_MeteringServicer_to_server,
                service,
            ),
            standing.service,
            aggregates(process, writer, standing),
            operations(process, writer),
        ],
        runtime.settings.metering_port,
        REQUEST_BYTES_MAX,
    )
    keep_quarantined_readings(process, writer)
    for learn in recorder.learning():
        once(process, learn)
    return process


def tightens(command: object) -> bool:
    """Whether the command can only take a right away, so that a lost race may be run again."""
    return isinstance(command, DeregisterMeteringPoint)


class MeteringService(metering_pb2_grpc.MeteringServicer):
    """Requests in, facts and batches of readings in the log."""

    def __init__(
        self, coordinator: Coordinator, recorder: Recorder, standing: StandingData, log_id: bytes
    ) -> None:
        self._coordinator, self._recorder = coordinator, recorder
        self._standing, self._log_id = standing, log_id

    async def RegisterMeteringPoint(self, request: Any, context: Any) -> Any:
        """Make a metering point known."""
        command = _registration(request, wire.caller(), *self._codes())
        return await self._handle("RegisterMeteringPoint", command.mpxn, command, request)

    async def RegisterMeteringPoints(self, request: Any, context: Any) -> Any:
        """Make many metering points known, each as by a call of its own."""
        bulk.check_count(request.commands)
        await self._recorder.level()
        now, codes = wire.now(), self._codes()

        def order_of(given: Any, by: Actor) -> Order:
            command = _registration(given, by, *codes)
            check_registrar(partial(self._recorder.access, command.mpxn), by, now)
            return wire.order(given, "RegisterMeteringPoint", command.mpxn, command, by)

        done = await bulk.carry_out(self._coordinator, self._log_id, request.commands, order_of)
        return metering_pb2.RegisterMeteringPointsResponse(**done)

    def _codes(self) -> tuple[CodeList, CodeList]:
        """The distributors and GSP groups that are listed now."""
        return self._standing.codes(DISTRIBUTORS), self._standing.codes(GSP_GROUPS)

    async def DeregisterMeteringPoint(self, request: Any, context: Any) -> Any:
        """End a metering point."""
        mpxn = str(parse_mpxn(request.mpxn))
        command = DeregisterMeteringPoint(
            wire.caller(), wire.required_instant(request, "effective_to")
        )
        return await self._handle("DeregisterMeteringPoint", mpxn, command, request)

    async def ReportCommunicationLost(self, request: Any, context: Any) -> Any:
        """The meter is silent from then on."""
        at = wire.required_instant(request, "effective_from")
        return await self._report_communication("ReportCommunicationLost", request, at, False)

    async def ReportCommunicationRestored(self, request: Any, context: Any) -> Any:
        """Its silence ended then."""
        at = wire.required_instant(request, "effective_to")
        return await self._report_communication("ReportCommunicationRestored", request, at, True)

    async def _report_communication(
        self, method: str, request: Any, at: datetime, restored: bool
    ) -> Any:
        command = ReportCommunication(wire.caller(), at, restored)
        return await self._handle(method, str(parse_mpxn(request.mpxn)), command, request)

    async def WithdrawReadings(self, request: Any, context: Any) -> Any:
        """Withdraw the values of some half hours; NotPermitted unless they are the caller's."""
        caller = wire.caller()
        if caller.role not in SENDERS:
            message = "readings come from suppliers and data services, and are withdrawn by them"
            raise NotPermitted(Reason.ROLE_NOT_ALLOWED, message)
        await self._recorder.level()
        await self._recorder.check_accredited(caller)
        place, new = await withdraw(self._recorder, caller.party, request)
        return metering_pb2.CommandResponse(
            positions=wire.position_token(self._log_id, [replace(place, offset=place.offset + 1)]),
            record=common_pb2.RecordRef(
                topic=place.topic, partition=place.partition, offset=place.offset
            ),
            replayed=not new,
        )

    async def _handle(self, method: str, mpxn: str, command: MeteringCommand, request: Any) -> Any:
        await self._recorder.level()
        check_registrar(partial(self._recorder.access, mpxn), command.by, wire.now())
        order = wire.order(request, method, mpxn, command, command.by)
        handled = await self._coordinator.handle(order)
        return metering_pb2.CommandResponse(**wire.recorded(self._log_id, handled))

    async def RecordReadings(self, requests: AsyncIterator[Any], context: Any) -> Any:
        """Judge and record meter-days, chunk by chunk; see the .proto for what is refused how.

        NotPermitted  ROLE_NOT_ALLOWED: the caller is neither supplier nor data service
        Invalid       FIELD_MISSING, FIELD_INVALID, CODE_UNKNOWN: the header at fault;
                      REQUEST_TOO_LARGE, READINGS_MALFORMED: a chunk, of which nothing is recorded
        Conflict      IDEMPOTENCY_CONFLICT: another file under the same reference
        Pushback      an append in doubt, or not possible now: send it all again
        """
        caller = current_caller()
        if caller.role not in SENDERS:
            message = "readings come from suppliers and data services"
            raise NotPermitted(Reason.ROLE_NOT_ALLOWED, message)
        intake: Intake | None = None
        with telemetry.span("readings.record") as span:
            async for request in requests:
                if request.WhichOneof("message") == "chunk" and intake is not None:
                    await intake.take(request.chunk)
                elif request.WhichOneof("message") == "header" and intake is None:
                    intake = Intake(self._recorder, caller.party, request.header)
                    await self._recorder.level()
                    await self._recorder.check_accredited(wire.caller())
                else:
                    raise Invalid(
                        Reason.FIELD_INVALID, "one header comes first, then chunks", field="message"
                    )
            if intake is None:
                raise Invalid(Reason.FIELD_MISSING, "there is no header", field="header")
            tally = await intake.finish()
            span.set_attributes({"rows": tally.received.rows, "batches": tally.batches_recorded})
        return self._report(tally)

    def _report(self, tally: Tally) -> Any:
        return metering_pb2.RecordReadingsReport(
            rows_received=tally.received.rows,
            half_hours_received=tally.received.half_hours,
            rows_recorded=tally.recorded.rows,
            half_hours_recorded=tally.recorded.half_hours,
            rows_duplicate=tally.duplicate.rows,
            half_hours_duplicate=tally.duplicate.half_hours,
            batches_recorded=tally.batches_recorded,
            batches_duplicate=tally.batches_duplicate,
            rows_refused=tally.rows_refused,
            half_hours_refused=tally.half_hours_refused,
            findings=tally.findings,
            positions=wire.position_token(self._log_id, tally.positions),
        )


def _registration(
    request: Any, by: Actor, distributors: CodeList, gsp_groups: CodeList
) -> RegisterMeteringPoint:
    """The command of a request; what it leaves out follows from the form of its MPxN."""
    mpxn = parse_mpxn(request.mpxn)
    direction = request.energy_direction or EnergyDirection.IMPORT
    quantity = request.measurement_quantity
    if not quantity:
        quantity = ACTIVE.get(direction, MeasurementQuantity.ACTIVE_IMPORT)
    return RegisterMeteringPoint(
        by,
        str(mpxn),
        request.fuel or (Fuel.ELECTRICITY if isinstance(mpxn, Mpan) else Fuel.GAS),
        direction,
        quantity,
        wire.required_instant(request, "registered_from"),
        request.gsp_group,
        distributors,
        gsp_groups,
    )
