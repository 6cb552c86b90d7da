"""What is asked of a consent side and a data side, to see whether they are one trust.

Each check has an id, says what it asks and what came, and passes, fails, or was not run. A check
that needs something to try on, which was not given, is not run, and never counts as passed. What is
right is worked out here from what governance says, and taken from neither side.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import grpc

from spine.accreditation import CCS, DSI
from spine.consumers.v1 import consumers_pb2_grpc
from spine.dsi.v1 import dsi_pb2_grpc
from spine.errors import Reason
from spine.governance.v1 import governance_pb2, governance_pb2_grpc
from spine.identity import Caller, Identity
from spine.policy import Role
from spine.reference.v1 import reference_pb2_grpc
from spine.server import connect_sync, error_from
from spine.shared_trust.v1 import shared_trust_pb2, shared_trust_pb2_grpc
from spine.trust import Identifiers

CALL_S: Final = 20.0
# How long, all in all, is waited for turns at servers with too many calls under way; and each time
# at least.
TURNS_S: Final = 120.0
TURN_LEAST_S: Final = 0.05
# By then at the latest a side must say no to what was revoked. Ours say so at once.
REVOCATION_REACHES_S: Final = 5.0
# How long a side may take to hear of what governance said.
HEARD_WITHIN_S: Final = 5.0
AGAIN_S: Final = 0.1
QUESTIONS_A_CALL: Final = 1_000
CONSENT_SIDE, DATA_SIDE, BOARD = "consumers", "dsi", "governance"
# Who is told by the identifiers of its party, which are those of the data user.
NAMED_TO: Final = frozenset({Role.DATA_USER, Role.SUPPLIER})
SCHEME_OF: Final[Mapping[str, str]] = {CONSENT_SIDE: CCS, DATA_SIDE: DSI}


class Verdict(StrEnum):
    """What became of a check."""

    PASS = "PASS"
    FAIL = "FAIL"
    NOT_RUN = "NOT RUN"


class Fails(Exception):
    """What came is not what had to come."""

    def __init__(self, came: str, why: str) -> None:
        super().__init__(why)
        self.came, self.why = came, why


class NotRun(Exception):
    """There was nothing to try it on."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One check and what became of it; `why` says so of all that did not pass."""

    check: str
    layer: str
    asked: str
    came: str
    verdict: Verdict
    why: str = ""


@dataclass(frozen=True, slots=True)
class Sandbox:
    """What checks may change: a meter, whoever lives there, and a data user, by their identities.

    `others` are further meters of the same home, `stranger` a party that has nothing to do with
    them. Empty: not given.
    """

    mpxn: str = ""
    consumer: str = ""
    data_user: str = ""
    stranger: str = ""
    purpose: str = "ENERGY_ADVICE"
    others: tuple[str, ...] = ()

    @property
    def mpxns(self) -> tuple[str, ...]:
        """All its meters."""
        return tuple(filter(None, (self.mpxn, *self.others)))


