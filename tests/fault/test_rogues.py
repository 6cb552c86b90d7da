"""What others write into the log, and what clocks and acknowledgements do to what we write.

Everything runs in this process, beside the installation and on its log: coordinators and a DSI
server of the test's own, which it can make write twice, stop, or set under another clock.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiokafka import AIOKafkaProducer
from kafka import KafkaAdminClient, KafkaProducer
from kafka.admin import ConfigResource, ConfigResourceType

from domains.consumers.commands import (
    ConsentTerms,
    GrantConsent,
    StartSupply,
    StartTenancy,
    tightens,
)
from domains.consumers.decider import CONSUMERS
from spine import trust
from spine.console import context
from spine.coordinator import Coordinator
from spine.errors import Conflict, NotPermitted, Pushback, Reason, Refused
from spine.event import Command, Facts, RecordType
from spine.log import wrong_settings
from spine.runtime import Process
from tests.e2e.conftest import audit
from tests.fault.checkers import unbalanced, unexplained
from tests.fault.digests import same_again
from tests.fault.installation import Faulty
from tests.fault.nemesis import kills
from tests.helpers.judging import judge
from tests.helpers.town import (
    ADVISER,
    CONSUMER,
    CONSUMER_REF,
    DAY,
    MPAN,
    SERVICE,
    Dsi,
    Town,
    open_dsi,
    order,
    query,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")
OPENED = datetime(2024, 1, 1, tzinfo=UTC)
WAIT_S = 60.0


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def town(spine: Faulty) -> AsyncIterator[Town]:
    """Coordinators of this process, in a group of their own, on the installation's log."""
    process = Process(context.runtime(), "guest")
    folds = await process.fold([trust.GOVERNANCE_TOPIC, trust.CONSUMER_LOG])
    town = Town(process.runtime, process, folds)
    try:
        await town.consumer(StartSupply(SERVICE, "north-supply", OPENED))
        await town.consumer(StartTenancy(SERVICE, "tenancy-1", CONSUMER_REF, OPENED))
        await town.record()
        yield town
    finally:
        await process.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def dsi(town: Town) -> AsyncIterator[Dsi]:
    """A DSI server of this process."""
    async with open_dsi(town, "guest-dsi") as opened:
        yield opened


async def reads(dsi: Dsi) -> bool:
    """Whether a read passes now."""
    try:
        judged, _ = await dsi.reads.read_one(query(), MPAN, ())
    except NotPermitted:
        return False
    return judged.permitted


def quarantined(town: Town) -> int:
    head = town.folds[trust.CONSUMER_LOG, town.partition].stored.fold.head
    assert head is not None
    return head.counts.quarantined


def rogue(town: Town, **settings: Any) -> KafkaProducer:
    return KafkaProducer(bootstrap_servers=town.runtime.kafka.bootstrap, **settings)


async def test_what_no_coordinator_wrote_is_counted_out_and_stops_nobody(
    town: Town, dsi: Dsi
) -> None:
    """Poison first, last and between; null keys and values; transactions left open and aborted."""
    await town.grant("consent-rogue")
    before = quarantined(town)
    signed = town.consumers._writer.sealed(
        RecordType.FACTS, trust.CONSUMER_LOG, town.partition, Facts("nowhere", 7, ())
    )
    assert signed.value is not None
    poison: list[tuple[bytes | None, bytes | None, list[tuple[str, bytes]]]] = [
        (MPAN.encode(), None, []),
        (None, b"", []),
        (b"", None, []),
        (b"\xff\xfe", b"\x07not avro", [("t", b"f")]),
        (MPAN.encode(), b"\x00\x00\x00\xff\xff", [("t", b"f"), ("kid", b"12345678")]),
        (MPAN.encode(), signed.value + b"!", list(signed.headers)),
        (MPAN.encode(), signed.value[:-1], list(signed.headers)),
        (MPAN.encode(), b"\x00" + b"\xff" * 5_000, list(signed.headers)),
    ]

    def write() -> KafkaProducer:
        plain = rogue(town)
        for key, value, headers in poison:
            plain.send(trust.CONSUMER_LOG, value, key, headers, town.partition)
        plain.close()
        aborted = rogue(town, transactional_id=f"aborted-{time.monotonic_ns()}")
        aborted.init_transactions()
        aborted.begin_transaction()
        aborted.send(trust.CONSUMER_LOG, b"never committed", partition=town.partition)
        aborted.flush()
        aborted.abort_transaction()
        aborted.close()
        hanging = rogue(
            town, transactional_id=f"open-{time.monotonic_ns()}", transaction_timeout_ms=60_000
        )
        hanging.init_transactions()
        hanging.begin_transaction()
        hanging.send(trust.CONSUMER_LOG, b"for ever open", partition=town.partition)
        hanging.flush()
        return hanging

    hanging = await asyncio.to_thread(write)
    try:
        assert await reads(dsi)
        await town.revoke("consent-rogue")
        assert not await reads(dsi)
        assert quarantined(town) == before + len(poison) + 2
    finally:
        await asyncio.to_thread(hanging.abort_transaction)
        await asyncio.to_thread(hanging.close)


