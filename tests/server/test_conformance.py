"""The conformance report against two honest sides, and against sides that each break one promise.

Both sides are the real service over real folds of one small log; what is around them (governance,
the consumer's commands, a read) is played. A side that breaks a promise has to be named for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from domains.consumers.decider import CONSUMERS
from domains.consumers.events import ConsentGranted, ConsentRevoked
from domains.governance.decider import GOVERNANCE
from spine import trust
from spine.accreditation import CCS, DSI
from spine.cli import command_line
from spine.config import Settings
from spine.console import conforming
from spine.console.conformance import (
    BOARD,
    CONSENT_SIDE,
    DATA_SIDE,
    REVOCATION_REACHES_S,
    TURNS_S,
    Ends,
    Sandbox,
    Subject,
    Verdict,
)
from spine.console.output import EXIT_DIFFERENT
from spine.consumers.v1 import consumers_pb2, consumers_pb2_grpc
from spine.dsi.v1 import dsi_pb2, dsi_pb2_grpc
from spine.errors import Invalid, NotPermitted, Pushback, Reason
from spine.event import Command, LogRecord
from spine.governance.v1 import governance_pb2, governance_pb2_grpc
from spine.identity import Authority
from spine.partition import PartitionFold
from spine.policy import ConsentState, MeterAccess, Role, consent_refusal
from spine.reference.v1 import reference_pb2, reference_pb2_grpc
from spine.server import Service, SpineServer, build_server, current_caller
from spine.services.equivalence import table_shown
from spine.services.governance import participant_shown
from spine.services.shared_trust import ConsentTokensService, SharedTrustService, Side
from spine.shared_trust.v1 import shared_trust_pb2, shared_trust_pb2_grpc
from spine.store import MemoryRows
from spine.vocabulary import vocabulary
from tests.helpers.records import (
    BY_CONSUMERS,
    BY_GOVERNANCE,
    LOG_ID,
    METER,
    MOVED_IN,
    NEIGHBOUR,
    PARTITION,
    TOOLS,
    command,
    moved_in,
    started,
)

ROW = trust.EquivalenceRow("CCS", "2", "ENERGY_ADVICE", "DSI", "1", "ENERGY_ADVICE")
ADVISER, NO_ROW, MEMBER, HELD_BACK = "by-row", "no-row", "own-scheme", "held-back"
STRANGER, CONSUMER = "stranger", "c-1"
SANDBOX = Sandbox(METER, CONSUMER, ADVISER, STRANGER, others=(NEIGHBOUR,))


class World:
    """One small log, and a fold of it for each side."""

    def __init__(self) -> None:
        self.log, self.home = started()
        self.folds = {
            side: PartitionFold(
                trust.CONSUMER_LOG, PARTITION, LOG_ID, TOOLS, MemoryRows(), CONSUMERS, GOVERNANCE
            )
            for side in (CONSENT_SIDE, DATA_SIDE)
        }
        self.deaf_to: type | None = None
        # Under which keys a suspension was commanded that was not in force.
        self.suspensions: set[str] = set()
        for record in self.log.records:
            for fold in self.folds.values():
                fold.apply(record)
        for party, scheme, tier in (
            (ADVISER, CCS, "2"),
            (NO_ROW, CCS, "1"),
            (MEMBER, DSI, "1"),
            (HELD_BACK, DSI, "1"),
        ):
            self.govern(trust.party_subject(party), trust.ParticipantAdmitted(party))
            held = trust.AccreditationGranted(
                "data_user", scheme, tier, ("ENERGY_ADVICE",), MOVED_IN, None
            )
            self.govern(trust.party_subject(party), held)
        self.govern(trust.party_subject(HELD_BACK), trust.ParticipantSuspended("INQUIRY"))
        self.govern(trust.EQUIVALENCE_SUBJECT, trust.EquivalenceTableAdopted(1, (ROW,)))
        for mpxn in SANDBOX.mpxns:
            self.happen(moved_in(), mpxn)

    @property
    def fold(self) -> PartitionFold:
        return self.folds[CONSENT_SIDE]

    def govern(self, subject: str, event: object) -> None:
        row = self.fold.subject_row(GOVERNANCE, subject)
        said = command(subject, event, domain=GOVERNANCE, previous=(row.offset, row.entry))
        before = self.home.records[-1].offset
        home = self.home.keep(self.home.facts(said, by=BY_GOVERNANCE, keyed=False))
        self._send(self.log.copy(home, before))

    def happen(self, event: object, mpxn: str) -> None:
        row = self.fold.subject(mpxn)
        said: Command = command(mpxn, event, previous=(row.offset, row.entry))
        self._send(self.log.facts(said), deaf=type(event) is self.deaf_to)

    def _send(self, record: LogRecord, deaf: bool = False) -> None:
        """Append it and have it folded; the data side may be deaf to it."""
        self.log.keep(record)
        for side, fold in self.folds.items():
            if side == CONSENT_SIDE or not deaf:
                fold.apply(record)

    def side(self, end: str) -> Side:
        async def level(mpxn: str) -> None:
            """Records are folded as they are sent."""

        scheme = CCS if end == CONSENT_SIDE else DSI
        return Side(scheme, LOG_ID, lambda mpxn: self.folds[end], level)


@dataclass
class Governance(governance_pb2_grpc.GovernanceServicer):
    """What the report asks of governance."""

    world: World

    async def ListParticipants(self, request: Any, context: Any) -> Any:
        known = ((party, self.world.fold.participant(party)) for party in sorted(PARTIES))
        shown = [participant_shown(party, one) for party, one in known if one is not None]
        return governance_pb2.ListParticipantsResponse(participants=shown)

    async def GetEquivalenceTable(self, request: Any, context: Any) -> Any:
        shown = table_shown(self.world.fold.equivalence())
        return governance_pb2.GetEquivalenceTableResponse(table=shown)

    async def SuspendParticipant(self, request: Any, context: Any) -> Any:
        if current_caller().role is not Role.GOVERNANCE:
            raise NotPermitted(Reason.ROLE_NOT_ALLOWED, "only governance may command this")
        replayed = request.idempotency_key in self.world.suspensions
        known = self.world.fold.participant(request.party)
        if not replayed and known is not None and not known.suspended:
            self.world.govern(trust.party_subject(request.party), trust.ParticipantSuspended("TRY"))
            self.world.suspensions.add(request.idempotency_key)
        return governance_pb2.CommandResponse(replayed=replayed)

    async def ReinstateParticipant(self, request: Any, context: Any) -> Any:
        self.world.govern(trust.party_subject(request.party), trust.ParticipantReinstated("TRY"))
        return governance_pb2.CommandResponse()


class HasSetTheStranger(Governance):
    """Has set the stranger to pairwise identifiers."""

    async def ListParticipants(self, request: Any, context: Any) -> Any:
        said = await super().ListParticipants(request, context)
        said.participants.add(party=STRANGER, identifiers=trust.Identifiers.PAIRWISE)
        return said


PARTIES = (ADVISER, NO_ROW, MEMBER, HELD_BACK)


class Reference(reference_pb2_grpc.ReferenceServicer):
    """The standing data of governance: what the policy knows."""

    async def ListCodes(self, request: Any, context: Any) -> Any:
        known = vocabulary(1)
        assert known is not None
        codes = {
            "purposes": known.purposes,
            "categories": [code for code, _ in known.categories],
            "lawful_bases": [basis.code for basis in known.bases],
            "sensitivity_labels": known.sensitivities,
        }
        classes = dict(known.categories) if request.list == "categories" else {}
        listed = [
            reference_pb2.Code(
                code=code,
                attributes=[{"name": "sensitivity", "value": classes[code]}]
                if code in classes
                else [],
            )
            for code in codes[request.list]
        ]
        return reference_pb2.ListCodesResponse(codes=listed)


@dataclass
class Consumers(consumers_pb2_grpc.ConsumersServicer):
    """The consumer's own commands."""

    world: World

    async def GrantConsent(self, request: Any, context: Any) -> Any:
        terms = request.terms
        history_from, valid_from, expires = (
            at.ToDatetime(tzinfo=UTC)
            for at in (terms.history_from, terms.valid_from, terms.expires)
        )
        granted = ConsentGranted(
            request.consent_id,
            request.data_user,
            "t-1",
            current_caller().party,
            terms.purpose,
            tuple(terms.categories),
            history_from,
            valid_from,
            expires,
            datetime.now(UTC),
        )
        for mpxn in request.mpxns:
            self.world.happen(granted, mpxn)
        return consumers_pb2.ConsentResponse(consent_id=request.consent_id)

    async def RevokeConsent(self, request: Any, context: Any) -> Any:
        for mpxn in request.mpxns:
            self.world.happen(ConsentRevoked(request.consent_id, datetime.now(UTC)), mpxn)
        legs = [consumers_pb2.Leg(mpxn=mpxn, state="REVOKED") for mpxn in request.mpxns]
        return consumers_pb2.ConsentResponse(legs=legs)


