"""A revocation reaches the receiver's own server, signed, in order, however long that was away.

And what it got while it was let in, its data user says to have deleted.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
import pytest_asyncio
from aiohttp import web

from domains.governance.commands import SuspendParticipant, WithdrawAccreditation
from spine import trust, webhook
from spine.console.client import Client, stamp
from spine.embedded import EmbeddedKafka, free_port
from spine.errors import Pushback, Reason
from spine.event import SignerRole
from spine.identity import Authority
from spine.installation import DOMAINS
from spine.log import LogReader
from spine.policy import Role
from spine.runtime import Process, Runtime
from spine.server import error_from
from spine.services import announcing, pushing
from spine.services.consumers import start_consumers
from spine.signing import verify
from tests.helpers.accredited import BOARD, accredit, govern, heard_by
from tests.helpers.log import open_new_log

pytestmark = pytest.mark.asyncio(loop_scope="module")
ADVISER, COLLECTOR, PORTAL, STRANGER = "adviser", "collector", "ccs", "stranger"
PARTNER = "partner"
SINCE = datetime(2025, 1, 1, tzinfo=UTC)
PATIENCE_S = 60.0


@dataclass
class World:
    """A log with its consumers coordinator, and receivers with servers of their own."""

    runtime: Runtime
    consumers: Process
    meters: Iterator[str] = field(
        default_factory=lambda: iter(f"12000070{n:05d}" for n in range(1, 99))
    )
    homes: dict[str, str] = field(default_factory=dict)

    async def ask(self, by: str, service: str, method: str, **fields: Any) -> Any:
        """One call, as the command line makes it."""
        client = Client(self.runtime.settings.data_dir, by)
        return await asyncio.to_thread(getattr(client, service), method, **fields)

    async def consent(
        self, mpxn: str = "", *, agent: bool = False, **record: Any
    ) -> tuple[str, str]:
        """A meter, a new one if not told, and a consent of its occupier to the adviser."""
        now = datetime.now(UTC)
        if not mpxn:
            mpxn = next(self.meters)
            started = {"mpxn": mpxn, "effective_from": stamp(SINCE)}
            home = await self.ask(PORTAL, "consumers", "StartTenancy", **started)
            self.homes[mpxn] = home.consumer_ref
        if agent:
            await self.ask(
                PORTAL,
                "consumers",
                "AppointAgent",
                mpxn=mpxn,
                agent=COLLECTOR,
                agent_role=Role.DATA_SERVICE,
                effective_from=stamp(SINCE),
            )
        terms = {
            "purpose": "ENERGY_ADVICE",
            "categories": ["HH_CONSUMPTION"],
            "history_from": stamp(SINCE),
            "valid_from": stamp(now - timedelta(seconds=1)),
            "expires": stamp(now + timedelta(days=30)),
        }
        granted = await self.ask(
            PORTAL,
            "consumers",
            "GrantConsent",
            mpxns=[mpxn],
            data_user=ADVISER,
            consumer_ref=self.homes[mpxn],
            terms=terms,
            record=record,
        )
        return mpxn, granted.consent_id

    async def revoke(self, mpxn: str, consent_id: str) -> None:
        revoked = {"consent_id": consent_id, "mpxns": [mpxn]}
        await self.ask(PORTAL, "consumers", "RevokeConsent", **revoked)

    async def waiting(self, by: str = ADVISER) -> list[tuple[str, str]]:
        answer = await self.ask(by, "changes", "ListChanges")
        return [(change.consent_id, change.state) for change in answer.changes]

    async def webhook(self, by: str = ADVISER) -> Any:
        return await self.ask(by, "webhooks", "GetWebhook")


class Receiver:
    """A data user's own server: what it was told, and what it answers."""

    def __init__(self, world: World, name: str = ADVISER) -> None:
        identity = world.runtime.authority().issue_server(
            Role.DATA_USER, name, alias=f"hook-{name}"
        )
        self.tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.tls.load_cert_chain(identity.folder / "cert.pem", identity.folder / "key.pem")
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.status = 204
        self.port = free_port()

    @property
    def told(self) -> list[tuple[str, str]]:
        said = [json.loads(body)["data"] for _, body in self.got]
        return [(change["consent_id"], change["state"]) for change in said]

    async def answer(self, request: web.Request) -> web.Response:
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.got.append((headers, await request.read()))
        return web.Response(status=self.status)

    @asynccontextmanager
    async def up(self) -> AsyncIterator[str]:
        """Its address, while it is up; the same each time."""
        app = web.Application()
        app.router.add_post("/changes", self.answer)
        runner = web.AppRunner(app, shutdown_timeout=0)
        await runner.setup()
        await web.TCPSite(
            runner, "127.0.0.1", self.port, ssl_context=self.tls, reuse_address=True
        ).start()
        self.port = runner.addresses[0][1]
        try:
            yield f"https://localhost:{self.port}/changes"
        finally:
            await runner.cleanup()


