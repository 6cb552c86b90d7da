"""A small race on one broker: what `make fault` plays in full on three."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.fault.checkers import consent_violations
from tests.fault.installation import ADVISER, Faulty
from tests.fault.nemesis import (
    broker_frozen,
    broker_killed,
    process_killed,
    restart,
    slow_links,
)
from tests.fault.race import Meter, Race
from tests.fault.verdicts import play

pytestmark = pytest.mark.timeout(300)
ROUNDS = 100
WITHOUT_FENCE = 16
SLOW_S = 0.15
# How late the naive server hears of a revocation: longer than a busy machine takes for a read.
LATE_S = 2.0


def test_no_read_begun_after_an_acknowledged_revocation_returns_data(
    spine: Faulty, meters: list[Meter], tmp_path: Path, seed: int
) -> None:
    (broker,) = spine.cluster.brokers
    race = Race(spine.data_dir, meters, ADVISER, seed, ROUNDS)
    faults = (
        slow_links(spine, SLOW_S),
        broker_frozen(broker, at=0.2, seconds=2.0),
        process_killed(spine, "dsi", at=0.4),
        broker_killed(broker, at=0.7, seconds=1.0),
    )
    play(race, spine, tmp_path, *faults)


def test_the_same_race_without_the_fence_is_lost(
    spine: Faulty, meters: list[Meter], seed: int
) -> None:
    spine.supervisor.extra["dsi"]["SPINE_FENCE"] = "false"
    restart(spine, "dsi")
    try:
        race = Race(spine.data_dir, meters, ADVISER, seed, WITHOUT_FENCE)
        asyncio.run(race.run(slow_links(spine, LATE_S)))
        print(race.told())  # noqa: T201
    finally:
        del spine.supervisor.extra["dsi"]["SPINE_FENCE"]
        restart(spine, "dsi")
    wrong = consent_violations(race.journal)
    print(f"{len(wrong)} reads with data after the revocation")  # noqa: T201
    assert wrong, "the naive read must leak, or the race shows nothing"
