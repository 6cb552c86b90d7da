"""What readings processes refuse is asked of all of them, once, and again where one folds anew."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from structlog.testing import capture_logs

from spine import trust
from spine.codec import pack
from spine.dsi import channels, quarantined
from spine.dsi.quarantined import QuarantinedService
from spine.dsi.v1 import quarantined_pb2, quarantined_pb2_grpc
from spine.errors import Invalid, NotPermitted, Pushback, Reason
from spine.identity import Caller
from spine.policy import Role
from spine.quarantine import Listed
from spine.rows import HEAD_ROW, QUARANTINE_PREFIX
from spine.services.quarantined_readings import QuarantinedReadings
from spine.store import MemoryRows
from spine.whereabouts import announce

LOG = bytes(32)
RULE = str(Reason.READINGS_MALFORMED)
TOPIC = trust.READINGS_TOPIC


class Folds:
    """The folds of one readings process, as far as they are asked here."""

    def __init__(self, *partitions: int) -> None:
        self.claims = {(TOPIC, p): 1_000 for p in partitions} | {(trust.METERING_TOPIC, 0): 1_000}
        self.folds = {place: self.empty() for place in self.claims}

    @staticmethod
    def empty() -> Any:
        rows = MemoryRows()
        rows.put(HEAD_ROW, b"")  # its opening was met
        return SimpleNamespace(stored=SimpleNamespace(store=rows))

    def refuse(self, partition: int, offset: int, entry: int = 0) -> Listed:
        rows = self.folds[TOPIC, partition].stored.store
        rows.put(QUARANTINE_PREFIX + struct.pack(">qi", offset, entry), pack(RULE))
        return Listed(TOPIC, partition, offset, entry, RULE)

    def fold_anew(self, partition: int) -> None:
        self.claims[TOPIC, partition] += 1
        self.folds[TOPIC, partition] = self.empty()


@dataclass
class Keeper:
    """Keeps what it is given, unless that is of a partition it fails for."""

    kept: list[Listed] = field(default_factory=list)
    fails: set[int] = field(default_factory=set)

    async def keep(self, found: Sequence[Listed]) -> None:
        if self.fails.intersection(listed.partition for listed in found):
            raise Pushback(Reason.LOG_UNREACHABLE, "the log does not answer")
        self.kept += found

    def taken(self) -> list[Listed]:
        """What it was given since it was last asked."""
        taken, self.kept = self.kept, []
        return taken


def plain(target: str) -> grpc.aio.Channel:
    """A channel without certificates, which are not what is tried here."""
    return grpc.aio.insecure_channel(target)


@asynccontextmanager
async def asking(
    home: Path, monkeypatch: pytest.MonkeyPatch, *processes: Folds, elsewhere: str = ""
) -> AsyncIterator[tuple[QuarantinedReadings, Keeper, list[str]]]:
    """One who asks the processes `readings-1`, `readings-2` and so on of a data folder."""
    caller = Caller(Role.COORDINATOR, "metering", b"")
    monkeypatch.setattr(quarantined, "current_caller", lambda: caller)
    servers, ports = [], []
    for number, folds in enumerate(processes, start=1):
        server = grpc.aio.server()
        service: Any = QuarantinedService(LOG, folds)  # type: ignore[arg-type]
        quarantined_pb2_grpc.add_QuarantinedServicer_to_server(service, server)
        ports.append(server.add_insecure_port("127.0.0.1:0"))
        await server.start()
        servers.append(server)
        if not elsewhere:
            announce(home, f"readings-{number}", "127.0.0.1", ports[-1])
    targets = [f"127.0.0.1:{port}" for port in ports]
    peers = ",".join([elsewhere, *targets]) if elsewhere else None
    settings = SimpleNamespace(data_dir=home, readings_peers=peers)
    runtime = SimpleNamespace(settings=settings, identity=SimpleNamespace(log_id=LOG))
    process: Any = SimpleNamespace(runtime=runtime, name="metering")
    keeper = Keeper()
    monkeypatch.setattr(channels, "connect", lambda target, *_, **__: plain(target))
    asked = QuarantinedReadings(process, keeper.keep)
    try:
        yield asked, keeper, targets
    finally:
        await asked.close()
        for server in servers:
            await server.stop(None)


async def test_every_readings_process_of_the_folder_is_asked_and_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quarantined, "ENTRIES_MAX", 2)
    first, second = Folds(0, 2), Folds(1)
    refused = [
        first.refuse(0, 7, 0),
        first.refuse(0, 7, 1),
        first.refuse(0, 9),
        first.refuse(2, 3),
        second.refuse(1, 5),
    ]
    async with asking(tmp_path, monkeypatch, first, second) as (asked, keeper, _):
        await asked.look()
        assert keeper.taken() == refused
        await asked.look()
        assert keeper.taken() == []
        later = second.refuse(1, 6)
        await asked.look()
        assert keeper.taken() == [later]

    # The naive way: to look where the first process has its plain name.
    assert not (tmp_path / "services" / "readings.json").exists()


async def test_those_that_share_no_folder_are_asked_at_their_addresses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folds = Folds(0)
    refused = folds.refuse(0, 7)
    nobody = "127.0.0.1:1"
    async with asking(tmp_path, monkeypatch, folds, elsewhere=nobody) as (asked, keeper, _):
        await asked.look()
        assert keeper.taken() == [refused], "one that is silent keeps nobody from the others"
        # The naive way: the processes of the data folder alone.
        runtime: Any = asked._process.runtime
        runtime.settings.readings_peers = None
        folds.refuse(0, 8)
        await asked.look()
        assert keeper.taken() == []


async def test_a_partition_that_is_folded_anew_is_listed_from_its_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folds = Folds(0)
    async with asking(tmp_path, monkeypatch, folds) as (asked, keeper, (target,)):
        folds.refuse(0, 7)
        await asked.look()
        keeper.taken()
        folds.fold_anew(0)  # by a build that refuses an earlier one too
        refused = [folds.refuse(0, 3), folds.refuse(0, 7)]
        (last,) = asked._last[target].values()
        naive = quarantined_pb2.QuarantinedEntry(partition=0, since_ms=1_001, offset=7)
        async with grpc.aio.insecure_channel(target) as channel:
            stub: Any = quarantined_pb2_grpc.QuarantinedStub(channel)
            request = quarantined_pb2.ListQuarantinedRequest(last=[naive])
            said = await stub.ListQuarantined(request)
            assert list(said.entries) == [], "who forgets which fold told it misses the earlier one"
        assert (last.since_ms, last.offset) == (1_000, 7)
        await asked.look()
        assert keeper.taken() == refused


async def test_each_is_asked_over_one_connection_for_as_long_as_it_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Naive: connects, and makes the handshake, at each look."""
    first, second = Folds(0), Folds(1)
    connected: list[str] = []
    for naive in (False, True):
        async with asking(tmp_path, monkeypatch, first, second) as (asked, _, targets):
            connected.clear()

            def counted(target: str, *_: Any, **__: Any) -> grpc.aio.Channel:
                connected.append(target)
                return plain(target)

            monkeypatch.setattr(channels, "connect", counted)
            for _look in range(3):
                await asked.look()
                if naive:
                    await asked.close()
            assert sorted(connected) == sorted(targets * (3 if naive else 1))


