"""Whether an organisation may act in a role now, by what it is accredited for. Pure.

The DSI and the consumers coordinator (the CCS side) each judge in a scheme of their own. An
accreditation of that scheme counts there as it is. One of another scheme counts only by a row of
the equivalence table that governance adopted: same role, that very tier, that very purpose. A row
is one step; rows are never chained. In a log that holds no table yet every scheme counts, as it
always did, so what was decided before a table is decided the same again.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from datetime import datetime
from typing import Final

from spine.errors import Reason
from spine.policy_data import FIRST_POLICY, purposes_of
from spine.trust import Accreditation, Equivalence, EquivalenceRow, Participant

# The schemes in which the two sides judge.
DSI: Final = "DSI"
CCS: Final = "CCS"


def accreditation_refusal(
    participant: Participant | None,
    role: str,
    now: datetime,
    purpose: str | None = None,
    equivalence: Equivalence | None = None,
    scheme: str = DSI,
    policy_version: int = FIRST_POLICY,
) -> Reason | None:
    """Why an organisation may not act in this role (for this purpose) now; None if it may.

    A purpose is needed wherever a table is in force, whose rows are each about one. The version of
    the policy says for which purposes a role is held at all.
    """
    if participant is None:
        return Reason.PARTICIPANT_UNKNOWN
    if participant.suspended:
        return Reason.PARTICIPANT_SUSPENDED
    held = [a for a in participant.accreditations if a.role == role and a.live_at(now)]
    if equivalence is None:
        fits = any(purpose is None or a.is_for(purpose) for a in held)
        return None if fits else Reason.ACCREDITATION_MISSING
    asked = purpose or ""
    if any(a.scheme == scheme and a.is_for(asked) for a in held):
        return None
    if any(row_for(a, asked, equivalence, scheme, policy_version) is not None for a in held):
        return None
    foreign = any(a.scheme != scheme for a in held)
    return Reason.ACCREDITATION_NOT_EQUIVALENT if foreign else Reason.ACCREDITATION_MISSING


def row_for(
    held: Accreditation,
    purpose: str,
    equivalence: Equivalence,
    scheme: str,
    policy_version: int = FIRST_POLICY,
) -> EquivalenceRow | None:
    """The row by which it counts in that scheme for that purpose; None if none does.

    One of that scheme itself counts as it is, and no row widens it. One that names no purposes is
    held for all that this version of the policy allows its role, so a row from a purpose that is
    none of the role's leads nowhere.
    """
    if held.scheme == scheme:
        return None
    purposes = held.purposes or purposes_of(policy_version, held.role)
    for row in equivalence.rows:
        if (
            (row.from_scheme, row.from_tier) == (held.scheme, held.tier)
            and (row.to_scheme, row.to_purpose) == (scheme, purpose)
            and row.from_purpose in purposes
        ):
            return row
    return None


def table_digest(equivalence: Equivalence) -> bytes:
    """SHA-256 of the version and its rows as canonical JSON: what two sides compare."""
    said = {"version": equivalence.version, "rows": [asdict(row) for row in equivalence.rows]}
    return hashlib.sha256(json.dumps(said, sort_keys=True, separators=(",", ":")).encode()).digest()
