"""What a command about a consent is answered with: its legs and receipts, or its dry run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from domains.consumers import preview, receipts
from domains.consumers.commands import ConsumersCommand
from domains.consumers.evolve import find_consent, is_bar
from spine.consumers.v1 import consumers_pb2
from spine.coordinator import Coordinator
from spine.domain import Actor
from spine.errors import SpineError
from spine.policy import Consent, MeterAccess, Role
from spine.services import wire
from spine.services.legs import LegDone
from spine.signing import Signer

# Who is told whose consent it is; a data user asks without knowing who lives there.
KEEPS_RECEIPTS: Final = frozenset({Role.CONSUMER, Role.CONSENT_SERVICE})

LegOf = Callable[[MeterAccess], ConsumersCommand]


@dataclass(frozen=True, slots=True)
class ConsentAnswers:
    """Makes the legs of an answer from what the folds say of the meters."""

    meters: Coordinator
    log_id: bytes
    signer: Signer

    def leg(self, consent_id: str, done: LegDone, by: Actor) -> Any:
        """One leg as it was carried out, with a receipt for who keeps one."""
        consent = None if done.error else _known(self.meters.state(done.mpxn), consent_id)
        made = consumers_pb2.Leg(
            mpxn=done.mpxn,
            state=consent.state if consent is not None else "",
            version=consent.version if consent is not None else 0,
            refused=done.error.reason if done.error is not None else "",
            record=None if done.handled is None else wire.record_ref(done.handled),
        )
        if consent is not None and done.handled is not None and by.role in KEEPS_RECEIPTS:
            made.receipt = self._receipt(done.mpxn, consent)
        return made

    def _receipt(self, mpxn: str, consent: Consent) -> str:
        """As of the meter's last applied entry: who folds the log so far finds the same."""
        fold = self.meters.live(mpxn).stored.fold
        row = fold.subject(mpxn)
        place = receipts.Place(self.log_id, fold.topic, fold.partition, row.offset, row.entry)
        signer = self.signer
        return receipts.receipt(place, mpxn, consent, signer.public_key, signer.private.sign)

    async def dry_run(self, consent_id: str, mpxns: Sequence[str], leg: LegOf, by: Actor) -> Any:
        """What the command would come to at each meter; the first refusal if all refuse."""
        legs, errors = [], []
        for mpxn in mpxns:
            try:
                legs.append(await self._rehearsed(consent_id, mpxn, leg, by))
            except SpineError as error:
                errors.append(error)
                legs.append(consumers_pb2.Leg(mpxn=mpxn, refused=error.reason))
        if len(errors) == len(legs):
            raise errors[0]
        return consumers_pb2.ConsentResponse(consent_id=consent_id, legs=legs)

    async def _rehearsed(self, consent_id: str, mpxn: str, leg: LegOf, by: Actor) -> Any:
        command = leg(self.meters.state(mpxn))
        found = await self.meters.rehearse(mpxn, command, by)
        consent = _known(found.after, consent_id)
        if consent is None:
            return consumers_pb2.Leg(mpxn=mpxn)
        before, after = (
            preview.opened(access, consent.data_user, found.now)
            for access in (found.before, found.after)
        )
        return consumers_pb2.Leg(
            mpxn=mpxn,
            state=consent.state,
            version=consent.version,
            opens=[_opened(one) for one in preview.difference(after, before)],
            shuts=[_opened(one) for one in preview.difference(before, after)],
        )


def _known(access: MeterAccess, consent_id: str) -> Consent | None:
    consent = find_consent(access, consent_id)
    return None if consent is None or is_bar(consent) else consent


def _opened(one: preview.Opened) -> Any:
    made = consumers_pb2.Opened(purpose=one.purpose, category=one.category)
    ends = {
        "metered_from": one.metered.start,
        "metered_to": one.metered.end,
        "read_from": one.read.start,
        "read_until": one.read.end,
    }
    for field, at in ends.items():
        if at < preview.FOR_EVER:
            getattr(made, field).FromDatetime(at)
    return made
