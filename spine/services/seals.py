"""The Seals service of `proto/spine/consumers/v1`: what is sealed, for the consumer it is about.

The keys stay here. A DSI server has decided and logged the consumer's read before it asks; it says
where, sends the sealed bytes and is told what they say, to be passed on while its permit lasts.
"""

from __future__ import annotations

import asyncio
from typing import Any

from domains.consumers.erasure import Erasure, Standing
from domains.consumers.personal import FIELDS_MAX
from spine.consumers.v1 import seals_pb2, seals_pb2_grpc
from spine.coordinator import Coordinator
from spine.errors import Invalid, NotPermitted, Pushback, Reason, Refused
from spine.event import Sealed
from spine.policy import Role
from spine.runtime import Process
from spine.sealing import Vault
from spine.server import Service, current_caller
from spine.services import wire
from spine.services.logged_reads import LoggedReads


def seals(process: Process, home: Coordinator, vault: Vault) -> Service:
    """The service. `home` is that of erasures, whose facts go before what is in the vault."""
    return Service(
        seals_pb2.DESCRIPTOR.services_by_name["Seals"].full_name,
        seals_pb2_grpc.add_SealsServicer_to_server,
        SealsService(LoggedReads(process), home, vault),
    )


class SealsService(seals_pb2_grpc.SealsServicer):
    """Opens what is sealed for who is not erased."""

    def __init__(self, reads: LoggedReads, home: Coordinator, vault: Vault) -> None:
        self._reads, self._home, self._vault = reads, home, vault

    async def OpenSeals(self, request: Any, context: Any) -> Any:
        """The texts, and their digest under the consumer's key.

        NotPermitted  ROLE_NOT_ALLOWED: it is no DSI server that asks; NOT_PERMITTED: the log holds
                      no such read of the consumer
        Refused(SUBJECT_ERASED)  the log says so, or the vault
        Pushback(KEYS_NOT_AT_HAND)  the vault has no key of the consumer, who is not erased
        """
        if current_caller().role is not Role.DSI:
            raise NotPermitted(Reason.ROLE_NOT_ALLOWED, "only DSI servers have seals opened")
        consumer_ref = wire.identifier(request.consumer_ref, "consumer_ref")
        if not 1 <= len(request.seals) <= FIELDS_MAX:
            message = f"1 to {FIELDS_MAX} sealed fields"
            raise Invalid(Reason.REQUEST_TOO_LARGE, message, field="seals")
        await self._reads.check(request.read, consumer_ref)
        erasure: Erasure = self._home.state(consumer_ref)
        if erasure.standing == Standing.ERASED:
            raise Refused(Reason.SUBJECT_ERASED, "the consumer was erased")
        sealed = [Sealed(s.key_id, s.nonce, s.ciphertext, s.context) for s in request.seals]
        opened = await asyncio.to_thread(self._vault.open_for, consumer_ref, sealed)
        if opened is None:
            raise Pushback(Reason.KEYS_NOT_AT_HAND, "the vault has no key of the consumer")
        return seals_pb2.OpenSealsResponse(
            opened=[{} if text is None else {"text": text} for text in opened.texts],
            digest=opened.digest,
        )
