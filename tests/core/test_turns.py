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


class AsLocksAreFree(Turns):
    """Naive: whoever finds all of its subjects free takes them, whoever waits."""

    def __init__(self) -> None:
        super().__init__()
        self._taken: set[str] = set()
        self._freed = asyncio.Condition()

    @asynccontextmanager
    async def about(self, subjects: Collection[str]) -> AsyncIterator[None]:
        async with self._freed:
            await self._freed.wait_for(lambda: self._taken.isdisjoint(subjects))
            self._taken |= set(subjects)
        try:
            yield
        finally:
            self._taken -= set(subjects)
            async with self._freed:
                self._freed.notify_all()


async def waited_for(turns: Turns, one: Collection[str], others: int) -> int:
    """How many turns others had before one who asks for all of these, when each wants more."""
    had = 0
    stop = asyncio.Event()

    async def again_and_again(subject: str) -> None:
        nonlocal had
        while not stop.is_set():
            async with turns.about((subject,)):
                had += 1
                await asyncio.sleep(0.001)

    busy = [asyncio.create_task(again_and_again(SUBJECTS[n % 4])) for n in range(others)]
    await asyncio.sleep(0.01)
    before = had
    try:
        async with asyncio.timeout(1), turns.about(one):
            return had - before
    except TimeoutError:
        return had - before
    finally:
        stop.set()
        await asyncio.gather(*busy)


@pytest.mark.parametrize("subjects", [("a",), SUBJECTS])
def test_who_asks_first_is_first_however_much_it_asks_for(subjects: Collection[str]) -> None:
    assert asyncio.run(waited_for(Turns(), subjects, others=8)) <= 8


def test_by_what_is_free_alone_a_bulk_waits_for_ever() -> None:
    assert asyncio.run(waited_for(AsLocksAreFree(), SUBJECTS, others=8)) > 100


def test_who_gives_up_lets_nobody_pass_whom_it_stood_behind() -> None:
    async def scene() -> list[str]:
        turns, order = Turns(), list[str]()

        async def one(name: str, held_s: float) -> None:
            async with turns.about(("a",)):
                order.append(f"{name} begins")
                await asyncio.sleep(held_s)
                order.append(f"{name} ends")

        first = asyncio.create_task(one("first", 0.1))
        await asyncio.sleep(0)
        gives_up = asyncio.create_task(one("second", 0))
        await asyncio.sleep(0)
        third = asyncio.create_task(one("third", 0))
        await asyncio.sleep(0)
        gives_up.cancel()
        await asyncio.gather(first, third)
        return order

    assert asyncio.run(scene()) == ["first begins", "first ends", "third begins", "third ends"]
