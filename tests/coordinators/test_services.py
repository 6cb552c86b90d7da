"""The governance and consumers coordinators over mutual TLS, on a real log."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock
from uuid import uuid4

import grpc
import pytest
import pytest_asyncio
from google.protobuf.timestamp_pb2 import Timestamp

from domains.consumers import decider, receipts
from domains.consumers.chain import record_of, terms_of
from domains.consumers.commands import GrantConsent, RevokeConsent
from domains.consumers.evolve import find_consent
from spine import trust
from spine.codec import tools
from spine.consumers.v1 import consumers_pb2, consumers_pb2_grpc
from spine.coordinator import Coordinator
from spine.domain import Actor
from spine.embedded import EmbeddedKafka
from spine.errors import Pushback, Reason
from spine.event import Facts, LogRecord, RecordType, SignerRole
from spine.governance.v1 import governance_pb2, governance_pb2_grpc
from spine.identity import Identity
from spine.installation import DOMAINS
from spine.log import partition_counts
from spine.orders import Order
from spine.partition import PartitionFold
from spine.policy import Consent, MeterAccess, Role
from spine.policy_data import POLICY_DATA, data_hash
from spine.runtime import Process, Runtime
from spine.sealing import VAULT_FILE, Vault
from spine.server import Failure, connect, error_from
from spine.services.consumers import SEND_MISSING_EVERY_S, start_consumers
from spine.services.governance import start_governance
from spine.services.legs import FanOuts
from spine.services.terms import agreed
from spine.signing import verify
from spine.store import MemoryRows
from tests.helpers.accredited import accredit, heard_by
from tests.helpers.log import PARTITIONS, open_new_log

pytestmark = pytest.mark.asyncio(loop_scope="module")

# Governance itself is not copied to: it is at home.
PARTITIONS_OF_ALL_TOPICS = len(trust.METER_KEYED) * PARTITIONS + len(trust.SINGLE_PARTITION)
MOVED_IN = datetime(2025, 1, 1, tzinfo=UTC)
NAME, CONTACT, NOTICE = "Gwenllian Marker-One", "marker.two@example.org", "Marker three: we read."
ADVISER = "adviser"
WAIT_S = 30.0
# How long a request waits for its answer, which must not be over when it is decided.
LAPSES_S = 3.0
_numbers = count(1)


def new_mpan() -> str:
    return f"12000000{next(_numbers):05d}"


def key() -> str:
    return uuid4().hex


def stamp(at: datetime) -> Timestamp:
    written = Timestamp()
    written.FromDatetime(at)
    return written


def in_days(days: float) -> datetime:
    return (datetime.now(UTC) + timedelta(days=days)).replace(microsecond=0)


EXPIRES = in_days(90)


@dataclass
class World:
    """A log with both coordinators, and the parties that call them."""

    runtime: Runtime
    governance: Process
    consumers: Process
    channels: dict[tuple[int, str], grpc.aio.Channel]

    def who(self, role: Role, party: str) -> Identity:
        return self.runtime.authority().issue_client(role, party, f"{role}-{party}")

    def channel(self, process: Process, role: Role, party: str) -> grpc.aio.Channel:
        assert process.server is not None
        name = (process.server.port, f"{role}-{party}")
        if name not in self.channels:
            target = f"127.0.0.1:{process.server.port}"
            self.channels[name] = connect(target, self.who(role, party).folder)
        return self.channels[name]

    async def govern(
        self, method: str, request: Any, role: Role = Role.GOVERNANCE, timeout_s: float = 20
    ) -> Any:
        stub = governance_pb2_grpc.GovernanceStub(self.channel(self.governance, role, "recco"))
        return await getattr(stub, method)(request, timeout=timeout_s)

    async def consume(
        self, method: str, request: Any, role: Role = Role.CONSENT_SERVICE, party: str = "ccs"
    ) -> Any:
        stub = consumers_pb2_grpc.ConsumersStub(self.channel(self.consumers, role, party))
        return await getattr(stub, method)(request, timeout=25)

    def access(self, mpxn: str, process: Process | None = None) -> MeterAccess:
        folds = (process or self.consumers).folds
        assert folds is not None
        for (topic, _), live in folds.folds.items():
            fold = live.stored.fold
            if topic == trust.CONSUMER_LOG and fold.subject(mpxn).offset >= 0:
                state = fold.subject(mpxn).state
                assert isinstance(state, MeterAccess)
                return state
        return MeterAccess()

    def consent(self, mpxn: str, consent_id: str) -> Consent | None:
        return find_consent(self.access(mpxn), consent_id)

    async def home(self, *mpxns: str) -> str:
        """A tenancy over these meters; its consumer reference."""
        started = await self.consume("StartTenancy", tenancy(mpxns[0]))
        for mpxn in mpxns[1:]:
            await self.consume(
                "StartTenancy",
                tenancy(mpxn, started.tenancy_id, started.consumer_ref),
            )
        return str(started.consumer_ref)

    def records(self) -> Iterator[LogRecord]:
        reader = self.runtime.reader()
        try:
            for topic, partitions in partition_counts(self.runtime.partitions).items():
                for partition in range(partitions):
                    yield from reader.read(topic, partition, 0)
        finally:
            reader.close()


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedKafka]:
    with EmbeddedKafka(tmp_path_factory.mktemp("services")) as started:
        yield started


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(
    broker: EmbeddedKafka, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[World]:
    settings, kafka = await open_new_log(broker, tmp_path_factory.mktemp("installation"))
    runtime = Runtime.of(settings, kafka, DOMAINS)
    governance = await start_governance(runtime)
    made = World(runtime, governance, await start_consumers(runtime), {})
    await accredit(runtime, (Role.DATA_USER, ADVISER))
    await heard_by(made.consumers)
    try:
        yield made
    finally:
        for channel in made.channels.values():
            await channel.close(None)
        await asyncio.gather(made.consumers.stop(), governance.stop())


async def failure(call: Awaitable[Any]) -> Failure:
    with pytest.raises(grpc.RpcError) as caught:
        await call
    return error_from(caught.value)


def tenancy(mpxn: str, tenancy_id: str = "", consumer_ref: str = "", **more: Any) -> Any:
    return consumers_pb2.StartTenancyRequest(
        idempotency_key=more.pop("idempotency_key", key()),
        mpxn=mpxn,
        tenancy_id=tenancy_id,
        consumer_ref=consumer_ref,
        effective_from=stamp(MOVED_IN),
        **more,
    )


def terms(*categories: str) -> Any:
    return consumers_pb2.Terms(
        purpose="ENERGY_ADVICE",
        categories=categories or ("HH_CONSUMPTION", "TARIFF"),
        history_from=stamp(MOVED_IN),
        valid_from=stamp(MOVED_IN),
        expires=stamp(EXPIRES),
    )


def grant(consumer_ref: str, *mpxns: str, **more: Any) -> Any:
    return consumers_pb2.GrantConsentRequest(
        **{"idempotency_key": key(), "data_user": ADVISER, "terms": terms()} | more,
        mpxns=mpxns,
        consumer_ref=consumer_ref,
    )


def unstated(answer: Any) -> list[Any]:
    """The legs without their receipts, which say when they were given."""
    legs = [consumers_pb2.Leg.FromString(leg.SerializeToString()) for leg in answer.legs]
    for leg in legs:
        leg.ClearField("receipt")
    return legs


def about(kind: str, consent_id: str, *mpxns: str, **more: Any) -> Any:
    message = getattr(consumers_pb2, f"{kind}ConsentRequest")
    more = {"idempotency_key": key()} | more
    return message(consent_id=consent_id, mpxns=mpxns, **more)


# -- governance -----------------------------------------------------------------------------------


def folded(world: World) -> dict[tuple[str, int], PartitionFold]:
    """Every partition of every topic, each folded from its own records alone."""
    codec, folds = world.runtime.codec, {}
    for record in world.records():
        place = (record.topic, record.partition)
        if place not in folds:
            folds[place] = PartitionFold(
                *place,
                world.runtime.identity.log_id,
                tools(codec, verify),
                MemoryRows(),
                DOMAINS.by_topic.get(record.topic),
                DOMAINS.governance,
            )
        folds[place].apply(record)
    return folds


async def admit(world: World, party: str) -> Any:
    return await world.govern(
        "AdmitParticipant",
        governance_pb2.AdmitParticipantRequest(
            idempotency_key=f"admit-{party}", party=party, name=f"{party} Ltd"
        ),
    )


def suspension(party: str, reason: str = "AUDIT_FAILED") -> Any:
    return governance_pb2.SuspendParticipantRequest(
        idempotency_key=f"suspend-{party}", party=party, reason=reason
    )


async def test_a_suspension_is_answered_when_it_is_in_every_partition(world: World) -> None:
    await admit(world, "flexco")
    await world.govern(
        "GrantAccreditation",
        governance_pb2.GrantAccreditationRequest(
            idempotency_key=key(),
            party="flexco",
            role="data_user",
            scheme="DSI",
            tier="T1",
            purposes=["FLEXIBILITY"],
            effective_from=stamp(MOVED_IN),
        ),
    )
    answer = await world.govern("SuspendParticipant", suspension("flexco"))
    assert answer.partitions_holding == answer.partitions_total == PARTITIONS_OF_ALL_TOPICS
    folds = await asyncio.to_thread(folded, world)
    assert len(folds) == PARTITIONS_OF_ALL_TOPICS
    for fold in folds.values():
        participant = fold.participant("flexco")
        assert participant is not None and participant.suspended
        assert [a.scheme for a in participant.accreditations] == ["DSI"]
        policy = fold.standing(trust.POLICY_SUBJECT).policy
        assert policy == trust.Policy(max(POLICY_DATA), data_hash(POLICY_DATA[max(POLICY_DATA)]))
        assert fold.head is not None and fold.head.counts.balanced
        assert fold.head.counts.void == fold.head.counts.quarantined == 0


async def test_a_governance_command_sent_again_is_replayed(world: World) -> None:
    await admit(world, "again")
    first = await world.govern("SuspendParticipant", suspension("again"))
    second = await world.govern("SuspendParticipant", suspension("again"))
    assert (first.replayed, second.replayed) == (False, True)
    assert second.record == first.record
    assert second.partitions_holding == PARTITIONS_OF_ALL_TOPICS
    other = await failure(world.govern("SuspendParticipant", suspension("again", "OTHER")))
    assert (other.code, other.reason) == ("ABORTED", Reason.IDEMPOTENCY_CONFLICT)


async def test_commands_that_come_at_once_share_records_and_are_answered_each_alone(
    world: World,
) -> None:
    parties = [f"crowd.{n}" for n in range(30)]
    before = len(list(world.records()))
    made = await asyncio.gather(*(admit(world, party) for party in parties))
    places = [(each.record.offset, each.record.entry) for each in made]
    assert len(set(places)) == len(parties)
    homes = {offset for offset, _ in places}
    assert len(homes) < len(parties) / 2
    assert all(each.partitions_holding == PARTITIONS_OF_ALL_TOPICS for each in made)
    copies = len(list(world.records())) - before
    assert copies <= len(homes) * PARTITIONS_OF_ALL_TOPICS, "one of a record, not of a command"

    def grant(party: str, role: str, number: int) -> Any:
        request = governance_pb2.GrantAccreditationRequest(
            idempotency_key=f"crowd-{number}",
            party=party,
            role=role,
            scheme="DSI",
            tier="T1",
            effective_from=stamp(MOVED_IN),
        )
        return world.govern("GrantAccreditation", request)

    again = admit(world, parties[0])
    unknown, conflict = failure(grant(parties[1], "wizard", 1)), failure(grant("nobody", "dsi", 2))
    fine = [grant(party, "data_user", 3 + n) for n, party in enumerate(parties)]
    replayed, of_role, of_party, *granted = await asyncio.gather(again, unknown, conflict, *fine)
    assert replayed.replayed and replayed.record == made[0].record
    assert "OK" not in (of_role.code, of_party.code)
    assert not any(each.replayed for each in granted)
    for fold in (await asyncio.to_thread(folded, world)).values():
        for party in parties:
            known = fold.participant(party)
            assert known is not None and [a.role for a in known.accreditations] == ["data_user"]
        assert fold.head is not None and fold.head.counts.balanced
        assert fold.head.counts.void == fold.head.counts.quarantined == 0


async def test_a_copy_that_could_not_be_sent_is_counted_out_and_sent_later(world: World) -> None:
    await admit(world, "slow")
    async with broken(world.governance, lambda topic, key: topic == trust.OUTCOMES_TOPIC):
        answer = await world.govern("SuspendParticipant", suspension("slow"))
        assert answer.partitions_holding == PARTITIONS_OF_ALL_TOPICS - 4
    async with asyncio.timeout(WAIT_S):
        while answer.partitions_holding < PARTITIONS_OF_ALL_TOPICS:
            await asyncio.sleep(0.1)
            answer = await world.govern("SuspendParticipant", suspension("slow"))
    folds = await asyncio.to_thread(folded, world)
    assert all(getattr(f.participant("slow"), "suspended", False) for f in folds.values())


async def test_only_governance_governs(world: World) -> None:
    request = governance_pb2.AdmitParticipantRequest(
        idempotency_key=key(), party="intruder", name="Intruder Ltd"
    )
    refused = await failure(world.govern("AdmitParticipant", request, Role.DATA_USER))
    assert (refused.code, refused.reason) == ("PERMISSION_DENIED", Reason.ROLE_NOT_ALLOWED)


async def test_a_policy_of_other_data_is_not_adopted(world: World) -> None:
    request = governance_pb2.AdoptPolicyVersionRequest(
        idempotency_key=key(), version=max(POLICY_DATA), data_hash=bytes(32)
    )
    refused = await failure(world.govern("AdoptPolicyVersion", request))
    assert (refused.code, refused.field) == ("INVALID_ARGUMENT", "data_hash")


async def test_participants_come_in_pages_and_in_order(world: World) -> None:
    for party in ("page.a", "page.b", "page.c"):
        await admit(world, party)
    seen, cursor = [], ""
    while True:
        page = await world.govern(
            "ListParticipants",
            governance_pb2.ListParticipantsRequest(page_size=2, cursor=cursor),
            Role.AUDITOR,
        )
        seen += [p.party for p in page.participants]
        assert len(page.participants) <= 2
        cursor = page.next_cursor
        if not cursor:
            break
    assert seen == sorted(set(seen)) and {"page.a", "page.b", "page.c"} <= set(seen)


# -- tenancies ------------------------------------------------------------------------------------


async def test_a_tenancy_is_started_once_and_its_ids_are_given_again(world: World) -> None:
    mpxn = new_mpan()
    first = await world.consume("StartTenancy", tenancy(mpxn, idempotency_key="t-once"))
    again = await world.consume("StartTenancy", tenancy(mpxn, idempotency_key="t-once"))
    assert (first.replayed, again.replayed) == (False, True)
    assert (again.tenancy_id, again.consumer_ref) == (first.tenancy_id, first.consumer_ref)
    assert again.record == first.record and again.positions == first.positions
    (held,) = world.access(mpxn).tenancies
    assert (held.tenancy_id, held.consumer_ref) == (first.tenancy_id, first.consumer_ref)
    (position,) = first.positions.positions
    assert (position.topic, position.offset) == (trust.CONSUMER_LOG, first.record.offset + 1)


async def test_other_content_under_the_same_key_is_a_conflict(world: World) -> None:
    mpxn = new_mpan()
    await world.consume("StartTenancy", tenancy(mpxn, idempotency_key="t-twice"))
    other = tenancy(mpxn, tenancy_id="t-other", idempotency_key="t-twice")
    conflict = await failure(world.consume("StartTenancy", other))
    assert (conflict.code, conflict.reason) == ("ABORTED", Reason.IDEMPOTENCY_CONFLICT)


async def test_supply_and_agents_come_and_go(world: World) -> None:
    mpxn = new_mpan()
    ends = in_days(30)
    start, end = stamp(MOVED_IN), stamp(ends)
    supply: dict[str, Any] = {"mpxn": mpxn, "supplier": "BRIT"}
    agent: dict[str, Any] = {"mpxn": mpxn, "agent": "DATA", "agent_role": "data_service"}
    for method, at in [
        ("StartSupply", supply | {"effective_from": start}),
        ("AppointAgent", agent | {"effective_from": start}),
        ("EndAgentAppointment", agent | {"effective_to": end}),
        ("EndSupply", supply | {"effective_to": end}),
    ]:
        request = getattr(consumers_pb2, f"{method}Request")(idempotency_key=key(), **at)
        assert not (await world.consume(method, request)).replayed
    access = world.access(mpxn)
    assert [s.effective_to for s in access.supplies] == [ends]
    assert [a.effective_to for a in access.appointments] == [ends]


@pytest.mark.parametrize(
    ("changes", "reason", "field"),
    [
        ({"idempotency_key": ""}, Reason.IDEMPOTENCY_KEY_REQUIRED, "idempotency_key"),
        ({"idempotency_key": "k" * 65}, Reason.IDEMPOTENCY_KEY_REQUIRED, "idempotency_key"),
        ({"mpxn": "12"}, Reason.MPXN_FORMAT, None),
        ({"tenancy_id": "a b c"}, Reason.FIELD_INVALID, "tenancy_id"),
        ({"consumer_ref": "x"}, Reason.FIELD_INVALID, "consumer_ref"),
        ({"person": consumers_pb2.Person(name="n" * 201)}, Reason.FIELD_INVALID, "person.name"),
    ],
)
async def test_a_malformed_tenancy_is_refused(
    world: World, changes: dict[str, Any], reason: Reason, field: str | None
) -> None:
    request = tenancy(**{"mpxn": new_mpan()} | changes)
    refused = await failure(world.consume("StartTenancy", request))
    assert (refused.code, refused.reason) == ("INVALID_ARGUMENT", reason)
    assert field is None or refused.field == field


async def test_an_instant_left_out_is_named(world: World) -> None:
    request = tenancy(new_mpan())
    request.ClearField("effective_from")
    refused = await failure(world.consume("StartTenancy", request))
    assert (refused.reason, refused.field) == (Reason.FIELD_MISSING, "effective_from")


# -- consents of one meter ------------------------------------------------------------------------


async def test_a_consent_is_granted_narrowed_and_revoked(world: World) -> None:
    mpxn = new_mpan()
    anna = await world.home(mpxn)
    own = (Role.CONSUMER, anna)
    granted = await world.consume("GrantConsent", grant("", mpxn), *own)
    (leg,) = granted.legs
    assert (leg.mpxn, leg.state, leg.version, leg.refused) == (mpxn, "ACTIVE", 1, "")
    narrow = about("Narrow", granted.consent_id, mpxn, categories=["TARIFF"])
    (leg,) = (await world.consume("NarrowConsent", narrow, *own)).legs
    assert (leg.state, leg.version) == ("ACTIVE", 2)
    consent = world.consent(mpxn, granted.consent_id)
    assert consent is not None
    assert (consent.categories, consent.expires) == (("TARIFF",), EXPIRES)
    wider = about("Narrow", granted.consent_id, mpxn, categories=["EXPORT"])
    refused = await failure(world.consume("NarrowConsent", wider, *own))
    assert (refused.code, refused.reason) == ("FAILED_PRECONDITION", Reason.CONSENT_WIDER)
    revoke = about("Revoke", granted.consent_id, mpxn, reason="NO_LONGER_WANTED")
    (leg,) = (await world.consume("RevokeConsent", revoke, *own)).legs
    assert (leg.state, leg.refused) == ("REVOKED", "")


def keys_in_vault(world: World) -> int:
    vault = sqlite3.connect(world.runtime.settings.data_dir / VAULT_FILE)
    try:
        ((keys,),) = vault.execute("SELECT count(*) FROM keys").fetchall()
        return int(keys)
    finally:
        vault.close()


async def test_a_dry_run_says_what_would_open_and_shut_and_writes_nothing(world: World) -> None:
    mpxn, next_door = new_mpan(), new_mpan()
    anna = await world.home(mpxn)
    await world.home(next_door)
    own = (Role.CONSUMER, anna)
    ask = grant("", mpxn, next_door, consent_id="tried", dry_run=True, notice={"text": "Allow?"})
    written, keys = list(world.records()), keys_in_vault(world)
    tried = await world.consume("GrantConsent", ask, *own)
    here, there = tried.legs
    assert [(one.category, one.metered_from.ToDatetime(UTC)) for one in here.opens] == [
        ("HH_CONSUMPTION", MOVED_IN),
        ("METERING_POINT", MOVED_IN),
        ("TARIFF", MOVED_IN),
    ]
    assert {one.read_until.ToDatetime(UTC) for one in here.opens} == {EXPIRES}
    assert not any(one.HasField("metered_to") for one in here.opens)
    assert (here.state, here.record.topic, here.receipt, len(here.shuts)) == ("ACTIVE", "", "", 0)
    assert there.refused == Reason.NOT_AN_OCCUPIER
    refused = await failure(world.consume("GrantConsent", grant("", next_door, dry_run=True), *own))
    assert refused.reason == Reason.NOT_AN_OCCUPIER
    assert list(world.records()) == written and world.consent(mpxn, "tried") is None
    assert keys_in_vault(world) == keys, "a notice is sealed, and makes a key, only if it counts"

    await world.consume("GrantConsent", grant("", mpxn, consent_id="first"), *own)
    await world.consume("GrantConsent", grant("", mpxn, terms=terms("TARIFF")), *own)
    narrow = about("Narrow", "first", mpxn, categories=["TARIFF"], dry_run=True)
    (leg,) = (await world.consume("NarrowConsent", narrow, *own)).legs
    assert (leg.version, len(leg.opens), len(leg.shuts)) == (2, 0, 1)
    revoke = about("Revoke", "first", mpxn, dry_run=True)
    (leg,) = (await world.consume("RevokeConsent", revoke, *own)).legs
    # Tariff and standing data stay open under the other consent.
    assert [(one.category, leg.state) for one in leg.shuts] == [("HH_CONSUMPTION", "REVOKED")]
    consent = world.consent(mpxn, "first")
    assert consent is not None and (consent.state, consent.version) == ("ACTIVE", 1)


async def test_a_dry_run_says_who_reads_nothing_whatever_the_consent_opens(world: World) -> None:
    mpxn = new_mpan()
    anna = await world.home(mpxn)
    await admit(world, "unaccredited")
    for data_user, why in (
        (ADVISER, ""),
        ("never-heard-of", Reason.PARTICIPANT_UNKNOWN),
        ("unaccredited", Reason.ACCREDITATION_MISSING),
    ):
        ask = grant("", mpxn, data_user=data_user, dry_run=True)
        # An admission is in the log when it is answered; the consumers' coordinator reads it then.
        async with asyncio.timeout(WAIT_S):
            while True:
                (leg,) = (await world.consume("GrantConsent", ask, Role.CONSUMER, anna)).legs
                assert (leg.state, len(leg.opens)) == ("ACTIVE", 3)
                if leg.reads_refused == why:
                    break
                assert leg.reads_refused == Reason.PARTICIPANT_UNKNOWN, data_user
                await asyncio.sleep(0.05)


async def test_a_dry_run_at_home_is_refused_as_the_order_would_be(world: World) -> None:
    meters = (new_mpan(), new_mpan())
    own = (Role.CONSUMER, await world.home(*meters))
    granted = await world.consume("GrantConsent", grant("", *meters), *own)
    assert [leg.state for leg in granted.legs] == ["ACTIVE", "ACTIVE"]
    written = list(world.records())
    wider = about("Narrow", granted.consent_id, *meters, categories=["EXPORT"], dry_run=True)
    refused = await failure(world.consume("NarrowConsent", wider, *own))
    assert refused.reason == Reason.CONSENT_WIDER
    revoke = about("Revoke", granted.consent_id, *meters, dry_run=True)
    tried = await world.consume("RevokeConsent", revoke, *own)
    assert [(leg.state, len(leg.shuts)) for leg in tried.legs] == [("REVOKED", 3)] * 2
    assert list(world.records()) == written


async def test_a_dry_run_at_home_tells_what_the_legs_of_the_order_come_to(world: World) -> None:
    """Each meter is told only what was narrowed: what it had further narrowed alone, it keeps."""
    meters = (new_mpan(), new_mpan())
    own = (Role.CONSUMER, await world.home(*meters))
    granted = await world.consume("GrantConsent", grant("", *meters), *own)
    alone = about("Narrow", granted.consent_id, meters[0], expires=stamp(in_days(10)))
    await world.consume("NarrowConsent", alone, *own)
    narrow = about("Narrow", granted.consent_id, *meters, categories=["TARIFF"])
    for dry_run in (True, False):
        narrow.dry_run = dry_run
        answer = await world.consume("NarrowConsent", narrow, *own)
        assert [(leg.state, leg.version, leg.refused) for leg in answer.legs] == [
            ("ACTIVE", 3, ""),
            ("ACTIVE", 2, ""),
        ]
        shut = [[one.category for one in leg.shuts] for leg in answer.legs]
        assert shut == ([["HH_CONSUMPTION"], ["HH_CONSUMPTION"]] if dry_run else [[], []])
    first, second = (world.consent(mpxn, granted.consent_id) for mpxn in meters)
    assert first is not None and second is not None and first.expires < second.expires
    again = about("Narrow", granted.consent_id, *meters, categories=["TARIFF"], dry_run=True)
    told = await world.consume("NarrowConsent", again, *own)
    assert [(leg.version, len(leg.opens), len(leg.shuts)) for leg in told.legs] == [
        (3, 0, 0),
        (2, 0, 0),
    ]


async def test_a_dry_run_is_no_command_of_many(world: World) -> None:
    mpxn = new_mpan()
    anna = await world.home(mpxn)
    tried = grant(anna, mpxn, consent_id="k-in-bulk", dry_run=True)
    bulk = consumers_pb2.BulkRequest(commands=[consumers_pb2.BulkCommand(grant_consent=tried)])
    (result,) = (await world.consume("Bulk", bulk)).results
    assert result.refused == Reason.FIELD_INVALID
    assert world.consent(mpxn, "k-in-bulk") is None


async def test_who_consents_keeps_a_receipt_and_who_asks_learns_of_nobody(world: World) -> None:
    mpxn = new_mpan()
    anna = await world.home(mpxn)
    request = consumers_pb2.RequestConsentRequest(
        idempotency_key=key(), mpxns=[mpxn], terms=terms(), answer_by=stamp(in_days(7))
    )
    asked = await world.consume("RequestConsent", request, Role.DATA_USER, ADVISER)
    assert asked.legs[0].receipt == ""
    request.idempotency_key, request.data_user = key(), ADVISER
    by_the_service = await world.consume("RequestConsent", request)
    assert by_the_service.legs[0].state == "REQUESTED" and by_the_service.legs[0].receipt == ""
    answer = grant("", mpxn, consent_id=asked.consent_id, terms=terms("TARIFF"))
    granted = await world.consume("GrantConsent", answer, Role.CONSUMER, anna)
    revoke = about("Revoke", asked.consent_id, mpxn)
    revoked = await world.consume("RevokeConsent", revoke, Role.CONSUMER, anna)
    signer = world.runtime.signer(SignerRole.CONSUMERS)
    known = receipts.receipt_key(world.runtime.identity.log_id, signer.public_key)
    for answered, state in ((granted, "ACTIVE"), (revoked, "REVOKED")):
        (leg,) = answered.legs
        found = receipts.read(leg.receipt, verify, known)
        assert found.intact
        at = leg.record
        said = f"{at.topic}-{at.partition}-{at.offset}-{at.entry}"
        assert (found.says["state"], found.says["as of record"]) == (state, said)
        assert (found.says["consumer"], found.says["metering point"]) == (anna, mpxn)


async def test_a_consumer_gets_the_receipt_of_what_was_given_in_its_name(world: World) -> None:
    mpxn = new_mpan()
    anna, other = await world.home(mpxn), await world.home(new_mpan())
    given = await world.consume("GrantConsent", grant(anna, mpxn))
    bulk = consumers_pb2.BulkCommand(grant_consent=grant(anna, mpxn, consent_id=f"k-bulk-{mpxn}"))
    await world.consume("Bulk", consumers_pb2.BulkRequest(commands=[bulk]))
    await world.consume("RevokeConsent", about("Revoke", f"k-bulk-{mpxn}", mpxn))
    known = receipts.receipt_key(
        world.runtime.identity.log_id, world.runtime.signer(SignerRole.CONSUMERS).public_key
    )
    for consent_id, state in ((given.consent_id, "ACTIVE"), (f"k-bulk-{mpxn}", "REVOKED")):
        request = consumers_pb2.GetReceiptRequest(mpxn=mpxn, consent_id=consent_id)
        answer = await world.consume("GetReceipt", request, Role.CONSUMER, anna)
        found = receipts.read(answer.receipt, verify, known)
        assert found.intact and (answer.state, answer.version) == (state, 1)
        said = {name: found.says[name] for name in ("consent", "state", "consumer")}
        assert said == {"consent": consent_id, "state": state, "consumer": anna}
        for role, party in ((Role.CONSUMER, other), (Role.DATA_USER, ADVISER)):
            refused = await failure(world.consume("GetReceipt", request, role, party))
            assert refused.code == "PERMISSION_DENIED"


async def test_a_grant_sent_again_is_replayed_with_the_same_id(world: World) -> None:
    mpxn = new_mpan()
    anna = await world.home(mpxn)
    request = grant(anna, mpxn)
    first = await world.consume("GrantConsent", request)
    again = await world.consume("GrantConsent", request)
    assert (first.replayed, again.replayed) == (False, True)
    assert again.consent_id == first.consent_id and unstated(again) == unstated(first)
    request.terms.categories.append("EXPORT")
    conflict = await failure(world.consume("GrantConsent", request))
    assert (conflict.code, conflict.reason) == ("ABORTED", Reason.IDEMPOTENCY_CONFLICT)


async def test_a_data_user_asks_and_the_occupier_answers(world: World) -> None:
    mpxn = new_mpan()
    anna = await world.home(mpxn)
    request = consumers_pb2.RequestConsentRequest(
        idempotency_key=key(), mpxns=[mpxn], terms=terms(), answer_by=stamp(in_days(7))
    )
    asked = await world.consume("RequestConsent", request, Role.DATA_USER, ADVISER)
    assert asked.legs[0].state == "REQUESTED"
    answer = grant("", mpxn, consent_id=asked.consent_id, terms=terms("TARIFF"))
    granted = await world.consume("GrantConsent", answer, Role.CONSUMER, anna)
    assert granted.legs[0].state == "ACTIVE"
    for method, more, state in [
        ("Suspend", {"reason": "COMPLAINT"}, "SUSPENDED"),
        ("Resume", {}, "ACTIVE"),
        ("Withdraw", {}, "WITHDRAWN"),
    ]:
        sent = about(method, asked.consent_id, mpxn, **more)
        (leg,) = (await world.consume(f"{method}Consent", sent)).legs
        assert leg.state == state


async def test_a_request_sent_again_after_a_move_does_not_tell_of_it(world: World) -> None:
    """Also of several meters, which are ordered at home. It is not known by what it seals."""
    meters = (new_mpan(), new_mpan())
    started = [await world.consume("StartTenancy", tenancy(mpxn)) for mpxn in meters]
    requests = [
        consumers_pb2.RequestConsentRequest(
            idempotency_key=key(),
            mpxns=mpxns,
            terms=terms(),
            answer_by=stamp(in_days(7)),
            record=consumers_pb2.RecordTerms(purpose_text="We look at your evenings"),
        )
        for mpxns in (meters[:1], meters)
    ]

    async def asked() -> list[tuple[str, bool]]:
        found = []
        for request in requests:
            answer = await world.consume("RequestConsent", request, Role.DATA_USER, ADVISER)
            found.append((answer.consent_id, answer.replayed))
        return found

    first = await asked()
    now = stamp(datetime.now(UTC))
    for mpxn, lived in zip(meters, started, strict=True):
        left = consumers_pb2.EndTenancyRequest(
            idempotency_key=key(), mpxn=mpxn, tenancy_id=lived.tenancy_id, effective_to=now
        )
        await world.consume("EndTenancy", left)
        moved_in = tenancy(mpxn)
        moved_in.effective_from.CopyFrom(now)
        await world.consume("StartTenancy", moved_in)
    assert await asked() == [(consent_id, True) for consent_id, _ in first]


async def test_a_request_at_an_empty_home_is_refused(world: World) -> None:
    request = consumers_pb2.RequestConsentRequest(
        idempotency_key=key(), mpxns=[new_mpan()], terms=terms(), answer_by=stamp(in_days(7))
    )
    refused = await failure(world.consume("RequestConsent", request, Role.DATA_USER, ADVISER))
    assert (refused.code, refused.reason) == ("PERMISSION_DENIED", Reason.NOT_PERMITTED)


async def test_a_data_user_puts_up_no_bars_at_meters_that_do_not_know_it(world: World) -> None:
    """A bar stays for ever, and a meter holds so many consents and no more."""
    occupied, unknown = new_mpan(), new_mpan()
    await world.home(occupied)
    for mpxn in (occupied, unknown):
        withdraw = about("Withdraw", "k-never-heard-of", mpxn)
        refused = await failure(world.consume("WithdrawConsent", withdraw, Role.DATA_USER, ADVISER))
        assert (refused.code, refused.reason) == ("PERMISSION_DENIED", Reason.NOT_PERMITTED)
        assert world.access(mpxn).consents == ()
    # The naive way: a service that speaks for others may, and there it stands.
    await world.consume("WithdrawConsent", about("Withdraw", "k-never-heard-of", occupied))
    assert len(world.access(occupied).consents) == 1


async def test_a_request_nobody_answers_lapses_by_itself(world: World) -> None:
    mpxn = new_mpan()
    await world.home(mpxn)
    request = consumers_pb2.RequestConsentRequest(
        idempotency_key=key(),
        mpxns=[mpxn],
        terms=terms(),
        answer_by=stamp(datetime.now(UTC) + timedelta(seconds=LAPSES_S)),
    )
    asked = await world.consume("RequestConsent", request, Role.DATA_USER, ADVISER)
    async with asyncio.timeout(WAIT_S):
        while getattr(world.consent(mpxn, asked.consent_id), "state", "") != "LAPSED":
            await asyncio.sleep(0.05)


# -- consents of several meters -------------------------------------------------------------------


async def test_each_leg_answers_for_itself(world: World) -> None:
    here, next_door = new_mpan(), new_mpan()
    anna, _ben = await world.home(here), await world.home(next_door)
    request = grant(anna, here, next_door)
    granted = await world.consume("GrantConsent", request)
    assert [(leg.mpxn, leg.state, leg.refused) for leg in granted.legs] == [
        (here, "ACTIVE", ""),
        (next_door, "", Reason.NOT_AN_OCCUPIER),
    ]
    assert {p.topic for p in granted.positions.positions} == {
        trust.CONSUMER_LOG,
        trust.CONSUMERS_REFERENCE,
    }
    again = await world.consume("GrantConsent", request)
    assert again.replayed and unstated(again) == unstated(granted)
    revoke = about("Revoke", granted.consent_id, here, next_door)
    revoked = await world.consume("RevokeConsent", revoke, Role.CONSUMER, anna)
    assert [leg.state for leg in revoked.legs] == ["REVOKED", ""]


async def test_a_call_fails_only_if_every_leg_is_refused(world: World) -> None:
    meters = (new_mpan(), new_mpan())
    await world.home(*meters)
    refused = await failure(world.consume("GrantConsent", grant("c-nobody", *meters)))
    assert (refused.code, refused.reason) == ("FAILED_PRECONDITION", Reason.NOT_AN_OCCUPIER)


async def test_a_consent_can_be_revoked_at_one_of_its_meters(world: World) -> None:
    meters = (new_mpan(), new_mpan())
    anna = await world.home(*meters)
    granted = await world.consume("GrantConsent", grant(anna, *meters))
    await world.consume("RevokeConsent", about("Revoke", granted.consent_id, meters[0]))
    states = [getattr(world.consent(m, granted.consent_id), "state", "") for m in meters]
    assert states == ["REVOKED", "ACTIVE"]


async def test_consents_given_one_by_one_are_revoked_together(world: World) -> None:
    meters = (new_mpan(), new_mpan())
    anna = await world.home(*meters)
    for mpxn in meters:
        await world.consume("GrantConsent", grant(anna, mpxn, consent_id=f"k-one-{meters[0]}"))
    revoke = about("Revoke", f"k-one-{meters[0]}", *meters)
    revoked = await world.consume("RevokeConsent", revoke, Role.CONSUMER, anna)
    assert [leg.state for leg in revoked.legs] == ["REVOKED", "REVOKED"]


@pytest.mark.parametrize("held_at", [1, 2])
async def test_what_was_suspended_at_some_meters_is_resumed_by_naming_all(
    world: World, held_at: int
) -> None:
    """Home knows of no suspension of the whole, and would find nothing to resume."""
    meters = (new_mpan(), new_mpan(), new_mpan())
    anna = await world.home(*meters)
    granted = await world.consume("GrantConsent", grant(anna, *meters))
    held = about("Suspend", granted.consent_id, *meters[:held_at], reason="CHECK")
    await world.consume("SuspendConsent", held)
    states = [getattr(world.consent(m, granted.consent_id), "state", "") for m in meters]
    assert states == ["SUSPENDED"] * held_at + ["ACTIVE"] * (3 - held_at)
    resumed = await world.consume("ResumeConsent", about("Resume", granted.consent_id, *meters))
    assert [(leg.state, leg.refused) for leg in resumed.legs] == [("ACTIVE", "")] * 3


async def test_a_narrowing_reaches_every_meter(world: World) -> None:
    meters = (new_mpan(), new_mpan())
    anna = await world.home(*meters)
    granted = await world.consume("GrantConsent", grant(anna, *meters))
    narrow = about("Narrow", granted.consent_id, *meters, expires=stamp(in_days(5)))
    narrowed = await world.consume("NarrowConsent", narrow)
    assert [(leg.state, leg.version) for leg in narrowed.legs] == [("ACTIVE", 2)] * 2
    consent = world.consent(meters[1], granted.consent_id)
    assert consent is not None and consent.categories == ("HH_CONSUMPTION", "TARIFF")


@asynccontextmanager
async def broken(
    process: Process, where: Callable[[str, bytes | None], bool]
) -> AsyncIterator[None]:
    """While this lasts, the process's appends there are not acknowledged."""
    appender: Any = process.appender
    append = appender.append

    async def fail(topic: str, partition: int, key: Any, headers: Any, value: Any) -> Any:
        if where(topic, key):
            raise Pushback(Reason.INDETERMINATE, "the broker does not answer")
        return await append(topic, partition, key, headers, value)

    appender.append = fail
    try:
        yield
    finally:
        appender.append = append


