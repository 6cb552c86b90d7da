"""What a preview says is opened or shut is what the policy then permits and no longer permits."""

from __future__ import annotations

import random
from collections import Counter
from datetime import timedelta

from domains.consumers.preview import Opened, difference, opened
from spine.gb import Interval
from spine.policy import POLICIES, MeterAccess, Permit, Situation
from spine.trust import Accreditation, Participant
from tests.helpers.access import access_request
from tests.rights.test_rights import DAYS, START, Life

LIVES = 1_000
MOMENTS = 40
MINUTE = timedelta(minutes=1)
OTHER = ("ENERGY_ADVICE", "DAILY")
ADVISER = Participant(
    "adviser",
    accreditations=(Accreditation("data_user", "CCS", "1", (), START - timedelta(days=90), None),),
)


def permitted(access: MeterAccess, one: Opened) -> bool:
    """Whether the policy permits this minute to whoever reads in that one."""
    asked = access_request(
        (one.metered.start, one.metered.end), purpose=one.purpose, category=one.category
    )
    situation = Situation(access, ADVISER, one.read.start)
    return isinstance(POLICIES[1](asked, situation), Permit)


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


def test_what_is_opened_and_shut_is_what_the_policy_says_before_and_after() -> None:
    rng, seen = random.Random(8), Counter[str]()
    for _ in range(LIVES):
        life = Life(rng)
        life.live()
        before = life.access
        life.happen(life.fact())
        now = life.moment()
        were, are = opened(before, "adviser", now), opened(life.access, "adviser", now)
        opens, shuts = difference(are, were), difference(were, are)
        for _ in range(MOMENTS):
            read = minute(rng)
            if read.start < now:
                continue
            purpose = rng.choice(("ENERGY_ADVICE", "FLEXIBILITY"))
            category = rng.choice(("HH_CONSUMPTION", "EXPORT", "DAILY"))
            one = Opened(purpose, category, minute(rng), read)
            then, later = permitted(before, one), permitted(life.access, one)
            assert holds(opens, one) == (later and not then)
            assert holds(shuts, one) == (then and not later)
            seen[f"{then} {later}"] += 1
    assert min(seen[f"{then} {later}"] for then in (True, False) for later in (True, False)) > 20


def test_a_consent_shuts_only_what_no_other_one_opens() -> None:
    """The naive preview lists the terms of the consent that is taken back."""
    rng, naive = random.Random(9), 0
    for _ in range(LIVES):
        life = Life(rng)
        life.live()
        theirs = [c for c in life.access.consents if c.data_user == "adviser"]
        if len(theirs) < 2:
            continue
        now = life.moment()
        rest = MeterAccess(life.access.tenancies, consents=tuple(theirs[1:]))
        alone = MeterAccess(life.access.tenancies, consents=(theirs[0],))
        terms = opened(alone, "adviser", now)
        shuts = difference(terms, opened(rest, "adviser", now))
        for one in shuts:
            start, read = one.metered.start, one.read.start
            at = Opened(
                one.purpose,
                one.category,
                Interval(start, start + MINUTE),
                Interval(read, read + MINUTE),
            )
            assert not permitted(rest, at)
        naive += terms != shuts
    assert naive > 0
