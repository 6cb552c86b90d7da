"""`spine health` says what a probe may rely on, and never says yes where nobody answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from spine.config import Settings
from spine.console import context
from spine.console.health import health, status_of_process
from spine.errors import Invalid, Pushback, Reason
from spine.identity import SERVER_PREFIX, Authority, Identity
from spine.policy import Role
from spine.server import build_server
from spine.supervise import PROCESSES
from spine.whereabouts import announce
from tests.e2e.conftest import Installation


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder of its own, for this process."""
    monkeypatch.setattr(context, "_used", [Settings(data_dir=tmp_path)])
    return tmp_path


def identity(here: Path, name: str = "dsi") -> Identity:
    """The identity of a server, as the process itself issues it."""
    authority = Authority.open_or_create(here / "identities")
    return authority.issue_server(Role.DSI, name, ("0.0.0.0",), alias=f"{SERVER_PREFIX}{name}")


@contextmanager
def refused(reason: Reason, kind: type[Exception]) -> Iterator[None]:
    with pytest.raises(kind) as caught:
        yield
    assert getattr(caught.value, "reason") is reason  # noqa: B009  # each kind has one


async def test_it_says_what_the_process_says(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ready = True
    server = build_server(identity(here), [], host="0.0.0.0", serving=lambda: ready)
    await server.start()
    announce(here, "dsi", "0.0.0.0", server.port)
    try:
        await asyncio.to_thread(health, "dsi", True)
        assert json.loads(capsys.readouterr().out) == {"process": "dsi", "status": "SERVING"}
        ready = False
        with refused(Reason.STARTING, Pushback):
            await asyncio.to_thread(health, "dsi")
    finally:
        await server.stop()
    with pytest.raises(grpc.RpcError):
        await asyncio.to_thread(health, "dsi")


def test_a_process_that_never_started_is_not_healthy(here: Path) -> None:
    with refused(Reason.STARTING, Pushback):
        health("dsi")
    announce(here, "dsi", "127.0.0.1", 1)
    with refused(Reason.STARTING, Pushback):
        health("dsi")


def test_an_unknown_name_is_invalid(here: Path) -> None:
    with refused(Reason.CODE_UNKNOWN, Invalid):
        health("librarian")
    with refused(Reason.STARTING, Pushback):
        health("witness-librarian")


def test_every_process_of_an_installation_serves(spine: Installation) -> None:
    assert {name: status_of_process(spine.data_dir, name) for name in PROCESSES} == dict.fromkeys(
        PROCESSES, "SERVING"
    )
    health("witness-first")
