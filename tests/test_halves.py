"""`make test` runs everything once, in two processes, and fails if either of them does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests import halves

ROOT = Path(__file__).parents[1]
GOOD = "def test_good(): pass\n"
BAD = "def test_bad(): assert False, 'told why'\n"
GONE = "import os\ndef test_gone(): os._exit(0)\n"


def run(folder: Path, first: str, second: str) -> int:
    """Run two files as the halves."""
    chosen = {}
    for half, text in (("first", first), ("second", second)):
        file = folder / f"test_{half}.py"
        file.write_text(text)
        chosen[half] = [f"--rootdir={folder}", str(file)]
    return halves.main(chosen)


@pytest.mark.parametrize(
    ("first", "second", "code", "told"),
    [
        (GOOD, GOOD, 0, r"\nboth halves: 2 passed, "),
        (GOOD, GOOD + BAD, 1, r"told why(.*\n)*both halves: 2 passed, 1 failed, "),
        (GOOD + BAD, GOOD, 1, r"told why(.*\n)*both halves: 2 passed, 1 failed, "),
        (GOOD, GONE, 1, r"\nthe second half ended with 0 before it had counted\n"),
    ],
)
def test_both_halves_count(
    first: str,
    second: str,
    code: int,
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # these tests need none
    assert run(tmp_path, first, second) == code
    assert re.search(told, capfd.readouterr().out)


def test_nothing_is_in_both_halves_or_in_neither() -> None:
    first, second = halves.HALVES.values()
    assert second == ("tests", *(f"--ignore={folder}" for folder in first))
    assert all(list((ROOT / folder).glob("test_*.py")) for folder in first)


def test_it_is_what_make_runs() -> None:
    (recipe,) = re.findall(r"^test:.*##.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.M)
    assert recipe.splitlines()[0] == "\t$(BIN)/python -m tests.halves"
