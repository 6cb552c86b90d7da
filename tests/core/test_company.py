"""Requests that come one by one share records while many are under way; few wait for nobody."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

from spine.access import MAX_REQUESTS_PER_RECORD, AccessLog
from spine.errors import Pushback
from spine.event import AccessRequest, AccessRequests

START = datetime(2026, 3, 1, tzinfo=UTC)
MANY = 8
ENOUGH_S = 0.3


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


async def records_of(requests: int, *, many: int, company_s: float) -> list[list[int]]:
    """What stood together in a record, where a request comes at each turn of the loop."""
    live: Any = Live()
    writer: Any = Writer()
    log = AccessLog(live, writer, "dsi", 2.0, many=many, company_s=company_s)

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
    together = await records_of(40, many=MANY, company_s=ENOUGH_S)
    assert [n for record in together for n in record] == list(range(40))
    assert len(together) <= MANY + 2
    apart = await records_of(40, many=1_000, company_s=ENOUGH_S)
    assert [n for record in apart for n in record] == list(range(40))
    assert len(apart) >= 20


async def test_few_under_way_wait_for_nobody() -> None:
    async with asyncio.timeout(10):
        assert len(await records_of(MANY - 1, many=MANY, company_s=3_600)) >= 3


async def test_a_record_that_is_full_waits_for_nobody() -> None:
    live: Any = Live()
    writer: Any = Writer()
    log = AccessLog(live, writer, "dsi", 2.0, many=1, company_s=3_600)
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
    log = AccessLog(live, writer, "dsi", 2.0, many=1, company_s=0.05)
    asked = asyncio.create_task(log.decide(request(0), ()))
    await asyncio.sleep(0)
    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)
    await asyncio.sleep(0.2)
    assert writer.records == []
