"""Tenancy, supply and agents: one row per refusal, in order of precedence."""

from datetime import datetime
from typing import Any

import pytest

from domains.consumers.commands import (
    AppointAgent,
    EndAgentAppointment,
    EndSupply,
    EndTenancy,
    StartSupply,
    StartTenancy,
)
from domains.consumers.decider import CONSUMERS
from domains.consumers.events import (
    AgentAppointed,
    AgentAppointmentEnded,
    SupplyEnded,
    SupplyStarted,
    TenancyEnded,
    TenancyStarted,
)
from spine.domain import Actor
from spine.errors import Reason
from tests.domains.consumers.home import (
    ADVISER,
    ANNA,
    BEN,
    HOME,
    MOVED_IN,
    NOW,
    OTHER_SUPPLIER,
    SERVICE,
    SUPPLIED,
    SUPPLIER,
    day,
)
from tests.helpers.specification import given

JUNE = day(6)
MOVED_OUT = TenancyEnded("t-anna", JUNE)
SERVED = AgentAppointed("SDAT", "data_service", day(1))


def move_in(
    by: Actor = SERVICE, tenancy: str = "t-ben", ref: str = "c-ben", at: datetime = JUNE
) -> StartTenancy:
    return StartTenancy(by, tenancy, ref, at)


@pytest.mark.parametrize(
    ("events", "command", "reason"),
    [
        (HOME, move_in(by=BEN), Reason.ROLE_NOT_ALLOWED),
        ((*HOME, MOVED_OUT), move_in(by=OTHER_SUPPLIER), Reason.NOT_THE_SUPPLIER),
        ((*HOME, MOVED_OUT), move_in(ref=""), Reason.FIELD_MISSING),
        ((*HOME, MOVED_OUT), move_in(tenancy="t-anna"), Reason.TENANCY_STATE),
        (HOME, move_in(), Reason.TENANCY_OVERLAPS),
        ((*HOME, MOVED_OUT), move_in(at=day(5, 31)), Reason.TENANCY_OVERLAPS),
        (HOME, EndTenancy(ADVISER, "t-anna", day(6)), Reason.ROLE_NOT_ALLOWED),
        (HOME, EndTenancy(OTHER_SUPPLIER, "t-anna", day(6)), Reason.NOT_THE_SUPPLIER),
        (HOME, EndTenancy(BEN, "t-anna", day(6)), Reason.NOT_AN_OCCUPIER),
        (HOME, EndTenancy(BEN, "t-none", day(6)), Reason.NOT_AN_OCCUPIER),
        (HOME, EndTenancy(SERVICE, "t-none", day(6)), Reason.TENANCY_UNKNOWN),
        (HOME, EndTenancy(SERVICE, "t-anna", day(12, year=2024)), Reason.INTERVAL_INVALID),
        ((*HOME, MOVED_OUT), EndTenancy(SERVICE, "t-anna", day(7)), Reason.TENANCY_STATE),
    ],
)
def test_tenancy_refusals(events: Any, command: Any, reason: Reason) -> None:
    given(CONSUMERS, *events).at(NOW).when(command).refused(reason)


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (StartSupply(SUPPLIER, "OCTO", day(6)), Reason.ROLE_NOT_ALLOWED),
        (StartSupply(SERVICE, "", day(6)), Reason.FIELD_MISSING),
        (StartSupply(SERVICE, "OCTO", day(1)), Reason.SUPPLY_OVERLAPS),
        (StartSupply(SERVICE, "OCTO", day(12, year=2024)), Reason.SUPPLY_OVERLAPS),
        (EndSupply(SUPPLIER, "BRIT", day(6)), Reason.ROLE_NOT_ALLOWED),
        (EndSupply(SERVICE, "OCTO", day(6)), Reason.SUPPLY_UNKNOWN),
        (AppointAgent(ANNA, "SDAT", "data_service", day(6)), Reason.ROLE_NOT_ALLOWED),
        (AppointAgent(OTHER_SUPPLIER, "SDAT", "data_service", day(6)), Reason.NOT_THE_SUPPLIER),
        (AppointAgent(SUPPLIER, "", "data_service", day(6)), Reason.FIELD_MISSING),
        (AppointAgent(SUPPLIER, "SDAT", "chimney_sweep", day(6)), Reason.CODE_UNKNOWN),
        (AppointAgent(SUPPLIER, "NEWD", "data_service", day(1)), Reason.APPOINTMENT_OVERLAPS),
        (EndAgentAppointment(ANNA, "SDAT", "data_service", day(6)), Reason.ROLE_NOT_ALLOWED),
        (
            EndAgentAppointment(OTHER_SUPPLIER, "SDAT", "data_service", day(6)),
            Reason.NOT_THE_SUPPLIER,
        ),
        (EndAgentAppointment(SERVICE, "NEWD", "data_service", day(6)), Reason.APPOINTMENT_UNKNOWN),
    ],
)
def test_supply_and_agent_refusals(command: Any, reason: Reason) -> None:
    given(CONSUMERS, *HOME, SERVED).at(NOW).when(command).refused(reason)


