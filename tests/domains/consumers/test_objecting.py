"""Objecting to a use that needs no consent: who may, to what, and what it comes to."""

from __future__ import annotations

import random
from datetime import timedelta
from typing import Any

import pytest

from domains.consumers.chain import MeterChoices, record_of, with_records
from domains.consumers.commands import AllowUse, ObjectToUse, tightens
from domains.consumers.decider import CONSUMERS
from domains.consumers.events import (
    AgentAppointed,
    SupplyEnded,
    SupplyStarted,
    TenancyEnded,
    TenancyStarted,
    UseAllowed,
    UseObjected,
)
from domains.consumers.uses import Use, concerned
from spine.domain import Actor, fold
from spine.errors import Reason, Refused
from spine.gb import FOR_EVER, Interval
from spine.objections import Objection, objections_of, uses_to_object_to
from spine.policies import POLICIES
from spine.policy import MeterAccess, Permit, Refuse, Situation
from spine.policy_data import POLICY_DATA
from spine.trust import Accreditation, Participant
from tests.domains.consumers.home import (
    ADVISER,
    ANNA,
    BEN,
    HOME,
    NOW,
    SERVICE,
    SUPPLIER,
    day,
    granted,
)
from tests.helpers.access import access_request
from tests.helpers.records import METER, Scene, command
from tests.helpers.specification import given
from tests.rights.test_rights import START, Life

DUTY = ("LEGAL_OBLIGATION", "SETTLEMENT")
DAILY = ("OPT_OUT", "BILLING")
OBJECTED = UseObjected(*DUTY, "t-anna", NOW)
ALLOWED = UseAllowed(*DUTY, "t-anna", NOW)


def objects(
    by: Actor = ANNA, use: tuple[str, str] = DUTY, ref: str = "c-anna", version: int = 2
) -> ObjectToUse:
    return ObjectToUse(by, *use, ref, version)


def allows(by: Actor = ANNA, use: tuple[str, str] = DUTY, ref: str = "c-anna") -> AllowUse:
    return AllowUse(by, *use, ref)


@pytest.mark.parametrize("by", [ANNA, SERVICE])
def test_the_occupier_objects_and_takes_it_back(by: Actor) -> None:
    home = given(CONSUMERS, *HOME)
    objected = home.when(objects(by)).then(OBJECTED)
    objected.when(objects(by)).nothing()
    allowed = objected.when(allows(by)).then(ALLOWED)
    allowed.when(allows(by)).nothing()
    assert allowed.state == home.state
    allowed.when(objects(by)).then(OBJECTED)


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (objects(SUPPLIER), Reason.ROLE_NOT_ALLOWED),
        (objects(ADVISER), Reason.ROLE_NOT_ALLOWED),
        (allows(SUPPLIER), Reason.ROLE_NOT_ALLOWED),
        (objects(BEN), Reason.NOT_AN_OCCUPIER),
        (objects(BEN, ref="c-ben"), Reason.NOT_AN_OCCUPIER),
        (objects(SERVICE, ref="c-ben"), Reason.NOT_AN_OCCUPIER),
        (allows(BEN), Reason.NOT_AN_OCCUPIER),
        (objects(ref=""), Reason.FIELD_MISSING),
        (allows(ref=""), Reason.FIELD_MISSING),
        (objects(use=("CONTRACT", "BILLING")), Reason.OBJECTION_NOT_POSSIBLE),
        (objects(use=("CONSENT", "ENERGY_ADVICE")), Reason.OBJECTION_NOT_POSSIBLE),
        (objects(use=("OPT_OUT", "SETTLEMENT")), Reason.OBJECTION_NOT_POSSIBLE),
        (objects(use=("WHIM", "BILLING")), Reason.OBJECTION_NOT_POSSIBLE),
        (objects(version=1), Reason.OBJECTION_NOT_POSSIBLE),
        (objects(version=99), Reason.OBJECTION_NOT_POSSIBLE),
    ],
)
def test_who_may_not_and_to_what_nobody_may(asked: Any, reason: Reason) -> None:
    given(CONSUMERS, *HOME).when(asked).refused(reason)


def test_it_is_of_every_tenancy_of_the_consumer_and_of_no_other() -> None:
    lived = (
        *HOME,
        TenancyEnded("t-anna", day(2)),
        TenancyStarted("t-ben", "c-ben", day(2)),
        TenancyEnded("t-ben", day(3)),
        TenancyStarted("t-back", "c-anna", day(3)),
    )
    both = (OBJECTED, UseObjected(*DUTY, "t-back", NOW))
    after = given(CONSUMERS, *lived).when(objects()).then(*both)
    assert {o.tenancy_id for o in objections_of(after.state)} == {"t-anna", "t-back"}
    after.when(allows()).then(ALLOWED, UseAllowed(*DUTY, "t-back", NOW))


