"""What is in force as the fold that decides has been told: the policy, accreditations. Pure.

A rule that looks at the codes of the policy goes by the version that governance adopted, and never
by the newest that this build knows: a newer build would let in what reads are not judged by yet.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any

from spine import trust
from spine.accreditation import accreditation_refusal
from spine.errors import Reason
from spine.policy_data import FIRST_POLICY, bases_of
from spine.view import PartitionView


def policy_in_force(view: PartitionView) -> int:
    """The version in force there; the first if the partition was told of none yet."""
    policy = view.standing(trust.POLICY_SUBJECT).policy
    return FIRST_POLICY if policy is None else policy.version


def under_policy(view: PartitionView, command: Any) -> Any:
    """The command with the version in force, if it has a place for one (`policy_version`)."""
    if not hasattr(command, "policy_version"):
        return command
    in_force = policy_in_force(view)
    if command.policy_version == in_force:
        return command
    return replace(command, policy_version=in_force)


def reader_refusal(
    view: PartitionView,
    party: str,
    basis: str,
    purpose: str,
    now: datetime,
    role: str | None = None,
) -> Reason | None:
    """Why a read under this basis would be refused as governance stands, whatever the meter says.

    None if the party may read in that role; of no role, in one of those that the basis is for, and
    the reason is that of the first. Nobody reads by a version that this build does not know.
    """
    version, table = policy_in_force(view), view.equivalence()
    bases, who = bases_of(version), view.participant(party)
    if not bases:
        return Reason.PARTITION_CLOSED
    said = [
        accreditation_refusal(who, each, now, purpose, table, policy_version=version)
        for each in (bases[basis]["roles"] if role is None else (role,))
    ]
    return said[0] if None not in said else None
