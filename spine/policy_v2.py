"""Version 2 of the policy: what a supplier or an agent reads without consent, an occupier may shut.

As version 1, by the data of version 2. A basis that may be objected to opens the days of a supply
or an appointment less those tenancies whose occupier objected: its own half hours, whenever they
are read, and nobody else's.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from spine.errors import Reason
from spine.event import AccessRequest
from spine.gb import Interval
from spine.objections import objecting_to
from spine.policy import (
    Decision,
    MeterAccess,
    Permit,
    Refuse,
    Situation,
    by_appointment,
    judge,
    stretch,
)
from spine.policy_data_v2 import POLICY_DATA_V2

_BASES: Final[Any] = POLICY_DATA_V2["bases"]


def decide_v2(request: AccessRequest, situation: Situation) -> Decision:
    """Judge one request for one meter by version 2."""
    return judge(request, situation, POLICY_DATA_V2, _unless_objected)


def _unless_objected(request: AccessRequest, access: MeterAccess) -> Decision:
    """What the appointment opens, less what its occupiers shut; OPTED_OUT if nothing is left."""
    decision = by_appointment(request, access)
    if not isinstance(decision, Permit) or request.category not in _shut(request.basis):
        return decision
    if not (objected := _objected(request, access)):
        return decision  # of which `judge` takes what is asked
    asked = Interval(request.interval_from, request.interval_to)
    opened = [part for one in decision.covered if (part := asked.intersect(one)) is not None]
    left = tuple(without(opened, objected))
    return Refuse(Reason.OPTED_OUT) if opened and not left else Permit(left)


def _shut(basis: str) -> list[str]:
    """The categories that an objection to the basis shuts; none if nobody may object."""
    terms = _BASES[basis]
    shut: list[str] = terms["objection_shuts"] if terms["opt_out"] else []
    return shut


def _objected(request: AccessRequest, access: MeterAccess) -> list[Interval]:
    """The stays of those who object to this use."""
    theirs = objecting_to(access, request.basis, request.purpose)
    stays = (t for t in access.tenancies if t.tenancy_id in theirs)
    return [part for t in stays for part in stretch(t.effective_from, t.effective_to)]


def without(opened: Iterable[Interval], shut: Iterable[Interval]) -> list[Interval]:
    """The parts of these that lie in none of those."""
    left = list(opened)
    for gone in shut:
        left = [
            Interval(start, end)
            for one in left
            for start, end in (
                (one.start, min(one.end, gone.start)),
                (max(one.start, gone.end), one.end),
            )
            if start < end
        ]
    return left
