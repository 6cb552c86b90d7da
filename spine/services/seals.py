"""The Seals service of `proto/spine/consumers/v1`: what is sealed, for the consumer it is about.

The keys stay here. A DSI server has decided and logged the consumer's read before it asks; it says
where, and is told what the sealed fields of that read say, to be passed on while its permit lasts.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any, Final

from domains.consumers.erasure import Erasure, Standing
from spine.consumers.v1 import seals_pb2, seals_pb2_grpc
from spine.coordinator import Coordinator
from spine.dsi.members import only_servers
from spine.errors import Pushback, Reason, Refused
from spine.runtime import Process
from spine.sealing import Vault
from spine.server import Service, current_caller
from spine.services.logged_reads import LoggedReads
from spine.together import Together

CLOSED_RETRY_S: Final = 60.0


def seals(process: Process, home: Coordinator, vault: Vault) -> Service:
    """The service. `home` is that of erasures, whose facts go before what is in the vault."""
    assert process.folds is not None
    return Service(
        seals_pb2.DESCRIPTOR.services_by_name["Seals"].full_name,
        seals_pb2_grpc.add_SealsServicer_to_server,
        SealsService(LoggedReads(process.folds.folds), home, vault),
    )


class SealsService(seals_pb2_grpc.SealsServicer):
    """Opens what is sealed for who is not erased."""

    def __init__(self, reads: LoggedReads, home: Coordinator, vault: Vault) -> None:
        self._reads, self._home, self._vault = reads, home, vault
        # Erasures have one partition: whoever asks at once waits for the same record.
        self._level = Together(partial(home.level, ""))

    async def OpenSeals(self, request: Any, context: Any) -> Any:
        """The texts, or why there is none, and their digest under the consumer's key.

        NotPermitted  ROLE_NOT_ALLOWED: it is no DSI server that asks; NOT_PERMITTED: the log holds
                      no such read of a consumer, logged by that server
        Refused(SUBJECT_ERASED)  the log says so, or the vault
        Pushback(KEYS_NOT_AT_HAND)  the vault has no key of the consumer, who is not erased; with
                      the fold's reason, another build may know that it is
        """
        only_servers()
        consumer_ref, page = await self._reads.take(request.read, current_caller().party)
        await self._level()
        self._check_not_erased(consumer_ref)
        opened = await asyncio.to_thread(self._vault.open_for, consumer_ref, page.sealed)
        if opened is None:
            raise Pushback(Reason.KEYS_NOT_AT_HAND, "the vault has no key of the consumer")
        return seals_pb2.OpenSealsResponse(
            opened=[
                {"reason": why} if text is None else {"text": text}
                for text, why in zip(opened.texts, opened.shut, strict=True)
            ],
            digest=opened.digest,
        )

    def _check_not_erased(self, consumer_ref: str) -> None:
        closed = self._home.live(consumer_ref).stored.fold.closed(consumer_ref)
        if closed is not None:
            message = "this build does not understand what the log says of the consumer"
            raise Pushback(closed, message, retry_after_s=CLOSED_RETRY_S)
        erasure: Erasure = self._home.state(consumer_ref)
        if erasure.standing == Standing.ERASED:
            raise Refused(Reason.SUBJECT_ERASED, "the consumer was erased")
