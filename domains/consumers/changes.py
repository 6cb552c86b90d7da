"""What became of a consent, told to everyone whom it concerns until they acknowledge it.

What there is to tell follows from the access of a meter and the time alone, so nothing is queued
and nothing can be lost: a receiver that was away finds what it has not acknowledged, however long
that was. It is told how each consent stands now, not every step in between. `ChangeAcknowledged`
is at home in `consumers.acknowledgements.v1` (`acknowledgements.py`), subject the id of the change.

Rules:
1. The data user of a consent is told each state that others or time brought about.
2. A data service of the meter is told that a consent which was once granted is suspended or over:
   its id and state, and nothing of who read what for which purpose. The supplier of the meter is
   not told: it reads by its supply, and has nothing to stop. So is each recipient whom the
   record of the consent names, as the data user is, whoever ended it. Who could have been told
   that it is suspended is told too that it no longer is, if the record shows that it ever was.
3. The consumer is told each state of its consents, a request that waits for its answer among them,
   and what was done in its name: the facts of a meter do not tell its own commands from those of
   the consent service for it, and what it never asked for it has to learn of.
4. At a meter, a receiver is told one change at a time, the oldest first, and notices after that.
5. Only the receiver acknowledges, and once is enough. A consumer does not have to.
6. Who was never admitted as a participant is told nothing and owes nothing: it got nothing here,
   and a name that somebody made up would never answer. Nor is a recipient told that is accredited
   as something else only, but in that role; without any accreditation left it still is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from typing import Final, Protocol, TypeVar

from domains.consumers.chain import records_of, terms_in, was_suspended
from domains.consumers.evolve import is_bar
from domains.consumers.views import ShownState, shown_state
from spine.domain import Actor
from spine.errors import NotPermitted, Reason
from spine.policy import Consent, ConsentState, MeterAccess, Role
from spine.trust import Participant

OVERDUE_AFTER: Final = timedelta(hours=72)
FIRST_RETRY: Final = timedelta(seconds=5)
LAST_RETRY: Final = timedelta(minutes=10)
INSTANTS_KEPT_MAX: Final = 4_096
RECEIVES: Final = frozenset({Role.DATA_USER, Role.SUPPLIER, Role.DATA_SERVICE, Role.CONSUMER})
TOLD_AS: Final = RECEIVES - {Role.SUPPLIER}
PARTICIPANTS: Final = TOLD_AS - {Role.CONSUMER}
SHUT: Final = frozenset(
    {
        ShownState.SUSPENDED,
        ShownState.REVOKED,
        ShownState.WITHDRAWN,
        ShownState.EXPIRED,
        ShownState.ENDED,
    }
)
# What the data user brought about itself.
_OWN: Final = frozenset({ShownState.REQUESTED, ShownState.WITHDRAWN})


class Told(Protocol):
    """What somebody is told until it is acknowledged; its `id` is the same each time."""

    @property
    def id(self) -> str:
        """What repeats are known by."""


class Waits(Told, Protocol):
    """What waits until its receiver has answered it."""

    @property
    def receiver(self) -> str:
        """Party id of who has to."""

    @property
    def told_as(self) -> Role:
        """The role in which it has to: a party may be told in two, by two servers of its own."""

    @property
    def since(self) -> datetime:
        """Since when it waits."""

    @property
    def due(self) -> datetime:
        """Until when it is answered in time, if anything obliges its receiver to."""

    def overdue(self, now: datetime) -> bool:
        """Whether it has waited for too long."""


Waiting = TypeVar("Waiting", bound=Waits)


class Notice(StrEnum):
    """What is told of a consent that goes on standing; see `notices.py`."""

    REMINDER = "REMINDER"
    RENEWAL = "RENEWAL"


def told_role(role: str) -> Role:
    """The role that a receiver is told in: a supplier is told what a data user is."""
    return Role(role) if role in (Role.DATA_SERVICE, Role.CONSUMER) else Role.DATA_USER


@dataclass(frozen=True, slots=True)
class Change:
    """How a consent stands at a meter, for one receiver. `since` is when it came to stand so.

    `id` is the same whenever the change is told, by whatever server. `told_as` tells what is for
    the consent's data user from what is for a data service of the meter or for the consumer.
    """

    id: str
    receiver: str
    mpxn: str
    consent_id: str
    version: int
    state: ShownState | Notice
    since: datetime
    told_as: Role = Role.DATA_USER

    def is_for(self, by: Actor) -> bool:
        """Whether it is told to that party in that role: one as a service is not the data user."""
        as_role = told_role(by.role)
        return by.role in RECEIVES and by.party == self.receiver and as_role == self.told_as

    @property
    def is_notice(self) -> bool:
        """Whether the consent goes on standing as it did."""
        return isinstance(self.state, Notice)

    @property
    def due(self) -> datetime:
        """Until when it is to be acknowledged, by who has to."""
        return self.since + OVERDUE_AFTER

    @property
    def obliges(self) -> bool:
        """Whether it has to be acknowledged: no notice, and nothing by a consumer."""
        return not self.is_notice and self.told_as is not Role.CONSUMER

    def overdue(self, now: datetime) -> bool:
        """Whether it has waited for too long, if it is not acknowledged and has to be."""
        return self.obliges and now > self.due


def each_change(
    mpxn: str, access: MeterAccess, now: datetime, to: frozenset[Role]
) -> Iterator[Change]:
    """What there is to tell of a meter at `now` in these roles, in no order."""
    records = records_of(access)
    for consent in access.consents:
        if is_bar(consent):
            continue
        state = shown_state(consent, access, now)
        if state is ShownState.LAPSED and consent.state is not ConsentState.LAPSED:
            continue  # the event of it is on its way
        since = _since(consent, access, state)
        receivers = {(consent.consumer_ref, Role.CONSUMER)}
        if state not in _OWN:
            receivers.add((consent.data_user, Role.DATA_USER))
        record = records.get(consent.consent_id)
        resumed = state is ShownState.ACTIVE and was_suspended(record, consent)
        if (state in SHUT or resumed) and consent.answer_by is None:
            receivers |= {(each, Role.DATA_USER) for each in terms_in(record).recipients}
            receivers |= {
                (served.agent, Role.DATA_SERVICE)
                for served in access.appointments
                if served.agent_role == Role.DATA_SERVICE
                and served.effective_from <= since
                and (served.effective_to is None or since < served.effective_to)
            }
        for receiver, role in receivers:
            if role in to:
                yield made(mpxn, consent, state, since, consent.changed_at, receiver, role)


def in_order(found: Iterable[Change]) -> tuple[Change, ...]:
    """By receiver, the oldest first, and notices after every change: they oblige nobody, so one
    that is not taken must not keep its receiver from what does.
    """

    def place(each: Change) -> tuple[object, ...]:
        as_service = each.told_as is Role.DATA_SERVICE
        return each.receiver, each.is_notice, each.since, each.consent_id, as_service

    listed = list(found)
    return tuple(sorted(listed, key=place) if len(listed) > 1 else listed)


def takes_part(change: Change, access: MeterAccess, participant: Participant | None) -> bool:
    """Whether the receiver of a change, as governance knows it, can be told it in that role."""
    if change.told_as is not Role.DATA_USER:
        return True
    if participant is None:
        return False
    consents = (each for each in access.consents if each.consent_id == change.consent_id)
    if any(each.data_user == change.receiver for each in consents):
        return True
    held = {each.role for each in participant.accreditations}
    return not held or not held.isdisjoint((Role.DATA_USER, Role.SUPPLIER))


def next_by_time(access: MeterAccess, now: datetime) -> datetime | None:
    """When time alone next changes how a consent of the meter stands; None if it does not."""
    moments = [t.effective_from for t in access.tenancies]
    moments += [t.effective_to for t in access.tenancies if t.effective_to is not None]
    for consent in access.consents:
        if not is_bar(consent):
            moments += (consent.valid_from, consent.expires)
            if consent.answer_by is not None:
                moments.append(consent.answer_by)
    return min((moment for moment in moments if moment > now), default=None)


def outstanding(
    told: Iterable[Waiting], acknowledged: Collection[str]
) -> dict[Actor, tuple[Waiting, ...]]:
    """What each party has in each role still to acknowledge of one meter, the first first."""
    waiting: dict[Actor, list[Waiting]] = {}
    for change in told:
        if change.id not in acknowledged:
            waiting.setdefault(Actor(change.told_as, change.receiver), []).append(change)
    return {receiver: tuple(theirs) for receiver, theirs in waiting.items()}


@dataclass(frozen=True, slots=True)
class Sent:
    """How often a change was sent, and when it is to be sent again."""

    id: str
    times: int
    again_at: datetime


def send(before: Sent | None, change: Told, now: datetime, jitter: float) -> Sent | None:
    """The next sending of the first change that waits at a meter; None if it is not time for it.

    The wait doubles from `FIRST_RETRY` to `LAST_RETRY`; `jitter` from 0 to 1 takes up to half of it
    away, so that receivers that were away together do not come back together.
    """
    if before is None or before.id != change.id:
        before = Sent(change.id, 0, now)
    if now < before.again_at:
        return None
    wait = min(FIRST_RETRY * 2 ** min(before.times, 16), LAST_RETRY)
    return Sent(change.id, before.times + 1, now + wait * (1 - jitter / 2))


def _since(consent: Consent, access: MeterAccess, state: ShownState) -> datetime:
    if state is ShownState.EXPIRED:
        return max(consent.changed_at, consent.expires)
    if state is ShownState.ACTIVE:
        return max(consent.changed_at, consent.valid_from)
    if state is ShownState.ENDED:
        ends = [t.effective_to for t in access.tenancies if t.tenancy_id == consent.tenancy_id]
        return max([consent.changed_at, *(end for end in ends if end is not None)])
    return consent.changed_at


def made(
    mpxn: str,
    consent: Consent,
    state: ShownState | Notice,
    since: datetime,
    at: datetime,
    receiver: str,
    role: Role,
) -> Change:
    """A change with its id: another for each `at`, a consent may come to stand the same way again.

    The id is 16 bytes of a hash, in hex: whoever is not told cannot know it by the meter.
    """
    named, version, changed_at = consent.consent_id, consent.version, _text(at)
    parts = (receiver, role, mpxn, named, str(version), state, changed_at)
    change_id = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]
    return Change(change_id, receiver, mpxn, named, version, state, since, role)


@lru_cache(INSTANTS_KEPT_MAX)
def _text(at: datetime) -> str:
    """Consents by the thousand changed at few instants. All are UTC."""
    return at.isoformat()


# -- acknowledging --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ChangeAcknowledged:
    """The receiver has taken in how the consent stands at the meter."""

    receiver: str
    mpxn: str
    consent_id: str
    version: int
    state: str
    decided_at: datetime


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """When a change was acknowledged, if it was. Of a webhook: its address and who set it as what.

    The states of one topic are of one type; without a `url` there is no webhook.
    """

    decided_at: datetime | None = None
    url: str = ""
    role: str = ""


@dataclass(frozen=True, slots=True)
class AcknowledgeChange:
    """The caller has taken the change in."""

    by: Actor
    change: Change


def tightens(command: object) -> bool:
    """An acknowledgement opens nothing, so a suspended participant can give it too."""
    return True


def decide(
    state: Acknowledgement, command: AcknowledgeChange, now: datetime
) -> tuple[ChangeAcknowledged, ...]:
    """The fact, none if it is already so.

    NotPermitted  ROLE_NOT_ALLOWED: another party was told, or this one in another role
    """
    by, change = command.by, command.change
    if not change.is_for(by):
        raise NotPermitted(Reason.ROLE_NOT_ALLOWED, "the change was not told to this party")
    if state.decided_at is not None:
        return ()
    return (
        ChangeAcknowledged(
            change.receiver, change.mpxn, change.consent_id, change.version, change.state, now
        ),
    )


def evolve(state: Acknowledgement, event: ChangeAcknowledged) -> Acknowledgement:
    """The first acknowledgement counts."""
    return state if state.decided_at else replace(state, decided_at=event.decided_at)
