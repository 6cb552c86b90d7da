"""What receivers say for themselves: that they took a change in, deleted, and where to tell them.

The domain value of `consumers.acknowledgements.v1`. It is apart from the consumer log, because no
read is decided by any of it.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

from domains.consumers import changes, deletions, webhooks
from domains.consumers.changes import AcknowledgeChange, Acknowledgement, ChangeAcknowledged
from domains.consumers.deletions import ConfirmDeletion, DeletionConfirmed
from domains.consumers.webhooks import WebhookRemoved, WebhookSet
from spine import trust
from spine.domain import Domain
from spine.event import SignerRole

Command = AcknowledgeChange | ConfirmDeletion | webhooks.WebhookCommand
Event = ChangeAcknowledged | DeletionConfirmed | webhooks.WebhookEvent


def tightens(command: Command) -> bool:
    """Whether it opens nothing, so that a suspended participant can give it too."""
    return not isinstance(command, webhooks.SetWebhook)


def decide(state: Acknowledgement, command: Command, now: datetime) -> tuple[Event, ...]:
    """The fact of an accepted command, by the rules of what it is about."""
    match command:
        case AcknowledgeChange():
            return changes.decide(state, command, now)
        case ConfirmDeletion():
            return deletions.decide(state, command, now)
        case _:
            return webhooks.decide(state, command, now)


def evolve(state: Acknowledgement, event: Event) -> Acknowledgement:
    """The state of a subject after one more fact."""
    match event:
        case ChangeAcknowledged():
            return changes.evolve(state, event)
        case DeletionConfirmed():
            return deletions.evolve(state, event)
        case _:
            return webhooks.evolve(state, event)


ACKNOWLEDGEMENTS: Final = Domain(
    name="consumers",
    topic=trust.ACKNOWLEDGEMENTS_TOPIC,
    signer=SignerRole.CONSUMERS,
    version=2,
    events={
        "consumers.ChangeAcknowledged": ChangeAcknowledged,
        "consumers.DeletionConfirmed": DeletionConfirmed,
        "consumers.WebhookSet": WebhookSet,
        "consumers.WebhookRemoved": WebhookRemoved,
    },
    state_type=Acknowledgement,
    initial=Acknowledgement,
    evolve=evolve,
    decide=decide,
)
