"""One at a time about each subject, however many ask and whoever gives up."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager

import pytest

from spine.turns import Turns

SUBJECTS = ("a", "b", "c", "d")


class NoTurns(Turns):
    """Naive: everybody at once."""

    @asynccontextmanager
    async def about(self, subjects: Collection[str]) -> AsyncIterator[None]:
        yield


async def most_at_once(turns: Turns, seed: int) -> int:
    """How many were about one subject at one time; some of them are cancelled on the way."""
    chance = random.Random(seed)
    under_way = dict.fromkeys(SUBJECTS, 0)
    most = 0

    async def one(subjects: Collection[str]) -> None:
        nonlocal most
        async with turns.about(subjects):
            for subject in subjects:
                under_way[subject] += 1
                most = max(most, under_way[subject])
            try:
                for _ in range(3):
                    await asyncio.sleep(0)
            finally:
                for subject in subjects:
                    under_way[subject] -= 1

    asked = [chance.sample(SUBJECTS, chance.randint(1, len(SUBJECTS))) for _ in range(40)]
    tasks = [asyncio.create_task(one(subjects)) for subjects in asked]
    for task in chance.sample(tasks, 10):
        await asyncio.sleep(0)
        task.cancel()
    await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 10)
    return most


@pytest.mark.parametrize("seed", range(20))
def test_a_subject_is_one_askers_at_a_time_and_nobody_waits_in_a_circle(seed: int) -> None:
    assert asyncio.run(most_at_once(Turns(), seed)) == 1


def test_without_turns_several_are_about_one_subject() -> None:
    assert asyncio.run(most_at_once(NoTurns(), 0)) > 1


def test_who_fails_gives_its_turn_back_and_others_need_not_wait_for_it() -> None:
    async def scene() -> None:
        turns = Turns()
        with pytest.raises(ZeroDivisionError):
            async with turns.about(("a", "b")), asyncio.timeout(10), turns.about(("c",)):
                raise ZeroDivisionError
        async with asyncio.timeout(10), turns.about(SUBJECTS):
            pass

    asyncio.run(scene())
