"""Commands of one record are decided at one moment, and what many of them say is written once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from domains.consumers import commands
from domains.consumers.decider import CONSUMERS, tightens
from domains.governance.decider import GOVERNANCE
from spine import coordinator as spine_coordinator
from spine.coordinator import Coordinator
from spine.domain import Actor
from spine.errors import Pushback, Reason, SpineError
from spine.event import Command, Facts, LogRecord, SignerRole, from_epoch_ms
from spine.live import LiveFold
from spine.log import Appended
from spine.orders import Handled, Order
from spine.policy import Role
from spine.writer import LogWriter
from tests.helpers.history import MemoryFold
from tests.helpers.records import (
    BEGUN,
    CODEC,
    LOG_ID,
    METER,
    NEIGHBOUR,
    PARTITION,
    PARTITIONS,
    SIGNERS,
    TOOLS,
    started,
)

BY = Actor(Role.CONSENT_SERVICE, "consents")
SINCE = datetime(2025, 1, 1, tzinfo=UTC)
THIRD = "1200000000011"  # of the same partition


class Log:
    """Takes records and has them folded. The broker's clock may be ahead of the coordinator's."""

    def __init__(self) -> None:
        log, _ = started()
        self.live = LiveFold(
            MemoryFold(
                Path("none"), log.topic, PARTITION, LOG_ID, TOOLS, CONSUMERS, GOVERNANCE, b""
            )
        )
        for record in log.records:
            self.live.deliver(record)
        self.append_ms = log.clock_ms
        self.commands: list[tuple[Command, ...]] = []

    async def append(
        self,
        topic: str,
        partition: int,
        key: bytes | None,
        headers: tuple[tuple[str, bytes], ...],
        value: bytes,
    ) -> Appended:
        offset = self.live.next_offset
        facts = CODEC.decode(bytes(bytearray(value)))
        assert isinstance(facts, Facts)
        self.commands.append(facts.commands)
        record = LogRecord(topic, partition, offset, self.append_ms, key, headers, value)
        self.live.deliver(record)
        return Appended(topic, partition, offset, self.append_ms)


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def coordinator(log: Log, monkeypatch: pytest.MonkeyPatch) -> Coordinator:
    """Its clock shows another millisecond whenever it is looked at."""
    ticks = iter(range(log.append_ms, log.append_ms + 1_000))
    monkeypatch.setattr(spine_coordinator, "wall_clock_ms", lambda: next(ticks))
    signer = SIGNERS[SignerRole.CONSUMERS]
    writer = LogWriter(log, signer, LOG_ID, CODEC, "test", clock=lambda: log.append_ms)  # type: ignore[arg-type]
    folds: Any = {(CONSUMERS.topic, PARTITION): log.live}
    return Coordinator(CONSUMERS, folds, writer, PARTITIONS, tightens)


def order(subject: str, command: Any) -> Order:
    return Order(subject, command, BY, type(command).__name__, f"{subject}-{command}", bytes(32))


def supplied(subject: str) -> Order:
    return order(subject, commands.StartSupply(BY, "supplier", SINCE))


async def handled(coordinator: Coordinator, *orders: Order) -> list[Handled]:
    answers = await coordinator.handle_all(orders)
    return [answer for answer in answers if isinstance(answer, Handled)]


async def test_a_record_is_decided_at_one_moment(coordinator: Coordinator, log: Log) -> None:
    assert len(await handled(coordinator, *map(supplied, (METER, NEIGHBOUR)))) == 2
    ((one, other),) = log.commands
    assert one.facts == other.facts


async def test_what_many_say_is_encoded_once(
    coordinator: Coordinator, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[object] = []
    encode: Callable[[object], bytes] = CODEC.encode_to_append

    def counted(value: object) -> bytes:
        encoded.append(value)
        return encode(value)

    monkeypatch.setattr(CODEC, "encode_to_append", counted)
    moved_in = commands.StartTenancy(BY, "t-1", "c-1", SINCE)
    await handled(coordinator, *map(supplied, (METER, NEIGHBOUR)), order(THIRD, moved_in))
    assert len(encoded) == 3  # two events and the record
    assert log.live.stored.fold.subject(NEIGHBOUR).state.supplies
    assert log.live.stored.fold.subject(THIRD).state.tenancies


async def test_after_others_had_their_turn_it_is_later(coordinator: Coordinator, log: Log) -> None:
    """A barrier was appended by a clock that is ahead: nothing is decided before that any more."""
    ended = commands.WithdrawConsent(BY, "k-1")
    await handled(coordinator, order(METER, ended))
    log.append_ms += 4_000
    already = order(METER, commands.RevokeConsent(BY, "k-1"))
    answers = await handled(coordinator, already, order(NEIGHBOUR, ended))
    assert [answer.changed for answer in answers] == [False, True]
    ((fact,),) = [command.facts for command in log.commands[-1]]
    assert fact.occurred_at >= from_epoch_ms(log.append_ms) > BEGUN


async def test_so_it_is_after_a_barrier_in_doubt(
    coordinator: Coordinator, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody acknowledged it, and yet it was folded."""
    ended, append, doubts = commands.WithdrawConsent(BY, "k-1"), log.append, iter([True])
    await handled(coordinator, order(METER, ended))

    async def doubtful(*record: Any) -> Appended:
        appended = await append(*record)
        if next(doubts, False):
            raise Pushback(Reason.INDETERMINATE, "not acknowledged")
        return appended

    monkeypatch.setattr(log, "append", doubtful)
    log.append_ms += 4_000
    already = order(METER, commands.RevokeConsent(BY, "k-1"))
    (answer,) = await handled(coordinator, already, order(NEIGHBOUR, ended))
    assert answer.changed
    ((fact,),) = [command.facts for command in log.commands[-1]]
    assert fact.occurred_at >= from_epoch_ms(log.append_ms)


async def test_nothing_is_signed_with_a_key_that_was_revoked_meanwhile(
    coordinator: Coordinator, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = commands.WithdrawConsent(BY, "k-1")
    await handled(coordinator, order(METER, ended))
    fold, appended = log.live.stored.fold, len(log.commands)
    ours = fold.key(SIGNERS[SignerRole.CONSUMERS].kid)
    assert ours is not None

    async def lost(*record: Any) -> Appended:
        monkeypatch.setattr(fold, "key", lambda kid: replace(ours, revoked=True))
        raise Pushback(Reason.INDETERMINATE, "not acknowledged")

    monkeypatch.setattr(log, "append", lost)
    already = order(METER, commands.RevokeConsent(BY, "k-1"))
    answers = await coordinator.handle_all([already, order(NEIGHBOUR, ended)])
    assert [answer.reason for answer in answers if isinstance(answer, SpineError)] == [
        Reason.INDETERMINATE,
        Reason.KEY_NOT_SEEN,
    ]
    assert len(log.commands) == appended