async def test_a_fan_out_killed_half_way_is_completed_by_the_next_start(world: World) -> None:
    meters = (new_mpan(), new_mpan())
    anna = await world.home(*meters)
    request = grant(anna, *meters, consent_id="k-half-way")
    async with broken(world.consumers, lambda topic, key: key == meters[1].encode()):
        pending = await failure(world.consume("GrantConsent", request))
        assert (pending.code, pending.reason) == ("UNAVAILABLE", Reason.INDETERMINATE)
        assert pending.retry_after_s is not None
        assert world.consent(meters[0], "k-half-way") is not None
        assert world.consent(meters[1], "k-half-way") is None
        await world.consumers.stop()
    world.consumers = await start_consumers(world.runtime)
    async with asyncio.timeout(WAIT_S):
        while world.consent(meters[1], "k-half-way") is None:
            await asyncio.sleep(0.02)
    again = await world.consume("GrantConsent", request)
    assert again.replayed and [leg.state for leg in again.legs] == ["ACTIVE", "ACTIVE"]


async def test_a_revocation_killed_half_way_is_completed_and_acknowledged_when_whole(
    world: World,
) -> None:
    """The naive client revokes meter by meter, and what it had not got to stays open."""
    meters, others = (new_mpan(), new_mpan()), (new_mpan(), new_mpan())
    anna = await world.home(*meters, *others)
    for consent_id, two in (("k-whole", meters), ("k-naive", others)):
        await world.consume("GrantConsent", grant(anna, *two, consent_id=consent_id))
    revoke = about("Revoke", "k-whole", *meters)
    late = (meters[1].encode(), others[1].encode())
    async with broken(world.consumers, lambda topic, key: key in late):
        pending = await failure(world.consume("RevokeConsent", revoke))
        assert (pending.code, pending.reason) == ("UNAVAILABLE", Reason.INDETERMINATE)
        await world.consume("RevokeConsent", about("Revoke", "k-naive", others[0]))
        await world.consumers.stop()
    world.consumers = await start_consumers(world.runtime)

    def states(consent_id: str, of: tuple[str, ...]) -> list[str]:
        return [getattr(world.consent(mpxn, consent_id), "state", "") for mpxn in of]

    async with asyncio.timeout(WAIT_S):
        while states("k-whole", meters) != ["REVOKED", "REVOKED"]:
            await asyncio.sleep(0.02)
    again = await world.consume("RevokeConsent", revoke)
    assert again.replayed and [leg.state for leg in again.legs] == ["REVOKED", "REVOKED"]
    assert states("k-naive", others) == ["REVOKED", "ACTIVE"]


