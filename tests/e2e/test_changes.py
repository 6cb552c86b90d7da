"""Everybody is told of every change of its consents, whatever is killed, until it says so."""

from __future__ import annotations

import json
import os
import signal
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import pytest
from typer.testing import CliRunner

from spine.cli import command_line
from spine.console.client import Client, stamp
from spine.console.context import CONSENT_SERVICE, OPERATOR
from spine.console.output import EXIT_DIFFERENT
from spine.identity import Authority
from spine.policy import Role
from spine.server import error_from
from tests.e2e.conftest import Installation, grant

FIRST, SECOND = "1900012345963", "1900012345972"
ADVISER, RIVAL, COLLECTOR = "told-advice", "told-rival", "told-collector"


@pytest.fixture(scope="module")
def adviser(spine: Installation) -> Client:
    spine.party(RIVAL, Role.DATA_USER)
    spine.party(COLLECTOR, Role.DATA_SERVICE)
    for mpxn in (FIRST, SECOND):
        spine.occupier(mpxn, f"told-{mpxn}")
    spine.as_(CONSENT_SERVICE).consumers(
        "AppointAgent",
        mpxn=FIRST,
        agent=COLLECTOR,
        agent_role=Role.DATA_SERVICE,
        effective_from=stamp(datetime(2012, 1, 1, tzinfo=UTC)),
    )
    return spine.party(ADVISER, Role.DATA_USER)


def first_told(client: Client) -> Any:
    """What a new call tells first; then the receiver is gone, with nothing acknowledged."""
    with client.following() as call:
        return next(call)


def refusal(ask: Callable[[], object]) -> str:
    with pytest.raises(grpc.RpcError) as refused:
        ask()
    return error_from(refused.value).reason


def acknowledge(client: Client, change: Any) -> Any:
    named = {"mpxn": change.mpxn, "change_id": change.change_id}
    return client.changes("AcknowledgeChange", **named)


def waiting(client: Client) -> list[Any]:
    return list(client.changes("ListChanges").changes)


def answered(ask: Callable[[], Any]) -> Any:
    """The answer of a process that is being started again."""
    deadline = time.monotonic() + 120
    while True:
        try:
            return ask()
        except grpc.RpcError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def test_a_receiver_that_goes_away_and_a_coordinator_that_is_killed_lose_nothing(
    spine: Installation, adviser: Client
) -> None:
    occupier = spine.as_(f"told-{FIRST}")
    kept, ended = grant(occupier, FIRST, ADVISER), grant(occupier, FIRST, ADVISER)
    occupier.consumers("RevokeConsent", consent_id=ended, mpxns=[FIRST])
    told = first_told(adviser)
    assert (told.consent_id, told.state, told.times) == (kept, "ACTIVE", 1)
    again = first_told(adviser)
    assert again.change_id == told.change_id, "told, and not acknowledged"
    revoked = waiting(adviser)[1]
    assert (revoked.consent_id, revoked.state) == (ended, "REVOKED")
    assert refusal(lambda: acknowledge(adviser, revoked)) == "CHANGE_OUT_OF_ORDER"
    assert refusal(lambda: acknowledge(spine.as_(RIVAL), told)) == "CHANGE_UNKNOWN"
    assert waiting(spine.as_(RIVAL)) == []
    done = acknowledge(adviser, told)
    assert done.record.topic == "consumers.acknowledgements.v1"
    assert acknowledge(adviser, told).replayed

    killed = spine.supervisor.children["consumers"].process
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait(10)
    assert [c.change_id for c in answered(lambda: waiting(adviser))] == [revoked.change_id]
    assert first_told(adviser).change_id == revoked.change_id
    acknowledge(adviser, revoked)
    assert waiting(adviser) == []
    (for_service,) = waiting(spine.as_(COLLECTOR))
    assert (for_service.state, for_service.consent_id) == ("REVOKED", ended)
    assert refusal(lambda: acknowledge(adviser, for_service)) == "CHANGE_UNKNOWN"


def test_an_open_call_is_told_of_a_revocation_and_then_of_the_next_change(
    spine: Installation, adviser: Client
) -> None:
    occupier = spine.as_(f"told-{SECOND}")
    consent_id = grant(occupier, SECOND, ADVISER)
    states = []
    with adviser.following() as call:
        for told in call:
            states.append(told.state)
            acknowledge(adviser, told)
            if told.state == "REVOKED":
                break
            occupier.consumers("RevokeConsent", consent_id=consent_id, mpxns=[SECOND])
    assert states == ["ACTIVE", "REVOKED"]
    assert waiting(adviser) == []


def test_what_waits_is_shown_to_its_receiver_and_counted_for_governance(
    spine: Installation, adviser: Client
) -> None:
    grant(spine.as_(f"told-{SECOND}"), SECOND, ADVISER)
    (change,) = waiting(adviser)
    assert not change.overdue
    assert list(adviser.changes("ListChanges", overdue=True).changes) == []
    receivers = {r.party: r for r in spine.as_(OPERATOR).changes("ListReceivers").receivers}
    assert (receivers[ADVISER].outstanding, receivers[ADVISER].overdue) == (1, 0)
    assert refusal(lambda: adviser.changes("ListReceivers")) == "ROLE_NOT_ALLOWED"
    run = CliRunner().invoke
    assert (
        change.change_id
        in run(command_line("changes"), ["changes", "list", "--as", ADVISER, "--json"]).stdout
    )
    assert ADVISER in run(command_line("changes"), ["changes", "receivers"]).stdout
    done = run(
        command_line("changes"),
        ["changes", "acknowledge", SECOND, change.change_id, "--as", ADVISER],
    )
    assert done.exit_code == 0, done.output
    assert waiting(adviser) == []


