"""Each checker finds what it is there for, and nothing in a journal that is in order."""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.fault.checkers import (
    Resources,
    commands_out_of_order,
    consent_violations,
    decided_out_of_place,
    lost_or_doubled,
    never_ended,
    unbalanced,
    unbounded,
    unexplained,
)
from tests.fault.journal import OK, Journal, Operation, percentile


def operation(
    journal: Journal, kind: str, invoked: int, ended: int, offset: int, consent_id: str = "c"
) -> Operation:
    """One that ended well, at that place of partition 0."""
    about = {"consent_id": consent_id} if kind == "revoke" else {}
    made = Operation(len(journal.operations), kind, "x", about, invoked, ended, OK)
    made.result = {"consent_id": consent_id, "partition": 0, "offset": offset, "entry": 0}
    journal.operations.append(made)
    return made


def in_order() -> Journal:
    """Grant, read, revoke, and a read that began before the revocation was acknowledged."""
    journal = Journal()
    operation(journal, "grant", 0, 10, offset=1)
    operation(journal, "read", 11, 20, offset=2)
    operation(journal, "read", 29, 60, offset=3)
    operation(journal, "revoke", 30, 40, offset=4)
    return journal


def test_a_journal_in_order_has_nothing_against_it() -> None:
    journal = in_order()
    assert consent_violations(journal) == []
    assert decided_out_of_place(journal) == []
    assert commands_out_of_order(journal) == []
    assert never_ended(journal) == []
    assert lost_or_doubled(journal, Counter({(0, 1): 1, (0, 4): 1})) == []


def test_a_read_begun_after_the_acknowledgement_is_a_violation() -> None:
    journal = in_order()
    late = operation(journal, "read", 41, 50, offset=3)
    assert consent_violations(journal) == [late]


def test_a_read_decided_after_the_revocation_or_under_no_consent_is_out_of_place() -> None:
    journal = in_order()
    beyond = operation(journal, "read", 29, 50, offset=5)
    early = operation(journal, "read", 29, 50, offset=0)
    nameless = operation(journal, "read", 29, 50, offset=3, consent_id="")
    assert decided_out_of_place(journal) == [beyond, early, nameless]


def test_commands_that_share_a_place_or_overtake_each_other_are_found() -> None:
    journal = in_order()
    second = operation(journal, "grant", 50, 60, offset=4, consent_id="d")
    assert second in commands_out_of_order(journal)
    journal = in_order()
    overtaken = operation(journal, "grant", 50, 60, offset=2, consent_id="d")
    assert commands_out_of_order(journal) == [overtaken]


def test_a_command_that_a_replay_does_not_apply_once_is_lost_or_doubled() -> None:
    found = lost_or_doubled(in_order(), Counter({(0, 1): 2}))
    assert found == ["grant at 0@1: applied 2 times", "revoke at 0@4: applied 0 times"]


def test_what_never_ended_is_found_and_written_as_such(tmp_path: Path) -> None:
    journal = in_order()
    hanging = journal.invoke("grant", "x")
    assert never_ended(journal) == [hanging]
    journal.write(tmp_path / "journal.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "journal.jsonl").read_text().splitlines()]
    assert [line["event"] for line in lines].count("invoke") == 5
    assert [line["event"] for line in lines].count("ok") == 4
    assert lines == sorted(lines, key=lambda line: line["ns"])


def test_an_uneven_balance_and_an_unexplained_finding_are_found() -> None:
    place: dict[str, Any] = {"topic": "t", "partition": 0, "consumed": 3, "applied": 1}
    place |= dict.fromkeys(("duplicate", "void", "quarantined", "held", "access"), 0)
    assert unbalanced({"partitions": [place]}) == ["t-0"]
    at = datetime(2026, 1, 1, tzinfo=UTC)
    finding = {"place": "p", "at": at.isoformat(), "why": "permitted, no outcome"}
    report = {"findings": [finding | {"verdict": "UNCONFIRMED"}]}
    assert unexplained(report, [at.timestamp() + 3]) == []
    assert unexplained(report, []) == ["UNCONFIRMED p: permitted, no outcome"]
    report = {"findings": [finding | {"verdict": "DIFFERENT"}]}
    assert unexplained(report, [at.timestamp() + 3]) == ["DIFFERENT p: permitted, no outcome"]


def test_a_process_that_keeps_files_or_memory_is_found() -> None:
    before = {"dsi": Resources(1, 100, 150.0)}
    assert unbounded(before, {"dsi": Resources(1, 120, 170.0)}) == []
    assert len(unbounded(before, {"dsi": Resources(1, 300, 500.0)})) == 2
    assert unbounded(before, {"dsi": Resources(2, 300, 500.0)}) == []
    assert len(unbounded(before, {"dsi": Resources(2, 3_000, 5_000.0)})) == 2


def test_percentiles_are_of_the_ordered_values() -> None:
    assert percentile([5.0, 1.0, 3.0], 50) == 3.0
    assert percentile([5.0, 1.0, 3.0], 99) == 5.0
    assert percentile([], 50) != percentile([], 50)
