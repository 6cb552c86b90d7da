"""Who shares a record with whom: what takes something away, and strangers, always go alone."""

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from domains.governance.commands import AdmitParticipant, SuspendParticipant
from domains.governance.decider import GOVERNANCE, tightens
from spine.coordinator import Coordinator
from spine.domain import Actor
from spine.errors import Reason, Refused, SpineError
from spine.orders import Handled
from spine.policy import Role
from spine.sharing import SHARED_MAX, SharingCoordinator

BOARD, STRANGER = Actor(Role.GOVERNANCE, "board"), Actor(Role.SUPPLIER, "SUPP")
REFUSED = Refused(Reason.METER_EXISTS, "no")


def order(number: int, by: Actor = BOARD, *, suspends: bool = False) -> Any:
    party = f"party-{number}"
    command = SuspendParticipant(by, party, "X") if suspends else AdmitParticipant(by, party, "x")
    return SimpleNamespace(number=number, subject=party, command=command, actor=by)


@pytest.fixture
def records(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The numbers of the orders that were carried out together, one list for each record."""
    made: list[list[int]] = []

    async def together(_: Any, orders: Sequence[Any]) -> list[Handled | SpineError]:
        made.append([each.number for each in orders])
        await asyncio.sleep(0.01)
        return [REFUSED if each.number % 10 == 7 else _handled(each.number) for each in orders]

    async def alone(_: Any, one: Any) -> Handled:
        made.append([one.number])
        await asyncio.sleep(0.01)
        return _handled(one.number)

    monkeypatch.setattr(Coordinator, "handle_all", together)
    monkeypatch.setattr(Coordinator, "handle", alone)
    return made


def _handled(number: int) -> Handled:
    return Handled("governance.events.v1", 0, number, 0, False)


def coordinator() -> SharingCoordinator:
    nothing: Any = None
    return SharingCoordinator(GOVERNANCE, nothing, nothing, 4, tightens)


async def test_what_comes_meanwhile_shares_and_each_gets_its_own_answer(
    records: list[list[int]],
) -> None:
    home = coordinator()
    first = asyncio.create_task(home.handle(order(0)))
    await asyncio.sleep(0.005)
    later = [order(number) for number in range(1, 30)]
    answers = await asyncio.gather(*map(home.handle, later), return_exceptions=True)
    assert (await first).offset == 0
    assert records[0] == [0]
    assert sorted(n for record in records for n in record) == list(range(30))
    assert max(map(len, records)) == SHARED_MAX and len(records) == 4
    for one, answer in zip(later, answers, strict=True):
        if one.number % 10 == 7:
            assert answer is REFUSED, "and nobody else is refused with it"
        else:
            assert isinstance(answer, Handled) and answer.offset == one.number


async def test_what_nobody_foresaw_is_told_to_those_of_its_record_alone(
    records: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    together = Coordinator.handle_all

    async def fails(of: Any, orders: Sequence[Any]) -> list[Handled | SpineError]:
        if any(each.number == 15 for each in orders):
            raise ZeroDivisionError
        return await together(of, orders)

    monkeypatch.setattr(Coordinator, "handle_all", fails)
    home = coordinator()
    first = asyncio.create_task(home.handle(order(0)))
    await asyncio.sleep(0.005)
    later = [home.handle(order(number)) for number in range(1, 30)]
    answers = await asyncio.gather(*later, return_exceptions=True)
    assert (await first).offset == 0
    failed = [n for n, answer in enumerate(answers, 1) if isinstance(answer, ZeroDivisionError)]
    assert failed == list(range(SHARED_MAX + 1, 2 * SHARED_MAX + 1))


async def test_a_suspension_and_a_stranger_wait_for_nobody(records: list[list[int]]) -> None:
    home = coordinator()
    waiting = [home.handle(order(n)) for n in range(5)]
    alone = [home.handle(order(98, suspends=True)), home.handle(order(99, STRANGER))]
    await asyncio.gather(*waiting, *alone)
    assert [98] in records and [99] in records


async def test_who_goes_away_takes_nothing_with_it(records: list[list[int]]) -> None:
    home = coordinator()
    gone = asyncio.create_task(home.handle(order(1)))
    stays = asyncio.create_task(home.handle(order(2)))
    await asyncio.sleep(0)
    gone.cancel()
    assert (await stays).offset == 2
    assert records == [[1, 2]]
