"""A receipt is refused to strangers before anything is written, and to nobody for being early."""

from __future__ import annotations

from typing import Any

import pytest

from domains.consumers.decider import CONSUMERS
from spine.consumers.v1 import consumers_pb2
from spine.domain import Actor, fold
from spine.errors import NotPermitted, Refused, SpineError
from spine.policy import MeterAccess, Role
from spine.services.consent_answers import ConsentAnswers
from tests.domains.consumers.test_changes import (
    ANNA,
    HOUR,
    METER,
    MOVED_IN,
    NOW,
    granted,
    requested,
)

BEHIND, ASKED = (MOVED_IN,), (MOVED_IN, requested("k-1", HOUR))
LEVEL = (*ASKED, granted("k-1", 2 * HOUR))
SERVICE = Actor(Role.CONSENT_SERVICE, "ccs")


class Meters:
    """A coordinator whose fold is behind until it is level."""

    def __init__(self, *events: Any) -> None:
        self.folded: MeterAccess = fold(CONSUMERS, events)
        self.appended = 0

    def state(self, mpxn: str) -> MeterAccess:
        return self.folded

    async def level(self, mpxn: str) -> None:
        self.folded, self.appended = fold(CONSUMERS, LEVEL), self.appended + 1


class Answers(ConsentAnswers):
    """With a receipt that is beside the point here."""

    def _receipt(self, *of: Any) -> str:
        return "a receipt"


async def ask(
    monkeypatch: pytest.MonkeyPatch, meters: Any, by: Actor, consent_id: str = "k-1"
) -> str:
    monkeypatch.setattr("spine.services.wire.caller", lambda: by)
    monkeypatch.setattr("spine.services.wire.now", lambda: NOW)
    nothing: Any = None
    request = consumers_pb2.GetReceiptRequest(mpxn=METER, consent_id=consent_id)
    return str((await Answers(meters, b"log", nothing).receipt(request)).state)


@pytest.mark.parametrize("folded", [BEHIND, ASKED, LEVEL])
@pytest.mark.parametrize("by", [ANNA, SERVICE])
async def test_whose_consent_it_is_gets_it_from_a_server_that_is_behind(
    monkeypatch: pytest.MonkeyPatch, by: Actor, folded: tuple[Any, ...]
) -> None:
    """Who looks before the fold is level refuses the owner, and counts it as a search."""
    meters: Any = Meters(*folded)
    nothing: Any = None
    if folded is not LEVEL:
        with pytest.raises((NotPermitted, Refused)):
            ConsentAnswers(meters, b"log", nothing)._own(METER, "k-1", by)
    assert await ask(monkeypatch, meters, by) == "ACTIVE"
    assert meters.appended == 1


@pytest.mark.parametrize(
    ("by", "consent_id", "appended"),
    [
        (Actor(Role.CONSUMER, "c-2"), "k-1", 0),
        (Actor(Role.DATA_USER, "adviser"), "k-1", 0),
        (ANNA, "k-other", 1),
        (SERVICE, "k-other", 1),
    ],
)
async def test_a_stranger_is_refused_and_nothing_is_written_for_it(
    monkeypatch: pytest.MonkeyPatch, by: Actor, consent_id: str, appended: int
) -> None:
    meters = Meters(*LEVEL)
    with pytest.raises(SpineError) as refused:
        await ask(monkeypatch, meters, by, consent_id)
    assert isinstance(refused.value, NotPermitted)
    assert meters.appended == appended
