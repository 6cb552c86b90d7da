"""`make fault`: every fault of the table, under one seed, and the table written anew.

`python -m tests.fault.run [SEED [TESTS...]]`. The seed decides waits and the order of faults; it is
printed first, so that a run can be repeated. Ends with 1 if anything failed.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import time
from datetime import UTC, datetime

import pytest

from tests.fault import table

SEED, RESULTS = "FAULT_SEED", "FAULT_RESULTS"


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """As a plugin: note what became of each test, the worst of its parameters."""
    name = report.nodeid.partition("[")[0]
    if report.when != "call" and report.passed:
        return
    outcome = "passed" if report.passed else "FAILED"
    file = os.environ[RESULTS]
    with open(file, "a", encoding="utf-8") as out:  # noqa: PTH123
        out.write(json.dumps([name, outcome]) + "\n")


def main() -> int:
    """Run all of it."""
    seed = sys.argv[1] if len(sys.argv) > 1 else str(secrets.randbelow(10**6))
    print(f"seed {seed}", flush=True)  # noqa: T201
    began = time.monotonic()
    notes = table.ROOT / ".pytest_cache" / f"faults-{seed}-{os.getpid()}.jsonl"
    notes.parent.mkdir(exist_ok=True)
    notes.write_text("")
    environment = os.environ | {SEED: seed, RESULTS: str(notes)}
    failed = False
    for tests in [sys.argv[2:]] if len(sys.argv) > 2 else table.to_run():
        command = [sys.executable, "-m", "pytest", "-p", "tests.fault.run", "-q", "-s"]
        done = subprocess.run([*command, *tests], env=environment, cwd=table.ROOT, check=False)
        failed = failed or done.returncode != 0
    named = {test for fault in table.FAULTS for test in fault.tests}
    today = datetime.now(UTC).date().isoformat()
    results: dict[str, table.Result] = {}
    for line in notes.read_text().splitlines():
        test, outcome = json.loads(line)
        if test in named and (test not in results or outcome != "passed"):
            results[test] = table.Result(outcome, int(seed), today)
    table.keep(results)
    print(f"seed {seed}: {time.monotonic() - began:.0f} s")  # noqa: T201
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
