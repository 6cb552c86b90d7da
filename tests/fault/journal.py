"""What was asked of the system and what came back, in the order of one clock.

Every operation is noted twice: when it was invoked, and when it ended `ok`, `fail` (refused: it had
no effect) or `indeterminate` (nobody can tell). All instants are nanoseconds of this machine's
monotonic clock, so operations of all clients can be compared.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Final

OK: Final = "ok"
FAIL: Final = "fail"
INDETERMINATE: Final = "indeterminate"


@dataclass(slots=True)
class Operation:
    """One operation; `ended` and `outcome` are missing until it has ended."""

    number: int
    kind: str
    who: str
    about: dict[str, Any]
    invoked: int
    ended: int = 0
    outcome: str = ""
    result: dict[str, Any] = field(default_factory=dict)

    def end(self, outcome: str, **result: Any) -> None:
        """It has ended now."""
        self.ended, self.outcome, self.result = time.monotonic_ns(), outcome, result

    @property
    def took_ms(self) -> float:
        """From invocation to end."""
        return (self.ended - self.invoked) / 1e6


class Journal:
    """All operations of a run."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self._numbers = count()

    def invoke(self, kind: str, who: str, **about: Any) -> Operation:
        """Note that an operation begins now."""
        operation = Operation(next(self._numbers), kind, who, about, time.monotonic_ns())
        self.operations.append(operation)
        return operation

    def of(self, kind: str, outcome: str = OK) -> Iterator[Operation]:
        """The operations of a kind that ended so."""
        return (o for o in self.operations if o.kind == kind and o.outcome == outcome)

    def write(self, file: Path) -> None:
        """Two JSON lines for each operation, in the order of time; one if it never ended."""
        lines: list[tuple[int, dict[str, Any]]] = []
        for operation in self.operations:
            told = asdict(operation)
            result = told.pop("result")
            invoked, ended, outcome = told.pop("invoked"), told.pop("ended"), told.pop("outcome")
            lines.append((invoked, told | {"event": "invoke"}))
            if outcome:
                lines.append((ended, told | result | {"event": outcome}))
        lines.sort(key=lambda line: line[0])
        with file.open("w", encoding="utf-8") as out:
            for at, line in lines:
                out.write(json.dumps({"ns": at} | line) + "\n")


def percentile(values: list[float], q: float) -> float:
    """The q-th percentile (0 to 100) of some measurements; not a number if there are none."""
    ordered = sorted(values)
    if not ordered:
        return float("nan")
    return ordered[min(len(ordered) - 1, int(len(ordered) * q / 100))]
