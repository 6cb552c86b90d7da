"""The ledger of a whole installation: the page for auditors is run, and processes are killed."""

from __future__ import annotations

import json
import os
import random
import re
import shlex
import signal
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from spine import trust
from spine.cli import app
from spine.console import audits, context
from spine.console.client import interval
from spine.ledger import verifier
from spine.ledger.book import PUBLIC
from spine.ledger.library import Library
from spine.ledger.note import Checkpoint
from spine.ledger.process import LEDGER
from spine.policy import Basis
from tests.e2e.conftest import Installation, grant

MPAN = "1600000000029"
DAY = (datetime(2024, 7, 1, tzinfo=UTC), datetime(2024, 7, 2, tzinfo=UTC))
TERMS: dict[str, Any] = {
    "purpose": "ENERGY_ADVICE",
    "basis": Basis.CONSENT,
    "interval": interval(*DAY),
}
PAGE = (Path(__file__).parents[2] / "docs/ledger.md").read_text()
WAIT_S = 60.0
WRONG = 6


def library(spine: Installation) -> Library:
    return Library(spine.data_dir / LEDGER / PUBLIC)


def until(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not what():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.1)


def ends() -> dict[tuple[str, int], int]:
    """How many records each partition of the log holds."""
    this = context.runtime()
    reader = this.reader()
    try:
        return {
            place: reader.bounds(*place)[1]
            for place in [(trust.CONSUMER_LOG, p) for p in range(this.partitions)]
            + [(trust.OUTCOMES_TOPIC, p) for p in range(this.partitions)]
        }
    finally:
        reader.close()


def covers(spine: Installation, wanted: dict[tuple[str, int], int]) -> bool:
    """Whether the published head covers all of it."""
    books = library(spine)
    sizes = books.sizes(Checkpoint.parse(books.note().text).size)
    return all(sizes[place] >= end for place, end in wanted.items())


@pytest.fixture(scope="module")
def place(spine: Installation) -> str:
    """A read of the adviser's, by its place as commands take it."""
    spine.meter(MPAN, "north-supply")
    grant(spine.occupier(MPAN, "ledger-reader"), MPAN, "bright-advice")
    list(spine.as_("bright-advice").readings(MPAN, **TERMS))
    until(lambda: covers(spine, ends()))
    lines: list[Any] = []
    audits.run_audit(lines.append)
    (line,) = [line for line in lines if line.member == MPAN and line.party == "bright-advice"]
    return f"{line.partition}@{line.offset}.{line.entry}"


# The page


def same(text: str) -> str:
    """A text without what differs from run to run: numbers, ids, which witnesses were first."""
    if text.startswith("{"):
        return str(json.loads(text)["ok"])
    if text.startswith("["):
        return str([line["proof"] for line in json.loads(text)])
    text = re.sub(r"cosigned by .*", "cosigned by witnesses", text)
    text = re.sub(r"log/(ID|[0-9a-f]{64})", "log/ID", text)
    return re.sub(r"\d+", "N", text).strip()


def test_the_page_for_auditors_tells_what_happens(
    spine: Installation, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = re.findall(r"^\$ spine (.+)\n((?:(?!\$ |```).*\n)*)", PAGE, re.MULTILINE)
    assert len(steps) == 10
    monkeypatch.chdir(tmp_path)
    for command, shown in steps:
        if "edited.json" in command:
            proof = json.loads((tmp_path / "proof.json").read_text())
            proof["stored"]["offset"] += 1
            (tmp_path / "edited.json").write_text(json.dumps(proof))
        done = CliRunner().invoke(app, shlex.split(command.replace("2@17.0", place)))
        assert done.exit_code == (WRONG if "edited" in command else 0), (command, done.output)
        said = done.stderr if "edited" in command else done.stdout
        assert same(said) == same(shown), command


# Killed


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_killed_at_any_moment_the_heads_go_on(
    spine: Installation, place: str, tmp_path: Path, seed: int
) -> None:
    """The ledger or a witness, while reads go on: what was published before is continued after."""
    dice = random.Random(seed)
    adviser = spine.as_("bright-advice")
    victim = dice.choice(["ledger", "ledger", "witness-first"])
    before = library(spine).note()
    killed = spine.supervisor.children[victim].process
    at = time.monotonic() + dice.uniform(0.1, 1.0)
    while time.monotonic() < at:
        list(adviser.readings(MPAN, **TERMS))
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait(10)
    for _ in range(5):
        list(adviser.readings(MPAN, **TERMS))
    until(lambda: covers(spine, ends()))
    proof = library(spine).consistency(before, library(spine).note())
    keys = verifier.Keys.of(proof["keys"])
    assert keys.quorum == 2 and len(keys.witnesses) == 3
    verifier.check_growth(proof, keys)
    books = library(spine)
    places = books.sizes(Checkpoint.parse(books.note().text).size)
    books.export(tmp_path / "export", places)
    report = verifier.verify(tmp_path / "export", keys)
    assert report.ok, report.wrong
