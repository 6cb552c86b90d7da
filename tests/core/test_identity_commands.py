"""Certificates by command: what there is, and issuing one again, with nothing running."""

from __future__ import annotations

import json
import re
import shlex
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from spine.certificates import Pair
from spine.config import Settings
from spine.console import context
from spine.console.logs import issue_identities
from spine.errors import Reason
from spine.identity import Authority, Identity
from spine.policy import Role
from tests.helpers.certificates import corporate
from tests.helpers.command_line import Said, run

ROOT = Path(__file__).parents[2]
INVALID, STARTING, USAGE = 7, 5, 2
ALEX = "c-c40bcd0c22a0d0b6"
DAY = timedelta(days=1)


@pytest.fixture
def identities(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Those of an installation that is stopped, with a supplier, a consumer and a process."""
    monkeypatch.setattr(context, "_used", [Settings(data_dir=tmp_path)])
    issue_identities(tmp_path)
    authority = Authority.open_or_create(tmp_path / "identities")
    authority.issue_client(Role.SUPPLIER, "north-supply")
    authority.issue_client(Role.CONSUMER, ALEX, "alex")
    authority.issue_server(Role.DSI, "dsi", alias="server-dsi")
    return tmp_path / "identities"


def listed() -> dict[str, dict[str, Any]]:
    said = run("identity", "list", "--json")
    assert said.code == 0, said
    return {row["name"]: row for row in json.loads(said.out)}


def failed(said: Said, reason: Reason, code: int = INVALID) -> None:
    assert (said.code, said.reason, said.out) == (code, reason, ""), said
    assert said.err.strip().count("\n") == 0


def files(identities: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in identities.rglob("*.pem")}


def documented() -> list[str]:
    """The commands of the chapter on certificates."""
    page = (ROOT / "docs/operations.md").read_text()
    (chapter,) = re.findall(r"^## Certificates\n(.*?)^## ", page, re.M | re.S)
    blocks = re.findall(r"^```\n(.*?)^```", chapter, re.M | re.S)
    return [line for block in blocks for line in block.splitlines()]


def test_the_commands_of_the_chapter_do_what_it_says(identities: Path) -> None:
    said = documented()
    assert len(said) == 6
    for line in said:
        before = files(identities)
        ended = run(*shlex.split(line)[1:])
        assert ended.code == 0 and not ended.err, line
        changed = {p.parent.name for p, was in before.items() if p.read_bytes() != was}
        assert changed == ({ended.out.split()[0]} if " issue " in line else set())
    assert {path.name for path in identities.iterdir()} == {path.parent.name for path in before}


def test_the_list_tells_role_party_end_and_state(
    identities: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        authority = Authority.open_or_create(identities)
        patched.setattr("spine.issuing.LIFE", -DAY)
        authority.issue_client(Role.AUDITOR, "late-audit")
        patched.setattr("spine.issuing.LIFE", DAY / 2)
        authority.issue_client(Role.AUDITOR, "soon-audit")
        patched.setattr("spine.issuing.BACKDATED", -DAY)
        patched.setattr("spine.issuing.LIFE", 2 * DAY)
        authority.issue_client(Role.AUDITOR, "early-audit")
    other = Authority.open_or_create(identities.parent / "other")
    other.issue_client(Role.AUDITOR, "strange-audit").folder.rename(identities / "strange-audit")
    (identities / "alex/key.pem").unlink()
    rows = listed()
    assert {name: row["state"] for name, row in rows.items()} == {
        "ca": "authority",
        "alex": "unfit",
        "consent-service": "valid",
        "early-audit": "not yet valid",
        "governance-board": "valid",
        "late-audit": "ended",
        "north-supply": "valid",
        "server-dsi": "valid",
        "soon-audit": "due",
        "strange-audit": "of another authority",
    }
    supplier = rows["north-supply"]
    assert (supplier["role"], supplier["party"]) == ("supplier", "north-supply")
    ends = Pair.read(Identity(identities / "north-supply")).not_after
    assert datetime.fromisoformat(supplier["valid until"]) == ends


def test_a_new_certificate_names_the_same_and_has_another_key(identities: Path) -> None:
    before = Pair.read(Identity(identities / "alex"))
    said = run("identity", "issue", "consumer", ALEX, "--alias", "alex", "--json")
    after = Pair.read(Identity(identities / "alex"))
    assert json.loads(said.out)["name"] == "alex"
    assert (after.caller.role, after.caller.party) == (before.caller.role, before.caller.party)
    assert after.key != before.key and after.ca == before.ca


@pytest.mark.parametrize("damage", ["cert.pem", "key.pem", "ca.pem"])
def test_what_is_from_elsewhere_stays_while_it_is_being_replaced(
    identities: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    company = corporate(identities.parent / "company", monkeypatch)
    theirs = company.issue_client(Role.GOVERNANCE, "governance-board").folder
    (identities / "governance-board").rename(identities.parent / "before")
    theirs.rename(identities / "governance-board")
    (identities / "governance-board" / damage).write_bytes(b"torn")
    before = files(identities)
    issue_identities(identities.parent)
    assert files(identities) == before


@pytest.mark.parametrize("damage", ["cert.pem", "key.pem", "ca.pem"])
def test_what_is_damaged_is_issued_again(identities: Path, damage: str) -> None:
    (identities / "north-supply" / damage).write_bytes(b"torn")
    assert listed()["north-supply"]["state"] == "unfit"
    assert run("identity", "issue", "supplier", "north-supply").code == 0
    assert listed()["north-supply"]["state"] == "valid"


@pytest.mark.parametrize(
    "words",
    [
        ("supplier", "no"),
        ("supplier", "a/b"),
        ("supplier", "north-supply", "--alias", "ca"),
        ("supplier", "north-supply", "--alias", "server-dsi"),
        ("supplier", "north-supply", "--alias", "../alex"),
        ("supplier", "north-supply", "--alias", "alex"),
        ("data_user", "north-supply"),
        ("consumer", "c-0000000000000000", "--alias", "alex"),
    ],
)
def test_a_name_that_is_malformed_or_anothers_changes_nothing(
    identities: Path, words: tuple[str, ...]
) -> None:
    before = files(identities)
    failed(run("identity", "issue", *words), Reason.FIELD_INVALID)
    assert files(identities) == before


def test_a_role_that_does_not_exist_is_wrong_usage(identities: Path) -> None:
    assert run("identity", "issue", "registrar", "north-supply").code == USAGE


@pytest.mark.parametrize("left", ["nothing", "no key", "another key", "torn"])
def test_without_the_authoritys_key_nothing_is_issued_or_made(identities: Path, left: str) -> None:
    home = identities / "ca"
    if left == "nothing":
        home.rename(identities.parent / "lost")
    elif left == "no key":
        (home / "key.pem").unlink()
    elif left == "another key":
        (home / "key.pem").write_bytes((identities / "alex/key.pem").read_bytes())
    else:
        (home / "key.pem").write_bytes(b"torn")
    before = files(identities)
    failed(run("identity", "issue", "supplier", "north-supply"), Reason.IDENTITY_MISSING)
    if left != "nothing":  # what is left of it is not written over
        words = ("identity", "issue", "supplier", "north-supply", "--new-authority")
        failed(run(*words), Reason.IDENTITY_MISSING)
    assert files(identities) == before


@pytest.mark.parametrize(
    "words",
    [
        ("participant", "admit", "west-data", "--role", "data_user"),
        ("tenancy", "start", "1200012345679", "--from", "2024-01-01", "--alias", "sam"),
    ],
)
@pytest.mark.parametrize("naive", [False, True])
def test_only_who_opens_a_log_or_is_asked_to_makes_an_authority(
    identities: Path, words: tuple[str, ...], naive: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    (identities / "ca").rename(identities.parent / "lost")
    before = files(identities)
    if naive:
        made = Authority.open_or_create
        monkeypatch.setattr(
            "spine.console.parties._authority", lambda data: made(data / "identities")
        )
        failed(run(*words), Reason.STARTING, STARTING)
    else:
        failed(run(*words), Reason.IDENTITY_MISSING)
    assert (files(identities) == before) is not naive


def test_what_is_from_elsewhere_is_replaced_by_command_only(
    identities: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    company = corporate(identities.parent / "company", monkeypatch)
    for role, party in ((Role.GOVERNANCE, "governance-board"), (Role.SUPPLIER, "north-supply")):
        (identities / party).rename(identities.parent / party)
        company.issue_client(role, party).folder.rename(identities / party)
    before = files(identities)
    issue_identities(identities.parent)
    Authority.open(identities).issue_client(Role.SUPPLIER, "north-supply")
    assert files(identities) == before
    assert run("identity", "issue", "supplier", "north-supply").code == 0
    rows = listed()
    assert rows["governance-board"]["state"] == "of another authority"
    assert rows["north-supply"]["state"] == "valid"


def test_after_the_loss_of_the_authority_the_list_names_who_is_left(identities: Path) -> None:
    (identities / "ca").rename(identities.parent / "lost")
    for line in documented()[-2:]:
        assert run(*shlex.split(line)[1:]).code == 0
    rows = listed()
    left = {name for name, row in rows.items() if row["state"] == "of another authority"}
    assert left == {"north-supply", "alex", "server-dsi"}
    for name in sorted(left - {"server-dsi"}):
        row = rows[name]
        assert run("identity", "issue", row["role"], row["party"], "--alias", name).code == 0
    states = {name: row["state"] for name, row in listed().items()}
    assert {name for name, state in states.items() if state != "valid"} == {"ca", "server-dsi"}


def test_a_command_under_a_certificate_that_ended_says_so(
    identities: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("spine.issuing.LIFE", -DAY)
        Authority.open_or_create(identities).issue_client(
            Role.GOVERNANCE, "governance-board", anew=True
        )
    said = run("participant", "list")
    failed(said, Reason.IDENTITY_MISSING)
    assert "spine identity issue" in said.err
    assert run("identity", "issue", "governance", "governance-board").code == 0
    assert run("participant", "list").reason == Reason.STARTING
