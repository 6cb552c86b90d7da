"""Assets behind the meter as the DSI sends them."""

from __future__ import annotations

from typing import Any

from domains.btm_assets.views import COORDINATOR, AssetView
from spine.btm_assets.v1 import btm_assets_pb2
from spine.dsi.answering import Answer
from spine.dsi.v1 import dsi_pb2
from spine.services import wire
from spine.services.asset_groups import group_to


def response(request: Any, made: Answer, decision: Any, positions: Any) -> Any:
    """The answer to `ListAssets` or to `GetAsset`, whichever was asked."""
    shown = [asset(view) for view in made.assets]
    coordinator = dsi_pb2.Coordinator(
        organisation=COORDINATOR.organisation, appointment=COORDINATOR.appointment
    )
    if isinstance(request, dsi_pb2.ListAssetsRequest):
        return dsi_pb2.ListAssetsResponse(
            assets=shown,
            decision=decision,
            positions=positions,
            digest=made.digest,
            coordinator=coordinator,
        )
    return dsi_pb2.GetAssetResponse(
        asset=shown[0] if shown else None,
        decision=decision,
        positions=positions,
        digest=made.digest,
        coordinator=coordinator,
    )


def asset(view: AssetView) -> Any:
    """One asset."""
    return dsi_pb2.Asset(
        mpxn=view.mpxn,
        asset_id=view.asset_id,
        state=view.state,
        kind=group_to(view.kind, btm_assets_pb2.Kind),
        specification=group_to(view.specification, btm_assets_pb2.Specification),
        connection=group_to(view.connection, btm_assets_pb2.Connection),
        owner=view.owner,
        operator=view.operator,
        registration=group_to(view.registration, btm_assets_pb2.Registration),
        verified_at=view.verified_at and wire.stamp(view.verified_at),
        verification_level=view.verification_level,
        operational=group_to(view.operational, btm_assets_pb2.Operational),
        links=[group_to(link, btm_assets_pb2.Link) for link in view.links],
    )
