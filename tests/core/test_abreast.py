"""Reads that share a record are answered side by side, each as if it were the only one."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from spine import trust
from spine.access import AccessLog, Ruling
from spine.answer import Release
from spine.beside import Beside
from spine.company import Company
from spine.dsi import abreast
from spine.dsi.abreast import made_beside
from spine.dsi.answering import Answer, Sources, answers
from spine.dsi.reads import Judged, Reads
from spine.errors import Pushback, Reason
from spine.event import DataPosition
from spine.gb import Interval, half_hour_of
from spine.policy import Permit, Refuse
from spine.rows import Decided
from tests.core.test_days_at_once import WHOLE_DAYS, WITHDRAWN
from tests.core.test_side_by_side import METERS, town_of
from tests.helpers.access import access_request

WEEK = Interval(datetime(2025, 3, 29, tzinfo=UTC), datetime(2025, 4, 2, tzinfo=UTC))
STORE = town_of(
    [[WHOLE_DAYS], [WHOLE_DAYS, WITHDRAWN], [], [WHOLE_DAYS]], half_hour_of(WEEK.start) // 48
)
SOURCES = Sources({trust.READINGS_TOPIC: STORE}, {trust.READINGS_TOPIC: 99})
VECTOR = (DataPosition(trust.READINGS_TOPIC, 0, 99),)
NEVER = float("inf")


def decided(place: int, **other: Any) -> Decided:
    """A permitted request of one record for the week of a meter, but for what is said."""
    request = replace(
        access_request(WEEK), request_id=bytes([place]) * 16, meters=(METERS[place],), **other
    )
    asked = Interval(request.interval_from, request.interval_to)
    return Decided(place, request, METERS[place], Permit((asked,)), 1_750_000_000_000, 2)


def beside_of(all_of: Sequence[Decided]) -> Beside:
    beside = Beside()
    for one in all_of:
        beside.add((one,))
    return beside


def same(made: Answer, alone: Answer) -> bool:
    return (made.rows, made.digest, made.absent, list(made.half_hours)) == (
        alone.rows,
        alone.digest,
        alone.absent,
        list(alone.half_hours),
    )


def test_each_gets_the_answer_that_it_gets_alone_and_the_rows_are_looked_for_once() -> None:
    record = [decided(place) for place in range(len(METERS))]
    beside, looks = beside_of(record), list[Sources]()

    def sources() -> Sources:
        looks.append(SOURCES)
        return SOURCES

    for one in reversed(record):
        assert same(made_beside(one, beside, sources), answers([one], SOURCES)[0])
    assert len(looks) == 1
    assert not beside.decided and not beside.answers, "nothing is kept of what was handed out"


@pytest.mark.parametrize(
    "other",
    [
        {"vector": 1},
        {"category": "EXPORT"},
        {"measurement_quantity": "AE"},
        {"interval_from": WEEK.start.replace(day=30)},
        {"interval_to": WEEK.end.replace(day=1)},
    ],
)
def test_what_is_asked_otherwise_is_answered_by_itself(other: dict[str, Any]) -> None:
    first, odd = decided(0), decided(1, **other)
    beside = beside_of([first, odd])
    made_beside(first, beside, lambda: SOURCES)
    assert not beside.answers
    assert same(made_beside(odd, beside, lambda: SOURCES), answers([odd], SOURCES)[0])


def test_nothing_is_made_for_who_went_away() -> None:
    first, gone, left = record = [decided(place) for place in range(3)]
    beside = beside_of(record)
    beside.leave_out(gone.request.request_id)
    made_beside(first, beside, lambda: SOURCES)
    assert list(beside.answers) == [left.request.request_id]
    beside.leave_out(left.request.request_id)
    assert not beside.decided and not beside.answers


def test_no_more_are_made_at_once_than_may_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    record = [decided(place) for place in range(len(METERS))]
    for name, most, ready in (("MOST_AT_ONCE", 3, 2), ("HALF_HOURS_AT_ONCE", 2 * 192 + 1, 1)):
        with monkeypatch.context() as patch:
            patch.setattr(abreast, name, most)
            beside = beside_of(record)
            made_beside(record[0], beside, lambda: SOURCES)
            assert len(beside.answers) == ready
    monkeypatch.setattr(abreast, "HALF_HOURS_AT_ONCE", 1)
    assert same(
        made_beside(record[0], beside_of(record), lambda: SOURCES), answers(record[:1], SOURCES)[0]
    )


class Damaged:
    """Rows of which those of one meter cannot be read."""

    def __init__(self, mpxn: str) -> None:
        self._mpxn = mpxn.encode()

    def scan(self, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        if self._mpxn in start:
            raise Pushback(Reason.DATA_BEHIND, "not there")
        return STORE.scan(start, end)

    def scan_each(self, ranges: Sequence[tuple[bytes, bytes]]) -> list[list[tuple[bytes, bytes]]]:
        return [list(self.scan(*each)) for each in ranges]


def test_who_cannot_be_answered_fails_alone() -> None:
    record = [decided(place) for place in range(len(METERS))]
    rows: Any = Damaged(METERS[1])
    beside, sources = beside_of(record), Sources({trust.READINGS_TOPIC: rows}, SOURCES.below)
    for place in (0, 2, 1, 3):
        if place == 1:
            with pytest.raises(Pushback):
                made_beside(record[1], beside, lambda: sources)
        else:
            made = made_beside(record[place], beside, lambda: sources)
            assert same(made, answers([record[place]], SOURCES)[0])


def test_only_what_is_permitted_of_one_meters_half_hours_is_among_them() -> None:
    beside, permitted = Beside(), decided(0)
    beside.add((replace(permitted, decision=Refuse(Reason.NO_CONSENT)),))
    beside.add((permitted, decided(1)))
    beside.add((decided(2, measurement_quantity=""),))
    assert not beside.decided


class Outcomes:
    """Keeps what became of reads."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def add(self, partition: int, outcomes: Sequence[Any], rests_on: Any) -> None:
        self.told += outcomes


