"""The policy and the rights calculator, two readings of the same rules, never disagree.

`make rights` asks a million questions; the tests ask some thousands. The decisions on rights in a
log go through the same comparison (`tests/helpers/judging.py`) wherever the tests run a town
(`tests/helpers/town.py`), the pools (`tests/coordinators/test_pooled.py`), the installation of
`tests/e2e` or a fault installation, there up to its last audit. Those of load runs do not.
"""

from __future__ import annotations

import os
import random
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from domains.consumers import events as consumers
from domains.consumers.evolve import evolve
from spine import policy, policy_v2, trust
from spine.accreditation import accreditation_refusal
from spine.errors import Reason, SpineError
from spine.event import AccessRequest
from spine.gb import Interval
from spine.policies import POLICIES
from spine.policy import (
    Basis,
    Category,
    Decision,
    MeterAccess,
    Permit,
    Role,
    Situation,
)
from tests.helpers.access import access_request
from tests.helpers.judging import permitted_by, plain
from tests.helpers.rights import ALWAYS, Event, Right, agree, rights

QUESTIONS = int(os.environ.get("SPINE_TEST_QUESTIONS", "20000"))
QUESTIONS_A_LIFE = 50
START = datetime(2025, 1, 1, tzinfo=UTC)
DAYS = 40
PURPOSES = ("ENERGY_ADVICE", "FLEXIBILITY", "BILLING", "SETTLEMENT", "OWN_USE", "CURIOSITY")
CATEGORIES = (*Category, "GOSSIP")
QUANTITIES = ("AI", "AE", "")
PARTIES = ("adviser", "north", "south", "c-1", "c-2", "c-3")


