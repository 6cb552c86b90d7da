"""A party that goes past a threshold at one server is held at all, until two people release it."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
import pytest
import pytest_asyncio

from domains.governance.holds import PARTY_HOLDS
from spine import trust
from spine.codec import tools
from spine.config import Settings
from spine.consumers.v1 import consumers_pb2, consumers_pb2_grpc
from spine.embedded import EmbeddedKafka
from spine.errors import Reason
from spine.governance.v1 import governance_pb2, governance_pb2_grpc
from spine.installation import DOMAINS
from spine.partition import PartitionFold
from spine.policy import Role
from spine.runtime import Process, Runtime
from spine.server import connect, error_from
from spine.services.consumers import start_consumers
from spine.services.governance import start_governance
from spine.signing import verify
from spine.store import MemoryRows
from tests.helpers.log import open_new_log

pytestmark = pytest.mark.asyncio(loop_scope="module")

THRESHOLD = 5
GREEDY, MODEST = "greedy-data", "modest-data"


@dataclass
class World:
    """Two servers of one log, with a threshold that is soon reached."""

    runtime: Runtime
    governance: Process
    consumers: Process

    async def call(self, process: Process, party: str, method: str, request: Any) -> str:
        """The reason for which a call fails, or nothing. Governance people end in -board."""
        role = Role.GOVERNANCE if party.endswith("-board") else Role.DATA_USER
        identity = self.runtime.authority().issue_client(role, party).folder
        assert process.server is not None
        stub = {
            "governance": governance_pb2_grpc.GovernanceStub,
            "consumers": consumers_pb2_grpc.ConsumersStub,
        }[process.name]
        async with connect(f"127.0.0.1:{process.server.port}", identity) as channel:
            try:
                self.said = await getattr(stub(channel), method)(request, timeout=20)
            except grpc.aio.AioRpcError as error:
                return error_from(error).reason
        return ""

    async def withdraw(self, party: str, consent_id: str = "no-such-consent") -> str:
        """A command that only takes access away."""
        request = consumers_pb2.WithdrawConsentRequest(
            idempotency_key=uuid4().hex, mpxns=["1200000000001"], consent_id=consent_id
        )
        return await self.call(self.consumers, party, "WithdrawConsent", request)

    async def ask(self, party: str) -> str:
        """A command that asks for something."""
        return await self.call(
            self.consumers, party, "RequestConsent", consumers_pb2.RequestConsentRequest()
        )

    async def list_participants(self, party: str) -> str:
        """A call of the other server."""
        request = governance_pb2.ListParticipantsRequest()
        return await self.call(self.governance, party, "ListParticipants", request)

    async def release(self, person: str, hold: int = 1) -> str:
        """One person's approval."""
        request = governance_pb2.ApproveReleaseRequest(
            idempotency_key=uuid4().hex, party=GREEDY, hold=hold, reason="LOOKED_INTO"
        )
        return await self.call(self.governance, person, "ApproveRelease", request)

    async def until(self, party: str, reason: str) -> None:
        """Wait until both servers say so."""
        async with asyncio.timeout(20):
            while await self.list_participants(party) != reason:
                await asyncio.sleep(0.05)
            while (await self.ask(party) == Reason.PARTY_HELD) != bool(reason):
                await asyncio.sleep(0.05)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    home: Path = tmp_path_factory.mktemp("holds")
    with EmbeddedKafka(home) as broker:
        settings, kafka = await open_new_log(broker, home)
        settings = Settings.model_validate(
            settings.model_dump() | {"anomaly_commands_per_hour": THRESHOLD}
        )
        runtime = Runtime.of(settings, kafka, DOMAINS)
        governance = await start_governance(runtime)
        made = World(runtime, governance, await start_consumers(runtime))
        try:
            yield made
        finally:
            await asyncio.gather(made.consumers.stop(), made.governance.stop())


async def test_who_goes_past_a_threshold_is_held_by_every_server_until_two_release_it(
    world: World,
) -> None:
    reasons = [await world.ask(GREEDY) for _ in range(THRESHOLD + 1)]
    assert Reason.PARTY_HELD not in reasons[:THRESHOLD]
    assert reasons[-1] == Reason.PARTY_HELD
    await world.until(GREEDY, Reason.PARTY_HELD)
    assert await world.withdraw(GREEDY) != Reason.PARTY_HELD
    assert await world.list_participants(MODEST) == ""

    request = governance_pb2.ListHoldsRequest()
    assert await world.call(world.governance, "alice-board", "ListHolds", request) == ""
    (hold,) = world.said.holds
    assert (hold.party, hold.hold, hold.kind) == (GREEDY, 1, "COMMANDS")
    assert (hold.counted, hold.threshold) == (THRESHOLD + 1, THRESHOLD)
    assert hold.held_by == "coordinator/consumers"

    assert await world.release("alice-board") == ""
    assert await world.release("alice-board") == Reason.RELEASE_NEEDS_ANOTHER
    assert await world.list_participants(GREEDY) == Reason.PARTY_HELD
    assert await world.release("bob-board") == ""
    await world.until(GREEDY, "")


async def test_a_hold_outlives_its_servers(world: World) -> None:
    request = governance_pb2.HoldPartyRequest(idempotency_key=uuid4().hex, party="by-hand")
    assert await world.call(world.governance, "alice-board", "HoldParty", request) == ""
    await world.consumers.stop()
    world.consumers = await start_consumers(world.runtime)
    assert await world.ask("by-hand") == Reason.PARTY_HELD
    assert await world.ask(MODEST) != Reason.PARTY_HELD


async def test_nobody_but_servers_and_governance_holds_and_sees_holds(world: World) -> None:
    request = governance_pb2.HoldPartyRequest(idempotency_key=uuid4().hex, party=MODEST)
    by_rival = await world.call(world.governance, "rival-data", "HoldParty", request)
    assert by_rival == Reason.ROLE_NOT_ALLOWED
    listing = governance_pb2.ListHoldsRequest()
    by_rival = await world.call(world.governance, "rival-data", "ListHolds", listing)
    assert by_rival == Reason.ROLE_NOT_ALLOWED
    assert await world.list_participants(MODEST) == ""


async def test_who_held_and_who_released_stands_signed_in_the_log(world: World) -> None:
    fold = PartitionFold(
        trust.QUARANTINE_TOPIC,
        0,
        world.runtime.identity.log_id,
        tools(world.runtime.codec, verify),
        MemoryRows(),
        PARTY_HOLDS,
        DOMAINS.governance,
    )
    reader = await asyncio.to_thread(world.runtime.reader)
    for record in await asyncio.to_thread(lambda: list(reader.read(trust.QUARANTINE_TOPIC, 0, 0))):
        fold.apply(record)
    await asyncio.to_thread(reader.close)
    state = fold.subject(GREEDY).state
    assert not state.held
    assert state.approved_by == ("alice-board", "bob-board")
    assert fold.head is not None and fold.head.counts.balanced