async def test_a_writer_with_another_partitioner_changes_nothing(town: Town) -> None:
    """A valid command of the coordinator's own key, in a partition that is not the meter's."""
    wrong = (town.partition + 1) % town.runtime.partitions
    writer = town.consumers._writer
    now = datetime.now(UTC)
    row = town.consumers.live(MPAN).stored.fold.subject(MPAN)
    terms = ConsentTerms(
        ADVISER.party,
        CONSUMER_REF,
        "ENERGY_ADVICE",
        ("HH_CONSUMPTION",),
        DAY,
        now,
        now + timedelta(1),
    )
    (granted,) = CONSUMERS.decide(row.state, GrantConsent(CONSUMER, "consent-wrong", terms), now)
    fact = (CONSUMERS.event_type(granted), now, writer.codec.encode(granted))
    command = _command(MPAN, row.offset, row.entry, fact)
    live = town.folds[trust.CONSUMER_LOG, wrong]
    assert live.stored.fold.head is not None
    before = live.stored.fold.head.counts.void
    for key in (MPAN.encode(), None):
        facts = Facts(trust.CONSUMER_LOG, wrong, (command,))
        appended = await writer.write(RecordType.FACTS, trust.CONSUMER_LOG, wrong, facts, key=key)
    await live.passed(appended.offset, WAIT_S)
    assert live.stored.fold.head.counts.void == before + 2
    assert "consent-wrong" not in {c.consent_id for c in town.consumers.state(MPAN).consents}


def _command(subject: str, offset: int, entry: int, fact: Any) -> Command:
    from spine.event import Fact

    return Command(b"w" * 16, subject, bytes(32), offset, entry, "consumer/x", (Fact(*fact),))


async def test_an_append_that_was_doubled_has_one_effect(town: Town, dsi: Dsi) -> None:
    """The broker took it, its acknowledgement was lost, and it was sent again."""
    appender = town.process.appender
    append = appender.append
    live = town.folds[trust.CONSUMER_LOG, town.partition]
    assert live.stored.fold.head is not None
    before = live.stored.fold.head.counts.duplicate
    appender.append = _doubled(append)  # type: ignore[method-assign]
    try:
        granted = await town.grant("consent-doubled")
        revoked = await town.revoke("consent-doubled")
    finally:
        appender.append = append  # type: ignore[method-assign]
    assert granted.replayed
    assert revoked.replayed
    assert live.stored.fold.head.counts.duplicate == before + 2
    await town.grant("consent-after")
    dsi.appender.append, kept = _doubled(dsi.appender.append), dsi.appender.append  # type: ignore[method-assign]
    try:
        judged, answer = await dsi.reads.read_one(query(), MPAN, ())
    finally:
        dsi.appender.append = kept  # type: ignore[method-assign]
    assert judged.permitted
    assert answer.rows == 7 * 48
    await town.revoke("consent-after")
    assert not await reads(dsi)


async def test_a_request_whose_append_nobody_acknowledged_gets_its_outcome_all_the_same(
    spine: Faulty, town: Town, dsi: Dsi, tmp_path: Path
) -> None:
    """The caller was told that nobody knows; the log took it, and the audit must not wonder."""
    await town.grant("consent-doubt")
    append = dsi.appender.append

    async def unacknowledged(*given: Any) -> Any:
        await append(*given)
        raise Pushback(Reason.INDETERMINATE, "the acknowledgement was lost")

    dsi.appender.append = unacknowledged  # type: ignore[method-assign, assignment]
    try:
        with pytest.raises(Pushback) as doubt:
            await dsi.reads.read_one(query(), MPAN, ())
    finally:
        dsi.appender.append = append  # type: ignore[method-assign]
    assert doubt.value.reason is Reason.INDETERMINATE
    (request_id,) = dsi.access[town.partition]._wanted
    wondered = {request_id.hex()}
    until = time.monotonic() + WAIT_S
    while request_id.hex() in wondered:  # the outcome follows once the fold has come by
        assert time.monotonic() < until, "the audit wonders still"
        await asyncio.sleep(1)
        await dsi.outcomes.flush()
        _, report = await asyncio.to_thread(audit, spine, tmp_path)
        wondered = {finding["request_id"] for finding in report["findings"]}


def _doubled(append: Any) -> Any:
    async def twice(*given: Any) -> Any:
        await append(*given)
        return await append(*given)

    return twice


def wrongly_timed(town: Town, topics: Sequence[str]) -> int:
    """How many of these the broker shows as timed by their producers."""
    counts = dict.fromkeys(topics, town.runtime.partitions)
    told = wrong_settings(town.runtime.kafka, counts, 1)
    return sum("message.timestamp.type is CreateTime" in wrong for wrong in told)


