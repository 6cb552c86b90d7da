"""Registrations, supplies, appointments, tenancies and consents by the bulk commands of the spine.

Several calls are under way at once, each of a thousand commands; every answer is looked at.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from loadtest.country import DATA_SERVICES, GSP_GROUPS, SENDERS, SINCE, SUPPLIERS, Country, Meters
from loadtest.installation import CONSENTS_BY, Installation, expect
from spine.console.client import stamp
from spine.consumers.v1 import consumers_pb2, consumers_pb2_grpc
from spine.metering.v1 import metering_pb2, metering_pb2_grpc
from spine.policy import Role
from spine.server import connect

COMMANDS_A_CALL: Final = 1_000
CALLS_AT_ONCE: Final = 2
CALL_S: Final = 29.0
_SINCE: Final = stamp(SINCE)

Progress = Callable[[int], None]


def no_progress(done: int) -> None:
    """Nobody watches."""


def registrations(meters: Meters) -> Iterator[Any]:
    """The registration of each metering point that is registered at all."""
    rows = zip(
        meters.mpans.tolist(), meters.gsp_group.tolist(), meters.registered.tolist(), strict=True
    )
    for mpan, group, registered in rows:
        if registered:
            text = mpan.decode()
            yield metering_pb2.RegisterMeteringPointRequest(
                idempotency_key=f"r-{text}",
                mpxn=text,
                gsp_group=GSP_GROUPS[group],
                registered_from=_SINCE,
            )


def supplies(meters: Meters) -> Iterator[Any]:
    """Who supplies each metering point, and the data service where there is one."""
    rows = zip(meters.mpans.tolist(), meters.supplier.tolist(), meters.sender.tolist(), strict=True)
    for mpan, supplier, sender in rows:
        text = mpan.decode()
        yield consumers_pb2.BulkCommand(
            start_supply=consumers_pb2.StartSupplyRequest(
                idempotency_key=f"s-{text}",
                mpxn=text,
                supplier=SUPPLIERS[supplier],
                effective_from=_SINCE,
            )
        )
        if SENDERS[sender] in DATA_SERVICES:
            yield consumers_pb2.BulkCommand(
                appoint_agent=consumers_pb2.AppointAgentRequest(
                    idempotency_key=f"a-{text}",
                    mpxn=text,
                    agent=SENDERS[sender],
                    agent_role=Role.DATA_SERVICE,
                    effective_from=_SINCE,
                )
            )


def consumer_of(mpan: str) -> str:
    """The reference of whoever lives at a metering point."""
    return f"c-{mpan}"


def tenancies(meters: Meters) -> Iterator[Any]:
    """A tenancy at each metering point."""
    for mpan in meters.mpans.tolist():
        text = mpan.decode()
        yield consumers_pb2.BulkCommand(
            start_tenancy=consumers_pb2.StartTenancyRequest(
                idempotency_key=f"t-{text}",
                mpxn=text,
                tenancy_id=f"t-{text}",
                consumer_ref=consumer_of(text),
                effective_from=_SINCE,
            )
        )


def consents(meters: Meters, valid_from: datetime, advisers: Sequence[str]) -> Iterator[Any]:
    """A consent at each metering point, to one of the advisers in turn."""
    terms = consumers_pb2.Terms(
        purpose="ENERGY_ADVICE",
        categories=["HH_CONSUMPTION"],
        history_from=_SINCE,
        valid_from=stamp(valid_from),
        expires=stamp(valid_from + timedelta(days=300)),
    )
    for index, mpan in zip(meters.index.tolist(), meters.mpans.tolist(), strict=True):
        text = mpan.decode()
        yield consumers_pb2.BulkCommand(
            grant_consent=consumers_pb2.GrantConsentRequest(
                idempotency_key=f"k-{text}",
                consent_id=f"k-{text}",
                mpxns=[text],
                data_user=advisers[index % len(advisers)],
                consumer_ref=consumer_of(text),
                terms=terms,
            )
        )


class Loader:
    """Loads a country's registers through the coordinators."""

    def __init__(self, spine: Installation, country: Country) -> None:
        self._spine, self._country = spine, country

    async def register(self, progress: Progress = no_progress) -> int:
        """All registrations; how many facts that were."""
        return await self._metering(registrations, progress)

    async def supply(self, progress: Progress = no_progress) -> int:
        """All supplies and appointments."""
        return await self._consumers(supplies, progress)

    async def occupy(self, progress: Progress = no_progress) -> int:
        """All tenancies."""
        return await self._consumers(tenancies, progress)

    async def consent(self, progress: Progress = no_progress) -> int:
        """All consents."""
        now = datetime.now(UTC) - timedelta(seconds=1)
        return await self._consumers(
            lambda meters: consents(meters, now, self._spine.advisers), progress
        )

    async def _metering(self, made: Callable[[Meters], Iterator[Any]], progress: Progress) -> int:
        spine = self._spine
        async with connect(spine.target("metering"), spine.identity(CONSENTS_BY)) as channel:
            call = metering_pb2_grpc.MeteringStub(channel).RegisterMeteringPoints
            request = metering_pb2.RegisterMeteringPointsRequest
            return await self._all(self._calls(made), call, request, progress)

    async def _consumers(self, made: Callable[[Meters], Iterator[Any]], progress: Progress) -> int:
        spine = self._spine
        async with connect(spine.target("consumers"), spine.identity(CONSENTS_BY)) as channel:
            call = consumers_pb2_grpc.ConsumersStub(channel).Bulk
            return await self._all(self._calls(made), call, consumers_pb2.BulkRequest, progress)

    def _calls(self, made: Callable[[Meters], Iterator[Any]]) -> Iterator[list[Any]]:
        """The commands of all blocks, a thousand at a time."""
        batch: list[Any] = []
        for start in range(0, self._country.meters, COMMANDS_A_CALL):
            for command in made(self._country.block(start, start + COMMANDS_A_CALL)):
                batch.append(command)
                if len(batch) == COMMANDS_A_CALL:
                    yield batch
                    batch = []
        if batch:
            yield batch

    async def _all(
        self, calls: Iterator[list[Any]], call: Any, request: Any, progress: Progress
    ) -> int:
        done = 0

        async def worker() -> None:
            nonlocal done
            for commands in calls:
                answer = await call(request(commands=commands), timeout=CALL_S)
                expect(len(answer.results) == len(commands), "a command has no result")
                refused = next((r for r in answer.results if r.refused), None)
                expect(refused is None, f"a command was refused: {refused}")
                done += len(commands)
                progress(done)

        await asyncio.gather(*(worker() for _ in range(CALLS_AT_ONCE)))
        return done