async def test_what_tightens_at_some_meters_or_was_given_one_by_one_is_completed_too(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The naive way sends it straight to the meters, and what it had not got to stays open."""
    kinds = ("k-some", "k-singly", "k-in-bulk", "k-straight")
    meters = {kind: (new_mpan(), new_mpan()) for kind in kinds}
    late = {two[1].encode() for two in meters.values()}
    anna = await world.home(new_mpan(), *(mpxn for two in meters.values() for mpxn in two))
    for kind in ("k-some", "k-straight"):
        more = (*meters[kind], new_mpan())  # where she does not live
        await world.consume("GrantConsent", grant(anna, *more, consent_id=kind))
    for mpxn in meters["k-singly"]:
        await world.consume("GrantConsent", grant(anna, mpxn, consent_id="k-singly"))
    bulk = [grant(anna, mpxn, consent_id="k-in-bulk") for mpxn in meters["k-in-bulk"]]
    commands = [consumers_pb2.BulkCommand(grant_consent=one) for one in bulk]
    await world.consume("Bulk", consumers_pb2.BulkRequest(commands=commands))

    narrow = about("Narrow", "k-some", *meters["k-some"], expires=stamp(in_days(5)))
    revoke = about("Revoke", "k-singly", *meters["k-singly"])
    withdraw = about("Withdraw", "k-in-bulk", *meters["k-in-bulk"])
    sent = [
        ("NarrowConsent", narrow, Role.CONSUMER, anna),
        ("RevokeConsent", revoke, Role.CONSUMER, anna),
        ("WithdrawConsent", withdraw, Role.DATA_USER, ADVISER),
    ]
    straight = about("Revoke", "k-straight", *meters["k-straight"])
    async with broken(world.consumers, lambda topic, key: key in late):
        for call in sent:
            pending = await failure(world.consume(*call))
            assert (pending.code, pending.reason) == ("UNAVAILABLE", Reason.INDETERMINATE)
        with monkeypatch.context() as naive:
            naive.setattr(FanOuts, "takes_away", AsyncMock(return_value=False))
            await failure(world.consume("RevokeConsent", straight))
        await world.consumers.stop()
    world.consumers = await start_consumers(world.runtime)

    def stands(kind: str) -> list[tuple[str, int]]:
        found = (world.consent(mpxn, kind) for mpxn in meters[kind])
        return [(one.state, one.version) for one in found if one is not None]

    whole = {
        "k-some": [("ACTIVE", 2)] * 2,
        "k-singly": [("REVOKED", 1)] * 2,
        "k-in-bulk": [("WITHDRAWN", 1)] * 2,
    }
    async with asyncio.timeout(WAIT_S):
        while {kind: stands(kind) for kind in whole} != whole:
            await asyncio.sleep(0.02)
    for call, expected in zip(sent, whole.values(), strict=True):
        again = await world.consume(*call)
        assert again.replayed
        assert [(leg.state, leg.version) for leg in again.legs] == expected
    await asyncio.sleep(2 * SEND_MISSING_EVERY_S)
    assert stands("k-straight") == [("REVOKED", 1), ("ACTIVE", 1)]


async def test_nothing_is_ordered_at_home_for_a_stranger(world: World) -> None:
    """Whoever is refused at every meter leaves no order with somebody else's consent."""
    meters = (new_mpan(), new_mpan())
    anna = await world.home(*meters)
    for mpxn in meters:
        await world.consume("GrantConsent", grant(anna, mpxn, consent_id="k-annas"))
    stranger = await world.home(new_mpan())
    homes = orders_at_home(world, "k-annas")
    for call in (
        ("RevokeConsent", about("Revoke", "k-annas", *meters), Role.CONSUMER, stranger),
        ("WithdrawConsent", about("Withdraw", "k-annas", *meters), Role.DATA_USER, "rival"),
        ("WithdrawConsent", about("Withdraw", "k-none", *meters), Role.DATA_USER, "rival"),
    ):
        refused = await failure(world.consume(*call))
        assert refused.code == "PERMISSION_DENIED"
    assert orders_at_home(world, "k-annas") == homes == 0
    assert orders_at_home(world, "k-none") == 0
    for _ in range(2):  # and who has nothing left to take back orders it no more
        await world.consume("RevokeConsent", about("Revoke", "k-annas", *meters))
    assert orders_at_home(world, "k-annas") == 1


def orders_at_home(world: World, consent_id: str) -> int:
    assert world.consumers.folds is not None
    return sum(
        len(live.stored.fold.subject(consent_id).state.every)
        for (topic, _), live in world.consumers.folds.folds.items()
        if topic == trust.CONSUMERS_REFERENCE
    )


async def test_what_ends_a_consent_overtakes_a_leg_that_is_still_missing(world: World) -> None:
    meters = (new_mpan(), new_mpan())
    anna = await world.home(*meters)
    async with broken(world.consumers, lambda topic, key: key == meters[1].encode()):
        await failure(world.consume("GrantConsent", grant(anna, *meters, consent_id="k-overtaken")))
    await world.consume("RevokeConsent", about("Revoke", "k-overtaken", *meters))
    await asyncio.sleep(0.2)
    assert [getattr(world.consent(m, "k-overtaken"), "state", "") for m in meters] == [
        "REVOKED",
        "REVOKED",
    ]


# -- races ----------------------------------------------------------------------------------------


@asynccontextmanager
async def rival(world: World) -> AsyncIterator[Coordinator]:
    """Another coordinator of the same domain, on folds of its own."""
    folds = world.runtime.folds("rival", [trust.CONSUMER_LOG])
    await folds.start()
    writer = world.runtime.writer(world.consumers.appender, SignerRole.CONSUMERS, "rival")
    domain = DOMAINS.by_topic[trust.CONSUMER_LOG]
    yield Coordinator(domain, folds, writer, world.runtime.partitions, decider.tightens)
    await folds.stop()
    folds.close()


async def raced(world: World, first: Awaitable[Any], then: Awaitable[Any]) -> Any:
    """The outcome of `then`, decided by a fold that has not seen `first`, which came before it."""
    folds: Any = world.consumers.folds
    appender: Any = world.consumers.appender
    gate, sent = asyncio.Event(), asyncio.Event()
    deliver, heal, append = folds._deliver, folds._heal, appender.append

    async def late(*given: Any) -> None:
        await gate.wait()
        await deliver(*given)

    async def late_heal(*given: Any) -> Any:
        await gate.wait()
        return await heal(*given)

    async def noted(*given: Any) -> Any:
        appended = await append(*given)
        sent.set()
        return appended

    folds._deliver, folds._heal = late, late_heal
    try:
        await first
        appender.append = noted
        task = asyncio.ensure_future(then)
        await asyncio.wait_for(sent.wait(), WAIT_S)
        gate.set()
        return await task
    finally:
        gate.set()
        folds._deliver, folds._heal, appender.append = deliver, heal, append


def other_grant(mpxn: str, anna: str) -> Order:
    by = Actor(Role.CONSUMER, anna)
    what = agreed(grant(anna, mpxn), "rival.user", anna)
    command = GrantConsent(by, "k-rival", what)
    return Order(mpxn, command, by, "GrantConsent", f"rival-{mpxn}", sha256(b"1").digest())


async def test_a_loosening_command_that_lost_a_race_goes_back_to_its_caller(world: World) -> None:
    mpxn = new_mpan()
    anna = await world.home(mpxn)
    async with rival(world) as other:
        lost = await failure(
            raced(
                world,
                other.handle(other_grant(mpxn, anna)),
                world.consume("GrantConsent", grant(anna, mpxn, consent_id="k-loser")),
            )
        )
    assert (lost.code, lost.reason) == ("ABORTED", Reason.RACE_LOST)
    assert world.consent(mpxn, "k-loser") is None
    assert world.consent(mpxn, "k-rival") is not None


async def test_a_tightening_command_that_lost_a_race_is_run_again(world: World) -> None:
    mpxn = new_mpan()
    anna = await world.home(mpxn)
    await world.consume("GrantConsent", grant(anna, mpxn, consent_id="k-mine"))
    async with rival(world) as other:
        answer = await raced(
            world,
            other.handle(other_grant(mpxn, anna)),
            world.consume("RevokeConsent", about("Revoke", "k-mine", mpxn)),
        )
    assert answer.legs[0].state == "REVOKED" and not answer.replayed
    assert getattr(world.consent(mpxn, "k-rival"), "state", "") == "ACTIVE"


async def only_appended(meters: Coordinator, subject: str) -> None:
    """The naive level: it appends as the true one does, and answers from the fold as it stands."""
    place = (meters.domain.topic, meters.live(subject).stored.partition)
    await meters._writer.write(RecordType.FACTS, *place, Facts(*place, ()))


async def test_a_receipt_is_of_all_that_was_acknowledged_before(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also by another coordinator, of whose record this one's fold has yet to hear."""
    mpxn = new_mpan()
    anna = await world.home(mpxn)
    by, found = Actor(Role.CONSUMER, anna), []
    for consent_id, level in (("k-true", Coordinator.level), ("k-stale", only_appended)):
        await world.consume("GrantConsent", grant(anna, mpxn, consent_id=consent_id))
        revoke = RevokeConsent(by, consent_id)
        order = Order(mpxn, revoke, by, "RevokeConsent", consent_id, bytes(32))
        request = consumers_pb2.GetReceiptRequest(mpxn=mpxn, consent_id=consent_id)
        monkeypatch.setattr(Coordinator, "level", level)
        async with rival(world) as other:
            asking = world.consume("GetReceipt", request, Role.CONSUMER, anna)
            found.append((await raced(world, other.handle(order), asking)).state)
    assert found == ["REVOKED", "ACTIVE"]


async def test_two_coordinators_given_one_command_carry_it_out_once(world: World) -> None:
    mpxn = new_mpan()
    anna = await world.home(mpxn)
    await world.consume("GrantConsent", grant(anna, mpxn, consent_id="k-both"))
    by = Actor(Role.CONSENT_SERVICE, "ccs")
    command = RevokeConsent(by, "k-both")
    request = about("Revoke", "k-both", mpxn, idempotency_key="the-same")
    other_content = Order(mpxn, command, by, "RevokeConsent", "the-same", bytes(32))
    async with rival(world) as other:
        conflict = await failure(
            raced(world, other.handle(other_content), world.consume("RevokeConsent", request))
        )
    assert (conflict.code, conflict.reason) == ("ABORTED", Reason.IDEMPOTENCY_CONFLICT)


# -- what never enters the log in clear -----------------------------------------------------------


async def test_no_name_contact_or_notice_enters_the_log_in_clear(world: World) -> None:
    meters = (new_mpan(), new_mpan())
    person = consumers_pb2.Person(name=NAME, contact=CONTACT)
    notice = consumers_pb2.Notice(text=NOTICE, language="en-GB", channel="APP", evidence="ref-1")
    started = await world.consume("StartTenancy", tenancy(meters[0], person=person))
    ids = (started.tenancy_id, started.consumer_ref)
    await world.consume("StartTenancy", tenancy(meters[1], *ids, person=person))
    anna = started.consumer_ref
    await world.consume("GrantConsent", grant(anna, meters[0], notice=notice))
    granted = await world.consume("GrantConsent", grant(anna, *meters, notice=notice))
    request = consumers_pb2.RequestConsentRequest(
        idempotency_key=key(),
        mpxns=meters,
        data_user=ADVISER,
        terms=terms(),
        notice=notice,
        answer_by=stamp(in_days(7)),
    )
    await world.consume("RequestConsent", request)

    records = await asyncio.to_thread(lambda: list(world.records()))
    everything = b"\n".join(
        b"\n".join((r.key or b"", r.value or b"", *(v for _, v in r.headers))) for r in records
    )
    for marker in (NAME, CONTACT, NOTICE, "Gwenllian", "Marker-One", "marker.two", "three: we"):
        assert marker.encode() not in everything
    assert anna.encode() in everything

    consent = world.consent(meters[1], granted.consent_id)
    assert consent is not None and consent.notice is not None
    assert consent.notice_hash == sha256(NOTICE.encode()).digest()
    sealed = world.access(meters[0]).tenancies[0].person
    assert sealed is not None
    vault = Vault.open(world.runtime.settings.data_dir / VAULT_FILE)
    try:
        assert vault.unseal(consent.notice) == NOTICE.encode()
        opened = vault.unseal(sealed)
        assert opened is not None and NAME.encode() in opened
    finally:
        vault.close()
    assert_stores_say_nothing(world.runtime.settings.data_dir)


def assert_stores_say_nothing(data_dir: Path) -> None:
    for file in data_dir.rglob("*"):
        if file.is_file():
            assert b"Gwenllian" not in file.read_bytes(), file.name


# Many at once


def moved_in(mpxn: str, number: int = 0) -> Any:
    return consumers_pb2.BulkCommand(
        start_tenancy=consumers_pb2.StartTenancyRequest(
            idempotency_key=f"bulk-{mpxn}-{number}",
            mpxn=mpxn,
            tenancy_id=f"t-{mpxn}-{number}",
            consumer_ref=f"c-{mpxn}",
            effective_from=stamp(MOVED_IN),
        )
    )


def supplied(mpxn: str) -> Any:
    return consumers_pb2.BulkCommand(
        start_supply=consumers_pb2.StartSupplyRequest(
            idempotency_key=f"supply-{mpxn}",
            mpxn=mpxn,
            supplier="SUPP",
            effective_from=stamp(MOVED_IN),
        )
    )


async def test_bulk_commands_stand_alone_and_share_records(world: World) -> None:
    meters = [new_mpan() for _ in range(40)]
    commands = [made(mpxn) for mpxn in meters for made in (moved_in, supplied)]
    commands.append(moved_in(meters[0], 1))  # the home is taken
    commands.append(consumers_pb2.BulkCommand())
    answer = await world.consume("Bulk", consumers_pb2.BulkRequest(commands=commands))
    assert [result.refused for result in answer.results] == [
        *[""] * 80,
        Reason.TENANCY_OVERLAPS,
        Reason.FIELD_MISSING,
    ]
    places = {(r.record.partition, r.record.offset) for r in answer.results[:80]}
    assert len(places) == 8  # two records in each partition: no meter stands twice in one
    for mpxn in meters:
        access = world.access(mpxn)
        assert [t.tenancy_id for t in access.tenancies] == [f"t-{mpxn}-0"]
        assert [s.supplier for s in access.supplies] == ["SUPP"]


async def test_a_bulk_command_is_the_same_as_the_single_one(world: World) -> None:
    mpxn = new_mpan()
    request = consumers_pb2.BulkRequest(commands=[supplied(mpxn)])
    (first,) = (await world.consume("Bulk", request)).results
    (again,) = (await world.consume("Bulk", request)).results
    single = await world.consume("StartSupply", supplied(mpxn).start_supply)
    assert not first.replayed and again.replayed and single.replayed
    assert first.record == again.record == single.record
    other = supplied(mpxn)
    other.start_supply.supplier = "ELSE"
    (refused,) = (await world.consume("Bulk", consumers_pb2.BulkRequest(commands=[other]))).results
    assert refused.refused == Reason.IDEMPOTENCY_CONFLICT


async def test_a_record_is_at_every_meter_however_its_consent_was_given(world: World) -> None:
    """At home and by leg, or in bulk; in bulk nothing is sealed, so nothing personal is taken."""
    meters = (new_mpan(), new_mpan())
    anna = await world.home(*meters)
    record = {"granularity": "HALF_HOUR", "onward_sharing": True, "recipients": ["partner"]}
    granted = await world.consume(
        "GrantConsent", grant(anna, *meters, record={**record, "account_reference": "A-1"})
    )
    assert [leg.state for leg in granted.legs] == ["ACTIVE", "ACTIVE"]
    kept = [terms_of(world.access(mpxn), granted.consent_id) for mpxn in meters]
    assert kept[0] == kept[1]
    assert kept[0].recipients == ("partner",) and kept[0].details is not None

    single = grant(anna, meters[0], record=record, consent_id="k-in-bulk")
    private = grant(anna, meters[0], record={"evidence_id": "E-1"}, consent_id="k-private")
    plain = grant(anna, meters[1], consent_id="k-plain")
    commands = [consumers_pb2.BulkCommand(grant_consent=one) for one in (single, private, plain)]
    answer = await world.consume("Bulk", consumers_pb2.BulkRequest(commands=commands))
    assert [one.refused for one in answer.results] == ["", Reason.FIELD_INVALID, ""]
    assert record_of(world.access(meters[1]), "k-plain") is None
    assert (await world.consume("GrantConsent", single)).replayed
    assert terms_of(world.access(meters[0]), "k-in-bulk").recipients == ("partner",)


async def test_bulk_calls_about_the_same_meters_do_not_race_one_another(world: World) -> None:
    meters = [new_mpan() for _ in range(30)]
    calls = [
        world.consume("Bulk", consumers_pb2.BulkRequest(commands=[made(m) for m in meters]))
        for made in (moved_in, supplied)
    ]
    answers = await asyncio.gather(*calls)
    assert {result.refused for answer in answers for result in answer.results} == {""}
