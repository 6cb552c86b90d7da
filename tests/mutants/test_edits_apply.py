"""That the edits of the mutation run, which takes minutes (`make mutants`), still apply."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

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
