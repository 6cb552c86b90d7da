"""Consents over two meters through anything that may happen, with crashes on the way.

A state machine gives commands to the deciders as a coordinator would: at a meter, or at home and
from there as legs, which a crash may leave unsent or have sent again. After every step the policy
and the calculator, which share no code, say the same of who may read; what was acknowledged as
over, held or objected to opens nothing; and the state is what the events alone make of it. A life
is judged by one version of the policy, and may go over to a later one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime, timedelta
from itertools import product
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from domains.consumers import commands as c
from domains.consumers.actions import Action
from domains.consumers.chain import HASH_LINE, broken, lines, record_of, terms_of
from domains.consumers.decider import CONSUMERS
from domains.consumers.fan_out import (
    CONSENT_FAN_OUT,
    CompleteFanOut,
    FanOut,
    OrderFanOut,
)
from domains.consumers.legs import legs, open_orders
from domains.consumers.record import RecordTerms
from domains.consumers.tightenings import OrderTightening
from spine import trust
from spine.domain import Actor
from spine.errors import SpineError
from spine.policies import POLICIES
from spine.policy import Basis, MeterAccess, Permit, Role, Situation, stretch
from tests.helpers.access import access_request
from tests.helpers.judging import permitted_by, plain
from tests.helpers.rights import agree, rights
from tests.rights.test_rights import START

METERS = ("1200000000001", "1200000000002")
CONSENTS = ("k-1", "k-2")
ADVISER = "adviser"
SERVICE = Actor(Role.CONSENT_SERVICE, "ccs")
BOARD = Actor(Role.GOVERNANCE, "board")
ENDS = frozenset({Action.REVOKE, Action.WITHDRAW, Action.DECLINE})
AN_END: dict[str, Callable[..., Any]] = {
    Action.REVOKE: c.RevokeConsent,
    Action.WITHDRAW: c.WithdrawConsent,
    Action.DECLINE: c.DeclineConsent,
}
CATEGORIES = ("HH_CONSUMPTION", "EXPORT")
# The uses that need no consent and can be objected to, each with a category that this shuts.
SHUT = {("LEGAL_OBLIGATION", "SETTLEMENT"): "HH_CONSUMPTION", ("OPT_OUT", "BILLING"): "DAILY"}
SUPPLIERS = ("north", "south")
DAY = timedelta(days=1)
ASKED = (START - 60 * DAY, START + 120 * DAY)

meters = st.sampled_from(METERS)
consents = st.sampled_from(CONSENTS)
people = st.sampled_from(("c-1", "c-2"))
uses = st.sampled_from(tuple(SHUT))
some_categories = st.sampled_from((CATEGORIES, CATEGORIES[:1], CATEGORIES[1:]))
days = st.integers(-20, 20)
# What a record may say: nothing, too coarse for some, more than was asked, a contradiction.
records = st.sampled_from(
    (
        None,
        RecordTerms("OCCUPIER"),
        RecordTerms(granularity="HALF_HOUR"),
        RecordTerms(granularity="DAY"),
        RecordTerms(onward_sharing=True, recipients=("partner",)),
        RecordTerms(recipients=("partner",)),
    )
)
later_actions = st.sampled_from(
    (Action.NARROW, Action.SUSPEND, Action.RESUME, Action.REVOKE, Action.WITHDRAW, Action.DECLINE)
)


def under_consent(k: str, category: str) -> Any:
    """What the adviser asks under a consent; under any, if it is not named."""
    asked = access_request(ASKED, category=category, consent_id=k)
    assert asked.basis == Basis.CONSENT and asked.party == ADVISER
    return asked


def of_use(use: tuple[str, str], category: str, supplier: str) -> Any:
    """What a supplier asks of a use that needs no consent."""
    basis, purpose = use
    terms = {"role": Role.SUPPLIER, "basis": basis, "purpose": purpose, "category": category}
    return access_request(ASKED, party=supplier, **terms)


QUESTIONS = (
    *(under_consent(*asked) for asked in product((*CONSENTS, ""), CATEGORIES)),
    *(
        of_use(use, category, supplier)
        for use, supplier in product(SHUT, SUPPLIERS)
        for category in (SHUT[use], "METERING_POINT")  # and what an objection does not shut
    ),
)
ASKED_PLAINLY = [(request, plain(request)) for request in QUESTIONS]


class Lives(RuleBasedStateMachine):
    """What coordinators keep of two meters and two consents, and what was acknowledged to whom."""

    def __init__(self) -> None:
        super().__init__()
        self.now = START
        self.access = dict.fromkeys(METERS, MeterAccess())
        self.told: dict[str, list[Any]] = {mpxn: [] for mpxn in METERS}
        self.home = dict.fromkeys(CONSENTS, FanOut())
        self.applied: set[tuple[str, int, str]] = set()
        self.refused: set[tuple[str, int, str]] = set()
        self.standing, self.said_of_party = trust.Standing(), list[Any]()
        self.tables: list[trust.Equivalence] = []
        self.over: set[tuple[str, str]] = set()
        self.held: set[tuple[str, str]] = set()
        self.objected: set[tuple[str, tuple[str, str], str]] = set()
        self.policy = min(POLICIES)
        self.tenancies = 0
        # One party's standing serves the adviser and both suppliers.
        self.govern(trust.ParticipantAdmitted("Bright Advice"))
        for role, scheme in (("data_user", "CCS"), ("supplier", "DSI")):
            self.govern(trust.AccreditationGranted(role, scheme, "1", (), ASKED[0], None))

    # How commands are carried out

    def give(self, mpxn: str, command: Any) -> bool:
        """Decide it at the meter; whether it was accepted, be it that it is already so."""
        try:
            events = CONSUMERS.decide(self.access[mpxn], command, self.now)
        except SpineError:
            return False
        for event in events:
            self.access[mpxn] = CONSUMERS.evolve(self.access[mpxn], event)
            self.told[mpxn].append(event)
        self.note(mpxn, command)
        return True

    def note(self, mpxn: str, command: Any) -> None:
        """What an acknowledged command promises from now on."""
        match command:
            case c.RevokeConsent() | c.WithdrawConsent() | c.DeclineConsent():
                self.over.add((mpxn, command.consent_id))
            case c.SuspendConsent():
                self.held.add((mpxn, command.consent_id))
            case c.ResumeConsent():
                self.held.discard((mpxn, command.consent_id))
            case c.ObjectToUse():
                self.objected.update(self.of_the_stays(mpxn, command))
            case c.AllowUse():
                self.objected.difference_update(self.of_the_stays(mpxn, command))

    def of_the_stays(self, mpxn: str, command: Any) -> set[tuple[str, tuple[str, str], str]]:
        """The use at each stay of the consumer until now."""
        use, who = (command.basis, command.purpose), command.consumer_ref
        stays = self.access[mpxn].tenancies
        return {(mpxn, use, stay.tenancy_id) for stay in stays if stay.consumer_ref == who}

    def is_applied(self, leg: tuple[str, int, str]) -> bool:
        """Whether the fold knows the leg's command id: then a second send changes nothing."""
        return leg in self.applied

    def govern(self, event: Any) -> None:
        after = trust.evolve(self.standing, event)
        assert isinstance(after, trust.Standing)
        self.standing = after
        self.said_of_party.append((type(event).__name__, plain(event)))

    def terms(self, who: str, categories: tuple[str, ...], history: int, term: int) -> Any:
        start = self.now + min(term, 0) * DAY
        end = self.now + (abs(term) + 1) * DAY
        since = self.now + history * DAY
        return c.ConsentTerms(
            ADVISER, who, "ENERGY_ADVICE", categories, min(since, end - DAY), start, end
        )

    # Who lives there, and time

    @initialize(
        of=some_categories,
        sent=st.integers(0, 2),
        alone=st.booleans(),
        version=st.sampled_from(sorted(POLICIES)),
    )
    def one_lives_at_both(self, of: tuple[str, ...], sent: int, alone: bool, version: int) -> None:
        """Most lives begin like this: somebody lives there and allows something."""
        self.policy = version
        for mpxn in METERS:
            self.give(mpxn, c.StartSupply(SERVICE, SUPPLIERS[0], self.now - 15 * DAY))
            self.somebody_moves_in(mpxn, "c-1", -10)
        if alone:
            self.one_is_granted(METERS[0], "k-2", "c-1", of, -5, 20)
        self.both_are_granted("k-1", "c-1", of, -5, 20)
        self.legs_are_sent("k-1", sent)

    @rule(hours=st.integers(1, 24 * 4))
    def time_passes(self, hours: int) -> None:
        self.now += timedelta(hours=hours)
        for mpxn in METERS:
            for command in CONSUMERS.due(self.access[mpxn], self.now):
                assert self.give(mpxn, command)

    @rule(mpxn=meters, who=people, since=st.integers(-20, 3))
    def somebody_moves_in(self, mpxn: str, who: str, since: int) -> None:
        self.tenancies += 1
        at = self.now + since * DAY
        self.give(mpxn, c.StartTenancy(SERVICE, f"t-{self.tenancies}", who, at))

    @rule(mpxn=meters, at=st.integers(-5, 5))
    def somebody_moves_out(self, mpxn: str, at: int) -> None:
        for tenancy in self.access[mpxn].tenancies[-1:]:
            self.give(mpxn, c.EndTenancy(SERVICE, tenancy.tenancy_id, self.now + at * DAY))

    @rule(mpxn=meters, supplier=st.sampled_from(SUPPLIERS))
    def the_supplier_changes(self, mpxn: str, supplier: str) -> None:
        before = {k: self.opens(mpxn, k) for k in CONSENTS}
        self.give(mpxn, c.StartSupply(SERVICE, supplier, self.now))
        assert {k: self.opens(mpxn, k) for k in CONSENTS} == before

    @precondition(lambda self: self.policy < max(POLICIES))
    @rule()
    def the_next_policy_is_adopted(self) -> None:
        self.policy += 1

    @rule(mpxn=meters, who=people, use=uses, allowed=st.booleans())
    def a_use_is_objected_to_or_allowed(
        self, mpxn: str, who: str, use: tuple[str, str], allowed: bool
    ) -> None:
        by = Actor(Role.CONSUMER, who)
        said = c.AllowUse(by, *use, who) if allowed else c.ObjectToUse(by, *use, who, self.policy)
        self.give(mpxn, said)

    @rule()
    def the_party_is_suspended_or_reinstated(self) -> None:
        participant = self.standing.participant
        assert participant is not None
        said = trust.ParticipantReinstated if participant.suspended else trust.ParticipantSuspended
        self.govern(said("INQUIRY"))

    @rule(tier=st.sampled_from(("1", "2")), purpose=st.sampled_from(("ENERGY_ADVICE", "RESEARCH")))
    def a_table_is_adopted(self, tier: str, purpose: str) -> None:
        """The adviser is accredited under CCS, tier 1: one of four such rows lets it in."""
        before: trust.GovernanceState = self.tables[-1] if self.tables else trust.Standing()
        row = trust.EquivalenceRow("CCS", tier, "ENERGY_ADVICE", "DSI", "", purpose)
        after = trust.evolve(before, trust.EquivalenceTableAdopted(len(self.tables) + 1, (row,)))
        assert isinstance(after, trust.Equivalence)
        self.tables.append(after)

    # Consents of one meter

    @rule(
        mpxn=meters,
        k=consents,
        who=people,
        of=some_categories,
        history=days,
        term=days,
        record=records,
    )
    def one_is_granted(
        self,
        mpxn: str,
        k: str,
        who: str,
        of: tuple[str, ...],
        history: int,
        term: int,
        record: RecordTerms | None = None,
    ) -> None:
        by, terms = Actor(Role.CONSUMER, who), self.terms(who, of, history, term)
        self.give(mpxn, c.GrantConsent(by, k, terms, record=record))

    @rule(mpxn=meters, k=consents, who=people, of=some_categories, term=days, record=records)
    def one_is_asked_for(
        self,
        mpxn: str,
        k: str,
        who: str,
        of: tuple[str, ...],
        term: int,
        record: RecordTerms | None,
    ) -> None:
        by = Actor(Role.DATA_USER, ADVISER)
        terms = self.terms(who, of, -5, term)
        self.give(mpxn, c.RequestConsent(by, k, terms, self.now + 3 * DAY, record))

    @rule(mpxn=meters, k=consents, of=some_categories, shorter=st.integers(0, 10))
    def one_is_narrowed(self, mpxn: str, k: str, of: tuple[str, ...], shorter: int) -> None:
        for consent in self.access[mpxn].consents:
            if consent.consent_id == k:
                by = Actor(Role.CONSUMER, consent.consumer_ref)
                scope = (of, consent.history_from, consent.expires - shorter * DAY)
                self.give(mpxn, c.NarrowConsent(by, k, *scope))

    @rule(mpxn=meters, k=consents, by=st.sampled_from((SERVICE, BOARD)), lifted=st.booleans())
    def one_is_held_or_resumed(self, mpxn: str, k: str, by: Actor, lifted: bool) -> None:
        command = c.ResumeConsent(by, k) if lifted else c.SuspendConsent(by, k, "INQUIRY")
        self.give(mpxn, command)

    @rule(mpxn=meters, k=consents, kind=st.sampled_from(sorted(ENDS)))
    def one_is_ended(self, mpxn: str, k: str, kind: str) -> None:
        self.give(mpxn, AN_END[kind](SERVICE, k))

    # Consents of both meters: ordered at home, then leg by leg

    @rule(k=consents, who=people, of=some_categories, history=days, term=days, record=records)
    def both_are_granted(
        self,
        k: str,
        who: str,
        of: tuple[str, ...],
        history: int,
        term: int,
        record: RecordTerms | None = None,
    ) -> None:
        by, terms = Actor(Role.CONSUMER, who), self.terms(who, of, history, term)
        self.order(k, OrderFanOut(by, k, Action.GRANT, METERS, terms, record=record))

    @precondition(lambda self: any(state.orders for state in self.home.values()))
    @rule(k=consents, action=later_actions, of=some_categories)
    def both_are_changed(self, k: str, action: Action, of: tuple[str, ...]) -> None:
        terms = self.home[k].terms if self.home[k].orders else None
        if terms is not None and action == Action.NARROW:
            terms = c.ConsentTerms(
                terms.data_user,
                terms.consumer_ref,
                terms.purpose,
                of,
                terms.history_from,
                terms.valid_from,
                terms.expires,
            )
        self.order(k, OrderFanOut(SERVICE, k, action, METERS, terms, reason="INQUIRY"))

    @rule(
        k=consents,
        at=st.sampled_from((METERS, METERS[:1], METERS[1:])),
        kind=st.sampled_from(sorted(ENDS)),
        by=st.sampled_from((SERVICE, Actor(Role.CONSUMER, "c-1"))),
    )
    def some_are_ended(self, k: str, at: tuple[str, ...], kind: str, by: Actor) -> None:
        """At home too, whoever's consent it is at each, and whether or not it was ordered there."""
        self.order(k, OrderTightening(by, AN_END[kind](by, k), at))

    def order(self, k: str, command: OrderFanOut | OrderTightening) -> None:
        state = self.home[k]
        try:
            events = CONSENT_FAN_OUT.decide(state, command, self.now)
        except SpineError:
            return
        for event in events:
            state = CONSENT_FAN_OUT.evolve(state, event)
        self.home[k] = state

    @rule(k=consents, alive=st.integers(0, 8))
    def legs_are_sent(self, k: str, alive: int) -> None:
        """Whatever is missing, in order, until all is sent or the process dies after so many."""
        for order in open_orders(self.home[k]):
            for mpxn, command in legs(self.home[k], order):
                if alive == 0:
                    return
                alive -= 1
                leg = (k, order.number, mpxn)
                if not self.is_applied(leg):
                    decided = self.applied if self.give(mpxn, command) else self.refused
                    decided.add(leg)
            self.complete(k, order.number)

    def complete(self, k: str, number: int) -> None:
        done = CompleteFanOut(Actor(Role.COORDINATOR, "consumers"), number)
        for event in CONSENT_FAN_OUT.decide(self.home[k], done, self.now):
            self.home[k] = CONSENT_FAN_OUT.evolve(self.home[k], event)

    # What holds whatever happened

    def judged(self, mpxn: str, request: Any, now: datetime) -> Any:
        known = self.access[mpxn] if self.told[mpxn] else None
        table = self.tables[-1] if self.tables else None
        participant = self.standing.participant
        return POLICIES[self.policy](request, Situation(known, participant, now, equivalence=table))

    def opens(self, mpxn: str, k: str) -> list[bool]:
        return [
            isinstance(self.judged(mpxn, under_consent(k, category), self.now), Permit)
            for category in CATEGORIES
        ]

    @invariant()
    def policy_and_calculator_agree(self) -> None:
        for mpxn in METERS:
            meter = [(type(event).__name__, plain(event)) for event in self.told[mpxn]]
            tables = [[asdict(row) for row in table.rows] for table in self.tables]
            for request, asked in ASKED_PLAINLY:
                found = rights(asked, meter, self.said_of_party, self.now, tables, self.policy)
                decision = self.judged(mpxn, request, self.now)
                assert agree(permitted_by(decision), found), (decision, found)

    @invariant()
    def what_is_over_or_held_opens_nothing_now_or_later(self) -> None:
        for mpxn, k in self.over | self.held:
            for category in CATEGORIES:
                for ahead in (0, 10, 60):
                    request, now = under_consent(k, category), self.now + ahead * DAY
                    assert not isinstance(self.judged(mpxn, request, now), Permit), (mpxn, k)

    @invariant()
    def what_is_objected_to_opens_nothing_of_that_stay(self) -> None:
        """Whoever supplies the meter, and however much later it is read."""
        for mpxn, use, tenancy_id in self.objected:
            stay = next(t for t in self.access[mpxn].tenancies if t.tenancy_id == tenancy_id)
            lived = stretch(stay.effective_from, stay.effective_to)
            for supplier in SUPPLIERS:
                found = self.judged(mpxn, of_use(use, SHUT[use], supplier), self.now)
                parts = found.covered if isinstance(found, Permit) else ()
                opened = [one for one, its in product(parts, lived) if one.intersect(its)]
                assert not opened, (mpxn, use, opened)

    @invariant()
    def a_completed_end_shut_every_meter_it_named(self) -> None:
        """But where the meter refused its leg, and one of the consent service to revoke or withdraw
        none refuses.
        """
        for k, state in self.home.items():
            for order in state.every:
                said = order.ordered
                if said.action not in ENDS or order.completed_at is None:
                    continue
                for mpxn in said.mpxns:
                    if (k, said.number, mpxn) not in self.refused:
                        assert not any(self.opens(mpxn, k)), (k, said.number, mpxn)
                    else:
                        by_service = said.actor_role == SERVICE.role
                        assert said.action == Action.DECLINE or not by_service

    @invariant()
    def the_state_is_what_the_events_make_of_it(self) -> None:
        for mpxn in METERS:
            state = MeterAccess()
            for event in self.told[mpxn]:
                state = CONSUMERS.evolve(state, event)
            assert state == self.access[mpxn]

    @invariant()
    def a_record_is_one_chain_and_nothing_finer_than_it_says_is_open(self) -> None:
        for mpxn, k in product(METERS, CONSENTS):
            state = MeterAccess()
            versions: dict[int, dict[str, str]] = {}
            for event in self.told[mpxn]:
                state = CONSUMERS.evolve(state, event)
                record = record_of(state, k)
                if record is not None:
                    consent = next(one for one in state.consents if one.consent_id == k)
                    said = lines(consent, record) | {HASH_LINE: record.hash.hex()}
                    versions[record.version] = said
            assert list(versions) == list(range(1, len(versions) + 1))
            assert broken(versions.values()) == []
            if terms_of(self.access[mpxn], k).granularity == "DAY":
                assert self.opens(mpxn, k) == [False, False], "both are half hours"


