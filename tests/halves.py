"""`make test`: all tests, in two processes at once, for one leaves half of two cores idle.

The first half is the tests of whole installations; the second is all else, whatever is added. Each
has brokers, ports and folders of its own, and takes its tests in the order that one process would.
The first is seen as it goes on, the second whole when both have ended. The exit code is 0 only if
both ended well.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.etree import ElementTree

FIRST = ("tests/e2e", "tests/fault", "tests/infra", "tests/loadtest")
HALVES: Mapping[str, tuple[str, ...]] = {
    "first": FIRST,
    "second": ("tests", *(f"--ignore={folder}" for folder in FIRST)),
}


def command(half: str, chosen: Sequence[str], figures: Path) -> list[str]:
    """Runs a half, counts into a file, and keeps for `--last-failed` what failed of this half."""
    own = ["-o", f"cache_dir=.pytest_cache/{half}", f"--junit-xml={figures}"]
    return [sys.executable, "-m", "pytest", *own, *chosen]


def counted(figures: Path) -> Counter[str]:
    """How many tests of a half passed, failed, were skipped or met an error."""
    (suite,) = ElementTree.parse(figures).iter("testsuite")
    names = {"failures": "failed", "errors": "with errors", "skipped": "skipped"}
    other = Counter({told: int(suite.get(name, 0)) for name, told in names.items()})
    return Counter(passed=int(suite.get("tests", 0)) - other.total()) + other


def exit_code(half: subprocess.Popen[bytes]) -> int:
    """Wait for its end. It is told of a Ctrl-C as we are, and first stops what it had started."""
    while True:
        try:
            return half.wait()
        except KeyboardInterrupt:
            continue


def main(halves: Mapping[str, Sequence[str]] = HALVES) -> int:
    """Run both, show both, add up."""
    started = time.monotonic()
    (one, ones), (other, others) = halves.items()
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "told").open("w+") as told:
        figures = {half: Path(folder) / f"{half}.xml" for half in halves}
        seen = subprocess.Popen(command(one, ones, figures[one]))
        beside = subprocess.Popen(
            command(other, others, figures[other]), stdout=told, stderr=subprocess.STDOUT
        )
        ended = {one: exit_code(seen), other: exit_code(beside)}
        told.seek(0)
        say(told.read())
        total = Counter[str]()
        for half, file in figures.items():
            if not file.exists():
                say(f"the {half} half ended with {ended[half]} before it had counted")
                return 1
            total += counted(file)
    minutes = (time.monotonic() - started) / 60
    say(f"both halves: {', '.join(f'{n} {kind}' for kind, n in total.items())}, {minutes:.1f} min")
    return 0 if set(ended.values()) == {0} else 1


def say(text: str) -> None:
    """At once, between what the halves say themselves."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
