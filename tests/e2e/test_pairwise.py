"""A data user that is set to identifiers of its own, from its first consent to the audit of it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from spine.policy import Role
from spine.verdict import Verdict
from tests.e2e.conftest import Installation, audit, grant
from tests.helpers.command_line import Said, run

MPAN, PARTY = "1200000000261", "warm-homes"
READ = ("--from", "2024-07-01", "--to", "2024-07-02", "--purpose", "ENERGY_ADVICE", "--as", PARTY)
PATIENCE_S = 30.0


def told(said: Said) -> Any:
    """What a command printed with --json."""
    assert said.code == 0, said
    return json.loads(said.out)


def own_identifiers(spine: Installation) -> tuple[str, str]:
    """Of the meter and the consent, as the party is told of its first change.

    A server follows what governance has answered once its own fold holds it.
    """
    until = time.monotonic() + PATIENCE_S
    while True:
        changes = spine.as_(PARTY).changes("ListChanges").changes
        if changes:
            (change,) = changes
            if change.mpxn != MPAN:
                return change.mpxn, change.consent_id
        assert time.monotonic() < until
        time.sleep(0.05)


def read_by(meter: str) -> Said:
    """What the party reads by its own identifier, once the DSI knows that it has one."""
    until = time.monotonic() + PATIENCE_S
    while (read := run("read", meter, *READ)).reason == "MPXN_FORMAT":
        assert time.monotonic() < until
        time.sleep(0.05)
    return read


def test_a_data_user_reads_by_identifiers_that_only_it_has(
    spine: Installation, tmp_path: Path
) -> None:
    spine.party(PARTY, Role.DATA_USER)
    assert told(run("identifiers", "set", PARTY, "PAIRWISE", "--json"))["done"].startswith(PARTY)
    given = {row["party"]: row["identifiers"] for row in told(run("participant", "list", "--json"))}
    assert (given[PARTY], given["bright-advice"]) == ("PAIRWISE", "MPXN")
    spine.meter(MPAN, "north-supply")
    consumer = spine.occupier(MPAN, "pat-pairwise")
    grant(consumer, MPAN, PARTY, consent_id="pats-advice")
    meter, consent = own_identifiers(spine)
    assert meter == run("identifiers", "show", PARTY, MPAN).out.strip()
    assert told(run("identifiers", "open", PARTY, meter, "--json")) == {
        "party": PARTY,
        "kind": "METER",
        "name": MPAN,
        "identifier": meter,
    }
    assert run("identifiers", "open", PARTY, consent).out.strip() == "pats-advice"
    assert run("identifiers", "open", "bright-advice", meter).reason == "IDENTIFIER_UNKNOWN"
    read = read_by(meter)
    assert read.code == 0 and MPAN not in read.out and "pats-advice" not in read.out
    assert "permitted" in read.out
    (listed,) = spine.as_(PARTY).ledger("ListReads", mpxn=meter).reads
    assert listed.consent_id == consent
    request_id = listed.request_id.hex()
    assert request_id in read.out, "by which it is found again"
    assert run("read", MPAN, *READ).reason == "IDENTIFIERS_PAIRWISE"
    assert run("token", "issue", consent, meter, "--as", PARTY).reason == "IDENTIFIERS_PAIRWISE"
    consumer.consumers("RevokeConsent", consent_id="pats-advice", mpxns=[MPAN])
    assert run("read", meter, *READ).reason == "CONSENT_REVOKED"
    code, found = audit(spine, tmp_path, request_id)
    (line,) = found["lines"]
    assert (code, line["mpxn"], line["verdict"]) == (0, MPAN, Verdict.SAME)
