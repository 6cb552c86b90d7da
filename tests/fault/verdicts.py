"""Every checker over one run of the race."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

from spine.console import context
from tests.e2e.conftest import Installation, audit
from tests.fault.checkers import (
    commands_out_of_order,
    consent_violations,
    decided_out_of_place,
    held_by,
    lost_or_doubled,
    never_ended,
    unbalanced,
    unbounded,
    unexplained,
)
from tests.fault.digests import applied_places, patiently, same_again
from tests.fault.nemesis import kills
from tests.fault.race import Nemesis, Race
from tests.helpers.judging import judge

WITH_STORES = ("dsi", "consumers", "readings")


def play(race: Race, spine: Installation, folder: Path, *faults: Nemesis) -> None:
    """Play a race with the fence, and assert that nothing at all is wrong afterwards."""
    before = held_by(processes(spine))
    asyncio.run(race.run(*faults))
    after = held_by(processes(spine))
    race.journal.write(folder / "journal.jsonl")
    print(race.told())  # noqa: T201
    assert race.done == race.rounds
    assert consent_violations(race.journal) == []
    assert decided_out_of_place(race.journal) == []
    assert commands_out_of_order(race.journal) == []
    assert never_ended(race.journal) == []
    applied = patiently(lambda: applied_places(context.runtime()))
    assert lost_or_doubled(race.journal, applied) == []
    assert unbounded(before, after) == []
    for name in WITH_STORES:
        assert patiently(partial(same_again, context.runtime(), name)) == []
    code, report = _audited(spine, folder)
    assert code == 0
    assert unbalanced(report) == []
    assert unexplained(report, kills) == []
    _, disagreed = patiently(lambda: judge(context.runtime()))
    assert disagreed == []


def _audited(spine: Installation, folder: Path) -> tuple[int, dict[str, Any]]:
    """The audit, asked again while it finds that the log does not answer: it says so, and ends."""
    for _ in range(4):
        with contextlib.suppress(AssertionError, subprocess.TimeoutExpired):
            return audit(spine, folder)
    return audit(spine, folder)


def processes(spine: Installation) -> dict[str, int]:
    """Every process of the spine, by name."""
    return {name: child.process.pid for name, child in spine.supervisor.children.items()}
