"""Meter histories in the shape that PERSE gives them, for tests that send readings."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import date
from typing import Any

from spine.gb import SettlementDate


def perse(mpan: str, days: Iterable[date], first: int | None = None) -> bytes:
    """A meter history with 1, 2, 3 ... Wh in the periods of each local day, or its first few."""
    told: list[dict[str, Any]] = []
    for day in days:
        periods = SettlementDate(day).periods
        held = [n / 1000 if n <= min(periods, first or 50) else None for n in range(1, 51)]
        values: dict[str, Any] = {f"P{n}": value for n, value in enumerate(held, 1)}
        flags = {f"UT{n}": None if value is None else "A" for n, value in enumerate(held, 1)}
        told.append({"Date": str(day), "MPAN": mpan, "MeasurementQuantity": "AI"} | values | flags)
    return json.dumps({"meta": {}, "data": told}).encode()
