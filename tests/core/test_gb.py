"""GB identifiers and the calendar, against tables of published and worked values."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spine import gb
from spine.errors import Invalid, Reason
from spine.gb import (
    GspGroup,
    Interval,
    Mpan,
    Mpid,
    Mprn,
    SettlementDate,
    SettlementPeriod,
    half_hour_of,
    half_hour_start,
    host_gsp_group,
    parse_mpxn,
    periods_in,
    tzdata_version,
    utc_day_and_period,
    utc_half_hour,
)


def words(text: str) -> list[str]:
    return text.split()


MPANS_RIGHT = words("""
1030006718997 1470116845051 1049827101269 3433899920164 2143967712809 2830997098859 1816273348119
2146743072093 1892941794350 1525379938096 2544886475542
1312345678907 2099999999993 2499999999991 2040015001169 2000027391990
1000000000003 2000000000006 2299999999929
1000000000012 1100000000017 1200000000011 1300000000016 1400000000010 1500000000015 1600000000010
1700000000014 1800000000019 1900000000013 2000000000015 2100000000010 2200000000014 2300000000019
2400000000013 2500000000018 3800000000014
2000000000070 2000000000060 2019010100002
""")
# The wrong number, and the digit it should end in.
MPANS_WRONG = {
    "2499999999990": "1",
    "2040015001165": "9",
    "8699999999991": "7",
    "2099999999386": "0",
    "1099999999997": "0",
    "1234567890123": "6",
    "1315001165123": "2",
    "1312345678111": "8",
    "1312345678222": "4",
    "1312345678333": "0",
}
MPRNS_RIGHT = words("""
3938424403 1234567810 7654321003 9999999905 1000999809 4123456706 0000001810
""")
NOT_MPANS = ["", "200002739199", "20000273919900", "2000027391 90", " 2000027391990",
             "2000027391990\n", "२000027391990", "200002739199²", "abcdefghijklm"]  # fmt: skip
NOT_MPRNS = ["", "12345", "12345678901", "12345a", "१23456", " 1234567"]

SHORT_DAYS = words("""
2023-03-26 2024-03-31 2025-03-30 2026-03-29 2027-03-28 2028-03-26 2029-03-25 2030-03-31 2031-03-30
""")
LONG_DAYS = words("""
2023-10-29 2024-10-27 2025-10-26 2026-10-25 2027-10-31 2028-10-29 2029-10-28 2030-10-27 2031-10-26
""")
PERIODS = [
    ("2024-07-01T00:00Z", "2024-07-01", 3),
    ("2024-06-30T23:00Z", "2024-07-01", 1),
    ("2024-03-31T01:00Z", "2024-03-31", 3),
    ("2024-03-31T22:30Z", "2024-03-31", 46),
    ("2024-10-26T23:00Z", "2024-10-27", 1),
    ("2024-10-27T00:00Z", "2024-10-27", 3),
    ("2024-10-27T00:30Z", "2024-10-27", 4),
    ("2024-10-27T01:00Z", "2024-10-27", 5),
    ("2024-10-27T01:30Z", "2024-10-27", 6),
    ("2024-10-27T23:30Z", "2024-10-27", 50),
    ("2024-01-01T00:00Z", "2024-01-01", 1),
]


def at(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def refused(reason: Reason, make: Callable[..., object], *arguments: object) -> Invalid:
    with pytest.raises(Invalid) as caught:
        make(*arguments)
    assert caught.value.reason is reason
    return caught.value


# Identifiers


@pytest.mark.parametrize("text", MPANS_RIGHT)
def test_a_right_mpan(text: str) -> None:
    mpan = Mpan(text)
    assert mpan.check_digit_ok
    assert str(mpan) == f"{mpan}" == text
    assert type(parse_mpxn(text)) is Mpan


@pytest.mark.parametrize(("text", "right"), MPANS_WRONG.items())
def test_a_wrong_check_digit_is_still_an_mpan(text: str, right: str) -> None:
    assert not Mpan(text).check_digit_ok
    assert Mpan(text[:-1] + right).check_digit_ok


@pytest.mark.parametrize("text", NOT_MPANS)
def test_not_an_mpan(text: str) -> None:
    invalid = refused(Reason.MPAN_FORMAT, Mpan, text)
    assert invalid.field == "mpan"


@given(st.integers(0, 10**12 - 1))
def test_one_check_digit_fits_every_mpan(body: int) -> None:
    fits = [d for d in range(10) if Mpan(f"{body:012}{d}").check_digit_ok]
    assert len(fits) == 1


@pytest.mark.parametrize("text", MPRNS_RIGHT)
def test_a_right_mprn(text: str) -> None:
    assert Mprn(text).check_digit_ok
    assert type(parse_mpxn(text)) is Mprn


def test_a_wrong_check_digit_is_still_an_mprn() -> None:
    assert not Mprn("1000999888").check_digit_ok
    assert Mprn("1000999809").check_digit_ok


@pytest.mark.parametrize("text", NOT_MPRNS)
def test_not_an_mprn(text: str) -> None:
    refused(Reason.MPRN_FORMAT, Mprn, text)


@pytest.mark.parametrize("text", ["", "12345", "12345678901", "123456789012", "x", "²23456"])
def test_not_an_mpxn(text: str) -> None:
    refused(Reason.MPXN_FORMAT, parse_mpxn, text)


def test_no_refusal_repeats_the_identifier() -> None:
    for make in (Mpan, Mprn, parse_mpxn):
        with pytest.raises(Invalid) as caught:
            make("20000273919")
        assert "2000027" not in str(caught.value)


def test_identifiers_survive_a_pickle() -> None:
    for value in (Mpan(MPANS_RIGHT[0]), Mprn(MPRNS_RIGHT[0]), Mpid("LOND"), GspGroup.LONDON):
        again = pickle.loads(pickle.dumps(value))
        assert again == value
        assert type(again) is type(value)


def test_gsp_groups() -> None:
    assert sorted(GspGroup) == [f"_{letter}" for letter in "ABCDEFGHJKLMNP"]
    for wrong in ("_I", "_O", "A", "", "_a"):
        refused(Reason.GSP_GROUP_UNKNOWN, GspGroup, wrong)


def test_host_distributors_tell_the_group_and_independent_ones_do_not() -> None:
    by_id = {str(n): host_gsp_group(str(n)) for n in range(10, 24)}
    assert by_id == {
        "10": "_A", "11": "_B", "12": "_C", "13": "_D", "14": "_E", "15": "_F", "16": "_G",
        "17": "_P", "18": "_N", "19": "_J", "20": "_H", "21": "_K", "22": "_L", "23": "_M",
    }  # fmt: skip
    assert Mpan("2000027391990").host_gsp_group is GspGroup.SOUTHERN
    for independent in ("24", "38", "86", "09", ""):
        assert host_gsp_group(independent) is None


def test_mpid() -> None:
    assert Mpid("LOND") == "LOND"
    for wrong in ("", "LON", "LONDO", "lond", "LÖND", "LOND\n"):
        refused(Reason.MPID_FORMAT, Mpid, wrong)


# Calendar


def test_rules_come_from_the_pinned_package() -> None:
    assert tzdata_version()[:2] == "20"
    assert gb.london().key == "Europe/London"


@pytest.mark.parametrize("day", SHORT_DAYS)
def test_spring_days_have_46_periods(day: str) -> None:
    assert periods_in(date.fromisoformat(day)) == 46


@pytest.mark.parametrize("day", LONG_DAYS)
def test_autumn_days_have_50_periods(day: str) -> None:
    assert periods_in(date.fromisoformat(day)) == 50


def test_all_other_days_have_48_periods() -> None:
    changes = set(SHORT_DAYS + LONG_DAYS)
    days = [date(2023, 1, 1) + timedelta(n) for n in range(9 * 365 + 2)]
    assert days[-1] == date(2031, 12, 31)
    assert {periods_in(day) for day in days if day.isoformat() not in changes} == {48}


@pytest.mark.parametrize(("year", "half_hours"), [(2023, 17_520), (2024, 17_568), (2025, 17_520)])
def test_half_hours_of_a_year_are_the_same_on_both_calendars(year: int, half_hours: int) -> None:
    first, after = date(year, 1, 1), date(year + 1, 1, 1)
    days = [first + timedelta(n) for n in range((after - first).days)]
    assert sum(map(periods_in, days)) == 48 * len(days) == half_hours


@pytest.mark.parametrize(("instant", "day", "number"), PERIODS)
def test_settlement_periods(instant: str, day: str, number: int) -> None:
    period = SettlementPeriod(SettlementDate.parse(day), number)
    assert SettlementPeriod.at(at(instant)) == period
    assert period.interval == Interval(at(instant), at(instant) + gb.HALF_HOUR)
    assert at(instant) in period.date.interval


def test_utc_days_and_periods() -> None:
    day = (date(2024, 6, 30) - date(1970, 1, 1)).days
    assert utc_day_and_period(at("2024-06-30T23:00Z")) == (day, 47)
    assert utc_day_and_period(at("2024-06-30T23:59Z")) == (day, 48)
    assert utc_half_hour(day, 47).start == at("2024-06-30T23:00Z")
    for wrong in (0, 49):
        refused(Reason.SETTLEMENT_PERIOD_INVALID, utc_half_hour, day, wrong)


@pytest.mark.parametrize(
    ("day", "number"),
    [("2024-03-31", 47), ("2024-10-27", 51), ("2024-01-01", 49), ("2024-01-01", 0)],
)
def test_a_period_the_day_has_not(day: str, number: int) -> None:
    date_ = SettlementDate.parse(day)
    refused(Reason.SETTLEMENT_PERIOD_INVALID, SettlementPeriod, date_, number)


@pytest.mark.parametrize(
    "text", ["", "20240101", "2024-1-1", "2024-02-30", "2024-W01-1", "1989-12-31", "2100-01-01"]
)
def test_not_a_settlement_date(text: str) -> None:
    refused(Reason.TIME_INVALID, SettlementDate.parse, text)


def test_a_date_with_a_time_is_not_a_settlement_date() -> None:
    refused(Reason.TIME_INVALID, SettlementDate, datetime(2024, 1, 1, tzinfo=UTC))


minutes = st.integers(0, 108 * 365 * 24 * 60)
instants = minutes.map(lambda n: datetime(1991, 1, 1, tzinfo=UTC) + timedelta(minutes=n))
settlement_days = st.dates(date(1990, 1, 1), date(2099, 12, 31)).map(SettlementDate)


@given(instants)
def test_instant_to_local_period_and_back(instant: datetime) -> None:
    period = SettlementPeriod.at(instant)
    assert instant in period.interval
    assert period.half_hour == half_hour_of(instant)
    assert SettlementPeriod.at(period.interval.start) == period


@given(settlement_days, st.data())
def test_local_period_to_utc_and_back(day: SettlementDate, data: st.DataObject) -> None:
    period = SettlementPeriod(day, data.draw(st.integers(1, day.periods)))
    assert SettlementPeriod.at(period.interval.start) == period
    assert SettlementDate.at(period.interval.start) == day


@given(instants)
def test_instant_to_utc_period_and_back(instant: datetime) -> None:
    assert instant in utc_half_hour(*utc_day_and_period(instant))


@given(settlement_days)
def test_a_day_is_exactly_its_periods(day: SettlementDate) -> None:
    halves = list(day.interval.half_hours())
    assert halves == [SettlementPeriod(day, n + 1).interval for n in range(day.periods)]
    if day.local < gb.LAST_DATE:
        assert day.interval.end == SettlementDate(day.local + timedelta(1)).interval.start


# Intervals


def test_an_interval_is_half_open_and_utc() -> None:
    local = timezone(timedelta(hours=1))
    hour = Interval(datetime(2024, 7, 1, 1, tzinfo=local), at("2024-07-01T01:00Z"))
    assert hour.start == at("2024-07-01T00:00Z")
    assert hour.start.tzinfo is UTC
    assert hour.start in hour
    assert hour.end not in hour
    assert len(list(hour.half_hours())) == 2


def test_intersection_and_containment() -> None:
    morning = Interval(at("2024-07-01T00:00Z"), at("2024-07-01T12:00Z"))
    evening = Interval(at("2024-07-01T12:00Z"), at("2024-07-02T00:00Z"))
    day = Interval(morning.start, evening.end)
    assert morning.intersect(evening) is None
    assert day.intersect(evening) == evening.intersect(day) == evening
    assert day.contains(morning)
    assert day.contains(day)
    assert not morning.contains(day)


def test_bad_intervals() -> None:
    noon = at("2024-07-01T12:00Z")
    refused(Reason.INTERVAL_INVALID, Interval, noon, noon)
    refused(Reason.INTERVAL_INVALID, Interval, noon, noon - gb.HALF_HOUR)
    refused(Reason.TIME_INVALID, Interval, noon.replace(tzinfo=None), noon)
    crooked = Interval(noon, noon + timedelta(minutes=31))
    refused(Reason.INTERVAL_INVALID, crooked.half_hours)
    assert half_hour_start(half_hour_of(crooked.end)) == noon + gb.HALF_HOUR
