"""The Webhooks service of `proto/spine/consumers/v1`, and what is sent where it says.

A webhook is one more way to be told of changes: the same ones, in the same order, until they are
acknowledged. An answer of 2xx is the receiver's acknowledgement and becomes the same fact as a call
of AcknowledgeChange. Every coordinator sends; a receiver knows repeats by the id of the change.
"""

from __future__ import annotations

import json
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from hashlib import sha256
from typing import Any, Final

import structlog

from domains.consumers.changes import Change
from domains.consumers.webhooks import (
    SENT_TO,
    SUBJECTS,
    Removal,
    RemoveWebhook,
    SetWebhook,
    Webhook,
    checked_url,
    may_be_told,
    subject_of,
    webhook,
)
from spine import telemetry
from spine import webhook as wire_form
from spine.consumers.v1 import consumers_pb2, consumers_pb2_grpc
from spine.coordinator import Coordinator
from spine.domain import Actor
from spine.errors import NotPermitted, Reason, SpineError
from spine.event import LogRecord, SignerRole
from spine.gb import iso_milliseconds
from spine.identifiers import Kind
from spine.orders import Handled, Order
from spine.policy import Role
from spine.rows import SUBJECT_PREFIX, Applied
from spine.runtime import Process
from spine.server import Service
from spine.services import wire
from spine.services.announcing import acknowledge
from spine.services.background import every
from spine.services.courier import Courier, trusted_authorities
from spine.services.outstanding import Outstanding
from spine.services.pushing import Outcome, Pusher
from spine.services.translation import Party
from spine.signing import Signer, sign

MESSAGE_TYPE: Final = "consent.changed"
NOTICE_TYPE: Final = "consent.notice"
_log = structlog.get_logger()


class Webhooks:
    """Every webhook, as the fold of this process has it."""

    def __init__(self, home: Coordinator) -> None:
        self._home = home
        self._set: dict[str, Webhook] = {}

    def watch(self) -> None:
        """Take in every webhook there is, and from now on each that is set or removed."""
        live = self._home.live("")
        start = SUBJECT_PREFIX + SUBJECTS.encode()
        for key, _ in live.stored.fold.rows.scan(start, start + b"\xff"):
            self._take_in(key.removeprefix(SUBJECT_PREFIX).decode())
        live.listeners.append(self._on_facts)

    @property
    def routes(self) -> frozenset[Webhook]:
        """Where there is somebody to tell."""
        return frozenset(self._set.values())

    def of(self, receiver: Actor) -> Webhook | None:
        """The webhook of a receiver."""
        return self._set.get(subject_of(receiver))

    def told(self, party: str) -> bool:
        """Whether a party has a webhook, in whatever role."""
        return any(self.of(Actor(role, party)) for role in (Role.DATA_USER, Role.DATA_SERVICE))

    def _on_facts(self, record: LogRecord, applied: Applied) -> None:
        for subject, _ in applied.events:
            self._take_in(subject)

    def _take_in(self, subject: str) -> None:
        found = webhook(subject, self._home.state(subject))
        if found is not None:
            self._set[subject] = found
        else:
            self._set.pop(subject, None)


def message(change: Change, now: datetime, told: Party | None = None) -> bytes:
    """What is sent of a change, in JSON: whom it is for, and the fields of ChangeTold.

    One key signs for everybody, so the receiver is in what is signed: a message that was sent to
    somebody else is not taken for one's own. It holds no meter data. To a party with identifiers of
    its own, those, and not since when; the time is that of the sending.
    """
    named = change if told is None else _named(change, told)
    since = {"since": iso_milliseconds(change.since)} if told is None else {}
    data = {
        "receiver": named.receiver,
        "told_as": named.told_as,
        "change_id": named.id,
        "mpxn": named.mpxn,
        "consent_id": named.consent_id,
        "version": named.version,
        "state": named.state,
        **since,
        "overdue": named.overdue(now),
    }
    kind = NOTICE_TYPE if change.is_notice else MESSAGE_TYPE
    at = change.since if told is None else now.replace(microsecond=0)
    said = {"type": kind, "timestamp": iso_milliseconds(at), "data": data}
    return json.dumps(said, separators=(",", ":")).encode()


def _named(change: Change, told: Party) -> Change:
    return replace(
        change,
        id=told.named(Kind.CHANGE, change.id),
        mpxn=told.named(Kind.METER, change.mpxn),
        consent_id=told.named(Kind.CONSENT, change.consent_id),
    )


def shown(outcome: Outcome) -> Outcome:
    """What a receiver is told of it: not whether a name leads into our networks or to nobody, or
    it could learn what is in them by setting one name after another.
    """
    return Outcome.SILENT if outcome is Outcome.FORBIDDEN else outcome


async def _by_mpxn(receiver: Actor) -> Party | None:
    return None


