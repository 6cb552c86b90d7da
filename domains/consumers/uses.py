"""What an objection would shut, and what allowing a use again would open, told before it is said.

As of policy 2: the days of each supply and appointment, as far as they lie within the stays that
the command is about. Whether who reads is accredited is said beside it
(`spine.in_force.reader_refusal`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from spine.gb import Interval
from spine.objections import Objection, objections_of
from spine.policy import MeterAccess, Role, stretch
from spine.policy_data import bases_of


@dataclass(frozen=True, slots=True)
class Use:
    """Values of one category, metered then, to one reader under a basis; `spine.gb.FOR_EVER` ends
    what has no end yet.
    """

    reader: str
    role: str
    category: str
    metered: Interval


def concerned(before: MeterAccess, after: MeterAccess, version: int) -> tuple[Use, ...]:
    """The uses that one state shuts and the other does not, in either direction."""
    moved = set(objections_of(before)) ^ set(objections_of(after))
    return tuple(use for one in sorted(moved, key=_key) for use in _shut(after, one, version))


def _key(one: Objection) -> tuple[str, str, str]:
    return one.basis, one.purpose, one.tenancy_id


def _shut(access: MeterAccess, objection: Objection, version: int) -> Iterator[Use]:
    terms = bases_of(version).get(objection.basis, {})
    stays = [
        part
        for tenancy in access.tenancies
        if tenancy.tenancy_id == objection.tenancy_id
        for part in stretch(tenancy.effective_from, tenancy.effective_to)
    ]
    for reader, role, held in _readers(access):
        if role not in terms.get("roles", ()):
            continue
        for stay in stays:
            if (metered := stay.intersect(held)) is not None:
                for category in terms.get("objection_shuts", ()):
                    yield Use(reader, role, category, metered)


def _readers(access: MeterAccess) -> Iterator[tuple[str, str, Interval]]:
    for supply in access.supplies:
        for part in stretch(supply.effective_from, supply.effective_to):
            yield supply.supplier, Role.SUPPLIER, part
    for served in access.appointments:
        for part in stretch(served.effective_from, served.effective_to):
            yield served.agent, served.agent_role, part
