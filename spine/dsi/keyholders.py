"""The consumers coordinators, as a DSI server asks them to open what is sealed.

A DSI server has no keys. It calls under its own certificate, whoever keeps the vault that answers
first, and only for as long as the permit of the read lasts.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Final

import grpc

from spine import trust
from spine.common.v1 import common_pb2
from spine.consumers.v1 import seals_pb2, seals_pb2_grpc
from spine.dsi.members import CHANNEL
from spine.errors import Pushback, Reason, Refused
from spine.event import Sealed
from spine.identity import DEV_SERVER_NAME, SERVER_PREFIX
from spine.runtime import Runtime, service_targets
from spine.sealing import Opened
from spine.server import Failure, connect, error_from

KEEPER: Final = "consumers"


class Keyholders:
    """Those of the data folder, and those whose addresses are set. `name` is who asks."""

    def __init__(self, runtime: Runtime, name: str) -> None:
        self._data_dir = runtime.settings.data_dir
        self._identity = self._data_dir / "identities" / f"{SERVER_PREFIX}{name}"
        peers = (runtime.settings.consumers_peers or "").split(",")
        self._addresses = tuple(address.strip() for address in peers if address.strip())
        self._channels: dict[str, grpc.aio.Channel] = {}

    async def open(
        self,
        consumer_ref: str,
        sealed: Sequence[Sealed],
        place: tuple[int, int, int],
        until: float,
    ) -> Opened:
        """The texts of what is sealed for a consumer; asked until then (monotonic), not longer.

        `place`: partition, offset and entry of its permitted request in the consumer log.

        Refused(SUBJECT_ERASED)  the consumer was erased
        Pushback(KEYS_NOT_AT_HAND)  nobody who has the keys answers
        """
        partition, offset, entry = place
        request = seals_pb2.OpenSealsRequest(
            consumer_ref=consumer_ref,
            read=common_pb2.RecordRef(
                topic=trust.CONSUMER_LOG, partition=partition, offset=offset, entry=entry
            ),
            seals=[
                seals_pb2.Seal(
                    key_id=each.key_id,
                    nonce=each.nonce,
                    ciphertext=each.ciphertext,
                    context=each.context,
                )
                for each in sealed
            ],
        )
        here = service_targets(self._data_dir, KEEPER).values()
        for target in dict.fromkeys((*here, *self._addresses)):
            stub: Any = seals_pb2_grpc.SealsStub(self._channel(target))
            try:
                said = await stub.OpenSeals(request, timeout=max(0.0, until - time.monotonic()))
            except grpc.aio.AioRpcError as error:
                _unless_erased(error_from(error))
                continue
            texts = tuple(one.text if one.HasField("text") else None for one in said.opened)
            return Opened(texts, said.digest)
        raise Pushback(Reason.KEYS_NOT_AT_HAND, "nobody who has the keys answers just now")

    async def close(self) -> None:
        """Disconnect."""
        for channel in self._channels.values():
            await channel.close(None)

    def _channel(self, target: str) -> grpc.aio.Channel:
        if target not in self._channels:
            self._channels[target] = connect(
                target, self._identity, CHANNEL, server_name=DEV_SERVER_NAME
            )
        return self._channels[target]


def _unless_erased(failure: Failure) -> None:
    """Who was erased is so for every coordinator; after anything else another may be asked."""
    if failure.reason == Reason.SUBJECT_ERASED:
        raise Refused(Reason.SUBJECT_ERASED, "what was sealed can be opened no more")
