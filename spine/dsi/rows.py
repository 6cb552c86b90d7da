"""Half hours as the DSI sends them: one message each, or column by column."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from spine.answer import ABSENT, HalfHour, HalfHours
from spine.dsi.v1 import dsi_pb2
from spine.gb import half_hour_start
from spine.services import wire


def half_hours(rows: Sequence[HalfHour], in_columns: bool) -> dict[str, Any]:
    """The field of a response that holds these half hours."""
    if not in_columns:
        return {"rows": [_half_hour(row) for row in rows]}
    return {"columns": _columns(rows) if isinstance(rows, HalfHours) else None}


def _half_hour(row: HalfHour) -> Any:
    if row.recorded is None:
        return dsi_pb2.HalfHour(start=wire.stamp(row.start), absent=f"ABSENT_{row.absent}")
    recorded = row.recorded
    return dsi_pb2.HalfHour(
        start=wire.stamp(row.start),
        value_wh=recorded.value_wh,
        quality=recorded.quality,
        version=dsi_pb2.Version(offset=recorded.offset, row=recorded.row),
    )


def _columns(rows: HalfHours) -> Any:
    """Values, and runs of half hours that are absent alike or recorded by the same version."""
    columns, recorded = rows.columns, rows.absent == 0
    alike = np.stack((rows.absent, columns.quality, columns.offsets, columns.rows))
    alike[1:, ~recorded] = 0
    edges = np.flatnonzero((alike[:, 1:] != alike[:, :-1]).any(axis=0)) + 1
    return dsi_pb2.HalfHourColumns(
        start=wire.stamp(half_hour_start(columns.first)),
        values_wh=columns.values_wh[recorded].tolist(),
        runs=[_run(rows, *run) for run in pairwise((0, *edges.tolist(), len(rows)))],
    )


def _run(rows: HalfHours, begin: int, end: int) -> Any:
    why = ABSENT[rows.absent[begin]]
    if why is not None:
        return dsi_pb2.HalfHourRun(half_hours=end - begin, absent=f"ABSENT_{why}")
    columns = rows.columns
    return dsi_pb2.HalfHourRun(
        half_hours=end - begin,
        quality=columns.qualities[columns.quality[begin]],
        version=dsi_pb2.Version(offset=int(columns.offsets[begin]), row=int(columns.rows[begin])),
    )
