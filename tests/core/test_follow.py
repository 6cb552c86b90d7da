"""Whoever waits for a fold that Faust does not move has it read on, whenever it begins to wait."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from spine.follow import Followers
from spine.log import Kafka


class Late(dict[Any, Any]):
    """Forgets with the loop's next turn."""

    def pop(self, *of: Any) -> Any:
        return asyncio.get_running_loop().call_soon(super().pop, *of)


@pytest.mark.parametrize("how", ["ours", "naive"])
async def test_who_begins_to_wait_as_the_last_reader_ends_is_read_on_for(
    monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Naive: a reader that has found nobody waiting still counts until the loop's next turn."""
    reads = 0

    async def read_on(_: Any, live: Any) -> bool:
        nonlocal reads
        reads += 1
        live.waited_for = False
        return True

    monkeypatch.setattr("spine.follow.healed", read_on)
    live: Any = SimpleNamespace(place=("t", 0), waited_for=False, by_faust=False)
    followers = Followers(Kafka("nowhere:1"), {}, asyncio.create_task)
    if how == "naive":
        followers._fetching = Late()

    def begin_to_wait() -> None:
        live.waited_for = True
        followers._fetch(live)

    followers._fetch(live)
    asyncio.get_running_loop().call_soon(begin_to_wait)
    await asyncio.sleep(0.05)
    assert reads == (1 if how == "ours" else 0)
    await followers.close()
