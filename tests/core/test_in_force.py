"""Rules that look at the policy's codes go by the version in force, and never by the newest."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from msgspec import structs

from domains.consumers.commands import ConsentTerms, GrantConsent, ObjectToUse
from domains.consumers.decider import CONSUMERS
from domains.consumers.events import AgentAppointed, SupplyStarted
from domains.consumers.preview import opened_by
from domains.governance.commands import GrantAccreditation
from domains.governance.decider import GOVERNANCE
from domains.governance.equivalence import AdoptEquivalenceTable
from spine import trust
from spine.accreditation import CCS, row_for
from spine.domain import Actor
from spine.errors import Reason, Refused
from spine.event import NO_PREDECESSOR
from spine.in_force import policy_in_force, reader_refusal, under_policy
from spine.policy import Permit, Refuse, Role
from spine.policy_data import POLICY_DATA, POLICY_DATA_V1, POLICY_HASHES
from spine.rows import Decided
from tests.helpers.access import access_request
from tests.helpers.records import (
    BEGUN,
    BY_GOVERNANCE,
    EXPIRES,
    METER,
    MOVED_IN,
    Scene,
    command,
    granted,
    moved_in,
)

BOARD, CONSUMER = Actor(Role.GOVERNANCE, "board"), Actor(Role.CONSUMER, "c-1")
NEWEST = 99
ROW = trust.EquivalenceRow("REC", "1", "ASTROLOGY", "CCS", "1", "ENERGY_ADVICE")
SUPPLIED = (moved_in(), SupplyStarted("north", MOVED_IN))


@pytest.fixture
def newest(monkeypatch: pytest.MonkeyPatch) -> None:
    """This build knows a newer version, by which consent carries a further purpose."""
    data: Any = deepcopy(dict(POLICY_DATA_V1)) | {"version": NEWEST}
    data["bases"]["CONSENT"]["purposes"].append("ASTROLOGY")
    monkeypatch.setitem(POLICY_DATA, NEWEST, data)


class Log(Scene):
    """A log in which version 1 was adopted, with a supplier that is accredited."""

    def __init__(self) -> None:
        super().__init__()
        self.adopted = self.home.records[-1].offset
        held = trust.AccreditationGranted("supplier", "REC", "1", (), MOVED_IN, None)
        north = trust.party_subject("north")
        self.govern((north, trust.ParticipantAdmitted("North"), held))
        self.facts(command(METER, *SUPPLIED))

    def govern(self, said: tuple[Any, ...], previous: int = NO_PREDECESSOR) -> None:
        """A fact of governance, and its copy here."""
        home, before = self.home, self.home.records[-1].offset
        subject, *facts = said
        at = (previous, NO_PREDECESSOR if previous == NO_PREDECESSOR else 0)
        one = command(subject, *facts, domain=GOVERNANCE, previous=at)
        record = home.keep(home.facts(one, by=BY_GOVERNANCE, keyed=False))
        self.send(self.log.copy(record, before))

    def adopt(self, version: int) -> None:
        fact = trust.PolicyVersionAdopted(version, POLICY_HASHES[version])
        self.govern((trust.POLICY_SUBJECT, fact), self.adopted)

    def decide(self, asked: Any) -> tuple[Any, ...]:
        """What the coordinator would append."""
        state = self.fold.subject(METER).state
        return CONSUMERS.decide(state, under_policy(self.fold, asked), BEGUN)

    def say(self, *events: Any) -> None:
        row = self.fold.subject(METER)
        self.facts(command(METER, *events, previous=(row.offset, row.entry)))

    def settles(self) -> Decided:
        """A day's read of half hours by the supplier, for settlement."""
        terms = {"role": "supplier", "basis": "LEGAL_OBLIGATION", "purpose": "SETTLEMENT"}
        day = (BEGUN.replace(year=2025, month=6), BEGUN.replace(year=2025, month=6, day=2))
        return self.fold.judge(access_request(day, party="north", **terms), METER, 0)


