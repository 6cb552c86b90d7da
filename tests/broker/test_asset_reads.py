"""Assets declared over gRPC and read over gRPC, on a real broker: gated like readings."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest

from domains.consumers.commands import ConsentTerms, GrantConsent
from spine.btm_assets.v1 import btm_assets_pb2, btm_assets_pb2_grpc
from spine.config import Settings
from spine.dsi.process import start_dsi
from spine.dsi.v1 import dsi_pb2, dsi_pb2_grpc
from spine.identity import Identity
from spine.log import Kafka
from spine.policy import Role
from spine.runtime import Process
from spine.server import connect, error_from
from spine.services.btm_assets import start_btm_assets
from spine.services.wire import stamp
from tests.helpers.town import ADVISER, CONSUMER, CONSUMER_REF, DAY, MPAN, STRANGER, Town, settle

IDS = tuple(f"urn:energyos:asset:01JZ000000000000000000000{n}" for n in (1, 2))
SINCE = datetime(2024, 5, 1, tzinfo=UTC)
TERMS = {"mpxn": MPAN, "purpose": "ENERGY_ADVICE", "basis": "CONSENT"}


async def allow(town: Town, categories: Sequence[str]) -> None:
    """The occupier allows the adviser these categories."""
    now = datetime.now(UTC)
    terms = ConsentTerms(
        ADVISER.party,
        CONSUMER_REF,
        "ENERGY_ADVICE",
        tuple(categories),
        DAY,
        now - timedelta(seconds=1),
        now + timedelta(days=30),
    )
    await town.consumer(GrantConsent(CONSUMER, "-".join(("may", *categories)), terms))


async def declare(process: Process, by: Identity, asset_id: str) -> Any:
    request = btm_assets_pb2.DeclareAssetRequest(
        idempotency_key=asset_id,
        mpxn=MPAN,
        asset_id=asset_id,
        kind={"asset_class": "BATTERY"},
        specification={"rated_export_w": 5_000},
        connection={"export_mpan": "NOT_APPLICABLE"},
        links=[{"scheme": "MCS", "value": "M-1", "source": "x", "effective_from": stamp(SINCE)}],
    )
    assert process.server is not None
    async with connect(f"127.0.0.1:{process.server.port}", by.folder) as channel:
        stub = btm_assets_pb2_grpc.BtmAssetsStub(channel)
        return (await stub.DeclareAsset(request, timeout=20)).positions


async def ask(process: Process, by: Identity, method: str, **fields: Any) -> Any:
    request = getattr(dsi_pb2, f"{method}Request")(**(TERMS | fields))
    assert process.server is not None
    async with connect(f"127.0.0.1:{process.server.port}", by.folder) as channel:
        return await getattr(dsi_pb2_grpc.DsiStub(channel), method)(request, timeout=20)


async def refused(process: Process, by: Identity, method: str, **fields: Any) -> str:
    with pytest.raises(grpc.RpcError) as failed:
        await ask(process, by, method, **fields)
    return error_from(failed.value).reason


async def test_assets_are_read_only_with_consent(own_log: tuple[Settings, Kafka]) -> None:
    async with settle(*own_log) as town:
        authority = town.runtime.authority()
        adviser = authority.issue_client(Role.DATA_USER, ADVISER.party)
        stranger = authority.issue_client(Role.DATA_USER, STRANGER.party)
        coordinator, dsi = await start_btm_assets(town.runtime), await start_dsi(town.runtime)
        try:
            portal = authority.issue_client(Role.CONSENT_SERVICE, "portal")
            for asset_id in IDS:
                seen = await declare(coordinator, portal, asset_id)
            await allow(town, ["HH_CONSUMPTION"])
            assert await refused(dsi, adviser, "ListAssets") == "CONSENT_SCOPE"
            await allow(town, ["ASSET"])
            listed = await ask(dsi, adviser, "ListAssets", at_least=seen)
            assert [asset.asset_id for asset in listed.assets] == list(IDS)
            asset = listed.assets[0]
            assert (asset.state, asset.kind.asset_class) == ("DECLARED", "BATTERY")
            assert asset.specification.rated_export_w == 5_000
            assert not asset.specification.HasField("rated_import_w")
            assert [link.value for link in asset.links] == ["M-1"]
            assert listed.coordinator.appointment == "PROVISIONAL"
            assert listed.decision.consent_id == "may-ASSET"
            one = await ask(dsi, adviser, "GetAsset", asset_id=IDS[1])
            assert (one.asset.asset_id, one.digest == listed.digest) == (IDS[1], False)
            none = await ask(dsi, adviser, "GetAsset", asset_id=f"{IDS[0][:-1]}9")
            assert not none.HasField("asset")
            assert await refused(dsi, adviser, "GetAsset", asset_id="1") == "FIELD_INVALID"
            assert await refused(dsi, stranger, "ListAssets") == "NOT_PERMITTED"
            assert await refused(dsi, stranger, "GetAsset", asset_id=IDS[0]) == "NOT_PERMITTED"
            unknown = await refused(dsi, stranger, "ListAssets", mpxn="1000000000012")
            assert unknown == "NOT_PERMITTED"
        finally:
            await dsi.stop()
            await coordinator.stop()
