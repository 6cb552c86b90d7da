"""What receivers say for themselves: that they have taken a change in, and where to tell them.

The domain value of `consumers.acknowledgements.v1`. It is apart from the consumer log, because no
read is decided by any of it.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from domains.consumers import changes, webhooks
from domains.consumers.changes import AcknowledgeChange, Acknowledgement, ChangeAcknowledged
from domains.consumers.webhooks import WebhookRemoved, WebhookSet
from spine import trust
from spine.domain import Domain
from spine.event import SignerRole

Command = AcknowledgeChange | webhooks.WebhookCommand
Event = ChangeAcknowledged | webhooks.WebhookEvent


def tightens(command: Command) -> bool:
    """Whether it opens nothing, so that a suspended participant can give it too."""
    if isinstance(command, AcknowledgeChange):
        return changes.tightens(command)
    return webhooks.tightens(command)


def decide(state: Acknowledgement, command: Command, now: datetime) -> tuple[Event, ...]:
    """The fact of an accepted command, by the rules of what it is about."""
    if isinstance(command, AcknowledgeChange):
        return changes.decide(state, command, now)
    return webhooks.decide(state, command, now)


def evolve(state: Acknowledgement, event: Event) -> Acknowledgement:
    """The state of a subject after one more fact."""
    if isinstance(event, ChangeAcknowledged):
        return changes.evolve(state, event)
    return webhooks.evolve(state, event)


EVENTS: Final[dict[str, Any]] = {
    "consumers.ChangeAcknowledged": ChangeAcknowledged,
    "consumers.WebhookSet": WebhookSet,
    "consumers.WebhookRemoved": WebhookRemoved,
}
ACKNOWLEDGEMENTS: Final = Domain(
    name="consumers",
    topic=trust.ACKNOWLEDGEMENTS_TOPIC,
    signer=SignerRole.CONSUMERS,
    version=2,
    events=EVENTS,
    state_type=Acknowledgement,
    initial=Acknowledgement,
    evolve=evolve,
    decide=decide,
)
