"""CheckAccess: what a read would come to, and the fact that settles it. Advisory, never fenced."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from msgspec.structs import replace

from domains.consumers.decider import CONSUMERS
from spine.access import AccessLog
from spine.codec import unpack
from spine.errors import Reason
from spine.event import AccessRequest, from_epoch_ms
from spine.gb import HALF_HOUR
from spine.identity import Caller
from spine.murmur2 import murmur2_partition
from spine.partition import PartitionFold
from spine.policy import Basis, Category, Consent, MeterAccess, Permit, Role
from spine.rows import subject_history

NOBODY: Final = bytes(32)
QUANTITY_OF: Final[Mapping[str, str]] = {Category.HH_CONSUMPTION: "AI", Category.EXPORT: "AE"}


@dataclass(frozen=True, slots=True)
class Advice:
    """What would happen. `rule` and `fact` (partition, offset, entry) only for those concerned."""

    would_permit: bool
    reason: str
    rule: str = ""
    fact: tuple[int, int, int] | None = None
    consent_id: str = ""


STRANGER: Final = Advice(False, Reason.NOT_PERMITTED)


class Adviser:
    """Answers from the folded state as it is."""

    def __init__(self, access: Mapping[int, AccessLog]) -> None:
        self._access = access

    def advise(
        self, caller: Caller, mpxn: str, data_user: str, purpose: str, category: str
    ) -> Advice:
        """Advice on one pair; to anybody not concerned, the same as for an unknown meter."""
        partition = murmur2_partition(mpxn.encode(), len(self._access))
        fold = self._access[partition].live.stored.fold
        access = fold.subject(mpxn).state
        if not _concerned(caller, access, data_user):
            return STRANGER
        now_ms = time.time_ns() // 1_000_000
        role = _role_of(fold, data_user)
        request = _as_if(data_user, role, purpose, category, mpxn, now_ms)
        own = partial(_own, caller)
        judged = fold.judge(request, mpxn, now_ms, seen=own)
        access = own(access)
        rule = f"policy {judged.policy_version}: {Basis.CONSENT.lower()}"
        decision = judged.decision
        if isinstance(decision, Permit):
            fact = _last_change(fold, mpxn, decision.consent_id)
            return Advice(True, "", rule, fact, decision.consent_id)
        if not decision.concerned and caller.role not in (Role.CONSUMER, Role.CONSENT_SERVICE):
            return STRANGER
        nearest = _nearest(access, data_user, purpose, category)
        fact = _last_change(fold, mpxn, nearest)
        return Advice(False, decision.reason, rule, fact, nearest)


def _own(caller: Caller, access: MeterAccess) -> MeterAccess:
    """What advice to this caller may rest on: a consumer's own consents, not its successor's."""
    if caller.role is not Role.CONSUMER:
        return access
    return replace(
        access, consents=tuple(c for c in access.consents if c.consumer_ref == caller.party)
    )


def _nearest(access: MeterAccess, data_user: str, purpose: str, category: str) -> str:
    """The consent a refusal is about: the last changed that was meant for this; empty if none."""
    meant = [
        c
        for c in access.consents
        if c.data_user == data_user and c.purpose == purpose and category in c.categories
    ]
    return max(meant, key=lambda c: (c.changed_at, c.consent_id)).consent_id if meant else ""


def _concerned(caller: Caller, access: MeterAccess, data_user: str) -> bool:
    if caller.role is Role.CONSUMER:
        return any(t.consumer_ref == caller.party for t in access.tenancies)
    if caller.role is Role.CONSENT_SERVICE:
        return True
    return caller.party == data_user


def _role_of(fold: PartitionFold, data_user: str) -> Role:
    """In which role a party would read by consent: a supplier that is nothing else, as supplier."""
    participant = fold.participant(data_user)
    roles = {held.role for held in participant.accreditations} if participant else set()
    only_supplier = Role.SUPPLIER in roles and Role.DATA_USER not in roles
    return Role.SUPPLIER if only_supplier else Role.DATA_USER


def _as_if(
    data_user: str, role: Role, purpose: str, category: str, mpxn: str, now_ms: int
) -> AccessRequest:
    """The read the question is about: the last half hour, by consent."""
    end = from_epoch_ms(now_ms)
    return AccessRequest(
        bytes(16),
        data_user,
        role,
        NOBODY,
        "",
        "CheckAccess",
        purpose,
        Basis.CONSENT,
        category,
        QUANTITY_OF.get(category, ""),
        "",
        (mpxn,),
        end - HALF_HOUR,
        end,
        None,
        None,
        0,
    )


def _last_change(fold: PartitionFold, mpxn: str, consent_id: str) -> tuple[int, int, int] | None:
    """The place of the command that last changed this consent at this meter."""
    last: Consent | None = None
    place = None
    assert fold.head is not None
    for version in subject_history(fold.rows, unpack, CONSUMERS, mpxn, fold.head.next_offset):
        state: Any = version.state
        now = next((c for c in state.consents if c.consent_id == consent_id), None)
        if now is not None and now != last:
            last, place = now, (fold.partition, version.offset, version.entry)
    return place
