"""The country that load tests are made of: the same for a seed, and as wrong as it says it is."""

from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import pytest

from domains.metering.adapters.report import MeterDays
from domains.metering.events import MeteringPoint
from domains.metering.judging import check_rows
from loadtest import deliveries as sending
from loadtest.country import (
    CLOCK_CHANGES,
    GAP_MAX,
    GSP_GROUPS,
    RATES,
    SENDERS,
    SINCE,
    Country,
    Rates,
    local_slots,
    shapes,
)
from loadtest.installation import WrongAnswer
from loadtest.ready import made_ready
from spine.errors import Reason
from spine.gb import Interval, Mpan, host_gsp_group
from spine.metering.v1 import metering_pb2

DAY = date(2024, 7, 1)
COUNTRY = Country(60_000)
METERS = COUNTRY.block(0, 60_000)


def same(one: MeterDays, other: MeterDays) -> bool:
    columns = ("mpxns", "days", "present", "values_wh", "quality")
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in columns)


def test_a_block_is_the_same_however_it_is_cut() -> None:
    part = Country(60_000).block(17_000, 17_050)
    assert np.array_equal(part.mpans, METERS.mpans[17_000:17_050])
    whole = COUNTRY.day(METERS, DAY)
    assert same(
        Country(60_000).day(part, DAY),
        replace(
            whole,
            mpxns=whole.mpxns[17_000:17_050],
            days=whole.days[17_000:17_050],
            present=whole.present[17_000:17_050],
            values_wh=whole.values_wh[17_000:17_050],
            quality=whole.quality[17_000:17_050],
        ),
    )


def test_another_seed_is_another_country() -> None:
    other = Country(60_000, seed=2025).block(0, 60_000)
    assert not np.array_equal(other.sender, METERS.sender)
    assert not same(COUNTRY.day(METERS, DAY), Country(60_000, seed=2025).day(METERS, DAY))


def test_every_meter_has_a_number_of_its_own_in_a_region_that_fits() -> None:
    assert len(np.unique(METERS.mpans)) == 60_000
    assert set(METERS.gsp_group.tolist()) == set(range(len(GSP_GROUPS)))
    for row in range(0, 60_000, 997):
        mpan = Mpan(METERS.mpans[row].decode())
        assert mpan.check_digit_ok == METERS.check_digit_ok[row]
        host = host_gsp_group(mpan.distributor_id)
        assert host is None or host == GSP_GROUPS[METERS.gsp_group[row]]


def test_things_go_wrong_as_often_as_stated() -> None:
    days = COUNTRY.day(METERS, DAY)
    found = {
        "wrong_check_digit": ~METERS.check_digit_ok,
        "unregistered": ~METERS.registered,
        "independent": METERS.mpans.astype("S2").astype(int) >= 24,
        "data_service": METERS.sender >= 5,
        "misdirected": COUNTRY.misdirected(METERS, DAY),
        "late": COUNTRY.late(METERS, DAY),
        "corrected": COUNTRY.corrected(METERS, DAY),
        "estimated": days.quality.any(axis=1),
        "gap": ~days.present.all(axis=1),
    }
    for name, flags in found.items():
        stated = 60_000 * getattr(RATES, name) / 10_000
        assert abs(np.count_nonzero(flags) - stated) < 5 * stated**0.5 + 1, name
    absent = (~days.present).sum(axis=1)
    assert absent.max() == GAP_MAX and not days.values_wh[~days.present].any()


def test_people_live_by_the_clock_on_both_days_that_it_changes() -> None:
    spring, autumn = (local_slots(day).tolist() for day in CLOCK_CHANGES)
    assert spring[:4] == [0, 1, 4, 5] and len(spring) == 48  # 01:00 to 02:00 is left out
    assert autumn[:6] == [2, 3, 2, 3, 4, 5]  # 01:00 to 02:00 comes twice
    assert local_slots(date(2024, 1, 15)).tolist() == list(range(48))


def test_shapes_are_whole_days_of_homes() -> None:
    assert shapes().shape[1] == 48 and shapes().min() >= 0
    assert 1_500 < np.median(shapes().sum(axis=1)) < 30_000


def test_every_row_of_a_day_is_sent_once_and_counted_as_it_must_be() -> None:
    country = Country(3_000)
    first = list(sending.deliveries(country, 0, DAY))
    later = sending.second(country, DAY)
    assert {delivery.sender for delivery in first} == set(SENDERS)
    late = [delivery for delivery in later if delivery.reference.endswith("late")]
    assert sum(len(delivery.rows) for delivery in first + late) == 3_000
    what = sending.sent(country, 0, DAY)
    assert sum(d.recorded for d in first + late) == np.count_nonzero(what.recorded)


