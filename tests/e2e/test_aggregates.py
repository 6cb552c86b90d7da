"""From readings to open data: published once, for everybody, and made again from the log."""

from __future__ import annotations

import asyncio
import csv
import json
from contextlib import closing
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import grpc
import numpy as np
import pytest

from domains.metering.feeders import FeederRing, interval_of
from domains.metering.publications import AggregatesPublished, before_next, publication
from spine import trust
from spine.console import context, ingesting
from spine.errors import Invalid, Reason
from spine.event import RecordType, SignerRole
from spine.gb import HALF_HOUR, SettlementDate
from spine.log import Appender
from spine.server import error_from
from spine.services.evidence import evidence
from tests.e2e.conftest import Installation
from tests.helpers.command_line import run

SAMPLE = Path(__file__).parent.parent / "data/lv-feeder/ssen_2024-02-12_head.csv"
GROUP, FEEDERS = "_M", ("SYNTHETIC-M-001-01", "SYNTHETIC-M-001-02")
FIRST = date(2024, 10, 26)  # the clocks went back on the next day
LONG_DAY = SettlementDate(date(2024, 10, 27))
NUMBERS = [f"23000000{n:05d}" for n in range(100, 160)]
RING = FeederRing(FEEDERS)
LARGE = [mpan for mpan in NUMBERS if RING.feeder_of(mpan) == FEEDERS[0]][:6]
SMALL = [mpan for mpan in NUMBERS if RING.feeder_of(mpan) == FEEDERS[1]][:4]


def wh(mpan: str, half_hour: int) -> int:
    """What that meter used in that half hour since midnight of the first day."""
    return int(mpan[-3:]) + half_hour


def readings_file(path: Path) -> Path:
    """Four days of all meters, in a known format; the last large one is silent on the third."""
    start = interval_of(FIRST).start
    with path.open("w", newline="") as opened:
        rows = csv.writer(opened)
        rows.writerow(("MPR", "ReadDatetime", "kWh", "ReadType"))
        for mpan in (*LARGE, *SMALL):
            for half_hour in range(4 * 48):
                if mpan == LARGE[-1] and half_hour == 2 * 48 + 7:
                    continue
                end = start + (half_hour + 1) * HALF_HOUR
                kwh = f"{wh(mpan, half_hour) / 1_000:.3f}"
                rows.writerow((mpan, f"{end:%d %b %Y %H:%M:%S}", kwh, "Actual"))
    return path


@pytest.fixture(scope="module")
def town(spine: Installation, tmp_path_factory: pytest.TempPathFactory) -> Installation:
    for mpan in (*LARGE, *SMALL):
        spine.meter(mpan, "north-supply")
    path = readings_file(tmp_path_factory.mktemp("town") / "readings.csv")
    report = ingesting.send(path, "north-supply")
    assert report.half_hours.buckets["recorded"] == 10 * 4 * 48 - 1
    return spine


def published(day: date) -> None:
    said = run("aggregates", "publish", "--day", day.isoformat(), "--json")
    assert said.code == 0, said
    assert {row["GSP group"] for row in json.loads(said.out)} >= {GROUP}


def shown(day: date) -> dict[str, tuple[int, str]]:
    said = run("aggregates", "show", "--day", day.isoformat(), "--json", "--as", "bright-advice")
    assert said.code == 0, said
    found = [row for row in json.loads(said.out) if row["gsp_group"] == GROUP]
    return {row["group"]: (row["devices"], row["suppressed"]) for row in found}


