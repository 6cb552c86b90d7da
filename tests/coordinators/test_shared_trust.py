"""One token at both sides on a real log: a no reaches both, whatever a fold is behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from itertools import count
from typing import Any

import pytest
import pytest_asyncio

from domains.governance.commands import (
    GrantAccreditation,
    ReinstateParticipant,
    SuspendParticipant,
    WithdrawAccreditation,
)
from domains.governance.equivalence import AdoptEquivalenceTable
from spine import trust
from spine.dsi.stream import ReadingsStream
from spine.embedded import EmbeddedKafka
from spine.errors import NotPermitted, Pushback, Reason
from spine.event import SignerRole
from spine.server import act_for
from spine.services.shared_trust import (
    ConsentTokensService,
    SharedTrustService,
    Side,
    consent_side,
    data_side,
)
from spine.shared_trust.v1 import shared_trust_pb2
from tests.helpers.log import open_new_log
from tests.helpers.town import (
    ADVISER,
    BOARD,
    DAY,
    MPAN,
    STRANGER,
    Town,
    at_least,
    chunks_of,
    open_dsi,
    query,
    settle,
)

ROUNDS = 10
WAIT_S = 30.0
pytestmark = pytest.mark.asyncio(loop_scope="module")


class Sides:
    """Both sides of a town, as the adviser asks them."""

    def __init__(self, town: Town, dsi: Any) -> None:
        log_id = town.runtime.identity.log_id
        self.town, self.dsi = town, dsi
        self.consent = consent_side(town.consumers, log_id)
        self.data = data_side(dsi.access, log_id)
        signer = town.runtime.signer(SignerRole.CONSUMERS)
        self._tokens = ConsentTokensService(self.consent, signer)

    async def token(self, consent_id: str) -> str:
        """A token for the adviser's consent."""
        act_for(ADVISER)
        wanted = shared_trust_pb2.IssueConsentTokenRequest(consent_id=consent_id, mpxns=[MPAN])
        return str((await self._tokens.IssueConsentToken(wanted, None)).token)

    async def ask(self, side: Side, token: str) -> str:
        """Why it is not valid there; empty if it is."""
        act_for(ADVISER)
        request = shared_trust_pb2.CheckConsentTokenRequest(token=token)
        said = await SharedTrustService(side).CheckConsentToken(request, None)
        assert said.valid is (said.reason == "")
        assert [leg.mpxn for leg in said.legs] == ([MPAN] if said.positions.positions else [])
        return str(said.reason)

    async def both(self, token: str) -> list[str]:
        """What both sides say, the consent side first."""
        return [await self.ask(side, token) for side in (self.consent, self.data)]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sides(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Sides]:
    data_dir = tmp_path_factory.mktemp("town")
    with EmbeddedKafka(data_dir) as broker:
        settings, kafka = await open_new_log(broker, data_dir)
        async with settle(settings, kafka) as town, open_dsi(town) as dsi:
            yield Sides(town, dsi)


async def no_barrier(mpxn: str) -> None:
    """The naive side asks its fold as it is."""


async def test_no_token_is_good_after_its_revocation_and_without_the_barrier_it_is(
    sides: Sides,
) -> None:
    town = sides.town
    live = sides.dsi.folds[trust.CONSUMER_LOG, town.partition]
    naive = replace(sides.data, level=no_barrier)
    leaked = 0
    for number in range(ROUNDS):
        consent = f"revoked-{number}"
        await town.grant(consent)
        token = await sides.token(consent)
        assert await sides.both(token) == ["", ""]
        deliver, held = live.deliver, list[Any]()
        live.deliver = held.append
        await town.revoke(consent)
        assert await sides.ask(sides.consent, token) == Reason.CONSENT_REVOKED
        leaked += await sides.ask(naive, token) == ""
        asking = asyncio.create_task(sides.ask(sides.data, token))
        await asyncio.sleep(0.02)
        live.deliver = deliver
        for record in held:
            live.deliver(record)
        assert await asking == Reason.CONSENT_REVOKED
        with pytest.raises(NotPermitted) as refused:
            await sides.token(consent)
        assert refused.value.reason is Reason.CONSENT_REVOKED
    assert leaked == ROUNDS, "the naive side must leak, or this test shows nothing"


