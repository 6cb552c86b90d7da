"""Standing data through the coordinators: loaded, asked for as of when, corrected, and checked."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio

from spine import trust
from spine.config import Settings
from spine.console import context
from spine.console.client import Client, stamp
from spine.console.logs import ensure_log, issue_identities
from spine.console.reference import load, show
from spine.embedded import EmbeddedKafka
from spine.errors import Invalid, NotFound
from spine.installation import CATALOGUE, DOMAINS
from spine.policy import Role
from spine.replay import rebuild
from spine.runtime import Process, Runtime
from spine.server import Failure, error_from
from spine.services.governance import start_governance
from spine.services.metering import start_metering
from tests.helpers.accredited import accredit
from tests.helpers.log import open_new_log

pytestmark = pytest.mark.asyncio(loop_scope="module")
BOARD = "governance-board"
NEW_TOPICS = {trust.GOVERNANCE_REFERENCE, trust.BTM_ASSETS_REFERENCE, trust.AGGREGATES_TOPIC}
RUNS = """# standing-data: 1
# domain: metering
# list: settlement_runs
# source: a circular
# licence: OGL-UK-3.0
code,label,effective_from,effective_to,withdrawn,offset,unit
"""
OLD_RUN = "T1,Trial run,2024-01-01,,,{days},WD\n"


class World:
    """A log with the coordinators of governance and metering, and files to load."""

    def __init__(self, runtime: Runtime, folder: Path, *processes: Process) -> None:
        self.runtime, self.folder, self.processes = runtime, folder, list(processes)
        self._files = 0

    async def ask(
        self, method: str, *, to: str = "metering", by: str = BOARD, **fields: Any
    ) -> Any:
        """One call, as the command line makes it."""
        client = Client(self.runtime.settings.data_dir, by)
        return await asyncio.to_thread(client.reference, to, method, **fields)

    async def refusal(self, method: str, **fields: Any) -> Failure:
        with pytest.raises(grpc.RpcError) as failed:
            await self.ask(method, **fields)
        return error_from(failed.value)

    async def load(self, *rows: str, head: str = RUNS) -> int:
        """Load a file of these rows by the command; returns the end of the topic after it."""
        self._files += 1
        path = self.folder / f"file-{self._files}.csv"
        path.write_text(head + "".join(rows))
        await asyncio.to_thread(load, [path], BOARD, True)
        return self.end

    async def days(self, **when: Any) -> str:
        """How long after the day the trial run comes, as told then; '' if there is no such run."""
        said = await self.ask("ListCodes", list="settlement_runs", **when)
        found = [code for code in said.codes if code.code == "T1"]
        return next((a.value for code in found for a in code.attributes if a.name == "offset"), "")

    async def register(self, mpxn: str) -> Any:
        """Make a metering point known, as its supplier."""
        client = Client(self.runtime.settings.data_dir, "SUPP")
        since = stamp(datetime(2024, 1, 1, tzinfo=UTC))
        fields: dict[str, Any] = {"mpxn": mpxn, "registered_from": since}
        return await asyncio.to_thread(client.metering, "RegisterMeteringPoint", **fields)

    @property
    def end(self) -> int:
        """The offset after the last record of metering's reference topic."""
        folds = self.processes[1].folds
        assert folds is not None
        return folds[trust.METERING_REFERENCE, 0].next_offset


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    folder = tmp_path_factory.mktemp("reference")
    with EmbeddedKafka(folder) as broker:
        with pytest.MonkeyPatch.context() as patch:  # a log from before these topics
            single = tuple(t for t in trust.SINGLE_PARTITION if t not in NEW_TOPICS)
            patch.setattr(trust, "SINGLE_PARTITION", single)
            patch.setattr(trust, "TOPICS", trust.METER_KEYED + single)
            settings, kafka = await open_new_log(broker, folder)
            runtime = Runtime.of(settings, kafka, DOMAINS)
            runtime.authority().issue_client(Role.CONSENT_SERVICE, "SUPP")
            await accredit(runtime, (Role.CONSENT_SERVICE, "SUPP"))
        assert set(await ensure_log(settings, kafka)) >= NEW_TOPICS
        issue_identities(settings.data_dir)
        context.use(settings)
        governance, metering = await start_governance(runtime), await start_metering(runtime)
        world = World(runtime, folder, governance, metering)
        try:
            yield world
        finally:
            for process in world.processes:
                await process.stop()
            context.use(Settings())