@dataclass
class Dsi(dsi_pb2_grpc.DsiServicer):
    """A read under a consent."""

    world: World

    async def GetMeteringPoint(self, request: Any, context: Any) -> Any:
        access: MeterAccess = self.world.folds[DATA_SIDE].subject(METER).state
        consent = next(c for c in access.consents if c.consent_id == request.consent_id)
        if (refusal := consent_refusal(consent, access, datetime.now(UTC))) is not None:
            raise NotPermitted(refusal, "the read is not permitted")
        return dsi_pb2.GetMeteringPointResponse()


class ReadsOnAToken(Dsi):
    """Takes a token that was good once for permission."""

    async def GetMeteringPoint(self, request: Any, context: Any) -> Any:
        return dsi_pb2.GetMeteringPointResponse()


# Sides that break a promise


class AcceptsTheRevoked(SharedTrustService):
    """Asks whether the token is genuine, and never how its consent stands."""

    async def CheckConsentToken(self, request: Any, context: Any) -> Any:
        said = await super().CheckConsentToken(request, context)
        if said.reason == Reason.CONSENT_REVOKED:
            return shared_trust_pb2.CheckConsentTokenResponse(valid=True)
        return said


class NamesItAnew(SharedTrustService):
    """Knows a consent by an id of its own at each meter."""

    async def CheckConsentToken(self, request: Any, context: Any) -> Any:
        said = await super().CheckConsentToken(request, context)
        for leg in said.legs:
            leg.consent_id = f"{leg.consent_id}-{leg.mpxn}"
        return said


