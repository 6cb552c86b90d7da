"""The Reference service of `proto/spine/reference/v1`, and loading the files that are shipped.

Each coordinator serves the lists of its own domain from its own fold. At its start it loads the
files shipped with the domain for lists of which the log holds nothing at all: a list that was ever
loaded is changed by `spine reference load` only, so no older build can turn it back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from hashlib import sha256
from importlib import resources
from typing import Any, Final

import structlog

from spine.catalogue import DataDomain
from spine.claims import Claims
from spine.codefile import parse
from spine.codelist import (
    Attribute,
    CodeList,
    CodeListed,
    CodeWithdrawn,
    LoadCodes,
    changes,
    day_of,
)
from spine.coordinator import Coordinator
from spine.domain import Actor
from spine.errors import Bug, Conflict, Invalid, NotFound, Pushback, Reason, Refused
from spine.event import DataPosition, epoch_ms
from spine.gb import SettlementDate
from spine.live import LiveFold
from spine.log_thread import ReaderThread
from spine.orders import Order
from spine.policy import Role
from spine.reference.v1 import reference_pb2, reference_pb2_grpc
from spine.rows import subject_history
from spine.runtime import Process
from spine.server import Service
from spine.services import wire
from spine.services.background import every
from spine.writer import LogWriter

REACH_TIMEOUT_S: Final = 5.0
LOAD_AGAIN_S: Final = 5.0
_log = structlog.get_logger()


class ReferenceService(reference_pb2_grpc.ReferenceServicer):
    """Takes standing data and answers from it, as of a day and as of a place in the log."""

    def __init__(
        self,
        domain: DataDomain,
        coordinator: Coordinator,
        reader: ReaderThread,
        log_id: bytes,
        partitions: int,
    ) -> None:
        self._domain, self._coordinator, self._reader = domain, coordinator, reader
        self._log_id, self._partitions = log_id, partitions

    async def LoadCodes(self, request: Any, context: Any) -> Any:
        """Record what is new in a file of one list."""
        command = LoadCodes(
            wire.caller(),
            request.list,
            tuple(_listed(request.list, code, n) for n, code in enumerate(request.codes)),
            tuple(_withdrawn(request.list, gone, n) for n, gone in enumerate(request.withdrawals)),
        )
        order = wire.order(request, "LoadCodes", request.list, command, command.by)
        handled = await self._coordinator.handle(order)
        recorded = handled.changed and not handled.replayed
        new = changes(self._at(request.list, handled.offset), command) if recorded else ()
        listed = sum(isinstance(event, CodeListed) for event in new)
        return reference_pb2.LoadCodesResponse(
            positions=wire.position_token(self._log_id, [wire.past(handled)]),
            record=wire.record_ref(handled),
            replayed=handled.replayed,
            listed=listed,
            withdrawn=len(new) - listed,
            unchanged=len(command.listed) + len(command.withdrawn) - len(new),
        )

    async def ListCodeLists(self, request: Any, context: Any) -> Any:
        """The lists of this domain, and how much stands in each."""
        await self._reach(request)
        today = day_of(wire.now())
        shown = [
            (spec, self._coordinator.state(name))
            for name, spec in sorted(self._domain.code_lists.items())
        ]
        return reference_pb2.ListCodeListsResponse(
            domain=self._domain.name,
            topic=self._domain.reference_topic,
            lists=[
                reference_pb2.CodeListSummary(
                    list=spec.name,
                    title=spec.title,
                    entries=len(state.entries),
                    live=len(state.on(today)),
                )
                for spec, state in shown
            ],
            positions=self._positions(self._live.next_offset),
        )

    async def ListCodes(self, request: Any, context: Any) -> Any:
        """The entries of a list on a day, or all of them."""
        if request.every_day and request.as_of_valid:
            message = "every_day and as_of_valid exclude each other"
            raise Invalid(Reason.FIELD_INVALID, message, field="every_day")
        state, below = await self._known(request)
        entries = state.entries if request.every_day else state.on(_valid(request))
        return reference_pb2.ListCodesResponse(
            codes=[_shown(entry) for entry in entries], positions=self._positions(below)
        )

    async def GetCode(self, request: Any, context: Any) -> Any:
        """What a code means on a day; NotFound(CODE_UNKNOWN) if it means nothing then."""
        state, below = await self._known(request)
        entry = state.find(request.code, _valid(request))
        if entry is None:
            raise NotFound(Reason.CODE_UNKNOWN, "no such code on that day", field="code")
        return reference_pb2.GetCodeResponse(code=_shown(entry), positions=self._positions(below))

    @property
    def _live(self) -> LiveFold:
        return self._coordinator.live("")

    async def _known(self, request: Any) -> tuple[CodeList, int]:
        """The list as the log below an offset tells it, and that offset."""
        if request.list not in self._domain.code_lists:
            message = "this domain has no such list"
            raise Invalid(Reason.LIST_UNKNOWN, message, field="list")
        at = wire.known_instant(request)
        named = request.HasField("known_below")
        if at is not None and named:
            message = "as_of_known and known_below exclude each other"
            raise Invalid(Reason.FIELD_INVALID, message, field="known_below")
        await self._reach(request)
        below = self._live.next_offset
        topic = self._domain.reference_topic
        if named:
            below = request.known_below
            _, end = await self._reader.run(lambda log: log.bounds(topic, 0))
            if not 0 <= below <= end:
                message = "the log does not reach from 0 to that offset"
                raise Invalid(Reason.POSITION_INVALID, message, field="known_below")
        elif at is not None:
            at_ms = epoch_ms(at) + 1
            below = await self._reader.run(lambda log: log.offset_at(topic, 0, at_ms))
        await self._live.passed(below - 1, REACH_TIMEOUT_S)
        return self._at(request.list, below), below

    def _at(self, list_name: str, below: int) -> CodeList:
        """The list as the folded log below that offset tells it."""
        fold, state = self._live.stored.fold, CodeList()
        domain, unpack = self._coordinator.domain, fold.tools.unpack
        for subject in subject_history(fold.rows, unpack, domain, list_name, below):
            state = subject.state
        return state

    async def _reach(self, request: Any) -> None:
        """Wait until what the caller has seen is folded here."""
        for wanted in wire.at_least(request, self._log_id, self._partitions):
            if wanted.topic == self._domain.reference_topic:
                await self._live.passed(wanted.offset - 1, REACH_TIMEOUT_S)

    def _positions(self, below: int) -> Any:
        place = DataPosition(self._domain.reference_topic, 0, below)
        return wire.position_token(self._log_id, [place])


def _withdrawn(list_name: str, gone: Any, nth: int) -> CodeWithdrawn:
    since = _day(gone.effective_from, f"withdrawals[{nth}].effective_from")
    return CodeWithdrawn(list_name, gone.code, since, gone.why)


def _listed(list_name: str, code: Any, nth: int) -> CodeListed:
    until = f"codes[{nth}].effective_to"
    return CodeListed(
        list_name,
        code.code,
        code.label,
        tuple(Attribute(a.name, a.value) for a in code.attributes),
        _day(code.effective_from, f"codes[{nth}].effective_from"),
        _day(code.effective_to, until) if code.effective_to else None,
        code.source,
        code.licence,
    )


def _shown(entry: CodeListed) -> Any:
    return reference_pb2.Code(
        code=entry.code,
        label=entry.label,
        attributes=[reference_pb2.Attribute(name=a.name, value=a.value) for a in entry.attributes],
        effective_from=entry.effective_from.isoformat(),
        effective_to="" if entry.effective_to is None else entry.effective_to.isoformat(),
        source=entry.source,
        licence=entry.licence,
    )


def _valid(request: Any) -> date:
    """The day that is asked for; today if none is."""
    return _day(request.as_of_valid, "as_of_valid") if request.as_of_valid else day_of(wire.now())


def _day(text: str, field: str) -> date:
    try:
        return SettlementDate.parse(text).local
    except Invalid as error:
        raise Invalid(error.reason, error.message, field=field) from None


# -- with a coordinator -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StandingData:
    """The lists of a domain as its coordinator has folded them, and the service that shows them."""

    service: Service
    coordinator: Coordinator

    def codes(self, list_name: str) -> CodeList:
        """A list as it stands now; empty if nothing was ever loaded, so that no code is known."""
        state = self.coordinator.state(list_name)
        assert isinstance(state, CodeList)
        return state


async def serve_standing_data(
    process: Process, domain: DataDomain, writer: LogWriter, claims: Claims
) -> StandingData:
    """Fold, load and show the standing data of a domain; its topic is folded by the process.

    What could not be loaded now is tried again in the background: until it is, its codes are no.
    """
    assert process.folds is not None
    runtime = process.runtime
    folded = runtime.domains.by_topic[domain.reference_topic]
    coordinator = Coordinator(
        folded, process.folds, writer, runtime.partitions, lambda command: False, claims
    )
    reader = ReaderThread(runtime.kafka)
    process.on_end(reader.close)
    missing = dict(await asyncio.to_thread(shipped, domain.name))

    async def load() -> None:
        for file in list(missing):
            try:
                await _ensure_loaded(coordinator, file, missing[file], process.name)
                del missing[file]
            except (Conflict, Pushback, Refused) as error:
                _log.warning("standing_data.not_loaded", file=file, reason=str(error))

    await load()
    every(process, LOAD_AGAIN_S, load)
    place = runtime.identity.log_id, runtime.partitions
    service = ReferenceService(domain, coordinator, reader, *place)
    name = reference_pb2.DESCRIPTOR.services_by_name["Reference"].full_name
    return StandingData(
        Service(name, reference_pb2_grpc.add_ReferenceServicer_to_server, service), coordinator
    )


def shipped(domain: str) -> Mapping[str, bytes]:
    """The files of standing data that come with a domain, by name."""
    folder = resources.files(f"domains.{domain}") / "reference"
    return {
        file.name: file.read_bytes()
        for file in sorted(folder.iterdir(), key=lambda file: file.name)
        if file.name.endswith(".csv")
    }


async def _ensure_loaded(coordinator: Coordinator, file: str, data: bytes, name: str) -> None:
    """Load the file of a list, unless the log holds anything of that list."""
    try:
        read = parse(data)
    except Invalid as error:
        raise Bug(f"{file}: {error.message}") from None
    if coordinator.state(read.list_name).loaded:
        return
    by, digest = Actor(Role.COORDINATOR, name), sha256(data).digest()
    key = f"shipped-{digest.hex()[:32]}"
    await coordinator.handle(Order(read.list_name, read.command(by), by, "LoadCodes", key, digest))
