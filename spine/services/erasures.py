"""The Erasures service of `proto/spine/consumers/v1`: destroys keys, and keeps them destroyed.

First the fact, then the deed: whoever reads that a subject is erased may find its key for the time
the deed takes, and a process that is killed between the two carries it out when it starts again.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Final

import structlog

from domains.consumers.erasure import EraseSubject, Erasure, Standing
from spine.consumers.v1 import consumers_pb2, consumers_pb2_grpc
from spine.coordinator import Coordinator
from spine.domain import Actor
from spine.errors import SpineError
from spine.orders import Order
from spine.policy import Role
from spine.rows import SUBJECT_PREFIX
from spine.runtime import Process
from spine.sealing import Vault
from spine.server import Service
from spine.services import wire
from spine.services.background import every

END_RESTRICTIONS_EVERY_S: Final = 3.0
_log = structlog.get_logger()


class Erasures:
    """Every subject that was erased or restricted, as the fold of this process has it."""

    def __init__(self, home: Coordinator, vault: Vault, name: str) -> None:
        self._home, self._vault = home, vault
        self._by = Actor(Role.COORDINATOR, name)

    async def carry_out(self) -> None:
        """Destroy the key of everybody who is erased, whatever a copy has brought back."""
        erased = [ref for ref, erasure in self._known() if erasure.standing == Standing.ERASED]
        await asyncio.to_thread(self._vault.destroy_all, erased)

    async def end_restrictions(self) -> None:
        """Erase those whose legal duty is over, and carry out what is decided."""
        now = datetime.now(UTC)
        for consumer_ref, erasure in self._known():
            if erasure.standing != Standing.RESTRICTED or erasure.keep_until is None:
                continue
            if erasure.keep_until <= now:
                order = Order(
                    consumer_ref,
                    EraseSubject(self._by, consumer_ref),
                    self._by,
                    "EraseSubject",
                    f"{consumer_ref}-{erasure.duty}",
                    sha256(consumer_ref.encode()).digest(),
                )
                try:
                    await self._home.handle(order)
                except SpineError as error:
                    _log.warning("erasure.failed", reason=str(error.reason))
        await self.carry_out()

    def _known(self) -> list[tuple[str, Erasure]]:
        fold = self._home.live("").stored.fold
        rows = fold.rows.scan(SUBJECT_PREFIX, SUBJECT_PREFIX + b"\xff")
        return [
            (
                key.removeprefix(SUBJECT_PREFIX).decode(),
                fold.tools.unpack(row, self._home.domain.row_type)[2],
            )
            for key, row in rows
        ]


async def erasures(process: Process, home: Coordinator, vault: Vault) -> Service:
    """The service; by the time this returns, every key that is to be gone is gone."""
    known = Erasures(home, vault, process.name)
    await known.carry_out()
    every(process, END_RESTRICTIONS_EVERY_S, known.end_restrictions)
    return Service(
        consumers_pb2.DESCRIPTOR.services_by_name["Erasures"].full_name,
        consumers_pb2_grpc.add_ErasuresServicer_to_server,
        ErasuresService(home, vault, process.runtime.identity.log_id),
    )


class ErasuresService(consumers_pb2_grpc.ErasuresServicer):
    """Takes requests for erasure."""

    def __init__(self, home: Coordinator, vault: Vault, log_id: bytes) -> None:
        self._home, self._vault, self._log_id = home, vault, log_id

    async def EraseSubject(self, request: Any, context: Any) -> Any:
        """Nothing opens any more what was sealed for the subject, now or after a legal duty."""
        by = wire.caller()
        consumer_ref = wire.identifier(request.consumer_ref, "consumer_ref")
        command = EraseSubject(
            by,
            consumer_ref,
            wire.optional_code(request.duty, "duty"),
            wire.optional_instant(request, "keep_until"),
        )
        order = wire.order(request, "EraseSubject", consumer_ref, command, by)
        handled = await self._home.handle(order)
        state: Erasure = self._home.state(consumer_ref)
        if state.standing == Standing.ERASED:
            await asyncio.to_thread(self._vault.destroy, consumer_ref)
        return consumers_pb2.EraseSubjectResponse(
            positions=wire.position_token(self._log_id, [wire.past(handled)]),
            record=wire.record_ref(handled),
            replayed=handled.replayed,
            standing=state.standing,
            duty=state.duty,
            keep_until=None if state.keep_until is None else wire.stamp(state.keep_until),
        )
