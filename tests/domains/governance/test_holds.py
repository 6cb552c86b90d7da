"""A party that is held goes on when two different people say so, and not before."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domains.governance.holds import (
    PARTY_HOLDS,
    ApproveRelease,
    Hold,
    HoldCommand,
    HoldParty,
    PartyHeld,
    PartyReleased,
    ReleaseApproved,
    decide,
    evolve,
)
from spine import trust
from spine.domain import Actor, fold
from spine.errors import NotPermitted, Reason, Refused
from spine.policy import Role
from tests.helpers.records import BY_GOVERNANCE, BY_METERING, Scene, command

NOW = datetime(2026, 4, 5, tzinfo=UTC)
SERVER = Actor(Role.DSI, "dsi-1")
ALICE, BOB = Actor(Role.GOVERNANCE, "alice"), Actor(Role.GOVERNANCE, "bob")
HELD = PartyHeld(1, "READS", 8, 7, "dsi/dsi-1", NOW)


def after(*events: object) -> Hold:
    state: Hold = fold(PARTY_HOLDS, events)
    return state


def approve(by: Actor, hold: int = 1, party: str = "ACME") -> ApproveRelease:
    return ApproveRelease(by, party, hold, "LOOKED_INTO")


def test_a_server_holds_a_party_once() -> None:
    held = HoldParty(SERVER, "ACME", "READS", 8, 7)
    assert decide(Hold(), held, NOW) == (HELD,)
    assert decide(after(HELD), held, NOW) == ()


def test_it_takes_two_people() -> None:
    first = decide(after(HELD), approve(ALICE), NOW)
    assert first == (ReleaseApproved(1, "alice", "LOOKED_INTO", NOW),)
    assert after(HELD, *first).held
    second = decide(after(HELD, *first), approve(BOB), NOW)
    assert second[-1] == PartyReleased(1, NOW)
    assert not after(HELD, *first, *second).held


@pytest.mark.parametrize(
    ("state", "given", "error", "reason"),
    [
        (
            (HELD, ReleaseApproved(1, "alice", "X", NOW)),
            approve(ALICE),
            Refused,
            Reason.RELEASE_NEEDS_ANOTHER,
        ),
        (
            (HELD,),
            approve(Actor(Role.GOVERNANCE, "ACME")),
            Refused,
            Reason.RELEASE_NEEDS_ANOTHER,
        ),
        ((HELD,), approve(Actor(Role.SUPPLIER, "north")), NotPermitted, Reason.ROLE_NOT_ALLOWED),
        ((HELD,), approve(SERVER), NotPermitted, Reason.ROLE_NOT_ALLOWED),
        ((HELD,), approve(ALICE, hold=2), Refused, Reason.HOLD_UNKNOWN),
        ((), approve(ALICE), Refused, Reason.HOLD_UNKNOWN),
        (
            (),
            HoldParty(Actor(Role.DATA_USER, "rival"), "ACME", ""),
            NotPermitted,
            Reason.ROLE_NOT_ALLOWED,
        ),
    ],
    ids=[
        "the same person twice",
        "the party itself",
        "another role",
        "a server",
        "a later hold",
        "nobody held",
        "a rival",
    ],
)
def test_what_is_refused(
    state: tuple[object, ...], given: HoldCommand, error: type[Refused], reason: Reason
) -> None:
    with pytest.raises(error) as refused:
        decide(after(*state), given, NOW)
    assert refused.value.reason is reason


def test_an_approval_of_one_hold_counts_for_no_later_one() -> None:
    released = (
        HELD,
        ReleaseApproved(1, "alice", "X", NOW),
        ReleaseApproved(1, "bob", "X", NOW),
        PartyReleased(1, NOW),
    )
    again = after(*released, PartyHeld(2, "READS", 8, 7, "dsi/dsi-1", NOW))
    assert again.held and again.approved_by == ()
    with pytest.raises(Refused):
        decide(again, approve(ALICE, hold=1), NOW)


@given(st.lists(st.sampled_from(["hold", "alice", "bob", "ACME"]), max_size=12))
def test_whoever_goes_on_was_let_go_by_two(steps: list[str]) -> None:
    state, approvers = Hold(), set[str]()
    for number, step in enumerate(steps):
        at = NOW + timedelta(seconds=number)
        given: HoldCommand = HoldParty(SERVER, "ACME", "READS")
        if step != "hold":
            given = approve(Actor(Role.GOVERNANCE, step), state.number)
        was_held = state.held
        try:
            events = decide(state, given, at)
        except Refused:
            continue
        for event in events:
            state = evolve(state, event)
        approvers = set() if not was_held else approvers | {step}
        assert was_held <= (state.held or {"alice", "bob"} <= approvers)


# In the fold, whoever signed it


@pytest.mark.parametrize(
    "forged",
    [
        (PartyReleased(1, NOW),),
        (ReleaseApproved(1, "alice", "X", NOW), PartyReleased(1, NOW)),
        (
            ReleaseApproved(1, "alice", "X", NOW),
            ReleaseApproved(1, "alice", "X", NOW),
            PartyReleased(1, NOW),
        ),
    ],
    ids=["nobody approved", "one approved", "one approved twice"],
)
def test_a_release_that_two_did_not_approve_is_quarantined_even_if_signed(
    forged: tuple[object, ...],
) -> None:
    scene = quarantine_topic()
    held = command("ACME", HELD, domain=PARTY_HOLDS)
    assert scene.facts(held, by=BY_GOVERNANCE).applied == 1
    place = (scene.log.records[-1].offset, 0)
    release = command("ACME", *forged, domain=PARTY_HOLDS, previous=place)
    applied = scene.facts(release, by=BY_GOVERNANCE)
    assert [r.reason for r in applied.refusals] == [Reason.RECORD_OUT_OF_RANGE]
    assert scene.fold.subject("ACME").state.held


def test_only_governance_signs_holds() -> None:
    scene = quarantine_topic()
    applied = scene.facts(command("ACME", HELD, domain=PARTY_HOLDS), by=BY_METERING)
    assert [r.reason for r in applied.refusals] == [Reason.VOID_ROLE]
    assert not scene.fold.subject("ACME").state.held


def quarantine_topic() -> Scene:
    return Scene(topic=trust.QUARANTINE_TOPIC, partition=0, domain=PARTY_HOLDS)