class CountsAnew(SharedTrustService):
    """Counts the versions of a consent by itself."""

    async def CheckConsentToken(self, request: Any, context: Any) -> Any:
        said = await super().CheckConsentToken(request, context)
        for number, leg in enumerate(said.legs, start=1):
            leg.version = number
        return said


class KnowsTheUserByAnotherName(SharedTrustService):
    """Says to whom a consent is given by a name of its own."""

    async def CheckConsentToken(self, request: Any, context: Any) -> Any:
        said = await super().CheckConsentToken(request, context)
        for leg in said.legs:
            leg.data_user = leg.data_user.upper()
        return said


class BelievesTheText(SharedTrustService):
    """Checks no signature."""

    async def CheckConsentToken(self, request: Any, context: Any) -> Any:
        said = await super().CheckConsentToken(request, context)
        if said.reason == Reason.TOKEN_NOT_OURS:
            return shared_trust_pb2.CheckConsentTokenResponse(valid=True)
        return said


class TellsStrangers(SharedTrustService):
    """Tells anybody whether a token is genuine."""

    async def CheckConsentToken(self, request: Any, context: Any) -> Any:
        said = await super().CheckConsentToken(request, context)
        if said.reason == Reason.NOT_PERMITTED:
            return shared_trust_pb2.CheckConsentTokenResponse(reason=Reason.TOKEN_NOT_OURS)
        return said


class RefusesThePairwise(SharedTrustService):
    """To it a stranger is a party with pairwise identifiers, which may ask of no token."""

    async def CheckConsentToken(self, request: Any, context: Any) -> Any:
        said = await super().CheckConsentToken(request, context)
        if said.reason == Reason.NOT_PERMITTED:
            self.refuse(request.token)
        return said

    def refuse(self, token: str) -> None:
        """Whatever token it is."""
        raise NotPermitted(Reason.IDENTIFIERS_PAIRWISE, "a token names meters")


class RefusesTheGenuine(RefusesThePairwise):
    """It does so of the first token that it is asked about, and so tells it from others."""

    first = ""

    def refuse(self, token: str) -> None:
        """The genuine one."""
        self.first = self.first or token
        if token == self.first:
            super().refuse(token)


class _Lenient(SharedTrustService):
    """Counts what is refused for one reason."""

    forgives: tuple[Reason, ...] = ()

    async def JudgeAccreditations(self, request: Any, context: Any) -> Any:
        said = await super().JudgeAccreditations(request, context)
        for judgement in said.judgements:
            if judgement.reason in self.forgives:
                judgement.counts, judgement.reason = True, ""
        return said


