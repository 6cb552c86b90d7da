"""`make test` runs everything once, in three processes, and fails if any part of it does."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from itertools import chain
from pathlib import Path

import pytest

from tests import parts

ROOT = Path(__file__).parents[1]
GOOD = "def test_good(): pass\n"
BAD = "def test_bad(): assert False, 'told why'\n"
GONE = "import os\ndef test_gone(): os._exit(0)\n"
# Says which process it is, and that its fixture has let go.
LONG = """
import os, time, pathlib, pytest
here = pathlib.Path(__file__)

@pytest.fixture
def held():
    yield
    here.with_suffix(".let_go").touch()

def test_long(held):
    here.with_suffix(".pid").write_text(str(os.getpid()))
    time.sleep(600)
"""
# Hears no Ctrl-C.
DEAF = """
import os, pathlib, signal, time

def test_deaf():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    pathlib.Path(__file__).with_suffix(".pid").write_text(str(os.getpid()))
    time.sleep(600)
"""
# As a shell starts what it leaves in the background: Ctrl-C is ignored.
IN_BACKGROUND = """
import signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
from tests import parts
sys.exit(parts.main({name: [f"--rootdir={sys.argv[1]}", f"{sys.argv[1]}/test_{name}.py"]
                     for name in sys.argv[2:]}))
"""


def written(folder: Path, *texts: str) -> dict[str, list[str]]:
    """Parts of one file each."""
    made = {}
    for number, text in enumerate(texts):
        file = folder / f"test_{number}.py"
        file.write_text(text)
        made[str(number)] = [f"--rootdir={folder}", str(file)]
    return made


@pytest.mark.parametrize(
    ("texts", "code", "told"),
    [
        ((GOOD, GOOD, GOOD), 0, r"\nall parts: 3 passed, "),
        ((GOOD, GOOD + BAD, GOOD), 1, r"told why(.*\n)*all parts: 3 passed, 1 failed, "),
        ((GOOD + BAD, GOOD, GOOD), 1, r"told why(.*\n)*all parts: 3 passed, 1 failed, "),
        ((GOOD, GOOD, GOOD + BAD), 1, r"told why(.*\n)*all parts: 3 passed, 1 failed, "),
        ((GOOD, GONE, GOOD), 1, r"\nthe part 1 ended with 0 before it had counted\n"),
    ],
)
def test_every_part_counts(
    texts: tuple[str, ...],
    code: int,
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # these tests need none
    assert parts.main(written(tmp_path, *texts)) == code
    assert re.search(told, capfd.readouterr().out)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_whoever_is_told_to_end_lets_go_of_what_runs_and_begins_no_other(
    number: signal.Signals, tmp_path: Path
) -> None:
    names = written(tmp_path, LONG, LONG, LONG, GOOD)
    command = [sys.executable, "-c", IN_BACKGROUND, str(tmp_path), *names]
    alone = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    with subprocess.Popen(command, cwd=ROOT, env=alone, stdout=subprocess.PIPE) as process:
        while sum(bool(file.read_text()) for file in tmp_path.glob("*.pid")) < parts.AT_ONCE:
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(number)
        said, _ = process.communicate()
    assert process.returncode == 1
    assert len(list(tmp_path.glob("*.let_go"))) == parts.AT_ONCE
    assert b"the part 3 ended with 1 before it had counted" in said
    for file in tmp_path.glob("*.pid"):
        with pytest.raises(ProcessLookupError):
            os.kill(int(file.read_text()), 0)


def test_what_does_not_end_when_it_is_told_is_ended_by_force(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setattr(parts, "END_WITHIN_S", 0.5)
    written(tmp_path, DEAF)
    file = tmp_path / "test_0.pid"

    def tell() -> None:
        while not (file.exists() and file.read_text()):
            time.sleep(0.05)
        signal.raise_signal(signal.SIGTERM)

    teller = threading.Thread(target=tell)
    teller.start()
    assert parts.main({"deaf": [f"--rootdir={tmp_path}", str(tmp_path / "test_0.py")]}) == 1
    teller.join()
    with pytest.raises(ProcessLookupError):
        os.kill(int(file.read_text()), 0)


def test_nothing_is_in_two_parts_or_in_none() -> None:
    folders = {**parts.PARTS}
    others = folders.pop(parts.OTHERS)
    taken = list(chain.from_iterable(folders.values()))
    assert len(taken) == len(set(taken))
    assert others == ("tests", *(f"--ignore={folder}" for folder in taken))
    assert all(list((ROOT / folder).glob("test_*.py")) for folder in taken)


def test_it_is_what_make_runs() -> None:
    (recipe,) = re.findall(r"^test:.*##.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.M)
    assert recipe.splitlines()[0] == "\t$(BIN)/python -m tests.parts"