async def test_a_log_from_before_a_topic_gets_it_with_all_that_governance_said(
    world: World,
) -> None:
    folds = world.processes[0].folds
    assert folds is not None
    new = folds[trust.GOVERNANCE_REFERENCE, 0].stored.fold
    assert new.participant("SUPP") is not None
    assert new.head is not None and new.head.counts.balanced


async def test_the_shipped_lists_are_there_after_the_start_and_are_loaded_once(
    world: World,
) -> None:
    for domain in ("governance", "metering"):
        said = await world.ask("ListCodeLists", to=domain)
        (specs,) = (d.code_lists for d in CATALOGUE if d.name == domain)
        assert [each.list for each in said.lists] == sorted(specs)
        assert all(each.entries for each in said.lists)
    before = world.end
    await world.processes[1].stop()
    world.processes[1] = await start_metering(world.runtime)
    assert world.end == before


async def test_a_list_is_loaded_asked_for_corrected_and_asked_for_again(world: World) -> None:
    before = world.end
    assert await world.days() == ""
    first = await world.load(OLD_RUN.format(days=3))
    assert await world.load(OLD_RUN.format(days=3)) == first == before + 1
    assert await world.days() == "3"
    await asyncio.sleep(0.01)
    between = datetime.now(UTC)
    await asyncio.sleep(0.01)
    corrected = await world.load(OLD_RUN.format(days=4))
    assert corrected == first + 1
    assert [
        await world.days(**when)
        for when in (
            {},
            {"known_below": first},
            {"as_of_known": stamp(between)},
            {"known_below": before},
            {"as_of_valid": "2023-12-31"},
            {"as_of_valid": "2024-01-01", "known_below": first},
        )
    ] == ["4", "3", "3", "", "", "3"]
    answer = await world.ask("ListCodes", list="settlement_runs", as_of_known=stamp(between))
    assert [p.offset for p in answer.positions.positions] == [first]
    await world.load("T1,,2024-01-01,,no such run,,\n")
    assert (await world.days(), await world.days(known_below=corrected)) == ("", "4")
    found = await world.ask("GetCode", list="settlement_runs", code="SF")
    assert found.code.label == "Initial settlement"
    no = await world.refusal("GetCode", list="settlement_runs", code="T1")
    assert (no.code, no.reason) == ("NOT_FOUND", "CODE_UNKNOWN")


