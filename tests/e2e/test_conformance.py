"""The consent side and the data side of an installation are one trust, layer by layer."""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from typer.testing import CliRunner

from spine.cli import command_line
from spine.console.client import stamp
from spine.console.context import CONSENT_SERVICE, OPERATOR
from spine.console.output import EXIT_DIFFERENT
from spine.console.parties import issue
from spine.errors import Reason
from spine.policy import Role
from spine.server import error_from
from tests.e2e.conftest import SINCE, Installation, grant

MPAN, SECOND = "1900012346018", "1900012346027"
BY_ROW, NO_ROW, MEMBER, SUSPENDED = "conf-row", "conf-none", "conf-member", "conf-suspended"
COLUMNS = "from_scheme,from_tier,from_purpose,to_scheme,to_tier,to_purpose"
ROW = "CCS,2,ENERGY_ADVICE,DSI,1,ENERGY_ADVICE"


@pytest.fixture(scope="module")
def trusted(spine: Installation) -> Installation:
    """Data users of two schemes, one of them suspended, and a home to try consents on."""
    board = spine.as_(OPERATOR)
    start = stamp(datetime.now(UTC) - timedelta(minutes=1))
    for party, scheme, tier in (
        (BY_ROW, "CCS", "2"),
        (NO_ROW, "CCS", "1"),
        (MEMBER, "DSI", "1"),
        (SUSPENDED, "DSI", "1"),
    ):
        board.governance("AdmitParticipant", party=party, name=party)
        terms = {"role": "data_user", "scheme": scheme, "tier": tier, "effective_from": start}
        board.governance("GrantAccreditation", party=party, purposes=["ENERGY_ADVICE"], **terms)
        issue(spine.data_dir, Role.DATA_USER, party)
    board.governance("SuspendParticipant", party=SUSPENDED, reason="INQUIRY")
    spine.meter(MPAN, "north-supply")
    spine.occupier(MPAN, "conf-home")
    spine.as_(CONSENT_SERVICE).consumers(
        "StartTenancy",
        mpxn=SECOND,
        tenancy_id=spine.tenancies["conf-home"],
        consumer_ref=spine.references["conf-home"],
        effective_from=stamp(SINCE),
    )
    return spine


def run(*words: str) -> tuple[int, Any]:
    found = CliRunner().invoke(command_line(words[0]), [*words, "--json"])
    assert found.stdout, found.output
    return found.exit_code, json.loads(found.stdout)


def adopt(tmp_path: Path, spine: Installation, *rows: str) -> None:
    """The next version of the table, from a file."""
    version = spine.as_(OPERATOR).governance("GetEquivalenceTable").table.version + 1
    path = tmp_path / "table.csv"
    path.write_text("\n".join((COLUMNS, *rows, "")))
    code, _ = run("equivalence", "adopt", str(path), "--version", str(version))
    assert code == 0
    _, shown = run("equivalence", "show")
    assert [",".join(row.values()) for row in shown] == list(rows)


def refusal(spine: Installation, party: str) -> str:
    """Why a read of that party's is refused; empty if it passes."""
    asked = {"mpxn": MPAN, "purpose": "ENERGY_ADVICE", "basis": "CONSENT"}
    try:
        spine.as_(party).dsi("GetMeteringPoint", **asked)
    except grpc.RpcError as error:
        return error_from(error).reason
    return ""


def test_a_row_opens_and_its_absence_shuts_what_another_scheme_accredited(
    trusted: Installation, tmp_path: Path
) -> None:
    home = trusted.as_("conf-home")
    for party in (BY_ROW, NO_ROW, MEMBER):
        grant(home, MPAN, party)
    adopt(tmp_path, trusted)
    no_row = Reason.ACCREDITATION_NOT_EQUIVALENT
    assert [refusal(trusted, p) for p in (BY_ROW, NO_ROW, MEMBER)] == [no_row, no_row, ""]
    adopt(tmp_path, trusted, ROW)
    assert [refusal(trusted, p) for p in (BY_ROW, NO_ROW, MEMBER)] == ["", no_row, ""]


def test_a_token_is_good_at_both_sides_until_its_consent_is_revoked(
    trusted: Installation, tmp_path: Path
) -> None:
    home = trusted.as_("conf-home")
    consent = grant(home, MPAN, BY_ROW)
    kept = tmp_path / "token.txt"
    issued = CliRunner().invoke(
        command_line("token"), ["token", "issue", consent, MPAN, "--as", BY_ROW]
    )
    kept.write_text(issued.stdout)
    good = {"valid": True, "reason": ""}
    assert run("token", "check", str(kept), "--as", BY_ROW) == (0, {"consumers": good, "dsi": good})
    for alias in (MEMBER, "north-supply"):
        code, said = run("token", "check", str(kept), "--as", alias)
        assert code == EXIT_DIFFERENT
        assert {one["reason"] for one in said.values()} == {Reason.NOT_PERMITTED}
    home.consumers("RevokeConsent", consent_id=consent, mpxns=[MPAN])
    code, said = run("token", "check", str(kept), "--as", BY_ROW)
    assert code == EXIT_DIFFERENT
    assert {one["reason"] for one in said.values()} == {Reason.CONSENT_REVOKED}
    again = CliRunner().invoke(
        command_line("token"), ["token", "issue", consent, MPAN, "--as", BY_ROW]
    )
    assert isinstance(again.exception, grpc.RpcError)
    assert error_from(again.exception).reason == Reason.CONSENT_REVOKED


def test_both_sides_pass_every_check(trusted: Installation, tmp_path: Path) -> None:
    adopt(tmp_path, trusted, ROW)
    home = ("--mpxn", MPAN, "--other-mpxn", SECOND, "--consumer", "conf-home")
    sandbox = (*home, "--data-user", BY_ROW)
    code, report = run("conformance", *sandbox, "--stranger", MEMBER)
    wrong = [one for one in report["checks"] if one["verdict"] != "PASS"]
    assert (code, wrong) == (0, [])
    code, report = run("conformance")
    assert code == 0 and report["counts"]["FAIL"] == 0
    assert report["counts"] == Counter(one["verdict"] for one in report["checks"]) | {"FAIL": 0}
    assert report["counts"]["NOT RUN"] > 0
