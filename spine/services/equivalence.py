"""The equivalence table between the wire and the facts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from spine.accreditation import table_digest
from spine.governance.v1 import governance_pb2
from spine.trust import Equivalence, EquivalenceRow


def rows_said(rows: Iterable[Any]) -> tuple[EquivalenceRow, ...]:
    """The rows of a message."""
    return tuple(
        EquivalenceRow(
            row.from_scheme,
            row.from_tier,
            row.from_purpose,
            row.to_scheme,
            row.to_tier,
            row.to_purpose,
        )
        for row in rows
    )


def table_shown(table: Equivalence | None) -> Any:
    """A table as a message; version 0 if there is none."""
    if table is None:
        return governance_pb2.EquivalenceTable()
    return governance_pb2.EquivalenceTable(
        version=table.version,
        rows=[governance_pb2.EquivalenceRow(**asdict(row)) for row in table.rows],
        digest=table_digest(table),
    )
