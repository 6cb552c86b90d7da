"""One of two servers is killed, twenty times over: its partitions are answered for by the other.

No part of `make test`, where `tests/e2e/test_servers.py` kills one: `make fault` names this file.
"""

from __future__ import annotations

import pytest

from spine.console import context
from tests.helpers.judging import judge
from tests.helpers.servers import TAKEOVER_S, kill_again_and_again, say, two_servers

KILLS = 20


@pytest.mark.timeout(600)
def test_a_killed_server_is_answered_for_within_seconds() -> None:
    with two_servers() as spine:
        taken = kill_again_and_again(spine, KILLS, say)
        judged, disagreed = judge(context.runtime())
    assert judged > KILLS
    assert disagreed == []
    assert len(taken) == KILLS
    assert max(taken) < TAKEOVER_S
