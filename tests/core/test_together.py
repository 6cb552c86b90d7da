"""Who asks at once shares a run, and nobody is told of one that began before it asked."""

from __future__ import annotations

import asyncio

import pytest

from spine.together import Together


async def test_who_asks_waits_for_a_run_that_began_after_it_asked() -> None:
    began: list[int] = []
    go = asyncio.Event()

    async def work() -> None:
        began.append(len(began))
        await go.wait()

    together = Together(work)
    first = asyncio.create_task(together())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert began == [0]
    late = [asyncio.create_task(together()) for _ in range(100)]
    await asyncio.sleep(0)
    assert began == [0] and not first.done()
    go.set()
    await asyncio.gather(first, *late)
    # One for the first and one for all others: who came late did not share the run under way.
    assert began == [0, 1]


async def test_what_fails_fails_for_all_who_asked_and_for_no_later_one() -> None:
    fails = [True, False]

    async def work() -> None:
        if fails.pop(0):
            raise OSError("out of reach")

    together = Together(work)
    said = await asyncio.gather(together(), together(), return_exceptions=True)
    assert [type(one) for one in said] == [OSError, OSError]
    await together()


async def test_who_goes_away_takes_nobody_along() -> None:
    go = asyncio.Event()
    together = Together(go.wait)  # type: ignore[arg-type]
    gone, stays = asyncio.create_task(together()), asyncio.create_task(together())
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.sleep(0)
    go.set()
    await stays
    with pytest.raises(asyncio.CancelledError):
        await gone