Lives.TestCase.settings = settings(
    max_examples=100, stateful_step_count=40, deadline=None, derandomize=True
)
TestLives = Lives.TestCase


class Forgetful(Lives):
    """A coordinator that knows no command ids sends a leg as if it never had been sent."""

    def is_applied(self, leg: tuple[str, int, str]) -> bool:
        return False


def a_crash_in_a_resumption(machine: Lives) -> None:
    """A meter is held again after its leg of a resumption; the rest of the legs come later."""
    for mpxn in METERS:
        machine.somebody_moves_in(mpxn, "c-1", -10)
    machine.both_are_granted("k-1", "c-1", CATEGORIES, -5, 20)
    machine.legs_are_sent("k-1", 8)
    assert all(all(machine.opens(mpxn, "k-1")) for mpxn in METERS)
    for action in (Action.SUSPEND, Action.RESUME):
        machine.both_are_changed("k-1", action, CATEGORIES)
        machine.legs_are_sent("k-1", 2 if action == Action.SUSPEND else 1)
    machine.one_is_held_or_resumed(METERS[0], "k-1", SERVICE, lifted=False)
    machine.legs_are_sent("k-1", 8)


def test_a_leg_that_is_sent_again_after_a_crash_loosens_nothing() -> None:
    machine = Lives()
    a_crash_in_a_resumption(machine)
    assert [any(machine.opens(mpxn, "k-1")) for mpxn in METERS] == [False, True]
    naive = Forgetful()
    a_crash_in_a_resumption(naive)
    assert any(naive.opens(METERS[0], "k-1")), "the naive coordinator must lift the hold"