async def until(holds: Callable[[], Any]) -> None:
    """Return once it holds; whether at all, not how soon, is what is asked."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        held = holds()
        if await held if asyncio.iscoroutine(held) else held:
            return
        assert time.monotonic() < deadline, "it never came to hold"
        await asyncio.sleep(0.05)


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedKafka]:
    with EmbeddedKafka(tmp_path_factory.mktemp("webhooks")) as started:
        yield started


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(
    broker: EmbeddedKafka, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[World]:
    settings, kafka = await open_new_log(broker, tmp_path_factory.mktemp("installation"))
    authority = Authority.open_or_create(settings.data_dir / "identities")
    (settings.data_dir / "authority.pem").write_bytes(authority.ca)
    here = {"webhook_networks": webhook.LOOPBACK, "webhook_ca": settings.data_dir / "authority.pem"}
    runtime = Runtime.of(settings.model_copy(update=here), kafka, DOMAINS)
    made = World(runtime, await start_consumers(runtime))
    await accredit(runtime, (Role.DATA_USER, ADVISER), (Role.DATA_SERVICE, COLLECTOR))
    await heard_by(made.consumers)
    for role, party in (
        (Role.DATA_USER, ADVISER),
        (Role.DATA_SERVICE, COLLECTOR),
        (Role.CONSENT_SERVICE, PORTAL),
    ):
        runtime.authority().issue_client(role, party)
    try:
        yield made
    finally:
        await made.consumers.stop()


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is sent again after seconds or minutes is, here, after fractions of one."""
    monkeypatch.setattr("domains.consumers.changes.FIRST_RETRY", timedelta(seconds=0.1))
    monkeypatch.setattr("domains.consumers.changes.LAST_RETRY", timedelta(seconds=0.4))


async def test_a_revocation_arrives_signed_and_is_outstanding_no_more(world: World) -> None:
    receiver = Receiver(world)
    async with receiver.up() as url:
        await world.ask(ADVISER, "webhooks", "SetWebhook", url=url)
        mpxn, consent_id = await world.consent()
        await until(lambda: receiver.told == [(consent_id, "ACTIVE")])
        await world.revoke(mpxn, consent_id)
        await until(lambda: receiver.told[1:] == [(consent_id, "REVOKED")])

        async def nothing_waits() -> bool:
            return not await world.waiting()

        await until(nothing_waits)
        found = await world.webhook()
        assert (found.url, found.last_outcome) == (url, "taken")
        key = webhook.parsed_key(found.public_key)
        for headers, body in receiver.got:
            assert webhook.is_genuine(headers, body, key, time.time(), verify)
            assert not webhook.is_genuine(headers, body + b" ", key, time.time(), verify)
            assert headers["webhook-id"] == json.loads(body)["data"]["change_id"]
        signer = world.runtime.signer(SignerRole.CONSUMERS)
        assert key == signer.public_key, "the key that the log knows the coordinator by"


async def test_a_receiver_that_was_down_is_told_all_of_it_in_order(world: World) -> None:
    receiver = Receiver(world)
    async with receiver.up() as url:
        await world.ask(ADVISER, "webhooks", "SetWebhook", url=url)
    mpxn, first = await world.consent()

    async def silent() -> bool:
        return str((await world.webhook()).last_outcome) == pushing.Outcome.SILENT

    await until(silent)
    _, second = await world.consent(mpxn)
    other, third = await world.consent()
    await world.revoke(other, third)
    assert {(first, "ACTIVE"), (second, "ACTIVE"), (third, "REVOKED")} == set(await world.waiting())
    receiver.status = 500
    async with receiver.up() as same:
        assert same == url
        here = [(first, "ACTIVE"), (third, "REVOKED")]
        await until(lambda: len(receiver.got) > 3 and set(receiver.told) == set(here))
        ids = {json.loads(body)["data"]["change_id"] for _, body in receiver.got}
        assert len(ids) == 2, "sent again under the same id, and the second does not overtake"
        receiver.got.clear()
        receiver.status = 200

        async def nothing_waits() -> bool:
            return not await world.waiting()

        await until(nothing_waits)
        assert sorted(receiver.told, key=lambda told: told[0] == third)[:-1] == [
            (first, "ACTIVE"),
            (second, "ACTIVE"),
        ]


