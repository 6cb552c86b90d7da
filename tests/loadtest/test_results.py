"""Bounds, percentiles, plots and the sizing: what a run is made into."""

import asyncio
import json
import math
import re
import xml.etree.ElementTree as ElementTree
from typing import Any

import pytest

from loadtest import report, sizing
from loadtest.__main__ import FULL, chosen
from loadtest.installation import WrongAnswer, advisers_of, expect
from loadtest.proving import Side, cost
from loadtest.results import Bound, Result, percentile, to_json
from loadtest.traffic import at_pace, by_callers

FIGURES = {
    "gb-day": {
        "in_meter_days_per_s": 50_000.0,
        "fold_cpu_us_per_meter_day": 4.0,
        "log_bytes_per_meter_day": 90.0,
        "store_bytes_per_meter_day": 200.0,
    },
    "access": {"bytes_per_read_together": 600.0, "reads_passed_over_per_s": 130_000.0},
    "reads": {"dsi_cpu_ms_per_call": 2.0},
    "registry": {"facts_per_s": 8_000.0},
    "rebuild": {"meter_days_per_s": 200_000.0},
}


def test_a_missed_gate_fails_a_run_and_a_missed_target_is_said() -> None:
    bounds = (Bound("ratio", least=0.6), Bound("p99_ms", most=30))
    good = Result("s", 1, {"ratio": 0.6, "p99_ms": 30}, bounds, bounds)
    assert good.passed and good.missed() == []
    slow = Result("s", 1, {"ratio": 0.6, "p99_ms": 31}, bounds, bounds[:1])
    assert slow.passed and [str(b) for b in slow.missed()] == ["p99_ms ≤ 30"]
    assert not Result("s", 1, {"ratio": 0.5, "p99_ms": 1}, bounds, bounds[:1]).passed
    assert not Result("s", 1, {}, (), bounds).passed  # what was not measured was not reached
    said = json.loads(to_json(slow))
    assert (said["scenario"], said["passed"]) == ("s", True)


def test_a_percentile_is_a_value_that_was_measured() -> None:
    assert [percentile([3, 1, 2, 4], p) for p in (1, 50, 75, 99, 100)] == [1, 2, 3, 4, 4]
    assert math.isnan(percentile([], 50))


def test_the_cost_of_the_ledger_is_what_was_lost_and_what_it_took_itself() -> None:
    def side(calls: int, ledger_cpu_s: float, broker_cpu_s: float) -> Side:
        return Side(calls // 2, 2.5, ledger_cpu_s / 2, broker_cpu_s / 2) + Side(
            calls // 2, 2.5, ledger_cpu_s / 2, broker_cpu_s / 2
        )

    pairs = [(side(on, 0.5, 0.4), side(1_000, 0.0, 0.3)) for on in (900, 980, 990, 1_000)]
    figures = cost(pairs, cores=2)
    assert figures["cost_of_reads"] == pytest.approx((0.01 + 0.02) / 2)
    quartiles = figures["cost_of_reads_p25"], figures["cost_of_reads_p75"]
    assert quartiles == pytest.approx((0.0, 0.02))
    assert figures["calls_per_s_without"] == 200
    assert figures["ledger_cpu_ms_per_s"] == pytest.approx(100)
    assert figures["broker_cpu_ms_per_s_for_it"] == pytest.approx(20)
    assert figures["ledger_share_of_cores"] == pytest.approx(0.06)


async def test_latency_counts_from_when_a_call_was_due() -> None:
    free = asyncio.Lock()

    async def slow(number: int) -> None:
        async with free:  # one at a time, each longer than the pace allows
            await asyncio.sleep(0.02)

    taken = await at_pace(slow, per_s=200, seconds=0.25)
    assert len(taken.latencies_ms) == 50
    assert taken.at(99) > 500  # the last had to wait for all before it, and it shows
    waiting = await by_callers(slow, callers=1, seconds=0.2)
    assert waiting.at(50) < taken.at(50)  # who waits for each answer never sees the queue


async def test_a_wrong_answer_under_load_fails_the_run() -> None:
    async def answered(number: int) -> None:
        expect(number != 20, "the 20th answer differs")

    with pytest.raises(WrongAnswer, match="20th"):
        await at_pace(answered, per_s=1_000, seconds=0.1)
    with pytest.raises(WrongAnswer, match="20th"):
        await by_callers(answered, callers=4, seconds=1)


