"""What an occupier objects to: a use of its meter's data that needs no consent. Pure.

An objection is of one tenancy, so the next occupier has not objected. Which uses can be objected to
is data of the version of the policy (`opt_out`).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from spine.policy import MeterAccess
from spine.policy_data import bases_of


@dataclass(frozen=True, slots=True)
class Objection:
    """The occupier of that tenancy objects to reads under this basis for this purpose."""

    basis: str
    purpose: str
    tenancy_id: str
    objected_at: datetime


def objections_of(access: MeterAccess) -> tuple[Objection, ...]:
    """What stands objected to at a meter; a state without any has no place for them."""
    found: tuple[Objection, ...] = getattr(access, "objections", ())
    return found


def objecting_to(access: MeterAccess, basis: str, purpose: str) -> set[str]:
    """The tenancies whose occupier objects to that use."""
    return {o.tenancy_id for o in objections_of(access) if (o.basis, o.purpose) == (basis, purpose)}


def uses_to_object_to(version: int) -> tuple[tuple[str, str], ...]:
    """The uses, as basis and purpose, that an occupier may object to under that version."""
    return tuple(
        (basis, purpose)
        for basis, terms in bases_of(version).items()
        if terms.get("opt_out")
        for purpose in terms["purposes"]
    )
