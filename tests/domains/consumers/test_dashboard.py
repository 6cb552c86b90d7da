"""The page of a consumer's consents: live, expired and revoked, with recipients and last use."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace
from typer.testing import CliRunner

from domains.consumers.decider import CONSUMERS
from domains.consumers.events import (
    ConsentGranted,
    ConsentRevoked,
    ConsentTermsRecorded,
    ConsumersEvent,
)
from domains.consumers.record import RecordTerms
from domains.consumers.views import consents_for
from spine.cli import command_line
from spine.console import mine
from spine.console.output import when
from spine.domain import fold
from spine.dsi import records
from spine.dsi.v1 import dsi_pb2
from spine.ledger.v1 import ledger_pb2
from spine.services import wire
from tests.domains.consumers.home import HOME, MAY, NOW, day, granted

MPXN = "1200000000003"
READ_AT = MAY + timedelta(hours=3)
SHARED = RecordTerms(onward_sharing=True, recipients=("insurer", "partner"))


def agreed(consent_id: str, expires: datetime) -> tuple[ConsentGranted, ConsentTermsRecorded]:
    """A grant and its record."""
    return (
        replace(granted(expires=expires), consent_id=consent_id),
        ConsentTermsRecorded(consent_id, SHARED, MAY),
    )


EVENTS: tuple[ConsumersEvent, ...] = (
    *HOME,
    *agreed("k-live", day(12)),
    *agreed("k-expired", day(6)),
    *agreed("k-revoked", day(12)),
    ConsentRevoked("k-revoked", MAY),
    replace(granted(), consent_id="k-shared-with-nobody"),
)


class Caller:
    """Anna's client, answered by the fold of her meter; two reads were answered and one was not."""

    def ledger(self, method: str, **asked: Any) -> Any:
        if method == "ListOwnMeters":
            return SimpleNamespace(meters=[SimpleNamespace(mpxn=MPXN)])
        return ledger_pb2.ListReadsResponse(
            reads=[
                ledger_pb2.Read(consent_id=under, at=wire.stamp(at), release=release)
                for under, at, release in (
                    ("k-live", NOW, "REFUSED"),
                    ("k-live", READ_AT, "RELEASED"),
                    ("k-expired", READ_AT, "RELEASED"),
                )
            ]
        )

    def dsi(self, method: str, **asked: Any) -> Any:
        shown = consents_for(fold(CONSUMERS, EVENTS), "consumer", "c-anna", NOW)
        return dsi_pb2.ListConsentsResponse(consents=map(records.consent, shown))


def listed(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, str]]:
    """What `spine my consents` prints for programs, by consent."""
    monkeypatch.setattr(mine, "client", lambda as_: Caller())
    done = CliRunner().invoke(command_line("my"), ["my", "consents", "--as", "anna", "--json"])
    assert done.exit_code == 0, done.exception
    return {line["consent_id"]: line for line in json.loads(done.stdout)}


def test_live_expired_and_revoked_are_listed_with_recipients_and_last_use(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = listed(monkeypatch)
    read_at = when(wire.stamp(READ_AT))
    assert {
        name: (line["state"], line["recipients"], line["last_read"]) for name, line in found.items()
    } == {
        "k-live": ("ACTIVE", "insurer, partner", read_at),
        "k-expired": ("EXPIRED", "insurer, partner", read_at),
        "k-revoked": ("REVOKED", "insurer, partner", ""),
        "k-shared-with-nobody": ("ACTIVE", "", ""),
    }


def test_only_what_still_stands_can_be_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    found = listed(monkeypatch)
    assert {name for name, line in found.items() if line["revoke"]} == {
        "k-live",
        "k-shared-with-nobody",
    }