async def test_what_the_command_shows_of_a_list(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    holidays = "bank_holidays_scotland"
    await asyncio.to_thread(show, holidays, as_of_valid="2026-11-30")
    said = capsys.readouterr().out
    assert "St Andrew" in said and "OGL-UK-3.0" in said and "below offset" in said
    await asyncio.to_thread(show, holidays, code="2026-11-30", all_=True, as_json=True)
    shown = json.loads(capsys.readouterr().out)
    assert [c["effective_to"] for c in shown["codes"]] == ["2026-12-01"]
    with pytest.raises(NotFound):
        await asyncio.to_thread(show, holidays, code="2026-11-29", all_=True)
    with pytest.raises(Invalid, match="no domain has a list"):
        await asyncio.to_thread(show, "nothing")


@pytest.mark.parametrize(
    ("head", "row", "reason", "said"),
    [
        ("", "", "FILE_EMPTY", "empty"),
        ("day,value\n", "1,2\n", "FILE_UNRECOGNISED", "no file of standing data"),
        (RUNS, "T1,Trial,2024-02-30,,,3,WD\n", "FILE_UNREADABLE", "line 7"),
        (RUNS, OLD_RUN.format(days=3) + "T2,,2024-01-01,,,3,WD\n", "FILE_UNREADABLE", "line 8"),
        (RUNS.replace("metering", "consumers"), "T1,T,2024-01-01,,,3,WD\n", "LIST_UNKNOWN", ""),
        (RUNS, "T1,T,2024-01-01,,,3,WD\nT1,T,2024-02-01,,,3,WD\n", "CODE_OVERLAPS", "two"),
    ],
)
async def test_a_wrong_file_is_told_with_its_line_and_records_nothing(
    world: World, head: str, row: str, reason: str, said: str
) -> None:
    before = world.end
    with pytest.raises(Invalid) as refusal:
        await world.load(row, head=head)
    assert refusal.value.reason == reason
    assert ".csv: " in refusal.value.message and said in refusal.value.message
    assert world.end == before


async def test_of_a_folder_nothing_is_sent_if_one_file_is_wrong(world: World) -> None:
    folder = world.folder / "two"
    folder.mkdir()
    (folder / "a.csv").write_text(RUNS + "T9,Trial,2024-01-01,,,3,WD\n")
    (folder / "b.csv").write_text("not standing data")
    before = world.end
    with pytest.raises(Invalid, match=r"b\.csv"):
        await asyncio.to_thread(load, [folder], BOARD, True)
    assert world.end == before
    (folder / "b.csv").unlink()
    await asyncio.to_thread(load, [folder], BOARD, True)
    assert world.end == before + 1


CODE = {"code": "T3", "label": "Trial", "effective_from": "2024-01-01", "source": "s"}


async def test_refusals_over_the_wire_record_nothing(world: World) -> None:
    async def refused(method: str, **fields: Any) -> tuple[str, str]:
        failure = await world.refusal(method, **{"list": "settlement_runs", **fields})
        return failure.code, failure.reason

    before = world.end
    invalid = "INVALID_ARGUMENT"
    denied = ("PERMISSION_DENIED", "ROLE_NOT_ALLOWED")
    assert await refused("LoadCodes", codes=[CODE], by="SUPP") == denied
    assert await refused("LoadCodes", codes=[CODE]) == (invalid, "FIELD_MISSING")
    assert await refused("LoadCodes", list="purposes") == (invalid, "LIST_UNKNOWN")
    late = {**CODE, "effective_from": "1 May"}
    assert await refused("LoadCodes", codes=[late]) == (invalid, "TIME_INVALID")
    wrong = {"list": "settlement_runs", "codes": [CODE, late]}
    assert (await world.refusal("LoadCodes", **wrong)).field == "codes[1].effective_from"
    gone = {"code": "T3", "effective_from": "2024-01-01", "why": "x"}
    unknown = ("FAILED_PRECONDITION", "CODE_UNKNOWN")
    assert await refused("LoadCodes", withdrawals=[gone]) == unknown
    assert await refused("ListCodes", list="") == (invalid, "LIST_UNKNOWN")
    assert await refused("ListCodes", as_of_valid="soon") == (invalid, "TIME_INVALID")
    both = {"known_below": 1, "as_of_known": stamp(datetime.now(UTC))}
    assert await refused("ListCodes", **both) == (invalid, "FIELD_INVALID")
    assert await refused("ListCodes", known_below=-1) == (invalid, "POSITION_INVALID")
    every = {"every_day": True, "as_of_valid": "2024-01-01"}
    assert await refused("ListCodes", **every) == (invalid, "FIELD_INVALID")
    assert await refused("ListCodes", known_below=1 << 40) == (invalid, "POSITION_INVALID")
    outside = {**CODE, "code": "ESPIONAGE", "licence": "x"}
    assert await refused("LoadCodes", to="governance", list="purposes", codes=[outside]) == (
        invalid,
        "CODE_UNKNOWN",
    )
    assert world.end == before


async def test_a_meter_of_an_unknown_distributor_is_not_registered_until_it_is_listed(
    world: World,
) -> None:
    mpxn, other = "8699999999991", "8699999999983"
    with pytest.raises(grpc.RpcError) as failed:
        await world.register(mpxn)
    refused = error_from(failed.value)
    assert (refused.code, refused.reason) == ("INVALID_ARGUMENT", "CODE_UNKNOWN")
    assert mpxn not in refused.message
    head = RUNS.replace("settlement_runs", "distributors").replace("offset,unit", "kind,mpid")
    await world.load("86,New Networks,2023-01-01,,,INDEPENDENT,NEWN\n", head=head)
    first = await world.register(mpxn)
    assert not first.replayed and first.record.topic == trust.METERING_TOPIC
    await world.load("86,,2023-01-01,,never a distributor,,\n", head=head)
    with pytest.raises(grpc.RpcError) as failed:
        await world.register(other)
    assert error_from(failed.value).reason == "CODE_UNKNOWN"
    assert (await world.register(mpxn)).record == first.record


async def test_the_log_alone_gives_the_same_lists(world: World, tmp_path: Path) -> None:
    """What the coordinator serves is what a plain reader folds, row for row."""
    folds = world.processes[1].folds
    assert folds is not None
    served = folds[trust.METERING_REFERENCE, 0].stored
    again = world.runtime.stored_fold(tmp_path, trust.METERING_REFERENCE, 0)
    reader = world.runtime.reader()
    try:
        rebuild(again, reader)
        assert again.store.digest() == served.store.digest()
        assert again.fold.head is not None and again.fold.head.counts.balanced
        assert again.fold.head.counts.consumed == again.fold.head.counts.applied
    finally:
        reader.close()
        again.close()