def reads_of(outcomes: Any) -> Reads:
    data: Any = SimpleNamespace(sources=lambda vector: SOURCES, folded=lambda vector: {})
    reader: Any = None
    return Reads({}, outcomes, data, reader, bytes(32), (1, 1))


def judged(one: Decided, beside: Beside, expires_at: float) -> Judged:
    return Judged(Ruling(one.request, 0, 7, (one,), VECTOR, expires_at, beside), one)


def test_an_answer_that_another_had_made_leaves_no_later_than_its_permit() -> None:
    first, second = decided(0), decided(1)
    beside, outcomes = beside_of([first, second]), Outcomes()
    reads = reads_of(outcomes)
    reads.answer(judged(first, beside, NEVER))
    assert second.request.request_id in beside.answers
    with pytest.raises(Pushback) as late:
        reads.answer(judged(second, beside, 0.0))
    assert late.value.reason is Reason.PERMIT_EXPIRED
    (told,) = outcomes.told
    assert (told.request_id, told.release) == (second.request.request_id, Release.NOT_RELEASED)
    assert (told.release_reason, told.rows) == (Reason.PERMIT_EXPIRED, 0)


async def test_whom_nobody_waits_for_is_no_company_and_its_outcome_is_its_own() -> None:
    record = [decided(0), decided(1), decided(2)]
    record[2] = replace(record[2], decision=Refuse(Reason.NO_CONSENT))
    live: Any = SimpleNamespace(listeners=[], stored=SimpleNamespace(partition=0))
    reached = asyncio.Event()

    async def passed(offset: int, timeout_s: float) -> None:
        await reached.wait()

    async def write(*_: Any, **__: Any) -> Any:
        return SimpleNamespace(offset=7)

    live.passed = passed
    writer: Any = SimpleNamespace(
        codec=SimpleNamespace(encode_entry=lambda entry: entry.request_id), write=write
    )
    log = AccessLog(live, writer, "dsi", 2.0, company=Company(lambda: 0.0))
    unclaimed: list[tuple[Ruling, Reason]] = []
    log.on_unclaimed = lambda ruling, why: unclaimed.append((ruling, why))
    asked = [asyncio.create_task(log.decide(one.request, VECTOR)) for one in record]
    async with asyncio.timeout(10):
        while len(log._wanted) < len(record):
            await asyncio.sleep(0.01)
    asked[1].cancel()
    await asyncio.sleep(0)
    for one in record:
        log._wanted[one.request.request_id].decided[7] = (one,)
    reached.set()
    first, cancelled, refused = await asyncio.gather(*asked, return_exceptions=True)
    assert isinstance(first, Ruling) and isinstance(refused, Ruling)
    assert isinstance(cancelled, asyncio.CancelledError)
    assert first.beside is not None and first.beside is refused.beside
    assert [*first.beside.decided] == [record[0].request.request_id]
    assert [(ruling.decided, why) for ruling, why in unclaimed] == [
        ((record[1],), Reason.CLIENT_GONE)
    ]