class Deliveries:
    """Sends changes to webhooks, signed with the coordinator's key, and records what was taken."""

    def __init__(
        self,
        known: Outstanding,
        webhooks: Webhooks,
        home: Coordinator,
        courier: Courier,
        signer: Signer,
        name: str,
        withheld: Callable[[Actor], bool],
        told_as: Callable[[Actor], Awaitable[Party | None]] = _by_mpxn,
    ) -> None:
        self._known, self._webhooks, self._home = known, webhooks, home
        self._courier, self._signer, self._withheld = courier, signer, withheld
        self._told_as = told_as
        self._by = Actor(Role.COORDINATOR, name)
        self.pusher: Pusher[Webhook, Change] = Pusher(
            lambda: self._webhooks.routes,
            self._waiting,
            self._deliver,
            wire.now,
            random.random,
        )

    @property
    def public_key(self) -> str:
        """The key that receivers check by, as Standard Webhooks writes it."""
        return wire_form.key_text(self._signer.public_key)

    def _waiting(self, to: Webhook) -> Mapping[str, Sequence[Change]]:
        """What waits; nothing while it is withheld, and all of it afterwards."""
        waiting = self._known.waiting(to.receiver)
        return {} if waiting and self._withheld(to.receiver) else waiting

    async def _deliver(self, to: Webhook, mpxn: str, change: Change) -> Outcome:
        now, told = wire.now(), await self._told_as(to.receiver)
        body = message(change, now, told)
        by_key = partial(sign, self._signer.private)
        sent_as = change.id if told is None else told.named(Kind.CHANGE, change.id)
        headers = wire_form.signed_headers(sent_as, int(now.timestamp()), body, by_key)
        outcome = await self._courier.post(to.url, headers, body)
        telemetry.webhook_deliveries.add(1, {"outcome": str(outcome)})
        self._note(to, outcome)
        try:
            if outcome is Outcome.TAKEN:
                await acknowledge(self._known, self._home, to.receiver, change)
            elif outcome is Outcome.GONE:
                await self._remove(to)
        except SpineError as error:  # it is sent again, and the receiver knows it by its id
            _log.warning("webhook.unrecorded", outcome=str(outcome), reason=str(error.reason))
        return outcome

    def _note(self, to: Webhook, outcome: Outcome) -> None:
        """Log it where it differs from the last of that receiver."""
        last = self.pusher.last(to)
        if (Outcome.TAKEN if last is None else last[0]) is not outcome:
            _log.info("webhook.outcome", receiver=to.receiver.party, outcome=str(outcome))

    async def _remove(self, to: Webhook) -> Handled:
        """No longer send to what is gone; one that was set meanwhile stays."""
        subject = subject_of(to.receiver)
        at = self._home.state(subject).decided_at
        command = RemoveWebhook(self._by, to.receiver, Removal.GONE, to.url)
        digest = sha256(to.url.encode()).digest()
        key = sha256(f"{to.url} {at}".encode()).hexdigest()
        return await self._home.handle(
            Order(subject, command, self._by, "RemoveWebhook", key, digest)
        )


class WebhooksService(consumers_pb2_grpc.WebhooksServicer):
    """Lets each receiver say where it wants to be told."""

    def __init__(
        self, webhooks: Webhooks, home: Coordinator, deliveries: Deliveries, log_id: bytes
    ) -> None:
        self._webhooks, self._home = webhooks, home
        self._deliveries, self._log_id = deliveries, log_id

    async def SetWebhook(self, request: Any, context: Any) -> Any:
        """Tell the caller there from now on, and nowhere else by webhook."""
        by = self._receiver()
        command = SetWebhook(by, checked_url(request.url))
        return await self._handled(request, "SetWebhook", command, by)

    async def RemoveWebhook(self, request: Any, context: Any) -> Any:
        """Send the caller nothing more; what waits for it goes on waiting."""
        by = self._receiver()
        return await self._handled(request, "RemoveWebhook", RemoveWebhook(by, by), by)

    async def GetWebhook(self, request: Any, context: Any) -> Any:
        """Where the caller is told, by which key to check it, and how the last sending ended."""
        found = self._webhooks.of(self._receiver())
        answer = consumers_pb2.GetWebhookResponse(public_key=self._deliveries.public_key)
        if found is not None:
            answer.url = found.url
            if (last := self._deliveries.pusher.last(found)) is not None:
                answer.last_outcome = str(shown(last[0]))
                answer.last_sent.CopyFrom(wire.stamp(last[1]))
        return answer

    async def _handled(self, request: Any, method: str, command: Any, by: Actor) -> Any:
        order = wire.order(request, method, subject_of(by), command, by)
        handled = await self._home.handle(order)
        return consumers_pb2.CommandResponse(**wire.recorded(self._log_id, handled))

    def _receiver(self) -> Actor:
        by = wire.caller()
        if by.role not in SENT_TO:
            raise NotPermitted(Reason.ROLE_NOT_ALLOWED, "this role has no webhook")
        return by


def delivering(
    process: Process,
    known: Outstanding,
    webhooks: Webhooks,
    said: Coordinator,
    keyed: Coordinator,
) -> Service:
    """The service, and the sending in the background: what is taken is recorded through `said`,
    what a caller commands through `keyed`.
    """
    settings = process.runtime.settings
    trusted = trusted_authorities(settings.webhook_ca)
    courier = Courier(trusted, wire_form.networks(settings.webhook_networks or ""))
    signer = process.runtime.signer(SignerRole.CONSUMERS)
    assert process.admission is not None
    holds = process.admission.holds

    def withheld(receiver: Actor) -> bool:
        """For who is held, to whom no server says anything, and for who is accredited no more."""
        participant = said.live("").stored.fold.participant(receiver.party)
        return holds(receiver.party) or not may_be_told(participant, receiver, wire.now())

    async def told_as(receiver: Actor) -> Party | None:
        return await process.pairwise.of(Role(receiver.role), receiver.party)

    deliveries = Deliveries(known, webhooks, said, courier, signer, process.name, withheld, told_as)
    process.on_end(courier.close)
    process.on_end(deliveries.pusher.close)
    every(process, 0.0, deliveries.pusher.run)
    return Service(
        consumers_pb2.DESCRIPTOR.services_by_name["Webhooks"].full_name,
        consumers_pb2_grpc.add_WebhooksServicer_to_server,
        WebhooksService(webhooks, keyed, deliveries, process.runtime.identity.log_id),
    )
