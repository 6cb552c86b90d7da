"""The consumers coordinators, as a DSI server asks them to open what is sealed.

A DSI server has no keys. It calls under its own certificate, all of them at once, and only for as
long as the permit of the read lasts.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any, Final

import grpc
import structlog

from spine import trust
from spine.common.v1 import common_pb2
from spine.consumers.v1 import seals_pb2, seals_pb2_grpc
from spine.dsi.channels import Channels
from spine.errors import Pushback, Reason, Refused
from spine.event import Sealed
from spine.identity import SERVER_PREFIX
from spine.runtime import Runtime
from spine.sealing import Opened
from spine.server import error_from
from spine.whereabouts import service_targets

KEEPER: Final = "consumers"
# Of the time a permit has left; the rest is for passing the answer on.
SHARE: Final = 0.75
_log = structlog.get_logger()


class Keyholders:
    """Those of the data folder, and those at `addresses`, host:port. `name` is who asks."""

    def __init__(self, runtime: Runtime, name: str, addresses: Sequence[str]) -> None:
        self._data_dir = runtime.settings.data_dir
        self._channels = Channels(self._data_dir / "identities" / f"{SERVER_PREFIX}{name}")
        self._addresses = addresses

    async def open(
        self, sealed: Sequence[Sealed], place: tuple[int, int, int], until: float
    ) -> Opened:
        """The texts of what is sealed, for the read that it belongs to; asked until then
        (monotonic), not longer.

        `place`: partition, offset and entry of that request in the consumer log. Who opens all of
        it is believed at once, who opens the most if nobody does.

        Refused(SUBJECT_ERASED)  the consumer was erased
        Pushback  KEYS_NOT_AT_HAND: nobody who has the keys answers; PERMIT_EXPIRED
        """
        if (left := until - time.monotonic()) <= 0:
            raise Pushback(Reason.PERMIT_EXPIRED, "the permit ran out before anybody was asked")
        partition, offset, entry = place
        at = common_pb2.RecordRef(
            topic=trust.CONSUMER_LOG, partition=partition, offset=offset, entry=entry
        )
        here = service_targets(self._data_dir, KEEPER).values()
        targets = dict.fromkeys((*here, *self._addresses))
        asked = [
            asyncio.create_task(self._ask(target, at, len(sealed), left * SHARE))
            for target in targets
        ]
        found: list[Opened] = []
        try:
            for answered in asyncio.as_completed(asked):
                opened = await answered
                if opened is not None:
                    found.append(opened)
                    if None not in opened.texts:
                        return opened
        finally:
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
        if not found:
            raise Pushback(Reason.KEYS_NOT_AT_HAND, "nobody who has the keys answers just now")
        return min(found, key=lambda opened: opened.texts.count(None))

    async def _ask(self, target: str, at: Any, count: int, timeout_s: float) -> Opened | None:
        """What one of them says; None if it is of no use. Refused if the consumer was erased."""
        try:
            stub: Any = seals_pb2_grpc.SealsStub(self._channels.to(target))
            said = await stub.OpenSeals(seals_pb2.OpenSealsRequest(read=at), timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            failure = error_from(error)
            if failure.reason == Reason.SUBJECT_ERASED:  # so it is for every coordinator
                message = "what was sealed can be opened no more"
                raise Refused(Reason.SUBJECT_ERASED, message) from None
            _log.warning("seals.unopened", target=target, reason=failure.reason or failure.code)
            return None
        except Pushback as unfit:  # our own certificate is being put in place
            _log.warning("seals.unopened", target=target, reason=unfit.reason)
            return None
        if len(said.opened) != count:
            _log.warning("seals.unopened", target=target, reason="another number of fields")
            return None
        texts = tuple(one.text if one.HasField("text") else None for one in said.opened)
        return Opened(texts, said.digest, tuple(one.reason for one in said.opened))

    async def close(self) -> None:
        """Disconnect."""
        await self._channels.close()