def test_an_end_of_supply_or_appointment_never_moves_later() -> None:
    over = given(
        CONSUMERS,
        *HOME,
        SERVED,
        SupplyEnded("BRIT", day(6)),
        AgentAppointmentEnded("SDAT", "data_service", day(6)),
    )
    over.when(EndSupply(SERVICE, "BRIT", day(7))).refused(Reason.SUPPLY_STATE)
    later = EndAgentAppointment(SERVICE, "SDAT", "data_service", day(7))
    over.when(later).refused(Reason.APPOINTMENT_STATE)


def test_moving_in_and_out() -> None:
    empty = given(CONSUMERS).when(move_in(tenancy="t-anna", ref="c-anna", at=day(1)))
    lived_in = empty.then(MOVED_IN)
    lived_in.when(move_in(tenancy="t-anna", ref="c-anna", at=day(1))).nothing()
    moved_out = lived_in.when(EndTenancy(ANNA, "t-anna", day(6))).then(MOVED_OUT)
    moved_out.when(EndTenancy(ANNA, "t-anna", day(6))).nothing()
    moved_out.when(EndTenancy(ANNA, "t-anna", day(5))).then(TenancyEnded("t-anna", day(5)))
    moved_out.when(move_in()).then(TenancyStarted("t-ben", "c-ben", day(6)))


def test_a_supplier_records_tenancies_of_the_meters_it_supplies() -> None:
    leaving = EndTenancy(SUPPLIER, "t-anna", day(6))
    given(CONSUMERS, *HOME).when(leaving).then(MOVED_OUT)


def test_a_new_supply_ends_the_old_one_at_that_instant() -> None:
    home = given(CONSUMERS).when(StartSupply(SERVICE, "BRIT", day(1))).then(SUPPLIED)
    home.when(StartSupply(SERVICE, "BRIT", day(4))).nothing()
    switched = home.when(StartSupply(SERVICE, "OCTO", day(6))).then(
        SupplyEnded("BRIT", day(6)), SupplyStarted("OCTO", day(6))
    )
    back = switched.when(StartSupply(SERVICE, "BRIT", day(8))).then(
        SupplyEnded("OCTO", day(8)), SupplyStarted("BRIT", day(8))
    )
    back.when(EndSupply(SERVICE, "BRIT", day(9))).then(SupplyEnded("BRIT", day(9)))
    assert [s.effective_to for s in back.state.supplies] == [day(6), day(8), None]


def test_a_new_agent_takes_the_role_over() -> None:
    home = given(CONSUMERS, *HOME)
    served = home.when(AppointAgent(SUPPLIER, "SDAT", "data_service", day(1))).then(SERVED)
    served.when(AppointAgent(SERVICE, "SDAT", "data_service", day(2))).nothing()
    taken = served.when(AppointAgent(SERVICE, "NEWD", "data_service", day(6))).then(
        AgentAppointmentEnded("SDAT", "data_service", day(6)),
        AgentAppointed("NEWD", "data_service", day(6)),
    )
    taken.when(EndAgentAppointment(SUPPLIER, "NEWD", "data_service", day(7))).then(
        AgentAppointmentEnded("NEWD", "data_service", day(7))
    )
