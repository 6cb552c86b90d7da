"""Organisations that governance has accredited, in every partition of a log."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from domains.governance.commands import AdmitParticipant, GrantAccreditation, subject_of
from domains.governance.decider import GOVERNANCE, tightens
from spine import trust
from spine.coordinator import Coordinator
from spine.domain import Actor
from spine.event import SignerRole
from spine.orders import Order
from spine.policy import Role
from spine.runtime import Process, Runtime
from spine.spread import Spreader

HEARD_WITHIN_S = 30.0
BOARD = Actor(Role.GOVERNANCE, "governance-board")
SINCE = datetime(2010, 1, 1, tzinfo=UTC)


async def accredit(runtime: Runtime, *parties: tuple[Role, str]) -> None:
    """Admit these parties and accredit them for these roles; returns once every partition knows."""
    await govern(
        runtime,
        *(
            command
            for role, party in parties
            for command in (
                AdmitParticipant(BOARD, party, party),
                GrantAccreditation(BOARD, party, role, "DSI", "1", (), SINCE),
            )
        ),
    )


async def govern(runtime: Runtime, *commands: Any) -> None:
    """Carry out these commands of governance; returns once every partition knows.

    A process that runs already reads there in its own time: see `heard_by`.
    """
    board = Process(runtime, "board")
    folds = await board.fold([trust.GOVERNANCE_TOPIC])
    writer = runtime.writer(board.appender, SignerRole.GOVERNANCE, "board")
    home = Coordinator(GOVERNANCE, folds, writer, runtime.partitions, tightens)
    for command in commands:
        key = f"{type(command).__name__}-{command.party}"
        await home.handle(Order(subject_of(command), command, BOARD, "setup", key, bytes(32)))
    progress = runtime.settings.data_dir / "board.json"
    spreader = Spreader(writer, GOVERNANCE, runtime.partitions, progress)
    reader = runtime.reader()
    spreader.load(reader, runtime.codec)
    reader.close()
    await spreader.spread()
    await board.stop()


async def heard_by(*processes: Process) -> None:
    """Return once these have folded all that the log holds now."""
    for process in processes:
        assert process.folds is not None
        await process.folds.level(HEARD_WITHIN_S)
