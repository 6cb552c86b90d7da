"""`mixed`: readings come in at the national pace while advisers read and consumers revoke.

The pace is 32 million meter-days in four hours. Every revocation that is acknowledged is followed
at once by a read, which must be refused. One that is answered is a stale permit: it is counted, the
load goes on, and the run has failed.
At a pace beyond the machine calls end unanswered: they are counted, and the target is missed. At a
small share of the paces most must be answered, or the run has failed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any, Final

from loadtest.asking import week_reader
from loadtest.country import SENDERS
from loadtest.deliveries import BLOCK, Delivery, deliveries
from loadtest.gb_day import ORDINARY_DAYS
from loadtest.installation import CONSENTS_BY, expect
from loadtest.results import Bound, Result
from loadtest.serving import Served
from loadtest.traffic import Patience, Taken, answer_to, at_pace, channels
from spine.consumers.v1 import consumers_pb2, consumers_pb2_grpc
from spine.errors import Reason
from spine.metering.v1 import metering_pb2_grpc
from spine.server import connect

METER_DAYS_PER_S: Final = 2_220
READS_PER_S: Final = 500
REVOCATIONS_PER_S: Final = 50
CALL_S: Final = 20.0

TARGETS: Final = (
    Bound("p99_ms", most=50),
    Bound("stale_permits", most=0),
    Bound("unanswered", most=0),
)
GATES: Final = (Bound("stale_permits", most=0), Bound("revocations_checked", least=1))
# At a small share of the paces the machine is not beyond its means, however busy it is.
SMALL_SHARE: Final = 0.1
SMALL_GATES: Final = (
    *GATES,
    Bound("answered_share", least=0.8),
    Bound("revocations_checked_share", least=0.5),
)


def run(served: Served, seconds: float, share: float = 1.0) -> Result:
    """The scenario on a country that is served; `share` of the stated paces.

    The consents of the meters it takes for revoking are gone afterwards.
    """
    return asyncio.run(_run(served, seconds, share))


async def _run(served: Served, seconds: float, share: float) -> Result:
    spine, known = served.spine, served.known
    revoked = known[: int(REVOCATIONS_PER_S * share * seconds)]
    read = known[len(revoked) :]
    expect(len(read) > 0, "there are too few meters to revoke that many consents")
    after = AfterRevoking()
    async with (
        week_reader(served) as weeks,
        connect(spine.target("consumers"), spine.identity(CONSENTS_BY)) as consumers,
        channels(spine.target("metering"), (spine.identity(s) for s in SENDERS)) as metering,
    ):
        stub = consumers_pb2_grpc.ConsumersStub(consumers)
        if not served.rows:
            await weeks.learn()
        stubs = [metering_pb2_grpc.MeteringStub(channel) for channel in metering]
        sent = _endless(served)

        async def ask(number: int) -> None:
            with answer_to("a read"):
                await weeks.read(read[number % len(read)])

        async def revoke(number: int) -> None:
            index = revoked[number]
            mpan = served.mpans[index]
            request = consumers_pb2.RevokeConsentRequest(
                idempotency_key=f"mixed-{mpan}", consent_id=f"k-{mpan}", mpxns=[mpan]
            )
            with answer_to("a revocation"):
                await stub.RevokeConsent(request, timeout=CALL_S)
            await after.read(weeks.patience, weeks.call(index), weeks.requests[index])

        async def record(number: int) -> None:
            delivery = next(sent)
            call = stubs[SENDERS.index(delivery.sender)]
            with answer_to("a delivery of readings"):
                report = await call.RecordReadings(iter(delivery.requests()), timeout=CALL_S)
            delivery.check(report, again=False)
            rows.append(len(delivery.rows))

        rows: list[int] = []
        per_call = served.country.meters / len(SENDERS)
        taken: tuple[Taken, Taken, Taken] = await asyncio.gather(
            at_pace(ask, READS_PER_S * share, seconds),
            at_pace(revoke, REVOCATIONS_PER_S * share, seconds),
            at_pace(record, METER_DAYS_PER_S * share / per_call, seconds),
        )
    reads, revocations, _ = taken
    unanswered = sum(each.unanswered for each in taken)
    checked = after.refused + after.permitted
    return Result(
        "mixed",
        len(served.mpans),
        {
            "p50_ms": reads.at(50),
            "p99_ms": reads.at(99),
            "reads_per_s": reads.per_s,
            "revocations_per_s": revocations.per_s,
            "revocation_and_refusal_p99_ms": revocations.at(99),
            "meter_days_per_s": sum(rows) / reads.seconds,
            "revocations_checked": checked,
            "revocations_checked_share": checked / len(revoked),
            "stale_permits": after.permitted,
            "unanswered": unanswered,
            "answered_share": 1 - unanswered / sum(len(each.latencies_ms) for each in taken),
            "pushed_back": weeks.patience.count,
        },
        TARGETS,
        SMALL_GATES if share <= SMALL_SHARE else GATES,
        [] if share == 1 else [f"at {share:g} of the stated paces"],
    )


@dataclass(slots=True)
class AfterRevoking:
    """Reads after an acknowledged revocation: how many were refused for that, as is right, and how
    many permitted all the same.
    """

    refused: int = 0
    permitted: int = 0

    async def read(self, patience: Patience, call: Any, request: bytes) -> None:
        """Unanswered if it is only late, WrongAnswer if it is refused for anything else."""
        with answer_to("a revoked read", refused_for=Reason.CONSENT_REVOKED):
            await patience.until_answered(call, request)
            self.permitted += 1
            return
        self.refused += 1


def _endless(served: Served) -> Iterator[Delivery]:
    """Deliveries of one day after another, long after those that are read."""
    day: date = ORDINARY_DAYS[30]
    while True:
        for start in range(0, served.country.meters, BLOCK):
            yield from deliveries(served.country, start, day)
        day += timedelta(days=1)
