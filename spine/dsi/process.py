"""The DSI process: it folds the consumer log, decides reads there, and answers."""

from __future__ import annotations

from spine import trust
from spine.access import AccessLog, OutcomeLog
from spine.dsi.advice import Adviser
from spine.dsi.data import DataViews
from spine.dsi.reads import Reads
from spine.dsi.service import DsiService
from spine.dsi.v1 import dsi_pb2, dsi_pb2_grpc
from spine.dsi.watch import Watches
from spine.event import SignerRole
from spine.log import ReaderThread
from spine.policy import Role
from spine.runtime import Process, Runtime
from spine.server import Service
from spine.services.holds import watch_holds

READINGS_PROCESS = "readings"
# A thousand questions to CheckAccess with the longest party ids.
QUESTIONS_BYTES = 256 * 1024


async def start_dsi(runtime: Runtime, name: str = "dsi") -> Process:
    """Start a DSI server; returns once it answers."""
    process = Process(runtime, name)
    folds = await process.fold([trust.CONSUMER_LOG], holds=True)
    watch_holds(process)
    writer = runtime.writer(process.appender, SignerRole.DSI, name)
    settings, log_id = runtime.settings, runtime.identity.log_id
    access = {
        p: AccessLog(
            folds[trust.CONSUMER_LOG, p],
            writer,
            name,
            settings.permit_ttl_s,
            fence=settings.fence,
        )
        for p in range(runtime.partitions)
    }
    data = DataViews(
        runtime.stores(READINGS_PROCESS), runtime.stores(name) / "data", log_id, runtime.partitions
    )
    outcomes = OutcomeLog(writer, name)
    reader = ReaderThread(runtime.kafka)
    consumers = runtime.domains.by_topic[trust.CONSUMER_LOG]
    reads = Reads(access, outcomes, data, reader, runtime.codec.schemas.set_hash, consumers.version)
    watches = Watches(access)
    process.on_end(data.close)
    process.on_end(reader.close)
    process.on_end(outcomes.flush)
    process.on_end(watches.close)
    service = DsiService(reads, watches, Adviser(access), log_id)
    await process.serve(
        Role.DSI,
        [
            Service(
                dsi_pb2.DESCRIPTOR.services_by_name["Dsi"].full_name,
                dsi_pb2_grpc.add_DsiServicer_to_server,
                service,
            )
        ],
        settings.dsi_port,
        max(settings.max_request_bytes, QUESTIONS_BYTES),
    )
    return process


async def start_readings(runtime: Runtime, name: str = READINGS_PROCESS) -> Process:
    """Start the process that folds what the DSI reads: readings, metering points and assets."""
    process = Process(runtime, name)
    await process.fold(trust.DATA_TOPICS)
    await process.serve(Role.DSI, [], runtime.settings.readings_port)
    return process