def ends_the_look(event: str, target: str, reason: str) -> None:
    """Naive: what cannot be kept of one is a failure of all."""
    raise Pushback(Reason.LOG_UNREACHABLE, reason)


@pytest.mark.parametrize("naive", [False, True])
async def test_what_could_not_be_kept_is_asked_for_again_and_holds_up_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, naive: bool
) -> None:
    first, second = Folds(0), Folds(1)
    refused, another = first.refuse(0, 7), second.refuse(1, 3)
    async with asking(tmp_path, monkeypatch, first, second) as (asked, keeper, _):
        keeper.fails = {0}
        if naive:
            monkeypatch.setattr(asked, "_failed", ends_the_look)
            with pytest.raises(Pushback):
                await asked.look()
            assert keeper.taken() == [], "naive: whoever comes after it is never asked"
            return
        with capture_logs() as logs:
            await asked.look()
            await asked.look()
        assert keeper.taken() == [another]
        assert [log["event"] for log in logs] == ["quarantine.unkept"], "named once"
        keeper.fails = set()
        await asked.look()
        assert keeper.taken() == [refused]


async def test_what_another_log_refused_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folds = Folds(0)
    folds.refuse(0, 7)
    async with asking(tmp_path, monkeypatch, folds) as (asked, keeper, _):
        runtime: Any = asked._process.runtime
        runtime.identity.log_id = b"x" * 32
        await asked.look()
        assert keeper.taken() == []


async def test_only_coordinators_ask_and_only_for_what_can_be(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    service = QuarantinedService(LOG, Folds(0))  # type: ignore[arg-type]
    request = quarantined_pb2.ListQuarantinedRequest()
    for role in set(Role) - {Role.COORDINATOR}:
        caller = Caller(role, "x", b"")
        monkeypatch.setattr(quarantined, "current_caller", lambda caller=caller: caller)
        with pytest.raises(NotPermitted):
            await service.ListQuarantined(request, None)
    coordinator = Caller(Role.COORDINATOR, "metering", b"")
    monkeypatch.setattr(quarantined, "current_caller", lambda: coordinator)
    for last in (
        quarantined_pb2.QuarantinedEntry(offset=-1),
        quarantined_pb2.QuarantinedEntry(entry=-1),
    ):
        with pytest.raises(Invalid):
            await service.ListQuarantined(quarantined_pb2.ListQuarantinedRequest(last=[last]), None)
    last = quarantined_pb2.QuarantinedEntry(since_ms=1_000, offset=2**63 - 1, entry=2**31 - 1)
    said = await service.ListQuarantined(quarantined_pb2.ListQuarantinedRequest(last=[last]), None)
    assert list(said.entries) == []
