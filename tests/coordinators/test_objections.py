"""An objection on a real broker: a log of policy 1 goes over to 2, a use is shut at its place.

The naive read asks the view as it is, without the fence, and leaks after an acknowledged objection.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest
import pytest_asyncio

from domains.consumers.commands import AllowUse, ObjectToUse
from domains.governance import commands as governance
from spine import trust
from spine.audit_report import Line
from spine.console.audits import run_audit
from spine.console.context import use
from spine.dsi.reads import Query
from spine.dsi.stream import ReadingsStream
from spine.embedded import EmbeddedKafka
from spine.errors import NotPermitted, Reason, Refused
from spine.identity import Caller
from spine.policy import Basis, Category, Role
from spine.policy_data import POLICY_HASHES
from spine.services.governance import start_governance
from spine.verdict import Verdict
from tests.helpers.log import open_new_log
from tests.helpers.town import (
    BOARD,
    CONSUMER,
    CONSUMER_REF,
    MPAN,
    WEEK,
    Dsi,
    Town,
    chunks_of,
    open_dsi,
    settle,
)

ROUNDS = 10
WAIT_S, HELD_UP_S = 30.0, 0.02
SUPPLIER = Caller(Role.SUPPLIER, "north-supply", bytes(32))
DUTY = ("LEGAL_OBLIGATION", "SETTLEMENT")
OBJECTS = ObjectToUse(CONSUMER, *DUTY, CONSUMER_REF)
ALLOWS = AllowUse(CONSUMER, *DUTY, CONSUMER_REF)
SETTLES = Query(
    SUPPLIER,
    "GetReadings",
    "SETTLEMENT",
    Basis.LEGAL_OBLIGATION,
    Category.HH_CONSUMPTION,
    WEEK,
    "AI",
)
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def town(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Town]:
    data_dir = tmp_path_factory.mktemp("town")
    with EmbeddedKafka(data_dir) as broker:
        settings, kafka = await open_new_log(broker, data_dir)
        async with settle(settings, kafka) as settled:
            await settled.govern(governance.AdmitParticipant(BOARD, SUPPLIER.party, "North"))
            since = datetime(2024, 1, 1, tzinfo=UTC)
            held = (BOARD, SUPPLIER.party, Role.SUPPLIER, "DSI", "1", (), since)
            await settled.govern(governance.GrantAccreditation(*held))
            await settled.record()
            yield settled


async def test_no_start_goes_over_to_a_newer_policy(town: Town) -> None:
    """A build that knows version 2 serves a log of version 1 as it stands."""
    process = await start_governance(town.runtime)
    try:
        assert process.folds is not None
        fold = process.folds[trust.GOVERNANCE_TOPIC, 0].stored.fold
        policy = fold.standing(trust.POLICY_SUBJECT).policy
    finally:
        await process.stop()
    assert policy == trust.Policy(1, POLICY_HASHES[1])


async def version_of(dsi: Dsi) -> int:
    judged, _ = await dsi.reads.read_one(SETTLES, MPAN, ())
    version: int = judged.decided.policy_version
    return version


async def test_a_log_of_policy_1_goes_over_when_governance_says_so(town: Town) -> None:
    async with open_dsi(town, "old") as dsi:
        assert await version_of(dsi) == 1
        with pytest.raises(Refused) as refused:
            await town.consumer(OBJECTS)
        assert refused.value.reason is Reason.OBJECTION_NOT_POSSIBLE
        await town.govern(governance.AdoptPolicyVersion(BOARD, 2))
        assert await version_of(dsi) == 2
        with pytest.raises(Refused) as back:
            await town.govern(governance.AdoptPolicyVersion(BOARD, 1))
        assert back.value.reason is Reason.POLICY_VERSION_STATE


async def reads_after_objection(town: Town, dsi: Dsi, held_up_s: float) -> int:
    """Rounds of object, read, allow, with a fold held up: how many passed after the objection.

    It is held up for the moment, or until somebody has read.
    """
    passed = 0
    live = dsi.folds["consumers.events.v1", town.partition]
    for _ in range(ROUNDS):
        allowed = await town.consumer(ALLOWS)
        await live.passed(allowed.offset, WAIT_S)
        judged, _ = await dsi.reads.read_one(SETTLES, MPAN, ())
        assert judged.permitted
        deliver = live.deliver
        held: list[object] = []
        live.deliver = held.append  # type: ignore[method-assign, assignment]
        await town.consumer(OBJECTS)
        reading = asyncio.create_task(dsi.reads.read_one(SETTLES, MPAN, ()))
        await asyncio.wait({reading}, timeout=held_up_s)
        live.deliver = deliver  # type: ignore[method-assign]
        for record in held:
            live.deliver(record)  # type: ignore[arg-type]
        try:
            await reading
            passed += 1
        except NotPermitted as refused:
            assert refused.reason is Reason.OPTED_OUT
    return passed


async def test_no_read_passes_after_an_objection_and_without_the_fence_some_do(town: Town) -> None:
    async with open_dsi(town) as dsi, open_dsi(town, "naive", fence=False) as naive:
        assert await reads_after_objection(town, dsi, HELD_UP_S) == 0
        assert await reads_after_objection(town, naive, WAIT_S) > 0, "the naive read must leak"


async def test_an_open_stream_is_cut(town: Town) -> None:
    await town.consumer(ALLOWS)
    async with open_dsi(town, "stream") as dsi:
        stream = ReadingsStream(dsi.reads, dsi.watches, SETTLES, [MPAN], ())
        chunks = chunks_of(stream)
        first = await asyncio.wait_for(anext(chunks), WAIT_S)
        assert first.answer is not None and first.answer.rows == 7 * 48
        waiting = asyncio.ensure_future(anext(chunks))
        await asyncio.sleep(0.3)
        assert not waiting.done()
        await town.consumer(OBJECTS)
        cut = await asyncio.wait_for(waiting, WAIT_S)
        assert cut.refused is Reason.OPTED_OUT
        await chunks.aclose()


async def test_the_audit_judges_each_read_by_the_version_of_its_day(town: Town) -> None:
    def audited() -> list[Line]:
        lines: list[Line] = []
        settings, broker = town.runtime.settings, town.runtime.kafka.bootstrap
        use(settings.model_copy(update={"kafka_bootstrap": broker}))
        run_audit(lines.append)
        return lines

    lines = await asyncio.to_thread(audited)
    assert {line.verdict for line in lines} == {Verdict.SAME}
    assert {line.reason for line in lines} == {"", "OPTED_OUT"}
