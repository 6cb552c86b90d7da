"""What waits is sent in order at each meter, until it is taken, and nobody waits for another."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domains.consumers.changes import FIRST_RETRY, LAST_RETRY, send
from spine.services import pushing
from spine.services.pushing import EACH_MAX, UNANSWERED, Outcome, Pusher

BEGUN: Final = datetime(2026, 1, 1, tzinfo=UTC)
NO: Final = (Outcome.REFUSED, Outcome.SILENT, Outcome.FORBIDDEN)


@dataclass(frozen=True)
class Item:
    """What is told."""

    id: str


@dataclass
class World:
    """Receivers with what waits for them, a clock, and answers that a test gives when it likes."""

    waiting: dict[str, dict[str, list[Item]]]
    now: datetime = BEGUN
    under_way: dict[tuple[str, str], asyncio.Future[Outcome]] = field(default_factory=dict)
    sent: list[tuple[str, str, Item, datetime]] = field(default_factory=list)
    taken: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    silent: set[str] = field(default_factory=set)
    broken: list[str] = field(default_factory=list)  # an engine survives what a sending raises

    def __post_init__(self) -> None:
        self.pusher: Pusher[str, Item] = Pusher(
            lambda: self.waiting,
            lambda route: {m: items for m, items in self.waiting[route].items() if items},
            self.deliver,
            lambda: self.now,
            lambda: 0.0,
        )

    async def deliver(self, route: str, mpxn: str, item: Item) -> Outcome:
        if (route, mpxn) in self.under_way:
            self.broken.append("two at a time at a meter")
        elif self.waiting[route][mpxn][:1] != [item]:
            self.broken.append("not the first that waits")
        elif route in self.silent and self.to(route):
            self.broken.append("two at a time to who is silent")
        self.sent.append((route, mpxn, item, self.now))
        answer: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self.under_way[route, mpxn] = answer
        try:
            outcome = await answer
        finally:
            self.under_way.pop((route, mpxn), None)
        (self.silent.add if outcome in UNANSWERED else self.silent.discard)(route)
        if outcome is Outcome.TAKEN:
            self.waiting[route][mpxn].pop(0)
            self.taken.setdefault((route, mpxn), []).append(item.id)
        return outcome

    async def turn(self) -> None:
        self.pusher.turn()
        await rest()
        assert self.broken == []

    async def answer(self, outcome: Outcome, *places: tuple[str, str]) -> None:
        for place in places or tuple(self.under_way):
            self.under_way[place].set_result(outcome)
        await rest()

    def to(self, route: str) -> list[str]:
        return [mpxn for to, mpxn in self.under_way if to == route]

    @property
    def left(self) -> bool:
        return any(items for meters in self.waiting.values() for items in meters.values())


async def rest() -> None:
    """Until every task has gone as far as it can."""
    for _ in range(5):
        await asyncio.sleep(0)


def items(*counts: int) -> dict[str, list[Item]]:
    """So many at each meter."""
    return {
        f"m-{meter}": [Item(f"m-{meter}/{n}") for n in range(number)]
        for meter, number in enumerate(counts)
    }


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("wait"), st.integers(0, 700)),
        st.tuples(st.sampled_from(list(Outcome)), st.integers(0, 20)),
    ),
    max_size=40,
)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=12), st.integers(0, 3), STEPS)
def test_whatever_is_answered_each_meter_is_told_everything_in_order_and_once_taken_no_more(
    counts: list[int], others: int, steps: list[tuple[str, int]]
) -> None:
    async def run() -> None:
        world = World({"a": items(*counts), "b": items(others)})
        expected = {
            (route, mpxn): [item.id for item in waiting]
            for route, meters in world.waiting.items()
            for mpxn, waiting in meters.items()
            if waiting
        }
        for step, number in steps:
            if step == "wait":
                world.now += timedelta(seconds=number)
            elif world.under_way:
                places = list(world.under_way)
                await world.answer(Outcome(step), places[number % len(places)])
            await world.turn()
            assert all(len(world.to(route)) <= EACH_MAX for route in world.waiting)
        while world.left or world.under_way:  # who answers at last is told all of it
            await world.answer(Outcome.TAKEN)
            world.now += LAST_RETRY
            await world.turn()
        assert world.taken == expected

    asyncio.run(run())


@pytest.mark.parametrize("no", NO)
async def test_what_is_not_taken_is_sent_again_with_growing_waits_however_long(no: Outcome) -> None:
    world = World({"a": items(1)})
    for _ in range(600):
        await world.turn()
        await world.answer(no) if world.under_way else None
        world.now += timedelta(seconds=1)
    at = [sent_at for *_, sent_at in world.sent]
    waits = [later - earlier for earlier, later in pairwise(at)]
    assert waits == [FIRST_RETRY * 2**n for n in range(len(waits))], "from 5 s, doubled"
    world.now += timedelta(hours=72)
    world.sent.clear()
    await world.turn()
    await world.answer(no)
    world.now += LAST_RETRY
    await world.turn()
    assert len(world.sent) == 2, "and never more than ten minutes"


async def test_the_next_of_a_meter_goes_out_only_when_the_first_is_taken() -> None:
    world = World({"a": items(2, 1)})
    await world.turn()
    assert sorted(item.id for *_, item, _ in world.sent) == ["m-0/0", "m-1/0"]
    await world.answer(Outcome.REFUSED, ("a", "m-0"))
    await world.answer(Outcome.TAKEN, ("a", "m-1"))
    await world.turn()
    assert len(world.sent) == 2, "the second does not overtake"
    world.now += FIRST_RETRY
    await world.turn()
    await world.answer(Outcome.TAKEN)
    await world.turn()
    assert [item.id for *_, item, _ in world.sent[2:]] == ["m-0/0", "m-0/1"], "and follows at once"


async def one_queue(world: World) -> None:
    """The naive engine: everything for everybody, one after the other."""
    for route, meters in world.waiting.items():
        for mpxn, waiting in meters.items():
            while waiting:
                await world.deliver(route, mpxn, waiting[0])


async def through(engine: Callable[[World], asyncio.Task[None] | None]) -> World:
    """A receiver that never answers, and one that answers at once."""
    world = World({"silent": items(*[1] * 100), "prompt": items(*[2] * 20)})
    task = engine(world)
    for _ in range(40):
        if task is None:
            world.pusher.turn()
        await rest()
        if places := [("prompt", mpxn) for mpxn in world.to("prompt")]:
            await world.answer(Outcome.TAKEN, *places)
    if task is not None:
        task.cancel()
    await world.pusher.close()
    return world


async def test_a_silent_receiver_holds_up_nobody_and_in_one_queue_everybody() -> None:
    told = (await through(lambda _: None)).taken
    assert sum(len(ids) for ids in told.values()) == 40
    naive = await through(lambda world: asyncio.ensure_future(one_queue(world)))
    assert naive.taken == {}


async def test_a_silent_receiver_is_tried_with_one_and_told_all_when_it_is_back() -> None:
    world = World({"a": items(*[1] * 20)})
    await world.turn()
    assert len(world.to("a")) == EACH_MAX
    await world.answer(Outcome.SILENT)
    await world.turn()
    assert world.to("a") == [], "not before its wait is over"
    tried = set()
    for _ in range(5):
        world.now += LAST_RETRY
        await world.turn()
        (mpxn,) = world.to("a")
        tried.add(mpxn)
        await world.answer(Outcome.SILENT)
    assert len(tried) == 5, "no meter alone keeps the others from being tried"
    world.now += LAST_RETRY
    await world.turn()
    await world.answer(Outcome.TAKEN)
    await world.turn()
    assert len(world.to("a")) == EACH_MAX, "and all at once again"


async def test_silent_receivers_have_places_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pushing, "SILENT_MAX", 2)
    monkeypatch.setattr(pushing, "ANSWERING_MAX", 3)
    silent = {f"silent-{n}": items(1) for n in range(3)}
    world = World(silent)
    for _ in range(3):
        await world.turn()
        await world.answer(Outcome.SILENT)
    world.now += LAST_RETRY
    await world.turn()
    assert len(world.under_way) == 2
    world.waiting["prompt"] = items(*[1] * 5)
    await world.turn()
    assert len(world.to("prompt")) == 3
    await world.answer(Outcome.TAKEN, *(("prompt", mpxn) for mpxn in world.to("prompt")))
    await world.turn()
    assert len(world.to("prompt")) == 2, "while the silent ones still have theirs"
    await world.pusher.close()


async def test_a_no_holds_up_its_meter_only() -> None:
    world = World({"a": items(1, 3)})
    for _ in range(4):
        await world.turn()
        for mpxn in world.to("a"):
            outcome = Outcome.REFUSED if mpxn == "m-0" else Outcome.TAKEN
            await world.answer(outcome, ("a", mpxn))
    assert world.taken == {("a", "m-1"): ["m-1/0", "m-1/1", "m-1/2"]}


async def test_however_many_are_refused_those_behind_them_are_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pushing, "LOOKED_AT_MAX", 2)
    world = World({"a": items(*[1] * 9)})
    for _ in range(5):
        await world.turn()
        for mpxn in world.to("a"):
            outcome = Outcome.TAKEN if mpxn == "m-8" else Outcome.REFUSED
            await world.answer(outcome, ("a", mpxn))
    assert world.taken == {("a", "m-8"): ["m-8/0"]}


def beyond_all_sent(line: Any, waiting: Any) -> Iterator[str]:
    """The naive turn: so many meters besides all those at which something was sent already."""
    return islice(waiting, pushing.LOOKED_AT_MAX + len(line.sent))


@pytest.mark.parametrize("naive", [False, True])
async def test_what_was_refused_makes_no_turn_longer(
    monkeypatch: pytest.MonkeyPatch, naive: bool
) -> None:
    monkeypatch.setattr(pushing, "LOOKED_AT_MAX", 10)
    if naive:
        monkeypatch.setattr(pushing, "_looked_at", beyond_all_sent)
    looked_at: list[int] = []

    def counted(*given: Any) -> Any:
        looked_at[-1] += 1
        return send(*given)

    monkeypatch.setattr(pushing, "send", counted)
    world = World({"a": items(*[1] * 200)})
    while len(world.sent) < 200:  # a receiver that says no to everything
        looked_at.append(0)
        await world.turn()
        await world.answer(Outcome.REFUSED)
    assert (max(looked_at) > 10) is naive


async def test_what_waits_no_more_is_forgotten() -> None:
    world = World({"a": items(*[1] * 20)})
    for _ in range(4):
        await world.turn()
        await world.answer(Outcome.REFUSED)
    line = world.pusher._lines["a"]
    assert len(line.sent) == 20
    for waiting in list(world.waiting["a"].values())[5:]:
        waiting.clear()
    for _ in range(2):
        await world.turn()
    assert set(line.sent) == {f"m-{n}" for n in range(5)}


async def test_a_receiver_that_is_gone_or_was_told_elsewhere_is_sent_nothing_more() -> None:
    world = World({"a": items(1), "b": items(1)})
    await world.turn()
    await world.answer(Outcome.REFUSED)
    world.waiting["a"]["m-0"].clear()
    del world.waiting["b"]
    world.now += LAST_RETRY
    await world.turn()
    assert len(world.sent) == 2
    assert world.pusher.last("a") == (Outcome.REFUSED, BEGUN)
    assert world.pusher.last("b") is None


async def test_a_sending_that_breaks_waits_like_one_without_an_answer() -> None:
    world = World({"a": items(1)})
    await world.turn()
    world.under_way["a", "m-0"].set_exception(RuntimeError("a bug of an adapter"))
    await rest()
    assert world.pusher.last("a") == (Outcome.SILENT, BEGUN)
    world.now += FIRST_RETRY
    await world.turn()
    assert len(world.sent) == 2


async def test_turns_are_taken_by_themselves_and_at_once_when_a_place_is_free(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pushing, "TURN_EVERY_S", 3_600)
    monkeypatch.setattr(pushing, "PAUSE_S", 0)
    world = World({"a": items(*[1] * (EACH_MAX + 4))})
    running = asyncio.ensure_future(world.pusher.run())
    while world.left:
        await asyncio.sleep(0)
        await world.answer(Outcome.TAKEN)
    running.cancel()
    await world.pusher.close()
    assert len(world.taken) == EACH_MAX + 4