def test_a_day_is_published_for_everybody_and_tells_of_nobody(
    town: Installation, tmp_path: Path
) -> None:
    days = [FIRST + timedelta(days=n) for n in range(3)]
    for day in days:
        published(day)

    # a feeder of four says nothing, nor does its GSP group of them
    assert shown(days[0]) == {
        FEEDERS[0]: (6, ""),
        FEEDERS[1]: (0, "DIFFERENCING"),
        GROUP: (6, ""),
    }
    # nor do five of six on a day when one is silent
    assert shown(days[2]) == {
        FEEDERS[0]: (0, "DIFFERENCING"),
        FEEDERS[1]: (0, "DIFFERENCING"),
        GROUP: (0, "DIFFERENCING"),
    }

    # which people are told as well
    said = run("aggregates", "show", FEEDERS[0], "--day", str(days[0]))
    kwh = sum(wh(mpan, n) for mpan in LARGE for n in range(48)) / 1_000
    assert f"{kwh:.3f}" in said.out and "synthetic" in said.out and GROUP in said.out
    assert FEEDERS[1] not in said.out

    # once: what comes later changes nothing
    again = json.loads(run("aggregates", "publish", "--day", str(FIRST), "--json").out)
    assert {row["when"] for row in again} == {"published before"}

    # in the columns of the distributors, with every half hour of the long local day
    path = tmp_path / "export.csv"
    said = run(
        "aggregates", "export", FEEDERS[0], "--day", str(FIRST), "--days", "3", "--out", str(path)
    )
    assert said.code == 0, said
    with path.open(newline="") as opened, SAMPLE.open(newline="") as sample:
        rows = list(csv.DictReader(opened))
        assert list(rows[0]) == list(csv.DictReader(sample).fieldnames or ())
    assert {row["dataset_id"] for row in rows} == {FEEDERS[0]}
    assert {row["dno_name"] for row in rows} == {"Northern Powergrid (Yorkshire)"}
    found = {}
    for row in rows:
        end = datetime.fromisoformat(row["data_collection_log_timestamp"])
        found[end - HALF_HOUR] = row["total_consumption_active_import"]
    start = interval_of(FIRST).start
    assert found == {
        start + n * HALF_HOUR: f"{sum(wh(mpan, n) for mpan in LARGE)}.0" for n in range(96)
    }
    assert sum(at in LONG_DAY.interval for at in found) == LONG_DAY.periods == 50
    with pytest.raises(Invalid) as refused:
        ingesting.send(path, "north-supply")
    assert refused.value.reason is Reason.FILE_AGGREGATED

    # who is not governance publishes nothing, and a day that is not over is not due
    with pytest.raises(grpc.RpcError) as failed:
        town.as_("bright-advice").aggregates("PublishAggregates", day=str(FIRST))
    assert error_from(failed.value).reason == Reason.ROLE_NOT_ALLOWED
    today = datetime.now(UTC).date().isoformat()
    assert run("aggregates", "publish", "--day", today).reason == Reason.AGGREGATE_NOT_DUE
    assert run("aggregates", "show", "--day", today).reason == Reason.AGGREGATE_UNKNOWN
    assert run("aggregates", "show", "--day", "yesterday").reason == Reason.TIME_INVALID

    # the log says the same
    said = run("aggregates", "check", "--day", str(FIRST), "--json")
    assert said.code == 0, said
    assert {row["verdict"] for row in json.loads(said.out)} == {"SAME"}


def edited(folder: Path, day: date) -> AggregatesPublished:
    """The publication of a day, with 1 Wh less in one half hour of the GSP group."""
    this = context.runtime()
    fold = this.memory_fold(trust.AGGREGATES_TOPIC, 0)
    with (
        closing(this.reader()) as reader,
        evidence(this.stored_fold, folder, reader, this.partitions) as found,
    ):
        for record in reader.read(trust.AGGREGATES_TOPIC, 0, 0):
            fold.apply(record)
        positions = found.positions()
        group = found.groups(day, positions)[GROUP]
    honest = publication(
        before_next(fold.rows, GROUP, group.meters),
        GROUP,
        day,
        group.feeders,
        group.meters,
        meters_min=5,
        made_at=datetime(2024, 11, 1, tzinfo=UTC),
        positions=positions,
    )
    assert [f.group for f in honest.figures] == [GROUP, FEEDERS[0]]
    values = np.frombuffer(honest.figures[0].values, "<i8").copy()
    values[7] -= 1
    changed = replace(honest.figures[0], values=values.tobytes())
    return replace(honest, figures=(changed, honest.figures[1]))


async def append(record: AggregatesPublished) -> int:
    """As the metering coordinator signs and appends."""
    this = context.runtime()
    appender = Appender(this.kafka)
    await appender.start()
    try:
        writer = this.writer(appender, SignerRole.METERING, "metering")
        done = await writer.write(RecordType.READINGS, trust.AGGREGATES_TOPIC, 0, record)
    finally:
        await appender.stop()
    return done.offset


@pytest.mark.usefixtures("town")
def test_a_figure_that_a_coordinator_edited_is_found(tmp_path: Path) -> None:
    day = FIRST + timedelta(days=3)
    offset = asyncio.run(append(edited(tmp_path, day)))
    said = run("aggregates", "check", "--day", str(day), "--json")
    assert said.code == 6, said
    (found,) = json.loads(said.out)
    assert (found["offset"], found["verdict"], found["differs"]) == (offset, "DIFFERENT", GROUP)