def test_a_plot_is_well_formed() -> None:
    drawn = report.plot("Title", [10, 100, 1_000], {"one": [1, 2, 3], "two": [3, 2, 1]})
    shapes = [element.tag.rpartition("}")[2] for element in ElementTree.fromstring(drawn)]
    assert shapes.count("polyline") == 2 and shapes.count("circle") == 6


def growth_run(size: int, us: float, fold_s: float) -> dict[str, Any]:
    return {"size": size, "figures": {"fold_us_per_meter_day": us, "fold_s": fold_s}}


def test_growth_is_judged_from_a_hundred_thousand_meters_up() -> None:
    runs = [
        growth_run(10_000, 9.0, 1.0),  # too small to count
        growth_run(100_000, 4.0, 25.0),
        growth_run(1_000_000, 4.5, 25.0),
    ]
    assert [line.partition(":")[2] for line in report.growth(runs)[2:4]] == [
        " reached, at 1.12",
        " reached, all",
    ]
    runs.append(growth_run(32_000_000, 5.0, 19.9))
    assert [line.partition(":")[2] for line in report.growth(runs)[2:4]] == [
        " **missed**, at 1.25",
        " **missed**, 19.9 s at 32,000,000",
    ]
    assert report.growth(runs[:2]) == []


def test_each_run_stands_with_the_command_that_repeats_it() -> None:
    new = {"scenario": "cut", "size": 1_000, "meters": 2_500, "days": 1, "figures": {}}
    assert report.command(new) == "spine loadtest cut --meters 2500 --json"
    old = {"scenario": "growth", "size": 100_000, "figures": {"meter_days": 4_987_000}}
    assert report.command(old) == "spine loadtest growth --meters 100000 --days 50 --json"
    long = {"scenario": "growth", "size": 10_000, "figures": {"meter_days": 4_789_516}}
    assert report.command(long) == "spine loadtest growth --meters 10000 --days 480 --json"
    bulk = {"scenario": "bulk", "size": 4_376, "figures": {"meter_days": 271_312}}
    assert report.command(bulk) == "spine loadtest bulk --meters 4376 --json"


def test_a_size_is_run_once_over_the_days_stated_for_it() -> None:
    assert list(chosen(["growth=1000000"])) == [("growth", 1_000_000, 6)]
    assert list(chosen(["growth=200000"])) == [("growth", 200_000, 1)]
    assert list(chosen(["growth=200000:9", "cut"])) == [("growth", 200_000, 9), ("cut", 2_500, 1)]
    assert tuple(chosen([])) == FULL


def test_the_machine_is_named_without_its_build() -> None:
    assert re.fullmatch(r"[A-Za-z]+ [0-9]+\.[0-9]+", report.machine()["system"])


def test_ten_times_the_country_takes_ten_times_the_work() -> None:
    unit = sizing.Unit.of(FIGURES)
    one, ten = sizing.size(sizing.Country(), unit), sizing.size(sizing.Country().times(10), unit)
    cores, terabytes = ("in_cores", "fold_cores", "read_cores"), ("log_tb", "access_tb", "store_tb")
    for field in (*cores, *terabytes, "load_hours"):
        assert getattr(ten, field) == pytest.approx(10 * getattr(one, field))
    assert ten.partitions > one.partitions
    for each in (one, ten):
        assert each.rebuild_hours <= 1 and each.access_rebuild_hours <= 1
    of_readings = 10 * 32_000_000 * 396 / unit.rebuild_per_s / 3_600
    assert of_readings / 256 <= 1 < ten.partitions / 256, "the naive count is that of readings"
    assert one.read_cores == pytest.approx(1_160 * 0.002 * 1.5)


def test_the_sizing_chapter_is_in_step_with_the_kept_results() -> None:
    text = sizing.DESIGN.read_text()
    if sizing.KEPT.exists():
        assert sizing.chapter(json.loads(sizing.KEPT.read_text())) in text
    else:
        assert sizing.BEGIN not in text


def test_a_country_has_an_adviser_for_each_few_of_its_meters() -> None:
    assert len(set(advisers_of(0))) == len(advisers_of(19)) == 4
    assert len(set(advisers_of(500))) == 100
    assert len(set(advisers_of(5_000))) == len(advisers_of(50_000)) == 1_000