OBJECTS = ObjectToUse(CONSUMER, "LEGAL_OBLIGATION", "SETTLEMENT", "c-1")


def test_a_log_goes_over_at_one_place_and_what_was_decided_before_stays() -> None:
    log = Log()
    assert policy_in_force(log.fold) == 1
    before = log.settles()
    assert (before.policy_version, type(before.decision)) == (1, Permit)
    with pytest.raises(Refused) as refused:
        log.decide(OBJECTS)
    assert refused.value.reason is Reason.OBJECTION_NOT_POSSIBLE
    log.adopt(2)
    assert policy_in_force(log.fold) == 2
    assert isinstance(log.settles().decision, Permit)
    log.say(*log.decide(OBJECTS))
    after = log.settles()
    assert (after.policy_version, after.decision) == (2, Refuse(Reason.OPTED_OUT, concerned=True))


def test_the_newest_version_would_take_an_objection_that_no_read_heeds() -> None:
    """The naive coordinator: the consumer is told that the use is shut, and it is not."""
    log = Log()
    state = log.fold.subject(METER).state
    naive = ObjectToUse(CONSUMER, OBJECTS.basis, OBJECTS.purpose, "c-1", max(POLICY_DATA))
    log.say(*CONSUMERS.decide(state, naive, BEGUN))
    assert isinstance(log.settles().decision, Permit)


def grant(policy_version: int) -> GrantConsent:
    terms = ConsentTerms(
        "adviser", "c-1", "ASTROLOGY", ("HH_CONSUMPTION",), MOVED_IN, BEGUN, EXPIRES
    )
    return GrantConsent(CONSUMER, "k-1", terms, policy_version=policy_version)


@pytest.mark.usefixtures("newest")
def test_a_consent_carries_what_the_version_in_force_lets_it() -> None:
    log = Log()
    with pytest.raises(Refused) as refused:
        log.decide(grant(NEWEST))  # whatever it says: the fold says which one is in force
    assert refused.value.reason is Reason.CODE_UNKNOWN
    state = log.fold.subject(METER).state
    assert CONSUMERS.decide(state, grant(NEWEST), BEGUN), "the naive coordinator grants it"


def test_a_version_that_this_build_does_not_know_lets_nothing() -> None:
    state = Log().fold.subject(METER).state
    with pytest.raises(Refused) as refused:
        CONSUMERS.decide(state, grant(NEWEST), BEGUN)
    assert refused.value.reason is Reason.POLICY_VERSION_STATE


def accredit(policy_version: int) -> GrantAccreditation:
    purposes = ("ASTROLOGY",)
    given = (BOARD, "adviser", "data_user", "DSI", "1", purposes, BEGUN, None)
    return GrantAccreditation(*given, policy_version)


@pytest.mark.usefixtures("newest")
@pytest.mark.parametrize(
    ("state", "asked"),
    [
        (trust.Standing(participant=trust.Participant("Adviser")), accredit),
        (
            trust.Standing(),
            lambda version: AdoptEquivalenceTable(BOARD, 1, (ROW,), version),
        ),
    ],
)
def test_governance_names_purposes_of_the_version_in_force(state: Any, asked: Any) -> None:
    with pytest.raises(Refused) as refused:
        GOVERNANCE.decide(state, under_policy(Log().fold, asked(NEWEST)), BEGUN)
    assert refused.value.reason is Reason.CODE_UNKNOWN
    assert GOVERNANCE.decide(state, asked(NEWEST), BEGUN), "the naive coordinator says yes"


@pytest.mark.usefixtures("newest")
def test_an_accreditation_without_purposes_is_for_those_of_the_version_in_force() -> None:
    held = trust.Accreditation("data_user", "REC", "1", (), BEGUN, None)
    table = trust.Equivalence(1, (ROW,))
    assert row_for(held, "ENERGY_ADVICE", table, CCS, 1) is None
    assert row_for(held, "ENERGY_ADVICE", table, CCS, NEWEST) == ROW, "the naive judgement"


