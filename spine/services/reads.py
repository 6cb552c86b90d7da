"""The Ledger service of `proto/spine/ledger/v1`: who read a meter, and where an answer came from.

Both come from the log alone. The register is looked up and brought level on a thread of its own;
between calls it follows at a pace that costs the machine next to nothing, so that a call that asks
after a busy time may have to read on first.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import Any, Final

import structlog

from domains.metering.readings import ReadingsBatch
from spine import telemetry, trust
from spine.answer import HalfHours, half_hours_digest
from spine.codec import Codec
from spine.common.v1 import common_pb2
from spine.dsi.rows import half_hours_in
from spine.errors import Invalid, NotFound, NotPermitted, Pushback, Reason, Refused
from spine.event import DataPosition
from spine.gb import parse_mpxn
from spine.ledger.library import Library
from spine.ledger.note import Note
from spine.ledger.process import LEDGER
from spine.ledger.provenance import BATCHES_MAX, Batch, Records, batches_of, document, statement
from spine.ledger.proving import LogProver
from spine.ledger.register import FOLDED, LATEST, Outcome, Read, ReadRegister, Viewer
from spine.ledger.v1 import ledger_pb2, ledger_pb2_grpc
from spine.log import LogReader
from spine.log_thread import ReaderThread
from spine.murmur2 import murmur2_partition
from spine.objections import objections_of
from spine.policy import MeterAccess, Role, Supply, Tenancy
from spine.runtime import Process
from spine.server import Service
from spine.services import wire
from spine.services.background import every

PAGE: Final = 100
PAGE_MAX: Final = 500
# A proof takes some 5 kB, and an answer no more than 4 MiB.
PROVED_MAX: Final = 200
# What one page may take of the thread that all callers share, and of the room in its answer.
LOOKED_THROUGH_MAX: Final = 5_000
PAGE_S: Final = 2.0
PROOF_BYTES_MAX: Final = 2 << 20
RECORDS_A_TURN: Final = 2_000
# Of each topic. A look at a partition costs as much as some records of it: seldom, and then more.
RECORDS_IN_PASSING: Final = 200
# Who is far behind takes a tenth of it in passing, but leaves most of a core to those who read.
RECORDS_IN_PASSING_MAX: Final = 1_000
FOLLOW_EVERY_S: Final = 10.0
SPARE_S: Final = 2.0
READERS: Final = frozenset(
    {Role.CONSUMER, Role.DATA_USER, Role.SUPPLIER, Role.DATA_SERVICE, Role.AUDITOR}
)
_log = structlog.get_logger()
_CURSOR: Final = re.compile(r"([0-9a-f]{16})\.(\d{1,18})\.(\d{1,9})", re.ASCII)


class ReadsService(ledger_pb2_grpc.LedgerServicer):
    """Tells each caller of the reads that are its own to know of."""

    def __init__(
        self,
        register: ReadRegister,
        log: ReaderThread,
        library: Library,
        codec: Codec,
        log_id: bytes,
        partitions: int,
        sign: Callable[[str], Note],
    ) -> None:
        self._register, self._log, self._library = register, log, library
        self._codec, self._log_id, self._partitions = codec, log_id, partitions
        self._sign = sign
        self._behind = dict.fromkeys(range(partitions), 0)

    async def follow(self) -> None:
        """Take in a little more of every partition, and more where much is left.

        Of one that cannot be read it is still told how much that is.
        """
        for partition, behind in self._behind.items():
            wanted = max(RECORDS_IN_PASSING, behind // 10)
            try:
                await self._read_on(partition, min(wanted, RECORDS_IN_PASSING_MAX))
            except Exception as error:
                _log.warning("reads.not_indexed", partition=partition, reason=str(error))
                left = await self._log.run(partial(self._register.behind, partition))
                self._tell(partition, left)

    async def ListOwnMeters(self, request: Any, context: Any) -> Any:
        """The meters of the consumer that calls, with its tenancies and suppliers there."""
        caller = wire.caller()
        if caller.role != Role.CONSUMER:
            raise NotPermitted(Reason.ROLE_NOT_ALLOWED, "only a consumer has meters of its own")
        for partition in range(self._partitions):
            await self._level(partition, request, context)

        def own(log: LogReader) -> Any:
            found = [
                (mpxn, self._register.access(partition, mpxn))
                for partition in range(self._partitions)
                for mpxn in self._register.meters_of(partition, caller.party)
            ]
            places = [p for n in range(self._partitions) for p in self._as_of(n)]
            return ledger_pb2.ListOwnMetersResponse(
                meters=[_own_meter(mpxn, access, caller.party) for mpxn, access in sorted(found)],
                as_of=wire.position_token(self._log_id, places),
            )

        return await self._log.run(own)

    async def ListReads(self, request: Any, context: Any) -> Any:
        """One page of the decisions on a meter that concern the caller, the latest first."""
        mpxn, partition = self._place(request.mpxn)
        size = request.page_size or PAGE
        most = PROVED_MAX if request.with_proofs else PAGE_MAX
        if not 0 < size <= most:
            raise Invalid(Reason.FIELD_INVALID, f"at most {most} a page", field="page_size")
        binding = _binding(mpxn)
        before, since = _before(request.cursor, binding), wire.optional_instant(request, "since")
        viewer = await self._viewer(partition, mpxn, request, context)

        def page(log: LogReader) -> Any:
            shown: list[Any] = []
            cursor, proved = "", 0
            prover = self._prover(log) if request.with_proofs else None
            until = time.monotonic() + PAGE_S
            for looked, read in enumerate(self._lines(partition, mpxn, viewer, before), 1):
                enough = len(shown) == size or proved > PROOF_BYTES_MAX
                if enough or looked > LOOKED_THROUGH_MAX or time.monotonic() > until:
                    break
                cursor = f"{binding}.{read.offset}.{read.entry}"
                if viewer.may_see(read.request) and (since is None or read.at >= since):
                    shown.append(self._read(partition, read, viewer, prover))
                    proved += len(shown[-1].proof)
            else:
                cursor = ""
            return ledger_pb2.ListReadsResponse(
                reads=shown,
                next_cursor=cursor,
                as_of=wire.position_token(self._log_id, self._as_of(partition)),
            )

        return await self._log.run(page)

    async def GetProvenance(self, request: Any, context: Any) -> Any:
        """The signed record of one answer, which the caller sends along."""
        mpxn, partition = self._place(request.mpxn)
        if request.partition != partition:
            raise Invalid(
                Reason.POSITION_INVALID, "the meter is in another partition", field="partition"
            )
        rows = half_hours_in(mpxn, request.columns)
        viewer = await self._viewer(partition, mpxn, request, context)

        def record(log: LogReader) -> str:
            read = self._register.read(partition, mpxn, request.offset, request.entry)
            if read is None or not viewer.may_see(read.request):
                raise NotFound(
                    Reason.DECISION_UNKNOWN, "no decision that concerns you stands there"
                )
            outcome = self._register.outcome(partition, read)
            if outcome is None or outcome.digest != half_hours_digest(rows):
                message = "these are not the half hours that were recorded as released"
                raise Refused(Reason.PROVENANCE_UNAVAILABLE, message)
            prover = self._prover(log)
            if prover is None:
                raise Pushback(Reason.HEAD_BEHIND, "no head was published yet")
            records = self._records(prover, partition, read, outcome, rows)
            text = statement(self._log_id, read, outcome, rows, records, wire.now())
            try:
                proofs = [prover.proof(batch.record) for batch in records.batches.values()]
                proofs.append(prover.proof(records.request, _shown_entry(read, viewer)))
                proofs.append(prover.proof(records.outcome))
            except NotFound:
                message = "no published head covers the answer's records yet"
                raise Pushback(Reason.HEAD_BEHIND, message) from None
            return document(self._sign(text), proofs, self._library.keys())

        return ledger_pb2.GetProvenanceResponse(provenance=await self._log.run(record))

    def _lines(
        self, partition: int, mpxn: str, viewer: Viewer, before: tuple[int, int]
    ) -> Iterator[Read]:
        """The lines to look through; whom the meter does not concern, only its own."""
        if viewer.is_concerned:
            return self._register.reads(partition, mpxn, before)
        return self._register.asked(partition, mpxn, viewer.role, viewer.party, before)

    def _place(self, said: str) -> tuple[str, int]:
        mpxn = str(parse_mpxn(said))
        return mpxn, murmur2_partition(mpxn.encode(), self._partitions)

    async def _viewer(self, partition: int, mpxn: str, request: Any, context: Any) -> Viewer:
        """The caller, once the register has read all that the log says of the partition."""
        caller = wire.caller()
        if caller.role not in READERS:
            raise NotPermitted(Reason.ROLE_NOT_ALLOWED, "this role is told of no reads")
        await self._level(partition, request, context)
        access = await self._log.run(lambda _: self._register.access(partition, mpxn))
        return Viewer(caller.role, caller.party, access)

    async def _level(self, partition: int, request: Any, context: Any) -> None:
        """Read on until the register has all that the log says of the partition.

        Pushback(FOLD_BEHIND) if the call has not the time, or asks for more than there is.
        """
        seen = request, self._log_id, self._partitions
        asked = wire.at_least(*seen) if hasattr(request, "at_least") else ()
        wanted = [p for p in asked if p.partition == partition and p.topic in FOLDED]
        while await self._read_on(partition, RECORDS_A_TURN):
            if (context.time_remaining() or 0.0) < SPARE_S:
                raise Pushback(Reason.FOLD_BEHIND, "the log is still being looked through")
        reached = await self._log.run(lambda _: self._as_of(partition))
        if any(p.offset > r.offset for p in wanted for r in reached if p.topic == r.topic):
            raise Pushback(Reason.FOLD_BEHIND, "the log does not reach that far here yet")

    async def _read_on(self, partition: int, at_most: int) -> int:
        """Take in so many records; how many the register is behind then, for all to see."""
        behind = await self._log.run(partial(self._register.catch_up, partition, at_most=at_most))
        self._tell(partition, behind)
        return behind

    def _tell(self, partition: int, behind: int) -> None:
        self._behind[partition] = behind
        telemetry.reads_behind.set(behind, {"partition": partition})

    def _as_of(self, partition: int) -> list[DataPosition]:
        return [
            DataPosition(topic, partition, self._register.next_offset(topic, partition))
            for topic in FOLDED
        ]

    def _prover(self, log: LogReader) -> LogProver | None:
        """Makes proofs under the published head; None if none was published yet."""
        try:
            return LogProver(self._library.prover(), log, self._codec)
        except NotFound:
            return None

    def _records(
        self, prover: LogProver, partition: int, read: Read, outcome: Outcome, rows: HalfHours
    ) -> Records:
        """What the log holds behind an answer."""
        offsets = batches_of(rows)
        if len(offsets) > BATCHES_MAX:
            message = f"the answer rests on more than {BATCHES_MAX} batches: ask for shorter pages"
            raise Refused(Reason.PROVENANCE_UNAVAILABLE, message)
        batches = {}
        for offset in offsets:
            record = prover.record((trust.READINGS_TOPIC, partition), offset)
            batch = self._codec.decode(record.value or b"")
            assert isinstance(batch, ReadingsBatch)  # the digest says that these rows are from it
            batches[offset] = Batch(
                record, batch.sender, batch.sender_reference, batch.source_digest
            )
        return Records(
            prover.record((trust.CONSUMER_LOG, partition), read.offset),
            prover.record((trust.OUTCOMES_TOPIC, partition), outcome.offset),
            batches,
        )

    def _read(self, partition: int, read: Read, viewer: Viewer, prover: LogProver | None) -> Any:
        """A line as it is sent, with its proof where one is wanted and can be had."""
        request, outcome = read.request, self._register.outcome(partition, read)
        known, proof = viewer.may_know(read.consent_id), ""
        if prover is not None:
            record = prover.record((trust.CONSUMER_LOG, partition), read.offset)
            with suppress(NotFound):  # newer than the published head
                proof = json.dumps(prover.proof(record, _shown_entry(read, viewer)), indent=1)
        return ledger_pb2.Read(
            request=common_pb2.RecordRef(
                topic=trust.CONSUMER_LOG,
                partition=partition,
                offset=read.offset,
                entry=read.entry,
            ),
            request_id=request.request_id,
            at=wire.stamp(read.at),
            party=request.party,
            role=request.role,
            method=request.method,
            purpose=request.purpose,
            basis=request.basis,
            category=request.category,
            interval=common_pb2.Interval(
                start=wire.stamp(request.interval_from), end=wire.stamp(request.interval_to)
            ),
            permitted=read.permitted,
            refused=read.refused if viewer.is_concerned else read.disclosed,
            consent_id=read.consent_id if known else "",
            consent_version=read.consent_version if known else 0,
            release=outcome.release if outcome else "",
            rows=outcome.rows if outcome else 0,
            metering_points=read.meters,
            proof=proof,
        )


def _own_meter(mpxn: str, access: MeterAccess, consumer_ref: str) -> Any:
    """A meter as its occupier is told of it: its own stays, and who supplied it meanwhile.

    A supply is told as far as it lies within a stay: what came before and after is of others.
    """
    own = [t for t in access.tenancies if t.consumer_ref == consumer_ref]
    stays = sorted(((t.effective_from, t) for t in own), key=lambda pair: pair[0])
    supplies = sorted(access.supplies, key=lambda supply: supply.effective_from)
    return ledger_pb2.OwnMeter(
        mpxn=mpxn,
        tenancies=[
            ledger_pb2.Stay(tenancy_id=stay.tenancy_id, **_span(begin, stay.effective_to))
            for begin, stay in stays
        ],
        supplies=[
            ledger_pb2.Supply(supplier=supply.supplier, **_span(begin, end))
            for _, stay in stays
            for supply in supplies
            for begin, end in _common(stay, supply)
        ],
        objections=_objected(access, {stay.tenancy_id for stay in own}),
    )


def _objected(access: MeterAccess, tenancies: set[str]) -> list[Any]:
    """The uses to which an occupier of these objects, each once."""
    uses = {(o.basis, o.purpose): o for o in objections_of(access) if o.tenancy_id in tenancies}
    return [
        ledger_pb2.Objection(basis=basis, purpose=purpose, objected_at=wire.stamp(one.objected_at))
        for (basis, purpose), one in sorted(uses.items())
    ]


def _common(stay: Tenancy, supply: Supply) -> Iterator[tuple[datetime, datetime | None]]:
    """From when to when the supply lies within the stay, if at all."""
    begin = max(stay.effective_from, supply.effective_from)
    ends = [end for end in (stay.effective_to, supply.effective_to) if end is not None]
    end = min(ends, default=None)
    if end is None or begin < end:
        yield begin, end


def _span(begin: datetime, end: datetime | None) -> dict[str, Any]:
    span = {"effective_from": wire.stamp(begin)}
    return span if end is None else span | {"effective_to": wire.stamp(end)}


def _shown_entry(read: Read, viewer: Viewer) -> int | None:
    """Which request of the record is shown: one that names what is not the viewer's, to few."""
    consents = (read.consent_id, read.request.consent_id)
    own = read.meters == 1 and all(viewer.may_know(consent) for consent in consents)
    shown = own or viewer.role == Role.AUDITOR or viewer.asked(read.request)
    return read.entry if shown else None


