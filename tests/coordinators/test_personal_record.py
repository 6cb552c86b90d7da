"""A consumer reads what is kept sealed about it, from the servers as they run, and is erased."""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
import pytest
import pytest_asyncio
from google.protobuf.timestamp_pb2 import Timestamp
from typer.testing import CliRunner

from domains.consumers.personal import FIELDS_MAX
from spine import trust
from spine.audit_report import Line, Selection
from spine.cli import command_line
from spine.console.audits import run_audit
from spine.console.context import use
from spine.consumers.v1 import consumers_pb2, consumers_pb2_grpc, seals_pb2, seals_pb2_grpc
from spine.dsi.keyholders import Keyholders
from spine.dsi.process import start_dsi
from spine.dsi.v1 import dsi_pb2, dsi_pb2_grpc
from spine.embedded import EmbeddedKafka
from spine.event import Sealed
from spine.identity import SERVER_PREFIX
from spine.policy import MeterAccess, Role
from spine.runtime import Process
from spine.sealing import VAULT_FILE, Opened, Vault
from spine.server import Failure, connect, error_from
from spine.services.consumers import start_consumers
from spine.services.terms import NOTICE_CHARS_MAX
from tests.helpers.accredited import heard_by
from tests.helpers.log import open_new_log
from tests.helpers.town import ADVISER, Town, settle

pytestmark = pytest.mark.asyncio(loop_scope="module")
MOVED_IN = datetime(2025, 1, 1, tzinfo=UTC)
NAME, CONTACT, NOTICE = "Gwen Marker-Own", "gwen@example.org", "We read your half hours."
DETAILS = {"purpose_text": "To advise you", "account_reference": "A-17", "evidence_id": "E-9"}
OWN = {"purpose": "OWN_USE", "basis": "SUBJECT"}
CALL_S = 15.0
_numbers = count(1)


def stamp(at: datetime) -> Timestamp:
    written = Timestamp()
    written.FromDatetime(at)
    return written


