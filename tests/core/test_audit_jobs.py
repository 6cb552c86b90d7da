"""Processes of an audit begin as copies of one that is alone in itself, and anew of any other."""

from __future__ import annotations

import sys
import threading

import pytest

from spine.console.audits import _start_method


@pytest.mark.parametrize("others", [0, 1])
def test_a_process_with_threads_is_not_copied(others: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy would have their locks, held for ever by nobody."""
    monkeypatch.setattr(threading, "active_count", lambda: 1 + others)
    monkeypatch.setattr(sys, "platform", "linux")
    assert _start_method() == ("spawn" if others else "fork")


def test_elsewhere_no_process_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading, "active_count", lambda: 1)
    monkeypatch.setattr(sys, "platform", "darwin")
    assert _start_method() == "spawn"
