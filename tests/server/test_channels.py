"""Under which certificate a process calls others, once its own was renewed."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from spine.dsi.channels import Channels
from spine.identity import Authority
from spine.policy import Role
from tests.helpers.certificates import DAY, issued, serving, status, wrong_key


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.open_or_create(tmp_path / "identities")


@pytest.mark.parametrize("naive", [False, True])
async def test_calls_to_others_are_made_under_the_renewed_certificate(
    authority: Authority, monkeypatch: pytest.MonkeyPatch, naive: bool
) -> None:
    folder = issued(authority, monkeypatch, -DAY).folder
    if naive:  # a channel is kept for as long as its target is
        monkeypatch.setattr(Channels, "_look", lambda _: None)
    async with serving(authority.issue_server(Role.COORDINATOR, "consumers")) as port:
        target = f"127.0.0.1:{port}"
        channels = Channels(folder)
        assert await status(channels.to(target)) is grpc.StatusCode.UNAVAILABLE
        issued(authority, monkeypatch, DAY)
        late = grpc.StatusCode.UNAVAILABLE if naive else grpc.StatusCode.OK
        assert await status(channels.to(target)) is late
        assert channels.to(target) is channels.to(target)
        await channels.close()


async def test_a_call_that_was_begun_before_a_renewal_goes_on(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = issued(authority, monkeypatch, DAY).folder
    async with serving(authority.issue_server(Role.COORDINATOR, "consumers")) as port:
        channels = Channels(folder)
        former = channels.to(f"127.0.0.1:{port}")
        watch = health_pb2_grpc.HealthStub(former).Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        issued(authority, monkeypatch, 2 * DAY)
        assert channels.to(f"127.0.0.1:{port}") is not former
        for _ in range(10):
            await asyncio.sleep(0)
        assert not watch.done()
        watch.cancel()
        await channels.close()


async def test_half_a_renewal_keeps_the_channel(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = issued(authority, monkeypatch, DAY).folder
    async with serving(authority.issue_server(Role.COORDINATOR, "consumers")) as port:
        channels = Channels(folder)
        former = channels.to(f"127.0.0.1:{port}")
        wrong_key(folder, authority, monkeypatch)
        assert channels.to(f"127.0.0.1:{port}") is former
        assert await status(former) is grpc.StatusCode.OK
        await channels.close()
