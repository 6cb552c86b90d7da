"""A receiver says where it wants to be told, for itself alone, and nowhere that is no address."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from domains.consumers.acknowledgements import ACKNOWLEDGEMENTS, tightens
from domains.consumers.changes import Acknowledgement, ChangeAcknowledged
from domains.consumers.webhooks import (
    Removal,
    RemoveWebhook,
    SetWebhook,
    Webhook,
    WebhookRemoved,
    WebhookSet,
    checked_url,
    may_be_told,
    subject_of,
    webhook,
)
from spine.domain import Actor, fold
from spine.errors import Invalid, NotPermitted, Reason
from spine.policy import Role
from spine.services.pushing import UNANSWERED, Outcome
from spine.services.webhooks import WebhooksService
from spine.trust import Accreditation, Participant

NOW = datetime(2026, 1, 1, tzinfo=UTC)
URL, OTHER = "https://adviser.example/changes", "https://other.example/"
ADVISER, RIVAL = Actor(Role.DATA_USER, "adviser"), Actor(Role.DATA_USER, "rival")
COORDINATOR = Actor(Role.COORDINATOR, "consumers")


def after(*commands: Any) -> Any:
    """The state after these commands, and the facts of the last."""
    state, events = Acknowledgement(), ()
    for command in commands:
        events = ACKNOWLEDGEMENTS.decide(state, command, NOW)
        state = fold(ACKNOWLEDGEMENTS, events, state)
    return state, events


def test_an_address_is_set_replaced_and_removed() -> None:
    subject = subject_of(ADVISER)
    state, events = after(SetWebhook(ADVISER, URL))
    assert events == (WebhookSet("adviser", Role.DATA_USER, URL, NOW),)
    assert webhook(subject, state) == Webhook(ADVISER, URL)
    assert after(SetWebhook(ADVISER, URL), SetWebhook(ADVISER, URL))[1] == ()
    state, _ = after(SetWebhook(ADVISER, URL), SetWebhook(ADVISER, OTHER))
    assert webhook(subject, state) == Webhook(ADVISER, OTHER)
    state, events = after(SetWebhook(ADVISER, URL), RemoveWebhook(ADVISER, ADVISER))
    assert events == (WebhookRemoved("adviser", Role.DATA_USER, "ASKED", NOW),)
    assert webhook(subject, state) is None
    assert after(RemoveWebhook(ADVISER, ADVISER))[1] == ()


def test_an_address_that_is_gone_takes_no_newer_one_with_it() -> None:
    gone = RemoveWebhook(COORDINATOR, ADVISER, Removal.GONE, URL)
    _, events = after(SetWebhook(ADVISER, URL), gone)
    assert events == (WebhookRemoved("adviser", Role.DATA_USER, "GONE", NOW),)
    moved = (SetWebhook(ADVISER, URL), SetWebhook(ADVISER, OTHER))
    assert after(*moved, gone)[1] == ()
    any_address = RemoveWebhook(COORDINATOR, ADVISER, Removal.GONE)
    assert after(*moved, any_address)[1] != (), "without the address, the newer one goes too"


@pytest.mark.parametrize(
    "command",
    [
        SetWebhook(Actor(Role.CONSUMER, "c-1"), URL),
        SetWebhook(Actor(Role.GOVERNANCE, "board"), URL),
        RemoveWebhook(RIVAL, ADVISER),
        RemoveWebhook(Actor(Role.GOVERNANCE, "board"), ADVISER),
        RemoveWebhook(COORDINATOR, Actor(Role.CONSUMER, "c-1")),
    ],
)
def test_nobody_sets_or_removes_anothers(command: Any) -> None:
    with pytest.raises(NotPermitted) as refused:
        after(SetWebhook(ADVISER, URL), command)
    assert refused.value.reason is Reason.ROLE_NOT_ALLOWED


def test_one_for_what_a_party_is_told_as_user_and_one_as_service() -> None:
    as_service, as_supplier = Actor(Role.DATA_SERVICE, "adviser"), Actor(Role.SUPPLIER, "adviser")
    assert subject_of(as_service) != subject_of(ADVISER)
    assert subject_of(as_supplier) == subject_of(ADVISER), "a supplier is told as a data user"
    state, _ = after(SetWebhook(ADVISER, URL), SetWebhook(as_supplier, URL))
    assert webhook(subject_of(as_supplier), state) == Webhook(as_supplier, URL)


def test_a_suspended_party_removes_an_address_and_sets_none() -> None:
    assert tightens(RemoveWebhook(ADVISER, ADVISER))
    assert not tightens(SetWebhook(ADVISER, URL))


def test_a_change_is_no_webhook_whatever_its_id() -> None:
    taken = ChangeAcknowledged("adviser", "1200000000003", "k-1", 1, "REVOKED", NOW)
    state = fold(ACKNOWLEDGEMENTS, (taken,))
    assert state.decided_at == NOW
    assert webhook("0" * 32, state) is None
    assert webhook(subject_of(ADVISER), state) is None


@pytest.mark.parametrize(
    "url",
    [
        URL,
        "https://adviser.example:8443/a/b?c=d%20e",
        "https://192.0.2.1/",
        "https://[2001:db8::1]/",
    ],
)
def test_an_https_address_is_taken_as_it_is(url: str) -> None:
    assert checked_url(url) == url


@pytest.mark.parametrize(
    "url",
    [
        "",
        "adviser.example",
        "http://adviser.example/",
        "ftp://adviser.example/",
        "file:///etc/passwd",
        "https:///changes",
        "https://",
        "https://adviser.example:0/",
        "https://adviser.example:99999/",
        "https://adviser.example:port/",
        "https://[::1/",
        "https://us@adviser.example/",
        "https://us:secret@adviser.example/",
        "https://@adviser.example/",
        "https://adviser.example/#part",
        "https://adviser.example/#",
        "https://adviser.example\\@other.example/",
        "https://adviser.example/a b",
        "https://adviser.example/\n",
        "https://adviser.example/\x00",
        "https://advisér.example/",
        "https://adviser.example/" + "x" * 2_048,
    ],
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(Invalid) as refused:
        checked_url(url)
    assert refused.value.field == "url"


def accredited(role: str, *, ended: bool = False, suspended: bool = False) -> Participant:
    until = NOW if ended else None
    held = Accreditation(role, "DSI", "1", (), NOW - timedelta(days=1), until)
    return Participant("Adviser", suspended, (held,))


PARTICIPANTS: dict[str, tuple[Participant | None, bool]] = {
    "who is accredited": (accredited(Role.DATA_USER), True),
    "who is suspended, too": (accredited(Role.DATA_USER, suspended=True), True),
    "nobody whose accreditation has ended": (accredited(Role.DATA_USER, ended=True), False),
    "nobody in a role that it does not hold": (accredited(Role.DATA_SERVICE), False),
    "nobody whose accreditation was withdrawn": (Participant("Adviser"), False),
    "nobody that is not known": (None, False),
}


def by_holds_alone(participant: Participant | None) -> bool:
    """The naive rule: whoever is not held is told, for as long as its webhook stands."""
    return True


@pytest.mark.parametrize("who", PARTICIPANTS)
def test_who_is_told(who: str) -> None:
    participant, told = PARTICIPANTS[who]
    assert may_be_told(participant, ADVISER, NOW) is told


def test_who_looks_at_holds_alone_tells_who_is_accredited_no_more() -> None:
    found = [by_holds_alone(participant) == told for participant, told in PARTICIPANTS.values()]
    assert not all(found)


async def shown_after(outcome: Outcome, monkeypatch: pytest.MonkeyPatch) -> str:
    """What a receiver is shown of such a sending."""
    monkeypatch.setattr("spine.services.wire.caller", lambda: ADVISER)

    class Fake:
        """A webhook, and how its last sending ended."""

        public_key = "whpk_"

        @property
        def pusher(self) -> Fake:
            return self

        def of(self, receiver: Actor) -> Webhook:
            return Webhook(receiver, URL)

        def last(self, to: Webhook) -> tuple[Outcome, datetime]:
            return outcome, NOW

    fake: Any = Fake()
    answer = await WebhooksService(fake, fake, fake, bytes(16)).GetWebhook(fake, fake)
    return str(answer.last_outcome)


async def test_a_receiver_learns_no_names_of_our_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len({str(outcome) for outcome in UNANSWERED}) == 2, "as they are, they tell them apart"
    shown = {await shown_after(outcome, monkeypatch) for outcome in UNANSWERED}
    assert shown == {"silent"}
    assert await shown_after(Outcome.REFUSED, monkeypatch) == "refused"
