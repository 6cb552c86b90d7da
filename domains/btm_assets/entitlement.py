"""Whose meter it is to say something of: who serves a meter, or was let in by its occupier. Pure.

The chain of a meter's assets knows no supplies and no consents: those stand in the meter's
partition of the consumer log, which the coordinator folds as well. It asks here first, as the
metering coordinator asks for the senders of readings.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

from domains.btm_assets.commands import (
    ActivateAsset,
    AssetCommand,
    DeclareAsset,
    LinkAsset,
    RejectAsset,
    TransferAsset,
    VerifyAsset,
    check_role,
)
from spine.domain import Actor
from spine.errors import NotPermitted, Reason
from spine.policy import Category, MeterAccess, Role, consent_refusal

# What changes what is said of a meter. The others only take something away, which whoever has a
# part in the asset may still do after the meter has gone to somebody else.
_SAY_SOMETHING: Final = (
    ActivateAsset,
    DeclareAsset,
    LinkAsset,
    RejectAsset,
    TransferAsset,
    VerifyAsset,
)
_FOR_ALL_METERS: Final = frozenset({Role.CONSENT_SERVICE, Role.GOVERNANCE})


def check_entitled(access: MeterAccess, command: AssetCommand, now: datetime) -> None:
    """NotPermitted(NOT_PERMITTED) unless the meter is the actor's to say this of at `now`.

    The refusal is the same whether the meter is known or not. ROLE_NOT_ALLOWED if the role may
    never do this, wherever it serves.
    """
    check_role(command)
    if needs_entitlement(command) and not entitled(access, command.by, now):
        raise NotPermitted(Reason.NOT_PERMITTED, "the actor does not serve this meter")


def needs_entitlement(command: AssetCommand) -> bool:
    """Whether the command hangs on whom the meter is served by."""
    return isinstance(command, _SAY_SOMETHING)


def entitled(access: MeterAccess, by: Actor, now: datetime) -> bool:
    """Whether the actor supplies the meter, is its data service, or has the occupier's consent to
    its assets; those that act for all meters always are.
    """
    if by.role in _FOR_ALL_METERS:
        return True
    if by.role == Role.SUPPLIER:
        return any(
            s.supplier == by.party and _live(s.effective_from, s.effective_to, now)
            for s in access.supplies
        )
    if by.role == Role.DATA_SERVICE:
        return any(
            (a.agent, a.agent_role) == (by.party, Role.DATA_SERVICE)
            and _live(a.effective_from, a.effective_to, now)
            for a in access.appointments
        )
    return by.role == Role.DATA_USER and any(
        c.data_user == by.party
        and Category.ASSET in c.categories
        and consent_refusal(c, access, now) is None
        for c in access.consents
    )


def _live(start: datetime, end: datetime | None, now: datetime) -> bool:
    return start <= now and (end is None or now < end)
