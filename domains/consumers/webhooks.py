"""Where a receiver wants to be told: an address that it sets and takes away itself.

At home in `consumers.acknowledgements.v1`, subject `webhook/<told as>/<party>`.

Rules:
1. A receiver sets and removes its own webhook and nobody else's: one for what it is told as a data
   user or supplier, one for what it is told as a data service.
2. It is an https address without a user name and a fragment. Which network it leads to is looked at
   whenever something is sent there, because names change.
3. Nothing is sent to a party that has no live accreditation in the role that set the webhook; what
   waits goes on waiting. While it is suspended it is told: it loses access, not its duties.
4. A receiver that answers "gone" loses the webhook that said so, and none that it has set since.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Final
from urllib.parse import urlsplit

from domains.consumers.changes import RECEIVES, Acknowledgement, told_role
from spine.domain import Actor
from spine.errors import Invalid, NotPermitted, Reason
from spine.policy import Role
from spine.trust import Participant

SUBJECTS: Final = "webhook/"
URL_CHARS_MAX: Final = 2_048
# Consumers are told by who shows them their consents.
SENT_TO: Final = RECEIVES - {Role.CONSUMER}


class Removal(StrEnum):
    """Why a webhook is there no more."""

    ASKED = "ASKED"
    GONE = "GONE"


@dataclass(frozen=True, slots=True)
class WebhookSet:
    """The receiver wants to be told there, and nowhere else by webhook."""

    receiver: str
    role: str
    url: str
    decided_at: datetime


@dataclass(frozen=True, slots=True)
class WebhookRemoved:
    """Nothing is sent to the receiver's webhook any more; `reason` is one of `Removal`."""

    receiver: str
    role: str
    reason: str
    decided_at: datetime


WebhookEvent = WebhookSet | WebhookRemoved


@dataclass(frozen=True, slots=True)
class SetWebhook:
    """Tell the caller there from now on."""

    by: Actor
    url: str


@dataclass(frozen=True, slots=True)
class RemoveWebhook:
    """Send `of` nothing more; with a `url`, only if that is still the one."""

    by: Actor
    of: Actor
    reason: Removal = Removal.ASKED
    url: str = ""


WebhookCommand = SetWebhook | RemoveWebhook


@dataclass(frozen=True, slots=True)
class Webhook:
    """Where a receiver is told, in the role in which it said so."""

    receiver: Actor
    url: str


def subject_of(receiver: Actor) -> str:
    """The subject of a receiver's webhook."""
    return f"{SUBJECTS}{told_role(receiver.role)}/{receiver.party}"


def webhook(subject: str, state: Acknowledgement) -> Webhook | None:
    """The webhook that a subject stands for; None if it is no such subject, or there is none."""
    if not subject.startswith(SUBJECTS) or not state.url:
        return None
    return Webhook(Actor(state.role, subject.rpartition("/")[2]), state.url)


def may_be_told(participant: Participant | None, receiver: Actor, now: datetime) -> bool:
    """Whether an accreditation of the receiver's role is live, suspended or not."""
    held = () if participant is None else participant.accreditations
    return any(each.role == receiver.role and each.live_at(now) for each in held)


def checked_url(url: str) -> str:
    """The address as given; Invalid(FIELD_INVALID) if nothing may be sent to such a one."""
    if not url:
        raise Invalid(Reason.FIELD_MISSING, "url is required", field="url")
    if len(url) > URL_CHARS_MAX or not url.isascii() or not url.isprintable() or " " in url:
        raise _no_url(f"it is at most {URL_CHARS_MAX} ASCII characters without spaces")
    try:
        parts = urlsplit(url)
        named = bool(parts.hostname) and parts.port != 0
    except ValueError:
        named = False
    if not named or "\\" in url:
        raise _no_url("it names no host and port")
    if parts.scheme != "https":
        raise _no_url("it has to be https")
    if "@" in parts.netloc or "#" in url:
        raise _no_url("it has neither a user name nor a fragment")
    return url


def _no_url(message: str) -> Invalid:
    return Invalid(Reason.FIELD_INVALID, f"url: {message}", field="url")


def tightens(command: WebhookCommand) -> bool:
    """A new address is another place to send to, so only an accredited party sets one."""
    return isinstance(command, RemoveWebhook)


def decide(
    state: Acknowledgement, command: WebhookCommand, now: datetime
) -> tuple[WebhookEvent, ...]:
    """The fact, none if it is already so.

    NotPermitted  ROLE_NOT_ALLOWED: the role is told nothing, or the webhook is another party's
    """
    match command:
        case SetWebhook(by, url):
            _check_told(by)
            same = (state.url, state.role) == (url, by.role)
            return () if same else (WebhookSet(by.party, by.role, url, now),)
        case RemoveWebhook(by, of, reason, url):
            if by != of and by.role != Role.COORDINATOR:
                raise NotPermitted(Reason.ROLE_NOT_ALLOWED, "the webhook is another party's")
            _check_told(of)
            if not state.url or (url and url != state.url):
                return ()
            return (WebhookRemoved(of.party, of.role, reason, now),)


def evolve(state: Acknowledgement, event: WebhookEvent) -> Acknowledgement:
    """Where the receiver is told after one more fact."""
    match event:
        case WebhookSet():
            return replace(state, decided_at=event.decided_at, url=event.url, role=event.role)
        case WebhookRemoved():
            return Acknowledgement(event.decided_at)


def _check_told(receiver: Actor) -> None:
    if receiver.role not in SENT_TO:
        raise NotPermitted(Reason.ROLE_NOT_ALLOWED, "this role has no webhook")
