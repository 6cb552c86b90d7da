import pytest
from spine.dsi import forwarding
from old_fwd import between, test_a_connection_that_never_comes_is_not_waited_for_once_the_server_is_gone as t
@pytest.fixture(autouse=True)
def naive(monkeypatch):
    async def waits(peer, work):
        return await work
    monkeypatch.setattr(forwarding, "_unless_gone", waits)
@pytest.mark.parametrize("n", range(1))
async def test_naive(between, n):
    import time; b=time.monotonic(); await t(between); print("took", time.monotonic()-b)
