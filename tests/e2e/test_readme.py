"""What the README shows is what happens: its commands are run, and what they print is compared."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```\n(.*?)```", README, re.DOTALL)
REFUSED = 3


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("newcomer")


@pytest.fixture(scope="module")
def environment(home: Path) -> dict[str, str]:
    bin_dir = str(Path(sys.executable).parent)
    path = f"{bin_dir}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {"SPINE_DATA_DIR": str(home), "PATH": path, "COLUMNS": "160"}


def same(text: str) -> list[str]:
    """A text without what differs from run to run: ids, places, times, padding."""
    text = re.sub(r"\b([tck])-[0-9a-f]{16}\b", r"\1-ID", text)
    text = re.sub(r"@\d+(\.\d+)?|offset \d+", "PLACE", text)
    text = re.sub(r"\(\d+ s after", "(N s after", text)
    text = re.sub(r"[+-]\d+ ms", "N ms", text)
    return [line.strip() for line in text.splitlines() if line.strip()]


def block(holds: str) -> str:
    (found,) = [each for each in BLOCKS if holds in each]
    return str(found)


def test_the_two_commands_are_targets_of_make() -> None:
    for target in re.findall(r"^make (\w+)", block("make demo     #"), re.MULTILINE):
        done = subprocess.run(
            ["make", "--dry-run", "--always-make", target],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr


@pytest.mark.timeout(360)
def test_the_demo_tells_its_story(environment: dict[str, str]) -> None:
    done = subprocess.run(
        ["spine", "demo"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) < 40
    assert same(done.stdout) == same(block("The adviser reads a week"))


@pytest.fixture(scope="module")
def up(environment: dict[str, str]) -> Iterator[None]:
    """`make up`, in another terminal."""
    command = ["spine", "up"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("Everything is up"):
                break
        try:
            yield
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(120)


@pytest.mark.usefixtures("up")
def test_the_commands_by_hand(environment: dict[str, str]) -> None:
    section = README.split("## By hand")[1].split("\n## ")[0]
    steps = re.findall(r"^\$ (.+)\n((?:(?!\$ |```).*\n)*)", section, re.MULTILINE)
    assert len(steps) == 12
    for command, shown in steps:
        done = subprocess.run(
            shlex.split(command),
            env=environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        refused = "CONSENT_REVOKED" in shown
        assert done.returncode == (REFUSED if refused else 0), (command, done.stderr)
        if shown.strip():
            assert same(done.stderr if refused else done.stdout) == same(shown), command
