"""The terms of each policy version: which basis carries which purposes, for which roles.

Data, not code: the governance fact that adopts a version pins its hash. An unknown code is a no.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Final

POLICY_DATA_V1: Final[Mapping[str, object]] = {
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


POLICY_DATA: Final[Mapping[int, Mapping[str, object]]] = {1: POLICY_DATA_V1}
POLICY_HASHES: Final[Mapping[int, bytes]] = {
    version: data_hash(data) for version, data in POLICY_DATA.items()
}