@dataclass
class World:
    """Both servers, and whoever calls them."""

    town: Town
    dsi: Process
    consumers: Process
    channels: dict[tuple[str, str], grpc.aio.Channel] = field(default_factory=dict)
    # Of each meter, where the last of its commands was recorded.
    seen: dict[str, Any] = field(default_factory=dict)

    def channel(self, process: Process, role: Role, party: str) -> grpc.aio.Channel:
        assert process.server is not None
        target = f"127.0.0.1:{process.server.port}"
        if (target, f"{role}-{party}") not in self.channels:
            who = self.town.runtime.authority().issue_client(role, party, f"{role}-{party}")
            self.channels[target, f"{role}-{party}"] = connect(target, who.folder)
        return self.channels[target, f"{role}-{party}"]

    @property
    def vault(self) -> Path:
        return self.town.runtime.settings.data_dir / VAULT_FILE

    async def lived_in(self, name: str = NAME) -> tuple[str, str]:
        """Somebody moves in and consents; the meter and the consumer reference."""
        mpxn = f"16000000{next(_numbers):05d}"
        portal = consumers_pb2_grpc.ConsumersStub(
            self.channel(self.consumers, Role.CONSENT_SERVICE, "ccs")
        )
        moved = await portal.StartTenancy(
            consumers_pb2.StartTenancyRequest(
                idempotency_key=uuid4().hex,
                mpxn=mpxn,
                effective_from=stamp(MOVED_IN),
                person={"name": name, "contact": CONTACT},
            ),
            timeout=CALL_S,
        )
        self.seen[mpxn] = moved.positions
        ref: str = moved.consumer_ref
        await self.consents(mpxn, ref, f"consent-{mpxn}", NOTICE, record=DETAILS)
        return mpxn, ref

    async def consents(
        self, mpxn: str, ref: str, consent_id: str, notice: str, **more: Any
    ) -> None:
        """The consumer consents to energy advice, shown that notice."""
        portal = consumers_pb2_grpc.ConsumersStub(
            self.channel(self.consumers, Role.CONSENT_SERVICE, "ccs")
        )
        granted = await portal.GrantConsent(
            consumers_pb2.GrantConsentRequest(
                idempotency_key=uuid4().hex,
                data_user=ADVISER.party,
                consumer_ref=ref,
                consent_id=consent_id,
                mpxns=[mpxn],
                terms={
                    "purpose": "ENERGY_ADVICE",
                    "categories": ["HH_CONSUMPTION"],
                    "history_from": stamp(MOVED_IN),
                    "valid_from": stamp(MOVED_IN),
                    "expires": stamp(datetime.now(UTC) + timedelta(days=30)),
                },
                notice={"text": notice, "language": "en"},
                **more,
            ),
            timeout=CALL_S,
        )
        self.seen[mpxn] = granted.positions

    async def record(self, mpxn: str, party: str, role: Role = Role.CONSUMER, **more: Any) -> Any:
        stub = dsi_pb2_grpc.DsiStub(self.channel(self.dsi, role, party))
        known: dict[str, Any] = OWN | {"at_least": self.seen.get(mpxn)}
        asked = dsi_pb2.GetPersonalRecordRequest(mpxn=mpxn, **(known | more))
        return await stub.GetPersonalRecord(asked, timeout=CALL_S)

    async def record_in_the_end(self, mpxn: str, party: str, **more: Any) -> Any:
        """The record, asked for again as often as it is said to be not at hand in time."""
        async with asyncio.timeout(4 * CALL_S):
            while True:
                try:
                    return await self.record(mpxn, party, **more)
                except grpc.aio.AioRpcError as error:
                    failure = error_from(error)
                    assert failure.reason in ("KEYS_NOT_AT_HAND", "PERMIT_EXPIRED")
                    assert failure.retry_after_s
                    await asyncio.sleep(failure.retry_after_s)

    async def refused(
        self, mpxn: str, party: str, role: Role = Role.CONSUMER, **more: Any
    ) -> Failure:
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await self.record(mpxn, party, role, **more)
        return error_from(failed.value)

    async def erase(self, ref: str) -> None:
        stub = consumers_pb2_grpc.ErasuresStub(self.channel(self.consumers, Role.CONSUMER, ref))
        request = consumers_pb2.EraseSubjectRequest(idempotency_key=uuid4().hex, consumer_ref=ref)
        assert (await stub.EraseSubject(request, timeout=CALL_S)).standing == "ERASED"

    async def seals(
        self, read: Any, role: Role = Role.DSI, server: str = "dsi-elsewhere", **place: Any
    ) -> Any:
        """Have seals opened for the read of that answer, or of another `place`."""
        stub = seals_pb2_grpc.SealsStub(self.channel(self.consumers, role, server))
        at = read.decision
        named = {"partition": at.partition, "offset": at.offset, "entry": at.entry} | place
        request = seals_pb2.OpenSealsRequest(read={"topic": trust.CONSUMER_LOG} | named)
        return await stub.OpenSeals(request, timeout=CALL_S)

    async def not_opened(self, *asked: Any, **how: Any) -> str:
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await self.seals(*asked, **how)
        return error_from(failed.value).reason

    async def audited(self, mpxn: str, vault: Path | None = None) -> list[Line]:
        """What the audit says of the reads of a meter, in their order, once all have outcomes."""
        for _ in range(50):
            lines: list[Line] = []
            chosen = Selection(member=mpxn)
            await asyncio.to_thread(run_audit, lines.append, False, chosen, 1, vault)
            if all(line.verdict != "UNCONFIRMED" for line in lines):
                break
            await asyncio.sleep(0.1)
        return sorted(lines, key=lambda line: line.offset)

    async def state(self, mpxn: str) -> MeterAccess:
        """How a meter stands for the town, which did not write it and reads it in its own time."""
        await heard_by(self.town.process)
        found: MeterAccess = self.town.consumers.state(mpxn)
        return found

    async def sealed(self, mpxn: str) -> list[Sealed]:
        """What stands in the state of a meter."""
        access = await self.state(mpxn)
        found = [t.person for t in access.tenancies] + [c.notice for c in access.consents]
        return [each for each in found if each is not None]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    data_dir = tmp_path_factory.mktemp("personal")
    with EmbeddedKafka(data_dir) as broker:
        settings, kafka = await open_new_log(broker, data_dir)
        async with settle(settings, kafka) as town:
            bootstrap = {"kafka_bootstrap": town.runtime.kafka.bootstrap}
            use(town.runtime.settings.model_copy(update=bootstrap))
            consumers = await start_consumers(town.runtime)
            made = World(town, await start_dsi(town.runtime), consumers)
            try:
                yield made
            finally:
                for channel in made.channels.values():
                    await channel.close(None)
                await made.dsi.stop()
                await made.consumers.stop()


