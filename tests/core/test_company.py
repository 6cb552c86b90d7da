"""Requests that come one by one share records while many are under way; few wait for nobody."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

from spine.access import MAX_REQUESTS_PER_RECORD, AccessLog, Company
from spine.errors import Pushback
from spine.event import AccessRequest, AccessRequests

START = datetime(2026, 3, 1, tzinfo=UTC)
FEW = 7
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


def company(few: int, wait_s: float) -> Company:
    """One that waits that long as soon as there are more than the few."""
    return Company(few, wait_s, wait_s)


async def records_of(requests: int, company: Company) -> list[list[int]]:
    """What stood together in a record, where a request comes at each turn of the loop."""
    live: Any = Live()
    writer: Any = Writer()
    log = AccessLog(live, writer, "dsi", 2.0, company=company)

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


async def test_many_under_way_share_a_record_and_without_company_hardly_any_do() -> None:
    together = await records_of(40, company(FEW, ENOUGH_S))
    assert [n for record in together for n in record] == list(range(40))
    assert len(together) <= FEW + 3
    apart = await records_of(40, company(1_000, ENOUGH_S))
    assert [n for record in apart for n in record] == list(range(40))
    assert len(apart) >= 20


async def test_few_under_way_wait_for_nobody() -> None:
    async with asyncio.timeout(10):
        assert len(await records_of(FEW, company(FEW, FOR_EVER_S))) >= 3


async def test_a_record_that_is_full_waits_for_nobody() -> None:
    live: Any = Live()
    writer: Any = Writer()
    log = AccessLog(live, writer, "dsi", 2.0, company=company(0, FOR_EVER_S))
    asked = [
        asyncio.create_task(log.decide(request(number), ()))
        for number in range(MAX_REQUESTS_PER_RECORD)
    ]
    async with asyncio.timeout(10):
        while not writer.records:
            await asyncio.sleep(0.01)
    assert len(writer.records[0].entries) == MAX_REQUESTS_PER_RECORD
    live.reached.set()
    await asyncio.gather(*asked, return_exceptions=True)


async def test_a_caller_that_goes_away_meanwhile_leaves_no_empty_record() -> None:
    live: Any = Live()
    writer: Any = Writer()
    log = AccessLog(live, writer, "dsi", 2.0, company=company(0, 0.05))
    asked = asyncio.create_task(log.decide(request(0), ()))
    await asyncio.sleep(0)
    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)
    await asyncio.sleep(0.2)
    assert writer.records == []


def test_the_more_are_under_way_the_longer_a_record_waits_up_to_the_most() -> None:
    waits = [Company(few=5, each_s=0.5, most_s=2.0, under_way=n).wait_s for n in range(12)]
    assert waits == [0, 0, 0, 0, 0, 0, 0.5, 1, 1.5, 2, 2, 2]


async def test_calls_of_all_partitions_count_and_count_no_more_when_they_are_answered() -> None:
    shared = company(0, FOR_EVER_S)
    lives: list[Any] = [Live(), Live()]
    writers: list[Any] = [Writer(), Writer()]
    logs = [
        AccessLog(live, writer, "dsi", 2.0, company=shared)
        for live, writer in zip(lives, writers, strict=True)
    ]
    asked = [asyncio.create_task(log.decide(request(n), ())) for n, log in enumerate(logs)]
    await asyncio.sleep(0)
    assert shared.under_way == 2
    for task in asked:
        task.cancel()
    await asyncio.gather(*asked, return_exceptions=True)
    assert shared.under_way == 0
