"""The equivalence table: which accreditation of one scheme counts as which of another.

Facts, adopted whole and in versions by governance. `spine.accreditation` judges by them. A table
comes as a CSV file with a header line that names the six columns of a row, in any order.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields
from typing import Final

from spine.domain import Actor
from spine.errors import Invalid, Reason, Refused
from spine.policy_data import FIRST_POLICY, purposes_of
from spine.trust import (
    Equivalence,
    EquivalenceRow,
    EquivalenceTableAdopted,
    GovernanceState,
)

ROWS_MAX: Final = 1_000
COLUMNS: Final = tuple(field.name for field in fields(EquivalenceRow))
_CODE: Final = re.compile(r"[A-Z0-9_]{1,64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class AdoptEquivalenceTable:
    """Judge accreditations of other schemes by these rows from now on.

    `version` is one more than the one in force, so that nobody replaces a table unseen.
    """

    by: Actor
    version: int
    rows: tuple[EquivalenceRow, ...]
    policy_version: int = FIRST_POLICY


def adopt(
    state: GovernanceState, command: AdoptEquivalenceTable
) -> tuple[EquivalenceTableAdopted, ...]:
    """The fact that adopts the table; none if it is in force already.

    Refused  FIELD_INVALID: too many rows, one twice, a scheme equal to itself, no code;
             CODE_UNKNOWN: a purpose that the policy in force does not know;
             EQUIVALENCE_STATE: the version is not the next one
    """
    rows = tuple(sorted(command.rows, key=astuple))
    _check(rows, purposes_of(command.policy_version))
    in_force = state if isinstance(state, Equivalence) else Equivalence(0, ())
    if in_force == Equivalence(command.version, rows):
        return ()
    if command.version != in_force.version + 1:
        message = f"version {in_force.version} is in force; the next is {in_force.version + 1}"
        raise Refused(Reason.EQUIVALENCE_STATE, message, field="version")
    return (EquivalenceTableAdopted(command.version, rows),)


def _check(rows: tuple[EquivalenceRow, ...], purposes: frozenset[str]) -> None:
    if len(rows) > ROWS_MAX:
        raise Refused(Reason.FIELD_INVALID, f"at most {ROWS_MAX} rows", field="rows")
    if len(set(rows)) < len(rows):
        raise Refused(Reason.FIELD_INVALID, "a row stands there twice", field="rows")
    for row in rows:
        schemes, tiers = (row.from_scheme, row.to_scheme), (row.from_tier, row.to_tier)
        if not all(_CODE.fullmatch(code) for code in (*schemes, *filter(None, tiers))):
            message = "schemes and tiers are 1 to 64 of A-Z 0-9 _; a tier may be empty"
            raise Refused(Reason.FIELD_INVALID, message, field="rows")
        if row.from_scheme == row.to_scheme:
            raise Refused(Reason.FIELD_INVALID, "a row leads to another scheme", field="rows")
        if not {row.from_purpose, row.to_purpose} <= purposes:
            raise Refused(Reason.CODE_UNKNOWN, "a row is about a known purpose", field="rows")


def parse_table(text: str) -> tuple[EquivalenceRow, ...]:
    """The rows of a table as a CSV file holds it; Invalid(FILE_UNRECOGNISED) for anything else.

    Empty lines and lines that begin with # say nothing.
    """
    lines = (line for line in text.splitlines() if line.strip() and not line.startswith("#"))
    return tuple(_rows(csv.reader(lines, strict=True)))


def _rows(lines: Iterable[list[str]]) -> Iterable[EquivalenceRow]:
    header: list[str] = []
    try:
        for number, cells in enumerate(lines):
            values = [cell.strip() for cell in cells]
            if number == 0:
                header = values
                if sorted(header) != sorted(COLUMNS):
                    raise Invalid(Reason.FILE_UNRECOGNISED, f"the columns are {', '.join(COLUMNS)}")
                continue
            if len(values) != len(header):
                message = f"row {number} has {len(values)} cells and not {len(header)}"
                raise Invalid(Reason.FILE_UNRECOGNISED, message)
            yield EquivalenceRow(**dict(zip(header, values, strict=True)))
    except csv.Error as error:
        raise Invalid(Reason.FILE_UNRECOGNISED, f"this is no CSV file: {error}") from None
    if not header:
        raise Invalid(Reason.FILE_EMPTY, "an equivalence table has at least its header line")
