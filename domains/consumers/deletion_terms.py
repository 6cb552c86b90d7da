"""Within how long a data user has to delete, by the purpose that its consent was for.

Data, not code, in versions that never change under their number: each is in force from an instant
that it states, and a consent is judged by the one in force when it was over, so a later version
moves no day that was already set. A purpose that a version does not name has its default. UK GDPR,
Article 12(3), gives a month; what is shorter is this reference model's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from spine.policy_data import data_hash

DELETION_TERMS: Final[Mapping[int, Mapping[str, Any]]] = {
    1: {
        "version": 1,
        "in_force_from": "2025-01-01T00:00:00+00:00",
        "default_days": 30,
        "purposes": {},
    },
    # A comparison is made once, so that what it was made from is of no use afterwards.
    2: {
        "version": 2,
        "in_force_from": "2027-01-01T00:00:00+00:00",
        "default_days": 30,
        "purposes": {"PRICE_COMPARISON": 14},
    },
}
DELETION_TERMS_HASHES: Final = {
    version: data_hash(data) for version, data in DELETION_TERMS.items()
}
_FROM: Final = {
    version: datetime.fromisoformat(data["in_force_from"]).astimezone(UTC)
    for version, data in DELETION_TERMS.items()
}


def version_at(at: datetime) -> int:
    """The version in force at that instant; of before the first one, the first."""
    return max((version for version, start in _FROM.items() if start <= at), default=min(_FROM))


def term(purpose: str, since: datetime) -> timedelta:
    """Within how long after `since` what was got for that purpose has to be deleted."""
    data = DELETION_TERMS[version_at(since)]
    return timedelta(days=data["purposes"].get(purpose, data["default_days"]))
