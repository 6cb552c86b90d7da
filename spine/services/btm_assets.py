"""The btm_assets coordinator: the `BtmAssets` service of `proto/spine/btm_assets/v1`, and its
process.
"""

from __future__ import annotations

from typing import Any

from domains.btm_assets.catalogue import ASSET_CLASSES, DATA_DOMAIN
from domains.btm_assets.commands import (
    ActivateAsset,
    AssetCommand,
    DeclareAsset,
    DecommissionAsset,
    LinkAsset,
    RejectAsset,
    SuspendAsset,
    TransferAsset,
    UnlinkAsset,
    VerifyAsset,
    tightens,
)
from domains.btm_assets.entitlement import check_entitled, needs_entitlement
from domains.btm_assets.events import (
    Connection,
    Details,
    Kind,
    Operational,
    Ownership,
    Registration,
    Specification,
)
from spine import trust
from spine.btm_assets.v1 import btm_assets_pb2, btm_assets_pb2_grpc
from spine.claims import Claims
from spine.coordinator import FOLD_TIMEOUT_S, Coordinator
from spine.event import SignerRole
from spine.fold import FaustFolds
from spine.gb import parse_mpxn
from spine.policy import Role
from spine.runtime import Process, Runtime
from spine.server import Service
from spine.services import wire
from spine.services.asset_groups import group_from, link_from
from spine.services.background import keep_quarantined
from spine.services.holds import watch_holds
from spine.services.meters import known_access
from spine.services.operations import operations
from spine.services.reference import StandingData, serve_standing_data


async def start_btm_assets(runtime: Runtime, name: str = "assets") -> Process:
    """Start the btm_assets coordinator; returns once it answers."""
    process = Process(runtime, name)
    topics = [trust.BTM_ASSETS_TOPIC, trust.BTM_ASSETS_REFERENCE]
    folds = await process.fold([*topics, trust.CONSUMER_LOG], holds=True)
    watch_holds(process)
    writer = runtime.writer(process.appender, SignerRole.BTM_ASSETS, name)
    await keep_quarantined(process, writer, topics)
    claims = Claims(runtime.stores(name), runtime.identity.log_id)
    process.on_end(claims.close)
    domain = runtime.domains.by_topic[trust.BTM_ASSETS_TOPIC]
    coordinator = Coordinator(domain, folds, writer, runtime.partitions, tightens, claims)
    standing = await serve_standing_data(process, DATA_DOMAIN, writer, claims)
    await process.serve(
        Role.COORDINATOR,
        [
            Service(
                btm_assets_pb2.DESCRIPTOR.services_by_name["BtmAssets"].full_name,
                btm_assets_pb2_grpc.add_BtmAssetsServicer_to_server,
                BtmAssetsService(coordinator, folds, standing, runtime),
            ),
            standing.service,
            operations(process, writer),
        ],
        runtime.settings.assets_port,
    )
    return process


class BtmAssetsService(btm_assets_pb2_grpc.BtmAssetsServicer):
    """Requests in, facts about the assets of one meter in the log."""

    def __init__(
        self, coordinator: Coordinator, folds: FaustFolds, standing: StandingData, runtime: Runtime
    ) -> None:
        self._coordinator, self._folds, self._standing = coordinator, folds, standing
        self._partitions, self._log_id = runtime.partitions, runtime.identity.log_id

    async def DeclareAsset(self, request: Any, context: Any) -> Any:
        """Say that an asset stands behind a meter."""
        details = Details(
            group_from(request.kind, Kind, "kind."),
            group_from(request.specification, Specification, "specification."),
            group_from(request.connection, Connection, "connection."),
            group_from(request.ownership, Ownership, "ownership."),
            group_from(request.registration, Registration, "registration."),
            group_from(request.operational, Operational, "operational."),
        )
        links = tuple(link_from(a, f"links[{n}].") for n, a in enumerate(request.links))
        classes = self._standing.codes(ASSET_CLASSES)
        command = DeclareAsset(wire.caller(), request.asset_id, details, links, classes)
        return await self._handle("DeclareAsset", command, request)

    async def VerifyAsset(self, request: Any, context: Any) -> Any:
        """Say that a declaration is right."""
        command = VerifyAsset(wire.caller(), request.asset_id, request.level)
        return await self._handle("VerifyAsset", command, request)

    async def RejectAsset(self, request: Any, context: Any) -> Any:
        """Say that a declaration is wrong."""
        command = RejectAsset(wire.caller(), request.asset_id, request.reason)
        return await self._handle("RejectAsset", command, request)

    async def ActivateAsset(self, request: Any, context: Any) -> Any:
        """Let an asset take part."""
        command = ActivateAsset(wire.caller(), request.asset_id)
        return await self._handle("ActivateAsset", command, request)

    async def SuspendAsset(self, request: Any, context: Any) -> Any:
        """Stop an asset from taking part for now."""
        command = SuspendAsset(wire.caller(), request.asset_id, request.reason)
        return await self._handle("SuspendAsset", command, request)

    async def TransferAsset(self, request: Any, context: Any) -> Any:
        """Hand an asset to a new owner or operator."""
        command = TransferAsset(
            wire.caller(),
            request.asset_id,
            request.ownership.owner,
            request.ownership.operator,
            request.ownership.consent_id,
            wire.required_instant(request, "effective_from"),
        )
        return await self._handle("TransferAsset", command, request)

    async def DecommissionAsset(self, request: Any, context: Any) -> Any:
        """Say that an asset is gone."""
        command = DecommissionAsset(wire.caller(), request.asset_id, request.reason)
        return await self._handle("DecommissionAsset", command, request)

    async def LinkAsset(self, request: Any, context: Any) -> Any:
        """Say what another body calls an asset."""
        command = LinkAsset(wire.caller(), request.asset_id, link_from(request.link, "link."))
        return await self._handle("LinkAsset", command, request)

    async def UnlinkAsset(self, request: Any, context: Any) -> Any:
        """Say that it is called so no longer."""
        command = UnlinkAsset(
            wire.caller(),
            request.asset_id,
            request.scheme,
            request.value,
            wire.required_instant(request, "effective_to"),
        )
        return await self._handle("UnlinkAsset", command, request)

    async def _handle(self, method: str, command: AssetCommand, request: Any) -> Any:
        mpxn = str(parse_mpxn(request.mpxn))
        if needs_entitlement(command):
            await self._folds.level(FOLD_TIMEOUT_S)
        access = known_access(self._folds, mpxn, self._partitions)
        check_entitled(access, command, wire.now())
        order = wire.order(request, method, mpxn, command, command.by)
        handled = await self._coordinator.handle(order)
        return btm_assets_pb2.CommandResponse(**wire.recorded(self._log_id, handled))
