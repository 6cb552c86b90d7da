"""What docs/clients.md hands to developers of clients does what the page says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from zoneinfo import ZoneInfo

import grpc
import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from spine.answer import Absent, HalfHour, Recorded, half_hours_digest
from spine.console import reading
from spine.console.client import Client
from spine.console.output import fail_rpc
from spine.dsi.refusing import OF_ONE_PAGE
from spine.dsi.rows import put_half_hours
from spine.dsi.v1 import dsi_pb2, dsi_pb2_grpc
from spine.errors import NEXT_CURSOR, NotPermitted, Pushback, Reason
from spine.gb import HALF_HOUR
from spine.identity import Authority
from spine.ledger.provenance_check import canonical
from spine.policy import Role
from spine.server import Service, build_server
from tests.helpers.documented import documented
from tests.helpers.half_hours import in_columns

EXAMPLE, FILE = "An example", "An answer as a file, and its digest"
MPXN = "2000027391990"
START = datetime(2024, 7, 1, tzinfo=UTC)


class TwoPages(dsi_pb2_grpc.DsiServicer):
    """Answers in pages of one half hour, two of them, once it is there, has caught up, and permits
    it. A cursor has a + for each page before.
    """

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.last = "+"
        self.away, self.behind, self.uncovered = 0, 0, 0
        self.reason = Reason.INTERVAL_NOT_COVERED

    async def GetReadings(self, request: Any, context: Any) -> Any:
        self.asked.append(request)
        if self.away:
            self.away -= 1
            await context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")
        if self.behind:
            self.behind -= 1
            raise Pushback(Reason.FOLD_BEHIND, "not yet", retry_after_s=0.01)
        if self.uncovered:
            self.uncovered -= 1
            refused = NotPermitted(self.reason, "the read is not permitted")
            if request.cursor != self.last:
                refused.facts[NEXT_CURSOR] = f"{request.cursor}+"
            raise refused
        return dsi_pb2.GetReadingsResponse(
            rows=[dsi_pb2.HalfHour(start=request.interval.start, value_wh=250)],
            next_cursor="" if request.cursor == self.last else f"{request.cursor}+",
        )

    async def ListAssets(self, request: Any, context: Any) -> Any:
        return dsi_pb2.ListAssetsResponse(assets=[dsi_pb2.Asset(mpxn=request.mpxn)])


@dataclass
class Developer:
    """Who runs the example against a server."""

    port: int
    identity: Path
    names: dict[str, Any] = field(default_factory=lambda: documented(EXAMPLE))

    async def run(self, function: str, *args: Any) -> list[Any]:
        def call() -> list[Any]:
            with self.names["channel"](f"localhost:{self.port}", self.identity) as channel:
                return list(self.names[function](dsi_pb2_grpc.DsiStub(channel), MPXN, *args))

        return await asyncio.to_thread(call)


@pytest.fixture
def service() -> TwoPages:
    return TwoPages()


@pytest.fixture
async def developer(service: TwoPages, tmp_path: Path) -> AsyncIterator[Developer]:
    authority = Authority.open_or_create(tmp_path)
    adviser = authority.issue_client(Role.DATA_USER, "bright-advice")
    server = build_server(
        authority.issue_server(Role.DSI, "dsi"),
        [Service("spine.dsi.v1.Dsi", dsi_pb2_grpc.add_DsiServicer_to_server, service)],
    )
    await server.start()
    found = Developer(server.port, adviser.folder)
    assert sum(found.names["WAITS_S"]) >= 10  # a restart takes some 5 s
    found.names["WAITS_S"] = tuple(0.01 for _ in found.names["WAITS_S"])
    yield found
    await server.stop(0)


async def test_it_pages_and_tries_again(service: TwoPages, developer: Developer) -> None:
    service.behind = 1
    found = await developer.run("half_hours", START, START + 2 * HALF_HOUR)
    assert [row.value_wh for row in found] == [250, 250]
    assert [asset.mpxn for asset in await developer.run("assets")] == [MPXN]
    assert [request.cursor for request in service.asked] == ["", "", "+"]


@pytest.mark.parametrize("day", ["2024-03-31", "2024-10-27"])
async def test_a_clock_change_in_london_doubles_and_loses_nothing(
    service: TwoPages, developer: Developer, day: str
) -> None:
    """Python compares local times by the clock on the wall, which goes forward or back between."""
    start = datetime.fromisoformat(f"{day}T00:30:00Z")
    local = [at.astimezone(ZoneInfo("Europe/London")) for at in (start, start + 2 * HALF_HOUR)]
    assert local[1].replace(tzinfo=None) - local[0].replace(tzinfo=None) != 2 * HALF_HOUR
    assert len(await developer.run("half_hours", *local)) == 2
    assert service.asked[0].interval.end.ToDatetime(UTC) == start + 2 * HALF_HOUR


async def test_it_waits_for_a_server_that_is_started_again_and_not_for_ever(
    service: TwoPages, developer: Developer
) -> None:
    tries = len(developer.names["WAITS_S"]) + 1
    service.away = tries - 1
    assert len(await developer.run("half_hours", START, START + 2 * HALF_HOUR)) == 2
    service.asked.clear()
    service.away = 100
    with pytest.raises(grpc.RpcError, match="UNAVAILABLE"):
        await developer.run("half_hours", START, START + 2 * HALF_HOUR)
    assert len(service.asked) == tries


@pytest.mark.parametrize("reason", sorted(OF_ONE_PAGE))
async def test_it_goes_on_behind_a_page_of_which_nothing_is_covered(
    service: TwoPages, developer: Developer, reason: Reason
) -> None:
    service.reason = reason
    interval = (START, START + 4 * HALF_HOUR)
    service.uncovered, service.last = 2, "+++"
    assert len(await developer.run("half_hours", *interval)) == 2
    assert [request.cursor for request in service.asked] == ["", "+", "++", "+++"]
    assert {request.interval.start.ToDatetime(UTC) for request in service.asked} == {START}
    service.uncovered = 4
    with pytest.raises(grpc.RpcError, match="PERMISSION_DENIED"):
        await developer.run("half_hours", *interval)
    assert len(service.asked) == 8


@pytest.mark.parametrize(("uncovered", "code"), [(0, 0), (2, 3), (3, 3)])
async def test_the_command_goes_on_behind_refused_pages_too_and_says_that_there_were_some(
    service: TwoPages,
    developer: Developer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    uncovered: int,
    code: int,
) -> None:
    """If there are any that are permitted; the exit code of all refused comes from the error."""
    service.uncovered, service.last = uncovered, "++"
    start, end = (when.isoformat() for when in (START, START + 3 * HALF_HOUR))
    out = tmp_path / "out"
    read = partial(reading.read, MPXN, start, end, "ENERGY_ADVICE", "bright-advice", out=out)
    ours: Any = SimpleNamespace(identity=developer.identity, _data_dir=tmp_path)
    ours._stub = partial(Client._stub, ours)
    ours.readings = partial(Client.readings, ours)
    monkeypatch.setattr(reading, "client", lambda _: ours)
    target = f"localhost:{developer.port}"
    monkeypatch.setattr("spine.console.client.reachable_target", lambda *_: target)
    ended: int | str = 0
    try:
        await asyncio.to_thread(read)
    except typer.Exit as end:
        ended = end.exit_code
    except grpc.RpcError as error:
        ended = fail_rpc(error)
    assert ended == code
    assert capsys.readouterr().err.count("INTERVAL_NOT_COVERED") == min(uncovered, 3)
    assert [request.cursor for request in service.asked] == ["", "+", "++"]
    assert out.exists() is (uncovered < 3)
    if out.exists():
        assert len(json.loads(out.read_text())) == 3 - uncovered


async def test_a_last_page_of_which_nothing_is_covered_ends_what_was_found(
    service: TwoPages, developer: Developer
) -> None:
    found = []
    with developer.names["channel"](f"localhost:{developer.port}", developer.identity) as channel:
        dsi = dsi_pb2_grpc.DsiStub(channel)
        rows = developer.names["half_hours"](dsi, MPXN, START, START + 2 * HALF_HOUR)
        found.append(await asyncio.to_thread(next, rows))
        service.uncovered = 1
        found += await asyncio.to_thread(list, rows)
    assert [row.value_wh for row in found] == [250]


def test_it_takes_no_time_without_a_zone() -> None:
    stamp = documented(EXAMPLE)["stamp"]
    summer = timedelta(hours=1)
    assert stamp(START).seconds == START.timestamp()
    with pytest.raises(ValueError, match="no time zone"):
        stamp(START.replace(tzinfo=None) + summer)


recorded = st.builds(
    Recorded,
    st.integers(0, 10_000_000),
    st.sampled_from(("A", "E", "", "é")),
    st.integers(0, 2**62),
    st.integers(0, 999),
)


@given(st.lists(st.one_of(recorded, st.sampled_from(Absent)), min_size=1, max_size=8))
def test_file_and_digest_are_made_as_ours_of_any_half_hours(said: list[Recorded | Absent]) -> None:
    names = documented(FILE)
    rows = in_columns(
        [
            HalfHour(MPXN, START + HALF_HOUR * place, None, one)
            if isinstance(one, Absent)
            else HalfHour(MPXN, START + HALF_HOUR * place, one)
            for place, one in enumerate(said)
        ]
    )
    page = dsi_pb2.GetReadingsResponse()
    put_half_hours(page, rows, in_columns=False)
    assert names["digest_of"](MPXN, page.rows) == half_hours_digest(rows)
    (kept,) = json.loads(names["answer_file"](page))
    assert sha256(canonical(MPXN, kept["rows"])).digest() == half_hours_digest(rows)
