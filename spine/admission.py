"""Who may make which call just now: the limits of `spine.limits`, applied at one server's edge.

The edge asks before anything is read or appended, under the verified party id of whoever called
this server. Servers of the installation are not limited: they forward what was admitted where it
arrived. Each server counts for itself, so a party that spreads its calls over several gets the sum.
What only takes access away is never held, nor turned away for the crowd: a consumer's revocation
does not wait for anybody.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, Final

import structlog

from spine import telemetry
from spine.crowd import CALLS_UNDER_WAY, STREAMS_OPEN, Crowd, OpenStreams
from spine.errors import NotPermitted, Pushback, Reason, Throttled
from spine.identity import Caller
from spine.limits import Excess, Kind, PartyLimits, PartyUsage, refuse_held
from spine.policy import Role

_log = structlog.get_logger()
# Servers of the installation, and who governs it: it must be able to release what is held.
UNLIMITED: Final = frozenset({Role.DSI, Role.COORDINATOR, Role.GOVERNANCE})
READS_OF: Final = "/spine.dsi."
# grpc's own services, health above all: a server that is busy is no sick one.
GRPCS_OWN: Final = "/grpc."
# What one DSI server passes on to another counts there, too: it is work there.
FORWARDED: Final = "/spine.dsi.v1.Members/Forward"
MPXN_CHARS_MAX: Final = 14
# These only take access away, or end what was. A dry run of one does not, and is held.
NEVER_HELD: Final = frozenset(
    {
        "DeclineConsent",
        "DecommissionAsset",
        "DeregisterMeteringPoint",
        "EndAgentAppointment",
        "EndSupply",
        "EndTenancy",
        "EraseSubject",
        "NarrowConsent",
        "ObjectToUse",
        "RejectAsset",
        "RevokeConsent",
        "SuspendAsset",
        "SuspendConsent",
        "UnlinkAsset",
        "WithdrawConsent",
    }
)


class Admission:
    """Admits calls to one server, so many that answer once and so many open streams at a time.

    `held` says whether the log has a party held; `report` is told, once, of a party that went past
    a threshold. From that moment the party is held here, whatever the log says, until `settled` is
    called for it.
    """

    def __init__(
        self,
        limits: PartyLimits,
        calls_under_way: int = CALLS_UNDER_WAY,
        streams_open: int = STREAMS_OPEN,
        *,
        held: Callable[[str], bool] = lambda party: False,
        report: Callable[[Excess], None] = lambda excess: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._usage = PartyUsage(limits)
        self._held, self._report, self._clock = held, report, clock
        self._held_here: set[str] = set()
        self._crowd, self._streams = Crowd(calls_under_way), OpenStreams(streams_open)

    @contextmanager
    def place(self, caller: Caller, method: str, request: Any, *, streams: bool) -> Iterator[None]:
        """A place among the calls under way, or if it streams either way among the open streams,
        for the length of a with block; Pushback(OVERLOADED) if there is none.
        """
        forwarded = method == FORWARDED and caller.role is Role.DSI
        free = caller.role in UNLIMITED or (method.startswith(GRPCS_OWN) and not streams)
        if (free or not _may_be_held(method, request)) and not forwarded:
            yield
            return
        self.check_held(caller, method, request)
        entered = self._clock()
        for_many = forwarded or caller.role is Role.CONSENT_SERVICE
        try:
            if streams:
                self._streams.enter(caller.party, for_many=for_many)
            else:
                self._crowd.enter(caller.party, entered, for_many=for_many)
        except Pushback:
            telemetry.turned_away.add(1, {"method": method})
            if not forwarded:
                self._usage.take(caller.party, entered, ())  # to ask in vain costs something, too
            raise
        took_s = None
        try:
            yield
            took_s = self._clock() - entered
        finally:
            if streams:
                self._streams.leave(caller.party)
            else:
                self._crowd.leave(caller.party, self._clock(), took_s)

    def admit(self, caller: Caller, method: str, request: Any) -> None:
        """Throttled or NotPermitted(PARTY_HELD) unless the call may be handled now."""
        if caller.role in UNLIMITED:
            return
        self.check_held(caller, method, request)
        party = caller.party
        now, meters = self._clock(), meters_of(request)
        self._usage.take(party, now, meters)
        kind = Kind.READS if method.startswith(READS_OF) else Kind.COMMANDS
        if self._exceeds(party, kind, now, max(1, len(meters))) and _may_be_held(method, request):
            raise refuse_held()

    def check_held(self, caller: Caller, method: str, request: Any = None) -> None:
        """NotPermitted(PARTY_HELD) if the caller is held: before a call, and before each answer."""
        if caller.role in UNLIMITED or not _may_be_held(method, request):
            return
        if self.holds(caller.party):
            raise refuse_held()

    def holds(self, party: str) -> bool:
        """Whether a party is held, here or by the log."""
        return party in self._held_here or self._held(party)

    async def paced(
        self, caller: Caller, method: str, requests: AsyncIterator[Any]
    ) -> AsyncIterator[Any]:
        """The messages that a caller streams in, no faster than it may send: it waits meanwhile."""
        async for request in requests:
            self.check_held(caller, method)
            while caller.role not in UNLIMITED:
                try:
                    self._usage.take(caller.party, self._clock(), ())
                    break
                except Throttled as throttled:
                    await asyncio.sleep(throttled.retry_after_s)
            yield request

    def refused(self, caller: Caller, request: Any, error: NotPermitted) -> None:
        """A call was refused: one that told its caller nothing counts, for it may be a search."""
        if caller.role not in UNLIMITED and error.reason is Reason.NOT_PERMITTED:
            count = max(1, len(meters_of(request)))
            self._exceeds(caller.party, Kind.REFUSALS, self._clock(), count)

    def settled(self, party: str) -> None:
        """The log knows of the hold, or has ended it: go by the log again, and count afresh."""
        self._held_here.discard(party)
        self._usage.forgive(party)

    def _exceeds(self, party: str, kind: Kind, now: float, count: int) -> bool:
        excess = self._usage.count(party, kind, now, count)
        if excess is None:
            return False
        if party not in self._held_here:
            self._held_here.add(party)
            _log.warning(
                "party.held", party=party, kind=kind, counted=excess.counted, by="this server"
            )
            self._report(excess)
        return True


def _may_be_held(method: str, request: Any) -> bool:
    return method.rpartition("/")[2] not in NEVER_HELD or is_dry_run(request)


def is_dry_run(request: Any) -> bool:
    """Whether nothing is to be written; most requests have no such field."""
    return getattr(request, "dry_run", False)


def meters_of(request: Any) -> Sequence[str]:
    """The meters that a request names, however it names them; none for what names none.

    Nothing is checked yet, so what is no meter number is cut to the length of one.
    """
    fields = getattr(getattr(request, "DESCRIPTOR", None), "fields_by_name", {})
    if "questions" in fields:
        named = [question.mpxn for question in request.questions]
    elif "commands" in fields:
        named = [mpxn for command in request.commands for mpxn in _named_by(command)]
    elif "mpxns" in fields:
        named = list(request.mpxns)
    else:
        named = [request.mpxn] if "mpxn" in fields else []
    return list({mpxn[:MPXN_CHARS_MAX] for mpxn in named})


def _named_by(command: Any) -> Sequence[str]:
    """The meters of one command among many: its own, or those of the one it may be."""
    one_of, field = _naming(command.DESCRIPTOR)
    if one_of:
        kind = command.WhichOneof(one_of)
        return _named_by(getattr(command, kind)) if kind else ()
    return list(command.mpxns) if field == "mpxns" else [command.mpxn]


@cache
def _naming(described: Any) -> tuple[str, str]:
    """Of a kind of command: what it may be one of, or else the field that names its meters."""
    one_of = described.oneofs[0].name if described.oneofs else ""
    return one_of, "mpxns" if "mpxns" in described.fields_by_name else "mpxn"
