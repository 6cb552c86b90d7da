"""A log's decisions are judged by the version of the policy that was adopted by then."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from domains.consumers.decider import CONSUMERS
from domains.governance.decider import GOVERNANCE
from spine import trust
from spine.policy_data import POLICY_HASHES
from spine.replay import StoredFold
from spine.view import PartitionView
from tests.core.test_in_force import OBJECTS, Log
from tests.helpers.judging import judge
from tests.helpers.records import (
    CODEC,
    LOG_ID,
    METER,
    PARTITIONS,
    TOOLS,
    MemoryLog,
)


class InMemory:
    """What of a runtime the judge needs, over one partition in memory."""

    partitions = PARTITIONS

    def __init__(self, log: Log) -> None:
        self.log = log

    def reader(self) -> MemoryLog:
        return MemoryLog(*self.log.log.records)

    def stored_fold(self, path: Path, topic: str, partition: int) -> StoredFold:
        place = (path / f"{topic}-{partition}", topic, partition, LOG_ID)
        return StoredFold(*place, TOOLS, CONSUMERS, GOVERNANCE, CODEC.schemas.set_hash)


@pytest.fixture
def objected() -> Any:
    """A supplier settles under version 1, under 2, and once its occupier objected to it."""
    log = Log()
    settles = replace(log.settles().request, meters=(METER,))
    log.read(settles)
    log.adopt(2)
    log.read(settles)
    log.say(*log.decide(OBJECTS))
    log.read(settles)
    return InMemory(log)


def test_a_log_that_went_over_is_judged_by_each_version_in_its_time(objected: Any) -> None:
    assert judge(objected) == (3, [])


def test_a_calculator_that_is_not_told_of_the_adoption_would_disagree(objected: Any) -> None:
    count, disagreed = judge(objected, {"PolicyVersionAdopted"})
    assert (count, len(disagreed)) == (3, 1)


def test_a_fold_that_stays_with_the_first_version_is_found(
    objected: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says itself that it went by 1, and by 1 it decided rightly."""
    honest = PartitionView.standing

    def stays(view: PartitionView, subject: str) -> trust.Standing:
        found = honest(view, subject)
        first = trust.Policy(1, POLICY_HASHES[1])
        return replace(found, policy=first) if subject == trust.POLICY_SUBJECT else found

    monkeypatch.setattr(PartitionView, "standing", stays)
    count, disagreed = judge(objected)
    assert (count, len(disagreed)) == (3, 1)
    assert "policy_version=1" in disagreed[0]