@contextlib.contextmanager
def broker_clock(town: Town, off: timedelta) -> Iterator[None]:
    """What this process appends is timed as if the broker's clock had been stepped.

    Brokers in one JVM cannot be given another clock; so for a while the topics take the time from
    the producer, whose client gives it the stepped time. A fold cannot tell the difference.
    """
    topics = (trust.CONSUMER_LOG, trust.OUTCOMES_TOPIC)
    admin = KafkaAdminClient(bootstrap_servers=town.runtime.kafka.bootstrap)
    send = AIOKafkaProducer.send

    def stamped(self: Any, *given: Any, **more: Any) -> Any:
        at = time.time() + off.total_seconds()
        return send(self, *given, **more, timestamp_ms=int(at * 1000))

    def times(of: str) -> None:
        admin.alter_configs(
            [
                ConfigResource(
                    ConfigResourceType.TOPIC, topic, configs={"message.timestamp.type": of}
                )
                for topic in topics
            ]
        )
        deadline = time.monotonic() + WAIT_S
        while wrongly_timed(town, topics) != (len(topics) if of == "CreateTime" else 0):
            assert time.monotonic() < deadline, "the broker has not heard of it"
            time.sleep(0.1)
        time.sleep(0.5)  # what a broker shows it does a moment later

    times("CreateTime")
    AIOKafkaProducer.send = stamped
    try:
        yield
    finally:
        AIOKafkaProducer.send = send
        times("LogAppendTime")
        admin.close()


@pytest.mark.parametrize("minutes", [30, -30], ids=["forward", "back"])
async def test_a_step_of_the_brokers_clock_opens_nothing_and_ends_nothing_early(
    town: Town, dsi: Dsi, minutes: int
) -> None:
    now = datetime.now(UTC)
    short = ConsentTerms(
        ADVISER.party,
        CONSUMER_REF,
        "ENERGY_ADVICE",
        ("HH_CONSUMPTION",),
        DAY,
        now - timedelta(seconds=1),
        now + timedelta(minutes=10),
    )
    lasting, ended = f"consent-lasting{minutes}", f"consent-ended{minutes}"
    await town.consumer(GrantConsent(CONSUMER, lasting, short))
    assert await reads(dsi)
    with broker_clock(town, timedelta(minutes=minutes)):
        assert not await reads(dsi)  # nobody can tell what time it is: nothing is released
        await town.grant(ended)
        await town.revoke(ended)
        assert not await reads(dsi)
    assert await reads(dsi)  # ten minutes have not passed, whatever the broker said
    await town.revoke(lasting)
    assert not await reads(dsi)


async def test_coordinators_of_two_groups_race_and_each_command_has_one_fate(town: Town) -> None:
    """A change of supplier is two facts, a suspension one; neither is ever half done or lost."""
    other_process = Process(town.runtime, "rival")
    folds = await other_process.fold([trust.CONSUMER_LOG])
    writer = town.consumers._writer
    rival = Coordinator(CONSUMERS, folds, writer, town.runtime.partitions, tightens)
    start = datetime(2024, 2, 1, tzinfo=UTC)
    told: Counter[str] = Counter()
    acknowledged: list[tuple[int, int]] = []

    async def race(who: Coordinator, command: Any) -> None:
        try:
            handled = await who.handle(order(MPAN, command, command.by))
        except (Conflict, Refused) as lost:
            told[str(lost.reason)] += 1
        else:
            told["done"] += 1
            acknowledged.append((handled.offset, handled.entry))

    try:
        for number in range(25):
            at = start + timedelta(hours=number)
            first = StartSupply(SERVICE, f"supplier-a{number}", at)
            second = StartSupply(SERVICE, f"supplier-b{number}", at)
            await asyncio.gather(race(town.consumers, first), race(rival, second))
        live = folds[trust.CONSUMER_LOG, town.partition]
        mine = town.folds[trust.CONSUMER_LOG, town.partition]
        await live.passed(max(acknowledged)[0], WAIT_S)
        await mine.passed(max(acknowledged)[0], WAIT_S)
        supplies = sorted(town.consumers.state(MPAN).supplies, key=lambda s: s.effective_from)
        assert rival.state(MPAN) == town.consumers.state(MPAN)
    finally:
        await other_process.stop()
    assert len(set(acknowledged)) == len(acknowledged) == told["done"] == len(supplies) - 1
    assert told["done"] >= 25
    assert sum(told.values()) == 50
    for before, after in pairwise(supplies):
        assert before.effective_to == after.effective_from
    assert supplies[-1].effective_to is None


async def test_whatever_was_written_the_log_still_explains_itself(
    spine: Faulty, town: Town, dsi: Dsi, tmp_path: Path
) -> None:
    """Balances are even, no answer differs, and a replay comes to the same rows."""
    await dsi.outcomes.flush()
    code, report = await asyncio.to_thread(audit, spine, tmp_path)
    assert code == 0
    assert unbalanced(report) == []
    assert unexplained(report, kills) == []
    assert await asyncio.to_thread(same_again, town.runtime, "guest") == []
    _, disagreed = await asyncio.to_thread(judge, town.runtime)
    assert disagreed == []


@pytest_asyncio.fixture(autouse=True, loop_scope="module")
async def nothing_left_allowed(town: Town) -> AsyncIterator[None]:
    yield
    for consent in town.consumers.state(MPAN).consents:
        await town.revoke(consent.consent_id)