@dataclass
class Life:
    """A meter and the parties around it through some weeks, at random."""

    rng: random.Random
    access: MeterAccess = field(default_factory=MeterAccess)
    meter: list[Event] = field(default_factory=list)
    governance: dict[str, list[Event]] = field(default_factory=dict)
    standing: dict[str, trust.Standing] = field(default_factory=dict)
    tables: list[trust.Equivalence] = field(default_factory=list)
    policy: int = 1

    def moment(self) -> datetime:
        return START + timedelta(hours=self.rng.randrange(-24, DAYS * 24))

    def live(self) -> None:
        """A few dozen facts; one that cannot be said in that state is said by nobody."""
        for party in PARTIES[:3]:
            if self.rng.random() < 0.9:
                self.govern(party, trust.ParticipantAdmitted(party))
                for role in (Role.DATA_USER, Role.SUPPLIER, Role.DATA_SERVICE):
                    held = trust.AccreditationGranted(role, "CODE", "1", (), START, None)
                    self.govern(party, held)
        self.happen(consumers.TenancyStarted("t-1", "c-1", self.moment()))
        self.happen(consumers.SupplyStarted("north", self.moment()))
        for consent in ("k-1", "k-2")[: self.rng.randrange(3)]:
            self.happen(self.agreed(consent, "t-1"))
        for _ in range(self.rng.randrange(2, 20)):
            if self.rng.random() < 0.15:
                self.govern(self.rng.choice(PARTIES[:3]), self.word_of_governance())
            else:
                self.happen(self.fact())
        for _ in range(self.rng.choice((0, 0, 1, 2))):
            self.adopt()

    def happen(self, event: Any) -> None:
        try:
            self.access = evolve(self.access, event)
        except SpineError:
            return
        self.meter.append((type(event).__name__, plain(event)))

    def govern(self, party: str, event: Any) -> None:
        before = self.standing.get(party, trust.Standing())
        admitted = isinstance(event, trust.ParticipantAdmitted)
        if admitted is (before.participant is not None):
            return
        after = trust.evolve(before, event)
        assert isinstance(after, trust.Standing)
        self.standing[party] = after
        self.governance.setdefault(party, []).append((type(event).__name__, plain(event)))

    def adopt(self) -> None:
        """A further table: most of what the parties hold, some of what nobody does."""
        before: trust.GovernanceState = self.tables[-1] if self.tables else trust.Standing()
        rows = tuple(self.row() for _ in range(self.rng.choice((0, 4, 12, 24))))
        after = trust.evolve(before, trust.EquivalenceTableAdopted(len(self.tables) + 1, rows))
        assert isinstance(after, trust.Equivalence)
        self.tables.append(after)

    def row(self) -> trust.EquivalenceRow:
        choose = self.rng.choice
        scheme, tier = choose(("CODE", "CODE", "CODE", "REC", "DSI")), choose(("1", "1", "1", "2"))
        purpose = choose(PURPOSES)
        other = purpose if self.rng.random() < 0.8 else choose(PURPOSES)
        to = choose(("DSI", "DSI", "DSI", "REC"))
        return trust.EquivalenceRow(scheme, tier, purpose, to, "1", other)

    def word_of_governance(self) -> Any:
        choose = self.rng.choice
        role = choose((Role.DATA_USER, Role.SUPPLIER, Role.DATA_SERVICE))
        scheme, ended = choose(("DSI", "REC")), choose((None, self.moment()))
        purposes = choose(((), ("ENERGY_ADVICE",), ("SETTLEMENT", "BILLING")))
        return choose(
            (
                trust.AccreditationGranted(role, scheme, "1", purposes, self.moment(), ended),
                trust.AccreditationGranted(role, scheme, "1", (), START, None),
                trust.AccreditationWithdrawn(role, scheme),
                trust.ParticipantSuspended("INQUIRY"),
                trust.ParticipantReinstated("DONE"),
            )
        )

    def fact(self) -> Any:
        choose, at = self.rng.choice, self.moment()
        tenancy, consent = choose(("t-1", "t-2", "t-3")), choose(("k-1", "k-2", "k-3"))
        known = {t.tenancy_id for t in self.access.tenancies}
        made: list[Any] = [
            consumers.TenancyEnded(tenancy, at),
            consumers.SupplyStarted(choose(("north", "south")), at),
            consumers.SupplyEnded(choose(("north", "south")), at),
            consumers.AgentAppointed(choose(("north", "south")), Role.DATA_SERVICE, at),
            consumers.AgentAppointmentEnded(choose(("north", "south")), Role.DATA_SERVICE, at),
            self.agreed(consent, tenancy),
            self.agreed(consent, tenancy),
            self.asked(consent, tenancy),
            consumers.ConsentNarrowed(consent, 2, categories(self.rng), at, self.moment(), at),
            consumers.ConsentSuspended(consent, Role.CONSENT_SERVICE, "INQUIRY", at),
            consumers.ConsentResumed(consent, at),
            choose(
                (
                    consumers.ConsentRevoked,
                    consumers.ConsentWithdrawn,
                    consumers.ConsentDeclined,
                    consumers.ConsentLapsed,
                )
            )(consent, at),
        ]
        if tenancy not in known:
            made += [consumers.TenancyStarted(tenancy, f"c-{tenancy[-1]}", at)] * 6
        if self.policy > 1:
            use = choose((("LEGAL_OBLIGATION", "SETTLEMENT"), ("OPT_OUT", "BILLING"), ("WHIM", "")))
            said = choose((consumers.UseObjected, consumers.UseObjected, consumers.UseAllowed))
            made += [said(*use, tenancy, at)] * 8
        return choose(made)

    def agreed(self, consent: str, tenancy: str) -> consumers.ConsentGranted:
        return consumers.ConsentGranted(**self.terms(consent, tenancy), decided_at=self.moment())

    def asked(self, consent: str, tenancy: str) -> consumers.ConsentRequested:
        return consumers.ConsentRequested(
            **self.terms(consent, tenancy), answer_by=self.moment(), decided_at=self.moment()
        )

    def terms(self, consent: str, tenancy: str) -> Any:
        choose = self.rng.choice
        return {
            "consent_id": consent,
            "data_user": choose(("adviser", "adviser", "north")),
            "tenancy_id": tenancy,
            "consumer_ref": f"c-{tenancy[-1]}",
            "purpose": choose(PURPOSES[:2]),
            "categories": categories(self.rng),
            "history_from": self.moment(),
            "valid_from": choose((START, self.moment())),
            "expires": self.moment() + timedelta(days=DAYS // 2),
        }

    def question(self) -> AccessRequest:
        """What somebody might rightly ask here, but for some parts that are chance."""
        choose, start = self.rng.choice, self.moment()
        fitting = choose((self.under_consent, self.as_subject, self.as_appointed))()
        chance = {
            "role": str(choose(tuple(Role))),
            "basis": str(choose((*Basis, "WHIM"))),
            "purpose": choose(PURPOSES),
            "category": str(choose(CATEGORIES)),
            "party": choose(PARTIES),
            "measurement_quantity": choose(QUANTITIES),
            "consent_id": choose(("k-1", "k-2")),
        }
        changed = self.rng.sample(sorted(chance), choose((0, 0, 0, 1, 1, 2)))
        end = start + timedelta(hours=choose((1, 24, 168, 24 * DAYS)), minutes=choose((0, 7)))
        return access_request((start, end), **(fitting | {name: chance[name] for name in changed}))

    def under_consent(self) -> dict[str, str]:
        choose = self.rng.choice
        if not self.access.consents:
            return {"party": "adviser"}
        consent = choose(self.access.consents)
        role = Role.SUPPLIER if consent.data_user == "north" else Role.DATA_USER
        category = choose((*consent.categories, "METERING_POINT", "CONSENTS"))
        purpose = consent.purpose or "BILLING"
        party = consent.data_user or "adviser"
        return {"party": party, "role": role, "purpose": purpose, "category": category}

    def as_subject(self) -> dict[str, str]:
        party, category = self.rng.choice(PARTIES[3:]), self.rng.choice(tuple(Category))
        terms = {"role": Role.CONSUMER, "basis": Basis.SUBJECT, "purpose": "OWN_USE"}
        return {"party": party, "category": category, **terms}

    def as_appointed(self) -> dict[str, str]:
        role, basis, purpose = self.rng.choice(
            (
                (Role.SUPPLIER, Basis.LEGAL_OBLIGATION, "SETTLEMENT"),
                (Role.DATA_SERVICE, Basis.LEGAL_OBLIGATION, "SETTLEMENT"),
                (Role.SUPPLIER, Basis.CONTRACT, "BILLING"),
                *([(Role.SUPPLIER, Basis.OPT_OUT, "BILLING")] if self.policy > 1 else []),
            )
        )
        category = self.rng.choice(("HH_CONSUMPTION", "EXPORT", "METERING_POINT", "DAILY"))
        party = self.rng.choice(("north", "south"))
        return {
            "role": role,
            "basis": basis,
            "purpose": purpose,
            "party": party,
            "category": category,
        }

    def decide(self, request: AccessRequest, now: datetime) -> Decision:
        """What the policy says."""
        participant = self.standing.get(request.party, trust.Standing()).participant
        known = self.access if self.meter else None
        table = self.tables[-1] if self.tables else None
        judge = POLICIES[self.policy]
        return judge(request, Situation(known, participant, now, equivalence=table))

    def rights(self, request: AccessRequest, now: datetime) -> list[Right]:
        """What the calculator says."""
        party = self.governance.get(request.party, [])
        tables = [[asdict(row) for row in table.rows] for table in self.tables]
        return rights(plain(request), self.meter, party, now, tables, self.policy)


def categories(rng: random.Random) -> tuple[str, ...]:
    return tuple(rng.sample([str(c) for c in Category][:6], rng.randrange(1, 4)))


def ask(seed: int, count: int, policy: int = 1) -> tuple[int, list[str]]:
    """How many questions were permitted, and every disagreement."""
    rng, permitted, disagreed = random.Random(seed), 0, []
    for number in range(count):
        if number % QUESTIONS_A_LIFE == 0:
            life = Life(rng, policy=policy)
            life.live()
        request, now = life.question(), life.moment()
        decision, found = life.decide(request, now), life.rights(request, now)
        permitted += isinstance(decision, Permit)
        if not agree(permitted_by(decision), found):
            disagreed.append(f"{decision} against {found} for {request} at {now}: {life.meter}")
    return permitted, disagreed


@pytest.mark.parametrize("version", POLICIES)
def test_policy_and_calculator_never_disagree(version: int) -> None:
    permitted, disagreed = ask(2025 + version, QUESTIONS, version)
    assert not disagreed, disagreed[0]
    assert permitted > QUESTIONS / 50, "hardly anything was permitted: the questions are too poor"


NAIVE: dict[str, tuple[str, Any]] = {
    "expiry, revocation and tenancy do not matter": ("consent_refusal", lambda *_: None),
    "accreditation does not matter": ("_accreditation", lambda *_: None),
    "a missing row is a yes": (
        "accreditation_refusal",
        lambda who, role, now, purpose, table, **_: accreditation_refusal(who, role, now, purpose),
    ),
    "a row for another purpose will do": (
        "accreditation_refusal",
        lambda who, role, now, purpose, table, **_: next(
            (None for p in PURPOSES if not accreditation_refusal(who, role, now, p, table)),
            Reason.ACCREDITATION_MISSING,
        ),
    ),
    "any purpose and category will do": ("_claim", lambda *_: None),
    "a consent opens every category": ("_covers", lambda *_: True),
    "the oldest consent is as good as the widest": ("_opened", lambda *_: 0),
    "history reaches back before moving in": ("stretch", lambda *_: (Interval(*ALWAYS),)),
}


@pytest.mark.parametrize("name", NAIVE)
def test_a_policy_that_leaves_a_rule_out_is_found(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rule, naive = NAIVE[name]
    monkeypatch.setattr(policy, rule, naive)
    assert ask(2, 10_000)[1]


NAIVE_ABOUT_OBJECTIONS: dict[str, tuple[str, Any]] = {
    "an objection is noted and not heeded": ("objecting_to", lambda access, *use: set()),
    "an objection holds for ever": ("stretch", lambda *_: (Interval(*ALWAYS),)),
    "an objection shuts whatever is asked": (
        "_shut",
        lambda basis: [str(c) for c in Category],
    ),
}


@pytest.mark.parametrize("name", NAIVE_ABOUT_OBJECTIONS)
def test_a_second_policy_that_is_naive_about_objections_is_found(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rule, naive = NAIVE_ABOUT_OBJECTIONS[name]
    monkeypatch.setattr(policy_v2, rule, naive)
    assert ask(2, 10_000, 2)[1]
