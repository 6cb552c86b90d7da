"""What a preview says is opened or shut is what the policy then permits and no longer permits."""

from __future__ import annotations

import random
from collections import Counter
from datetime import datetime, timedelta

import pytest
from msgspec.structs import replace

from domains.consumers import events as consumers
from domains.consumers.evolve import evolve
from domains.consumers.preview import OTHERS_MAX, Opened, changed, difference, opened_by
from spine.errors import Reason, Refused
from spine.gb import Interval
from spine.policies import POLICIES
from spine.policy import Category, MeterAccess, Permit, Situation
from spine.trust import Accreditation, Participant
from tests.helpers.access import access_request
from tests.rights.test_rights import DAYS, START, Life

LIVES = 500
MOMENTS = {True: 300, False: 10}  # where something was opened or shut, and where nothing was
MINUTE = timedelta(minutes=1)
OTHER = ("ENERGY_ADVICE", "DAILY")
TOLD = tuple(str(category) for category in Category if category is not Category.CONSENTS)
ADVISER = Participant(
    "adviser",
    accreditations=(Accreditation("data_user", "CCS", "1", (), START - timedelta(days=90), None),),
)


def opened(access: MeterAccess, data_user: str, now: datetime) -> tuple[Opened, ...]:
    """What all consents of one data user open from now on; several may open the same."""
    theirs = (c for c in access.consents if c.data_user == data_user)
    return tuple(one for consent in theirs for one in opened_by(consent, access, now))


def permitted(access: MeterAccess, one: Opened, version: int) -> bool:
    """Whether that version permits this minute to whoever reads in that one."""
    asked = access_request(
        (one.metered.start, one.metered.end), purpose=one.purpose, category=one.category
    )
    situation = Situation(access, ADVISER, one.read.start)
    return isinstance(POLICIES[version](asked, situation), Permit)


def holds(found: tuple[Opened, ...], one: Opened) -> bool:
    return any(
        (each.purpose, each.category) == (one.purpose, one.category)
        and each.metered.contains(one.metered)
        and each.read.contains(one.read)
        for each in found
    )


def minute(rng: random.Random) -> Interval:
    at = START + timedelta(minutes=rng.randrange(-1440, (DAYS + 20) * 1440))
    return Interval(at, at + MINUTE)


@pytest.mark.parametrize("version", POLICIES)
def test_what_is_opened_and_shut_is_what_the_policy_says_before_and_after(version: int) -> None:
    rng, seen = random.Random(8 + version), Counter[str]()
    for _ in range(LIVES):
        life = Life(rng, policy=version)
        life.live()
        before = life.access
        life.happen(life.fact())
        now = life.moment()
        were, are = opened(before, "adviser", now), opened(life.access, "adviser", now)
        opens, shuts = difference(are, were), difference(were, are)
        for _ in range(MOMENTS[were != are]):
            read = minute(rng)
            if read.start < now:
                continue
            purpose = rng.choice(("ENERGY_ADVICE", "FLEXIBILITY"))
            category = rng.choice(("HH_CONSUMPTION", "EXPORT", "DAILY"))
            one = Opened(purpose, category, minute(rng), read)
            then, later = permitted(before, one, version), permitted(life.access, one, version)
            assert holds(opens, one) == (later and not then)
            assert holds(shuts, one) == (then and not later)
            seen[f"{then} {later}"] += 1
    assert min(seen[f"{then} {later}"] for then in (True, False) for later in (True, False)) > 20


@pytest.mark.parametrize("version", POLICIES)
def test_a_consent_shuts_only_what_no_other_one_opens(version: int) -> None:
    """The naive preview lists the terms of the consent that is taken back."""
    rng, naive, told = random.Random(9 + version), 0, 0
    for _ in range(LIVES):
        life = Life(rng, policy=version)
        life.live()
        theirs = [c for c in life.access.consents if c.data_user == "adviser"]
        if len(theirs) < 2:
            continue
        now, first = life.moment(), theirs[0]
        before = life.access
        life.happen(consumers.ConsentRevoked(first.consent_id, now))
        opens, shuts = changed(before, life.access, first.consent_id, now)
        assert not opens
        for one in shuts:
            start, read = one.metered.start, one.read.start
            at = Opened(
                one.purpose,
                one.category,
                Interval(start, start + MINUTE),
                Interval(read, read + MINUTE),
            )
            assert permitted(before, at, version) and not permitted(life.access, at, version)
        told += bool(shuts)
        alone = MeterAccess(before.tenancies, consents=(first,))
        naive += opened(alone, "adviser", now) != shuts
    assert naive > 0 and told > 0


@pytest.mark.parametrize("version", POLICIES)
def test_a_change_of_one_consent_is_told_as_the_difference_of_all(version: int) -> None:
    rng, told = random.Random(10 + version), 0
    for _ in range(LIVES):
        life = Life(rng, policy=version)
        life.live()
        before, now = life.access, life.moment()
        life.happen(life.fact())
        moved = [c for c in life.access.consents if c not in before.consents]
        if len(moved) != 1 or not moved[0].data_user:
            continue
        were = opened(before, moved[0].data_user, now)
        are = opened(life.access, moved[0].data_user, now)
        found = changed(before, life.access, moved[0].consent_id, now)
        assert found == (difference(are, were), difference(were, are))
        told += found != ((), ())
    assert told > 20


def test_who_gave_more_consents_than_can_be_told_apart_is_told_so() -> None:
    granted = Life(random.Random(1)).agreed("k-1", "t-1")
    lived = consumers.TenancyStarted("t-1", granted.consumer_ref, START - timedelta(days=90))
    access = evolve(MeterAccess(), lived)
    for number in range(OTHERS_MAX + 2):
        before = access
        access = evolve(access, replace(granted, consent_id=f"k-{number}"))
        if number <= OTHERS_MAX:
            changed(before, access, f"k-{number}", START)
    with pytest.raises(Refused) as refused:
        changed(before, access, f"k-{OTHERS_MAX + 1}", START)
    assert refused.value.reason is Reason.REQUEST_TOO_LARGE
