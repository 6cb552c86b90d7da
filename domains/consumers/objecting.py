"""Objections: an occupier shuts a use of its data that needs no consent, and may allow it again.

The uses that can be objected to are those of the version of the policy in force. An objection is
about the tenancies of one consumer at the meter, so whoever lives there next has not objected; it
shuts what was metered while they lasted, whenever it is read (`spine.policy_v2`).
"""

from __future__ import annotations

from datetime import datetime

from domains.consumers.chain import with_objections
from domains.consumers.commands import AllowUse, ObjectToUse, check_named
from domains.consumers.events import ConsumersEvents, UseAllowed, UseObjected
from spine.errors import NotPermitted, Reason, Refused
from spine.objections import Objection, objecting_to, objections_of, uses_to_object_to
from spine.policy import MeterAccess, Role


def object_to_use(access: MeterAccess, command: ObjectToUse, now: datetime) -> ConsumersEvents:
    """The occupier objects: for each of its tenancies that does not yet.

    Refused(OBJECTION_NOT_POSSIBLE) if the policy in force lets nobody object to such a use, or
    would not heed it.
    """
    use = (command.basis, command.purpose)
    if use not in uses_to_object_to(command.policy_version):
        message = "the policy in force lets nobody object to such a use"
        raise Refused(Reason.OBJECTION_NOT_POSSIBLE, message)
    objected = objecting_to(access, *use)
    return tuple(
        UseObjected(*use, tenancy_id, now)
        for tenancy_id in _own(access, command)
        if tenancy_id not in objected
    )


def allow_use(access: MeterAccess, command: AllowUse, now: datetime) -> ConsumersEvents:
    """The occupier takes its objection back; of a version that is no longer in force too."""
    use = (command.basis, command.purpose)
    objected = objecting_to(access, *use)
    return tuple(
        UseAllowed(*use, tenancy_id, now)
        for tenancy_id in _own(access, command)
        if tenancy_id in objected
    )


def _own(access: MeterAccess, command: ObjectToUse | AllowUse) -> list[str]:
    """The tenancies of the consumer at the meter; a consumer speaks for none but its own."""
    check_named(command.consumer_ref, command.basis, command.purpose)
    if command.by.role == Role.CONSUMER and command.by.party != command.consumer_ref:
        raise NotPermitted(Reason.NOT_AN_OCCUPIER, "a consumer speaks for itself alone")
    own = [t.tenancy_id for t in access.tenancies if t.consumer_ref == command.consumer_ref]
    if not own:
        raise NotPermitted(Reason.NOT_AN_OCCUPIER, "the consumer never lived here")
    return own


def after(access: MeterAccess, event: UseObjected | UseAllowed) -> MeterAccess:
    """The access of a meter after one more objection, or one less."""
    use = (event.basis, event.purpose, event.tenancy_id)
    if all(t.tenancy_id != event.tenancy_id for t in access.tenancies):
        raise Refused(Reason.TENANCY_UNKNOWN, "the meter has no such tenancy")
    others = [o for o in objections_of(access) if (o.basis, o.purpose, o.tenancy_id) != use]
    stands = len(others) < len(objections_of(access))
    if isinstance(event, UseObjected) is stands:
        raise Refused(Reason.CONSENT_STATE, "it is objected to already, or was not")
    added = [Objection(*use, event.decided_at)] if isinstance(event, UseObjected) else []
    return with_objections(access, (*others, *added))
