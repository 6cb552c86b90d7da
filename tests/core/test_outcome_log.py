"""Outcomes of a stream come one by one, and share records all the same."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import pytest

from spine import access, trust
from spine.access import MAX_REQUESTS_PER_RECORD, OutcomeLog
from spine.company import until_next
from spine.event import AccessOutcome
from tests.core.test_audit import lived
from tests.core.test_reducers import Written, outcome_of

RESTS_ON = {trust.CONSUMER_LOG: (1, 1)}
HONEST = outcome_of(lived())


def numbered(number: int) -> AccessOutcome:
    return replace(HONEST, request_id=number.to_bytes(2))


async def records_of_a_stream(monkeypatch: pytest.MonkeyPatch, wait_s: float) -> list[int]:
    """How many outcomes stand in each record, if ten come one after the other."""
    monkeypatch.setattr(access, "OUTCOMES_APART_S", wait_s)
    writer = Written()
    log = OutcomeLog(writer, "dsi-1")  # type: ignore[arg-type]
    await asyncio.sleep(until_next(wait_s, time.monotonic()))
    for number in range(10):
        log.add(0, [numbered(number)], RESTS_ON)
        for _ in range(5):
            await asyncio.sleep(0)
    await log.flush()
    assert [one for ids, _ in writer.records for one in ids] == [
        numbered(number).request_id for number in range(10)
    ]
    return [len(ids) for ids, _ in writer.records]


async def test_what_comes_soon_after_shares_the_record(monkeypatch: pytest.MonkeyPatch) -> None:
    assert await records_of_a_stream(monkeypatch, 0.5) == [10]
    naive = await records_of_a_stream(monkeypatch, 0.0)
    assert len(naive) == 10, "at once, each is signed and sent alone"


async def test_a_full_record_waits_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "OUTCOMES_APART_S", 600.0)
    writer = Written()
    log = OutcomeLog(writer, "dsi-1")  # type: ignore[arg-type]
    log.add(0, [numbered(number) for number in range(MAX_REQUESTS_PER_RECORD)], RESTS_ON)
    await log.flush()
    assert [len(ids) for ids, _ in writer.records] == [MAX_REQUESTS_PER_RECORD]
