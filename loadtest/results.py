"""What a scenario found out: figures, the targets it was held to, and whether it passed.

A target is what the scenario is meant to reach on two cores; a gate is a ratio so far below it that
only a mistake can miss it, on whatever machine. A run passes if every answer was right and every
gate was met; a target that is missed is said to be missed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

Figures = dict[str, float]


@dataclass(frozen=True, slots=True)
class Bound:
    """At least (or, for times and sizes, at most) so much of one figure."""

    figure: str
    least: float | None = None
    most: float | None = None

    def holds(self, figures: Figures) -> bool:
        """Whether the figures keep it."""
        value = figures.get(self.figure, math.nan)
        return (self.least is None or value >= self.least) and (
            self.most is None or value <= self.most
        )

    def __str__(self) -> str:
        sign, bound = ("≥", self.least) if self.least is not None else ("≤", self.most)
        return f"{self.figure} {sign} {bound:,g}"


@dataclass(slots=True)
class Result:
    """One run of one scenario. `size` is in meters unless the scenario says otherwise."""

    scenario: str
    size: int
    figures: Figures = field(default_factory=dict)
    targets: Sequence[Bound] = ()
    gates: Sequence[Bound] = ()
    notes: list[str] = field(default_factory=list)
    # What was asked for, by which the run can be repeated.
    meters: int = 0
    days: int = 1

    @property
    def passed(self) -> bool:
        """Whether every gate was met. A wrong answer ends the run before there is a result."""
        return all(gate.holds(self.figures) for gate in self.gates)

    def missed(self) -> list[Bound]:
        """The targets that were not reached."""
        return [target for target in self.targets if not target.holds(self.figures)]

    def plain(self) -> dict[str, Any]:
        """As one JSON object."""
        return {
            "scenario": self.scenario,
            "size": self.size,
            "meters": self.meters,
            "days": self.days,
            **{name: _rounded(value) for name, value in self.figures.items()},
            "targets_missed": [str(target) for target in self.missed()],
            "notes": self.notes,
            "passed": self.passed,
        }


def to_json(result: Result) -> str:
    """One object on one line."""
    return json.dumps(result.plain(), ensure_ascii=False)


def percentile(values: Sequence[float], per_cent: float) -> float:
    """The smallest value that so many per cent of the values do not exceed; nan of none."""
    if not values:
        return math.nan
    ordered = sorted(values)
    return ordered[max(0, math.ceil(per_cent / 100 * len(ordered)) - 1)]


def _rounded(value: float) -> float | int:
    """Four significant digits are more than a run on a shared machine can tell."""
    if not math.isfinite(value) or value == 0:
        return value
    rounded = round(value, 3 - math.floor(math.log10(abs(value))))
    return int(rounded) if rounded == int(rounded) else rounded
