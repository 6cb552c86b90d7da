"""Commands of the board that come while others are on their way go into the log together.

A home record is copied to every partition of every topic, so what many commands cost is what their
records cost. Whatever takes something away goes alone and at once, as ever.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Final

from spine.coordinator import Coordinator
from spine.orders import Handled, Order
from spine.policy import Role
from spine.together import Together

# So many of the largest requests that there can be fit into one record, and into its copies.
SHARED_MAX: Final = 12


class SharingCoordinator(Coordinator):
    """A coordinator of governance whose `handle` shares records; answers are those of one alone."""

    @cached_property
    def _waiting(self) -> list[tuple[Order, list[Handled | Exception]]]:
        """The commands that wait to be carried out, each with where its answer goes."""
        return []

    @cached_property
    def _carry_out(self) -> Together:
        return Together(self._carry_out_waiting)

    async def handle(self, order: Order) -> Handled:
        """Carry out one command; raises as `Coordinator.handle` does."""
        if self._tightens(order.command) or order.actor.role != Role.GOVERNANCE:
            return await super().handle(order)
        told: list[Handled | Exception] = []
        self._waiting.append((order, told))
        await self._carry_out()
        (answer,) = told
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def _carry_out_waiting(self) -> None:
        waiting, self._waiting = self._waiting, []
        for start in range(0, len(waiting), SHARED_MAX):
            some = waiting[start : start + SHARED_MAX]
            answers: Sequence[Handled | Exception]
            try:
                answers = await self.handle_all([order for order, _ in some])
            except Exception as error:  # of these; others are carried out, and told what became
                answers = [error] * len(some)
            for (_, told), answer in zip(some, answers, strict=True):
                told.append(answer)
