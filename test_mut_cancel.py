"""Nobody cancels: 'closed as soon as its caller is gone' and 'leaves its place' must fail."""
import grpc.aio, pytest
from tests.server.test_server import *
from tests.server.test_server import test_a_handler_is_closed_as_soon_as_its_caller_is_gone as t
for n in [n for n in globals() if n.startswith("test_")]: del globals()[n]
async def test_naive(dsi, handlers, monkeypatch):
    from grpc.aio import _call
    monkeypatch.setattr(_call.UnaryStreamCall, "cancel", lambda self: False)
    monkeypatch.setattr(_call.Call, "cancel", lambda self: False)
    await t(dsi, handlers)