def _binding(mpxn: str) -> str:
    """What binds a cursor to its request: the caller and the meter."""
    caller = wire.caller()
    return hashlib.sha256(f"{caller.role}/{caller.party} {mpxn}".encode()).hexdigest()[:16]


def _before(cursor: str, binding: str) -> tuple[int, int]:
    """Below which offset and entry a page begins."""
    if not cursor:
        return LATEST
    found = _CURSOR.fullmatch(cursor)
    if found is None or found[1] != binding:
        raise Invalid(Reason.CURSOR_INVALID, "the cursor is not of this request", field="cursor")
    return int(found[2]), int(found[3])


def reads_service(process: Process, library: Library, sign: Callable[[str], Note]) -> Service:
    """The service, with a register of its own that goes on being kept while the process runs."""
    runtime = process.runtime
    register = ReadRegister(
        runtime.settings.data_dir / LEDGER / "register", runtime.stored_fold, runtime.partitions
    )
    log = ReaderThread(runtime.kafka)
    service = ReadsService(
        register, log, library, runtime.codec, runtime.identity.log_id, runtime.partitions, sign
    )
    process.on_end(register.close)
    process.on_end(log.close)
    every(process, FOLLOW_EVERY_S, service.follow)
    return Service(
        ledger_pb2.DESCRIPTOR.services_by_name["Ledger"].full_name,
        ledger_pb2_grpc.add_LedgerServicer_to_server,
        service,
    )
