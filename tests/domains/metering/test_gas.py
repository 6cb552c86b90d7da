"""Gas: volumes to energy by the rule of bills, and volumes that the log keeps as they were."""

from __future__ import annotations

import json
from dataclasses import replace
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from domains.metering import READINGS, adapters, readings
from domains.metering.adapters import Parsed
from domains.metering.events import Fuel, MeteringPoint
from domains.metering.gas import VOLUME_DM3_MAX, Conversion, conversion_of
from domains.metering.judging import check_rows
from domains.metering.readings import Delivery, GasVolumeBatch, batch_problem
from spine.errors import Reason
from spine.gb import Interval, Mprn, half_hour_start
from spine.murmur2 import murmur2_partition
from tests.domains.metering.test_family_shared import HOME, buckets, reasons, refused
from tests.helpers.half_hours import read_back
from tests.helpers.rows import MemoryRows

MPRN = "3938424403"
GAS = Conversion(39_500)
EVER = Interval(half_hour_start(0), half_hour_start(48 * 40_000))


def n3rgy(*m3: object, unit: str = "m3", fuel: str = "gas", point: str = MPRN) -> bytes:
    values = [
        {"primaryValue": value, "timestamp": f"2024-01-01 {n // 2:02}:{n % 2 * 30:02}"}
        for n, value in enumerate(m3, 1)
    ]
    return json.dumps(
        {
            "resource": f"/mpxn/{point}/utility/{fuel}/readingtype/consumption?start=20240101",
            "granularity": "halfhour",
            "unit": unit,
            "devices": [{"deviceId": "1", "values": values}],
        }
    ).encode()


def read(*m3: object, **more: Any) -> Parsed:
    return adapters.read("gas.json", n3rgy(*m3, **more), None, GAS)


def batch(parsed: Parsed) -> GasVolumeBatch:
    made = readings.batch_from_columns(
        parsed.meter_days,
        murmur2_partition(MPRN.encode(), 1),
        Delivery("SUPP", "file"),
        registration_position=1,
        consumer_log_position=1,
    )
    assert isinstance(made, GasVolumeBatch)
    return made


@given(
    st.integers(0, VOLUME_DM3_MAX), st.integers(1, 60_000), st.integers(1, 110_000)
)  # fmt: skip
def test_energy_is_what_the_rule_says_to_the_nearest_wh(dm3: int, kj_m3: int, e5: int) -> None:
    m3, mj_m3, factor = Fraction(dm3, 1000), Fraction(kj_m3, 1000), Fraction(e5, 100_000)
    kwh = m3 * factor * mj_m3 / Fraction(36, 10)
    exact = Decimal((kwh * 1000).numerator) / Decimal((kwh * 1000).denominator)
    wanted = int(exact.to_integral_value(ROUND_HALF_UP))
    assert Conversion(kj_m3, e5).wh(np.array([dm3], np.int32)).tolist() == [wanted]


def test_a_cubic_metre_of_usual_gas() -> None:
    assert GAS.wh(np.array([0, 1, 1000], np.int32)).tolist() == [0, 11, 11_221]
    assert conversion_of("39.5") == GAS == conversion_of("39.500")


@pytest.mark.parametrize("text", ["", "39,5", "x", "-39.5", "0", "3.95e1", "99.9", "39.5000", "1"])
def test_what_is_no_calorific_value(text: str) -> None:
    refused(Reason.FIELD_INVALID, lambda: conversion_of(text))


def test_an_n3rgy_answer_of_gas_in_cubic_metres() -> None:
    days = (parsed := read(0.1, 1, None, -1, 0.0001, 100_000.001)).meter_days
    assert buckets(parsed.report.rows) == {
        "recorded": 2, "null": 1, "negative": 1, "wrong_decimals": 1, "out_of_range": 1,
    }  # fmt: skip
    assert days.mpxns.tolist() == [MPRN.encode()]
    assert days.volumes_dm3 is not None
    assert days.volumes_dm3[0, :2].tolist() == [100, 1000]
    assert days.values_wh[0, :2].tolist() == [1122, 11_221]
    assert "is finer than a whole dm3" in " ".join(f.message for f in parsed.report.findings)


def test_an_n3rgy_answer_of_gas_in_kwh_is_energy_like_any_other() -> None:
    parsed = read(0.1, 1, unit="kWh")
    assert parsed.meter_days.volumes_dm3 is None
    assert parsed.meter_days.total_wh == 1100


