"""The terms of version 2 of the policy: each lawful basis with what the sector's rules say of it.

Data, not code, and never changed: what is corrected is a next version. `sure` says whether the
rule was read in its source or is as understood; `source` names it, for a domain reader to confirm.

granularity        the finest data that the basis carries
opt_out            whether the occupier may object; `objection_shuts`: which categories that shuts
opt_in             whether nothing is open before the occupier said yes
aggregation_min    how many meters a figure is at least about: 1 is a meter's own data
reminder_months    how often the occupier is reminded that it stands; 0 is never
not_applied        parts of the rule that no fact here can decide, each with what holds instead
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

_ALL: Final = (
    *("HH_CONSUMPTION", "DAILY", "REGISTER", "TARIFF", "EXPORT", "ASSET"),
    *("METERING_POINT", "CONSENTS"),
)

POLICY_DATA_V2: Final[Mapping[str, Any]] = {
    "version": 2,
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
            "categories": list(_ALL),
            "granularity": "HALF_HOUR",
            "opt_out": False,
            "objection_shuts": [],
            "opt_in": True,
            "aggregation_min": 1,
            "reminder_months": 12,
            "sure": True,
            "source": "Supply licence condition 47 and the Data Access and Privacy Framework: data "
            "finer than a day, and any to other users, by explicit consent for a stated purpose, "
            "which can be withdrawn at any time. That a reminder is due each 12 months is as "
            "understood.",
            "not_applied": [
                {
                    "rule": "A competent independent organisation (CIO) assesses the privacy of "
                    "another user before its first access, as understood of the Smart Energy Code.",
                    "instead": "The end of its accreditation stands for the expiry of the "
                    "assessment: no fact says who assessed it.",
                },
            ],
        },
        "LEGAL_OBLIGATION": {
            "roles": ["supplier", "data_service"],
            "purposes": ["SETTLEMENT"],
            "categories": ["HH_CONSUMPTION", "EXPORT", "METERING_POINT"],
            "granularity": "HALF_HOUR",
            "opt_out": True,
            "objection_shuts": ["HH_CONSUMPTION", "EXPORT"],
            "opt_in": False,
            "aggregation_min": 1,
            "reminder_months": 0,
            "sure": True,
            "source": "Ofgem, decision on access to half-hourly electricity data for settlement "
            "purposes, 2019: a legal obligation to process it, unless a domestic consumer opts "
            "out. That an objection shuts export too is as understood.",
            "not_applied": [
                {
                    "rule": "A microbusiness cannot object.",
                    "instead": "Every occupier can: no fact says which one is a microbusiness.",
                },
                {
                    "rule": "A consumer whose contract is from before the reform opts in until it "
                    "changes.",
                    "instead": "Open unless objected to, as in version 1: no fact says when a "
                    "contract was made.",
                },
            ],
        },
        "OPT_OUT": {
            "roles": ["supplier"],
            "purposes": ["BILLING"],
            "categories": ["DAILY", "METERING_POINT"],
            "granularity": "DAY",
            "opt_out": True,
            "objection_shuts": ["DAILY"],
            "opt_in": False,
            "aggregation_min": 1,
            "reminder_months": 0,
            "sure": False,
            "source": "Supply licence condition 47 as understood: a supplier may use daily data "
            "unless the consumer objects.",
            "not_applied": [],
        },
        "CONTRACT": {
            "roles": ["supplier"],
            "purposes": ["BILLING"],
            "categories": ["REGISTER", "METERING_POINT"],
            "granularity": "MONTH",
            "opt_out": False,
            "objection_shuts": [],
            "opt_in": False,
            "aggregation_min": 1,
            "reminder_months": 0,
            "sure": False,
            "source": "Supply licence condition 47 as understood: a supplier may use monthly or "
            "coarser data for billing without consent.",
            "not_applied": [],
        },
        "SUBJECT": {
            "roles": ["consumer"],
            "purposes": ["OWN_USE"],
            "categories": list(_ALL),
            "granularity": "HALF_HOUR",
            "opt_out": False,
            "objection_shuts": [],
            "opt_in": False,
            "aggregation_min": 1,
            "reminder_months": 0,
            "sure": True,
            "source": "UK GDPR, Article 15: the subject's own.",
            "not_applied": [],
        },
    },
    "not_admitted": {
        "network_operator": {
            "aggregation_min": 5,
            "sure": False,
            "source": "Distribution licence as understood: a meter's own data only under an "
            "approved privacy plan. No plan is a fact here, and published aggregates, which need "
            "no consent, serve the purpose: so the role reads no meter.",
        },
    },
}