async def test_a_coordinator_that_starts_again_goes_on_where_it_was(world: World) -> None:
    receiver = Receiver(world)
    async with receiver.up() as url:
        await world.ask(ADVISER, "webhooks", "SetWebhook", url=url)
    _, consent_id = await world.consent()
    await world.consumers.stop()
    world.consumers = await start_consumers(world.runtime)
    async with receiver.up():
        await until(lambda: receiver.told == [(consent_id, "ACTIVE")])


async def test_of_two_coordinators_each_may_send_and_it_is_acknowledged_once(world: World) -> None:
    other = await start_consumers(world.runtime, "consumers-2")
    receiver = Receiver(world)
    try:
        async with receiver.up() as url:
            await world.ask(ADVISER, "webhooks", "SetWebhook", url=url)
            mpxn, consent_id = await world.consent()

            def acknowledged_at_both() -> bool:
                return all(
                    any(acknowledged(process, json.loads(body)) for _, body in receiver.got)
                    for process in (world.consumers, other)
                )

            await until(acknowledged_at_both)
        assert set(receiver.told) == {(consent_id, "ACTIVE")}
        assert len({headers["webhook-id"] for headers, _ in receiver.got}) == 1
        (told, *_) = receiver.got
        change = json.loads(told[1])["data"]["change_id"]
        named = {"mpxn": mpxn, "change_id": change}
        assert (await world.ask(ADVISER, "changes", "AcknowledgeChange", **named)).replayed
    finally:
        await other.stop()


def acknowledged(process: Process, message: Any) -> bool:
    """Whether the fold of a process has the change of a message acknowledged."""
    assert process.folds is not None
    fold = process.folds[trust.ACKNOWLEDGEMENTS_TOPIC, 0].stored.fold
    return fold.subject(message["data"]["change_id"]).state.decided_at is not None


