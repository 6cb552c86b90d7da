"""Every checker over one run, and the control that shows that they find something."""

from __future__ import annotations

from pathlib import Path

from tests.e2e.conftest import Installation, audit
from tests.fault.checkers import (
    commands_out_of_order,
    consent_violations,
    decided_out_of_place,
    never_ended,
    unbalanced,
    unexplained,
)
from tests.fault.race import Race


def nothing_is_wrong(race: Race, spine: Installation, folder: Path, *, killed: bool) -> None:
    """Assert that consent, order, outcomes and the audit hold after a run."""
    race.journal.write(folder / "journal.jsonl")
    assert race.done == race.rounds
    assert consent_violations(race.journal) == []
    assert decided_out_of_place(race.journal) == []
    assert commands_out_of_order(race.journal) == []
    assert never_ended(race.journal) == []
    code, report = audit(spine, folder)
    assert code == 0
    assert unbalanced(report) == []
    assert unexplained(report, killed) == []