def told(answer: Any) -> list[tuple[str, str]]:
    assert not any(text.unopened for text in answer.texts)
    return [(text.what, text.text) for text in answer.texts]


ALL = [("name", NAME), ("contact", CONTACT), ("notice", NOTICE), *DETAILS.items()]


async def test_a_consumer_is_shown_what_is_kept_about_it(world: World) -> None:
    mpxn, ref = await world.lived_in()
    answer = await world.record(mpxn, ref)
    assert told(answer) == ALL
    assert answer.texts[0].about.startswith("t-") and answer.next_offset == 0
    (line,) = await world.audited(mpxn)
    assert (line.verdict, line.method, line.rows) == ("SAME", "GetPersonalRecord", 3)
    assert [len(answer.digest), answer.decision.offset] == [32, line.offset]


@pytest.mark.parametrize(
    ("role", "party", "reason"),
    [
        (Role.CONSUMER, "c-somebody-else", "NOT_PERMITTED"),
        (Role.DATA_USER, ADVISER.party, "ROLE_NOT_ALLOWED"),
        (Role.SUPPLIER, "north-supply", "ROLE_NOT_ALLOWED"),
        (Role.AUDITOR, "auditor", "ROLE_NOT_ALLOWED"),
        (Role.CONSENT_SERVICE, "ccs", "ROLE_NOT_ALLOWED"),
    ],
)
async def test_nobody_else_is(world: World, role: Role, party: str, reason: str) -> None:
    mpxn, _ = await world.lived_in()
    failure = await world.refused(mpxn, party, role)
    assert (failure.code, failure.reason) == ("PERMISSION_DENIED", reason)


async def test_who_moved_in_later_is_shown_nothing_of_who_lived_there(world: World) -> None:
    mpxn, ref = await world.lived_in()
    portal = consumers_pb2_grpc.ConsumersStub(
        world.channel(world.consumers, Role.CONSENT_SERVICE, "ccs")
    )
    (tenancy,) = (await world.state(mpxn)).tenancies
    now = stamp(datetime.now(UTC) - timedelta(seconds=1))
    await portal.EndTenancy(
        consumers_pb2.EndTenancyRequest(
            idempotency_key=uuid4().hex,
            mpxn=mpxn,
            tenancy_id=tenancy.tenancy_id,
            effective_to=now,
        ),
        timeout=CALL_S,
    )
    moved = await portal.StartTenancy(
        consumers_pb2.StartTenancyRequest(
            idempotency_key=uuid4().hex,
            mpxn=mpxn,
            effective_from=now,
            person={"name": "Next Marker", "contact": ""},
        ),
        timeout=CALL_S,
    )
    world.seen[mpxn] = moved.positions
    assert told(await world.record(mpxn, moved.consumer_ref)) == [("name", "Next Marker")]
    assert told(await world.record(mpxn, ref)) == ALL
    assert {line.verdict for line in await world.audited(mpxn)} == {"SAME"}


# The keys stay where they are


@pytest.mark.parametrize(
    "role",
    [Role.CONSUMER, Role.DATA_USER, Role.CONSENT_SERVICE, Role.COORDINATOR, Role.GOVERNANCE],
)
async def test_only_a_dsi_server_has_seals_opened(world: World, role: Role) -> None:
    mpxn, ref = await world.lived_in()
    read = await world.record(mpxn, ref)
    assert await world.not_opened(read, role=role) == "ROLE_NOT_ALLOWED"


