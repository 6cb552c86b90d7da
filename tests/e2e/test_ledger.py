"""The ledger of a whole installation: the page for auditors is run, and processes are killed."""

from __future__ import annotations

import json
import os
import random
import re
import shlex
import signal
import time
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
from typer.testing import CliRunner

from spine import trust
from spine.cli import command_line
from spine.console import audits, context, ingesting
from spine.console.client import interval, stamp
from spine.console.context import CONSENT_SERVICE
from spine.console.parties import issue
from spine.ledger import continued, provenance_check, verifier
from spine.ledger.book import PUBLIC
from spine.ledger.library import Library
from spine.ledger.note import Checkpoint
from spine.ledger.process import LEDGER
from spine.policy import Basis, Role
from spine.server import error_from
from tests.e2e.conftest import SINCE, Installation, grant
from tests.helpers.perse import perse

MPAN = "1600000000029"
NEIGHBOUR, TOGETHER, NO_METER = "1600000000038", "1600000000047", "1600000000056"
MOVED = "1600000000065"
RECIPIENTS = ["ledger-insurer", "ledger-partner"]
TIMES = [datetime(year, 1, 1, tzinfo=UTC) for year in (2013, 2015, 2016)]
DAY = (datetime(2024, 7, 1, tzinfo=UTC), datetime(2024, 7, 2, tzinfo=UTC))
TERMS: dict[str, Any] = {
    "purpose": "ENERGY_ADVICE",
    "basis": Basis.CONSENT,
    "interval": interval(*DAY),
}
PAGE = (Path(__file__).parents[2] / "docs/ledger.md").read_text()
WAIT_S = 60.0
WRONG = 6


def library(spine: Installation) -> Library:
    return Library(spine.data_dir / LEDGER / PUBLIC)


def until(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not what():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.1)


def ends() -> dict[tuple[str, int], int]:
    """How many records each partition of the log holds."""
    this = context.runtime()
    reader = this.reader()
    try:
        return {
            place: reader.bounds(*place)[1]
            for place in [(trust.CONSUMER_LOG, p) for p in range(this.partitions)]
            + [(trust.OUTCOMES_TOPIC, p) for p in range(this.partitions)]
        }
    finally:
        reader.close()


def covers(spine: Installation, wanted: dict[tuple[str, int], int]) -> bool:
    """Whether the published head covers all of it."""
    books = library(spine)
    sizes = books.sizes(Checkpoint.parse(books.note().text).size)
    return all(sizes[place] >= end for place, end in wanted.items())