class Hasty(Lives):
    """A coordinator that completes an order whose last legs a crash left unsent."""

    def legs_are_sent(self, k: str, alive: int) -> None:
        before = open_orders(self.home[k])
        super().legs_are_sent(k, alive)
        for order in before:
            self.complete(k, order.number)


@pytest.mark.parametrize("whole", [True, False])
def test_an_end_that_is_completed_too_soon_is_found(whole: bool) -> None:
    for machine in (Lives(), Hasty()):
        for mpxn in METERS:
            machine.somebody_moves_in(mpxn, "c-1", -10)
            machine.one_is_granted(mpxn, "k-1", "c-1", CATEGORIES, -5, 20)
        machine.both_are_granted("k-1", "c-1", CATEGORIES, -5, 20)
        machine.legs_are_sent("k-1", 8)
        if whole:
            machine.both_are_changed("k-1", Action.REVOKE, CATEGORIES)
        else:
            machine.some_are_ended("k-1", METERS, Action.REVOKE, SERVICE)
        machine.legs_are_sent("k-1", 1)
        machine.what_is_over_or_held_opens_nothing_now_or_later()
        if isinstance(machine, Hasty):
            with pytest.raises(AssertionError):
                machine.a_completed_end_shut_every_meter_it_named()
        else:
            machine.a_completed_end_shut_every_meter_it_named()
            machine.legs_are_sent("k-1", 8)
            assert not open_orders(machine.home["k-1"])
            machine.a_completed_end_shut_every_meter_it_named()
            assert not any(machine.opens(METERS[1], "k-1"))


