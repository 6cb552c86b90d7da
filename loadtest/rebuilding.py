"""`rebuild`: stores deleted and folded again from the log, and the same from a snapshot.

Both are timed as an operator waits for them: from the command to the last row that can be queried,
the start of the process included. The digests of the stores must agree.
"""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from loadtest.ceiling import Bare, bare_loop
from loadtest.country import Country
from loadtest.gb_day import Day, days_of, fold
from loadtest.growing import append
from loadtest.installation import Installation, Note, expect, installation
from loadtest.results import Bound, Result
from spine import trust
from spine.store import Store

COMMAND_S: Final = 600.0

TARGETS: Final = (
    Bound("meter_days_per_s", least=100_000),
    Bound("snapshot_times_faster", least=5),
)
GATES: Final = (Bound("snapshot_times_faster", least=1),)


def run(meters: int, folder: Path, note: Note, days: int) -> Result:
    """The scenario in an installation of its own."""
    country, chosen = Country(meters), days_of(days)
    with installation(folder, [], lambda text: note(text, 0, 0)) as spine:
        spine.stop("consumers", "governance")
        recorded = asyncio.run(append(spine, country, chosen, note))
        bare = bare_loop(spine, folder / "none", store=False)
        first, again, restored = Day(), Day(), Day()
        fold(spine, bare, first, note)
        digests = _digests(spine)
        shutil.rmtree(spine.runtime.stores("readings"))
        rebuilt_s = _until_queryable(spine, bare, again, note)
        expect(_digests(spine) == digests, "the stores came back with other rows")
        saving = time.perf_counter()
        _spine(spine, "snapshot", "save", "readings", str(folder / "snapshot"))
        saved_s = time.perf_counter() - saving
        shutil.rmtree(spine.runtime.stores("readings"))
        restoring = time.perf_counter()
        _spine(spine, "snapshot", "restore", "readings", str(folder / "snapshot"))
        restore_s = time.perf_counter() - restoring
        restored_s = restore_s + _until_queryable(spine, bare, restored, note)
        expect(_digests(spine) == digests, "the snapshot came back with other rows")
    return Result(
        "rebuild",
        meters,
        {
            "meter_days": recorded,
            "meter_days_per_s": again.fold_rows / again.fold_s if again.fold_s else 0.0,
            "rebuilt_s": rebuilt_s,
            "snapshot_saved_s": saved_s,
            "snapshot_restored_s": restored_s,
            "snapshot_times_faster": rebuilt_s / restored_s,
        },
        TARGETS,
        GATES,
    )


def _until_queryable(spine: Installation, bare: Bare, day: Day, note: Note) -> float:
    started = time.perf_counter()
    fold(spine, bare, day, note)
    return time.perf_counter() - started


def _digests(spine: Installation) -> list[bytes]:
    """The digest of every readings store; the process that writes them is ended for that."""
    spine.stop("readings")
    stores = spine.runtime.stores("readings")
    found = []
    for partition in range(spine.runtime.partitions):
        store = Store(stores / f"{trust.READINGS_TOPIC}-{partition}")
        found.append(store.digest())
        store.close()
    return found


def _spine(spine: Installation, *command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "spine", *command],
        env=spine.environment(),
        capture_output=True,
        text=True,
        timeout=COMMAND_S,
        check=False,
    )
    expect(done.returncode == 0, f"spine {' '.join(command[:2])}: {done.stderr[-300:]}")
