"""The btm_assets coordinator over mutual TLS, its facts in a real Kafka."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
import pytest_asyncio

import spine.services.btm_assets as service
from domains.btm_assets.events import AssetState, MeterAssets, Ownership
from domains.consumers.commands import (
    ConsentTerms,
    GrantConsent,
    RevokeConsent,
    StartSupply,
    StartTenancy,
)
from domains.consumers.decider import CONSUMERS
from domains.consumers.decider import tightens as consumers_tighten
from spine import trust
from spine.btm_assets.v1 import btm_assets_pb2, btm_assets_pb2_grpc
from spine.coordinator import Coordinator
from spine.domain import Actor
from spine.embedded import EmbeddedKafka
from spine.event import SignerRole
from spine.identity import Identity
from spine.installation import DOMAINS
from spine.murmur2 import murmur2_partition
from spine.orders import Order
from spine.policy import Role
from spine.runtime import Process, Runtime
from spine.server import Failure, connect, error_from
from spine.services.btm_assets import start_btm_assets
from spine.services.wire import stamp
from spine.writer import wall_clock_ms
from tests.helpers.accredited import accredit
from tests.helpers.log import open_new_log

MPAN, OTHER_MPAN, FLEX_MPAN = "1200000000011", "1200000000020", "1200000000038"
PORTAL = Actor(Role.CONSENT_SERVICE, "portal")
ID = "urn:energyos:asset:01JZ0000000000000000000001"
SINCE, LATER = datetime(2024, 5, 1, tzinfo=UTC), datetime(2025, 5, 1, tzinfo=UTC)
pytestmark = pytest.mark.asyncio(loop_scope="module")


class World:
    """A log, the btm_assets coordinator, and who commands it."""

    def __init__(self, runtime: Runtime, process: Process) -> None:
        self.runtime, self.process = runtime, process
        authority = runtime.authority()
        self.supplier = authority.issue_client(Role.SUPPLIER, "north-supply")
        self.flex = authority.issue_client(Role.DATA_USER, "flex-co")
        self.rival = authority.issue_client(Role.DATA_USER, "rival")
        self.service = authority.issue_client(Role.CONSENT_SERVICE, "portal")
        self._sent = 0

    async def send(self, method: str, by: Identity | None = None, **fields: Any) -> Any:
        """One command about the asset, under a fresh key unless one is given."""
        self._sent += 1
        plain = {"idempotency_key": f"key-{self._sent}", "mpxn": MPAN, "asset_id": ID}
        request = getattr(btm_assets_pb2, f"{method}Request")(**(plain | fields))
        assert self.process.server is not None
        target = f"127.0.0.1:{self.process.server.port}"
        async with connect(target, (by or self.supplier).folder) as channel:
            stub = btm_assets_pb2_grpc.BtmAssetsStub(channel)
            return await getattr(stub, method)(request, timeout=20)

    async def consumer(self, command: Any, mpxn: str = MPAN, clock_off_ms: int = 0) -> None:
        """One command of the consumers coordinator, folded by this process too."""
        runtime, folds = self.runtime, self.process.folds
        assert folds is not None
        writer = runtime.writer(self.process.appender, SignerRole.CONSUMERS, "consumers")
        writer._clock = lambda: wall_clock_ms() + clock_off_ms
        coordinator = Coordinator(CONSUMERS, folds, writer, runtime.partitions, consumers_tighten)
        self._sent += 1
        key, method = f"key-{self._sent}", type(command).__name__
        await coordinator.handle(Order(mpxn, command, command.by, method, key, b"digest"))

    async def refusal(self, method: str, by: Identity | None = None, **fields: Any) -> Failure:
        with pytest.raises(grpc.RpcError) as failed:
            await self.send(method, by, **fields)
        return error_from(failed.value)

    def state(self) -> MeterAssets:
        """The assets of the meter as the coordinator has folded them."""
        assert self.process.folds is not None
        partition = murmur2_partition(MPAN.encode(), self.runtime.partitions)
        fold = self.process.folds[trust.BTM_ASSETS_TOPIC, partition].stored.fold
        state = fold.subject(MPAN).state
        assert isinstance(state, MeterAssets)
        return state


DECLARED: dict[str, Any] = {
    "kind": {"asset_class": "BATTERY"},
    "specification": {"maker": "Maker", "serial": "S-1", "rated_export_w": 5_000, "storage_wh": 0},
    "connection": {"import_mpan": MPAN, "export_mpan": "NOT_APPLICABLE"},
    "registration": {"register": "MCS", "registered_at": stamp(SINCE)},
    "links": [{"scheme": "UPRN", "value": "1", "source": "x", "effective_from": stamp(SINCE)}],
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    folder = tmp_path_factory.mktemp("btm_assets")
    with EmbeddedKafka(folder) as broker:
        runtime = Runtime.of(*await open_new_log(broker, folder), DOMAINS)
        parties = ((Role.DATA_USER, "flex-co"), (Role.DATA_USER, "rival"))
        await accredit(runtime, (Role.SUPPLIER, "north-supply"), *parties)
        world = World(runtime, await start_btm_assets(runtime))
        for mpxn in (MPAN, OTHER_MPAN):
            await world.consumer(StartSupply(PORTAL, "north-supply", SINCE), mpxn)
        try:
            yield world
        finally:
            await world.process.stop()


async def test_a_life_over_the_wire(world: World) -> None:
    first = await world.send("DeclareAsset", idempotency_key="once", **DECLARED)
    again = await world.send("DeclareAsset", idempotency_key="once", **DECLARED)
    assert (first.replayed, again.replayed, again.record) == (False, True, first.record)
    assert first.record.topic == trust.BTM_ASSETS_TOPIC
    (asset,) = world.state().assets
    specification, registration = asset.details.specification, asset.details.registration
    assert (specification.storage_wh, specification.phases) == (0, None)
    assert registration.registered_at == SINCE
    assert (asset.links[0].effective_from, asset.links[0].effective_to) == (SINCE, None)
    await world.send("VerifyAsset", world.service, level="INSPECTION")
    await world.send("ActivateAsset")
    await world.send("SuspendAsset", reason="repair")
    await world.send("ActivateAsset")
    link = {"scheme": "AMSID", "value": "1234567890123", "source": "x"}
    await world.send("LinkAsset", link=link | {"effective_from": stamp(SINCE)})
    ended: dict[str, Any] = {
        "scheme": "AMSID",
        "value": "1234567890123",
        "effective_to": stamp(LATER),
    }
    await world.send("UnlinkAsset", **ended)
    owned = {"owner": "c-1", "operator": "rival", "consent_id": "consent-1"}
    await world.send("TransferAsset", ownership=owned, effective_from=stamp(LATER))
    (asset,) = world.state().assets
    assert asset.state is AssetState.ACTIVE
    assert asset.details.ownership == Ownership("c-1", "rival", "consent-1")
    assert asset.links[1].effective_to == LATER
    await world.send("DecommissionAsset", world.rival, reason="scrapped")
    assert world.state().assets[0].state is AssetState.DECOMMISSIONED


async def test_refusals_carry_their_reason(world: World) -> None:
    other = "urn:energyos:asset:01JZ0000000000000000000002"
    await world.send("DeclareAsset", asset_id=other, kind={"asset_class": "OTHER"})

    async def refused(method: str, by: Identity | None = None, **fields: Any) -> tuple[str, str]:
        failure = await world.refusal(method, by, **({"asset_id": other} | fields))
        return failure.code, failure.reason

    denied, failed, invalid = "PERMISSION_DENIED", "FAILED_PRECONDITION", "INVALID_ARGUMENT"
    assert await refused("VerifyAsset", level="TELEMETRY") == (denied, "ROLE_NOT_ALLOWED")
    assert await refused("SuspendAsset", world.rival) == (denied, "ASSET_NOT_YOURS")
    assert await refused("ActivateAsset") == (failed, "ASSET_STATE")
    assert await refused("ActivateAsset", mpxn=OTHER_MPAN) == (failed, "ASSET_UNKNOWN")
    assert await refused("DeclareAsset", kind={"asset_class": "?"}) == (invalid, "CODE_UNKNOWN")
    assert await refused("DeclareAsset", mpxn="1") == (invalid, "MPXN_FORMAT")
    assert await refused("LinkAsset", link={"scheme": "UPRN"}) == (invalid, "FIELD_MISSING")
    assert await refused("TransferAsset") == (invalid, "FIELD_MISSING")
    assert await refused("ActivateAsset", idempotency_key="") == (
        invalid,
        "IDEMPOTENCY_KEY_REQUIRED",
    )
    await world.send("RejectAsset", world.service, asset_id=other, reason="not there")
    assert await refused("ActivateAsset") == (failed, "ASSET_STATE")


async def test_a_data_user_declares_what_the_occupier_lets_it(world: World) -> None:
    """With the consent it may, after its revocation no more; who serves no meter never."""
    now = datetime.now(UTC)
    terms = ConsentTerms(
        "flex-co", "c-9", "ENERGY_ADVICE", ("ASSET",), SINCE, SINCE, now + timedelta(days=1)
    )
    await world.consumer(StartTenancy(PORTAL, "t-9", "c-9", SINCE), FLEX_MPAN)
    await world.consumer(GrantConsent(Actor(Role.CONSUMER, "c-9"), "may-9", terms), FLEX_MPAN)
    battery: dict[str, Any] = {"mpxn": FLEX_MPAN, "kind": {"asset_class": "BATTERY"}}
    await world.send("DeclareAsset", world.flex, **battery)
    other = battery | {"asset_id": f"{ID[:-1]}7"}
    for stranger in (world.rival, world.supplier):
        assert (await world.refusal("DeclareAsset", stranger, **other)).reason == "NOT_PERMITTED"
    await world.consumer(RevokeConsent(Actor(Role.CONSUMER, "c-9"), "may-9"), FLEX_MPAN)
    assert (await world.refusal("DeclareAsset", world.flex, **other)).reason == "NOT_PERMITTED"
    # It may still take away what it declared.
    await world.send("DecommissionAsset", world.flex, mpxn=FLEX_MPAN)


@pytest.mark.parametrize("off_ms", [-3_600_000, 3_600_000])
async def test_a_producer_whose_clock_is_off_records_and_does_not_move_the_time(
    world: World, off_ms: int
) -> None:
    folds, mpxn = world.process.folds, f"12000000009{off_ms > 0:02d}"
    assert folds is not None
    partition = murmur2_partition(mpxn.encode(), world.runtime.partitions)
    fold = folds[trust.CONSUMER_LOG, partition].stored.fold
    before = fold.head
    await world.consumer(StartTenancy(PORTAL, "t-1", "c-1", SINCE), mpxn, clock_off_ms=off_ms)
    after = fold.head
    assert before is not None and after is not None
    assert after.counts.applied == before.counts.applied + 1
    assert (after.counts.balanced, after.now_ms) == (True, before.now_ms)
    await world.consumer(StartSupply(PORTAL, "north-supply", SINCE), mpxn)
    assert fold.head is not None and fold.head.now_ms > before.now_ms


async def test_without_the_check_a_stranger_writes_behind_any_meter(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign: dict[str, Any] = {"asset_id": f"{ID[:-1]}8", "kind": {"asset_class": "WIND"}}
    assert (await world.refusal("DeclareAsset", world.rival, **foreign)).reason == "NOT_PERMITTED"
    monkeypatch.setattr(service, "check_entitled", lambda *_: None)
    await world.send("DeclareAsset", world.rival, **foreign)
    assert world.state().get(foreign["asset_id"]) is not None
