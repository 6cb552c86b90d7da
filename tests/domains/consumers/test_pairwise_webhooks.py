"""A party with identifiers of its own is told by them at its webhook too."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from domains.consumers.webhooks import Webhook
from spine.domain import Actor
from spine.identifiers import Identifiers, Kind
from spine.policy import Role
from spine.services import announcing
from spine.services.pushing import Outcome
from spine.services.translation import Party
from spine.services.webhooks import Deliveries
from spine.signing import verify
from spine.webhook import is_genuine
from tests.domains.consumers.test_changes import HOUR, METER, granted
from tests.domains.consumers.test_outstanding import World
from tests.helpers.records import BY_CONSUMERS

MADE = Identifiers(bytes(range(64)))
NAMES = ("adviser", "rival")
METERS = [f"12000000{n:05d}" for n in range(40)]


class Posted:
    """A receiver's webhook, and all that was sent there."""

    def __init__(self, name: str) -> None:
        to = Webhook(Actor(Role.DATA_USER, name), f"https://{name}.example/")
        self.routes = frozenset({to})
        self.sent: list[tuple[Any, bytes]] = []

    async def post(self, url: str, headers: Any, body: bytes) -> Outcome:
        self.sent.append((headers, body))
        return Outcome.REFUSED


async def told(name: str, *, pairwise: bool) -> list[tuple[Any, bytes]]:
    """What one turn sends to a receiver of a consent at one meter."""
    world = World(granted(f"k-{name}", HOUR, name))
    posted: Any = Posted(name)

    async def told_as(receiver: Actor) -> Party | None:
        return Party(receiver.party, MADE) if pairwise else None

    deliveries = Deliveries(
        world.known, posted, posted, posted, BY_CONSUMERS, "c", lambda _: False, told_as
    )
    deliveries.pusher.turn()
    await deliveries.pusher.settled()
    assert len(posted.sent) == 1
    return list(posted.sent)


def values(sent: tuple[Any, bytes]) -> set[str]:
    """What can be compared: of the header its id, of the body every value but kinds and times."""
    headers, body = sent
    said = json.loads(body)
    plain = {str(value) for key, value in said["data"].items() if key not in KINDS}
    return (
        plain
        | {headers["webhook-id"]}
        | ({said["timestamp"]} if "since" in said["data"] else set())
    )


KINDS = ("version", "state", "overdue", "told_as")


async def test_two_receivers_are_told_of_one_meter_by_nothing_in_common() -> None:
    (one,), (two,) = [await told(name, pairwise=True) for name in NAMES]
    assert not values(one) & values(two)
    (one,), (two,) = [await told(name, pairwise=False) for name in NAMES]
    assert METER in values(one) & values(two), "the naive message names the meter to both"


async def test_it_is_signed_under_the_id_it_is_sent_by_which_is_the_same_each_time() -> None:
    ((headers, body),) = await told("adviser", pairwise=True)
    sent_at = int(headers["webhook-timestamp"])
    assert is_genuine(headers, body, BY_CONSUMERS.public_key, sent_at, verify)
    data = json.loads(body)["data"]
    assert headers["webhook-id"] == data["change_id"]
    assert MADE.open(Kind.METER, "adviser", data["mpxn"]) == METER
    assert MADE.open(Kind.CONSENT, "adviser", data["consent_id"]) == "k-adviser"
    assert "since" not in data and json.loads(body)["timestamp"].endswith(".000Z")
    ((again, _),) = await told("adviser", pairwise=True)
    assert again["webhook-id"] == headers["webhook-id"]


async def followed(name: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """In which order a receiver that follows is told of many meters."""
    world = World()
    access = World(granted("k-1", HOUR, NAMES[0]), granted("k-2", HOUR, NAMES[1]))
    for mpxn in METERS:
        world.meters.known[mpxn] = access.meters.known[METER]
        world.known.take_in(mpxn)
    nothing: Any = None
    by = Actor(Role.DATA_USER, name)
    monkeypatch.setattr("spine.services.wire.caller", lambda: by)
    following = announcing.ChangesService(world.known, nothing).FollowChanges(nothing, nothing)
    order = [(await anext(following)).mpxn for _ in METERS]
    assert sorted(order) == METERS
    return order


async def test_receivers_that_follow_are_told_in_no_order_they_could_compare(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    random.seed(8)
    one, two = [await followed(name, monkeypatch) for name in NAMES]
    assert sum(map(str.__eq__, one, two)) < 8
    monkeypatch.setattr("spine.services.announcing.random.shuffle", lambda meters: None)
    one, two = [await followed(name, monkeypatch) for name in NAMES]
    assert one == two, "the naive order is the same to both"