def test_a_consumer_is_told_what_waits_for_its_answer_and_what_others_did(
    spine: Installation, adviser: Client
) -> None:
    name = f"told-{SECOND}"
    consumer = spine.as_(name)
    while found := waiting(consumer):
        acknowledge(consumer, found[0])
    now = datetime.now(UTC)
    terms = {
        "purpose": "ENERGY_ADVICE",
        "categories": ["HH_CONSUMPTION"],
        "history_from": stamp(now - timedelta(days=30)),
        "valid_from": stamp(now),
        "expires": stamp(now + timedelta(days=30)),
    }
    asked = adviser.consumers(
        "RequestConsent", mpxns=[SECOND], terms=terms, answer_by=stamp(now + timedelta(days=7))
    ).consent_id
    told = first_told(consumer)
    assert (told.consent_id, told.state, told.overdue) == (asked, "REQUESTED", False)
    assert told.change_id in said("changes", "list", "--as", name, "--json")
    assert refusal(lambda: acknowledge(adviser, told)) == "CHANGE_UNKNOWN"
    acknowledge(consumer, told)
    assert waiting(consumer) == []
    adviser.consumers("WithdrawConsent", consent_id=asked, mpxns=[SECOND])
    (told,) = waiting(consumer)
    assert (told.consent_id, told.state) == (asked, "WITHDRAWN")
    receivers = {r.party for r in spine.as_(OPERATOR).changes("ListReceivers").receivers}
    assert not receivers & {told.consent_id, f"told-{FIRST}", name}


class Hook(BaseHTTPRequestHandler):
    """A receiver's own server: it takes every message and keeps it."""

    def do_POST(self) -> None:
        """Take a message."""
        body = self.rfile.read(int(self.headers["content-length"]))
        got: list[Any] = self.server.got  # type: ignore[attr-defined]
        got.append(({name.lower(): value for name, value in self.headers.items()}, body))
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@contextmanager
def hook(spine: Installation) -> Iterator[tuple[str, list[Any]]]:
    """Its address, while it is up, and what it got."""
    authority = Authority.open_or_create(spine.data_dir / "identities")
    identity = authority.issue_server(Role.DATA_USER, ADVISER, alias="told-hook")
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(identity.folder / "cert.pem", identity.folder / "key.pem")
    with ThreadingHTTPServer(("127.0.0.1", 0), Hook) as server:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
        got: list[Any] = []
        server.got = got  # type: ignore[attr-defined]
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        try:
            yield f"https://localhost:{server.server_port}/changes", got
        finally:
            server.shutdown()
            serving.join()


def said(*words: str, code: int = 0) -> str:
    """What a command says that ends with this code."""
    done = CliRunner().invoke(command_line(words[0]), list(words))
    assert done.exit_code == code, done.output
    return done.stdout


def test_a_revocation_is_sent_to_a_webhook_checked_and_what_was_got_is_deleted(
    spine: Installation, adviser: Client, tmp_path: Path
) -> None:
    occupier = spine.as_(f"told-{FIRST}")
    with hook(spine) as (url, got):
        said("changes", "webhook", "set", url, "--as", ADVISER)
        consent_id = grant(occupier, FIRST, ADVISER)
        occupier.consumers("RevokeConsent", consent_id=consent_id, mpxns=[FIRST])
        deadline = time.monotonic() + 120
        while not any(json.loads(body)["data"]["state"] == "REVOKED" for _, body in got):
            assert time.monotonic() < deadline, "it was never told"
            time.sleep(0.1)
        while waiting(adviser):
            assert time.monotonic() < deadline, "what was told is still outstanding"
            time.sleep(0.1)
        shown = json.loads(said("changes", "webhook", "show", "--as", ADVISER, "--json"))
        assert (shown["url"], shown["last outcome"]) == (url, "taken")
    (headers, body) = got[-1]
    message = tmp_path / "message.json"
    message.write_bytes(body)
    check = ["changes", "webhook", "verify", str(message), "--id", headers["webhook-id"]]
    check += ["--timestamp", headers["webhook-timestamp"], "--key", shown["key"]]
    check += ["--signature", headers["webhook-signature"]]
    assert "genuine" in said(*check)
    message.write_bytes(body.replace(b"REVOKED", b"ACTIVE "))
    said(*check, code=EXIT_DIFFERENT)
    said("changes", "webhook", "remove", "--as", ADVISER)
    assert "no webhook" in said("changes", "webhook", "show", "--as", ADVISER)

    assert consent_id in said("deletion", "list", "--as", ADVISER)
    assert ADVISER in said("deletion", "owed")
    said("deletion", "confirm", FIRST, consent_id, "--as", ADVISER)
    assert consent_id not in said("deletion", "list", "--as", ADVISER)
    at_home = said("deletion", "list", "--mpxn", FIRST, "--as", f"told-{FIRST}", "--json")
    (mine,) = [each for each in json.loads(at_home) if each["consent"] == consent_id]
    assert mine["confirmed"] and not mine["overdue"]
