"""The terms of each policy version: which basis carries which purposes, for which roles.

Data, not code: the governance fact that adopts a version pins its hash. An unknown code is a no.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Final

from spine.policy_data_v2 import POLICY_DATA_V2

# What a log without a fact about the policy, or a rule without a log, goes by.
FIRST_POLICY: Final = 1
POLICY_DATA_V1: Final[Mapping[str, Any]] = {
    "version": 1,
    "quantities": {
        "HH_CONSUMPTION": ["AI", "RI"],
        "EXPORT": ["AE", "RE"],
    },
    "bases": {
        "CONSENT": {
            "roles": ["data_user", "supplier"],
            "purposes": [
                "ENERGY_ADVICE",
                "FLEXIBILITY",
                "PRICE_COMPARISON",
                "CARBON_REPORTING",
                "RESEARCH",
                "BILLING",
            ],
            "categories": [
                "HH_CONSUMPTION",
                "DAILY",
                "REGISTER",
                "TARIFF",
                "EXPORT",
                "ASSET",
                "METERING_POINT",
                "CONSENTS",
            ],
        },
        "LEGAL_OBLIGATION": {
            "roles": ["supplier", "data_service"],
            "purposes": ["SETTLEMENT"],
            "categories": ["HH_CONSUMPTION", "EXPORT", "METERING_POINT"],
        },
        "CONTRACT": {
            "roles": ["supplier"],
            "purposes": ["BILLING"],
            "categories": ["DAILY", "REGISTER", "METERING_POINT"],
        },
        "SUBJECT": {
            "roles": ["consumer"],
            "purposes": ["OWN_USE"],
            "categories": [
                "HH_CONSUMPTION",
                "DAILY",
                "REGISTER",
                "TARIFF",
                "EXPORT",
                "ASSET",
                "METERING_POINT",
                "CONSENTS",
            ],
        },
    },
}


def data_hash(data: Mapping[str, object]) -> bytes:
    """SHA-256 of policy data as canonical JSON."""
    return hashlib.sha256(json.dumps(data, sort_keys=True, separators=(",", ":")).encode()).digest()


POLICY_DATA: Final[Mapping[int, Mapping[str, Any]]] = {1: POLICY_DATA_V1, 2: POLICY_DATA_V2}
POLICY_HASHES: Final[Mapping[int, bytes]] = {
    version: data_hash(data) for version, data in POLICY_DATA.items()
}


def bases_of(version: int) -> Mapping[str, Any]:
    """The bases of a version by their codes; none of one that this build does not know."""
    bases: Mapping[str, Any] = POLICY_DATA.get(version, {}).get("bases", {})
    return bases


def purposes_of(version: int, role: str | None = None) -> frozenset[str]:
    """The purposes that a version lets a role claim by any basis; of every role without one."""
    return frozenset(
        purpose
        for terms in bases_of(version).values()
        if role is None or role in terms["roles"]
        for purpose in terms["purposes"]
    )
