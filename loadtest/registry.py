"""`registry`: registrations, tenancies and consents by the bulk commands, every rule on.

A fact counts once its coordinator has answered, which is after its own fold has applied it. The
metering coordinator folds the consumer log as well, as it must: it judges by it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from loadtest.country import Country
from loadtest.installation import Note, installation
from loadtest.loading import Loader
from loadtest.results import Bound, Result

TARGETS: Final = (Bound("facts_per_s", least=20_000),)
GATES: Final = ()


def run(meters: int, folder: Path, note: Note) -> Result:
    """The scenario in an installation of its own."""
    country = Country(meters)
    figures: dict[str, float] = {}
    facts, seconds = 0, 0.0
    with installation(folder, ["metering"], lambda text: note(text, 0, 0)) as spine:
        loader = Loader(spine, country)
        # Who supplies a meter is needed by none of the three, and is in place before them in life.
        for what, load in (
            ("registrations", loader.register),
            ("tenancies", loader.occupy),
            ("consents", loader.consent),
        ):
            before = {name: spine.cpu_s(name) for name in spine.processes}
            started = time.perf_counter()
            count = asyncio.run(load(_noted(note, what, meters)))
            took = time.perf_counter() - started
            facts, seconds = facts + count, seconds + took
            figures[f"{what}_per_s"] = count / took
            for name in ("consumers", "metering"):
                used = spine.cpu_s(name) - before[name]
                figures[f"{what}_{name}_cpu_us"] = used / count * 1e6
        figures["resident_mb_max"] = max(spine.resident().values()) / 1e6
    figures |= {"facts": facts, "facts_per_s": facts / seconds}
    return Result("registry", meters, figures, TARGETS, GATES)


def _noted(note: Note, what: str, total: int) -> Callable[[int], None]:
    return lambda done: note(what, done, total)
