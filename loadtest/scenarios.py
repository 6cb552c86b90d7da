"""Every scenario by name, at any size, each in an installation of its own."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from loadtest import (
    accessing,
    auditing,
    cutting,
    gb_day,
    growing,
    mixing,
    moving,
    peers,
    proving,
    reads,
    rebuilding,
    registry,
    supplying,
)
from loadtest.installation import Note
from loadtest.results import Result
from loadtest.serving import Served, served

SECONDS: Final = 20.0
OnServed = Callable[[Served], Result]


def run(name: str, meters: int, note: Note, days: int = 1) -> Result:
    """One scenario. WrongAnswer if the spine gave one; KeyError for a name that is none."""
    with tempfile.TemporaryDirectory(prefix="spine-load-") as folder:
        if name in ON_SERVED:
            with served(meters, Path(folder), note) as country:
                note(name, 0, 0)
                result = ON_SERVED[name](country)
        else:
            result = ALONE[name](meters, Path(folder), note, days)
    result.meters, result.days = meters, days if name in BY_DAYS else 1
    return result


def run_on_one(names: list[str], meters: int, note: Note, seconds: float) -> Iterator[Result]:
    """Several scenarios that read, on one country; those that take consents away come last."""
    ordered = [name for name in ON_SERVED if name in names]
    with (
        tempfile.TemporaryDirectory(prefix="spine-load-") as folder,
        served(meters, Path(folder), note) as country,
    ):
        for name in ordered:
            note(name, 0, 0)
            result = SHORT[name](country, seconds)
            result.meters = meters
            yield result


ON_SERVED: Final[dict[str, OnServed]] = {
    "reads": lambda country: reads.run(country, SECONDS),
    "access": lambda country: accessing.run(country, SECONDS / 2),
    "audit": lambda country: auditing.run(country, SECONDS),
    "ledger": lambda country: proving.run(country, 10, SECONDS / 4),
    "moves": lambda country: moving.moves(country, 3 * SECONDS),
    "mixed": lambda country: mixing.run(country, SECONDS),
    "cut": lambda country: cutting.run(country, min(1_000, len(country.known) // 2)),
}
# The same, as short as they still say something.
SHORT: Final[dict[str, Callable[[Served, float], Result]]] = {
    "reads": lambda country, seconds: reads.run(country, seconds),
    "access": lambda country, seconds: accessing.run(country, seconds / 2),
    "audit": lambda country, seconds: auditing.run(country, seconds / 2),
    "ledger": lambda country, seconds: proving.run(country, 2, seconds / 2),
    "moves": lambda country, seconds: moving.moves(country, 15 * seconds),
    "mixed": lambda country, seconds: mixing.run(country, seconds, 0.05),
    "cut": lambda country, seconds: cutting.run(country, len(country.known) // 4),
}
ALONE: Final[dict[str, Callable[[int, Path, Note, int], Result]]] = {
    "gb-day": lambda meters, folder, note, days: gb_day.run(meters, folder, note, days),
    "ceiling": lambda meters, folder, note, days: growing.ceiling(meters, folder, note, days),
    "growth": lambda meters, folder, note, days: growing.run(meters, folder, note, days),
    "rebuild": lambda meters, folder, note, days: rebuilding.run(meters, folder, note, days),
    "members": lambda meters, folder, note, days: moving.members(meters, folder, note, days),
    "registry": lambda meters, folder, note, days: registry.run(meters, folder, note),
    "bulk": lambda meters, folder, note, days: supplying.run(meters, folder, note),
    "peers": lambda meters, folder, note, days: peers.run(meters, folder, note),
}
NAMES: Final = (*ALONE, *ON_SERVED)
# Those that `days` says something to; the others have as many as they need.
BY_DAYS: Final = frozenset({"gb-day", "ceiling", "growth", "rebuild", "members"})