async def test_a_side_whose_fold_stands_still_says_so_and_never_yes(
    sides: Sides, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spine.access.FOLD_TIMEOUT_S", 0.3)
    await sides.town.grant("held")
    token = await sides.token("held")
    assert await sides.both(token) == ["", ""]
    live = sides.dsi.folds[trust.CONSUMER_LOG, sides.town.partition]
    deliver, held = live.deliver, list[Any]()
    live.deliver = held.append
    try:
        with pytest.raises(Pushback) as behind:
            await sides.ask(sides.data, token)
    finally:
        live.deliver = deliver
        for record in held:
            live.deliver(record)
    assert behind.value.reason is Reason.FOLD_BEHIND
    assert await sides.ask(sides.data, token) == ""


async def test_a_stranger_learns_nothing_and_writes_nothing(sides: Sides) -> None:
    await sides.town.grant("not-yours")
    token = await sides.token("not-yours")
    act_for(STRANGER)
    for side in (sides.consent, sides.data):
        before = side.positions(side.fold(MPAN))
        for text in (token, token.replace("version: 1", "version: 2")):
            request = shared_trust_pb2.CheckConsentTokenRequest(token=text)
            said = await SharedTrustService(side).CheckConsentToken(request, None)
            refused = shared_trust_pb2.CheckConsentTokenResponse(reason=Reason.NOT_PERMITTED)
            assert said == refused
        assert side.positions(side.fold(MPAN)) == before


async def test_a_suspension_and_a_missing_row_reach_both_sides(sides: Sides) -> None:
    town = sides.town
    await town.grant("judged")
    token = await sides.token("judged")
    await town.govern(SuspendParticipant(BOARD, ADVISER.party, "INQUIRY"))
    assert await sides.both(token) == [Reason.PARTICIPANT_SUSPENDED] * 2
    await town.govern(ReinstateParticipant(BOARD, ADVISER.party, "DONE"))
    assert await sides.both(token) == ["", ""]
    await town.govern(AdoptEquivalenceTable(BOARD, 1, ()))
    assert await sides.both(token) == [Reason.ACCREDITATION_NOT_EQUIVALENT, ""]
    with pytest.raises(NotPermitted) as refused:
        await sides.token("judged")
    assert refused.value.reason is Reason.ACCREDITATION_NOT_EQUIVALENT
    row = trust.EquivalenceRow("DSI", "1", "ENERGY_ADVICE", "CCS", "2", "ENERGY_ADVICE")
    await town.govern(AdoptEquivalenceTable(BOARD, 2, (row,)))
    assert await sides.both(token) == ["", ""]


async def test_an_open_stream_ends_with_the_row_or_the_accreditation_it_rests_on(
    sides: Sides,
) -> None:
    """The adviser changes schemes: what the other scheme says of it counts by the row alone."""
    town, dsi, role = sides.town, sides.dsi, ADVISER.role
    recorded = at_least(await town.record())
    await town.grant("streamed")
    row = trust.EquivalenceRow("CCS", "2", "ENERGY_ADVICE", "DSI", "1", "ENERGY_ADVICE")
    version = sides.data.fold(MPAN).equivalence()
    tables = count(1 if version is None else version.version + 1)
    held = ("CCS", "2", ("ENERGY_ADVICE",), DAY)
    await town.govern(AdoptEquivalenceTable(BOARD, next(tables), (row,)))
    await town.govern(GrantAccreditation(BOARD, ADVISER.party, role, *held))
    await town.govern(WithdrawAccreditation(BOARD, ADVISER.party, role, "DSI"))

    async def cut_by(command: Any) -> Reason | None:
        """For which reason an open stream ends when this is governed."""
        chunks = chunks_of(ReadingsStream(dsi.reads, dsi.watches, query(), [MPAN], recorded))
        await asyncio.wait_for(anext(chunks), WAIT_S)
        waiting = asyncio.ensure_future(anext(chunks))
        await town.govern(command)
        cut = await asyncio.wait_for(waiting, WAIT_S)
        await chunks.aclose()
        return cut.refused

    cut = await cut_by(AdoptEquivalenceTable(BOARD, next(tables), ()))
    assert cut is Reason.ACCREDITATION_NOT_EQUIVALENT
    await town.govern(AdoptEquivalenceTable(BOARD, next(tables), (row,)))
    cut = await cut_by(WithdrawAccreditation(BOARD, ADVISER.party, role, "CCS"))
    assert cut is Reason.ACCREDITATION_MISSING