class MissingRowIsAYes(_Lenient):
    """Counts every scheme."""

    forgives = (Reason.ACCREDITATION_NOT_EQUIVALENT,)


class SuspendedCounts(_Lenient):
    """Does not look at suspensions."""

    forgives = (Reason.PARTICIPANT_SUSPENDED,)


class AnyCodeWillDo(_Lenient):
    """Counts for purposes that do not exist."""

    forgives = (Reason.PURPOSE_UNKNOWN,)


class AnybodyCounts(_Lenient):
    """Counts who was never admitted."""

    forgives = (Reason.PARTICIPANT_UNKNOWN,)


class KnowsNoRow(SharedTrustService):
    """Counts its own scheme only."""

    async def JudgeAccreditations(self, request: Any, context: Any) -> Any:
        said = await super().JudgeAccreditations(request, context)
        for judgement in said.judgements:
            if judgement.HasField("row"):
                judgement.counts, judgement.reason = False, "NO"
        return said


class _Describes(SharedTrustService):
    """Goes by something else."""

    def change(self, said: Any) -> None:
        """What is otherwise."""

    async def DescribeTrust(self, request: Any, context: Any) -> Any:
        said = await super().DescribeTrust(request, context)
        self.change(said)
        return said


class AnotherVocabulary(_Describes):
    """Knows a purpose that nobody else does, and says so openly."""

    def change(self, said: Any) -> None:
        known = vocabulary(1)
        assert known is not None
        purposes = (*known.purposes, "SURVEILLANCE")
        said.vocabulary.purposes.append("SURVEILLANCE")
        said.vocabulary.digest = replace(known, purposes=purposes).digest


class FalseDigest(_Describes):
    """Knows another purpose under the digest of the right ones."""

    def change(self, said: Any) -> None:
        said.vocabulary.purposes.append("SURVEILLANCE")


class NoClassOfSensitivity(_Describes):
    """Has a category without a class, and says so openly."""

    def change(self, said: Any) -> None:
        known = vocabulary(1)
        assert known is not None
        said.vocabulary.categories[0].sensitivity = ""
        first = (known.categories[0][0], "")
        changed = replace(known, categories=(first, *known.categories[1:]))
        said.vocabulary.digest = changed.digest


class OpenToAnybody(_Describes):
    """Says of what is shared that it is open."""

    def change(self, said: Any) -> None:
        known = vocabulary(1)
        assert known is not None
        said.vocabulary.categories[0].sensitivity = "OPEN"
        first = (known.categories[0][0], "OPEN")
        changed = replace(known, categories=(first, *known.categories[1:]))
        said.vocabulary.digest = changed.digest


class AnotherTable(_Describes):
    """Goes by a table of its own."""

    def change(self, said: Any) -> None:
        said.table.version = 7


class AnotherPolicy(_Describes):
    """Judges by another policy."""

    def change(self, said: Any) -> None:
        said.policy_hash = bytes(32)


class AnotherLog(_Describes):
    """Folds another log."""

    def change(self, said: Any) -> None:
        said.positions.log_id = bytes(32)


class SaysNothing(shared_trust_pb2_grpc.SharedTrustServicer):
    """Serves nothing of it."""

    def __init__(self, side: Side) -> None:
        pass


