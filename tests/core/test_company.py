"""Requests that come one by one share records while their server is busy; else none waits."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from spine.access import MAX_REQUESTS_PER_RECORD, AccessLog
from spine.company import (
    APART_S,
    BUSY,
    LOOK_EVERY_S,
    WAIT_LEAST_S,
    WAIT_MOST_S,
    WORKING,
    Company,
)
from spine.console import processes
from spine.dsi.reads import Query
from spine.dsi.stream import ReadingsStream
from spine.errors import Pushback, Reason
from spine.event import AccessRequest, AccessRequests
from spine.gb import Interval
from spine.watched_loop import WatchedLoop

START = datetime(2026, 3, 1, tzinfo=UTC)
ENOUGH_S = 0.3
FOR_EVER_S = 3_600.0


class Writer:
    """Takes every record at once and keeps it."""

    codec = SimpleNamespace(encode_entry=lambda entry: entry.request_id)

    def __init__(self) -> None:
        self.records: list[AccessRequests] = []

    async def write(self, _: Any, topic: str, partition: int, value: Any, headers: Any) -> Any:
        self.records.append(value)
        await asyncio.sleep(0)
        return SimpleNamespace(offset=len(self.records) - 1)


class Live:
    """A fold that reaches nothing until it is told to, and then decides nothing."""

    def __init__(self) -> None:
        self.listeners: list[Any] = []
        self.stored = SimpleNamespace(partition=0)
        self.reached = asyncio.Event()

    async def passed(self, offset: int, timeout_s: float) -> None:
        await self.reached.wait()


def request(number: int) -> AccessRequest:
    return AccessRequest(
        number.to_bytes(16),
        "ACME",
        "data_user",
        bytes(32),
        "",
        "GetReadings",
        "ENERGY_ADVICE",
        "CONSENT",
        "HH_CONSUMPTION",
        "AI",
        "",
        ("1200000000003",),
        START,
        START + timedelta(days=7),
        None,
        None,
        0,
    )


class Busy(Company):
    """One that always has every record wait that long."""

    def __init__(self, wait_s: float) -> None:
        super().__init__(lambda: 0.0)
        self._wait_s = wait_s

    def wait_s(self) -> float:
        return self._wait_s


def log_of(live: Any, writer: Any, company: Company) -> AccessLog:
    return AccessLog(live, writer, "dsi", 2.0, company=company)


async def records_of(requests: int, company: Company) -> list[list[int]]:
    """What stood together in a record, where a request comes at each turn of the loop."""
    live: Any = Live()
    writer: Any = Writer()
    log = log_of(live, writer, company)

    async def ask(number: int) -> None:
        with contextlib.suppress(Pushback):
            await log.decide(request(number), ())

    asked = []
    for number in range(requests):
        asked.append(asyncio.create_task(ask(number)))
        await asyncio.sleep(0)
    while sum(len(record.entries) for record in writer.records) < requests:
        await asyncio.sleep(0.01)
    live.reached.set()
    await asyncio.gather(*asked)
    return [
        [int.from_bytes(entry.request_id) for entry in record.entries] for record in writer.records
    ]


async def test_requests_at_a_busy_server_share_a_record_and_without_company_hardly_any_do() -> None:
    together = await records_of(40, Busy(ENOUGH_S))
    assert [n for record in together for n in record] == list(range(40))
    assert len(together) <= 2
    apart = await records_of(40, Busy(0))
    assert [n for record in apart for n in record] == list(range(40))
    assert len(apart) >= 20


async def test_a_record_that_is_full_waits_for_nobody() -> None:
    live: Any = Live()
    writer: Any = Writer()
    log = log_of(live, writer, Busy(FOR_EVER_S))
    asked = []
    for number in range(MAX_REQUESTS_PER_RECORD):
        assert not writer.records
        asked.append(asyncio.create_task(log.decide(request(number), ())))
        await asyncio.sleep(0)
    async with asyncio.timeout(10):
        while not writer.records:
            await asyncio.sleep(0.01)
    assert len(writer.records[0].entries) == MAX_REQUESTS_PER_RECORD
    live.reached.set()
    await asyncio.gather(*asked, return_exceptions=True)


async def test_what_a_full_record_leaves_over_waits_for_nobody_either() -> None:
    live: Any = Live()
    writer: Any = Writer()
    log = log_of(live, writer, Busy(FOR_EVER_S))
    count = 2 * MAX_REQUESTS_PER_RECORD + 1
    asked = [asyncio.create_task(log.decide(request(n), ())) for n in range(count)]
    async with asyncio.timeout(10):
        while sum(len(record.entries) for record in writer.records) < count:
            await asyncio.sleep(0.01)
    assert len(writer.records) == 3
    live.reached.set()
    await asyncio.gather(*asked, return_exceptions=True)


async def test_every_request_of_a_stream_is_in_a_hurry() -> None:
    asked: list[bool] = []

    class Reads:
        def partition_of(self, _: str) -> int:
            return 0

        def request(self, *_: Any) -> AccessRequest:
            return request(0)

        async def decide(self, *_: Any, at_once: bool = False) -> tuple[Any, ...]:
            asked.append(at_once)
            raise Pushback(Reason.FOLD_BEHIND, "enough")

    caller: Any = None
    day = Interval(START, START + timedelta(days=1))
    query = Query(caller, "StreamReadings", "ENERGY_ADVICE", "CONSENT", "HH_CONSUMPTION", day)
    reads: Any = Reads()
    nobody: Any = SimpleNamespace(add=lambda _: None, remove=lambda _: None)
    stream = ReadingsStream(reads, nobody, query, ["1200000000003"], ())
    with pytest.raises(Pushback):
        async for _ in stream._send(day, ["1200000000003"], (), complete=True):
            pass
    assert asked == [True]


async def test_one_in_a_hurry_waits_for_nobody_and_takes_along_who_does() -> None:
    live: Any = Live()
    writer: Any = Writer()
    log = log_of(live, writer, Busy(FOR_EVER_S))
    patient = asyncio.create_task(log.decide(request(0), ()))
    await asyncio.sleep(0.05)
    assert not writer.records
    hurried = asyncio.create_task(log.decide(request(1), (), at_once=True))
    async with asyncio.timeout(10):
        while not writer.records:
            await asyncio.sleep(0.01)
    assert [len(record.entries) for record in writer.records] == [2]
    later = asyncio.create_task(log.decide(request(2), ()))
    await asyncio.sleep(0.05)
    assert len(writer.records) == 1
    later.cancel()
    live.reached.set()
    await asyncio.gather(patient, hurried, later, return_exceptions=True)


async def test_a_caller_that_goes_away_meanwhile_leaves_no_empty_record() -> None:
    live: Any = Live()
    writer: Any = Writer()
    log = log_of(live, writer, Busy(0.05))
    asked = asyncio.create_task(log.decide(request(0), ()))
    await asyncio.sleep(0)
    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)
    await asyncio.sleep(0.2)
    assert writer.records == []


@dataclass
class Loop:
    """A clock, and for how much of it a loop had nothing to do."""

    now: float = 0.0
    idle: float = 0.0

    def after(self, seconds: float, busy: float) -> None:
        self.now += seconds
        self.idle += seconds * (1 - busy)


def company_of(loop: Loop, under_way: int) -> Company:
    """Company at a server that answers so many reads, which are told at once what it is."""
    company = Company(lambda: loop.idle, lambda: loop.now)
    company.under_way = under_way
    return company


def waits(company: Company, loop: Loop, busy: float, looks: int) -> list[float]:
    told = []
    for _ in range(looks):
        loop.after(LOOK_EVERY_S * 1.1, busy)
        told.append(company.wait_s())
    return told


def test_the_longer_a_server_is_busy_the_longer_its_records_wait_up_to_the_most() -> None:
    loop = Loop()
    company = company_of(loop, 1)
    assert company.wait_s() == 0
    up = waits(company, loop, BUSY + 0.02, 12)
    assert up[0] == WAIT_LEAST_S and up == sorted(up) and up[-1] == WAIT_MOST_S
    down = waits(company, loop, 0.6, 20)
    assert down == sorted(down, reverse=True) and down[-1] == 0


def test_while_there_is_work_records_of_all_partitions_leave_together_and_soon() -> None:
    for busy in (WORKING + 0.05, BUSY - 0.05):
        loop = Loop()
        company = company_of(loop, 2)
        assert company.wait_s() == 0
        told = waits(company, loop, busy, 50)
        assert all(0 < wait_s <= APART_S for wait_s in told) and max(told) > APART_S / 2
        leaving = set[float]()
        for _ in range(10):  # whoever asks meanwhile, for whatever partition, leaves then, too
            leaving.add(round(loop.now + company.wait_s(), 6))
            loop.after(APART_S / 40, busy)
        assert len(leaving) <= 2


def test_a_server_that_is_not_busy_has_nobody_wait_whoever_calls() -> None:
    loop = Loop()
    assert waits(company_of(loop, 100), loop, WORKING - 0.05, 50) == [0] * 50


def test_a_read_that_is_alone_waits_for_nobody_while_there_is_any_time_without_work() -> None:
    loop = Loop()
    assert waits(company_of(loop, 1), loop, BUSY - 0.05, 50) == [0] * 50


async def test_a_read_is_under_way_until_it_is_decided_or_its_caller_has_gone() -> None:
    live: Any = Live()
    writer: Any = Writer()
    company = Busy(0)
    log = log_of(live, writer, company)
    asked = [asyncio.create_task(log.decide(request(n), ())) for n in range(3)]
    await asyncio.sleep(0)
    assert company.under_way == 3
    asked[0].cancel()
    await asyncio.sleep(0.01)
    assert company.under_way == 2
    live.reached.set()
    await asyncio.gather(*asked, return_exceptions=True)
    assert company.under_way == 0


def test_what_was_busy_for_less_than_a_look_changes_nothing() -> None:
    loop = Loop()
    company = company_of(loop, 100)
    loop.after(LOOK_EVERY_S / 2, 1.0)
    assert company.wait_s() == 0
    loop.after(60.0, 0.1)  # nobody asked meanwhile
    assert company.wait_s() == 0


def test_after_a_pause_nobody_waits_for_what_was() -> None:
    loop = Loop()
    company = company_of(loop, 100)
    assert waits(company, loop, 0.97, 12)[-1] == WAIT_MOST_S
    loop.after(5.0, 0.0)
    assert company.wait_s() == 0


def test_a_loop_that_is_kept_from_its_work_is_busy_which_the_time_of_its_thread_does_not_show() -> (
    None
):
    async def kept() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, WatchedLoop)
        await asyncio.sleep(0.2)
        idle = loop.idle_s
        assert idle > 0.1
        used, started = time.thread_time(), time.monotonic()
        time.sleep(0.2)  # as if another process had the core
        await asyncio.sleep(0)
        passed = time.monotonic() - started
        assert loop.idle_s == idle
        assert (time.thread_time() - used) / passed < BUSY, "by the core it seemed to be idle"

    with asyncio.Runner(loop_factory=WatchedLoop) as runner:
        runner.run(kept())


def test_nobody_waits_in_a_loop_that_is_not_watched_and_company_is_of_the_one_it_is_made_in() -> (
    None
):
    async def busy_for_long() -> float:
        company = Company.of_running_loop()
        company.under_way = 2
        for _ in range(3):
            time.sleep(LOOK_EVERY_S * 1.1)
            told = company.wait_s()
        return told

    with asyncio.Runner(loop_factory=WatchedLoop) as runner:
        assert runner.run(busy_for_long()) > 0
    with asyncio.Runner() as runner:
        assert runner.run(busy_for_long()) == 0


def test_every_process_of_the_spine_runs_in_a_watched_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[asyncio.AbstractEventLoop] = []

    async def start(_: Any) -> Any:
        seen.append(asyncio.get_running_loop())
        return SimpleNamespace(until_signalled=lambda: asyncio.sleep(0))

    nothing = SimpleNamespace(log_level="WARNING", telemetry=False, otlp_endpoint=None)
    monkeypatch.setattr(processes, "settings", lambda: nothing)
    monkeypatch.setattr(processes, "runtime", lambda patient: None)
    for setting_up in ("set_up_logging", "set_up_telemetry", "collect_less_often"):
        monkeypatch.setattr(processes, setting_up, lambda *_: None)
    processes.run_process("dsi", start)
    assert isinstance(seen[0], WatchedLoop)


async def test_a_caller_that_goes_away_as_it_is_decided_leaves_no_permit_without_an_outcome() -> (
    None
):
    live: Any = Live()
    writer: Any = Writer()
    log = log_of(live, writer, Busy(FOR_EVER_S))
    unclaimed: list[tuple[Any, Reason]] = []
    log.on_unclaimed = lambda ruling, why: unclaimed.append((ruling, why))
    asked = asyncio.create_task(log.decide(request(0), ()))
    await asyncio.sleep(0)
    ruling: Any = object()
    log._queue[0].ruling.set_result(ruling)
    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)
    assert unclaimed == [(ruling, Reason.CLIENT_GONE)]
