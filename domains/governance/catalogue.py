"""The data sets of governance, and its lists of standing data.

Nobody was appointed to govern a platform that is a reference model: the board of the installation
does. The codes that the policy judges by are held by the versioned policy data; these lists only
describe them, and no code can be listed that the policy data of this build does not hold.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from spine import trust
from spine.catalogue import Appointment, DataDomain, DataSet, Label, Personal
from spine.codelist import ListSpec, specs_by_name, standing_data
from spine.domain import Domain
from spine.event import SignerRole
from spine.policy import Role
from spine.policy_data import POLICY_DATA


def policy_codes(kind: str) -> frozenset[str]:
    """The purposes or categories of every policy version that this build knows."""
    return frozenset(_codes(kind))


def _codes(kind: str) -> Iterator[str]:
    for data in POLICY_DATA.values():
        bases: Any = data["bases"]
        for terms in bases.values():
            yield from terms[kind]


def policy_bases() -> frozenset[str]:
    """The lawful bases of every policy version that this build knows."""
    bases: list[Any] = [data["bases"] for data in POLICY_DATA.values()]
    return frozenset(basis for each in bases for basis in each)


LISTS: Final = specs_by_name(
    ListSpec("roles", "Roles that a certificate can name", only=frozenset(Role)),
    ListSpec("purposes", "Purposes of a read", only=policy_codes("purposes")),
    ListSpec(
        "categories",
        "Categories of data",
        optional=("sensitivity",),  # a log may hold the list from before it said so
        only=policy_codes("categories"),
    ),
    ListSpec("lawful_bases", "Lawful bases of a read", only=policy_bases()),
    ListSpec("sensitivity_labels", "Sensitivity labels of data sets", only=frozenset(Label)),
)

GOVERNANCE_STANDING: Final[Domain] = standing_data(
    trust.GOVERNANCE_REFERENCE, SignerRole.GOVERNANCE, LISTS
)

DATA_DOMAIN: Final = DataDomain(
    "governance",
    "Governance",
    "governance board of the installation",
    Appointment.NONE,
    (
        DataSet(
            "participants",
            "Participants and their accreditations",
            "Which organisations may act, in which roles, for which purposes, and since when.",
            "governance board of the installation",
            Label.SHARED,
            Personal.NONE,
            "Anybody with a certificate may ask.",
            (trust.GOVERNANCE_TOPIC,),
            methods=("spine.governance.v1.Governance/ListParticipants",),
        ),
        DataSet(
            "access_register",
            "Register of reads",
            "Every request to read, what was decided of it, and what was given out.",
            "governance board of the installation",
            Label.CLOSED,
            Personal.PSEUDONYMOUS,
            "For audits of the installation.",
            (trust.CONSUMER_LOG, trust.OUTCOMES_TOPIC),
        ),
        DataSet(
            "quarantine",
            "Quarantined records and held parties",
            "Records that a fold refused, whole, with their rules; parties that are held, and why.",
            "governance board of the installation",
            Label.CLOSED,
            Personal.PSEUDONYMOUS,
            "For whoever runs the installation.",
            (trust.QUARANTINE_TOPIC,),
        ),
        DataSet(
            "governance_standing_data",
            "Standing data of governance",
            "Roles, purposes, categories, lawful bases and labels, each entry with its days.",
            "governance board of the installation",
            Label.OPEN,
            Personal.NONE,
            "Anybody with a certificate may ask.",
            (trust.GOVERNANCE_REFERENCE,),
            methods=("spine.reference.v1.Reference/ListCodes",),
            licence="as each entry says",
        ),
    ),
    trust.GOVERNANCE_REFERENCE,
    LISTS,
)