@dataclass
class Town:
    """Servers of a world, and what was found of them."""

    authority: Authority
    world: World = field(default_factory=World)
    servers: dict[str, SpineServer] = field(default_factory=dict)

    async def serve(
        self,
        data_side: Callable[[Side], Any] = SharedTrustService,
        consent_side: Callable[[Side], Any] = SharedTrustService,
        dsi: Callable[[World], Any] = Dsi,
        governance: Callable[[World], Any] = Governance,
        consumers: Callable[[World], Any] = Consumers,
    ) -> None:
        world = self.world
        sides = {end: world.side(end) for end in (CONSENT_SIDE, DATA_SIDE)}
        add_side = shared_trust_pb2_grpc.add_SharedTrustServicer_to_server
        tokens = ConsentTokensService(sides[CONSENT_SIDE], BY_CONSUMERS)
        served = {
            BOARD: [
                (
                    "Governance",
                    governance_pb2_grpc.add_GovernanceServicer_to_server,
                    governance(world),
                ),
                ("Reference", reference_pb2_grpc.add_ReferenceServicer_to_server, Reference()),
            ],
            CONSENT_SIDE: [
                ("Consumers", consumers_pb2_grpc.add_ConsumersServicer_to_server, consumers(world)),
                ("SharedTrust", add_side, consent_side(sides[CONSENT_SIDE])),
                (
                    "ConsentTokens",
                    shared_trust_pb2_grpc.add_ConsentTokensServicer_to_server,
                    tokens,
                ),
            ],
            DATA_SIDE: [
                ("Dsi", dsi_pb2_grpc.add_DsiServicer_to_server, dsi(world)),
                ("SharedTrust", add_side, data_side(sides[DATA_SIDE])),
            ],
        }
        for end, services in served.items():
            identity = self.authority.issue_server(Role.COORDINATOR, end)
            self.servers[end] = build_server(identity, [Service(*one) for one in services])
            await self.servers[end].start()

    async def examine(
        self, sandbox: Sandbox = SANDBOX, asker: str = "board", turns_s: float = TURNS_S
    ) -> dict[str, tuple[Verdict, str]]:
        """Each check and its verdict, with what came or why not."""
        addresses = {end: f"localhost:{server.port}" for end, server in self.servers.items()}
        ends = Ends(addresses, identities(self.authority), asker, turns_s)
        found = await asyncio.to_thread(conforming.examine, Subject(ends, sandbox))
        ends.close()
        return {one.check: (one.verdict, one.why or one.came) for one in found}

    async def failing(self, sandbox: Sandbox = SANDBOX) -> set[str]:
        """The checks that fail."""
        found = await self.examine(sandbox)
        return {check for check, (verdict, _) in found.items() if verdict is Verdict.FAIL}

    async def close(self) -> None:
        for server in self.servers.values():
            await server.stop(0)


def identities(authority: Authority) -> Path:
    """Where its client identities are."""
    return authority.issue_client(Role.GOVERNANCE, "board").folder.parent


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    made = Authority.open_or_create(tmp_path_factory.mktemp("spine") / "identities")
    for party in (ADVISER, STRANGER):
        made.issue_client(Role.DATA_USER, party)
    made.issue_client(Role.CONSUMER, CONSUMER)
    return made


@pytest.fixture
async def town(authority: Authority) -> Any:
    made = Town(authority)
    yield made
    await made.close()


async def test_two_honest_sides_pass_every_check(town: Town) -> None:
    await town.serve()
    found = await town.examine()
    assert {check: said for check, said in found.items() if said[0] is not Verdict.PASS} == {}
    assert len(found) == len(conforming.CHECKS)


@pytest.mark.parametrize("side", [None, "data_side", "consent_side", "both"])
@pytest.mark.parametrize("set_so", [False, True], ids=["MPXN", "PAIRWISE"])
async def test_a_stranger_is_told_what_governance_says_of_its_identifiers_by_both_sides(
    town: Town, side: str | None, set_so: bool
) -> None:
    """Else a side could refuse everybody as pairwise, and nothing be shown of the tokens."""
    sides = ("data_side", "consent_side") if side == "both" else (side,) if side else ()
    how: dict[str, Any] = dict.fromkeys(sides, RefusesThePairwise)
    if set_so:
        how["governance"] = HasSetTheStranger
    await town.serve(**how)
    said, came = (await town.examine())["technical.stranger"]
    right = side == ("both" if set_so else None)
    assert said is (Verdict.PASS if right else Verdict.FAIL)
    reason = Reason.IDENTIFIERS_PAIRWISE if set_so else Reason.NOT_PERMITTED
    assert reason in came


