"""That the edits of the mutation run, which takes minutes (`make mutants`), still apply.

And that a run of no edits at all is none that went well.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.mutants import run
from tests.mutants.edits import MUTANTS, Mutant

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.breaks)
def test_an_edit_applies_to_one_place_and_leaves_python(mutant: Mutant) -> None:
    source = (ROOT / mutant.path).read_text()
    assert source.count(mutant.old) == 1, f"{mutant.path} no longer says {mutant.old!r} once"
    edited = source.replace(mutant.old, mutant.new)
    assert edited != source
    ast.parse(edited)
    for test in mutant.tests:
        file, _, name = test.partition("::")
        assert (ROOT / file).exists()
        assert not name or f"def {name}(" in (ROOT / file).read_text()


def test_there_are_enough_and_each_breaks_something_else() -> None:
    assert len(MUTANTS) >= 30
    assert len({mutant.breaks for mutant in MUTANTS}) == len(MUTANTS)


def test_a_word_that_no_edit_has_is_a_failure_and_runs_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran: list[Sequence[str]] = []

    def run_tests(tree: Path, tests: Sequence[str]) -> tuple[bool, str]:
        ran.append(tests)
        return False, "asked"

    monkeypatch.setattr(run, "run_tests", run_tests)
    assert run.main(["--only", "no such edit"]) == 2
    told = capsys.readouterr().out
    assert (told, ran) == ("no edit has 'no such edit' in its text, file or tests\n", [])
    assert run.main(["--only", MUTANTS[0].breaks]) == 2
    assert ran == [sorted(MUTANTS[0].tests)], "whereas a word that one has runs its tests"