async def test_what_was_taken_and_could_not_be_recorded_is_sent_again_under_its_id(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The receiver has it, and the log does not: only the receiver can tell that it is a repeat."""
    receiver, refused = Receiver(world), []

    async def unreachable(*given: Any) -> Any:
        refused.append(given)
        if len(refused) <= 2:
            raise Pushback(Reason.LOG_UNREACHABLE, "the log does not answer")
        return await announcing.acknowledge(*given)

    monkeypatch.setattr("spine.services.webhooks.acknowledge", unreachable)
    async with receiver.up() as url:
        await world.ask(ADVISER, "webhooks", "SetWebhook", url=url)
        _, consent_id = await world.consent()

        async def nothing_waits() -> bool:
            return len(receiver.got) > 2 and not await world.waiting()

        await until(nothing_waits)
    assert receiver.told == [(consent_id, "ACTIVE")] * 3
    assert len({headers["webhook-id"] for headers, _ in receiver.got}) == 1


async def test_what_was_acknowledged_by_webhook_is_the_same_fact(world: World) -> None:
    receiver = Receiver(world)
    async with receiver.up() as url:
        await world.ask(ADVISER, "webhooks", "SetWebhook", url=url)
        mpxn, consent_id = await world.consent()
        await until(lambda: receiver.told == [(consent_id, "ACTIVE")])
        change = json.loads(receiver.got[0][1])["data"]["change_id"]
        named = {"mpxn": mpxn, "change_id": change}

        async def recorded() -> bool:
            return not await world.waiting()

        await until(recorded)
        answer = await world.ask(ADVISER, "changes", "AcknowledgeChange", **named)
        assert answer.replayed
        reader: LogReader = world.runtime.reader()
        end = reader.bounds(trust.ACKNOWLEDGEMENTS_TOPIC, 0)[1]
        await world.ask(ADVISER, "changes", "AcknowledgeChange", **named)
        assert reader.bounds(trust.ACKNOWLEDGEMENTS_TOPIC, 0)[1] == end
        reader.close()


async def test_a_data_service_is_told_by_its_own_webhook_that_a_consent_is_over(
    world: World,
) -> None:
    await world.ask(ADVISER, "webhooks", "RemoveWebhook")
    receiver = Receiver(world, COLLECTOR)
    async with receiver.up() as url:
        await world.ask(COLLECTOR, "webhooks", "SetWebhook", url=url)
        mpxn, consent_id = await world.consent(agent=True)
        await world.revoke(mpxn, consent_id)
        await until(lambda: receiver.told == [(consent_id, "REVOKED")])
        assert (consent_id, "REVOKED") in await world.waiting(), "the adviser was not told"

        async def only_the_adviser_is_behind() -> bool:
            receivers = (await world.ask(PORTAL, "changes", "ListReceivers")).receivers
            return [(r.party, r.webhook) for r in receivers] == [(ADVISER, False)]

        await until(only_the_adviser_is_behind)


async def test_an_address_that_is_gone_is_removed_and_the_change_goes_on_waiting(
    world: World,
) -> None:
    receiver = Receiver(world)
    receiver.status = 410
    async with receiver.up() as url:
        _, consent_id = await world.consent()
        await world.ask(ADVISER, "webhooks", "SetWebhook", url=url)

        async def removed() -> bool:
            return not (await world.webhook()).url

        await until(removed)
        assert (consent_id, "ACTIVE") in await world.waiting()
        receiver.status = 200
        await world.ask(ADVISER, "webhooks", "SetWebhook", url=url)  # the same one again

        async def nothing_waits() -> bool:
            return not await world.waiting()

        await until(nothing_waits)


async def test_who_is_not_accredited_sets_no_webhook_and_removes_its_own(world: World) -> None:
    world.runtime.authority().issue_client(Role.DATA_USER, STRANGER)
    with pytest.raises(grpc.RpcError) as refused:
        await world.ask(STRANGER, "webhooks", "SetWebhook", url="https://stranger.example/")
    assert error_from(refused.value).reason == "PARTICIPANT_UNKNOWN"
    await world.ask(STRANGER, "webhooks", "RemoveWebhook")
    assert (await world.webhook(STRANGER)).url == ""


async def test_a_key_stands_for_one_address(world: World) -> None:
    first, other = "https://one.example/", "https://other.example/"
    await world.ask(COLLECTOR, "webhooks", "SetWebhook", idempotency_key="k-1", url=first)
    again = await world.ask(COLLECTOR, "webhooks", "SetWebhook", idempotency_key="k-1", url=first)
    assert again.replayed
    with pytest.raises(grpc.RpcError) as refused:
        await world.ask(COLLECTOR, "webhooks", "SetWebhook", idempotency_key="k-1", url=other)
    assert error_from(refused.value).reason == "IDEMPOTENCY_CONFLICT"
    await world.ask(COLLECTOR, "webhooks", "RemoveWebhook")


async def test_a_deletion_is_owed_once_a_consent_is_over_and_shown_until_it_is_confirmed(
    world: World,
) -> None:
    mpxn, consent_id = await world.consent()
    consumer = world.homes[mpxn]
    world.runtime.authority().issue_client(Role.CONSUMER, consumer)
    confirms = {"mpxn": mpxn, "consent_id": consent_id}

    async def refusal(by: str, **fields: Any) -> str:
        with pytest.raises(grpc.RpcError) as refused:
            await world.ask(by, "deletions", "ConfirmDeletion", **fields)
        return error_from(refused.value).reason

    async def listed(by: str, **fields: Any) -> list[Any]:
        return list((await world.ask(by, "deletions", "ListDeletions", **fields)).deletions)

    async def owed() -> int:
        found = (await world.ask(PORTAL, "deletions", "ListDeletionsOwed")).owed
        return sum(each.outstanding for each in found if each.data_user == ADVISER)

    assert await refusal(ADVISER, **confirms) == "CONSENT_STATE"
    assert await refusal(COLLECTOR, **confirms) == "ROLE_NOT_ALLOWED"
    assert await listed(consumer, only_mpxn=mpxn) == []
    before = await owed()
    await world.revoke(mpxn, consent_id)
    assert await owed() == before + 1
    (mine,) = [each for each in await listed(ADVISER) if each.mpxn == mpxn]
    (theirs,) = await listed(consumer, only_mpxn=mpxn)
    assert mine == theirs and not mine.overdue and not mine.HasField("confirmed_at")
    assert mine.due.seconds - mine.since.seconds == 30 * 86_400
    assert await listed(ADVISER, overdue=True) == []
    done = await world.ask(ADVISER, "deletions", "ConfirmDeletion", **confirms)
    assert done.record.topic == trust.ACKNOWLEDGEMENTS_TOPIC
    assert await owed() == before
    assert all(each.mpxn != mpxn for each in await listed(ADVISER))
    (confirmed,) = await listed(consumer, only_mpxn=mpxn)
    assert confirmed.HasField("confirmed_at") and not confirmed.overdue
    assert await listed(ADVISER, only_mpxn=mpxn) == [confirmed]
    assert await refusal(ADVISER, mpxn=mpxn, consent_id="another") == "CONSENT_UNKNOWN"
    with pytest.raises(grpc.RpcError) as refused:
        await listed(consumer)
    assert error_from(refused.value).reason == "FIELD_MISSING"


async def test_a_recipient_is_told_of_the_revocation_and_nobody_else_is(world: World) -> None:
    """Whom the data user handed the data has to stop too; told is the data user alone without."""
    for partner in (PARTNER, STRANGER):
        world.runtime.authority().issue_client(Role.DATA_USER, partner)
    await accredit(world.runtime, (Role.DATA_USER, PARTNER))
    await heard_by(world.consumers)
    receiver = Receiver(world, PARTNER)
    async with receiver.up() as url:
        await world.ask(PARTNER, "webhooks", "SetWebhook", url=url)
        mpxn, shared = await world.consent(onward_sharing=True, recipients=[PARTNER])
        other, alone = await world.consent()
        await world.revoke(other, alone)
        await world.revoke(mpxn, shared)
        await until(lambda: receiver.told == [(shared, "REVOKED")])
    waiting = await world.waiting()
    assert {(shared, "REVOKED"), (alone, "REVOKED")} <= {*waiting}
    assert await world.waiting(STRANGER) == []
    owed = (await world.ask(PARTNER, "deletions", "ListDeletions")).deletions
    assert list(owed) == [], "the data user answers for it"
    await world.ask(PARTNER, "webhooks", "RemoveWebhook")


async def test_a_name_that_was_made_up_is_no_receiver_until_it_takes_part(world: World) -> None:
    late = "latecomer"
    world.runtime.authority().issue_client(Role.DATA_USER, late)
    mpxn, shared = await world.consent(onward_sharing=True, recipients=[late, "made-up"])
    await world.revoke(mpxn, shared)

    async def receivers() -> set[str]:
        answer = await world.ask(PORTAL, "changes", "ListReceivers")
        return {each.party for each in answer.receivers}

    assert await world.waiting(late) == []
    assert ADVISER in await receivers() and not await receivers() & {late, "made-up"}
    await accredit(world.runtime, (Role.DATA_USER, late))

    async def told() -> bool:
        return await world.waiting(late) == [(shared, "REVOKED")]

    await until(told)
    assert late in await receivers() and "made-up" not in await receivers()
    (change,) = (await world.ask(late, "changes", "ListChanges")).changes
    taken = {"mpxn": mpxn, "change_id": change.change_id}
    await world.ask(late, "changes", "AcknowledgeChange", **taken)
    assert late not in await receivers()


async def test_who_is_suspended_is_told_and_who_is_accredited_no_more_is_not(world: World) -> None:
    receiver = Receiver(world)
    async with receiver.up() as url:
        await world.ask(ADVISER, "webhooks", "SetWebhook", url=url)
        await govern(world.runtime, SuspendParticipant(BOARD, ADVISER, "a test"))
        await heard_by(world.consumers)
        mpxn, consent_id = await world.consent()
        await until(lambda: (consent_id, "ACTIVE") in receiver.told)
        await govern(world.runtime, WithdrawAccreditation(BOARD, ADVISER, Role.DATA_USER, "DSI"))
        assert world.consumers.folds is not None
        fold = world.consumers.folds[trust.ACKNOWLEDGEMENTS_TOPIC, 0].stored.fold

        def withdrawn() -> bool:
            participant = fold.participant(ADVISER)
            return participant is not None and not participant.accreditations

        await until(withdrawn)
        await world.revoke(mpxn, consent_id)

        async def waits() -> bool:
            return (consent_id, "REVOKED") in await world.waiting()

        await until(waits)
        await asyncio.sleep(10 * pushing.TURN_EVERY_S)
        assert (consent_id, "REVOKED") not in receiver.told, "and it goes on waiting"
