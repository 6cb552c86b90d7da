"""The auditor comes last: nothing but the log and the schemas, in a process of its own."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from typer.testing import CliRunner

from spine import trust
from spine.cli import command_line
from spine.console import context
from spine.dsi.v1.dsi_pb2 import Decision
from spine.errors import SpineError
from spine.event import (
    AccessOutcome,
    AccessOutcomes,
    RecordType,
    SignerRole,
)
from spine.log import Appender, LogReader, partition_counts
from spine.policy import Basis
from spine.runtime import Runtime
from spine.supervise import PROCESSES
from spine.verdict import NOTHING
from tests.e2e.conftest import Installation, audit
from tests.helpers.judging import judge

MPAN = "1900012345909"
READS = 12


@pytest.fixture(scope="module", autouse=True)
def casey(spine: Installation) -> list[Decision]:
    """A consumer who looked at the own meter a few times, as a stranger once tried to."""
    spine.meter(MPAN, "north-supply")
    client = spine.occupier(MPAN, "casey")
    asked = {"mpxn": MPAN, "purpose": "OWN_USE", "basis": Basis.SUBJECT}
    decisions = [client.dsi("GetMeteringPoint", **asked).decision for _ in range(READS)]
    with pytest.raises(grpc.RpcError):
        spine.as_("bright-advice").dsi(
            "GetMeteringPoint", mpxn=MPAN, purpose="ENERGY_ADVICE", basis=Basis.CONSENT
        )
    return decisions


@pytest.fixture
def runtime(spine: Installation) -> Runtime:
    return context.runtime()


def test_every_store_that_is_served_is_what_the_log_says(spine: Installation) -> None:
    """While its processes run and move: the watcher that finds edits finds none where none are."""
    compared: dict[str, set[str]] = {}
    served = PROCESSES.keys() - {"ledger"}  # and whoever shared with one of them meanwhile
    deadline = time.monotonic() + 120
    # A store that is being folded again is not compared at this look, but at one of the next.
    while not compared.keys() >= served and time.monotonic() < deadline:
        found = CliRunner().invoke(command_line("drift"), ["drift", "--json"])
        assert found.exit_code == 0, found.output
        looked = json.loads(found.stdout)
        assert {row["verdict"] for row in looked} <= {"SAME", "NOT_COMPARED"}
        for row in looked:
            if row["verdict"] == "SAME":
                compared.setdefault(row["process"], set()).add(row["topic"])
    assert compared.keys() >= served
    assert set().union(*compared.values()) >= {trust.CONSUMER_LOG, *trust.DATA_TOPICS}


def test_every_answer_of_the_run_is_the_same_again(spine: Installation, tmp_path: Path) -> None:
    code, report = audit(spine, tmp_path)
    assert code == 0
    assert report["counts"]["DIFFERENT"] == 0
    untold = [line for line in report["findings"] if line["verdict"] == "CANNOT TELL"]
    assert {(line["method"], line["why"]) for line in untold} <= {("GetPersonalRecord", "erased")}
    assert report["counts"]["SAME"] > 10
    assert all(line["why"] for line in report["findings"]), (
        "whatever is not SAME has to be explained"
    )
    for place in report["partitions"]:
        parts = ("applied", "duplicate", "void", "quarantined", "held", "access")
        assert place["consumed"] == sum(place[part] for part in parts)
        assert (place["void"], place["quarantined"], place["held"]) == (0, 0, 0)


def test_an_independent_calculator_agrees_with_every_decision_of_the_run(runtime: Runtime) -> None:
    count, disagreed = judge(runtime)
    assert disagreed == []
    assert count > READS


def test_a_calculator_that_is_not_told_all_would_disagree(runtime: Runtime) -> None:
    _, disagreed = judge(runtime, {"TenancyStarted"})
    assert len(disagreed) >= READS


def test_several_processes_come_to_the_same(spine: Installation, tmp_path: Path) -> None:
    assert audit(spine, tmp_path, "--all", "--jobs", "2") == audit(spine, tmp_path)


def test_one_entry_is_told_whole(
    spine: Installation, casey: list[Decision], tmp_path: Path
) -> None:
    decision = casey[0]
    place = f"{decision.partition}@{decision.offset}.{decision.entry}"
    for entry in (place, decision.request_id.hex()):
        code, report = audit(spine, tmp_path, entry)
        assert code == 0
        (line,) = report["lines"]
        assert line["place"] == f"consumers.events.v1-{place}"
        assert (line["verdict"], line["mpxn"]) == ("SAME", MPAN)


def test_a_meter_is_audited_alone(
    spine: Installation, casey: list[Decision], tmp_path: Path
) -> None:
    _, report = audit(spine, tmp_path, "--mpxn", MPAN)
    assert report["counts"] == {
        "SAME": READS + 1,
        "DIFFERENT": 0,
        "UNCONFIRMED": 0,
        "CANNOT TELL": 0,
    }


@pytest.mark.parametrize(
    ("entry", "reason"), [("0@999999", "DECISION_UNKNOWN"), ("the first", "FIELD_INVALID")]
)
def test_an_entry_that_is_none_is_said_to_be_none(
    spine: Installation, entry: str, reason: str
) -> None:
    ran = CliRunner().invoke(command_line("audit"), ["audit", entry])
    assert isinstance(ran.exception, SpineError)
    assert ran.exception.reason == reason


def test_a_forged_outcome_is_found(spine: Installation, runtime: Runtime, tmp_path: Path) -> None:
    """The DSI's own key claims, of a read that was refused, that rows were released."""
    reader = runtime.reader()
    refused = next(
        (partition, outcome)
        for partition in range(runtime.partitions)
        for record in reader.read(trust.OUTCOMES_TOPIC, partition, 2)
        for outcome in outcomes(runtime, record.value or b"")
        if outcome.release == "REFUSED"
    )
    reader.close()
    partition, outcome = refused
    forged = replace(outcome, release="RELEASED", decision="PERMIT", reason="", digest=NOTHING)
    asyncio.run(append(runtime, partition, forged))
    code, report = audit(spine, tmp_path)
    assert code == 6
    assert report["counts"]["DIFFERENT"] == 1
    (found,) = [line for line in report["findings"] if line["verdict"] == "DIFFERENT"]
    assert "contradict" in found["why"]


