"""What the readings processes refused is kept by the metering coordinator, which asks them for it.

They sign nothing, and their stores need not be where the coordinator is. Each is asked again and
again: those of the data folder, and those at the addresses that are set.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import grpc
import structlog

from spine import trust
from spine.dsi.channels import PATIENT, Channels
from spine.dsi.v1 import quarantined_pb2, quarantined_pb2_grpc
from spine.errors import SpineError
from spine.identity import SERVER_PREFIX
from spine.log_thread import ReaderThread
from spine.quarantine import Listed, QuarantineKeeper
from spine.runtime import Process
from spine.services.background import every
from spine.whereabouts import addresses, service_targets
from spine.writer import LogWriter

READINGS_PROCESS: Final = "readings"
LOOK_EVERY_S: Final = 5.0
CALL_S: Final = 10.0
Keep = Callable[[Sequence[Listed]], Awaitable[None]]
_log = structlog.get_logger()


class QuarantinedReadings:
    """Asks every readings process for what it has not told yet, and has it kept."""

    def __init__(self, process: Process, keep: Keep) -> None:
        self._process, self._keep = process, keep
        identities = process.runtime.settings.data_dir / "identities"
        self._channels = Channels(identities / f"{SERVER_PREFIX}{process.name}", PATIENT)
        self._last: dict[str, dict[int, Any]] = {}
        self._failing: dict[str, str] = {}

    async def look(self) -> None:
        """Ask each once. Who does not answer, or what cannot be kept now, is asked the next time,
        and named once; the others are asked all the same.
        """
        settings = self._process.runtime.settings
        here = service_targets(settings.data_dir, READINGS_PROCESS).values()
        for target in dict.fromkeys((*here, *addresses(settings.readings_peers))):
            try:
                channel = self._channels.to(target)
                await self._ask(target, quarantined_pb2_grpc.QuarantinedStub(channel))
            except grpc.aio.AioRpcError as error:
                self._failed("quarantine.unasked", target, error.code().name)
            except SpineError as error:
                self._failed("quarantine.unkept", target, str(error))
            else:
                self._failing.pop(target, None)

    def _failed(self, event: str, target: str, reason: str) -> None:
        if self._failing.get(target) != reason:
            _log.warning(event, target=target, reason=reason)
        self._failing[target] = reason

    async def close(self) -> None:
        """Disconnect."""
        await self._channels.close()

    async def _ask(self, target: str, stub: Any) -> None:
        """Keep what one of them lists. What was kept is not asked for again; after a failure, it
        is.
        """
        last = self._last.setdefault(target, {})
        while True:
            request = quarantined_pb2.ListQuarantinedRequest(last=last.values())
            said = await stub.ListQuarantined(request, timeout=CALL_S)
            if said.log_id != self._process.runtime.identity.log_id or not said.entries:
                return
            await self._keep(
                [
                    Listed(trust.READINGS_TOPIC, told.partition, told.offset, told.entry, told.rule)
                    for told in said.entries
                ]
            )
            for told in said.entries:
                told.ClearField("rule")
                last[told.partition] = told


def keep_quarantined_readings(process: Process, writer: LogWriter) -> None:
    """Keep what the readings processes quarantine; once the process has its certificate."""
    keeper, log = QuarantineKeeper(writer), ReaderThread(process.runtime.kafka)
    process.on_end(log.close)
    asked = QuarantinedReadings(process, lambda listed: keeper.keep(listed, log))
    process.on_end(asked.close)
    every(process, LOOK_EVERY_S, asked.look)