def test_only_what_looks_at_the_policy_is_given_its_version() -> None:
    moves = AgentAppointed("agent", Role.DATA_SERVICE, BEGUN)
    assert under_policy(Log().fold, moves) is moves


def test_under_a_version_that_this_build_does_not_know_nobody_reads_and_a_dry_run_says_so() -> None:
    log = Log()
    fact = trust.PolicyVersionAdopted(NEWEST, bytes(32))
    log.govern((trust.POLICY_SUBJECT, fact), log.adopted)
    log.say(structs.replace(granted(), data_user="reader"))
    day = (BEGUN.replace(year=2025, month=6), BEGUN.replace(year=2025, month=6, day=2))
    asked = access_request(day, party="reader", role="data_user")
    decision = log.fold.judge(asked, METER, 0).decision
    said = reader_refusal(log.fold, "reader", "CONSENT", "ENERGY_ADVICE", BEGUN)
    assert isinstance(decision, Refuse) and decision.reason == said == Reason.PARTITION_CLOSED


READER = trust.party_subject("reader")
HELD = trust.AccreditationGranted("data_user", "DSI", "1", (), MOVED_IN, None)
STANDINGS: dict[str, tuple[Any, ...]] = {
    "a stranger": (),
    "without an accreditation": (trust.ParticipantAdmitted("Reader"),),
    "of another purpose": (
        trust.ParticipantAdmitted("Reader"),
        replace(HELD, purposes=("FLEXIBILITY",)),
    ),
    "of another role": (
        trust.ParticipantAdmitted("Reader"),
        replace(HELD, role="data_service"),
    ),
    "over": (
        trust.ParticipantAdmitted("Reader"),
        replace(HELD, effective_to=MOVED_IN + timedelta(days=1)),
    ),
    "suspended": (
        trust.ParticipantAdmitted("Reader"),
        HELD,
        trust.ParticipantSuspended("why"),
    ),
    "accredited": (trust.ParticipantAdmitted("Reader"), HELD),
    "a supplier": (
        trust.ParticipantAdmitted("Reader"),
        replace(HELD, role="supplier"),
    ),
}


@pytest.mark.parametrize("standing", STANDINGS)
@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("table", [False, True])
def test_a_dry_run_says_of_the_reader_what_its_read_is_told(
    standing: str, version: int, table: bool
) -> None:
    log = Log()
    if version > 1:
        log.adopt(version)
    if table:
        log.govern((trust.EQUIVALENCE_SUBJECT, trust.EquivalenceTableAdopted(1, (ROW,))))
    if facts := STANDINGS[standing]:
        log.govern((READER, *facts))
    log.say(structs.replace(granted(), data_user="reader"))
    day = (BEGUN.replace(year=2025, month=6), BEGUN.replace(year=2025, month=6, day=2))
    reads = {
        role: log.fold.judge(access_request(day, party="reader", role=role), METER, 0).decision
        for role in ("data_user", "supplier")
    }
    for role, decision in reads.items():
        said = reader_refusal(log.fold, "reader", "CONSENT", "ENERGY_ADVICE", BEGUN, role)
        told = decision.reason if isinstance(decision, Refuse) else None
        assert said == told, role
    said = reader_refusal(log.fold, "reader", "CONSENT", "ENERGY_ADVICE", BEGUN)
    passes = any(isinstance(decision, Permit) for decision in reads.values())
    assert passes == (said is None) == (standing in ("accredited", "a supplier"))
    first = reads["data_user"]
    assert passes or (isinstance(first, Refuse) and first.reason == said)
    # The dry run without it says the same to all: the consent opens the meter.
    access = log.fold.subject(METER).state
    assert opened_by(access.consents[0], access, BEGUN)
