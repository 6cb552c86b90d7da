"""`make mutants`: each seeded edit is applied to a copy of the tree, and its tests must fail.

Prints a line for each edit and the share that was found; the exit code is 1 below 95 %. The tests
run on the unedited copy first, for a test that fails anyway finds nothing.
"""

from __future__ import annotations

import argparse
import os
import platform
import queue
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.mutants.edits import MUTANTS, Mutant

ROOT = Path(__file__).parents[2]
COPIED = ("spine", "domains", "tests", "schemas", "proto", "docs", "pyproject.toml")
WANTED = 0.95
TIMEOUT_S = 240


@dataclass(frozen=True)
class Result:
    """What became of one edit."""

    mutant: Mutant
    found: bool
    seconds: float
    by: str


@contextmanager
def copy_of_the_tree() -> Iterator[Path]:
    """The tree somewhere else, where it may be edited."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        for name in COPIED:
            source, target = ROOT / name, Path(folder) / name
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, target)
        yield Path(folder)


def run_tests(tree: Path, tests: Sequence[str]) -> tuple[bool, str]:
    """Whether the tests pass in that tree; the first that does not."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "--no-header", "--tb=no"]
    options = ["-p", "no:cacheprovider", "-p", "no:randomly"]
    try:
        done = subprocess.run(
            [*command, *options, *tests],
            cwd=tree,
            env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(tree)},
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False, f"nothing ended within {TIMEOUT_S} s"
    failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    by = failed[0].split(" - ")[0].split(" ")[1] if failed else done.stdout[-200:]
    return done.returncode == 0, by.rpartition("::")[2]


def try_out(mutant: Mutant, trees: queue.Queue[Path]) -> Result:
    """Edit a copy, run the tests, put the copy right again."""
    tree = trees.get()
    path = tree / mutant.path
    source = path.read_text()
    started = time.monotonic()
    try:
        path.write_text(source.replace(mutant.old, mutant.new))
        passed, by = run_tests(tree, mutant.tests)
    finally:
        path.write_text(source)
        trees.put(tree)
    return Result(mutant, not passed, time.monotonic() - started, by)


def main(arguments: Sequence[str] | None = None) -> int:
    """Try every edit with the given word in its description, file or tests, on so many copies."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="edits with this in their text, file or tests")
    parser.add_argument("--jobs", type=int, default=2)
    chosen = parser.parse_args(arguments)
    mutants = [m for m in MUTANTS if chosen.only in f"{m.breaks} {m.path} {' '.join(m.tests)}"]
    if not mutants:
        say(f"no edit has {chosen.only!r} in its text, file or tests")
        return 2
    started = time.monotonic()
    trees: queue.Queue[Path] = queue.Queue()
    with copy_of_the_tree() as first, copy_of_the_tree() as second:
        tests = sorted({test for mutant in mutants for test in mutant.tests})
        passed, by = run_tests(first, tests)
        if not passed:
            say(f"the tests fail without any edit: {by}")
            return 2
        for tree in (first, second)[: chosen.jobs]:
            trees.put(tree)
        with ThreadPoolExecutor(min(chosen.jobs, 2)) as pool:
            results = []
            for result in pool.map(lambda mutant: try_out(mutant, trees), mutants):
                results.append(result)
                mark = "found   " if result.found else "SURVIVED"
                say(f"{mark} {result.seconds:6.1f} s  {result.mutant.breaks}  [{result.by}]")
    found = sum(result.found for result in results)
    share = found / len(results)
    minutes = (time.monotonic() - started) / 60
    say(
        f"{found} of {len(results)} edits found ({share:.1%}) in {minutes:.1f} min on"
        f" {os.cpu_count()} cores, Python {platform.python_version()}"
    )
    return 0 if share >= WANTED else 1


def say(text: str) -> None:
    """A line at once, for a run takes minutes."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
