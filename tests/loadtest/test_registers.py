"""Registers as bulk records say what the coordinators decide of the commands of those meters."""

from collections.abc import Sequence
from datetime import UTC, datetime

from domains.consumers import commands
from domains.consumers.decider import CONSUMERS
from domains.metering import METERING
from domains.metering.decider import RegisterMeteringPoint
from loadtest import loading
from loadtest.country import Country
from loadtest.installation import CONSENTS_BY
from loadtest.registers import ACTOR, Bodies
from spine.domain import Actor, Domain
from spine.event import NO_PREDECESSOR, Command
from spine.policy import Role
from spine.services import wire
from tests.helpers.records import CODEC
from tests.helpers.standing import shipped_list

NOW = datetime(2025, 1, 1, tzinfo=UTC)
METERS = Country(3_000).block(0, 3_000)
BODIES = Bodies(CODEC, NOW)
BY = Actor(Role.CONSENT_SERVICE, CONSENTS_BY)
LISTED = (shipped_list("metering", "distributors"), shipped_list("metering", "gsp_groups"))


def decided(domain: Domain, asked: Sequence[object]) -> list[object]:
    state, events = domain.initial(), []
    for command in asked:
        for event in domain.decide(state, command, NOW):
            state = domain.evolve(state, event)
            events.append(event)
    return events


def said(made: Command) -> list[object]:
    assert made.actor == ACTOR == f"{BY.role}/{BY.party}"
    assert (made.previous_offset, made.previous_entry) == (NO_PREDECESSOR, NO_PREDECESSOR)
    return [CODEC.decode_event(fact.type, fact.body) for fact in made.facts]


def test_registrations_are_what_metering_decides() -> None:
    made = BODIES.registrations(METERS.take(METERS.registered))
    asked = list(loading.registrations(METERS))
    assert [command.subject for command in made] == [request.mpxn for request in asked]
    assert len({command.id for command in made}) == len(made)
    for command, request in zip(made, asked, strict=True):
        register = RegisterMeteringPoint(
            BY,
            request.mpxn,
            "ELECTRICITY",
            "IMPORT",
            "AI",
            wire.instant(request.registered_from, "registered_from"),
            request.gsp_group,
            *LISTED,
        )
        assert said(command) == decided(METERING, [register])
        assert [fact.type for fact in command.facts] == ["metering.MeteringPointRegistered"]


def test_supplies_and_appointments_are_what_consumers_decides() -> None:
    made = {command.subject: command for command in BODIES.supplies(METERS)}
    asked: dict[str, list[object]] = {}
    for bulk in loading.supplies(METERS):
        if bulk.HasField("start_supply"):
            supply = bulk.start_supply
            since = wire.instant(supply.effective_from, "effective_from")
            command: object = commands.StartSupply(BY, supply.supplier, since)
            asked.setdefault(supply.mpxn, []).append(command)
        else:
            agent = bulk.appoint_agent
            since = wire.instant(agent.effective_from, "effective_from")
            command = commands.AppointAgent(BY, agent.agent, agent.agent_role, since)
            asked.setdefault(agent.mpxn, []).append(command)
    assert list(made) == list(asked) and {len(each) for each in asked.values()} == {1, 2}
    for mpxn, each in asked.items():
        events = decided(CONSUMERS, each)
        assert said(made[mpxn]) == events
        kinds = [CONSUMERS.event_type(event) for event in events]
        assert [fact.type for fact in made[mpxn].facts] == kinds
