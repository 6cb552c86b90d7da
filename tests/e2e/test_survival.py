"""Any one process, the broker included, is killed; everything comes back without a hand's help."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest

from spine.console import context, ingesting
from spine.console.client import Client, interval
from spine.policy import Basis
from spine.supervise import PROCESSES
from tests.e2e.conftest import Installation, as_of, audit, grant
from tests.helpers.servers import until

MPAN = "1600000000010"
TIMEOUT_S = 60.0
COLUMNS = "LCLid,stdorToU,DateTime,KWH/hh,Acorn,Acorn_grouped"
values = count(100)
DAY = (datetime(2024, 7, 1, tzinfo=UTC), datetime(2024, 7, 2, tzinfo=UTC))


@pytest.fixture(scope="module")
def occupier(spine: Installation) -> Client:
    spine.meter(MPAN, "north-supply")
    return spine.occupier(MPAN, "survivor")


def eventually(what: str, attempt: Callable[[], object]) -> None:
    """Try until it works; the last failure if it never does."""
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        try:
            attempt()
        except grpc.RpcError:
            if time.monotonic() > deadline:
                raise AssertionError(f"{what} did not come back") from None
            time.sleep(0.2)
        else:
            return


def whole_job(spine: Installation, occupier: Client, file: Path) -> None:
    """A command to every coordinator, new readings, and a read that sees them: all must work."""
    wh = next(values)
    file.write_text(f"{COLUMNS}\nMAC000001,Std,2024-07-01 12:00:00,{wh / 1000:.3f},A,A\n")
    report = ingesting.send(file, "north-supply", mpxn=MPAN)
    consent_id = grant(occupier, MPAN, "bright-advice")
    terms = {"purpose": "ENERGY_ADVICE", "basis": Basis.CONSENT, "interval": interval(*DAY)}
    (page,) = spine.as_("bright-advice").readings(MPAN, at_least=as_of(report), **terms)
    assert page.rows[24].value_wh == wh
    occupier.consumers("RevokeConsent", consent_id=consent_id, mpxns=[MPAN])
    spine.as_("north-supply").metering(
        "RegisterMeteringPoint",
        mpxn=MPAN,
        registered_from=datetime(2012, 1, 1, tzinfo=UTC),
    )
    spine.as_("governance-board").governance("ListParticipants")


@pytest.mark.parametrize("name", PROCESSES)
def test_a_killed_process_comes_back(
    spine: Installation, occupier: Client, name: str, tmp_path: Path
) -> None:
    killed = spine.supervisor.children[name].process
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait(10)
    eventually(name, lambda: whole_job(spine, occupier, tmp_path / "readings.csv"))
    # Nothing in that job may have needed the process: it can be over before the supervisor looks.
    until("started again", lambda: spine.supervisor.children[name].process.pid != killed.pid)


def test_a_dsi_killed_under_load_leaves_every_decision_to_be_found(
    spine: Installation, occupier: Client, tmp_path: Path
) -> None:
    """Killed between append and answer: the decision stands in the log, its outcome is missing."""
    consent_id = grant(occupier, MPAN, "bright-advice")
    adviser = spine.as_("bright-advice")
    terms = {"purpose": "ENERGY_ADVICE", "basis": Basis.CONSENT, "interval": interval(*DAY)}
    for _ in range(20):
        readers = [
            threading.Thread(target=read_until_it_fails, args=(adviser, terms)) for _ in range(8)
        ]
        for reader in readers:
            reader.start()
        time.sleep(0.7)
        os.kill(spine.supervisor.children["dsi"].process.pid, signal.SIGKILL)
        for reader in readers:
            reader.join(30)
        eventually("dsi", lambda: list(adviser.readings(MPAN, **terms)))
        code, report = audit(spine, tmp_path)
        assert code == 0
        if report["counts"]["UNCONFIRMED"]:
            break
    occupier.consumers("RevokeConsent", consent_id=consent_id, mpxns=[MPAN])
    assert report["counts"]["UNCONFIRMED"] > 0
    assert report["counts"]["DIFFERENT"] == 0
    assert all(line["why"] for line in report["findings"])


def read_until_it_fails(adviser: Client, terms: dict[str, Any]) -> None:
    with contextlib.suppress(grpc.RpcError):
        while True:
            list(adviser.readings(MPAN, **terms))


def test_a_second_process_of_a_name_is_refused_and_harms_nothing(
    spine: Installation, occupier: Client, tmp_path: Path
) -> None:
    environment = os.environ | {
        "SPINE_DATA_DIR": str(spine.data_dir),
        "SPINE_KAFKA_BOOTSTRAP": context.kafka().bootstrap,
    }
    second = subprocess.run(
        [sys.executable, "-m", "spine", "coordinator", "metering"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert second.returncode == 5
    assert "STARTING" in second.stderr
    whole_job(spine, occupier, tmp_path / "readings.csv")


def test_a_killed_broker_comes_back(spine: Installation, occupier: Client, tmp_path: Path) -> None:
    (broker,) = (
        child
        for child in psutil.Process().children(recursive=True)
        if "kafka.Kafka" in child.cmdline() and str(spine.data_dir) in " ".join(child.cmdline())
    )
    broker.kill()
    broker.wait(10)
    eventually("kafka", lambda: whole_job(spine, occupier, tmp_path / "readings.csv"))