class Ends:
    """The three endpoints, asked by identities of a data folder.

    A server with too many calls under way (OVERLOADED) says when a turn is, and nothing of trust:
    it is asked again then, until that took `turns_s` in all. `waited_s` is how long it took so far.
    """

    def __init__(
        self, addresses: Mapping[str, str], identities: Path, asker: str, turns_s: float = TURNS_S
    ) -> None:
        self._addresses, self._identities, self.asker = addresses, identities, asker
        self._turns_s, self.waited_s = turns_s, 0.0
        self._open: dict[tuple[str, str], grpc.Channel] = {}
        self._stack = ExitStack()

    def _channel(self, end: str, alias: str) -> grpc.Channel:
        if (end, alias) not in self._open:
            address, identity = self._addresses[end], self._identities / alias
            channel = self._stack.enter_context(connect_sync(address, identity))
            self._open[end, alias] = channel
        return self._open[end, alias]

    def _ask(self, end: str, alias: str, stub: Any, method: str, request: Any) -> Any:
        call = getattr(stub(self._channel(end, alias)), method)
        while True:
            began = time.monotonic()
            try:
                return call(request, timeout=CALL_S)
            except grpc.RpcError as error:
                said = error_from(error)
                if said.reason != Reason.OVERLOADED or said.retry_after_s is None:
                    raise
                wait_s = max(said.retry_after_s, TURN_LEAST_S)
                if self.waited_s + wait_s > self._turns_s:
                    raise
            self.waited_s += time.monotonic() - began + wait_s
            time.sleep(wait_s)

    def governance(self, method: str, request: Any) -> Any:
        """What governance says."""
        return self._ask(BOARD, self.asker, governance_pb2_grpc.GovernanceStub, method, request)

    def reference(self, request: Any) -> Any:
        """A list of governance's standing data."""
        stub = reference_pb2_grpc.ReferenceStub
        return self._ask(BOARD, self.asker, stub, "ListCodes", request)

    def side(self, end: str, method: str, request: Any, alias: str = "") -> Any:
        """What one of the two sides says."""
        stub = shared_trust_pb2_grpc.SharedTrustStub
        return self._ask(end, alias or self.asker, stub, method, request)

    def token(self, request: Any, alias: str) -> Any:
        """A consent token from the consent side."""
        stub = shared_trust_pb2_grpc.ConsentTokensStub
        return self._ask(CONSENT_SIDE, alias, stub, "IssueConsentToken", request)

    def consumers(self, method: str, request: Any, alias: str) -> Any:
        """A command to the consent side."""
        stub = consumers_pb2_grpc.ConsumersStub
        return self._ask(CONSENT_SIDE, alias, stub, method, request)

    def dsi(self, method: str, request: Any, alias: str) -> Any:
        """A question to the data side."""
        return self._ask(DATA_SIDE, alias, dsi_pb2_grpc.DsiStub, method, request)

    def caller(self, alias: str) -> Caller:
        """Whom a server takes that identity for."""
        return Identity(self._identities / alias).caller

    def close(self) -> None:
        """Hang up."""
        self._stack.close()


@dataclass(frozen=True, slots=True)
class Question:
    """Whether a party counts in a role for a purpose, and whether it had to, in one scheme.

    `by`: `own`, `row`, or why not: `no row`, `suspended`, `not held`.
    """

    party: str
    role: str
    purpose: str
    by: str

    @property
    def right(self) -> bool:
        """Whether it counts."""
        return self.by in ("own", "row")

    def __str__(self) -> str:
        return f"{self.party} as {self.role} for {self.purpose}"


@dataclass
class Subject:
    """What is examined, and what the checks before have found or made."""

    ends: Ends
    sandbox: Sandbox
    consent_id: str = ""
    # Under which id a consent may have come to be, whatever was answered.
    tried: str = ""
    token: str = ""
    revoked: bool = False
    _judged: dict[str, list[tuple[Question, Any]]] = field(default_factory=dict)

    @cached_property
    def described(self) -> dict[str, Any]:
        """What each side says it goes by.

        Of what governance said just now a side hears when its fold comes by: one that goes by less
        is asked again for a moment.
        """
        request, until = shared_trust_pb2.DescribeTrustRequest(), time.monotonic() + HEARD_WITHIN_S
        while True:
            said = {end: self.ends.side(end, "DescribeTrust", request) for end in SCHEME_OF}
            if not self._behind(list(said.values())) or time.monotonic() > until:
                return said
            time.sleep(AGAIN_S)

    def _behind(self, said: list[Any]) -> bool:
        """Whether a side has an earlier table than governance, or policy than the other side."""
        try:
            adopted = self.table.version
        except grpc.RpcError:  # which is a finding of its own
            adopted = 0
        policies = {one.policy_version for one in said}
        return len(policies) > 1 or any(one.table.version < adopted for one in said)

    @cached_property
    def table(self) -> Any:
        """The equivalence table as governance says it is."""
        asked = governance_pb2.GetEquivalenceTableRequest()
        return self.ends.governance("GetEquivalenceTable", asked).table

    @cached_property
    def participants(self) -> list[Any]:
        """Every participant."""
        found, cursor = [], ""
        while True:
            asked = governance_pb2.ListParticipantsRequest(cursor=cursor, page_size=1_000)
            page = self.ends.governance("ListParticipants", asked)
            found += page.participants
            cursor = page.next_cursor
            if not cursor:
                return found

    def is_pairwise(self, alias: str) -> bool:
        """Whether governance has set that identity's party to identifiers of its own."""
        caller = self.ends.caller(alias)
        given = {one.party: one.identifiers for one in self.participants}
        return caller.role in NAMED_TO and given.get(caller.party) == Identifiers.PAIRWISE

    def judged(self, end: str) -> list[tuple[Question, Any]]:
        """Every question about an accreditation that there is, with what that side says to it."""
        if end not in self._judged:
            bases = self.described[end].vocabulary.bases
            asked = list(questions(self.participants, self.table, bases, SCHEME_OF[end]))
            self._judged[end] = list(zip(asked, self.ask(end, asked), strict=True))
        return self._judged[end]

    def ask(self, end: str, asked: list[Question]) -> list[Any]:
        """What that side says to these questions."""
        said: list[Any] = []
        for start in range(0, len(asked), QUESTIONS_A_CALL):
            request = shared_trust_pb2.JudgeAccreditationsRequest(
                asked=[
                    {"party": one.party, "role": one.role, "purpose": one.purpose}
                    for one in asked[start : start + QUESTIONS_A_CALL]
                ]
            )
            answer = self.ends.side(end, "JudgeAccreditations", request)
            said += answer.judgements
        if len(said) != len(asked):
            raise Fails(f"{len(said)} judgements", f"{end}: {len(asked)} questions were asked")
        return said


