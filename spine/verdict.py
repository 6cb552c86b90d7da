"""One decision, made again, against the outcome that was recorded of it. Pure.

Every function names what is wrong in one sentence, or gives an empty string. `audit` asks them in
an order that matters: first what no honest outcome can say, then what this build cannot judge, and
only then what differs.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Final, Protocol

from msgspec import Struct

from spine import trust
from spine.answer import Release
from spine.domain import ReadableRows
from spine.errors import Reason
from spine.event import AbsentRun, AccessOutcome
from spine.policies import POLICIES
from spine.policy import Permit
from spine.policy_data import POLICY_HASHES
from spine.rows import HELD_PREFIX, Decided
from spine.view import PartitionView

NOTHING: Final = bytes(32)
# Why an answer that showed what is sealed cannot be made again.
ERASED: Final = "erased"
RESTRICTED: Final = "restricted"
KEYS_NOT_AT_HAND: Final = "keys not at hand"
_RELEASES: Final[Mapping[str, tuple[str, ...]]] = {
    "PERMIT": (Release.RELEASED, Release.NOT_RELEASED),
    "REFUSE": (Release.REFUSED,),
}
CLOSED: Final = frozenset({Reason.PARTITION_CLOSED, Reason.METER_CLOSED})


class Verdict(StrEnum):
    """What an auditor says of one decision."""

    SAME = "SAME"
    DIFFERENT = "DIFFERENT"
    UNCONFIRMED = "UNCONFIRMED"
    CANNOT_TELL = "CANNOT TELL"


class Rebuilt(Protocol):
    """What an answer comes to when it is made again."""

    @property
    def rows(self) -> int:
        """Rows that carry something."""

    @property
    def digest(self) -> bytes:
        """The digest of the canonical rows."""

    @property
    def untold(self) -> str:
        """Why its digest cannot be known any more, if so."""

    @property
    def absent(self) -> tuple[AbsentRun, ...]:
        """The half hours without a value."""


class ToRebuild(Struct, frozen=True):
    """A permitted decision whose answer is to be made again, from rows by topic and how far below
    they may be read.
    """

    decided: Decided
    rows: Mapping[str, ReadableRows]
    below: Mapping[str, int]


class Rebuild(Protocol):
    """Makes answers again."""

    def __call__(
        self, decided: Decided, rows: Mapping[str, ReadableRows], below: Mapping[str, int]
    ) -> Rebuilt:
        """The answer to one decision; LookupError if the rows it needs are not among those."""

    def half_hours(self, decided: Decided, below: Mapping[str, int]) -> int:
        """How many half hours it is about, if it may be made by `each`; 0 if by a call alone."""

    def each(self, asked: Sequence[ToRebuild]) -> Sequence[Rebuilt]:
        """What a call gives of each of these."""


def impossible(outcomes: Iterable[AccessOutcome]) -> str:
    """What no honest outcomes of one decision on one meter can say, whatever was decided.

    An append that was repeated leaves the same outcome twice, which is no contradiction.
    """
    outcome, *more = outcomes
    if any(other != outcome for other in more):
        return "two outcomes of one decision contradict each other"
    if outcome.release not in _RELEASES.get(outcome.decision, ()):
        return f"{outcome.release} is no outcome of {outcome.decision}"
    if outcome.release == Release.RELEASED:
        return ""
    if (outcome.rows, outcome.digest, outcome.absent) != (0, NOTHING, ()):
        return f"{outcome.release}, and yet with rows"
    if outcome.release == Release.NOT_RELEASED and not outcome.release_reason:
        return "nothing was released and no reason recorded"
    return ""


def decided_otherwise(decided: Decided, outcome: AccessOutcome) -> str:
    """Where the recorded decision departs from the one made again."""
    decision = decided.decision
    expected: tuple[object, ...]
    if isinstance(decision, Permit):
        expected = ("PERMIT", "", decision.consent_id, decision.consent_version)
    else:
        expected = ("REFUSE", str(decision.reason), "", 0)
        if outcome.release != Release.REFUSED:
            return f"{outcome.release} although it had to be refused ({decision.reason})"
    recorded = (
        outcome.decision,
        outcome.reason,
        outcome.consent_id,
        outcome.consent_version,
    )
    if recorded != expected:
        return f"decided {expected} again, recorded {recorded}"
    if outcome.policy_version != decided.policy_version:
        return f"judged by policy {decided.policy_version}, recorded {outcome.policy_version}"
    return ""


def answered_otherwise(rebuilt: Rebuilt, outcome: AccessOutcome) -> str:
    """Where the recorded answer departs from the one made again."""
    if not rebuilt.untold and rebuilt.digest != outcome.digest:
        return "the answer rebuilt has another digest"
    if (rebuilt.rows, rebuilt.absent) != (outcome.rows, outcome.absent):
        return "the answer rebuilt has other rows than were recorded"
    return ""


def unread(view: PartitionView, member: str = "") -> str:
    """Why another build may know more of this partition, or of that meter, than this one (rule 8).

    A partition that a second opening closed is closed for every build.
    """
    assert view.head is not None
    if view.head.closed:
        known = view.head.closed == Reason.OPENING_DIFFERS
        return "" if known else f"{view.topic} holds what this build cannot read"
    if member and view.closed(member) is not None:
        return f"{view.topic} holds what this build cannot read of the meter"
    return ""


def unread_below(view: PartitionView, member: str, offset: int) -> str:
    """The same of what stands below an offset: what comes after it made no answer different."""
    assert view.head is not None
    if not view.head.counts.held:
        return ""
    end = HELD_PREFIX + struct.pack(">qi", offset, 0)
    for _, row in view.rows.scan(HELD_PREFIX, end):
        subject, reason = view.tools.unpack(row, tuple[str, str])
        if reason == Reason.RECORD_UNKNOWN_TYPE and subject in ("", member):
            return f"{view.topic} holds what this build cannot read"
    return ""


def policy_missing(view: PartitionView) -> str:
    """Why this build cannot judge by the policy that is in force in the partition."""
    policy = view.standing(trust.POLICY_SUBJECT).policy
    if policy is None:
        return ""
    if policy.version not in POLICIES:
        return f"policy version {policy.version} is not at hand"
    if POLICY_HASHES[policy.version] != policy.data_hash:
        return f"the data of policy version {policy.version} at hand are not those adopted"
    return ""


def refused_blindly(outcome: AccessOutcome, schema_set: bytes) -> str:
    """Why a refusal may have been right for the build that gave it, which could read less."""
    if outcome.reason in CLOSED and outcome.schema_set != schema_set:
        return "refused by a build with other schemas, which could not read a record before it"
    return ""
