"""Two data users put together all they were told of a synthetic population, and find nobody again.

Everybody in it consented to four data users in one go, on the same terms: two that have identifiers
of their own, and two that are given MPxNs, who are asked the same and are seen to find everybody.
What joins two pools is defined here:

1. A value of a field links the members of whom one pool holds it with those of whom the other does.
   Texts and bytes are held against each other whatever their field, numbers and instants within a
   field. No value that both pools hold may be of fewer than `FEW` members. So names, places and
   moments link nobody, and what is left are kinds of which there are many each.
2. A list links the members that stand at the same place of it. Of all, about one does by chance.

Everything is asked of a third of the members, and of the others what names them.

Left out are the readings: the values, starts, qualities and reasons of half hours, and how many.
"""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import uuid4

import grpc
import numpy as np
import pytest
import pytest_asyncio
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]

from spine import trust
from spine.btm_assets.v1 import btm_assets_pb2, btm_assets_pb2_grpc
from spine.console.client import interval, stamp
from spine.consumers.v1 import consumers_pb2, consumers_pb2_grpc
from spine.dsi.process import start_dsi, start_readings
from spine.dsi.v1 import dsi_pb2, dsi_pb2_grpc
from spine.embedded import EmbeddedKafka
from spine.governance.v1 import governance_pb2, governance_pb2_grpc
from spine.identifiers import Identifiers, Kind
from spine.installation import DOMAINS
from spine.ledger.v1 import ledger_pb2, ledger_pb2_grpc
from spine.metering.v1 import metering_pb2, metering_pb2_grpc
from spine.policy import Role
from spine.runtime import Process, Runtime
from spine.server import STATUS_DETAILS, connect, error_from
from spine.services.btm_assets import start_btm_assets
from spine.services.consumers import start_consumers
from spine.services.governance import start_governance
from spine.services.ledger import start_ledger
from spine.services.metering import start_metering
from tests.helpers.accredited import accredit
from tests.helpers.judging import judge
from tests.helpers.leaves import leaves
from tests.helpers.log import open_new_log

pytestmark = pytest.mark.asyncio(loop_scope="module")

MEMBERS = 240
FEW = 8
ONE, TWO, PLAIN_ONE, PLAIN_TWO = "pair-one", "pair-two", "plain-one", "plain-two"
USERS = (ONE, TWO, PLAIN_ONE, PLAIN_TWO)
PORTAL, SUPPLIERS = "ccs", ("supply-a", "supply-b", "supply-c")
GROUPS = ("_A", "_C", "_H", "_P")
START = datetime(2025, 1, 6, tzinfo=UTC)
DAY = interval(START, START + timedelta(days=1))
ADVICE: dict[str, Any] = {"purpose": "ENERGY_ADVICE", "basis": "CONSENT"}
CALL_S, PATIENCE_S, AT_ONCE = 25.0, 60.0, 16
CHANGE_ID = re.compile(r"chg_.*|[0-9a-f]{32}")


@dataclass(frozen=True)
class Member:
    """A consumer with one meter and a life of its own."""

    number: int

    @property
    def mpxn(self) -> str:
        if self.number % 4 == 3:
            return f"{7_600_000 + self.number * 17}"
        return f"1{self.number % 8 + 2}0000{self.number * 7919 % 10_000_000:07d}"

    @property
    def consumer_ref(self) -> str:
        return f"c-{self.number:04d}-{self.number * 31 % 97}"

    @property
    def asset_id(self) -> str:
        return f"urn:energyos:asset:01JZ0000000000000000M{self.number:05d}"

    @property
    def is_asked_all(self) -> bool:
        return self.number % 3 == 0

    @property
    def moved_in(self) -> datetime:
        return datetime(2023, 1, 1, tzinfo=UTC) + timedelta(days=self.number, minutes=30)

    @property
    def expires(self) -> datetime:
        return datetime(2030, 1, 1, tzinfo=UTC) + timedelta(days=self.number)

    @property
    def moves_out(self) -> bool:
        return self.number % 8 == 1

    @property
    def revokes(self) -> bool:
        return self.number % 8 == 2

    @property
    def supplier(self) -> str:
        return SUPPLIERS[self.number % len(SUPPLIERS)]


EVERYBODY = [Member(number) for number in range(MEMBERS)]


