"""`spine up` waits for whoever folds, and not for who keeps ending."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from spine import supervise
from spine.supervise import Supervisor

# Announces itself after a while, as a process does once it has folded its log.
FOLDS = """
import json, os, pathlib, sys, time
time.sleep(float(sys.argv[2]))
services = pathlib.Path(sys.argv[1], "services")
services.mkdir(exist_ok=True)
said = {"pid": os.getpid(), **json.loads(sys.argv[3])}
services.joinpath("dsi.json").write_text(json.dumps(said))
time.sleep(60)
"""
ENDS = "raise SystemExit(1)"


class One(Supervisor):
    """A supervisor of one process, of that source."""

    def __init__(self, data_dir: Path, source: str, *words: str) -> None:
        super().__init__(data_dir, None, {})
        self._commands = {"dsi": ("dsi",)}
        self._source = [sys.executable, "-c", source, *words]

    def command(self, name: str) -> tuple[list[str], dict[str, str]]:
        return self._source, {}


def started(supervisor: Supervisor) -> list[str]:
    """What is noted until all have started."""
    noted: list[str] = []
    try:
        supervisor.start(noted.append)
    finally:
        supervisor.stop()
    return noted


def test_who_takes_long_is_waited_for_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervise, "SAY_EVERY_S", 0.5)
    *waited, ready = started(One(tmp_path, FOLDS, str(tmp_path), "2.0", "{}"))
    assert set(waited) == {"waiting for dsi"} and ready == "dsi"


def test_who_stays_and_cannot_do_its_work_is_not_waited_for_and_says_why(tmp_path: Path) -> None:
    """As a witness whose folder is damaged: two others may be enough."""
    (said,) = started(One(tmp_path, FOLDS, str(tmp_path), "0", '{"unfit": "it is damaged"}'))
    assert said == "dsi: it is damaged"


def test_who_keeps_ending_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervise, "SAY_EVERY_S", 0.5)
    with pytest.raises(TimeoutError, match="ending again and again"):
        started(One(tmp_path, ENDS))
