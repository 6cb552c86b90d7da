"""The registry's rules, one row per refusal in order of precedence, and the rules for readings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from domains.metering import METERING
from domains.metering.adapters.report import MeterDays
from domains.metering.decider import (
    DeregisterMeteringPoint,
    RegisterMeteringPoint,
    ReportCommunication,
    decide,
    sender_may_send,
    sending_stretches,
)
from domains.metering.events import (
    EnergyDirection,
    Fuel,
    MeterCommunicationLost,
    MeterCommunicationRestored,
    MeteringEvent,
    MeteringPoint,
    MeteringPointDeregistered,
    MeteringPointRegistered,
    Silence,
)
from domains.metering.judging import (
    CLOCKS_DIFFER,
    READING_WH_MAX,
    check_rows,
    judged_part,
    numbers_of,
    points_of,
)
from domains.metering.views import MeteringPointView, metering_point_view
from spine.codelist import NOT_LOADED
from spine.domain import Actor, fold
from spine.errors import Invalid, NotPermitted, Reason, Refused, SpineError
from spine.gb import FOR_EVER, Interval, half_hour_of
from spine.policy import Appointment, MeterAccess, Supply
from tests.helpers.standing import shipped_list

NOW = datetime(2024, 6, 1, 12, tzinfo=UTC)
START = datetime(2024, 1, 1, tzinfo=UTC)
END = datetime(2024, 5, 1, tzinfo=UTC)
MPAN, MPAN_WRONG_DIGIT, MPRN = "1200000000011", "1200000000012", "123456789"
SUPPLIER = Actor("supplier", "SUPP")

LISTED = (shipped_list("metering", "distributors"), shipped_list("metering", "gsp_groups"))
REGISTER = RegisterMeteringPoint(
    SUPPLIER, MPAN, "ELECTRICITY", "IMPORT", "AI", START, "_C", *LISTED
)
DEREGISTER = DeregisterMeteringPoint(SUPPLIER, END)
REGISTERED = MeteringPointRegistered("ELECTRICITY", "_C", "IMPORT", "AI", START, NOW)
DEREGISTERED = MeteringPointDeregistered(END, NOW)
MARCH = datetime(2024, 3, 1, tzinfo=UTC)
SILENT = ReportCommunication(SUPPLIER, MARCH, restored=False)
LOST, RESTORED = MeterCommunicationLost(MARCH, NOW), MeterCommunicationRestored(END, NOW)


def decided(given: Sequence[MeteringEvent], command: Any) -> tuple[object, ...]:
    state: MeteringPoint = fold(METERING, given)
    return decide(state, command, NOW)


@pytest.mark.parametrize(
    ("given", "command", "then"),
    [
        ([], REGISTER, (REGISTERED,)),
        ([], replace(REGISTER, by=Actor("data_service", "D")), (REGISTERED,)),
        ([], replace(REGISTER, by=Actor("consent_service", "C")), (REGISTERED,)),
        ([], replace(REGISTER, gsp_group=""), (structs.replace(REGISTERED, gsp_group=""),)),
        ([REGISTERED], REGISTER, ()),
        ([REGISTERED], DEREGISTER, (DEREGISTERED,)),
        ([REGISTERED, DEREGISTERED], DEREGISTER, ()),
        ([REGISTERED], SILENT, (LOST,)),
        ([REGISTERED, LOST], SILENT, ()),
        ([REGISTERED, LOST], replace(SILENT, at=END), ()),
        ([REGISTERED, LOST], replace(SILENT, at=END, restored=True), (RESTORED,)),
        ([REGISTERED], replace(SILENT, at=END, restored=True), ()),
        ([REGISTERED, LOST], REGISTER, ()),
    ],
)
def test_facts(given: list[MeteringEvent], command: Any, then: tuple[object, ...]) -> None:
    assert decided(given, command) == then


@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 20)), max_size=8),
    st.integers(0, 22),
)
def test_a_meter_is_silent_as_the_last_word_on_each_instant_says(
    said: list[tuple[bool, int]], asked: int
) -> None:
    facts: list[MeteringEvent] = [
        (MeterCommunicationRestored if over else MeterCommunicationLost)(day(at), NOW)
        for over, at in said
    ]
    silent = False
    for over, at in said:  # from then on, for all that comes after
        if asked >= at:
            silent = not over
    state: MeteringPoint = fold(METERING, [REGISTERED, *facts])
    found = [
        s
        for s in state.silences
        if s.effective_from <= day(asked)
        and (s.effective_to is None or day(asked) < s.effective_to)
    ]
    assert len(found) == silent
    ends = [s.effective_to for s in state.silences]
    assert all(end is not None for end in ends[:-1])


def day(number: int) -> datetime:
    return START + timedelta(days=number)


def test_export_and_gas_points() -> None:
    export = replace(REGISTER, energy_direction="EXPORT", measurement_quantity="AE")
    assert decided([], export) == (
        structs.replace(REGISTERED, energy_direction="EXPORT", measurement_quantity="AE"),
    )
    gas = replace(REGISTER, mpxn=MPRN, fuel="GAS", gsp_group="")
    assert decided([], gas) == (structs.replace(REGISTERED, fuel="GAS", gsp_group=""),)


def test_what_is_registered_already_asks_no_list_again() -> None:
    withdrawn = replace(REGISTER, distributors=NOT_LOADED, gsp_groups=NOT_LOADED)
    assert decided([REGISTERED], withdrawn) == ()


def test_a_gas_point_needs_no_distributor() -> None:
    gas = replace(REGISTER, mpxn=MPRN, fuel="GAS", gsp_group="", distributors=NOT_LOADED)
    assert len(decided([], gas)) == 1


def test_an_instant_is_recorded_in_utc() -> None:
    bst = timezone(timedelta(hours=1))
    command = replace(REGISTER, registered_from=datetime(2024, 4, 1, tzinfo=bst))
    (event,) = decided([], command)
    assert isinstance(event, MeteringPointRegistered)
    assert event.registered_from.isoformat() == "2024-03-31T23:00:00+00:00"


BEFORE_IT_BEGAN = datetime(1996, 3, 31, 22, tzinfo=UTC)  # 23:00 in London, summer time
NAIVE = datetime(2024, 1, 1)  # noqa: DTZ001 - the flaw under test


@pytest.mark.parametrize(
    ("given", "command", "error", "reason"),
    [
        ([], replace(REGISTER, by=Actor("consumer", "x")), NotPermitted, "ROLE_NOT_ALLOWED"),
        ([], replace(REGISTER, by=Actor("data_user", "x")), NotPermitted, "ROLE_NOT_ALLOWED"),
        ([], replace(REGISTER, fuel="COAL"), Invalid, "CODE_UNKNOWN"),
        ([], replace(REGISTER, energy_direction="UP"), Invalid, "CODE_UNKNOWN"),
        ([], replace(REGISTER, measurement_quantity="XX"), Invalid, "CODE_UNKNOWN"),
        ([], replace(REGISTER, gsp_group="_I"), Invalid, "GSP_GROUP_UNKNOWN"),
        ([], replace(REGISTER, registered_from=NAIVE), Invalid, "TIME_INVALID"),
        ([], replace(REGISTER, mpxn=MPRN), Invalid, "MPAN_FORMAT"),
        ([], replace(REGISTER, fuel="GAS", gsp_group=""), Invalid, "MPRN_FORMAT"),
        ([], replace(REGISTER, fuel="GAS", mpxn=MPRN), Invalid, "FIELD_INVALID"),
        ([], replace(REGISTER, measurement_quantity="AE"), Invalid, "FIELD_INVALID"),
        ([REGISTERED], replace(REGISTER, gsp_group="_A"), Refused, "METER_EXISTS"),
        ([REGISTERED, DEREGISTERED], REGISTER, Refused, "METER_EXISTS"),
        ([], replace(REGISTER, mpxn="8699999999991"), Invalid, "CODE_UNKNOWN"),
        ([], replace(REGISTER, distributors=NOT_LOADED), Invalid, "CODE_UNKNOWN"),
        ([], replace(REGISTER, gsp_groups=NOT_LOADED), Invalid, "CODE_UNKNOWN"),
        ([], replace(REGISTER, registered_from=BEFORE_IT_BEGAN), Invalid, "CODE_UNKNOWN"),
        ([], replace(DEREGISTER, by=Actor("dsi", "x")), NotPermitted, "ROLE_NOT_ALLOWED"),
        ([], replace(DEREGISTER, effective_to=NAIVE), Invalid, "TIME_INVALID"),
        ([], DEREGISTER, Refused, "METER_NOT_REGISTERED"),
        ([], SILENT, Refused, "METER_NOT_REGISTERED"),
        ([REGISTERED], replace(SILENT, at=NAIVE), Invalid, "TIME_INVALID"),
        (
            [REGISTERED, DEREGISTERED],
            replace(DEREGISTER, effective_to=NOW),
            Refused,
            "METER_NOT_REGISTERED",
        ),
        ([REGISTERED], replace(DEREGISTER, effective_to=START), Invalid, "INTERVAL_INVALID"),
    ],
)
def test_refusals(
    given: list[MeteringEvent], command: Any, error: type[SpineError], reason: str
) -> None:
    with pytest.raises(error) as refusal:
        decided(given, command)
    assert refusal.value.reason == reason
    assert MPAN not in str(refusal.value)


@pytest.mark.parametrize("field", ["fuel", "energy_direction", "measurement_quantity"])
def test_a_fact_with_an_unknown_code_does_not_fold(field: str) -> None:
    changes: Any = {field: "?"}
    with pytest.raises(ValueError, match="not a valid"):
        fold(METERING, [structs.replace(REGISTERED, **changes)])


def test_the_view_of_a_metering_point() -> None:
    assert metering_point_view(MPAN, METERING.initial()) is None
    state = fold(METERING, [REGISTERED, DEREGISTERED])
    assert metering_point_view(MPAN, state) == MeteringPointView(
        MPAN, "ELECTRICITY", "_C", "IMPORT", "AI", START, END
    )


# Which readings may enter

DAY = 19_800  # 2024-03-18
MIDNIGHT = datetime(2024, 3, 18, tzinfo=UTC)
POINT: MeteringPoint = fold(METERING, [REGISTERED])
ALWAYS = (Interval(START, NOW),)


def one_day(mpxn: str = MPAN, quantity: str = "AI", **changes: Any) -> MeterDays:
    """A whole day of 100 Wh a half hour, or with other columns."""
    day = MeterDays(
        mpxns=np.array([mpxn], "S13"),
        days=np.array([DAY], np.int32),
        present=np.ones((1, 48), np.bool_),
        values_wh=np.full((1, 48), 100, np.int32),
        quality=np.zeros((1, 48), np.uint8),
        quality_codes=("A",),
        quantity=quantity,
    )
    return replace(day, **changes)


def with_value(wh: int) -> MeterDays:
    day = one_day()
    day.values_wh[0, 7] = wh
    return day


@pytest.mark.parametrize(
    ("day", "point", "stretches", "reason"),
    [
        (one_day(), POINT, ALWAYS, None),
        (with_value(READING_WH_MAX), POINT, ALWAYS, None),
        (one_day(), None, (), "SENDER_NOT_APPOINTED"),
        (one_day(), None, ALWAYS, "METER_NOT_REGISTERED"),
        (one_day(), MeteringPoint(), ALWAYS, "METER_NOT_REGISTERED"),
        (
            one_day(),
            structs.replace(POINT, registered_from=MIDNIGHT + timedelta(minutes=1)),
            ALWAYS,
            "METER_NOT_REGISTERED",
        ),
        (one_day(), structs.replace(POINT, effective_to=MIDNIGHT), ALWAYS, "METER_NOT_REGISTERED"),
        (one_day(quantity="AE"), POINT, ALWAYS, "QUANTITY_NOT_FOR_METER"),
        (one_day(quantity="RI"), POINT, ALWAYS, "QUANTITY_NOT_FOR_METER"),
        (
            one_day(),
            structs.replace(POINT, energy_direction=EnergyDirection.EXPORT),
            ALWAYS,
            "QUANTITY_NOT_FOR_METER",
        ),
        (one_day(), POINT, (), "SENDER_NOT_APPOINTED"),
        (one_day(), POINT, (Interval(START, MIDNIGHT),), "SENDER_NOT_APPOINTED"),
        (with_value(-1), POINT, ALWAYS, "READING_OUT_OF_RANGE"),
        (with_value(READING_WH_MAX + 1), POINT, ALWAYS, "READING_OUT_OF_RANGE"),
    ],
)
def test_which_readings_may_enter(
    day: MeterDays,
    point: MeteringPoint | None,
    stretches: tuple[Interval, ...],
    reason: str | None,
) -> None:
    checked = check_rows(day, lambda _: point, lambda _: stretches, NOW)
    assert checked.accepted.tolist() == [reason is None]
    assert checked.refused == ({} if reason is None else {reason: 1})
    assert checked.findings == {}


@pytest.mark.parametrize("day", [one_day(), one_day(quantity="AE"), with_value(-1)])
def test_to_a_stranger_a_known_point_and_an_unknown_one_are_alike(day: MeterDays) -> None:
    known = check_rows(day, lambda _: POINT, lambda _: (), NOW)
    unknown = check_rows(day, lambda _: None, lambda _: (), NOW)
    assert known.refused == unknown.refused == {Reason.SENDER_NOT_APPOINTED: 1}


def test_only_the_half_hours_present_must_lie_in_the_appointment() -> None:
    """An appointment from local midnight in summer starts at 23:00Z of the day before."""
    present = np.zeros((1, 48), np.bool_)
    present[0, 46:] = True
    late = (Interval(MIDNIGHT + timedelta(hours=23), NOW),)
    assert check_rows(one_day(present=present), lambda _: POINT, lambda _: late, NOW).accepted.all()
    assert not check_rows(one_day(), lambda _: POINT, lambda _: late, NOW).accepted.any()


HALF = timedelta(minutes=30)


@pytest.mark.parametrize(
    ("last", "now", "accepted"),
    [
        (48, MIDNIGHT + 48 * HALF, True),
        (48, MIDNIGHT + 48 * HALF - CLOCKS_DIFFER, True),
        (48, MIDNIGHT + 48 * HALF - CLOCKS_DIFFER - timedelta(milliseconds=1), False),
        (48, MIDNIGHT - timedelta(days=200), False),
        (20, MIDNIGHT + 20 * HALF, True),  # a day that is not over, so far
        (21, MIDNIGHT + 20 * HALF, False),
        (0, MIDNIGHT - timedelta(days=200), True),  # it says nothing of the future
    ],
)
@pytest.mark.parametrize("gas", [False, True])
def test_values_of_half_hours_that_have_not_ended_may_not_enter(
    last: int, now: datetime, accepted: bool, gas: bool
) -> None:
    present = np.zeros((1, 48), np.bool_)
    present[0, :last] = True
    volumes = np.where(present, np.int32(10), np.int32(0)) if gas else None
    day = one_day(present=present, volumes_dm3=volumes)
    point = structs.replace(POINT, fuel=Fuel.GAS) if gas else POINT
    checked = check_rows(day, lambda _: point, lambda _: (Interval(START, FOR_EVER),), now)
    assert checked.accepted.tolist() == [accepted]
    assert checked.refused == ({} if accepted else {Reason.READING_IN_FUTURE: 1})


def test_of_many_days_only_those_to_come_are_refused() -> None:
    days = [DAY - 1, DAY, DAY + 1, DAY + 5_000]
    many = MeterDays(
        mpxns=np.array([MPAN] * 4, "S13"),
        days=np.array(days, np.int32),
        present=np.ones((4, 48), np.bool_),
        values_wh=np.zeros((4, 48), np.int32),
        quality=np.zeros((4, 48), np.uint8),
        quality_codes=("A",),
    )
    since = (Interval(START, FOR_EVER),)
    checked = check_rows(many, lambda _: POINT, lambda _: since, MIDNIGHT + 48 * HALF)
    assert checked.accepted.tolist() == [True, True, False, False]
    assert checked.refused == {Reason.READING_IN_FUTURE: 2}


def test_what_ended_by_a_cut_stands_apart_in_the_same_order() -> None:
    column = np.array([MPAN] * 4, "S13")
    days = np.array([DAY + 2, DAY, DAY + 1, DAY], np.int32)
    zeros = np.zeros((4, 48), np.int32)
    rows = MeterDays(column, days, zeros == 0, zeros, zeros.astype(np.uint8), ("A",))
    since = (Interval(START, FOR_EVER),)
    checked = check_rows(rows, lambda _: POINT, lambda _: since, NOW)
    order = np.array([3, 1, 2, 0])
    first = (DAY + 1) * 48
    for cuts, expected in (
        ([], [[3, 1, 2, 0]]),
        ([first], [[3, 1], [2, 0]]),
        ([first - 1, first + 48], [[], [3, 1, 2], [0]]),
    ):
        assert [part.tolist() for part in checked.accepted_in(order, cuts)] == expected


def test_each_row_is_judged_by_itself_and_each_point_asked_once() -> None:
    names = [MPAN, MPAN_WRONG_DIGIT, MPAN, MPRN]
    three = MeterDays(
        mpxns=np.array(names, "S13"),
        days=np.array([DAY, DAY, DAY - 1, DAY], np.int32),
        present=np.ones((4, 48), np.bool_),
        values_wh=np.zeros((4, 48), np.int32),
        quality=np.zeros((4, 48), np.uint8),
        quality_codes=("A",),
    )
    asked: list[str] = []

    def registered(name: bytes) -> MeteringPoint | None:
        mpxn = name.decode()
        asked.append(mpxn)
        return None if mpxn == MPRN else POINT

    stretches = {
        MPAN: (Interval(START, MIDNIGHT - timedelta(days=9)), Interval(MIDNIGHT, NOW)),
        MPAN_WRONG_DIGIT: ALWAYS,
        MPRN: ALWAYS,
    }
    checked = check_rows(three, registered, lambda name: stretches[name.decode()], NOW)
    assert checked.accepted.tolist() == [True, True, False, False]
    assert checked.refused == {Reason.SENDER_NOT_APPOINTED: 1, Reason.METER_NOT_REGISTERED: 1}
    assert checked.findings == {Reason.MPXN_CHECK_DIGIT: 1}
    assert sorted(asked) == sorted(set(names))


def test_nothing_to_check() -> None:
    nothing = one_day(
        mpxns=np.array([], "S13"),
        days=np.array([], np.int32),
        present=np.zeros((0, 48), np.bool_),
        values_wh=np.zeros((0, 48), np.int32),
        quality=np.zeros((0, 48), np.uint8),
    )
    checked = check_rows(nothing, lambda _: None, lambda _: (), NOW)
    assert (len(checked.accepted), checked.refused) == (0, {})


# Who may send


def days(count: int) -> datetime:
    return START + timedelta(days=count)


ACCESS = MeterAccess(
    supplies=(Supply("SUPP", days(0), days(10)), Supply("RIVL", days(10))),
    appointments=(
        Appointment("SUPP", "data_service", days(10), days(20)),
        Appointment("SUPP", "data_service", days(25), days(25)),
        Appointment("SUPP", "data_service", days(30), days(40)),
        Appointment("DATA", "data_service", days(0)),
        Appointment("METR", "meter_operator", days(0)),
    ),
)


@pytest.mark.parametrize(
    ("sender", "first", "last", "may"),
    [
        ("SUPP", 0, 10, True),
        ("SUPP", 5, 20, True),  # as supplier, and from day 10 on as data service
        ("SUPP", 5, 21, False),
        ("SUPP", 20, 21, False),
        ("SUPP", 35, 40, True),
        ("SUPP", 15, 35, False),
        ("RIVL", 9, 11, False),
        ("RIVL", 10, 9000, True),
        ("DATA", 0, 9000, True),
        ("METR", 0, 1, False),
        ("", 0, 1, False),
    ],
)
def test_who_may_send(sender: str, first: int, last: int, may: bool) -> None:
    assert sender_may_send(ACCESS, sender, Interval(days(first), days(last))) is may


def test_stretches_are_joined_where_they_meet() -> None:
    assert sending_stretches(ACCESS, "SUPP") == (
        Interval(days(0), days(20)),
        Interval(days(30), days(40)),
    )
    nested = MeterAccess(supplies=(Supply("S", days(0)), Supply("S", days(3), days(4))))
    (stretch,) = sending_stretches(nested, "S")
    assert stretch.end.year == 9999 and half_hour_of(stretch.end) > 0


NAMES = st.one_of(
    st.from_regex(r"[0-9]{13}", fullmatch=True), st.from_regex(r"[0-9]{6,10}", fullmatch=True)
)


@given(st.lists(NAMES, min_size=1, max_size=40))
def test_metering_points_have_numbers_of_their_own_in_the_order_of_their_names(
    names: list[str],
) -> None:
    column = np.array([name.encode() for name in names], "S13")
    days = np.zeros(len(names), np.int32)
    half_hours = np.zeros((len(names), 48), np.int32)
    rows = MeterDays(column, days, half_hours == 0, half_hours, half_hours.astype(np.uint8), ("A",))
    points = points_of(rows)
    assert points.names.tolist() == sorted({name.encode() for name in names})
    assert (np.diff(points.numbers) > 0).all()
    assert points.numbers.tolist() == numbers_of(points.names).tolist()
    assert points.names[points.of_row].tolist() == column.tolist()


def test_rows_are_judged_alike_by_that_part_of_a_point_that_others_share() -> None:
    silent = (Silence(MIDNIGHT),)
    whole = structs.replace(POINT, gsp_group="_C", silences=silent)
    assert judged_part(whole) == judged_part(structs.replace(POINT, gsp_group="_A"))
    export = EnergyDirection.EXPORT
    for point in (
        whole,
        MeteringPoint(),
        structs.replace(whole, effective_to=MIDNIGHT),
        structs.replace(whole, energy_direction=export),
        structs.replace(whole, fuel=Fuel.GAS),
    ):
        checked = [
            check_rows(one_day(), lambda _, known=known: known, lambda _: ALWAYS, NOW)  # type: ignore[misc]
            for known in (point, judged_part(point))
        ]
        assert checked[0].refused == checked[1].refused
        assert checked[0].findings == checked[1].findings