@dataclass
class Pool:
    """All that one data user was told, each value with the member it was told of."""

    values: dict[tuple[str, Any], set[int]] = field(default_factory=lambda: defaultdict(set))
    lists: dict[str, list[int]] = field(default_factory=dict)

    def take(self, method: str, member: Member, answer: Any) -> None:
        """What an answer about a member says."""
        for path, value in leaves(answer):
            readings = path.startswith(("rows.", "columns.")) and ".version" not in path
            if not readings and path != "reads.rows":
                self.note(f"{method} {path}", value, member)

    def note(self, path: str, value: Any, member: Member) -> None:
        # A text or bytes may stand in two fields; 3 in one has nothing to do with 3 in another.
        named = isinstance(value, str | bytes)
        self.values["text" if named else path, value].add(member.number)


def links(one: Pool, two: Pool) -> dict[tuple[str, Any], int]:
    """What both hold and few do: of how many members. One of whom it is wrong is none the less."""
    both = one.values.keys() & two.values.keys()
    few = {at: min(len(one.values[at]), len(two.values[at])) for at in both}
    return {at: count for at, count in few.items() if count < FEW}


def found_again(one: Pool, two: Pool) -> set[int]:
    """Members whom a value links that both pools hold of that one member alone."""
    both = one.values.keys() & two.values.keys()
    return {
        next(iter(one.values[at]))
        for at in both
        if len(one.values[at]) == 1 and one.values[at] == two.values[at]
    }


def same_places(one: Pool, two: Pool, name: str) -> int:
    """How many members stand at the same place of a list."""
    pairs = zip(one.lists[name], two.lists[name], strict=True)
    return sum(mine == theirs for mine, theirs in pairs)


