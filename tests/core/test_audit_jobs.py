"""Processes of an audit begin as copies of one that is alone in itself, and anew of any other."""

from __future__ import annotations

import sys
import threading
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer

from spine.audit_report import AuditReport, Line
from spine.console import audits
from spine.console.jobs import start_method
from spine.console.output import EXIT_DIFFERENT, EXIT_NOT_JUDGED
from spine.errors import Invalid, NotFound, Reason, SpineError, Throttled
from spine.reducers import NOT_AT_HAND
from spine.verdict import Verdict


@pytest.mark.parametrize("others", [0, 1])
def test_a_process_with_threads_is_not_copied(others: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy would have their locks, held for ever by nobody."""
    monkeypatch.setattr(threading, "active_count", lambda: 1 + others)
    monkeypatch.setattr(sys, "platform", "linux")
    assert start_method() == ("spawn" if others else "fork")


def test_elsewhere_no_process_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading, "active_count", lambda: 1)
    monkeypatch.setattr(sys, "platform", "darwin")
    assert start_method() == "spawn"


@pytest.mark.parametrize(
    ("verdicts", "code"),
    [
        ([], 0),
        ([(Verdict.CANNOT_TELL, "policy version 9 is not at hand")], 0),
        ([(Verdict.CANNOT_TELL, f"{NOT_AT_HAND} 9 is not at hand")], EXIT_NOT_JUDGED),
        (
            [(Verdict.CANNOT_TELL, f"{NOT_AT_HAND} 9 is not at hand"), (Verdict.DIFFERENT, "")],
            EXIT_DIFFERENT,
        ),
    ],
)
def test_an_audit_that_cannot_judge_another_build_ends_with_a_code_of_its_own(
    verdicts: list[tuple[Verdict, str]], code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    report = AuditReport(
        Counter(str(verdict) for verdict, _ in verdicts),
        [Line(verdict, why, at, 0, 1, 0, b"", "") for verdict, why in verdicts],
    )
    monkeypatch.setattr(audits, "run_audit", lambda *given: report)
    ended = 0
    try:
        audits.audit(all_=True)
    except typer.Exit as exited:
        ended = exited.exit_code
    assert ended == code


def _refuses(error: SpineError) -> None:
    raise error


def test_what_a_process_of_an_audit_says_no_to_is_said_whole_by_the_first() -> None:
    said = (
        Invalid(Reason.FILE_UNREADABLE, "no vault", field="vault"),
        Throttled(Reason.RATE_LIMITED, "slow down", retry_after_s=7.0),
        NotFound(Reason.DECISION_UNKNOWN, "nothing there"),
    )
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        for error in said:
            with pytest.raises(type(error)) as raised:
                pool.submit(_refuses, error).result()
            assert vars(raised.value) == vars(error) and str(raised.value) == str(error)


def test_a_vault_that_is_none_is_refused_before_any_process_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audits, "runtime", lambda: SimpleNamespace(partitions=4))
    monkeypatch.setattr(audits, "processes", None)
    with pytest.raises(Invalid) as refused:
        audits.run_audit(jobs=2, vault=tmp_path / "typo")
    assert refused.value.reason is Reason.FILE_UNREADABLE
