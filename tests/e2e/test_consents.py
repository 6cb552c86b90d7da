"""A consumer asks what a consent would open, gives it, keeps the receipt, and takes it back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import grpc
import pytest
from typer.testing import CliRunner

from spine import trust
from spine.cli import command_line
from spine.console.client import stamp
from spine.console.context import CONSENT_SERVICE
from spine.console.output import EXIT_DIFFERENT
from spine.policy import Basis
from spine.server import error_from
from tests.e2e.conftest import SINCE, Installation, advice_terms

MPAN = "1900012345952"
TWO = ("1900012346131", "1900012346140")
TERMS = ("--data-user", "bright-advice", "--purpose", "ENERGY_ADVICE")
AS_LINNET = ("--basis", "SUBJECT", "--as", "linnet")
DATES = ("--history-from", "2024-01-01", "--expires", "2030-01-01")


def run(*words: str | Path, code: int = 0) -> str:
    ran = CliRunner().invoke(command_line(str(words[0])), [str(word) for word in words])
    assert ran.exit_code == code, (ran.output, ran.exception)
    return ran.output


def said(*words: str | Path, code: int = 0) -> Any:
    return json.loads(run(*words, "--json", code=code))


@pytest.fixture(scope="module")
def occupied(spine: Installation) -> str:
    """A meter at which linnet lives."""
    spine.meter(MPAN, "north-supply")
    spine.occupier(MPAN, "linnet")
    return MPAN


def test_a_consumer_asks_first_and_keeps_the_receipts(occupied: str, tmp_path: Path) -> None:
    own = ("--as", "linnet")
    asked = said("consent", "grant", occupied, *TERMS, *DATES, *own, "--dry-run")
    assert [(c["would"], c["category"]) for c in asked["changes"]] == [
        ("open", "HH_CONSUMPTION"),
        ("open", "METERING_POINT"),
    ]
    assert asked["legs"] == {occupied: "ACTIVE"}
    assert asked["changes"][0]["metered"].endswith(" to open")
    granted = said("consent", "grant", occupied, *TERMS, *DATES, *own, "--receipts", tmp_path)
    assert granted["legs"][0]["state"] == "ACTIVE"
    consent_id = granted["consent_id"]
    tried = run("consent", "revoke", consent_id, occupied, *own, "--dry-run")
    assert "nothing was written" in tried and "would be: REVOKED" in tried and "shut" in tried
    later = ("--expires", "2029-01-01")
    narrowed = run("consent", "narrow", consent_id, occupied, *later, *own, "--dry-run")
    assert "2029-01-01T00:00:00Z to 2030-01-01T00:00:00Z" in narrowed
    same = run("consent", "narrow", consent_id, occupied, *own, "--dry-run")
    assert "nothing that can be read now or later would change" in same
    revoked = said("consent", "revoke", consent_id, occupied, *own, "--receipts", tmp_path)
    assert revoked["legs"][0]["state"] == "REVOKED"
    kept = {path.name: path for path in tmp_path.iterdir()}
    assert set(kept) == {f"{consent_id}-1-{s}-{occupied}.txt" for s in ("ACTIVE", "REVOKED")}
    states = [said("consent", "receipt", path)["says"]["state"] for path in kept.values()]
    assert set(states) == {"ACTIVE", "REVOKED"}
    mine = said("my", "receipt", consent_id, occupied, *own, "--out", tmp_path)
    assert (mine["state"], mine["file"]) == ("REVOKED", f"{consent_id}-1-REVOKED-{occupied}.txt")
    assert said("consent", "receipt", tmp_path / mine["file"])["intact"]
    assert run("my", "receipt", consent_id, occupied, *own).startswith("energyos.consent-receipt")


def test_the_record_is_shown_in_its_blocks_and_its_versions_are_a_chain(
    occupied: str, tmp_path: Path
) -> None:
    own = ("--as", "linnet")
    said_of_it = (
        *("--relation", "OCCUPIER", "--granularity", "HALF_HOUR", "--uprn", "100012345678"),
        *("--onward-sharing", "--recipient", "bright-partner", "--account", "Account 4711"),
    )
    kept = ("--receipts", tmp_path)
    granted = said("consent", "grant", occupied, *TERMS, *DATES, *said_of_it, *own, *kept)
    consent_id = granted["consent_id"]
    earlier = ("--expires", "2029-01-01")
    run("consent", "narrow", consent_id, occupied, *earlier, *own, *kept)
    run("consent", "revoke", consent_id, occupied, *own, *kept)
    record = said("consent", "record", occupied, consent_id, *own)
    assert list(record) == [
        *("header", "subject", "scope", "purpose", "parties", "time", "evidence", "state")
    ]
    assert record["header"]["version"] == 3 and record["subject"]["relation"] == "OCCUPIER"
    assert record["purpose"]["recipients"] == ["bright-partner"] and record["evidence"]["sealed"]
    assert (record["state"]["state"], record["state"]["changed_by"]) == ("REVOKED", "consumer")
    assert record["parties"]["tier"]
    assert "4711" not in run("consent", "record", occupied, consent_id, *own)
    (listed,) = (c for c in said("my", "consents", *own) if c["consent_id"] == consent_id)
    assert listed["record"] == record["header"]["hash"]
    paths = sorted(tmp_path.iterdir())
    checked = said("consent", "receipt", *paths)
    assert checked["faults"] == [] and len(checked["receipts"]) == 3
    last = checked["receipts"][-1]["says"]
    assert last["record sha256"] == record["header"]["hash"]
    assert last["previous record"] == record["header"]["previous"]
    paths[1].write_text(paths[1].read_text().replace("bright-partner", "another"))
    broken = said("consent", "receipt", *paths, code=EXIT_DIFFERENT)
    assert broken["faults"] == [f"{consent_id} at {occupied}: version 2 is not what its hash says"]
    refused = ("--granularity", "DAY", "--category", "HH_CONSUMPTION")
    ran = CliRunner().invoke(
        command_line("consent"), ["consent", "grant", occupied, *TERMS, *DATES, *refused, *own]
    )
    assert isinstance(ran.exception, grpc.RpcError)
    assert error_from(ran.exception).reason == "GRANULARITY_TOO_FINE"


def test_a_receipt_is_checked_offline_and_a_changed_one_is_found(
    occupied: str, tmp_path: Path
) -> None:
    own = ("--as", "linnet", "--receipts", tmp_path)
    run("consent", "grant", occupied, *TERMS, *DATES, *own)
    (path,) = tmp_path.iterdir()
    found = said("consent", "receipt", path)
    assert (found["intact"], found["key_known"]) == (True, False)
    assert "proves nothing" in run("consent", "receipt", path)
    known = ("--key", found["key"])
    assert said("consent", "receipt", path, *known)["key_known"]
    assert "genuine" in run("consent", "receipt", path, *known)
    path.write_text(path.read_text().replace("bright-advice", "somebody-else"))
    changed = said("consent", "receipt", path, code=EXIT_DIFFERENT)
    assert changed["intact"] is False
    assert changed["says"]["data user"] == "somebody-else"
    run("consent", "receipt", path, code=EXIT_DIFFERENT)
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    for words in ((path, "--key", "nonsense"), (tmp_path / "bytes",), (Path(__file__),)):
        ran = CliRunner().invoke(command_line("consent"), ["consent", "receipt", *map(str, words)])
        assert getattr(ran.exception, "grpc_code", "") == "INVALID_ARGUMENT"


def test_what_a_consent_of_several_meters_is_answered_with_is_where_it_is_read_from(
    spine: Installation,
) -> None:
    """Also the place of its order, which no read looks at."""
    consumer = spine.occupier(TWO[0], "siskin")
    spine.as_(CONSENT_SERVICE).consumers(
        "StartTenancy",
        mpxn=TWO[1],
        tenancy_id=spine.tenancies["siskin"],
        consumer_ref=spine.references["siskin"],
        effective_from=stamp(SINCE),
    )
    terms = advice_terms()
    given = consumer.consumers("GrantConsent", mpxns=TWO, data_user="bright-advice", terms=terms)
    seen = given.positions
    topics = {trust.CONSUMER_LOG, trust.CONSUMERS_REFERENCE}
    assert {position.topic for position in seen.positions} == topics
    adviser = spine.as_("bright-advice")
    asked: dict[str, Any] = {"purpose": "ENERGY_ADVICE", "basis": Basis.CONSENT, "at_least": seen}
    for mpxn in TWO:
        (told,) = adviser.dsi("ListConsents", mpxn=mpxn, **asked).consents
        assert (told.consent_id, told.state) == (given.consent_id, "ACTIVE")
    seen.positions.add(topic="consumers.events.v9", partition=0, offset=1)
    with pytest.raises(grpc.RpcError) as refused:
        adviser.dsi("ListConsents", mpxn=TWO[0], **asked)
    assert error_from(refused.value).reason == "POSITION_INVALID"


def test_nothing_is_granted_if_its_receipt_could_not_be_kept(occupied: str, tmp_path: Path) -> None:
    """The naive command grants first, and fails before it has said under which id."""
    (tmp_path / "file").write_text("")
    before = said("consent", "show", occupied, "--purpose", "OWN_USE", *AS_LINNET)
    nowhere = ("--as", "linnet", "--receipts", tmp_path / "file")
    run("consent", "grant", occupied, *TERMS, *DATES, *nowhere, code=2)
    assert said("consent", "show", occupied, "--purpose", "OWN_USE", *AS_LINNET) == before
