"""One whole installation for all end-to-end tests, as `spine up` runs it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from spine.config import Settings
from spine.console import context
from spine.console.client import Client, stamp
from spine.console.context import CONSENT_SERVICE, OPERATOR
from spine.console.parties import issue
from spine.console.processes import running
from spine.ingest import IngestReport
from spine.policy import Role
from spine.runtime import LOG_FILE
from spine.supervise import Supervisor

SINCE = datetime(2012, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Installation:
    """A running installation and its people."""

    data_dir: Path
    supervisor: Supervisor
    tenancies: dict[str, str] = field(default_factory=dict)
    references: dict[str, str] = field(default_factory=dict)

    def as_(self, alias: str) -> Client:
        """The calls of one identity."""
        return Client(self.data_dir, alias)

    def party(self, party: str, role: Role) -> Client:
        """An organisation, admitted and accredited."""
        board = self.as_(OPERATOR)
        board.governance("AdmitParticipant", party=party, name=party)
        start = stamp(datetime.now(UTC) - timedelta(minutes=1))
        terms = {"party": party, "role": role, "scheme": "DSI", "tier": "1"}
        board.governance("GrantAccreditation", effective_from=start, **terms)
        issue(self.data_dir, role, party)
        return self.as_(party)

    def meter(self, mpxn: str, supplier: str) -> None:
        """A registered meter, supplied since 2012."""
        start = stamp(SINCE)
        supplied = {"mpxn": mpxn, "supplier": supplier, "effective_from": start}
        self.as_(CONSENT_SERVICE).consumers("StartSupply", **supplied)
        self.as_(supplier).metering("RegisterMeteringPoint", mpxn=mpxn, registered_from=start)

    def occupier(self, mpxn: str, alias: str, person: dict[str, str] | None = None) -> Client:
        """A consumer who lives there since 2012."""
        answer = self.as_(CONSENT_SERVICE).consumers(
            "StartTenancy", mpxn=mpxn, effective_from=stamp(SINCE), person=person or {}
        )
        issue(self.data_dir, Role.CONSUMER, answer.consumer_ref, alias)
        self.tenancies[alias] = answer.tenancy_id
        self.references[alias] = answer.consumer_ref
        return self.as_(alias)


def advice_terms() -> dict[str, Any]:
    """Of a consent to energy advice from half hours, for a month from now on."""
    now = datetime.now(UTC)
    return {
        "purpose": "ENERGY_ADVICE",
        "categories": ["HH_CONSUMPTION"],
        "history_from": stamp(SINCE),
        "valid_from": stamp(now - timedelta(seconds=1)),
        "expires": stamp(now + timedelta(days=30)),
    }


def grant(consumer: Client, mpxn: str, data_user: str, **more: Any) -> str:
    """The occupier allows energy advice from its half hours; the consent id."""
    fields: dict[str, Any] = {"mpxns": [mpxn], "data_user": data_user}
    fields |= {"terms": advice_terms(), **more}
    answer = consumer.consumers("GrantConsent", **fields)
    (leg,) = answer.legs
    assert leg.state == "ACTIVE"
    return str(answer.consent_id)


def as_of(sent: IngestReport) -> dict[str, Any]:
    """The token by which a read sees what was sent: who folds it does so in its own time."""
    return {"log_id": sent.log_id, "positions": [asdict(each) for each in sent.positions]}


# Runs the command and shows that neither Faust nor a store of the installation was used.
# After `make fault` there are some ten thousand reads, and the machine may be a busy one.
AUDIT_S = 600
AUDIT = """
import sys
from spine import cli
sys.argv = ["spine", "audit", *sys.argv[1:], "--json"]
try:
    cli.main()
finally:
    assert "faust" not in sys.modules
"""


def audit(spine: Installation, tmp_path: Path, *asked: str) -> tuple[int, dict[str, Any]]:
    """Exit code and report of an audit that has the log's identity and nothing else."""
    home = tmp_path / "auditor"
    home.mkdir(exist_ok=True)
    shutil.copy(spine.data_dir / LOG_FILE, home / LOG_FILE)
    bootstrap = context.kafka().bootstrap
    environment = {"SPINE_DATA_DIR": str(home), "SPINE_KAFKA_BOOTSTRAP": bootstrap}
    done = subprocess.run(
        [sys.executable, "-c", AUDIT, *(asked or ("--all",))],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=AUDIT_S,
        check=False,
    )
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


@pytest.fixture(scope="package")
def spine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """Everything up, kept up, with a supplier and an adviser."""
    chosen = Settings(data_dir=tmp_path_factory.mktemp("installation"))
    context.use(chosen)
    stop = threading.Event()
    with running(chosen) as supervisor:
        keeper = threading.Thread(target=supervisor.run, args=(stop.is_set,))
        keeper.start()
        installation = Installation(chosen.data_dir, supervisor)
        installation.party("north-supply", Role.SUPPLIER)
        installation.party("bright-advice", Role.DATA_USER)
        try:
            yield installation
        finally:
            stop.set()
            keeper.join()
