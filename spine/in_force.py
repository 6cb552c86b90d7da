"""The version of the policy in force, as the fold that decides has been told. Pure.

A rule that looks at the codes of the policy goes by the version that governance adopted, and never
by the newest that this build knows: a newer build would let in what reads are not judged by yet.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from spine import trust
from spine.policy_data import FIRST_POLICY
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
