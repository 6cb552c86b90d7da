"""Two clocks on every query, asked of a running installation over the wire and the command line."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from spine.cli import app
from spine.console.client import stamp
from spine.policy import Basis
from tests.e2e.conftest import SINCE, Installation, audit, grant

MPAN = "1900012345916"
OWN: dict[str, Any] = {"mpxn": MPAN, "purpose": "OWN_USE", "basis": Basis.SUBJECT}


@pytest.fixture(scope="module")
def between(spine: Installation) -> datetime:
    """A time at which a consent stood that was revoked afterwards, and a supply that was ended."""
    spine.meter(MPAN, "north-supply")
    robin = spine.occupier(MPAN, "robin")
    consent_id = grant(robin, MPAN, "bright-advice")
    time.sleep(0.05)
    at = datetime.now(UTC)
    time.sleep(0.05)
    robin.consumers("RevokeConsent", consent_id=consent_id, mpxns=[MPAN])
    spine.as_("consent-service").consumers(
        "EndSupply", mpxn=MPAN, supplier="north-supply", effective_to=stamp(datetime.now(UTC))
    )
    return at


def console(*words: str) -> Any:
    """What a command prints with --json."""
    ran = CliRunner().invoke(app, [*words, "--as", "robin", "--basis", "SUBJECT", "--json"])
    assert ran.exit_code == 0, ran.exception
    return json.loads(ran.stdout)


def test_consents_and_tenancies_are_told_as_they_were_known(
    spine: Installation, between: datetime
) -> None:
    robin = spine.as_("robin")
    for known, state in ((None, "REVOKED"), (between, "ACTIVE"), (SINCE, None)):
        clock = {} if known is None else {"as_of_known": stamp(known)}
        answer = robin.dsi("ListConsents", **OWN, **clock)
        assert [c.state for c in answer.consents] == ([state] if state else [])
        tenancies = robin.dsi("ListTenancies", **OWN, **clock).tenancies
        assert len(tenancies) == (1 if state else 0)
    then = robin.dsi("ListConsents", **OWN, as_of_valid=stamp(between)).consents
    assert [c.state for c in then] == ["ACTIVE"]


def test_who_supplied_a_meter_is_told_as_it_was_known(
    spine: Installation, between: datetime
) -> None:
    robin = spine.as_("robin")
    now = robin.dsi("GetMeteringPoint", **OWN).metering_point
    known = robin.dsi("GetMeteringPoint", **OWN, as_of_known=stamp(between)).metering_point
    assert (now.supplier, known.supplier) == ("", "north-supply")


def test_the_command_line_names_both_clocks(spine: Installation, between: datetime) -> None:
    asked = (MPAN, "--purpose", "OWN_USE")
    then = ("--as-of-known", between.isoformat())
    assert console("consent", "show", *asked, *then)[0]["state"] == "ACTIVE"
    assert console("consent", "show", *asked, "--as-of-valid", "2020-01-01") == []
    assert console("meter", "show", *asked, *then)["supplier"] == "north-supply"
    assert console("meter", "show", *asked)["supplier"] == ""
    assert len(console("meter", "tenancies", *asked, *then)) == 1
    assert console("meter", "tenancies", *asked, "--as-of-valid", "2011-01-01") == []
    assert console("assets", "list", *asked, *then) == []


def test_the_audit_gives_every_one_of_these_answers_again(
    spine: Installation, between: datetime, tmp_path: Path
) -> None:
    code, report = audit(spine, tmp_path, "--mpxn", MPAN)
    counts = report["counts"]
    assert code == 0 and counts["SAME"] >= 2
    assert sum(counts.values()) == counts["SAME"]
