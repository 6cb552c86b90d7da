"""A process dies at a named point in the middle of the whole job, and the job is done all the same.

Every call of the job is repeated under its key until it is acknowledged. Afterwards each command
has had exactly one effect, the stores are what a replay makes of them, and the audit agrees.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any, Final, TypeVar
from uuid import uuid4

import grpc

from domains.consumers.events import ConsentGranted, ConsentRevoked, ConsentTermsRecorded
from spine import trust
from spine.console import context, ingesting
from spine.console.client import Client, interval, stamp
from spine.event import LogRecord
from spine.policy import Basis
from spine.rows import Applied
from spine.server import error_from
from tests.fault.digests import same_again
from tests.fault.installation import ADVISER, COLUMNS, SUPPLIER, Faulty
from tests.fault.nemesis import await_successor, kills
from tests.fault.race import DAY, HISTORY_FROM, Meter

T = TypeVar("T")
PATIENCE_S: Final = 60.0
# What one grant leaves in the log, each once, and what its revocation adds.
GIVEN: Final = {ConsentGranted: 1, ConsentTermsRecorded: 1}
GIVEN_AND_REVOKED: Final = GIVEN | {ConsentRevoked: 1}
# Of the coordinator (F01), of every kind of fold (F02), of a server in the midst of a read (F03).
OF_COORDINATORS: Final = [
    ("append.before", "consumers"),
    ("append.after-send", "consumers"),
    ("append.after-ack", "consumers"),
]
OF_FOLDS: Final = [
    ("fold.before", "consumers"),
    ("fold.before-commit", "consumers"),
    ("fold.after-commit", "consumers"),
    ("fold.after", "dsi"),
    ("fold.before-commit", "readings"),
    ("fold.after-commit", "readings"),
    ("recover.before-commit", "dsi"),
    ("recover.after-commit", "readings"),
]
OF_READS: Final = [
    ("append.after-send", "dsi"),
    ("append.after-ack", "dsi"),
    ("read.before-answer", "dsi"),
    ("read.before-outcome", "dsi"),
    ("read.after-outcome", "dsi"),
]
_values = count(100)


def insist(call: Callable[[], T]) -> T:
    """Repeat a call until it succeeds; the last failure if it never does."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return call()
        except grpc.RpcError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def whole_job(spine: Faulty, meter: Meter, folder: Path) -> str:
    """Grant, new readings, a read that sees them, revoke, a read that is refused; the consent."""
    occupier, adviser = spine.as_(meter.occupier), spine.as_(ADVISER)
    consent_id = grant(occupier, meter)
    wh = next(_values)
    file = folder / "job.csv"
    file.write_text(f"{COLUMNS}\nMAC000001,Std,2024-07-01 12:00:00,{wh / 1000:.3f},A,A\n")
    report = insist(lambda: ingesting.send(file, SUPPLIER, mpxn=meter.mpxn))
    places = [
        {"topic": p.topic, "partition": p.partition, "offset": p.offset} for p in report.positions
    ]
    seen = {"log_id": report.log_id, "positions": places}
    terms: dict[str, Any] = {"purpose": "ENERGY_ADVICE", "basis": Basis.CONSENT}
    terms["interval"] = interval(*DAY)
    (page,) = insist(lambda: list(adviser.readings(meter.mpxn, at_least=seen, **terms)))
    assert page.rows[24].value_wh == wh
    revoke(occupier, meter, consent_id)
    assert refusal(adviser, meter, terms) == "CONSENT_REVOKED"
    return consent_id


