"""The index of who read what follows slowly, faster where it is far behind, and tells how far."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from spine import telemetry
from spine.services import reads
from spine.services.reads import RECORDS_IN_PASSING, RECORDS_IN_PASSING_MAX, ReadsService


class Log:
    """Partitions of which so many records are left, taken in as a register takes them."""

    def __init__(self, left: list[int]) -> None:
        self.left, self.broken = left, set[int]()
        self.taken = list[tuple[int, int]]()

    def catch_up(self, partition: int, reader: object, at_most: int) -> int:
        self.taken.append((partition, at_most))
        if partition in self.broken:
            raise OSError("no room for it")
        self.left[partition] = max(0, self.left[partition] - at_most)
        return self.left[partition]

    def behind(self, partition: int, reader: object) -> int:
        return self.left[partition]

    async def run(self, work: Callable[[Any], int]) -> int:
        return work(self)

    def service(self) -> ReadsService:
        given: Any = self
        nothing: Any = None
        return ReadsService(
            given, given, nothing, nothing, b"", partitions=len(self.left), sign=nothing
        )


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> dict[int, int]:
    """What the metric says of each partition."""
    said: dict[int, int] = {}

    def kept(value: int, where: dict[str, int]) -> None:
        said[where["partition"]] = value

    monkeypatch.setattr(telemetry, "reads_behind", SimpleNamespace(set=kept))
    return said


async def test_it_takes_little_where_little_is_left_and_a_tenth_where_much_is(
    told: dict[int, int],
) -> None:
    log = Log([0, 1_500, 5_200, 1_000_000])
    service = log.service()
    await service.follow()
    assert log.taken == [(n, RECORDS_IN_PASSING) for n in range(4)], "nobody knows yet how much"
    assert told == {0: 0, 1: 1_300, 2: 5_000, 3: 999_800}
    log.taken.clear()
    await service.follow()
    assert log.taken == [(0, 200), (1, 200), (2, 500), (3, RECORDS_IN_PASSING_MAX)]
    assert told == {0: 0, 1: 1_100, 2: 4_500, 3: 998_800}


async def test_a_partition_that_cannot_be_read_holds_up_no_other_and_is_told_of(
    told: dict[int, int],
) -> None:
    log = Log([700_000, 1_500])
    log.broken = {0}
    await log.service().follow()
    assert log.taken == [(0, RECORDS_IN_PASSING), (1, RECORDS_IN_PASSING)]
    assert told == {0: 700_000, 1: 1_300}


async def test_who_asks_has_it_level_and_the_metric_says_so(
    told: dict[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Log([0, 5_000])
    monkeypatch.setattr(ReadsService, "_as_of", lambda self, partition: [])
    await log.service()._level(1, SimpleNamespace(), SimpleNamespace(time_remaining=lambda: 60.0))
    assert log.taken == [(1, reads.RECORDS_A_TURN)] * 3
    assert told == {1: 0}
