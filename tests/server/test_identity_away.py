"""While a file of its own identity is away, a process waits for it and forgets nobody."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from spine.config import Settings
from spine.dsi.channels import CHANNEL, Channels
from spine.dsi.members import Members, MembersService
from spine.dsi.v1 import members_pb2_grpc
from spine.errors import Pushback, Reason
from spine.governance.v1 import governance_pb2, governance_pb2_grpc
from spine.identity import DEV_SERVER_NAME, KEY_FILE, Authority
from spine.limits import Excess, Kind
from spine.policy import Role
from spine.server import Service, build_server, connect
from spine.services.holds import Holds
from spine.trust import QUARANTINE_TOPIC
from spine.whereabouts import announce

LOG_ID = b"log"


class Governance(governance_pb2_grpc.GovernanceServicer):
    """Notes whom it is told to hold."""

    def __init__(self) -> None:
        self.told: list[str] = []

    async def HoldParty(self, request: Any, context: Any) -> Any:
        self.told.append(request.party)
        return governance_pb2.HoldResponse()


@pytest.fixture
def governance() -> Governance:
    return Governance()


@pytest_asyncio.fixture
async def port(tmp_path: Path, governance: Governance) -> AsyncIterator[int]:
    """Of a server that is another member, and governance; ours is `server-dsi`."""
    authority = Authority.open_or_create(tmp_path / "identities")
    authority.issue_server(Role.DSI, "dsi", alias="server-dsi")
    member = MembersService("dsi-2", LOG_ID, dict)
    built = build_server(
        authority.issue_server(Role.DSI, "dsi-2", alias="server-dsi-2"),
        [
            Service("m", members_pb2_grpc.add_MembersServicer_to_server, member),
            Service("g", governance_pb2_grpc.add_GovernanceServicer_to_server, governance),
        ],
    )
    await built.start()
    yield built.port
    await built.stop(0)


def away(data_dir: Path) -> Callable[[], object]:
    """Take the key of `server-dsi` away; what puts it back."""
    key = data_dir / "identities/server-dsi" / KEY_FILE
    aside = key.rename(data_dir / KEY_FILE)
    return lambda: aside.rename(key)


async def until(holds: Callable[[], object]) -> None:
    while not holds():
        await asyncio.sleep(0.01)


async def test_without_its_key_a_new_channel_is_for_later(tmp_path: Path, port: int) -> None:
    channels = Channels(tmp_path / "identities/server-dsi")
    back = away(tmp_path)
    with pytest.raises(Pushback) as error:
        channels.to(f"127.0.0.1:{port}")
    assert error.value.reason is Reason.STARTING
    back()
    assert channels.to(f"127.0.0.1:{port}")
    await channels.close()


class AsksOnce(Members):
    """The naive members: the first surprise ends the asking."""

    async def _ask_for_ever(self) -> None:
        while True:
            await asyncio.sleep(0)
            await self._ask()


def opened(channels: Channels, target: str) -> Any:
    """The naive channel: a missing file is the caller's problem."""
    return connect(target, channels._identity.folder, CHANNEL, server_name=DEV_SERVER_NAME)


@pytest.mark.parametrize("naive", [False, True])
async def test_a_member_is_found_once_our_key_is_back(
    tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch, naive: bool
) -> None:
    monkeypatch.setattr("spine.dsi.members.ASK_EVERY_S", 0.0)
    if naive:
        monkeypatch.setattr(Channels, "to", opened)
    log = SimpleNamespace(log_id=LOG_ID)
    runtime: Any = SimpleNamespace(settings=Settings(data_dir=tmp_path), identity=log)
    members = (AsksOnce if naive else Members)(runtime, "dsi", "dsi")
    await members.start()
    back = away(tmp_path)
    with capture_logs() as lines:
        announce(tmp_path, "dsi-2", "127.0.0.1", port)
        asking = members._asking
        assert asking is not None
        await until(lambda: asking.done() or lines)
    back()
    assert asking.done() is naive
    if naive:
        assert isinstance(asking.exception(), OSError) and not members.peers
        return
    assert {line["event"] for line in lines} == {"member.unasked"}
    await until(lambda: members.peers)
    assert [peer.name for peer in members.peers] == ["dsi-2"]
    await members.close()


async def test_whatever_goes_wrong_the_others_are_asked_again(
    tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spine.dsi.members.ASK_EVERY_S", 0.0)
    log = SimpleNamespace(log_id=LOG_ID)
    runtime: Any = SimpleNamespace(settings=Settings(data_dir=tmp_path), identity=log)
    members = Members(runtime, "dsi", "dsi")
    await members.start()
    with monkeypatch.context() as patched, capture_logs() as lines:
        patched.setattr("spine.dsi.members.service_targets", lambda *_: 1 / 0)
        await until(lambda: lines)
    assert lines[0]["event"] == "members.unasked"
    announce(tmp_path, "dsi-2", "127.0.0.1", port)
    await until(lambda: members.peers)
    await members.close()


class TellsOnce(Holds):
    """The naive telling: what is no error of a call ends it."""

    async def _hold(self, target: str, request: Any) -> None:
        try:
            await super()._hold(target, request)
        except OSError as error:
            raise RuntimeError from error


@pytest.mark.parametrize("naive", [False, True])
async def test_a_hold_is_told_once_our_key_is_back(
    tmp_path: Path,
    port: int,
    governance: Governance,
    monkeypatch: pytest.MonkeyPatch,
    naive: bool,
) -> None:
    monkeypatch.setattr("spine.services.holds.TELL_AGAIN_S", 0.0)
    announce(tmp_path, "governance", "127.0.0.1", port)
    folds = {(QUARANTINE_TOPIC, 0): SimpleNamespace(listeners=[])}
    runtime = SimpleNamespace(settings=Settings(data_dir=tmp_path))
    process: Any = SimpleNamespace(folds=folds, runtime=runtime, name="dsi")
    holds = (TellsOnce if naive else Holds)(process)
    back = away(tmp_path)
    with capture_logs() as lines:
        holds.report(Excess("ACME", next(iter(Kind)), 2, 1))
        (telling,) = holds._telling
        await until(lambda: telling.done() or lines)
    back()
    if not naive:
        await telling
    assert governance.told == ([] if naive else ["ACME"])
    await holds.close()
