"""Where a call goes: to the data, then to the latest claim, and nowhere if nobody does better."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from spine import trust
from spine.dsi.forwarding import DSI, STREAMED, Answered
from spine.dsi.routing import RoutedDsi, Routes, _in_turn, _together
from spine.errors import NotPermitted, Pushback, Reason
from spine.murmur2 import murmur2_partition

MPAN = "1600000000020"
HERE = murmur2_partition(MPAN.encode(), 4)
FOLD = (trust.CONSUMER_LOG, HERE)
DATA = (trust.READINGS_TOPIC, HERE)
Claims = Mapping[tuple[str, int], int]


def routes(own: Claims, **others: Claims) -> Routes:
    peers = [SimpleNamespace(name=name, claims=claims) for name, claims in others.items()]
    members: Any = SimpleNamespace(peers=peers)
    return Routes(members, lambda: own, 4)


def owner(own: Claims, **others: Claims) -> str:
    found = routes(own, **others).owner(MPAN)
    return "" if found is None else found.name


@pytest.mark.parametrize(
    ("own", "others", "goes_to"),
    [
        ({}, {}, ""),
        ({}, {"b": {}}, ""),
        ({}, {"b": {FOLD: 5}}, "b"),
        ({FOLD: 5}, {"b": {}}, ""),
        ({FOLD: 5}, {"b": {FOLD: 6}}, "b"),
        ({FOLD: 6}, {"b": {FOLD: 5}}, ""),
        ({FOLD: 5}, {"b": {FOLD: 5}}, ""),
        ({}, {"b": {FOLD: 5}, "c": {FOLD: 6}}, "c"),
        ({FOLD: 9}, {"b": {DATA: 1}}, "b"),
        ({FOLD: 5, DATA: 1}, {"b": {FOLD: 9}}, ""),
        ({FOLD: 5, DATA: 1}, {"b": {FOLD: 9, DATA: 2}}, "b"),
        ({DATA: 1}, {"b": {DATA: 2}}, ""),
        ({}, {"b": {(trust.CONSUMER_LOG, HERE + 1): 5}}, ""),
    ],
)
def test_a_call_goes_where_its_data_is_and_then_to_the_latest_claim(
    own: Claims, others: dict[str, Claims], goes_to: str
) -> None:
    assert owner(own, **others) == goes_to


def test_what_is_no_meter_is_answered_here() -> None:
    assert routes({}, b={FOLD: 5}).owner("no meter") is None


def test_every_method_is_routed_and_none_is_forgotten() -> None:
    assert set(DSI.methods_by_name) <= vars(RoutedDsi).keys()
    streamed = {name for name, method in DSI.methods_by_name.items() if method.server_streaming}
    assert streamed == STREAMED


# Streams of several servers


async def part(*chunks: Any) -> AsyncGenerator[Answered, None]:
    for chunk in chunks:
        if isinstance(chunk, Exception):
            raise chunk
        await asyncio.sleep(0)
        yield Answered(chunk, None)


def cut() -> NotPermitted:
    return NotPermitted(Reason.CONSENT_REVOKED, "no metering point of the stream is left")


@pytest.mark.parametrize("merge", [_in_turn, _together])
async def test_a_stream_is_refused_only_when_every_part_of_it_is(merge: Any) -> None:
    sent = [a.message async for a in merge([part(1, 2, cut()), part(3)])]
    assert sorted(sent) == [1, 2, 3]
    sent = []
    with pytest.raises(NotPermitted):
        async for answered in merge([part(1, cut()), part(3, cut())]):
            sent.append(answered.message)
    assert sorted(sent) == [1, 3]


@pytest.mark.parametrize("merge", [_in_turn, _together])
async def test_any_other_failure_of_a_part_ends_the_stream(merge: Any) -> None:
    with pytest.raises(Pushback):
        async for _ in merge([part(1, Pushback(Reason.STARTING, "gone")), part(2, 3)]):
            pass


async def test_no_part_makes_more_than_one_chunk_that_nobody_has_taken() -> None:
    made: list[int] = []

    async def eager(first: int) -> AsyncGenerator[Answered, None]:
        for number in range(first, first + 5):
            made.append(number)
            yield Answered(number, None)

    merged = _together([eager(0), eager(10)])
    await anext(merged)
    await asyncio.sleep(0.05)
    assert made == [0, 10]
    await merged.aclose()
