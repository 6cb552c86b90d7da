"""Notices of a consent that goes on standing: a reminder each year, and that it is about to end.

They are told and acknowledged like changes, and follow from a meter's access and the time as those
do. The Information Commissioner's guidance on consent is to refresh it at appropriate intervals;
the intervals here are this reference model's own.

Rules:
1. Each 12 months since a live consent was given, or was narrowed or resumed, its consumer is
   reminded that it stands. A reminder that was not acknowledged gives way to the next.
2. From 30 days before a live consent expires, its consumer and its data user are told that it
   ends unless fresh consent is given. One that lasts no longer than that is not.
3. A notice comes after every change that waits at its meter, and may be acknowledged before it.
4. Nothing is extended, ended or opened by a notice or by its acknowledgement, and none is overdue.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from functools import lru_cache
from itertools import chain
from typing import Final

from domains.consumers import changes
from domains.consumers.changes import (
    INSTANTS_KEPT_MAX,
    TOLD_AS,
    Change,
    Notice,
    each_change,
    in_order,
    made,
)
from domains.consumers.evolve import is_bar
from domains.consumers.views import ShownState, shown_state
from spine.policy import Consent, ConsentState, MeterAccess, Role

RENEWAL_BEFORE: Final = timedelta(days=30)


def told(
    mpxn: str, access: MeterAccess, now: datetime, to: frozenset[Role] = TOLD_AS
) -> tuple[Change, ...]:
    """All that there is to tell of a meter at `now` in these roles, changes and notices, in their
    order.
    """
    found = (each_change(mpxn, access, now, to), notices(mpxn, access, now, to))
    return in_order(chain.from_iterable(found))


def notices(
    mpxn: str, access: MeterAccess, now: datetime, to: frozenset[Role] = TOLD_AS
) -> Iterator[Change]:
    """The notices of a meter at `now`, in these roles."""
    for consent in access.consents:
        if not _may_stand(consent, now):
            continue
        consumer = (consent.consumer_ref, Role.CONSUMER)
        due: list[tuple[Notice, datetime, str, Role]] = []
        since = _stands_since(consent)
        years = _years(since, now)
        if years > 0:
            due.append((Notice.REMINDER, _anniversary(since, years), *consumer))
        at = consent.expires - RENEWAL_BEFORE
        if since < at <= now:
            due.append((Notice.RENEWAL, at, *consumer))
            due.append((Notice.RENEWAL, at, consent.data_user, Role.DATA_USER))
        if due and shown_state(consent, access, now) is not ShownState.ACTIVE:
            continue
        for notice, at, receiver, role in due:
            if role in to:
                yield made(mpxn, consent, notice, at, at, receiver, role)


def next_by_time(access: MeterAccess, now: datetime) -> datetime | None:
    """When time alone next changes what there is to tell of the meter; None if it does not."""
    moments = [changes.next_by_time(access, now)]
    for consent in access.consents:
        if _may_stand(consent, now):
            since = _stands_since(consent)
            moments.append(consent.expires - RENEWAL_BEFORE)
            moments.append(_next_anniversary(since, now))
    return min((at for at in moments if at is not None and at > now), default=None)


def _may_stand(consent: Consent, now: datetime) -> bool:
    """Whether it stands, as far as that can be told without the tenancy."""
    return not is_bar(consent) and consent.state is ConsentState.ACTIVE and now < consent.expires


def _stands_since(consent: Consent) -> datetime:
    return max(consent.changed_at, consent.valid_from)


def _years(since: datetime, now: datetime) -> int:
    """Whole years from one to the other; 0 if there is none, or `since` is still to come."""
    years = max(now.year - since.year, 0)
    return years if years == 0 or _anniversary(since, years) <= now else years - 1


@lru_cache(INSTANTS_KEPT_MAX)
def _next_anniversary(since: datetime, now: datetime) -> datetime:
    """The first that is still to come: many consents are looked at together, and stand alike."""
    return _anniversary(since, _years(since, now) + 1)


def _anniversary(since: datetime, years: int) -> datetime:
    """The same day and time so many years later; of 29 February, where there is none, the 28th."""
    try:
        return since.replace(year=since.year + years)
    except ValueError:
        return since.replace(year=since.year + years, day=28)
