"""The DSI process, which folds the consumer log, decides reads there and answers; and the readings
process, which folds what it answers from. Several of each share the partitions.
"""

from __future__ import annotations

from collections.abc import Callable

from spine import trust
from spine.access import AccessLog, OutcomeLog
from spine.company import Company
from spine.dsi.advice import Adviser
from spine.dsi.data import DataViews
from spine.dsi.forwarding import Forwarder, ForwardingService
from spine.dsi.keyholders import Keyholders
from spine.dsi.members import Claims, Members, MembersService
from spine.dsi.passports import Passports
from spine.dsi.personal import PersonalReads
from spine.dsi.quarantined import quarantined
from spine.dsi.reads import Reads
from spine.dsi.routing import RoutedDsi, Routes
from spine.dsi.service import DsiService
from spine.dsi.v1 import dsi_pb2, dsi_pb2_grpc, members_pb2, members_pb2_grpc
from spine.dsi.watch import Watches
from spine.event import SignerRole
from spine.fold import FaustFolds
from spine.log_thread import ReaderThread
from spine.policy import Role
from spine.reducers import folded_by
from spine.runtime import Process, Runtime
from spine.server import Service
from spine.services.holds import watch_holds
from spine.services.shared_trust import data_side, shared_trust
from spine.whereabouts import addresses

DSI_PROCESS = "dsi"
READINGS_PROCESS = "readings"
DSI_SERVICE = dsi_pb2.DESCRIPTOR.services_by_name["Dsi"].full_name
MEMBERS_SERVICE = members_pb2.DESCRIPTOR.services_by_name["Members"].full_name
# A thousand questions to CheckAccess with the longest party ids; what a forwarded call adds.
QUESTIONS_BYTES = 256 * 1024
FORWARD_BYTES = 4 * 1024


def member_name(runtime: Runtime, kind: str) -> str:
    """The name of this process among those of its kind."""
    member = runtime.settings.member
    return kind if member is None else f"{kind}-{member}"


async def start_dsi(runtime: Runtime, name: str = "") -> Process:
    """Start a DSI server; returns once it answers."""
    name = name or member_name(runtime, DSI_PROCESS)
    process = Process(runtime, name)
    folds = await process.fold([trust.CONSUMER_LOG], DSI_PROCESS, holds=True)
    watch_holds(process)
    settings, log_id = runtime.settings, runtime.identity.log_id
    local = _local_service(process, folds)
    members = Members(runtime, DSI_PROCESS, name, addresses(settings.dsi_peers))
    beside = Members(runtime, READINGS_PROCESS, name)
    members.on_change = _hand_over(folds, members)
    any_fold = folds[trust.CONSUMER_LOG, 0]
    passports = Passports(
        name, log_id, runtime.signer(SignerRole.DSI), lambda kid: any_fold.stored.fold.key(kid)
    )

    def claims() -> Claims:
        """What it folds, and what is folded beside it."""
        return {place: since for p in beside.peers for place, since in p.claims.items()} | dict(
            folds.claims
        )

    routed = RoutedDsi(local, Routes(members, claims, runtime.partitions), Forwarder(passports))
    forwarding = ForwardingService(name, log_id, claims, local, passports)
    await process.serve(
        Role.DSI,
        [
            Service(DSI_SERVICE, dsi_pb2_grpc.add_DsiServicer_to_server, routed),
            Service(MEMBERS_SERVICE, members_pb2_grpc.add_MembersServicer_to_server, forwarding),
            shared_trust(data_side(local.access, log_id)),
        ],
        settings.dsi_port,
        max(settings.max_request_bytes, QUESTIONS_BYTES) + FORWARD_BYTES,
    )
    for known in (beside, members):
        process.on_end(known.close)
        await known.start()
    return process


def _local_service(process: Process, folds: FaustFolds) -> DsiService:
    """The Dsi service over this process's own folds and the stores beside it."""
    runtime, name = process.runtime, process.name
    settings, log_id = runtime.settings, runtime.identity.log_id
    writer = runtime.writer(process.appender, SignerRole.DSI, name)
    company = Company.of_running_loop()
    access = {
        p: AccessLog(
            folds[trust.CONSUMER_LOG, p],
            writer,
            name,
            settings.permit_ttl_s,
            fence=settings.fence,
            company=company,
        )
        for p in range(runtime.partitions)
    }
    data = DataViews(
        runtime.stores(READINGS_PROCESS),
        runtime.stores(name) / "data",
        log_id,
        runtime.partitions,
        runtime.domains.layouts,
    )
    outcomes = OutcomeLog(writer, name)
    reader = ReaderThread(runtime.kafka)
    consumers = runtime.domains.by_topic[trust.CONSUMER_LOG]
    folded = folded_by(consumers, runtime.domains.governance)
    reads = Reads(access, outcomes, data, reader, runtime.codec.schemas.set_hash, folded)
    watches = Watches(access)
    keys = Keyholders(runtime, name, addresses(runtime.settings.consumers_peers))
    process.on_end(data.close)
    process.on_end(reader.close)
    process.on_end(outcomes.flush)
    process.on_end(watches.close)
    process.on_end(keys.close)
    personal = PersonalReads(reads, keys)
    return DsiService(reads, watches, Adviser(access), personal, log_id)


async def start_readings(runtime: Runtime, name: str = "") -> Process:
    """Start the process that folds what the DSI reads: readings, metering points and assets."""
    name = name or member_name(runtime, READINGS_PROCESS)
    process = Process(runtime, name)
    folds = await process.fold(trust.DATA_TOPICS, READINGS_PROCESS, keep=False)
    settings = runtime.settings
    members = Members(runtime, READINGS_PROCESS, name, addresses(settings.readings_peers))
    members.on_change = _hand_over(folds, members)
    standing = MembersService(name, runtime.identity.log_id, lambda: folds.claims)
    await process.serve(
        Role.DSI,
        [
            Service(MEMBERS_SERVICE, members_pb2_grpc.add_MembersServicer_to_server, standing),
            quarantined(runtime.identity.log_id, folds),
        ],
        settings.readings_port,
    )
    process.on_end(members.close)
    await members.start()
    return process


def _hand_over(folds: FaustFolds, members: Members) -> Callable[[], None]:
    """What to do after each round: let go of what another process has announced since."""

    def compare() -> None:
        for place, since in list(folds.claims.items()):
            if members.latest(place) > since:
                folds.let_go(place)

    return compare