def grant(occupier: Client, meter: Meter) -> str:
    """The occupier's consent to energy advice, under one key until it is acknowledged."""
    now, key = datetime.now(UTC), uuid4().hex
    terms = {
        "purpose": "ENERGY_ADVICE",
        "categories": ["HH_CONSUMPTION"],
        "history_from": stamp(HISTORY_FROM),
        "valid_from": stamp(now - timedelta(seconds=1)),
        "expires": stamp(now + timedelta(days=30)),
    }
    fields = {"mpxns": [meter.mpxn], "data_user": ADVISER, "terms": terms}
    answer = insist(lambda: occupier.consumers("GrantConsent", idempotency_key=key, **fields))
    return str(answer.consent_id)


def revoke(occupier: Client, meter: Meter, consent_id: str) -> None:
    """The consent is taken back, under one key until that is acknowledged."""
    fields = {"consent_id": consent_id, "mpxns": [meter.mpxn], "idempotency_key": uuid4().hex}
    insist(lambda: occupier.consumers("RevokeConsent", **fields))


def refusal(adviser: Client, meter: Meter, terms: dict[str, Any]) -> str:
    """Why a read is refused, once the server answers at all; it may never be answered with data."""

    def read() -> str:
        try:
            pages = list(adviser.readings(meter.mpxn, **terms))
        except grpc.RpcError as error:
            told = error_from(error)
            if told.code != "PERMISSION_DENIED":
                raise
            return str(told.reason)
        raise AssertionError(f"{len(pages)} pages after the revocation")

    return insist(read)


def arm(spine: Faulty, name: str, point: str) -> subprocess.Popen[bytes]:
    """Start a process afresh with a failpoint armed, its successors without; who is to die."""
    children = spine.supervisor.children
    before = children[name].process
    spine.supervisor.armed[name] = point
    if point.startswith("recover"):
        shutil.rmtree(spine.data_dir / "stores" / name, ignore_errors=True)
    os.kill(before.pid, signal.SIGKILL)
    kills.append(time.time())
    deadline = time.monotonic() + PATIENCE_S
    while children[name].process is before:
        assert time.monotonic() < deadline, f"{name} was not started again"
        time.sleep(0.02)
    del spine.supervisor.armed[name]
    return children[name].process


def dies_at(spine: Faulty, name: str, point: str, meter: Meter, folder: Path) -> None:
    """The whole job while a process dies at a point on the way; then everything is as it must."""
    victim = arm(spine, name, point)
    if not point.startswith("recover"):
        insist_it_answers(spine, name, victim)
    consent_id = whole_job(spine, meter, folder)
    assert victim.wait(PATIENCE_S) == -signal.SIGKILL, f"{name} never came by {point}"
    kills.append(time.time())
    await_successor(spine, name, victim.pid)
    runtime = context.runtime()
    assert same_again(runtime, name) == []
    effects = effects_of(consent_id)
    assert effects == GIVEN_AND_REVOKED, effects


def insist_it_answers(spine: Faulty, name: str, process: subprocess.Popen[bytes]) -> None:
    """Wait until the armed process answers, or has died of what it caught up with."""
    deadline = time.monotonic() + PATIENCE_S
    while process.poll() is None and not spine.supervisor.answers(name):
        assert time.monotonic() < deadline, f"{name} does not answer"
        time.sleep(0.05)


def effects_of(consent_id: str) -> Counter[type]:
    """How often a replay of the consumer log applies each event of a consent."""
    runtime = context.runtime()
    reader = runtime.reader()
    found: Counter[type] = Counter()

    def note(_: LogRecord, applied: Applied) -> None:
        events = (event for _, event in applied.events)
        found.update(type(e) for e in events if getattr(e, "consent_id", "") == consent_id)

    with tempfile.TemporaryDirectory(prefix="spine-effects-") as folder:
        for partition in range(runtime.partitions):
            fold = runtime.stored_fold(Path(folder), trust.CONSUMER_LOG, partition)
            fold.catch_up(reader, on_record=note)
            fold.close()
    reader.close()
    return found


def in_background(work: Callable[[], object]) -> threading.Thread:
    """Started beside the test, which must join it."""
    thread = threading.Thread(target=work)
    thread.start()
    return thread
