"""What an order of a consent does at each of its meters, and which meters it may name."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from domains.consumers.commands import (
    DeclineConsent,
    GrantConsent,
    NarrowConsent,
    RequestConsent,
    ResumeConsent,
    RevokeConsent,
    SuspendConsent,
    WithdrawConsent,
)
from spine.errors import Reason, Refused

METERS_MAX: Final = 1_000


class Action(StrEnum):
    """What an order does at each of its meters."""

    REQUEST = "REQUEST"
    GRANT = "GRANT"
    DECLINE = "DECLINE"
    NARROW = "NARROW"
    SUSPEND = "SUSPEND"
    RESUME = "RESUME"
    REVOKE = "REVOKE"
    WITHDRAW = "WITHDRAW"


COMMANDS: Final[Mapping[str, type]] = {
    Action.REQUEST: RequestConsent,
    Action.GRANT: GrantConsent,
    Action.DECLINE: DeclineConsent,
    Action.NARROW: NarrowConsent,
    Action.SUSPEND: SuspendConsent,
    Action.RESUME: ResumeConsent,
    Action.REVOKE: RevokeConsent,
    Action.WITHDRAW: WithdrawConsent,
}
ENDING: Final = frozenset({Action.DECLINE, Action.REVOKE, Action.WITHDRAW})


def check_meters(mpxns: tuple[str, ...]) -> None:
    """Refuse no meter, too many and one that is named twice."""
    if not mpxns:
        raise Refused(Reason.FIELD_MISSING, "a consent names at least one meter")
    if len(mpxns) > METERS_MAX:
        raise Refused(Reason.REQUEST_TOO_LARGE, f"a consent names at most {METERS_MAX} meters")
    if len(set(mpxns)) < len(mpxns):
        raise Refused(Reason.FIELD_INVALID, "a meter is named twice")