class World:
    """An installation, and everybody's connections to it."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.processes: dict[str, Process] = {}
        self._channels: dict[tuple[str, str], grpc.aio.Channel] = {}
        self._turns = asyncio.Semaphore(AT_ONCE)
        self.identifiers = Identifiers.of(runtime.settings.data_dir)
        self.members = {member.mpxn: member for member in EVERYBODY}

    def channel(self, process: str, role: Role, party: str) -> grpc.aio.Channel:
        if (process, party) not in self._channels:
            server = self.processes[process].server
            assert server is not None
            folder = self.runtime.authority().issue_client(role, party).folder
            self._channels[process, party] = connect(f"127.0.0.1:{server.port}", folder)
        return self._channels[process, party]

    async def as_user(self, party: str, process: str, stub: Any, method: str, request: Any) -> Any:
        """A unary call of a data user; again where it is told not now."""
        call = getattr(stub(self.channel(process, Role.DATA_USER, party)), method)
        async with self._turns:
            return await patiently(lambda: call(request, timeout=CALL_S))

    def named(self, party: str, kind: Kind, name: str) -> str:
        """What the party calls it."""
        paired = party in (ONE, TWO)
        return self.identifiers.close(kind, party, name) if paired else name

    def member(self, party: str, mpxn: str) -> Member:
        """Whom the party is told of: the answer is the test's, and no party's."""
        if party in (ONE, TWO):
            opened = self.identifiers.open(Kind.METER, party, mpxn)
            assert opened is not None
            mpxn = opened
        return self.members[mpxn]

    async def close(self) -> None:
        for channel in self._channels.values():
            await channel.close(None)
        for process in reversed(self.processes.values()):
            await process.stop()


async def patiently(call: Any, *, keyed: bool = False) -> Any:
    """The answer, asked for again while it is not now; under a key, also where none came in time:
    it is carried out once.
    """
    until = time.monotonic() + PATIENCE_S
    while True:
        try:
            return await call()
        except grpc.aio.AioRpcError as error:
            late = error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            again = 0.0 if keyed and late else error_from(error).retry_after_s
            if again is None or time.monotonic() > until:
                raise
            await asyncio.sleep(again)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    data_dir = tmp_path_factory.mktemp("pooled")
    with EmbeddedKafka(data_dir) as broker:
        settings, kafka = await open_new_log(broker, data_dir)
        chosen = {"ledger_quorum": 0, "party_burst": 100_000, "party_cost_per_s": 100_000}
        runtime = Runtime.of(settings.model_copy(update=chosen), kafka, DOMAINS)
        made = World(runtime)
        await accredit(
            runtime,
            *((Role.DATA_USER, party) for party in USERS),
            *((Role.SUPPLIER, party) for party in SUPPLIERS),
        )
        try:
            for name, start in (
                ("governance", start_governance),
                ("consumers", start_consumers),
                ("metering", start_metering),
                ("assets", start_btm_assets),
                ("readings", start_readings),
                ("dsi", start_dsi),
                ("ledger", start_ledger),
            ):
                made.processes[name] = await start(runtime)
                if name == "governance":
                    await set_pairwise(made)
            await populate(made)
            yield made
        finally:
            await made.close()


async def set_pairwise(world: World) -> None:
    """Have the board say it of two of the data users."""
    channel = world.channel("governance", Role.GOVERNANCE, "board")
    governance = governance_pb2_grpc.GovernanceStub(channel)
    for party in (ONE, TWO):
        request = governance_pb2.SetIdentifiersRequest(
            idempotency_key=uuid4().hex,
            party=party,
            identifiers="PAIRWISE",
            ground="NO_NEED_OF_MPXN",
        )
        told = await governance.SetIdentifiers(request, timeout=CALL_S)
        assert told.partitions_holding == told.partitions_total
    listed = await governance.ListParticipants(
        governance_pb2.ListParticipantsRequest(), timeout=CALL_S
    )
    given = {one.party: one.identifiers for one in listed.participants}
    assert [given[user] for user in USERS] == ["PAIRWISE", "PAIRWISE", "MPXN", "MPXN"]


def bulk(**commands: Iterable[dict[str, Any]]) -> Any:
    ((kind, each),) = commands.items()
    return consumers_pb2.BulkRequest(
        commands=[
            consumers_pb2.BulkCommand(**{kind: {"idempotency_key": uuid4().hex, **fields}})
            for fields in each
        ]
    )


async def populate(world: World) -> None:
    """Everybody moves in, is metered for a day, and consents; some move out or revoke."""
    channel = world.channel("consumers", Role.CONSENT_SERVICE, PORTAL)
    portal = consumers_pb2_grpc.ConsumersStub(channel)
    await carried_out(
        portal.Bulk,
        bulk(
            start_tenancy=(
                {
                    "mpxn": m.mpxn,
                    "tenancy_id": f"t-{m.number}",
                    "consumer_ref": m.consumer_ref,
                    "effective_from": stamp(m.moved_in),
                }
                for m in EVERYBODY
            )
        ),
    )
    supplies = (
        {"mpxn": m.mpxn, "supplier": m.supplier, "effective_from": stamp(m.moved_in)}
        for m in EVERYBODY
    )
    await carried_out(portal.Bulk, bulk(start_supply=supplies))
    await asyncio.gather(*(metered(world, supplier) for supplier in SUPPLIERS))
    for user in USERS:
        await carried_out(portal.Bulk, bulk(grant_consent=(consent(m, user) for m in EVERYBODY)))
    await asyncio.gather(*(declared(world, m) for m in EVERYBODY if m.is_asked_all))
    await asyncio.gather(*(changed(world, portal, m) for m in EVERYBODY))


def consent(member: Member, user: str) -> dict[str, Any]:
    """On the same terms whoever it is made to, under an id that says for whom."""
    return {
        "mpxns": [member.mpxn],
        "consent_id": f"{member.consumer_ref}.{user}",
        "consumer_ref": member.consumer_ref,
        "data_user": user,
        "terms": {
            "purpose": "ENERGY_ADVICE",
            "categories": ["HH_CONSUMPTION", "METERING_POINT", "ASSET"],
            "history_from": stamp(member.moved_in),
            "valid_from": stamp(member.moved_in),
            "expires": stamp(member.expires),
        },
    }


async def carried_out(call: Any, request: Any) -> None:
    answer = await patiently(lambda: call(request, timeout=CALL_S), keyed=True)
    assert not [each for each in answer.results if each.refused]


async def metered(world: World, supplier: str) -> None:
    """Registered by its supplier, with a day of readings like nobody else's."""
    theirs = [m for m in EVERYBODY if m.supplier == supplier]
    stub = metering_pb2_grpc.MeteringStub(world.channel("metering", Role.SUPPLIER, supplier))
    request = metering_pb2.RegisterMeteringPointsRequest(
        commands=[
            {
                "idempotency_key": uuid4().hex,
                "mpxn": m.mpxn,
                "gsp_group": "" if len(m.mpxn) < 13 else GROUPS[m.number // 3 % len(GROUPS)],
                "registered_from": stamp(m.moved_in),
            }
            for m in theirs
        ]
    )
    await carried_out(stub.RegisterMeteringPoints, request)
    days = np.full(len(theirs), (START - datetime(1970, 1, 1, tzinfo=UTC)).days, dtype="<i4")
    dice = np.random.default_rng(int(supplier[-1], 36))
    sent = [
        metering_pb2.RecordReadingsRequest(
            header={
                "sender_reference": supplier,
                "source_digest": supplier.encode().ljust(32),
                "measurement_quantity": "AI",
                "quality_codes": ["A"],
            }
        ),
        metering_pb2.RecordReadingsRequest(
            chunk={
                "mpxns": b"".join(m.mpxn.encode().ljust(13, b"\0") for m in theirs),
                "days": days.tobytes(),
                "present": b"\xff" * 6 * len(theirs),
                "values_wh": dice.integers(0, 2_000, (len(theirs), 48)).astype("<i4").tobytes(),
                "quality": bytes(48 * len(theirs)),
            }
        ),
    ]
    report = await stub.RecordReadings(iter(sent), timeout=CALL_S)
    assert report.rows_recorded == len(theirs)


async def declared(world: World, member: Member) -> None:
    """A battery behind the meter, with all that would name it."""
    channel = world.channel("assets", Role.CONSENT_SERVICE, PORTAL)
    request = btm_assets_pb2.DeclareAssetRequest(
        idempotency_key=uuid4().hex,
        mpxn=member.mpxn,
        asset_id=member.asset_id,
        kind={"asset_class": "BATTERY"},
        specification={"maker": "Cell & Co", "serial": f"SN-{member.number}"},
        connection={"import_mpan": "NOT_APPLICABLE", "export_mpan": "UNKNOWN"},
        ownership={"owner": member.consumer_ref},
    )
    call = btm_assets_pb2_grpc.BtmAssetsStub(channel).DeclareAsset
    async with world._turns:
        await patiently(lambda: call(request, timeout=CALL_S), keyed=True)


async def changed(world: World, portal: Any, member: Member) -> None:
    """What some do: a removal ends all consents at once, and so do revocations in one go."""
    key = uuid4().hex
    async with world._turns:
        if member.moves_out:
            ended = consumers_pb2.EndTenancyRequest(
                idempotency_key=key,
                mpxn=member.mpxn,
                tenancy_id=f"t-{member.number}",
                effective_to=stamp(START + timedelta(days=member.number)),
            )
            await patiently(lambda: portal.EndTenancy(ended, timeout=CALL_S), keyed=True)
        for user in USERS if member.revokes else ():
            revoked = consumers_pb2.RevokeConsentRequest(
                idempotency_key=f"{key[:16]}-{user}",
                consent_id=f"{member.consumer_ref}.{user}",
                mpxns=[member.mpxn],
                reason="MIND_CHANGED",
            )
            await patiently(partial(portal.RevokeConsent, revoked, timeout=CALL_S), keyed=True)


# -- what a data user asks ------------------------------------------------------------------------


async def gather(world: World, party: str, dice: random.Random) -> Pool:
    """All that a data user can ask of whom it was told of, in an order of its own."""
    pool = Pool()
    learnt = await told_of(world, party, pool)
    assert sorted(m.number for m in learnt.values()) == list(range(MEMBERS))
    meters = list(learnt)
    dice.shuffle(meters)
    await streamed(world, party, pool, meters, learnt)
    await advised(world, party, pool, meters, learnt)
    third = [(mpxn, learnt[mpxn]) for mpxn in meters if learnt[mpxn].is_asked_all]
    if party not in (ONE, TWO):  # who is given MPxNs joins by less
        third = [each for each in third if each[1].number < FEW * 9]
    await asyncio.gather(*(read(world, party, pool, *each) for each in third))
    await asyncio.gather(*(answered(world, party, pool, *each) for each in third))
    return pool


async def told_of(world: World, party: str, pool: Pool) -> dict[str, Member]:
    """Its consents, as it learns of them: from the stream, and from the list."""
    channel = world.channel("consumers", Role.DATA_USER, party)
    changes = consumers_pb2_grpc.ChangesStub(channel)

    async def list_all() -> Any:
        listed = await changes.ListChanges(consumers_pb2.ListChangesRequest(), timeout=CALL_S)
        if len(listed.changes) < MEMBERS:
            await asyncio.sleep(0.1)
        return listed

    until = time.monotonic() + PATIENCE_S
    while len((listed := await patiently(list_all)).changes) < MEMBERS:
        assert time.monotonic() < until
    learnt: dict[str, Member] = {}
    for change in listed.changes:
        learnt[change.mpxn] = world.member(party, change.mpxn)
        pool.take("ListChanges", learnt[change.mpxn], change)
    pool.lists["ListChanges"] = [learnt[change.mpxn].number for change in listed.changes]
    following = changes.FollowChanges(consumers_pb2.FollowChangesRequest(), timeout=CALL_S)
    order: list[int] = []
    async for change in following:
        pool.take("FollowChanges", learnt[change.mpxn], change)
        order.append(learnt[change.mpxn].number)
        if len(order) == MEMBERS:
            following.cancel()
            break
    pool.lists["FollowChanges"] = order
    return learnt


async def read(world: World, party: str, pool: Pool, mpxn: str, member: Member) -> None:
    """Every read of one meter, with its page after page, and what is refused."""
    at_least = None
    for method, kind, more in (
        ("ListConsents", dsi_pb2.ListConsentsRequest, {}),
        ("ListTenancies", dsi_pb2.ListTenanciesRequest, {}),
        ("GetMeteringPoint", dsi_pb2.GetMeteringPointRequest, {}),
        ("ListAssets", dsi_pb2.ListAssetsRequest, {}),
        ("GetReadings", dsi_pb2.GetReadingsRequest, {"interval": DAY, "page_size": 30}),
        ("GetReadings", dsi_pb2.GetReadingsRequest, {"interval": DAY, "in_columns": True}),
    ):
        request: Any = kind(mpxn=mpxn, **ADVICE, **more)
        if at_least is not None:
            request.at_least.CopyFrom(at_least)
        while True:
            answer = await asked(world, party, pool, member, "dsi", DSI, method, request)
            if answer is None:
                break
            at_least = answer.positions
            if method == "ListAssets":
                for asset in answer.assets:
                    one = dsi_pb2.GetAssetRequest(mpxn=mpxn, asset_id=asset.asset_id, **ADVICE)
                    await asked(world, party, pool, member, "dsi", DSI, "GetAsset", one)
            if not getattr(answer, "next_cursor", ""):
                break
            request.cursor = answer.next_cursor


DSI, LEDGER = dsi_pb2_grpc.DsiStub, ledger_pb2_grpc.LedgerStub


async def asked(
    world: World,
    party: str,
    pool: Pool,
    member: Member,
    process: str,
    stub: Any,
    method: str,
    request: Any,
) -> Any:
    """The answer, taken into the pool; None if it was refused, and what was said of that."""
    try:
        answer = await world.as_user(party, process, stub, method, request)
    except grpc.aio.AioRpcError as error:
        trailing: Any = error.trailing_metadata()
        status = Status.FromString(dict(trailing)[STATUS_DETAILS])
        for path, value in leaves(status):
            pool.note(f"{method} refused {path}", value, member)
        pool.note(f"{method} refused", error.details(), member)
        return None
    pool.take(method, member, answer)
    return answer


async def streamed(
    world: World, party: str, pool: Pool, meters: list[str], learnt: dict[str, Member]
) -> None:
    stub = DSI(world.channel("dsi", Role.DATA_USER, party))
    request = dsi_pb2.StreamReadingsRequest(mpxns=meters, interval=DAY, **ADVICE)
    order: list[str] = []
    async for chunk in stub.StreamReadings(request, timeout=CALL_S):
        assert chunk.mpxn in learnt, "it is called what the party called it"
        order.append(chunk.mpxn)
        pool.take("StreamReadings", learnt[chunk.mpxn], chunk)
    assert sorted(order) == sorted(meters)
    assert (order == meters) == (party in (ONE, TWO)), "or it would be in that of partitions"


async def advised(
    world: World, party: str, pool: Pool, meters: list[str], learnt: dict[str, Member]
) -> None:
    questions = [{"mpxn": m, "data_user": party, "purpose": "ENERGY_ADVICE"} for m in meters]
    request = dsi_pb2.CheckAccessRequest(questions=questions)
    answer = await world.as_user(party, "dsi", DSI, "CheckAccess", request)
    for mpxn, advice in zip(meters, answer.advice, strict=True):
        pool.take("CheckAccess", learnt[mpxn], advice)
    assert sum(advice.would_permit for advice in answer.advice) == MEMBERS * 6 // 8


async def answered(world: World, party: str, pool: Pool, mpxn: str, member: Member) -> None:
    """What it read, what it has to delete, and what it says to all that."""
    reads = ledger_pb2.ListReadsRequest(mpxn=mpxn, page_size=5)
    answer = await asked(world, party, pool, member, "ledger", LEDGER, "ListReads", reads)
    assert answer is not None and answer.reads and answer.next_cursor
    reads.cursor = answer.next_cursor
    await asked(world, party, pool, member, "ledger", LEDGER, "ListReads", reads)
    deletions = consumers_pb2_grpc.DeletionsStub
    listing = consumers_pb2.ListDeletionsRequest(only_mpxn=mpxn)
    asking = (world, party, pool, member, "consumers")
    listed = await asked(*asking, deletions, "ListDeletions", listing)
    for owed in listed.deletions:
        confirming = consumers_pb2.ConfirmDeletionRequest(
            idempotency_key=uuid4().hex, mpxn=mpxn, consent_id=owed.consent_id
        )
        await asked(*asking, deletions, "ConfirmDeletion", confirming)
        await asked(*asking, deletions, "ListDeletions", listing)
    changes = consumers_pb2_grpc.ChangesStub
    if member.revokes:
        told = next(iter(pool_changes(pool, member)), "")
        acknowledging = consumers_pb2.AcknowledgeChangeRequest(mpxn=mpxn, change_id=told)
        await asked(*asking, changes, "AcknowledgeChange", acknowledging)
    consent_id = world.named(party, Kind.CONSENT, f"{member.consumer_ref}.{party}")
    withdrawing = consumers_pb2.WithdrawConsentRequest(
        idempotency_key=uuid4().hex, consent_id=consent_id, mpxns=[mpxn], reason="NO_NEED"
    )
    consumers = consumers_pb2_grpc.ConsumersStub
    await asked(*asking, consumers, "WithdrawConsent", withdrawing)


def pool_changes(pool: Pool, member: Member) -> Iterator[str]:
    """The ids of changes that the party was told of a member."""
    for (_, value), members in pool.values.items():
        if members == {member.number} and isinstance(value, str) and CHANGE_ID.fullmatch(value):
            yield value


async def next_second() -> None:
    """Who calls when is its own doing: here not in the same second as the other."""
    await asyncio.sleep(1.1 - time.time() % 1)


async def test_two_pools_have_nothing_in_common_that_tells_who_is_who(world: World) -> None:
    pools = {}
    for seed, party in enumerate(USERS):
        pools[party] = await gather(world, party, random.Random(seed))
        await next_second()
    one, two = pools[ONE], pools[TWO]
    assert links(one, two) == {}
    assert found_again(one, two) == set()
    naive = (pools[PLAIN_ONE], pools[PLAIN_TWO])
    assert len(found_again(*naive)) == MEMBERS, "given MPxNs, everybody is found again"
    joining = {path for path, _ in links(*naive) if path != "text"}
    assert len(joining) > 20, "and by more than the number"
    for name in ("ListChanges", "FollowChanges"):
        assert same_places(one, two, name) < FEW
    # Nor does one of a pair find anybody in the pool of who has the numbers.
    assert found_again(one, pools[PLAIN_ONE]) == set()


async def test_the_log_names_meters_as_ever(world: World) -> None:
    """What was asked stands there under the MPxN, whoever asked and however it said it."""
    reader = world.runtime.reader()
    named: dict[str, set[str]] = defaultdict(set)
    try:
        for partition in range(world.runtime.partitions):
            for record in reader.read(trust.CONSUMER_LOG, partition, 0):
                if record.header("t") == b"a":
                    value: Any = world.runtime.codec.decode(record.value or b"")
                    for entry in value.entries:
                        named[entry.party] |= {str(mpxn) for mpxn in entry.meters}
    finally:
        reader.close()
    for party in (ONE, PLAIN_ONE):
        assert named[party] == set(world.members)
    assert named.keys() == set(USERS)


async def test_the_calculator_agrees_with_every_decision_of_the_run(world: World) -> None:
    """Under whatever identifiers it was asked."""
    count, disagreed = await asyncio.to_thread(judge, world.runtime)
    assert count > MEMBERS
    assert disagreed == [], "\n".join(disagreed[:5])