@pytest.fixture(scope="module")
def place(spine: Installation, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A read of the adviser's, by its place as commands take it."""
    spine.meter(MPAN, "north-supply")
    file = tmp_path_factory.mktemp("ledger") / "day.json"
    file.write_bytes(perse(MPAN, [date(2024, 7, 1), date(2024, 7, 2)]))
    assert ingesting.send(file, "north-supply").meter_days.buckets == {"recorded": 3}
    grant(
        spine.occupier(MPAN, "ledger-reader"),
        MPAN,
        "bright-advice",
        consent_id="consent-of-ledger-reader",
        record={"onward_sharing": True, "recipients": RECIPIENTS},
    )
    spine.party("ledger-flex", Role.DATA_USER)
    issue(spine.data_dir, Role.AUDITOR, "ledger-auditor")
    list(spine.as_("bright-advice").readings(MPAN, **TERMS))
    until(lambda: covers(spine, ends()))
    lines: list[Any] = []
    audits.run_audit(lines.append)
    (line,) = [line for line in lines if line.member == MPAN and line.party == "bright-advice"]
    return f"{line.partition}@{line.offset}.{line.entry}"


# The page


def same(text: str) -> str:
    """A text without what differs from run to run: numbers, ids, which witnesses were first."""
    if text.startswith("{"):
        told = json.loads(text)
        return f"{told['ok']} {told['own_keys']}"
    if text.startswith("["):
        return str([line.get("proof", "a page") for line in json.loads(text)])
    text = re.sub(r"cosigned by .*", "cosigned by witnesses", text)
    text = re.sub(r"log/(ID|[0-9a-f]{64})", "log/ID", text)
    return re.sub(r" *$", "", re.sub(r"\d+", "N", text), flags=re.MULTILINE).strip()


def test_the_page_for_auditors_tells_what_happens(
    spine: Installation, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = re.findall(r"^\$ spine (.+)\n((?:(?!\$ |```).*\n)*)", PAGE, re.MULTILINE)
    assert len(steps) == 19
    monkeypatch.chdir(tmp_path)
    known = library(spine).keys()
    named = dict(zip(("FIRST", "SECOND", "THIRD"), known["witnesses"], strict=True))
    named["KEY"] = known["log"]
    for command, shown in steps:
        if "edited.json" in command:
            proof = json.loads((tmp_path / "proof.json").read_text())
            proof["stored"]["offset"] += 1
            (tmp_path / "edited.json").write_text(json.dumps(proof))
        if command.startswith("provenance get"):
            until(lambda: covers(spine, ends()))
        words = [named.get(word, word) for word in shlex.split(command.replace("2@17.0", place))]
        done = CliRunner().invoke(command_line(words[0]), words)
        assert done.exit_code == (WRONG if "edited" in command else 0), (command, done.output)
        said = done.stderr if "edited" in command else done.stdout
        assert same(said) == same(shown), command


# Killed


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_killed_at_any_moment_the_heads_go_on(
    spine: Installation, place: str, tmp_path: Path, seed: int
) -> None:
    """The ledger or a witness, while reads go on: what was published before is continued after."""
    dice = random.Random(seed)
    adviser = spine.as_("bright-advice")
    victim = dice.choice(["ledger", "ledger", "witness-first"])
    before = library(spine).note()
    killed = spine.supervisor.children[victim].process
    at = time.monotonic() + dice.uniform(0.1, 1.0)
    while time.monotonic() < at:
        list(adviser.readings(MPAN, **TERMS))
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait(10)
    for _ in range(5):
        list(adviser.readings(MPAN, **TERMS))
    until(lambda: covers(spine, ends()))
    proof = library(spine).consistency(before, library(spine).note())
    keys = verifier.Keys.of(proof["keys"])
    assert keys.quorum == 2 and len(keys.witnesses) == 3
    continued.check_growth(proof, keys)
    books = library(spine)
    places = books.sizes(Checkpoint.parse(books.note().text).size)
    books.export(tmp_path / "export", places)
    report = verifier.verify(tmp_path / "export", keys)
    assert report.ok, report.wrong


# Who is told of which reads


def reads(spine: Installation, alias: str, mpxn: str = MPAN, **asked: Any) -> list[Any]:
    """The reads of a meter that somebody is told of, the latest first."""
    return list(spine.as_(alias).ledger("ListReads", mpxn=mpxn, **asked).reads)


def test_everybody_is_told_of_its_own_reads_and_of_no_others(
    spine: Installation, place: str
) -> None:
    spine.occupier(NEIGHBOUR, "ledger-neighbour")
    with pytest.raises(grpc.RpcError):
        list(spine.as_("ledger-flex").readings(MPAN, **TERMS))
    own = TERMS | {"purpose": "OWN_USE", "basis": Basis.SUBJECT}
    list(spine.as_("ledger-reader").readings(MPAN, **own))
    until(
        lambda: {read.release for read in reads(spine, "ledger-reader")} == {"RELEASED", "REFUSED"}
    )
    by_party = {read.party for read in reads(spine, "ledger-reader")}
    assert by_party == {"bright-advice", "ledger-flex", spine.references["ledger-reader"]}
    assert {read.party for read in reads(spine, "bright-advice")} == {"bright-advice"}
    refused = reads(spine, "ledger-flex")
    assert [(r.permitted, r.refused, r.release) for r in refused] == [
        (False, "NOT_PERMITTED", "REFUSED")
    ]
    # A neighbour has nothing at the meter, nor anybody at one that does not exist.
    assert reads(spine, "ledger-neighbour") == reads(spine, "ledger-neighbour", NO_METER) == []
    assert len(reads(spine, "ledger-auditor")) == len(reads(spine, "ledger-reader"))
    for alias in ("governance-board", "consent-service"):
        with pytest.raises(grpc.RpcError) as denied:
            reads(spine, alias)
        assert error_from(denied.value).reason == "ROLE_NOT_ALLOWED"


def test_reads_come_page_by_page_the_latest_first(spine: Installation, place: str) -> None:
    whole = reads(spine, "ledger-auditor", page_size=500)
    first = spine.as_("ledger-auditor").ledger("ListReads", mpxn=MPAN, page_size=2)
    rest = reads(spine, "ledger-auditor", cursor=first.next_cursor, page_size=500)
    assert [*first.reads, *rest][:500] == whole and len(whole) > 2
    assert [r.request.offset for r in whole] == sorted(
        (r.request.offset for r in whole), reverse=True
    )
    since = whole[1].at
    assert len(reads(spine, "ledger-auditor", since=since)) == 2
    for wrong in ({"cursor": "x"}, {"page_size": 501}, {"page_size": 201, "with_proofs": True}):
        with pytest.raises(grpc.RpcError) as refused:
            reads(spine, "ledger-auditor", **wrong)
        assert error_from(refused.value).code == "INVALID_ARGUMENT"


def test_a_request_for_several_meters_is_shown_to_its_reader_and_to_no_occupier(
    spine: Installation, place: str, tmp_path: Path
) -> None:
    spine.meter(TOGETHER, "north-supply")
    grant(spine.occupier(TOGETHER, "ledger-together"), TOGETHER, "bright-advice")
    with spine.as_("bright-advice").stream([MPAN, TOGETHER], **TERMS) as call:
        assert len(list(call)) == 2
    until(lambda: covers(spine, ends()))
    seen = {
        alias: reads(spine, alias, with_proofs=True)[0]
        for alias in ("bright-advice", "ledger-reader", "ledger-auditor")
    }
    assert {read.metering_points for read in seen.values()} == {2}
    for alias, read in seen.items():
        (tmp_path / alias).write_text(read.proof)
        assert verifier.verify(tmp_path / alias).ok
        assert ("shown" in json.loads(read.proof)) == (alias != "ledger-reader")


def test_only_what_was_released_is_vouched_for(spine: Installation, place: str) -> None:
    adviser = spine.as_("bright-advice")
    (page,) = adviser.readings(MPAN, in_columns=True, **TERMS)
    until(lambda: covers(spine, ends()))
    decision = page.decision
    asked = {n: getattr(decision, n) for n in ("partition", "offset", "entry")} | {"mpxn": MPAN}
    made = json.loads(adviser.ledger("GetProvenance", columns=page.columns, **asked).provenance)
    assert provenance_check.check_provenance(made, verifier.Keys.of(made["keys"]))
    page.columns.values_wh[0] += 1
    for alias, changes, reason in (
        ("bright-advice", {"columns": page.columns}, "PROVENANCE_UNAVAILABLE"),
        ("ledger-flex", {"columns": page.columns}, "DECISION_UNKNOWN"),
        ("bright-advice", {"columns": page.columns, "offset": 0}, "DECISION_UNKNOWN"),
    ):
        with pytest.raises(grpc.RpcError) as refused:
            spine.as_(alias).ledger("GetProvenance", **asked | changes)
        assert error_from(refused.value).reason == reason


def test_a_consumer_finds_its_consents_and_suppliers_and_takes_one_back(
    spine: Installation, place: str
) -> None:
    """Each is listed, live or over, with recipients and last use; what is shown to end it does."""
    spine.occupier(MOVED, "ledger-mover")
    spine.as_(CONSENT_SERVICE).consumers(
        "StartSupply", mpxn=MOVED, supplier="north-supply", effective_from=stamp(SINCE)
    )
    for supplier, at in (("ledger-supply", TIMES[0]), ("north-supply", TIMES[1])):
        spine.as_(CONSENT_SERVICE).consumers(
            "StartSupply", mpxn=MOVED, supplier=supplier, effective_from=stamp(at)
        )
    spine.as_(CONSENT_SERVICE).consumers(
        "EndTenancy",
        mpxn=MOVED,
        tenancy_id=spine.tenancies["ledger-mover"],
        effective_to=stamp(TIMES[2]),
    )
    assert [
        (line["supplier"], line["from"][:4], line["to"][:4])
        for line in told("my", "switches", "--as", "ledger-mover")
    ] == [
        ("north-supply", "2012", "2013"),
        ("ledger-supply", "2013", "2015"),
        ("north-supply", "2015", "2016"),
    ]
    list(spine.as_("bright-advice").readings(MPAN, **TERMS))
    until(lambda: told("my", "consents", "--as", "ledger-reader")[0]["last_read"] != "")
    (line,) = told("my", "consents", "--as", "ledger-reader")
    assert (line["mpxn"], line["state"], line["data_user"]) == (MPAN, "ACTIVE", "bright-advice")
    assert line["recipients"] == ", ".join(RECIPIENTS)
    last_read = line["last_read"]
    _, *words = shlex.split(line["revoke"])
    assert CliRunner().invoke(command_line(words[0]), words).exit_code == 0
    (line,) = told("my", "consents", "--as", "ledger-reader")
    assert (line["state"], line["revoke"]) == ("REVOKED", ""), "what is over is listed too"
    assert line["recipients"] == ", ".join(RECIPIENTS) and line["last_read"] >= last_read
    with pytest.raises(grpc.RpcError):
        list(spine.as_("bright-advice").readings(MPAN, **TERMS))
    with pytest.raises(grpc.RpcError) as refused:
        spine.as_("bright-advice").ledger("ListOwnMeters")
    assert error_from(refused.value).reason == "ROLE_NOT_ALLOWED"


def told(*words: str) -> Any:
    """What a command prints for programs."""
    done = CliRunner().invoke(command_line(words[0]), [*words, "--json"])
    assert done.exit_code == 0, done.exception
    return json.loads(done.stdout)