def test_messages_made_ready_are_the_bytes_of_what_each_sender_delivers(tmp_path: Path) -> None:
    country = Country(3_000)
    made = [*sending.deliveries(country, 0, DAY), *sending.second(country, DAY)]
    with (tmp_path / "messages").open("w+b") as file:
        by_sender = made_ready(iter(made), file)
        assert set(by_sender) == set(SENDERS)
        for sender, calls in by_sender.items():
            own = [delivery for delivery in made if delivery.sender == sender]
            assert [(call.due, call.repeated) for call in calls] == [
                (delivery.due, delivery.repeated) for delivery in own
            ]
            for call, delivery in zip(calls, own, strict=True):
                sent = [message.SerializeToString() for message in delivery.requests()]
                assert list(call.messages()) == sent == list(call.messages())


def test_what_comes_later_of_all_blocks_comes_in_one_delivery(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    country = Country(3_000)
    whole = sending.second(country, DAY)
    monkeypatch.setattr(sending, "BLOCK", 1_000)
    monkeypatch.setattr(sending, "sent", sending.sent.__wrapped__)
    cut = sending.second(country, DAY)
    assert [d.reference for d in cut] == [d.reference for d in whole]
    for one, other in zip(cut, whole, strict=True):
        assert same(one.rows, other.rows)
        assert (one.recorded, one.refused) == (other.recorded, other.refused)


def test_what_is_wrong_in_two_ways_is_expected_to_be_refused_as_the_coordinator_does() -> None:
    country = Country(3_000, rates=Rates(unregistered=4_000, misdirected=4_000))
    meters = country.block(0, 3_000)
    since = (Interval(SINCE, datetime(9999, 12, 31, tzinfo=UTC)),)
    rows = zip(meters.mpans, meters.registered, meters.supplier, meters.sender, strict=True)
    points, senders = {}, {}
    for mpan, registered, supplier, sender in rows:
        points[mpan] = MeteringPoint(registered_from=SINCE) if registered else MeteringPoint()
        senders[mpan] = {SENDERS[supplier], SENDERS[sender]}
    for delivery in sending.deliveries(country, 0, DAY):

        def may_send(mpan: bytes, by: str = delivery.sender) -> tuple[Interval, ...]:
            return since if by in senders[mpan] else ()

        checked = check_rows(delivery.rows, points.__getitem__, may_send, datetime.now(UTC))
        assert checked.refused == delivery.refused
        assert checked.findings == delivery.findings
        assert np.count_nonzero(checked.accepted) == delivery.recorded


def test_a_report_that_is_off_by_one_fails_the_run() -> None:
    delivery = next(sending.deliveries(Country(3_000), 0, DAY))
    right = metering_pb2.RecordReadingsReport(
        rows_received=len(delivery.rows),
        rows_recorded=delivery.recorded,
        rows_refused=delivery.refused,
        findings=delivery.findings,
    )
    delivery.check(right, again=False)
    with pytest.raises(WrongAnswer):
        delivery.check(right, again=True)
    for field in ("rows_received", "rows_recorded", "rows_duplicate"):
        wrong = metering_pb2.RecordReadingsReport()
        wrong.CopyFrom(right)
        setattr(wrong, field, getattr(right, field) + 1)
        with pytest.raises(WrongAnswer):
            delivery.check(wrong, again=False)
    wrong = metering_pb2.RecordReadingsReport()
    wrong.CopyFrom(right)
    wrong.findings[Reason.MPXN_CHECK_DIGIT] += 1
    with pytest.raises(WrongAnswer):
        delivery.check(wrong, again=False)


def test_what_is_expected_is_what_was_sent_last() -> None:
    country = Country(3_000)
    what = sending.sent(country, 0, DAY)
    corrected = int(np.flatnonzero(what.corrected & what.recorded)[0])
    lost = int(np.flatnonzero(~what.recorded)[0])
    known, nothing = sending.expected(country, [corrected, lost], DAY)
    row = what.meters.take(np.array([corrected]))
    said = country.day(row, DAY, version=1)
    assert {place: value for place, (value, _) in known.items()} == dict(
        enumerate(said.values_wh[0].tolist())
    )
    assert nothing == {}
