"""The table of faults in DESIGN.md says what is so: its tests exist, and all that was asked for."""

from __future__ import annotations

import ast

import pytest

from tests.fault import table
from tests.fault.process import POINTS, arm
from tests.fault.table import BEGIN, DESIGN, END, FAULTS, ROOT

ASKED = "F01 F02 F03 F07 F08 F09 F10 F11 F12 F17 F18 F19 F21 F22 F24 F25 F26 F27 F32 F33 F36 F37"
ASKED += " F38 F39 F40 F41 F42 F43 F46 F49 F50 F51 F52 F53 F54 F55 F56 F57 F58"


def test_every_fault_asked_for_is_in_the_table() -> None:
    numbers = [fault.number for fault in FAULTS]
    assert len(set(numbers)) == len(numbers)
    assert set(ASKED.split()) <= set(numbers)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.number)
def test_the_tests_of_a_fault_exist(fault: table.Fault) -> None:
    assert fault.tests
    for test in fault.tests:
        file, _, name = test.partition("::")
        tree = ast.parse((ROOT / file).read_text())
        functions = (ast.FunctionDef, ast.AsyncFunctionDef)
        assert name in {node.name for node in tree.body if isinstance(node, functions)}, test


def test_the_table_in_the_design_is_the_one_of_the_last_run() -> None:
    written = DESIGN.read_text().split(BEGIN)[1].split(END)[0]
    assert written == table.render()


def test_no_result_in_the_table_is_a_failure() -> None:
    assert {
        name for name, result in table.last_results().items() if result.outcome != "passed"
    } == set()


def test_a_failpoint_that_is_none_is_refused() -> None:
    with pytest.raises(KeyError):
        arm("append.somewhere")
    assert all(when in ("before", "after") for _, _, when in POINTS.values())
