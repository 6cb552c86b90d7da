"""What the consumers coordinator seals of a request before there is a command of it.

Names, contacts, notice texts and the personal part of a consent's record come in clear over TLS.
They are sealed under the key of the consumer reference that they are about, and so is the digest
by which a repeated request is known: who knows all else of one could try names on a bare digest.
A request for consent names no consumer, and others may live there when it is sent again: its digest
leaves out what is sealed, under nobody's key.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from hashlib import sha256
from typing import Any, Final

from domains.consumers.commands import ConsentTerms
from domains.consumers.record import RecordTerms
from spine.admission import is_dry_run
from spine.coordinator import Coordinator
from spine.domain import Actor
from spine.event import Sealed
from spine.orders import Order
from spine.policy import Role
from spine.sealing import Vault
from spine.services import terms, wire

# No consumer reference is this short, so nobody ever lives under it.
NOBODY: Final = "-"
_READERS: Final = (Role.DATA_USER, Role.SUPPLIER)


class RequestSealing:
    """Seals under the keys of this vault. `meters` say who is accredited as what."""

    def __init__(self, vault: Vault, meters: Coordinator) -> None:
        self._vault, self._meters = vault, meters

    async def person(self, request: Any, tenancy_id: str, subject: str) -> Sealed | None:
        """Who moved in; None if that is not said."""
        person = terms.person(request)
        if not any(person.values()):
            return None
        return await self._sealed(subject, f"person/{tenancy_id}", _plain(person))

    async def terms(
        self, request: Any, consent_id: str, data_user: str, consumer_ref: str
    ) -> ConsentTerms:
        """The terms with the notice. A dry run seals nothing, and nobody has no key."""
        text = terms.notice_text(request)
        sealed = None
        if text and consumer_ref != NOBODY and not is_dry_run(request):
            sealed = await self._sealed(consumer_ref, f"notice/{consent_id}", text.encode())
        return replace(
            terms.agreed(request, data_user, consumer_ref),
            notice_hash=sha256(text.encode()).digest() if text else b"",
            notice_language=terms.language(request),
            notice=sealed,
        )

    async def record(self, request: Any, consent_id: str, agreed: ConsentTerms) -> RecordTerms:
        """The rest of the record, with the data user's tier as it is now."""
        said, plain = terms.record(request), terms.details(request)
        subject, meter = agreed.consumer_ref, terms.mpxns(request)[0]
        said = replace(said, tier=tier_of(self._meters, meter, agreed.data_user, agreed.purpose))
        if not plain or subject == NOBODY or is_dry_run(request):
            return said
        text = _plain(plain)
        digest = await asyncio.to_thread(self._vault.keyed, subject, sha256(text).digest())
        sealed = await self._sealed(subject, f"record/{consent_id}", text)
        return replace(said, details=sealed, details_digest=digest)

    async def order(
        self, request: Any, method: str, subject: str, command: Any, by: Actor, about: str
    ) -> Order:
        """The order of a request; its digest is keyed if something is sealed of whom it names.

        That it names: else the same request, sent again after a move, would be another one, and its
        sender would learn by that of the move.
        """
        order = wire.order(request, method, subject, command, by)
        if not says_what_is_sealed(request):
            return order
        if "consumer_ref" not in request.DESCRIPTOR.fields_by_name:
            return replace(order, digest=_digest_of_the_rest(request))
        keyed = await asyncio.to_thread(self._vault.keyed, about, order.digest)
        return replace(order, digest=keyed)

    async def _sealed(self, subject: str, context: str, plaintext: bytes) -> Sealed:
        return await asyncio.to_thread(self._vault.seal, subject, context, plaintext)


def says_what_is_sealed(request: Any) -> bool:
    """Whether a request names a person or the personal part of a record.

    A notice is what a data user shows to everybody; its SHA-256 stands in clear.
    """
    fields = request.DESCRIPTOR.fields_by_name
    if "person" in fields:
        return any(terms.person(request).values())
    return "record" in fields and bool(terms.details(request))


def tier_of(meters: Coordinator, mpxn: str, party: str, purpose: str) -> str:
    """The party's accreditation to read for that purpose, as scheme and tier; empty if none."""
    participant, now = meters.live(mpxn).stored.fold.participant(party), wire.now()
    held = () if participant is None else participant.accreditations
    fits = [a for a in held if a.role in _READERS and a.live_at(now) and a.is_for(purpose)]
    return f"{fits[0].scheme} {fits[0].tier}".strip() if fits else ""


def _digest_of_the_rest(request: Any) -> bytes:
    """Of a request but for the personal part of its record."""
    rest = type(request)()
    rest.CopyFrom(request)
    for name in terms.DETAILS:
        rest.record.ClearField(name)
    return wire.request_digest(rest)


def _plain(said: dict[str, str]) -> bytes:
    return json.dumps(said, ensure_ascii=False).encode()
