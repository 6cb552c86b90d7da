"""The data sets of the consumer domain, which RECCo coordinates (white paper, chapter 13).

It has no lists of standing data: its codes are those of the policy, which governance describes, and
its reference topic is the home of consents over several meters.
"""

from __future__ import annotations

from typing import Final

from spine import trust
from spine.catalogue import Appointment, DataDomain, DataSet, Label, Personal

DATA_DOMAIN: Final = DataDomain(
    "consumers",
    "Consumers",
    "RECCo",
    Appointment.APPOINTED,
    (
        DataSet(
            "consents",
            "Consents",
            "What a consumer allows whom to read, for what, and until when, in every version.",
            "the consumer who consented",
            Label.SHARED,
            Personal.PSEUDONYMOUS,
            "Its parties, decided for each read.",
            (trust.CONSUMER_LOG, trust.CONSUMERS_REFERENCE, trust.ACKNOWLEDGEMENTS_TOPIC),
            ("CONSENTS",),
            (
                "spine.dsi.v1.Dsi/ListConsents",
                "spine.dsi.v1.Dsi/ListTenancies",
                "spine.dsi.v1.Dsi/GetPersonalRecord",
            ),
        ),
        DataSet(
            "occupancy",
            "Tenancies, supplies and agents",
            "Who lives at, supplies and serves a meter, since when; names and contacts are sealed.",
            "the consumer, and the supplier at the meter",
            Label.CLOSED,
            Personal.PERSONAL,
            "Nobody: reads are decided by it.",
            (trust.CONSUMER_LOG, trust.ERASURES_TOPIC),
        ),
    ),
)