def test_gas_that_is_refused() -> None:
    said = refused(Reason.FIELD_MISSING, lambda: adapters.read("x", n3rgy(1)))
    assert "calorific value" in said
    refused(Reason.FILE_UNRECOGNISED, lambda: read(1, fuel="electricity", point=HOME))
    refused(Reason.FILE_UNRECOGNISED, lambda: read(1, unit="ft3"))
    refused(Reason.MPRN_FORMAT, lambda: read(1, point=HOME))
    refused(Reason.MPAN_FORMAT, lambda: read(1, fuel="electricity", unit="kWh"))


def test_a_gas_number_with_a_wrong_check_is_a_finding_only() -> None:
    parsed = read(1, point="3938424404")
    assert reasons(parsed)["check_digit"] == 1
    assert buckets(parsed.report.rows) == {"recorded": 1}


def test_the_log_keeps_volumes_and_a_fold_answers_energy() -> None:
    parsed = read(0.1, 1)
    made, rows = batch(parsed), MemoryRows()
    assert batch_problem(made, 1) == ""
    assert made.unit == "dm3"
    assert np.frombuffer(made.values, "<i4")[:2].tolist() == [100, 1000]
    assert READINGS.fold_batch is not None
    assert READINGS.fold_batch(made, 7, rows)
    assert not READINGS.fold_batch(made, 8, rows)
    found = read_back(rows, MPRN, "AI", EVER, 100)
    assert [recorded.value_wh for recorded in found.values()] == [1122, 11_221]
    columns = readings.columns(made)
    assert columns.conversion == GAS
    assert columns.values_wh.tolist() == parsed.meter_days.values_wh.tolist()


def test_a_better_calorific_value_is_another_version() -> None:
    parsed = read(1)
    days = parsed.meter_days
    better = Conversion(38_000)
    later = Parsed(
        replace(days, conversion=better, values_wh=better.wh(days.volumes_dm3)),  # type: ignore[arg-type]
        parsed.report,
    )
    first, second, rows = batch(parsed), batch(later), MemoryRows()
    assert first.batch_id != second.batch_id
    assert READINGS.fold_batch is not None
    for offset, made in enumerate((first, second)):
        assert READINGS.fold_batch(made, offset, rows)
    asked = [read_back(rows, MPRN, "AI", EVER, below) for below in (1, 2)]
    assert [[r.value_wh for r in found.values()] for found in asked] == [[11_221], [10_795]]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"unit": "Wh"}, Reason.READINGS_MALFORMED),
        ({"calorific_value_kj_m3": 0}, Reason.READINGS_MALFORMED),
        ({"factor_e5": 110_001}, Reason.READINGS_MALFORMED),
        ({"mpxns": HOME.encode()}, Reason.READINGS_MALFORMED),
        ({"values": np.full(48, -1, "<i4").tobytes()}, Reason.READING_OUT_OF_RANGE),
        ({"values": np.full(48, VOLUME_DM3_MAX + 1, "<i4").tobytes()}, Reason.READING_OUT_OF_RANGE),
    ],
)
def test_what_no_fold_takes(changes: dict[str, Any], reason: Reason) -> None:
    whole = replace(batch(read(1)), present=b"\xff" * 6)
    assert batch_problem(replace(whole, **changes), 1) == reason


@pytest.mark.parametrize(
    ("fuel", "dm3", "reason"),
    [
        ("GAS", 1000, None),
        ("ELECTRICITY", 1000, Reason.QUANTITY_NOT_FOR_METER),
        ("GAS", 1_000_000, Reason.READING_OUT_OF_RANGE),
        ("GAS", 2**31 - 1, Reason.READING_OUT_OF_RANGE),
    ],
)
def test_what_the_coordinator_lets_in(fuel: str, dm3: int, reason: Reason | None) -> None:
    days = read(1).meter_days
    volumes = np.where(days.present, np.int32(dm3), np.int32(0))
    days = replace(days, volumes_dm3=volumes, values_wh=GAS.wh(volumes))
    point = structs.replace(MeteringPoint(), fuel=Fuel(fuel), registered_from=EVER.start)
    checked = check_rows(days, lambda _: point, lambda _: [EVER], EVER.end)
    assert dict(checked.refused) == ({} if reason is None else {reason: 1})


def test_an_mprn_may_have_any_length_of_its_kind() -> None:
    for digits in ("123456", "1234567", "12345678", "123456789", "1234567890"):
        assert read(1, point=Mprn(digits)).meter_days.mpxns.tolist() == [digits.encode()]