def test_one_use_is_not_another() -> None:
    both = given(CONSUMERS, *HOME, OBJECTED).when(objects(use=DAILY))
    after = both.then(UseObjected(*DAILY, "t-anna", NOW))
    left = after.when(allows()).then(ALLOWED)
    assert objections_of(left.state) == (Objection(*DAILY, "t-anna", NOW),)


def test_objecting_tightens_and_allowing_does_not() -> None:
    assert tightens(objects()) and not tightens(allows())


@pytest.mark.parametrize(
    ("events", "reason"),
    [
        ((UseObjected(*DUTY, "t-ben", NOW),), Reason.TENANCY_UNKNOWN),
        ((ALLOWED,), Reason.CONSENT_STATE),
        ((OBJECTED, OBJECTED), Reason.CONSENT_STATE),
    ],
)
def test_a_fact_that_does_not_fit_is_void_in_every_fold(
    events: tuple[Any, ...], reason: Reason
) -> None:
    with pytest.raises(Refused) as refused:
        fold(CONSUMERS, (*HOME, *events))
    assert refused.value.reason is reason


def test_a_meter_without_objections_is_kept_as_ever() -> None:
    """So no store is folded anew for them, and recorded digests go on being compared."""
    before = fold(CONSUMERS, HOME)
    assert type(before) is MeterAccess
    assert type(fold(CONSUMERS, (OBJECTED,), before)) is MeterChoices
    assert type(fold(CONSUMERS, (OBJECTED, ALLOWED), before)) is MeterAccess


def test_an_objection_survives_the_store_and_every_other_fact() -> None:
    scene = Scene()
    moved_in, consented = HOME[0], granted()
    scene.facts(command(METER, moved_in, OBJECTED))
    row = scene.fold.subject(METER)
    scene.facts(command(METER, consented, previous=(row.offset, row.entry)))
    stored = scene.fold.subject(METER).state
    assert stored == fold(CONSUMERS, (moved_in, OBJECTED, consented))
    assert objections_of(stored) == (Objection(*DUTY, "t-anna", NOW),)
    assert record_of(stored, consented.consent_id) is None
    assert objections_of(with_records(stored, ())) == objections_of(stored)


def test_what_can_be_objected_to_is_data_of_the_version() -> None:
    assert uses_to_object_to(1) == () == uses_to_object_to(99)
    assert set(uses_to_object_to(2)) == {DUTY, DAILY}
    assert set(POLICY_DATA) == {1, 2}


def test_a_dry_run_names_who_could_read_what_no_longer() -> None:
    lived = (*HOME, SupplyEnded("BRIT", day(4)), SupplyStarted("OCTO", day(4)))
    agent = AgentAppointed("SDAT", "data_service", day(2))
    before = fold(CONSUMERS, (*lived, agent))
    after = fold(CONSUMERS, (OBJECTED,), before)
    categories = ("HH_CONSUMPTION", "EXPORT")
    readers = (
        ("BRIT", "supplier", Interval(day(1), day(4))),
        ("OCTO", "supplier", Interval(day(4), FOR_EVER)),
        ("SDAT", "data_service", Interval(day(2), FOR_EVER)),
    )
    wanted = tuple(
        Use(reader, role, category, metered)
        for reader, role, metered in readers
        for category in categories
    )
    assert concerned(before, after, 2) == wanted == concerned(after, before, 2)
    assert concerned(before, before, 2) == () == concerned(before, after, 1)


def test_what_a_dry_run_says_is_what_the_policy_then_refuses() -> None:
    rng, told = random.Random(12), 0
    held = tuple(
        Accreditation(role, "DSI", "1", (), START - timedelta(days=90), None)
        for role in ("supplier", "data_service")
    )
    for _ in range(500):
        life = Life(rng, policy=2)
        life.live()
        before, now = life.access, life.moment()
        life.happen(UseObjected(*rng.choice((DUTY, DAILY)), "t-1", now))
        for use in concerned(before, life.access, 2):
            start = use.metered.start
            basis, purpose = DAILY if use.category == "DAILY" else DUTY
            asked = access_request(
                (start, min(use.metered.end, start + timedelta(days=5))),
                role=use.role,
                party=use.reader,
                basis=basis,
                purpose=purpose,
                category=use.category,
            )
            who, judge = Participant("any", accreditations=held), POLICIES[2]
            if isinstance(judge(asked, Situation(before, who, START)), Permit):
                later = judge(asked, Situation(life.access, who, START))
                assert isinstance(later, Refuse) and later.reason is Reason.OPTED_OUT
                told += 1
    assert told > 50
