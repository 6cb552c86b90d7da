"""Faults of one broker that take their time: every failpoint, cut links, lost stores, old backups.

No part of `make test`: `make fault` names this file.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from spine.console import context
from spine.console.client import interval
from spine.consumers.v1 import consumers_pb2, consumers_pb2_grpc
from spine.embedded import free_port
from spine.policy import Basis
from spine.server import connect_sync, error_from
from spine.whereabouts import service_target
from tests.e2e.conftest import audit
from tests.fault.checkers import unbalanced, unexplained
from tests.fault.digests import same_again
from tests.fault.failpoints import (
    GIVEN,
    GIVEN_AND_REVOKED,
    OF_COORDINATORS,
    OF_FOLDS,
    OF_READS,
    dies_at,
    effects_of,
    grant,
    insist,
    revoke,
    whole_job,
)
from tests.fault.installation import ADVISER, Faulty
from tests.fault.nemesis import await_successor, frozen, kill_broker, kills, restart
from tests.fault.proxy import Proxy
from tests.fault.race import DAY, Meter
from tests.helpers.judging import judge

pytestmark = pytest.mark.timeout(300)
TERMS: dict[str, Any] = {
    "purpose": "ENERGY_ADVICE",
    "basis": Basis.CONSENT,
    "interval": interval(*DAY),
}
PROCESSES_WITH_STORES = ("governance", "consumers", "metering", "readings", "dsi")


@pytest.mark.parametrize(("point", "name"), OF_COORDINATORS)
def test_a_coordinator_that_dies_around_its_append_does_the_command_once(
    spine: Faulty, meters: list[Meter], tmp_path: Path, point: str, name: str
) -> None:
    dies_at(spine, name, point, meters[0], tmp_path)


@pytest.mark.parametrize(("point", "name"), OF_FOLDS)
def test_a_fold_that_dies_at_any_point_is_what_a_replay_makes_of_it(
    spine: Faulty, meters: list[Meter], tmp_path: Path, point: str, name: str
) -> None:
    dies_at(spine, name, point, meters[1], tmp_path)


@pytest.mark.parametrize(("point", "name"), OF_READS)
def test_a_server_that_dies_in_a_read_releases_nothing_that_was_revoked(
    spine: Faulty, meters: list[Meter], tmp_path: Path, point: str, name: str
) -> None:
    dies_at(spine, name, point, meters[2], tmp_path)


def data_or_status(spine: Faulty, meter: Meter, timeout_s: float = 4.0) -> str:
    """What one read comes to: DATA, or the status it was refused with."""
    from spine.dsi.v1 import dsi_pb2, dsi_pb2_grpc

    request = dsi_pb2.GetReadingsRequest(mpxn=meter.mpxn, **TERMS)
    target = service_target(spine.data_dir, "dsi")
    with connect_sync(target, spine.data_dir / "identities" / ADVISER) as channel:
        try:
            dsi_pb2_grpc.DsiStub(channel).GetReadings(request, timeout=timeout_s)
        except grpc.RpcError as error:
            return error_from(error).code
    return "DATA"


@pytest.mark.parametrize("how", ["silent", "cut"])
def test_a_server_that_cannot_reach_its_broker_answers_nobody(
    spine: Faulty, meters: list[Meter], how: str
) -> None:
    """The others can: what is revoked meanwhile is revoked for this server too."""
    meter = meters[0]
    occupier = spine.as_(meter.occupier)
    consent_id = grant(occupier, meter)
    insist(lambda: list(spine.as_(ADVISER).readings(meter.mpxn, **TERMS)))
    (broker,) = spine.cluster.brokers
    try:
        if how == "silent":
            broker.proxy.silent = True
        else:
            broker.proxy.cut()
        revoke(occupier, meter, consent_id)
        answers = {data_or_status(spine, meter) for _ in range(5)}
        assert answers <= {"UNAVAILABLE", "DEADLINE_EXCEEDED"}
    finally:
        broker.proxy.mend()
    with pytest.raises(grpc.RpcError) as refused:
        insist_on_an_answer(spine, meter)
    assert error_from(refused.value).reason == "CONSENT_REVOKED"


def insist_on_an_answer(spine: Faulty, meter: Meter) -> None:
    """Read until the server answers at all, and give what it says."""
    deadline = time.monotonic() + 60
    while True:
        try:
            list(spine.as_(ADVISER).readings(meter.mpxn, **TERMS))
        except grpc.RpcError as error:
            away = error_from(error).code in ("UNAVAILABLE", "DEADLINE_EXCEEDED")
            if not away or time.monotonic() > deadline:
                raise
            time.sleep(0.2)
        else:
            raise AssertionError("data after the revocation")


def test_a_revocation_whose_answer_was_lost_is_sent_again_and_happens_once(
    spine: Faulty, meters: list[Meter]
) -> None:
    meter = meters[1]
    consent_id = grant(spine.as_(meter.occupier), meter)
    port = int(service_target(spine.data_dir, "consumers").rpartition(":")[2])
    request = consumers_pb2.RevokeConsentRequest(
        consent_id=consent_id, mpxns=[meter.mpxn], idempotency_key=f"lost-{consent_id}"
    )
    identity = spine.data_dir / "identities" / meter.occupier
    with Proxy(free_port(), port) as proxy:
        with connect_sync(f"127.0.0.1:{proxy.port}", identity) as channel:
            stub = consumers_pb2_grpc.ConsumersStub(channel)
            grpc.channel_ready_future(channel).result(10)
            proxy.mute = True
            with pytest.raises(grpc.RpcError) as lost:
                stub.RevokeConsent(request, timeout=3)
            assert error_from(lost.value).code == "DEADLINE_EXCEEDED"
            proxy.cut()
        with connect_sync(f"127.0.0.1:{port}", identity) as channel:
            answer = consumers_pb2_grpc.ConsumersStub(channel).RevokeConsent(request, timeout=10)
    assert answer.replayed
    assert effects_of(consent_id) == GIVEN_AND_REVOKED


@pytest.mark.parametrize("name", ["dsi", "consumers", "readings"])
def test_a_process_that_was_stopped_for_longer_than_its_session_does_no_harm(
    spine: Faulty, meters: list[Meter], tmp_path: Path, name: str
) -> None:
    """Its group has given it up when it goes on: what it answers then is fenced all the same."""
    with frozen(spine.supervisor.children[name].process.pid):
        time.sleep(9.0)
    consent_id = whole_job(spine, meters[3], tmp_path)
    assert effects_of(consent_id) == GIVEN_AND_REVOKED
    assert same_again(context.runtime(), name) == []


def test_processes_that_come_and_go_all_the_time_still_get_the_job_done(
    spine: Faulty, meters: list[Meter], tmp_path: Path
) -> None:
    for name in ("dsi", "readings", "dsi", "consumers", "dsi"):
        restart(spine, name)
        whole_job(spine, meters[0], tmp_path)
    for name in ("dsi", "readings", "consumers"):
        assert same_again(context.runtime(), name) == []


def test_a_killed_broker_comes_back_with_all_it_acknowledged(
    spine: Faulty, meters: list[Meter], tmp_path: Path
) -> None:
    (broker,) = spine.cluster.brokers
    consents = [grant(spine.as_(meters[1].occupier), meters[1]) for _ in range(5)]
    kill_broker(broker)
    broker.start()
    for consent_id in consents:
        revoke(spine.as_(meters[1].occupier), meters[1], consent_id)
        assert effects_of(consent_id) == GIVEN_AND_REVOKED
    whole_job(spine, meters[1], tmp_path)


@contextlib.contextmanager
def everything_down(spine: Faulty) -> Iterator[None]:
    """No process and no broker runs within; all do afterwards."""
    (broker,) = spine.cluster.brokers
    supervisor = spine.supervisor
    before = {name: child.process.pid for name, child in supervisor.children.items()}
    with supervisor.held():
        broker.stop()
        yield
        broker.start()
    for name, pid in before.items():
        await_successor(spine, name, pid)


def test_all_is_stopped_all_stores_are_lost_and_the_log_brings_everything_back(
    spine: Faulty, meters: list[Meter], tmp_path: Path
) -> None:
    with everything_down(spine):
        shutil.rmtree(spine.data_dir / "stores")
    for name in ("dsi", "consumers", "readings"):
        assert same_again(context.runtime(), name) == []
    whole_job(spine, meters[0], tmp_path)


def test_the_audit_after_all_of_it(spine: Faulty, tmp_path: Path) -> None:
    code, report = audit(spine, tmp_path)
    assert code == 0
    assert unbalanced(report) == []
    assert unexplained(report, kills) == []
    _, disagreed = judge(context.runtime())
    assert disagreed == []


def test_an_older_kafka_folder_under_newer_stores_is_folded_anew(
    spine: Faulty, meters: list[Meter], tmp_path: Path
) -> None:
    """A backup of the broker's folder comes back: the stores know more than the log, and yield."""
    (broker,) = spine.cluster.brokers
    backup = tmp_path / "backup"
    with everything_down(spine):
        shutil.copytree(broker.folder / "log", backup)
    lost = grant(spine.as_(meters[0].occupier), meters[0])
    assert effects_of(lost) == GIVEN
    with everything_down(spine):
        shutil.rmtree(broker.folder / "log")
        shutil.copytree(backup, broker.folder / "log")
    assert effects_of(lost) == {}
    for name in ("dsi", "consumers", "readings"):
        assert same_again(context.runtime(), name) == []
    assert data_or_status(spine, meters[0]) == "PERMISSION_DENIED"
    whole_job(spine, meters[0], tmp_path)


def test_a_new_kafka_folder_under_kept_stores_is_refused(spine: Faulty, tmp_path: Path) -> None:
    """Another, empty cluster is not the log of this installation: no process answers from it."""
    (broker,) = spine.cluster.brokers
    aside = tmp_path / "aside"
    supervisor = spine.supervisor
    with supervisor.held():
        broker.stop()
        shutil.move(broker.folder / "log", aside)
        broker.start()
    time.sleep(8)
    try:
        for name in PROCESSES_WITH_STORES:
            assert not listens(spine, name)
    finally:
        with supervisor.held():
            broker.stop()
            shutil.rmtree(broker.folder / "log")
            shutil.move(aside, broker.folder / "log")
            broker.start()


def listens(spine: Faulty, name: str) -> bool:
    host, _, port = service_target(spine.data_dir, name).rpartition(":")
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((host, int(port))) == 0
