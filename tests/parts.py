"""`make test`: all tests, in three processes at once, for two leave a third of two cores idle.

They are cut into parts, the longest first, and each process takes the next part when it has done
one, so that all end at about the same time. A part is whole folders, which share a broker or an
installation; one is all others, whatever is added. Each has brokers, ports and folders of its own,
and takes its tests in the order that one process would.

What the first process does is seen as it goes on; what the others did, when all have ended. The
exit code is 0 only if every part ended well. Ctrl-C and SIGTERM end the parts that run as Ctrl-C
would: what they had started is stopped first. What has not ended a minute after is ended by
force.
"""

from __future__ import annotations

import math
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from xml.etree import ElementTree

from spine.stopping import TOLD_BY

OTHERS = "others"
FOLDERS: Mapping[str, tuple[str, ...]] = {
    "brokers": ("tests/broker",),
    "coordinators": ("tests/coordinators",),
    "installation": ("tests/e2e",),
    "core": ("tests/core",),
    OTHERS: (),
    "faults": ("tests/fault",),
    "pods": ("tests/infra", "tests/loadtest"),
}
PARTS: Mapping[str, tuple[str, ...]] = {
    **FOLDERS,
    OTHERS: ("tests", *(f"--ignore={one}" for own in FOLDERS.values() for one in own)),
}
AT_ONCE = 3
LOOK_EVERY_S = 0.2
END_WITHIN_S = 60.0


class Parts:
    """Runs parts, three at once, and keeps what they told and counted in a folder."""

    def __init__(self, parts: Mapping[str, Sequence[str]], folder: Path) -> None:
        self._parts, self._folder = parts, folder
        self._waiting = list(parts)
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._seen: str | None = None
        self._told_to_end = math.inf
        self.ended: dict[str, int] = {}
        self.unseen: list[str] = []

    def run(self) -> None:
        """Until all have ended, or those that run have been told to."""
        with self._ended_by_signals():
            while self._waiting or self._running:
                while self._waiting and len(self._running) < AT_ONCE:
                    self._start(self._waiting.pop(0))
                time.sleep(LOOK_EVERY_S)
                if time.monotonic() - self._told_to_end > END_WITHIN_S:
                    for process in self._running.values():
                        process.kill()
                for part, process in list(self._running.items()):
                    if (code := process.poll()) is not None:
                        self.ended[part] = code
                        del self._running[part]
                        self._seen = None if self._seen == part else self._seen

    def told(self, part: str) -> str:
        """What a part that was not seen told."""
        return (self._folder / f"{part}.told").read_text(errors="replace")

    def counted(self, part: str) -> Counter[str] | None:
        """How many tests of a part passed, failed, were skipped or met an error, if it counted."""
        if not self._figures(part).exists():
            return None
        (suite,) = ElementTree.parse(self._figures(part)).iter("testsuite")
        names = {"failures": "failed", "errors": "with errors", "skipped": "skipped"}
        other = Counter({told: int(suite.get(name, 0)) for name, told in names.items()})
        return Counter(passed=int(suite.get("tests", 0)) - other.total()) + other

    def _figures(self, part: str) -> Path:
        return self._folder / f"{part}.xml"

    def _start(self, part: str) -> None:
        """Start a part, which keeps for `--last-failed` what failed of it.

        In a session of its own: a terminal's Ctrl-C is for us, and passed on once.
        """
        own = ["-o", f"cache_dir=.pytest_cache/{part}", f"--junit-xml={self._figures(part)}"]
        command = [sys.executable, "-m", "pytest", *own, *self._parts[part]]
        if self._seen is None:
            self._seen = part
            self._running[part] = subprocess.Popen(command, start_new_session=True)
            return
        self.unseen.append(part)
        with (self._folder / f"{part}.told").open("wb") as told:
            self._running[part] = subprocess.Popen(
                command, stdout=told, stderr=subprocess.STDOUT, start_new_session=True
            )

    @contextmanager
    def _ended_by_signals(self) -> Iterator[None]:
        def end(*_: object) -> None:
            self.ended |= dict.fromkeys(self._waiting, 1)
            self._waiting.clear()
            self._told_to_end = min(self._told_to_end, time.monotonic())
            for process in self._running.values():
                process.send_signal(signal.SIGINT)

        before = {number: signal.signal(number, end) for number in TOLD_BY}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def main(parts: Mapping[str, Sequence[str]] = PARTS) -> int:
    """Run all, show all, add up."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        running = Parts(parts, Path(folder))
        running.run()
        for part in running.unseen:
            say(running.told(part))
        total, uncounted = Counter[str](), False
        for part, code in running.ended.items():
            if (counted := running.counted(part)) is None:
                say(f"the part {part} ended with {code} before it had counted")
                uncounted = True
            else:
                total += counted
    minutes = (time.monotonic() - started) / 60
    say(f"all parts: {', '.join(f'{n} {kind}' for kind, n in total.items())}, {minutes:.1f} min")
    return 1 if uncounted or any(running.ended.values()) else 0


def say(text: str) -> None:
    """At once, between what the parts say themselves."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
