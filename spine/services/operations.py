"""The Operations service of `proto/spine/operations/v1`: what is done with quarantined records."""

from __future__ import annotations

from typing import Any

from spine.common.v1 import common_pb2
from spine.operations.v1 import operations_pb2, operations_pb2_grpc
from spine.quarantine import Place
from spine.redrive import Redriven, Redriver
from spine.runtime import Process
from spine.server import Service
from spine.services import wire
from spine.writer import LogWriter


class OperationsService(operations_pb2_grpc.OperationsServicer):
    """Redrives and releases, for one coordinator. Errors are those of `Redriver`."""

    def __init__(self, redriver: Redriver) -> None:
        self._redriver = redriver

    async def Redrive(self, request: Any, context: Any) -> Any:
        """Append a quarantined entry again, or say what would be appended."""
        place, reason = Place.parse(request.place), wire.code(request.reason, "reason")
        done = await self._redriver.redrive(place, wire.caller(), reason, dry_run=request.dry_run)
        return _shown(place, done)

    async def Release(self, request: Any, context: Any) -> Any:
        """Leave a quarantined entry out of the log for good."""
        place, reason = Place.parse(request.place), wire.code(request.reason, "reason")
        return _shown(place, await self._redriver.release(place, wire.caller(), reason))


def _shown(place: Place, done: Redriven) -> Any:
    record = None
    if done.offset >= 0:
        record = common_pb2.RecordRef(
            topic=place.topic, partition=done.partition, offset=done.offset
        )
    return operations_pb2.SettleResponse(
        how=done.how, what=done.what, record=record, replayed=done.replayed
    )


def operations(process: Process, writer: LogWriter) -> Service:
    """The service of a coordinator process."""
    assert process.folds is not None
    return Service(
        operations_pb2.DESCRIPTOR.services_by_name["Operations"].full_name,
        operations_pb2_grpc.add_OperationsServicer_to_server,
        OperationsService(Redriver(process.runtime, process.folds, writer)),
    )
