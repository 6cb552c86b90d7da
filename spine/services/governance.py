"""The Governance service of `proto/spine/governance/v1`, and the process behind it.

A command is decided at home and then copied to every partition of every topic; the answer counts
the partitions that hold it (design rule 12). What an answer could not wait for, and what a crash
left out, is sent in the background.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator
from contextlib import closing
from hashlib import sha256
from typing import Any, Final

import structlog

from domains.governance import holds, identification
from domains.governance.catalogue import DATA_DOMAIN
from domains.governance.commands import (
    AdmitParticipant,
    AdoptPolicyVersion,
    AuthoriseSigningKey,
    GovernanceCommand,
    GrantAccreditation,
    ReinstateParticipant,
    RevokeSigningKey,
    SuspendParticipant,
    WithdrawAccreditation,
)
from domains.governance.decider import subject_of, tightens
from domains.governance.equivalence import AdoptEquivalenceTable
from spine import trust
from spine.claims import Claims
from spine.coordinator import Coordinator
from spine.domain import Actor
from spine.errors import Invalid, NotPermitted, Pushback, Reason
from spine.event import DataPosition, SignerRole
from spine.governance.v1 import governance_pb2, governance_pb2_grpc
from spine.live import LiveFold
from spine.orders import Order
from spine.policy import Role
from spine.policy_data import POLICY_DATA, data_hash
from spine.rows import GOVERNANCE_PREFIX, SUBJECT_PREFIX
from spine.runtime import Process, Runtime
from spine.server import Service
from spine.services import equivalence, wire
from spine.services.background import every, keep_quarantined
from spine.services.holds import watch_holds
from spine.services.operations import operations
from spine.services.reference import serve_standing_data
from spine.sharing import SharingCoordinator
from spine.spread import Spreader

NAME_CHARS_MAX: Final = 200
PAGE: Final = 100
PAGE_MAX: Final = 1_000
REACH_TIMEOUT_S: Final = 5.0
SPREAD_AGAIN_S: Final = 2.0
# What is left of a deadline for the answer to travel in.
ANSWER_S: Final = 0.5
_PARTIES: Final = GOVERNANCE_PREFIX + trust.party_subject("").encode()
_HOLD_ROW: Final = holds.PARTY_HOLDS.row_type
_log = structlog.get_logger()


class GovernanceService(governance_pb2_grpc.GovernanceServicer):
    """Takes the commands of governance and tells how far their facts have spread.

    The decider refuses every role but governance. Errors are those of `Coordinator.handle`.
    """

    def __init__(
        self,
        home: Coordinator,
        holds: Coordinator,
        live: LiveFold,
        spreader: Spreader,
        log_id: bytes,
        partitions: int,
    ) -> None:
        self._home, self._holds, self._live, self._spreader = home, holds, live, spreader
        self._log_id, self._partitions = log_id, partitions
        self._spreading: set[asyncio.Task[int]] = set()

    async def AuthoriseSigningKey(self, request: Any, context: Any) -> Any:
        """Let the records of a signing key count."""
        command = AuthoriseSigningKey(
            wire.caller(),
            request.public_key,
            request.role,
            wire.identifier(request.holder, "holder"),
        )
        return await self._carry_out(request, "AuthoriseSigningKey", command, context)

    async def RevokeSigningKey(self, request: Any, context: Any) -> Any:
        """Make void what a key signs from now on."""
        reason = wire.code(request.reason, "reason")
        command = RevokeSigningKey(wire.caller(), request.key_id, reason)
        return await self._carry_out(request, "RevokeSigningKey", command, context)

    async def AdmitParticipant(self, request: Any, context: Any) -> Any:
        """Make an organisation known under a party id."""
        name = wire.words(request.name, "name", NAME_CHARS_MAX)
        command = AdmitParticipant(wire.caller(), _party(request), name)
        return await self._carry_out(request, "AdmitParticipant", command, context)

    async def GrantAccreditation(self, request: Any, context: Any) -> Any:
        """Let a participant act in a role."""
        party, known = _party(request), self._live.stored.fold
        identification.check_can_be_granted(request.role, known.identifiers(Role.DATA_USER, party))
        command = GrantAccreditation(
            wire.caller(),
            party,
            request.role,
            wire.code(request.scheme, "scheme"),
            wire.optional_code(request.tier, "tier"),
            tuple(sorted(set(request.purposes))),
            wire.required_instant(request, "effective_from"),
            wire.optional_instant(request, "effective_to"),
        )
        return await self._carry_out(request, "GrantAccreditation", command, context)

    async def WithdrawAccreditation(self, request: Any, context: Any) -> Any:
        """Take a role under a scheme from a participant."""
        scheme = wire.code(request.scheme, "scheme")
        command = WithdrawAccreditation(wire.caller(), _party(request), request.role, scheme)
        return await self._carry_out(request, "WithdrawAccreditation", command, context)

    async def SuspendParticipant(self, request: Any, context: Any) -> Any:
        """Stop every read of a participant."""
        reason = wire.code(request.reason, "reason")
        command = SuspendParticipant(wire.caller(), _party(request), reason)
        return await self._carry_out(request, "SuspendParticipant", command, context)

    async def ReinstateParticipant(self, request: Any, context: Any) -> Any:
        """Lift a suspension."""
        reason = wire.code(request.reason, "reason")
        command = ReinstateParticipant(wire.caller(), _party(request), reason)
        return await self._carry_out(request, "ReinstateParticipant", command, context)

    async def AdoptPolicyVersion(self, request: Any, context: Any) -> Any:
        """Judge reads by this version from now on, if its data is what this build holds."""
        data = POLICY_DATA.get(request.version)
        if data is not None and request.data_hash != data_hash(data):
            message = "this build holds other data under that version"
            raise Invalid(Reason.FIELD_INVALID, message, field="data_hash")
        command = AdoptPolicyVersion(wire.caller(), request.version)
        return await self._carry_out(request, "AdoptPolicyVersion", command, context)

    async def AdoptEquivalenceTable(self, request: Any, context: Any) -> Any:
        """Let accreditations of other schemes count by these rows only."""
        rows = equivalence.rows_said(request.rows)
        command = AdoptEquivalenceTable(wire.caller(), request.version, rows)
        return await self._carry_out(request, "AdoptEquivalenceTable", command, context)

    async def GetEquivalenceTable(self, request: Any, context: Any) -> Any:
        """The table in force; any caller may ask."""
        await self._reach(request)
        return governance_pb2.GetEquivalenceTableResponse(
            table=equivalence.table_shown(self._live.stored.fold.equivalence()),
            positions=self._here(),
        )

    async def SetIdentifiers(self, request: Any, context: Any) -> Any:
        """Tell a party its own identifiers, or MPxNs, from now on; it has to be admitted."""
        party, ground = _party(request), wire.code(request.ground, "ground")
        role, given = request.role or Role.DATA_USER, request.identifiers
        known = self._live.stored.fold.participant(party)
        identification.check_can_be_set(known, given, wire.now())
        command = identification.SetIdentifiers(wire.caller(), party, role, given, ground)
        return await self._carry_out(request, "SetIdentifiers", command, context)

    async def HoldParty(self, request: Any, context: Any) -> Any:
        """Have every server answer nothing of a party, until two people release it."""
        kind = wire.optional_code(request.kind, "kind")
        command = holds.HoldParty(
            wire.caller(), _party(request), kind, request.counted, request.threshold
        )
        return await self._hold(request, "HoldParty", command)

    async def ApproveRelease(self, request: Any, context: Any) -> Any:
        """One of two people says that a held party may go on."""
        reason = wire.code(request.reason, "reason")
        command = holds.ApproveRelease(wire.caller(), _party(request), request.hold, reason)
        return await self._hold(request, "ApproveRelease", command)

    async def ListHolds(self, request: Any, context: Any) -> Any:
        """Who is held and why, and who has approved a release; for governance and auditors."""
        if wire.caller().role not in (Role.GOVERNANCE, Role.AUDITOR):
            raise NotPermitted(Reason.ROLE_NOT_ALLOWED, "holds are shown to governance")
        fold = self._holds.live("").stored.fold
        rows = fold.rows.scan(SUBJECT_PREFIX, SUBJECT_PREFIX + b"\xff")
        states = (
            (key.removeprefix(SUBJECT_PREFIX).decode(), fold.tools.unpack(row, _HOLD_ROW)[2])
            for key, row in rows
        )
        shown = [_hold_shown(party, hold) for party, hold in states if hold.held or request.all]
        return governance_pb2.ListHoldsResponse(holds=shown)

    async def _hold(self, request: Any, method: str, command: holds.HoldCommand) -> Any:
        order = wire.order(request, method, command.party, command, command.by)
        handled = await self._holds.handle(order)
        return governance_pb2.HoldResponse(
            positions=wire.position_token(self._log_id, [wire.past(handled)]),
            record=wire.record_ref(handled),
            replayed=handled.replayed,
            hold=_hold_shown(command.party, self._holds.state(command.party)),
        )

    async def ListParticipants(self, request: Any, context: Any) -> Any:
        """A page of the participants, in order of party id; any caller may ask."""
        await self._reach(request)
        if not 0 <= request.page_size <= PAGE_MAX:
            raise Invalid(Reason.FIELD_INVALID, f"at most {PAGE_MAX} a page", field="page_size")
        size = request.page_size or PAGE
        page: list[tuple[str, trust.Participant]] = []
        last, told = "", self._live.stored.fold.identifiers
        for party, participant in self._participants(_after(request.cursor)):
            if len(page) == size:
                last = page[-1][0]
                break
            page.append((party, participant))
        return governance_pb2.ListParticipantsResponse(
            participants=[participant_shown(*each, told(Role.DATA_USER, each[0])) for each in page],
            next_cursor=base64.urlsafe_b64encode(last.encode()).decode(),
            positions=self._here(),
        )

    async def _reach(self, request: Any) -> None:
        for wanted in wire.at_least(request, self._log_id, self._partitions):
            if wanted.topic == trust.GOVERNANCE_TOPIC:
                await self._live.passed(wanted.offset - 1, REACH_TIMEOUT_S)

    def _here(self) -> Any:
        here = DataPosition(trust.GOVERNANCE_TOPIC, 0, self._live.next_offset)
        return wire.position_token(self._log_id, [here])

    def _participants(self, after: str) -> Iterator[tuple[str, trust.Participant]]:
        fold = self._live.stored.fold
        start = _PARTIES + after.encode() + (b"\x00" if after else b"")
        for key, row in fold.rows.scan(start, _PARTIES + b"\xff"):
            standing = fold.tools.unpack(row, fold.governance.row_type)[2]
            if isinstance(standing, trust.Standing) and standing.participant is not None:
                yield key.removeprefix(_PARTIES).decode(), standing.participant

    async def _carry_out(
        self, request: Any, method: str, command: GovernanceCommand, context: Any
    ) -> Any:
        order = wire.order(request, method, subject_of(command), command, command.by)
        handled = await self._home.handle(order)
        await self._spread(context.time_remaining() - ANSWER_S)
        return governance_pb2.CommandResponse(
            **wire.recorded(self._log_id, handled),
            partitions_holding=1 + self._spreader.holding(handled.offset),
            partitions_total=1 + len(self._spreader.targets),
        )

    async def _spread(self, timeout_s: float) -> None:
        """Spread what is missing; it goes on when the time to answer has come."""
        task = asyncio.create_task(self._spreader.spread())
        self._spreading.add(task)
        task.add_done_callback(self._spread_ended)
        await asyncio.wait({task}, timeout=max(timeout_s, 0))

    def _spread_ended(self, task: asyncio.Task[int]) -> None:
        self._spreading.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.warning("governance.spread_failed", reason=str(error))

    async def close(self) -> None:
        """Stop spreading; the next start goes on."""
        for task in set(self._spreading):
            task.cancel()
            await asyncio.wait({task})


def _party(request: Any) -> str:
    return wire.identifier(request.party, "party")


def _after(cursor: str) -> str:
    """The party after which a page begins; Invalid(CURSOR_INVALID) for any other text."""
    try:
        return base64.b64decode(cursor.encode("ascii"), altchars=b"-_", validate=True).decode()
    except ValueError:
        raise Invalid(Reason.CURSOR_INVALID, "the cursor cannot be read", field="cursor") from None


def _hold_shown(party: str, hold: holds.Hold) -> Any:
    return governance_pb2.Hold(
        party=party,
        hold=hold.number,
        held=hold.held,
        kind=hold.kind,
        counted=hold.counted,
        threshold=hold.threshold,
        held_by=hold.held_by,
        held_at=hold.held_at and wire.stamp(hold.held_at),
        approved_by=hold.approved_by,
    )


def participant_shown(
    party: str, participant: trust.Participant, identifiers: str = trust.Identifiers.MPXN
) -> Any:
    """A participant as a message."""
    return governance_pb2.Participant(
        party=party,
        name=participant.name,
        suspended=participant.suspended,
        identifiers=identifiers,
        accreditations=[
            governance_pb2.Accreditation(
                role=held.role,
                scheme=held.scheme,
                tier=held.tier,
                purposes=held.purposes,
                effective_from=wire.stamp(held.effective_from),
                effective_to=held.effective_to and wire.stamp(held.effective_to),
            )
            for held in participant.accreditations
        ],
    )


# -- the process ----------------------------------------------------------------------------------


async def start_governance(runtime: Runtime, name: str = "governance") -> Process:
    """Start the governance coordinator; returns once it answers and everything due is spread.

    In a new log it adopts the newest version of the policy that this build knows.
    """
    process = Process(runtime, name)
    topics = [trust.GOVERNANCE_TOPIC, trust.GOVERNANCE_REFERENCE]
    folds = await process.fold(topics, holds=True)
    watch_holds(process)
    writer = runtime.writer(process.appender, SignerRole.GOVERNANCE, name)
    await keep_quarantined(process, writer, [*topics, trust.QUARANTINE_TOPIC])
    domain = runtime.domains.governance
    claims = Claims(runtime.stores(name), runtime.identity.log_id)
    process.on_end(claims.close)
    shared = (folds, writer, runtime.partitions)
    home = SharingCoordinator(domain, *shared, tightens, claims)
    live = folds[trust.GOVERNANCE_TOPIC, 0]
    progress = runtime.settings.data_dir / "spread" / f"{name}.json"
    spreader = Spreader(writer, domain, runtime.partitions, progress)
    live.listeners.append(spreader.note)
    await asyncio.to_thread(_load, runtime, spreader)
    if home.state(trust.POLICY_SUBJECT).policy is None:
        await home.handle(_first_policy(name))
    held = Coordinator(holds.PARTY_HOLDS, *shared, holds.tightens, claims)
    place = runtime.identity.log_id, runtime.partitions
    service = GovernanceService(home, held, live, spreader, *place)
    process.on_end(service.close)
    try:
        await spreader.spread()
    except Pushback as unacknowledged:
        _log.warning("governance.spread_failed", reason=str(unacknowledged))
    every(process, SPREAD_AGAIN_S, lambda: _spread_missing(spreader))
    standing = await serve_standing_data(process, DATA_DOMAIN, writer, claims)
    await process.serve(
        Role.COORDINATOR,
        [
            Service(
                governance_pb2.DESCRIPTOR.services_by_name["Governance"].full_name,
                governance_pb2_grpc.add_GovernanceServicer_to_server,
                service,
            ),
            standing.service,
            operations(process, writer),
        ],
        runtime.settings.governance_port,
    )
    return process


def _load(runtime: Runtime, spreader: Spreader) -> None:
    with closing(runtime.reader()) as reader:
        spreader.load(reader, runtime.codec)


def _first_policy(name: str) -> Order:
    version = max(POLICY_DATA)
    by = Actor(Role.GOVERNANCE, name)
    return Order(
        trust.POLICY_SUBJECT,
        AdoptPolicyVersion(by, version),
        by,
        "AdoptPolicyVersion",
        f"first-policy-{version}",
        sha256(data_hash(POLICY_DATA[version])).digest(),
    )


async def _spread_missing(spreader: Spreader) -> None:
    if not spreader.complete:
        await spreader.spread()
