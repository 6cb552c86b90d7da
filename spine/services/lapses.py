"""Consent requests that nobody answered in time: closed by the coordinator when their time is up.

The heap holds one entry for each request ever seen open; whether one is still due is asked of the
state when its time comes, so an answered request costs nothing more.
"""

from __future__ import annotations

import asyncio
import heapq
from datetime import UTC, datetime, timedelta
from hashlib import sha256

import structlog

from domains.consumers.commands import LapseConsent
from domains.consumers.events import ConsentRequested, ConsentResumed
from spine.coordinator import Coordinator
from spine.errors import SpineError
from spine.event import LogRecord
from spine.live import LiveFold
from spine.orders import Order
from spine.policy import ConsentState, MeterAccess
from spine.rows import SUBJECT_PREFIX, Applied

AGAIN_AFTER = timedelta(seconds=5)
ROWS_A_TURN = 1_000
_log = structlog.get_logger()


class Lapses:
    """The open requests of every meter, by the time until which they may be answered."""

    def __init__(self, meters: Coordinator, folds: list[LiveFold]) -> None:
        self._meters, self._folds = meters, folds
        self._heap: list[tuple[datetime, str]] = []

    async def watch(self) -> None:
        """Know the open requests: those there are, and from now on those that come."""
        for live in self._folds:
            live.listeners.append(self._note)
        for live in self._folds:
            fold = live.stored.fold
            rows = fold.rows.scan(SUBJECT_PREFIX, SUBJECT_PREFIX + b"\xff")
            for number, (key, row) in enumerate(rows):
                _, _, access = fold.tools.unpack(row, self._meters.domain.row_type)
                self._push(key.removeprefix(SUBJECT_PREFIX).decode(), access)
                if number % ROWS_A_TURN == 0:
                    await asyncio.sleep(0)

    def _note(self, record: LogRecord, applied: Applied) -> None:
        for mpxn, event in applied.events:
            if isinstance(event, ConsentRequested | ConsentResumed):
                self._push(mpxn, self._meters.state(mpxn))

    def _push(self, mpxn: str, access: MeterAccess) -> None:
        for consent in access.consents:
            if consent.state is ConsentState.REQUESTED and consent.answer_by is not None:
                heapq.heappush(self._heap, (consent.answer_by, mpxn))

    async def lapse(self) -> None:
        """Close the requests whose time is up. One that cannot be closed now is tried again."""
        now = datetime.now(UTC)
        while self._heap and self._heap[0][0] <= now:
            _, mpxn = heapq.heappop(self._heap)
            for command in self._meters.domain.due(self._meters.state(mpxn), now):
                try:
                    await self._meters.handle(_order(mpxn, command))
                except SpineError as error:
                    _log.warning("consent.lapse_failed", reason=str(error.reason))
                    heapq.heappush(self._heap, (now + AGAIN_AFTER, mpxn))


def _order(mpxn: str, command: LapseConsent) -> Order:
    digest = sha256(command.consent_id.encode()).digest()
    return Order(mpxn, command, command.by, "LapseConsent", f"{command.consent_id}-{mpxn}", digest)