@pytest.fixture
def unopened(monkeypatch: pytest.MonkeyPatch) -> None:
    """The DSI server keeps the place of each read to itself."""

    async def nothing(self: Keyholders, sealed: Any, *of: Any) -> Opened:
        return Opened(("{}",) * len(sealed), bytes(32), ("",) * len(sealed))

    monkeypatch.setattr(Keyholders, "open", nothing)


async def test_a_place_opens_the_seals_of_that_read_once_and_for_its_own_server(
    world: World, unopened: None
) -> None:
    mpxn, ref = await world.lived_in()
    read = await world.record(mpxn, ref)
    assert await world.not_opened(read) == "NOT_PERMITTED", "another server's read"
    said = await world.seals(read, server="dsi")
    assert [NAME in said.opened[0].text, said.opened[1].text] == [True, NOTICE]
    assert len(said.opened) == 3 and len(said.digest) == 32
    assert await world.not_opened(read, server="dsi") == "NOT_PERMITTED", "it was opened before"


async def test_no_seal_is_opened_without_a_permitted_read_in_the_log(
    world: World, unopened: None
) -> None:
    mpxn, ref = await world.lived_in()
    read = await world.record(mpxn, ref)
    for offset in (read.decision.offset - 1, 0, -1):
        reason = await world.not_opened(read, server="dsi", offset=offset)
        assert reason == "NOT_PERMITTED", "no read stands there"
    for place in ({"entry": 1}, {"partition": 99}, {"topic": trust.METERING_TOPIC}):
        assert await world.not_opened(read, server="dsi", **place) == "NOT_PERMITTED", place
    assert await world.not_opened(read, server="dsi", offset=10**9) == "FOLD_BEHIND"
    assert (await world.seals(read, server="dsi")).opened[1].text == NOTICE


async def test_a_read_that_was_refused_opens_nothing(world: World, unopened: None) -> None:
    (mpxn, ref), (other, _) = await world.lived_in(), await world.lived_in()
    read = await world.record(mpxn, ref)
    await world.refused(other, ref)
    (line,) = await world.audited(other)
    assert line.decision == "REFUSE"
    place = {"partition": line.partition, "offset": line.offset, "entry": line.entry}
    assert await world.not_opened(read, server="dsi", **place) == "NOT_PERMITTED"


async def test_the_largest_page_is_shown(world: World) -> None:
    """Each character takes four bytes, and one is the last that fits."""
    longest = "\N{GRINNING FACE}" * NOTICE_CHARS_MAX
    mpxn, ref = await world.lived_in()
    for number in range(FIELDS_MAX):
        await world.consents(mpxn, ref, f"more-{mpxn}-{number}", longest)
    first = await world.record_in_the_end(mpxn, ref)
    assert first.next_offset and first.ByteSize() > 28 * 4 * NOTICE_CHARS_MAX
    rest = await world.record_in_the_end(mpxn, ref, from_offset=first.next_offset)
    notices = [text.text for page in (first, rest) for text in page.texts if text.what == "notice"]
    assert notices == [NOTICE] + [longest] * FIELDS_MAX and not rest.next_offset
    assert {line.verdict for line in await world.audited(mpxn)} == {"SAME"}


