"""The data sets of metering, and its lists of standing data.

Elexon coordinates the domain under the Energy Digitalisation Framework (white paper, chapter 13).
"""

from __future__ import annotations

import re
from typing import Final

from domains.metering.events import MeasurementQuantity
from spine import trust
from spine.catalogue import Appointment, DataDomain, DataSet, Label, Personal
from spine.codelist import ListSpec, specs_by_name, standing_data
from spine.domain import Domain
from spine.event import SignerRole
from spine.gb import GspGroup

DISTRIBUTORS: Final = "distributors"
GSP_GROUPS: Final = "gsp_groups"
LV_FEEDERS: Final = "lv_feeders"
_DAY: Final = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)

LISTS: Final = specs_by_name(
    ListSpec(
        DISTRIBUTORS,
        "Distributor ids, the first two digits of an MPAN",
        re.compile(r"[1-9][0-9]", re.ASCII),
        ("kind", "mpid"),
        ("gsp_group",),
    ),
    ListSpec(
        GSP_GROUPS,
        "GSP groups, the regions of settlement",
        re.compile(r"_[A-Z]", re.ASCII),
        optional=("distributor",),
        only=frozenset(GspGroup),
    ),
    ListSpec(
        LV_FEEDERS,
        "Low voltage feeders, by the dataset id of their aggregates; those shipped are synthetic",
        attributes=(
            "gsp_group",
            "lv_feeder_id",
            "secondary_substation_id",
            "secondary_substation_name",
        ),
    ),
    ListSpec(
        "measurement_quantities",
        "Measurement quantities",
        only=frozenset(MeasurementQuantity),
        attributes=("unit",),
    ),
    ListSpec("energisation_statuses", "Energisation statuses"),
    ListSpec("profile_classes", "Profile classes", re.compile(r"0[0-8]", re.ASCII)),
    ListSpec(
        "settlement_runs",
        "Settlement runs, and how long after the settlement day they come",
        attributes=("offset", "unit"),
    ),
    ListSpec(
        "clock_changes",
        "Settlement days of 46 or 50 periods; each entry holds on its own day",
        _DAY,
        ("periods",),
    ),
    ListSpec(
        "bank_holidays_england_and_wales",
        "Bank holidays, England and Wales; each entry holds on its own day",
        _DAY,
        optional=("note",),
    ),
    ListSpec(
        "bank_holidays_scotland",
        "Bank holidays, Scotland; each entry holds on its own day",
        _DAY,
        optional=("note",),
    ),
)

METERING_STANDING: Final[Domain] = standing_data(
    trust.METERING_REFERENCE, SignerRole.METERING, LISTS
)

DATA_DOMAIN: Final = DataDomain(
    "metering",
    "Metering",
    "Elexon",
    Appointment.APPOINTED,
    (
        DataSet(
            "metering_points",
            "Metering points",
            "Which metering points there are, from when to when, and their region and direction.",
            "the registration services of the distributors",
            Label.SHARED,
            Personal.PSEUDONYMOUS,
            "By consent or duty, decided for each read.",
            (trust.METERING_TOPIC,),
            ("METERING_POINT",),
            ("spine.dsi.v1.Dsi/GetMeteringPoint",),
        ),
        DataSet(
            "half_hourly_readings",
            "Half-hourly readings",
            "Energy of each half hour in whole Wh, with quality, in every version that was sent.",
            "the consumer at the metering point",
            Label.SHARED,
            Personal.PSEUDONYMOUS,
            "By consent or duty, decided for each read.",
            (trust.READINGS_TOPIC,),
            ("HH_CONSUMPTION", "EXPORT"),
            ("spine.dsi.v1.Dsi/GetReadings", "spine.dsi.v1.Dsi/StreamReadings"),
        ),
        DataSet(
            "aggregated_consumption",
            "Consumption by low voltage feeder and GSP group (synthetic feeders)",
            "What the meters of a group used together in each half hour of a UTC day, in Wh: five "
            "or more, in fixed bundles. Which meter is on which feeder is made up.",
            "the metering coordinator",
            Label.OPEN,
            Personal.NONE,
            "Anybody with a certificate may ask.",
            (trust.AGGREGATES_TOPIC,),
            methods=("spine.metering.v1.Aggregates/ListAggregates",),
            licence="chosen by whoever runs the spine",
        ),
        DataSet(
            "metering_standing_data",
            "Standing data of metering",
            "Distributors, GSP groups, calendars and code lists, each entry with its days.",
            "the source that each entry names",
            Label.OPEN,
            Personal.NONE,
            "Anybody with a certificate may ask.",
            (trust.METERING_REFERENCE,),
            methods=("spine.reference.v1.Reference/ListCodes",),
            licence="as each entry says",
        ),
    ),
    trust.METERING_REFERENCE,
    LISTS,
)