def outcomes(runtime: Runtime, value: bytes) -> tuple[AccessOutcome, ...]:
    decoded = runtime.codec.decode(value)
    return decoded.entries if isinstance(decoded, AccessOutcomes) else ()


async def append(runtime: Runtime, partition: int, outcome: AccessOutcome) -> None:
    appender = Appender(runtime.kafka)
    writer = runtime.writer(appender, SignerRole.DSI, "dsi")
    value = AccessOutcomes(trust.OUTCOMES_TOPIC, partition, "dsi", (outcome,))
    await writer.write(RecordType.OUTCOMES, trust.OUTCOMES_TOPIC, partition, value)
    await appender.stop()


def test_no_name_contact_or_notice_stands_in_the_log(spine: Installation, runtime: Runtime) -> None:
    reader = LogReader(runtime.kafka)
    records = 0
    for topic, count in partition_counts(runtime.partitions).items():
        for partition in range(count):
            for record in reader.read(topic, partition, 0):
                records += 1
                everything = (record.key or b"") + (record.value or b"")
                everything += b"".join(value for _, value in record.headers)
                assert b"Marker-Name" not in everything
                assert b"marker-contact" not in everything
    reader.close()
    assert records > 100


def test_no_meter_number_stands_in_a_log_line(spine: Installation) -> None:
    for file in (spine.data_dir / "logs").glob("*.log"):
        assert "2000027391990" not in file.read_text(errors="replace")