async def test_a_server_elsewhere_asks_at_the_addresses_that_are_set(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mpxn, ref = await world.lived_in()
    runtime = world.town.runtime
    own = Path("identities") / f"{SERVER_PREFIX}dsi"
    shutil.copytree(runtime.settings.data_dir / own, tmp_path / own)
    assert world.consumers.server is not None
    addresses = ["127.0.0.1:1", f"127.0.0.1:{world.consumers.server.port}"]
    settings = runtime.settings.model_copy(update={"data_dir": tmp_path})
    keys = Keyholders(replace(runtime, settings=settings), "dsi", addresses)
    opens = Keyholders.open

    async def elsewhere(self: Keyholders, *asked: Any) -> Opened:
        return await opens(keys, *asked)

    monkeypatch.setattr(Keyholders, "open", elsewhere)
    try:
        assert told(await world.record(mpxn, ref)) == ALL
    finally:
        await keys.close()


async def test_a_coordinator_that_is_away_is_a_retry_and_shows_nothing(world: World) -> None:
    mpxn, ref = await world.lived_in()
    await world.consumers.stop()
    failure = await world.refused(mpxn, ref)
    assert (failure.code, failure.reason) == ("UNAVAILABLE", "KEYS_NOT_AT_HAND")
    assert failure.retry_after_s and NAME not in failure.message
    world.consumers = await start_consumers(world.town.runtime)
    assert told(await world.record_in_the_end(mpxn, ref)) == ALL
    away, *until_then, back = await world.audited(mpxn)
    assert {(line.verdict, line.release) for line in until_then} <= {("SAME", "NOT_RELEASED")}
    assert (away.verdict, away.release, away.why) == ("SAME", "NOT_RELEASED", "KEYS_NOT_AT_HAND")
    assert (back.verdict, back.release) == ("SAME", "RELEASED")


async def test_a_permit_that_runs_out_while_seals_are_opened_shows_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    mpxn, ref = await world.lived_in()
    opens, settings = Keyholders.open, world.town.runtime.settings

    async def late(self: Keyholders, *asked: Any) -> Opened:
        opened = await opens(self, *asked)
        await asyncio.sleep(settings.permit_ttl_s)
        return opened

    monkeypatch.setattr(Keyholders, "open", late)
    failure = await world.refused(mpxn, ref)
    assert (failure.code, failure.reason) == ("UNAVAILABLE", "PERMIT_EXPIRED")
    (line,) = await world.audited(mpxn)
    assert (line.release, line.why) == ("NOT_RELEASED", "PERMIT_EXPIRED")


async def test_a_caller_that_goes_away_meanwhile_leaves_an_outcome(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    mpxn, ref = await world.lived_in()
    asked = asyncio.Event()

    async def never(self: Keyholders, *of: Any) -> Opened:
        asked.set()
        await asyncio.sleep(CALL_S)
        raise AssertionError("nobody waits any more")

    monkeypatch.setattr(Keyholders, "open", never)
    call = asyncio.ensure_future(world.record(mpxn, ref))
    await asked.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    (line,) = await world.audited(mpxn)
    assert (line.release, line.why) == ("NOT_RELEASED", "CLIENT_GONE")


async def test_what_a_lost_vault_sealed_is_said_to_be_shut(world: World) -> None:
    mpxn, ref = await world.lived_in()
    with closing(sqlite3.connect(world.vault, timeout=10)) as db, db:
        db.execute("DELETE FROM keys WHERE subject = ?", (ref,))
    lost = "KEYS_NOT_AT_HAND"
    assert (await world.refused(mpxn, ref)).reason == lost, "of a page of which nothing opens"
    await world.consents(mpxn, ref, f"since-{mpxn}", "Since then.")
    answer = await world.record(mpxn, ref)
    assert [(each.what, each.text, each.unopened_reason) for each in answer.texts] == [
        *((what, "", lost) for what in ("person", "notice", "record")),
        ("notice", "Since then.", ""),
    ]
    before, shown = await world.audited(mpxn)
    assert (before.verdict, before.release, before.why) == ("SAME", "NOT_RELEASED", lost)
    assert (shown.verdict, shown.why) == ("CANNOT TELL", "keys not at hand")


async def test_a_page_of_which_nothing_opens_says_where_the_next_begins(world: World) -> None:
    mpxn, ref = await world.lived_in()
    for number in range(FIELDS_MAX):
        await world.consents(mpxn, ref, f"lost-{mpxn}-{number}", "Lost.")
    with closing(sqlite3.connect(world.vault, timeout=10)) as db, db:
        db.execute("DELETE FROM keys WHERE subject = ?", (ref,))
    world.channel(world.dsi, Role.CONSUMER, ref)
    command = ["my", "record", mpxn, "--as", f"{Role.CONSUMER}-{ref}", "--json"]
    nothing = await asyncio.to_thread(CliRunner().invoke, command_line("my"), command)
    assert isinstance(nothing.exception, grpc.RpcError)
    assert error_from(nothing.exception).reason == "KEYS_NOT_AT_HAND", "no page opens"
    await world.consents(mpxn, ref, f"since-{mpxn}", "Since then.")
    for _ in range(2):
        shut = await world.refused(mpxn, ref)
        assert shut.reason == "KEYS_NOT_AT_HAND", "to ask for the same again leads nowhere"
    rest = await world.record(mpxn, ref, from_offset=int(shut.facts["next_offset"]))
    assert ("notice", "Since then.") in [(each.what, each.text) for each in rest.texts]
    assert not rest.next_offset
    done = await asyncio.to_thread(CliRunner().invoke, command_line("my"), command)
    page, *others = json.loads(done.stdout[done.stdout.index("[\n") :])  # behind the server's log
    assert page == {
        "what": "page",
        "about": "0",
        "text": None,
        "unopened_reason": "KEYS_NOT_AT_HAND",
    }
    assert [each["text"] for each in others] == [each.text or None for each in rest.texts]


# Until it is erased


def restore(vault: Path, old: Path) -> None:
    """The keys of an old copy stand in the vault again."""
    with closing(sqlite3.connect(old)) as copy:
        rows = copy.execute("SELECT key_id, subject, key FROM keys").fetchall()
    with closing(sqlite3.connect(vault, timeout=10)) as db, db:
        db.execute("DELETE FROM destroyed")
        db.executemany("INSERT OR REPLACE INTO keys VALUES (?, ?, ?)", rows)


async def test_after_an_erasure_it_is_refused_and_an_audit_cannot_tell(
    world: World, tmp_path: Path
) -> None:
    mpxn, ref = await world.lived_in()
    await world.record(mpxn, ref)
    old = tmp_path / "old.sqlite"
    shutil.copy(world.vault, old)
    await world.erase(ref)
    failure = await world.refused(mpxn, ref)
    assert (failure.code, failure.reason) == ("FAILED_PRECONDITION", "SUBJECT_ERASED")
    for vault in (None, old):
        shown, after = await world.audited(mpxn, vault)
        assert (shown.verdict, shown.why, shown.decision) == ("CANNOT TELL", "erased", "PERMIT")
        assert (after.verdict, after.release, after.why) == (
            "SAME",
            "NOT_RELEASED",
            "SUBJECT_ERASED",
        )
    restore(world.vault, old)
    failure = await world.refused(mpxn, ref)
    assert failure.reason == "SUBJECT_ERASED", "whatever the vault holds"
    assert (await world.audited(mpxn))[0].why == "erased"


async def test_who_is_restricted_still_sees_its_record_and_an_audit_does_not(world: World) -> None:
    mpxn, ref = await world.lived_in()
    stub = consumers_pb2_grpc.ErasuresStub(
        world.channel(world.consumers, Role.CONSENT_SERVICE, "ccs")
    )
    request = consumers_pb2.EraseSubjectRequest(
        idempotency_key=uuid4().hex,
        consumer_ref=ref,
        duty="TAX_RECORDS",
        keep_until=stamp(datetime.now(UTC) + timedelta(days=1)),
    )
    assert (await stub.EraseSubject(request, timeout=CALL_S)).standing == "RESTRICTED"
    assert told(await world.record(mpxn, ref)) == ALL
    (line,) = await world.audited(mpxn)
    assert (line.verdict, line.why) == ("CANNOT TELL", "restricted")


async def test_a_coordinator_that_asks_only_its_vault_is_fooled_by_an_old_one(
    world: World, tmp_path: Path
) -> None:
    """The naive opening: the key is there, so the seal opens."""
    mpxn, ref = await world.lived_in()
    old = tmp_path / "old.sqlite"
    shutil.copy(world.vault, old)
    await world.erase(ref)
    sealed = await world.sealed(mpxn)
    vault = Vault.look_into(old)
    opened = vault.open_for(ref, sealed)
    vault.close()
    assert opened is not None and NOTICE in opened.texts
