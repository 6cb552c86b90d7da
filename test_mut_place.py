import pytest
from tests.server.test_crowded import authority
from tests.server.test_crowded import test_one_party_does_not_get_all_streams_and_leaves_its_place as t
async def test_naive(authority, monkeypatch):
    from grpc.aio import _call
    monkeypatch.setattr(_call.Call, "cancel", lambda self: False)
    await t(authority)
