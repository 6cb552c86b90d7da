"""What a command about a consent is answered with: its legs and receipts, or its dry run."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from domains.consumers import preview, receipts
from domains.consumers.commands import ConsumersCommand
from domains.consumers.evolve import find_consent, is_bar
from domains.consumers.views import shown_state
from spine.consumers.v1 import consumers_pb2
from spine.coordinator import Coordinator
from spine.domain import Actor
from spine.errors import Conflict, NotPermitted, Reason, Refused, SpineError
from spine.gb import FOR_EVER, parse_mpxn
from spine.in_force import reader_refusal
from spine.policy import Basis, Consent, MeterAccess, Role
from spine.services import wire
from spine.services.legs import LegDone
from spine.signing import Signer

# Who is told whose consent it is; a data user asks without knowing who lives there.
KEEPS_RECEIPTS: Final = frozenset({Role.CONSUMER, Role.CONSENT_SERVICE})


@dataclass(frozen=True, slots=True)
class ConsentAnswers:
    """Makes the legs of an answer from what the folds say of the meters."""

    meters: Coordinator
    log_id: bytes
    signer: Signer

    def leg(self, consent_id: str, done: LegDone, by: Actor) -> Any:
        """One leg as it was carried out, with a receipt of what was consented to."""
        access = self.meters.state(done.mpxn)
        consent = None if done.error else _known(access, consent_id)
        made = consumers_pb2.Leg(
            mpxn=done.mpxn,
            state=consent.state if consent is not None else "",
            version=consent.version if consent is not None else 0,
            refused=done.error.reason if done.error is not None else "",
            record=None if done.handled is None else wire.record_ref(done.handled),
        )
        # A request says nothing of what the consumer wants; its sender need not know who that is.
        given = consent is not None and consent.answer_by is None
        if consent is not None and given and done.handled and by.role in KEEPS_RECEIPTS:
            made.receipt = self._receipt(done.mpxn, access, consent)
        return made

    async def receipt(self, request: Any) -> Any:
        """The receipt of one leg for whom it concerns, after all that was acknowledged before.

        NotPermitted  ROLE_NOT_ALLOWED, NOT_PERMITTED: not the caller's, or no such consent
        Refused       CONSENT_NOT_ANSWERED: it was asked for and never granted
        """
        by, mpxn = wire.caller(), str(parse_mpxn(request.mpxn))
        consent_id = wire.identifier(request.consent_id, "consent_id")
        if by.role not in KEEPS_RECEIPTS:
            raise NotPermitted(Reason.ROLE_NOT_ALLOWED, "receipts are for consumers")
        # Before anything is appended for the caller; what it asks for may be yet to be folded.
        lived_there = {each.consumer_ref for each in self.meters.state(mpxn).tenancies}
        if by.role != Role.CONSENT_SERVICE and by.party not in lived_there:
            raise _no_such_consent()
        await self.meters.level(mpxn)
        access, consent = self._own(mpxn, consent_id, by)
        return consumers_pb2.GetReceiptResponse(
            receipt=self._receipt(mpxn, access, consent),
            version=consent.version,
            state=shown_state(consent, access, wire.now()),
        )

    def _own(self, mpxn: str, consent_id: str, by: Actor) -> tuple[MeterAccess, Consent]:
        access = self.meters.state(mpxn)
        consent = _known(access, consent_id)
        theirs = consent is not None and by.party == consent.consumer_ref
        if consent is None or not (theirs or by.role == Role.CONSENT_SERVICE):
            raise _no_such_consent()
        if consent.answer_by is not None:
            raise Refused(Reason.CONSENT_NOT_ANSWERED, "the request was never granted")
        return access, consent

    def _receipt(self, mpxn: str, access: MeterAccess, consent: Consent) -> str:
        """As of the meter's last applied entry: who folds the log so far finds the same."""
        fold = self.meters.live(mpxn).stored.fold
        row = fold.subject(mpxn)
        place = receipts.Place(self.log_id, fold.topic, fold.partition, row.offset, row.entry)
        by = receipts.SignedBy(self.signer.public_key, self.signer.private.sign)
        return receipts.receipt(place, mpxn, access, consent, wire.now(), by)

    async def dry_run(
        self,
        consent_id: str,
        mpxns: Sequence[str],
        leg: ConsumersCommand | Mapping[str, ConsumersCommand],
        by: Actor,
    ) -> Any:
        """What the command would come to at each meter; the first refusal if all refuse.

        `leg` is the command for every meter, or by meter what was ordered at home: nothing for a
        meter that is not in it.
        """
        legs, errors = [], list[SpineError]()
        for mpxn in mpxns:
            try:
                command = leg.get(mpxn) if isinstance(leg, Mapping) else leg
                legs.append(await self._rehearsed(consent_id, mpxn, command, by))
            except (Refused, Conflict) as error:
                errors.append(error)
                legs.append(consumers_pb2.Leg(mpxn=mpxn, refused=error.reason))
            await asyncio.sleep(0)  # others have their turn between the meters
        if len(errors) == len(legs):
            raise errors[0]
        return consumers_pb2.ConsentResponse(consent_id=consent_id, legs=legs)

    async def _rehearsed(
        self, consent_id: str, mpxn: str, command: ConsumersCommand | None, by: Actor
    ) -> Any:
        opens: tuple[preview.Opened, ...] = ()
        shuts: tuple[preview.Opened, ...] = ()
        refusal: Reason | None = None
        if command is None:
            found = _known(self.meters.state(mpxn), consent_id)
        else:
            done = await self.meters.rehearse(mpxn, command, by)
            found = _known(done.after, consent_id)
            opens, shuts = preview.changed(done.before, done.after, consent_id, done.now)
            if found is not None:
                fold = self.meters.live(mpxn).stored.fold
                who, purpose = found.data_user, found.purpose
                refusal = reader_refusal(fold, who, Basis.CONSENT, purpose, done.now)
        return consumers_pb2.Leg(
            mpxn=mpxn,
            state="" if found is None else found.state,
            version=0 if found is None else found.version,
            opens=[_opened(one) for one in opens],
            shuts=[_opened(one) for one in shuts],
            reads_refused=refusal or "",
        )


def _known(access: MeterAccess, consent_id: str) -> Consent | None:
    consent = find_consent(access, consent_id)
    return None if consent is None or is_bar(consent) else consent


def _no_such_consent() -> NotPermitted:
    return NotPermitted(Reason.NOT_PERMITTED, "the caller has no such consent there")


def _opened(one: preview.Opened) -> Any:
    made = consumers_pb2.Opened(purpose=one.purpose, category=one.category)
    ends = {
        "metered_from": one.metered.start,
        "metered_to": one.metered.end,
        "read_from": one.read.start,
        "read_until": one.read.end,
    }
    for field, at in ends.items():
        if at < FOR_EVER:
            getattr(made, field).FromDatetime(at)
    return made