def questions(participants: list[Any], table: Any, bases: Any, scheme: str) -> Iterator[Question]:
    """Every role of every participant for every purpose of that role, and whether it counts."""
    now = datetime.now(UTC)
    rows = {
        (row.from_scheme, row.from_tier, row.from_purpose, row.to_purpose)
        for row in table.rows
        if row.to_scheme == scheme
    }
    for one in participants:
        for role in sorted({held.role for held in one.accreditations}):
            of_role = sorted({p for b in bases if role in b.roles for p in b.purposes})
            for purpose in of_role:
                live = [a for a in one.accreditations if a.role == role and _live(a, now)]
                by = _counts_by(one, live, purpose, of_role, scheme, rows, bool(table.version))
                yield Question(one.party, role, purpose, by)


def _counts_by(
    participant: Any,
    live: list[Any],
    purpose: str,
    of_role: list[str],
    scheme: str,
    rows: set[tuple[str, str, str, str]],
    any_table: bool,
) -> str:
    if participant.suspended:
        return "suspended"
    fitting = [a for a in live if not a.purposes or purpose in a.purposes]
    if any(a.scheme == scheme or not any_table for a in fitting):
        return "own"
    for held in live:
        for from_scheme, tier, from_purpose, to_purpose in rows:
            same = (held.scheme, held.tier, purpose) == (from_scheme, tier, to_purpose)
            if same and from_purpose in (held.purposes or of_role):
                return "row"
    return "no row" if any(held.scheme != scheme for held in live) else "not held"


def _live(held: Any, now: datetime) -> bool:
    begun = held.effective_from.ToDatetime(tzinfo=UTC) <= now
    return begun and not (
        held.HasField("effective_to") and held.effective_to.ToDatetime(tzinfo=UTC) <= now
    )


@dataclass(frozen=True, slots=True)
class Check:
    """What is asked, and how: `work` says what came, or raises `Fails` or `NotRun`."""

    id: str
    asked: str
    work: Callable[[Subject], str]

    @property
    def layer(self) -> str:
        """Accreditation, standards or technical."""
        return self.id.partition(".")[0]

    def run(self, subject: Subject) -> Finding:
        """The check, carried out. An endpoint that does not answer fails it; one that is only busy
        is waited for (`Ends`).
        """
        try:
            return self._found(self.work(subject), Verdict.PASS)
        except NotRun as nothing:
            return self._found("", Verdict.NOT_RUN, str(nothing))
        except Fails as wrong:
            return self._found(wrong.came, Verdict.FAIL, wrong.why)
        except grpc.RpcError as error:
            said = error_from(error)
            came = " ".join(filter(None, (said.code, said.reason)))
            return self._found(came, Verdict.FAIL, said.message or "no answer")
        except (ValueError, OverflowError) as odd:
            return self._found(type(odd).__name__, Verdict.FAIL, f"cannot be read: {odd}")

    def _found(self, came: str, verdict: Verdict, why: str = "") -> Finding:
        return Finding(self.id, self.layer, self.asked, came, verdict, why)