def test_a_rule_that_is_left_out_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spine.policy.consent_refusal", lambda *_: None)
    machine = Lives()
    machine.somebody_moves_in(METERS[0], "c-1", -10)
    machine.one_is_granted(METERS[0], "k-1", "c-1", CATEGORIES, -5, 20)
    machine.policy_and_calculator_agree()
    machine.one_is_ended(METERS[0], "k-1", Action.REVOKE)
    for naive in (
        machine.policy_and_calculator_agree,
        machine.what_is_over_or_held_opens_nothing_now_or_later,
    ):
        with pytest.raises(AssertionError):
            naive()


def test_an_objection_that_is_noted_and_not_heeded_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine = Lives()
    machine.one_lives_at_both(CATEGORIES, 2, False, max(POLICIES))
    for use in SHUT:
        machine.a_use_is_objected_to_or_allowed(METERS[0], "c-1", use, False)
    assert len(machine.objected) == len(SHUT)
    machine.policy_and_calculator_agree()
    machine.what_is_objected_to_opens_nothing_of_that_stay()
    monkeypatch.setattr("spine.policy_v2.objecting_to", lambda access, *use: set())
    for naive in (
        machine.policy_and_calculator_agree,
        machine.what_is_objected_to_opens_nothing_of_that_stay,
    ):
        with pytest.raises(AssertionError):
            naive()
