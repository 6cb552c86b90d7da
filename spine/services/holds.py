"""Parties that are held, as one process knows them: from the log, and from what it saw itself.

What goes past a threshold here is held here at once and told to the governance coordinator, which
puts it into the log (`domains.governance.holds`); from there every server learns of it. While
governance cannot be reached the party stays held here, and telling it is tried again.
"""

from __future__ import annotations

import asyncio
import os
from typing import Final

import grpc
import structlog

from domains.governance.holds import PartyHeld, PartyReleased
from spine import trust
from spine.errors import SpineError
from spine.event import LogRecord
from spine.governance.v1 import governance_pb2, governance_pb2_grpc
from spine.identity import DEV_SERVER_NAME, SERVER_PREFIX
from spine.limits import Excess
from spine.rows import Applied
from spine.runtime import Process, admission_of
from spine.server import connect
from spine.whereabouts import addresses, service_targets

KEEPER: Final = "governance"
TELL_AGAIN_S: Final = 1.0
CALL_S: Final = 10.0
KNOWN_MAX: Final = 10_000
_log = structlog.get_logger()


class Holds:
    """Who is held, for the admission of one process that folds `quarantine.v1`."""

    def __init__(self, process: Process) -> None:
        assert process.folds is not None
        self._process = process
        self._live = process.folds[trust.QUARANTINE_TOPIC, 0]
        self._telling: set[asyncio.Task[None]] = set()
        self._known: dict[str, bool] = {}
        self._known_at = -1
        self.admission = admission_of(process.runtime.settings, self.held, self.report)
        self._live.listeners.append(self._on_record)

    def held(self, party: str) -> bool:
        """Whether the log has the party held, or says something of it that this build cannot read.

        Closed by default: a party about which nothing is known for sure is not served. Asked before
        each chunk of a stream, so what the fold says is kept until it folds another record.
        """
        if self._known_at != self._live.next_offset or len(self._known) >= KNOWN_MAX:
            self._known, self._known_at = {}, self._live.next_offset
        known = self._known.get(party)
        if known is None:
            fold = self._live.stored.fold
            known = fold.closed(party) is not None or bool(fold.subject(party).state.held)
            self._known[party] = known
        return known

    def report(self, excess: Excess) -> None:
        """Have the party held everywhere."""
        task = asyncio.create_task(self._tell(excess))
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)

    async def close(self) -> None:
        """Stop telling; what was not told is found again by whoever serves the party next."""
        for task in set(self._telling):
            task.cancel()
            await asyncio.wait({task})

    def _on_record(self, record: LogRecord, applied: Applied) -> None:
        for party, event in applied.events:
            if isinstance(event, PartyHeld | PartyReleased):
                self.admission.settled(party)

    async def _tell(self, excess: Excess) -> None:
        request = governance_pb2.HoldPartyRequest(
            idempotency_key=os.urandom(16).hex(),
            party=excess.party,
            kind=excess.kind,
            counted=excess.counted,
            threshold=excess.threshold,
        )
        while True:
            reason = "nothing says where governance is"
            for target in self._targets():
                try:
                    await self._hold(target, request)
                    return
                except (grpc.RpcError, SpineError, OSError) as error:
                    reason = str(error)[:200]
            _log.warning("hold.not_told", party=excess.party, reason=reason)
            await asyncio.sleep(TELL_AGAIN_S)

    def _targets(self) -> list[str]:
        """host:port of governance: of the data folder, or else elsewhere."""
        settings = self._process.runtime.settings
        here = service_targets(settings.data_dir, KEEPER).values()
        return list(dict.fromkeys((*here, *addresses(settings.governance_peers))))

    async def _hold(self, target: str, request: governance_pb2.HoldPartyRequest) -> None:
        data_dir = self._process.runtime.settings.data_dir
        identity = data_dir / "identities" / f"{SERVER_PREFIX}{self._process.name}"
        async with connect(target, identity, server_name=DEV_SERVER_NAME) as channel:
            stub = governance_pb2_grpc.GovernanceStub(channel)
            answer = await stub.HoldParty(request, timeout=CALL_S)
        for position in answer.positions.positions:
            await self._live.passed(position.offset - 1, CALL_S)
        self.admission.settled(request.party)


def watch_holds(process: Process) -> None:
    """Have the process answer nothing of parties that are held; before it serves."""
    holds = Holds(process)
    process.admission = holds.admission
    process.on_end(holds.close)