async def test_before_the_first_table_there_is_none_to_judge_by(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every scheme counts then, as it is meant to: a new installation has nothing that fails."""
    nothing = trust.EquivalenceTableAdopted
    govern = World.govern

    def without(world: World, subject: str, event: object) -> None:
        if not isinstance(event, nothing):
            govern(world, subject, event)

    monkeypatch.setattr(World, "govern", without)
    bare = Town(town.authority)
    await bare.serve()
    found = await bare.examine()
    await bare.close()
    assert found["accreditation.table"][0] is Verdict.NOT_RUN
    assert "any scheme counts" in found["accreditation.table"][1]
    assert not {check for check, (verdict, _) in found.items() if verdict is Verdict.FAIL}


TECHNICAL_OF_A_TOKEN = {check.id for check in conforming.CHECKS if check.layer == "technical"} - {
    "technical.one-log"
}


async def test_without_a_sandbox_nothing_is_tried_and_nothing_counts_as_passed(town: Town) -> None:
    await town.serve()
    found = await town.examine(Sandbox())
    not_run = {check for check, (verdict, _) in found.items() if verdict is Verdict.NOT_RUN}
    assert not_run == TECHNICAL_OF_A_TOKEN | {"accreditation.suspension"}
    assert all(why for verdict, why in found.values() if verdict is Verdict.NOT_RUN)
    assert not town.world.fold.subject(METER).state.consents


async def test_of_one_meter_alone_it_cannot_be_said_what_an_identifier_means(town: Town) -> None:
    await town.serve()
    found = await town.examine(replace(SANDBOX, others=()))
    not_passed = {check: said for check, said in found.items() if said[0] is not Verdict.PASS}
    why = "it needs --other-mpxn, a second meter of the same home"
    assert not_passed == {"technical.identifiers": (Verdict.NOT_RUN, why)}


class AnswersNoMore(SharedTrustService):
    """Answers nobody once somebody is suspended that was not."""

    async def JudgeAccreditations(self, request: Any, context: Any) -> Any:
        said = await super().JudgeAccreditations(request, context)
        if len(said.judgements) == 1 and said.judgements[0].reason == Reason.PARTICIPANT_SUSPENDED:
            raise NotPermitted(Reason.ROLE_NOT_ALLOWED, "not any more")
        return said


@pytest.mark.parametrize("side", [SuspendedCounts, AnswersNoMore])
async def test_who_is_suspended_for_a_moment_is_not_left_so(town: Town, side: Any) -> None:
    await town.serve(data_side=side)
    found = await town.examine()
    assert found["accreditation.suspension"][0] is Verdict.FAIL
    adviser = town.world.fold.participant(ADVISER)
    assert adviser is not None and not adviser.suspended


class SuspendsItFirst(Governance):
    """Somebody else suspends the party for a breach, a moment before."""

    async def SuspendParticipant(self, request: Any, context: Any) -> Any:
        known = self.world.fold.participant(request.party)
        if known is not None and not known.suspended:
            breach = trust.ParticipantSuspended("BREACH")
            self.world.govern(trust.party_subject(request.party), breach)
        return await super().SuspendParticipant(request, context)


async def test_somebody_elses_suspension_is_never_lifted(town: Town) -> None:
    """Whoever reinstates after each command that was answered lifts it."""
    await town.serve(governance=SuspendsItFirst)
    found = await town.examine()
    assert found["accreditation.suspension"][0] is Verdict.NOT_RUN
    adviser = town.world.fold.participant(ADVISER)
    assert adviser is not None and adviser.suspended


class GrantsAndSaysNo(Consumers):
    """Grants what is asked, and its answer is lost."""

    async def GrantConsent(self, request: Any, context: Any) -> Any:
        await super().GrantConsent(request, context)
        raise Pushback(Reason.INDETERMINATE, "nobody knows")


async def test_a_consent_whose_grant_was_not_answered_is_taken_back(town: Town) -> None:
    await town.serve(consumers=GrantsAndSaysNo)
    found = await town.examine()
    assert found["technical.token"][0] is Verdict.FAIL
    states = [consent.state for consent in town.world.fold.subject(METER).state.consents]
    assert states == [ConsentState.REVOKED]


async def test_who_may_suspend_nobody_is_told_so_and_nothing_else_is_lost(town: Town) -> None:
    await town.serve()
    found = await town.examine(asker=STRANGER)
    not_passed = {check: said for check, said in found.items() if said[0] is not Verdict.PASS}
    why = f"{STRANGER} may suspend nobody: name one who may with --as"
    assert not_passed == {"accreditation.suspension": (Verdict.NOT_RUN, why)}


class IssuesNothing(shared_trust_pb2_grpc.ConsentTokensServicer):
    """Knows of no tokens."""

    def __init__(self, *_: Any) -> None:
        pass


async def test_a_consent_that_was_tried_is_not_left_behind(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.server.test_conformance.ConsentTokensService", IssuesNothing)
    await town.serve()
    assert await town.failing() == {"technical.token"}
    (consent,) = town.world.fold.subject(METER).state.consents
    assert consent.state == ConsentState.REVOKED


REVOCATION = {"technical.revocation-at-dsi"}
BROKEN: dict[str, tuple[dict[str, Any], set[str]]] = {
    "accepts the revoked": ({"data_side": AcceptsTheRevoked}, REVOCATION),
    "the consent side accepts the revoked": (
        {"consent_side": AcceptsTheRevoked},
        {"technical.revocation-at-consumers"},
    ),
    "names it anew": ({"data_side": NamesItAnew}, {"technical.identifiers"}),
    "the consent side names it anew": (
        {"consent_side": NamesItAnew},
        {"technical.identifiers"},
    ),
    "counts anew": ({"data_side": CountsAnew}, {"technical.identifiers"}),
    "another name": ({"data_side": KnowsTheUserByAnotherName}, {"technical.identifiers"}),
    "believes the text": ({"data_side": BelievesTheText}, {"technical.tampered"}),
    "tells strangers": ({"data_side": TellsStrangers}, {"technical.stranger"}),
    "refuses the genuine": ({"data_side": RefusesTheGenuine}, {"technical.stranger"}),
    "reads on a token": ({"dsi": ReadsOnAToken}, {"technical.read"}),
    "a missing row is a yes": (
        {"data_side": MissingRowIsAYes},
        {"accreditation.missing-row"},
    ),
    "knows no row": ({"data_side": KnowsNoRow}, {"accreditation.row"}),
    "the suspended count": (
        {"data_side": SuspendedCounts},
        {"accreditation.suspended", "accreditation.suspension"},
    ),
    "anybody counts": ({"data_side": AnybodyCounts}, {"accreditation.nobody"}),
    "any code will do": ({"data_side": AnyCodeWillDo}, {"standards.unknown-code"}),
    "another vocabulary": (
        {"data_side": AnotherVocabulary},
        {"standards.vocabulary", "standards.listed"},
    ),
    "a false digest": (
        {"data_side": FalseDigest},
        {"standards.vocabulary", "standards.listed"},
    ),
    "no class of sensitivity": (
        {"data_side": NoClassOfSensitivity},
        {"standards.vocabulary", "standards.sensitivity", "standards.listed"},
    ),
    "open to anybody": (
        {"data_side": OpenToAnybody, "consent_side": OpenToAnybody},
        {"standards.listed"},
    ),
    "another table": ({"data_side": AnotherTable}, {"accreditation.same-table"}),
    "another policy": ({"consent_side": AnotherPolicy}, {"standards.policy"}),
    "another log": ({"data_side": AnotherLog}, {"technical.one-log"}),
}


@pytest.mark.parametrize("name", BROKEN)
async def test_a_side_that_breaks_a_promise_is_named_for_it(town: Town, name: str) -> None:
    how, named = BROKEN[name]
    await town.serve(**how)
    assert await town.failing() == named


async def test_a_side_that_has_not_heard_of_the_revocation_is_named(town: Town) -> None:
    """Its fold is honest and behind, and it does not wait for it."""
    await town.serve()
    town.world.deaf_to = ConsentRevoked
    assert await town.failing() == REVOCATION | {"technical.read"}


async def test_a_no_that_comes_after_the_limit_is_named(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Honest sides within 5 s; of a limit that nobody could keep, both are too late."""
    await town.serve()
    assert REVOCATION_REACHES_S == 5.0
    monkeypatch.setattr("spine.console.conformance_tokens.REVOCATION_REACHES_S", 0.0)
    assert await town.failing() == REVOCATION | {"technical.revocation-at-consumers"}


class HearsLate(SharedTrustService):
    """Has yet to fold what governance said just now, when it is first asked."""

    asked = 0

    async def DescribeTrust(self, request: Any, context: Any) -> Any:
        said = await super().DescribeTrust(request, context)
        self.asked += 1
        if self.asked == 1:
            said.table.Clear()
        return said


async def test_a_side_that_hears_a_moment_later_of_the_table_has_it(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Naive: what it says first counts, and an honest side fails."""
    await town.serve(data_side=HearsLate)
    assert await town.failing() == set()
    await town.close()
    await town.serve(data_side=HearsLate)
    monkeypatch.setattr("spine.console.conformance.HEARD_WITHIN_S", -1.0)
    assert await town.failing() == {"accreditation.same-table"}


class Crowded(SharedTrustService):
    """Has too many calls under way each second time, and says when a turn is."""

    asked = 0
    hint_s = 0.01

    def _turn(self) -> None:
        self.asked += 1
        if self.asked % 2:
            raise Pushback(Reason.OVERLOADED, "too many calls", retry_after_s=self.hint_s)

    async def DescribeTrust(self, request: Any, context: Any) -> Any:
        self._turn()
        return await super().DescribeTrust(request, context)

    async def JudgeAccreditations(self, request: Any, context: Any) -> Any:
        self._turn()
        return await super().JudgeAccreditations(request, context)

    async def CheckConsentToken(self, request: Any, context: Any) -> Any:
        self._turn()
        return await super().CheckConsentToken(request, context)


class NeverATurn(Crowded):
    """Tells everybody to come in a minute, whenever they come."""

    hint_s = TURNS_S / 2 + 1

    def _turn(self) -> None:
        self.asked = 0
        super()._turn()


async def test_a_crowded_side_is_asked_again_in_its_turn(town: Town) -> None:
    """Naive: what is turned away fails."""
    await town.serve(data_side=Crowded)
    naive = await town.examine(turns_s=0)
    assert naive["technical.checked-by-both"] == (Verdict.FAIL, "too many calls")
    assert await town.failing() == set()


async def test_a_side_that_never_has_a_turn_is_not_waited_for_without_end(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setattr("spine.console.conformance.time.sleep", slept.append)
    await town.serve(data_side=NeverATurn)
    found = await town.examine(Sandbox())
    assert found["standards.policy"] == (Verdict.FAIL, "too many calls")
    assert slept == [NeverATurn.hint_s]


class CrowdedForLong(Crowded):
    """Has nobody come before the limit is over."""

    hint_s = 1.5


class CrowdedAndSlow(Crowded):
    """Says no when a turn has come, and long after."""

    async def CheckConsentToken(self, request: Any, context: Any) -> Any:
        self._turn()
        await asyncio.sleep(1.5)
        return await SharedTrustService.CheckConsentToken(self, request, context)


@pytest.mark.parametrize(
    ("side", "right"), [(CrowdedForLong, Verdict.NOT_RUN), (CrowdedAndSlow, Verdict.FAIL)]
)
async def test_a_side_is_not_late_by_the_turns_it_made_one_wait_for(
    town: Town, monkeypatch: pytest.MonkeyPatch, side: type[Crowded], right: Verdict
) -> None:
    """It never said yes, so it did not fail; that it said no in time was not seen either."""
    await town.serve(data_side=side)
    monkeypatch.setattr("spine.console.conformance_tokens.REVOCATION_REACHES_S", 1.0)
    found = await town.examine()
    verdict, why = found["technical.revocation-at-dsi"]
    assert verdict is right
    late = "the limit is" if right is Verdict.FAIL else "dsi was too busy to be timed"
    assert why.startswith(late)


async def test_a_side_that_serves_nothing_of_it_fails_and_is_not_passed_over(town: Town) -> None:
    await town.serve(data_side=SaysNothing)
    found = await town.examine()
    failing = {check for check, (verdict, _) in found.items() if verdict is Verdict.FAIL}
    assert failing >= {"accreditation.same-table", "standards.vocabulary", "technical.one-log"}
    assert found["technical.checked-by-both"][0] is Verdict.FAIL


@pytest.mark.parametrize(("honest", "code"), [(True, 0), (False, EXIT_DIFFERENT)])
async def test_the_command_says_so_and_ends_with_its_code(
    town: Town, monkeypatch: pytest.MonkeyPatch, honest: bool, code: int
) -> None:
    await town.serve(data_side=SharedTrustService if honest else MissingRowIsAYes)
    chosen = Settings(data_dir=identities(town.authority).parent)
    monkeypatch.setattr(conforming, "settings", lambda: chosen)
    at = [(f"--{end}", f"localhost:{server.port}") for end, server in town.servers.items()]
    words = ["conformance", "--as", "board", *(word for pair in at for word in pair)]
    told = await asyncio.to_thread(CliRunner().invoke, command_line(words[0]), words)
    assert told.exit_code == code, told.output
    assert f"{0 if honest else 1} FAIL" in told.output
    assert ("accreditation.missing-row" in told.output) and ("give it something" in told.output)
    missing = await asyncio.to_thread(
        CliRunner().invoke, command_line(words[0]), [*words, "--consumer", "nobody"]
    )
    assert isinstance(missing.exception, Invalid)
    assert missing.exception.reason is Reason.IDENTITY_MISSING
