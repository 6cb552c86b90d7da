"""One partition as folded so far: whose signature counts, what is known, what a read would come to.

Pure, and read-only: `PartitionFold` (in `partition.py`) adds what changes it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, Final

from spine import merkle, trust
from spine.domain import Domain, Rows
from spine.errors import Reason
from spine.event import (
    ENTRIES_ROOT_HEADER,
    KEY_ID_HEADER,
    NO_PREDECESSOR,
    PRODUCED_AT_HEADER,
    SIGNATURE_HEADER,
    AccessRequest,
    AccessRequests,
    LogRecord,
    SignerRole,
    from_epoch_ms,
    signed_bytes,
)
from spine.murmur2 import murmur2_partitions
from spine.policies import POLICIES
from spine.policy import MeterAccess, Refuse, Situation
from spine.policy_data import POLICY_HASHES
from spine.rows import (
    APPLIED_PREFIX,
    CLOSED_PREFIX,
    GOVERNANCE_PREFIX,
    HEAD_ROW,
    SUBJECT_PREFIX,
    After,
    AppliedCommand,
    Decided,
    Head,
    Malformed,
    Reading,
    Subject,
    Tools,
    UnknownSchema,
)

CLOCK_TOLERANCE_MS: Final = 5_000
STANDINGS_CACHED_MAX: Final = 10_000
ROWS_AHEAD_MAX: Final = 6_000
# Of a log that was opened, so of one key; of what a stranger sends nothing is kept.
_root_id: Final = lru_cache(4)(trust.key_id)
# When it is, in ms and as such; version of the policy; table of equivalence.
_Moment = tuple[int, datetime, int, trust.Equivalence | None]


class Void(Exception):
    """Validly signed and decoded, but not to be applied: the reason says by which rule."""

    def __init__(self, reason: Reason) -> None:
        self.reason = reason


class Quarantine(Void):
    """Unsigned, badly signed, undecodable, or out of its rules: kept apart, whole."""


class Hold(Void):
    """Validly signed, but not understood by this build: what it concerns closes."""


class PartitionView:
    """What one topic-partition says at the position its rows stand at.

    `log_id` is the pinned log id; records of any other log are quarantined, an opening of another
    log closes the partition.
    """

    def __init__(
        self,
        topic: str,
        partition: int,
        log_id: bytes,
        tools: Tools,
        rows: Rows,
        domain: Domain | None,
        governance: Domain,
    ) -> None:
        self.topic = topic
        self.partition = partition
        self.log_id = log_id
        self.tools = tools
        self.rows = rows
        self.domain = domain
        self.governance = governance
        self._reload()

    def _reload(self) -> None:
        stored = self.rows.get(HEAD_ROW)
        self.head: Head | None = None if stored is None else self.tools.unpack(stored, Head)
        self._holds = False
        self._keys: dict[str, trust.SigningKey] = {}
        self._standings: dict[str, trust.GovernanceState] = {}
        self._ahead: dict[bytes, bytes | None] = {}
        self._said_ahead: dict[bytes, tuple[bytes, Any]] = {}
        # Of one record alone: most of a country's registers are the same few facts, said of
        # subjects of which nothing was said before.
        self._firsts: dict[tuple[tuple[str, bytes], ...], After] = {}

    def read_ahead(self, domain: Domain, commands: Collection[tuple[str, bytes]]) -> None:
        """Look once at all rows that commands, by subject and id, will be decided and folded by.

        What is kept of them is what the rows hold: a fold writes through it (`_put`).
        """
        if len(self._ahead) + 3 * len(commands) > ROWS_AHEAD_MAX:
            self._ahead.clear()
            self._said_ahead.clear()
        prefix = self._prefix(domain)
        wanted = [prefix + subject.encode() for subject, _ in commands]
        if self.may_be_closed:
            wanted += [CLOSED_PREFIX + subject.encode() for subject, _ in commands]
        wanted += [APPLIED_PREFIX + prefix + command_id for _, command_id in commands]
        keys = [key for key in wanted if key not in self._ahead]
        self._ahead.update(zip(keys, self.rows.get_many(keys), strict=True))

    def _row(self, key: bytes) -> bytes | None:
        ahead = self._ahead
        return ahead[key] if key in ahead else self.rows.get(key)

    def _prefix(self, domain: Domain) -> bytes:
        return GOVERNANCE_PREFIX if domain is self.governance else SUBJECT_PREFIX

    def key(self, kid: bytes) -> trust.SigningKey | None:
        """The signing key of that id, as far as this partition has been told."""
        subject = trust.key_subject(kid)
        known = self._keys.get(subject)
        if known is None:
            known = self.standing(subject).key
            if known is not None:
                self._keys[subject] = known
        return known

    def standing(self, subject: str) -> trust.Standing:
        """What governance has said of a key, a party or the policy, here."""
        known = self._governed(subject)
        return known if isinstance(known, trust.Standing) else trust.Standing()

    def equivalence(self) -> trust.Equivalence | None:
        """The table of equal accreditations in force here; None before the first was adopted."""
        known = self._governed(trust.EQUIVALENCE_SUBJECT)
        return known if isinstance(known, trust.Equivalence) else None

    def identifiers(self, role: str, party: str) -> trust.Identifiers:
        """What the party is given as identifiers in that role; MPxNs where nothing was said."""
        known = self._governed(trust.identifiers_subject(role, party))
        return known if isinstance(known, trust.Identifiers) else trust.Identifiers.MPXN

    def _governed(self, subject: str) -> trust.GovernanceState:
        known = self._standings.get(subject)
        if known is None:
            found: trust.GovernanceState = self.subject_row(self.governance, subject).state
            known = found
            if len(self._standings) < STANDINGS_CACHED_MAX:
                self._standings[subject] = known
        return known

    def forget(self, subject: str) -> None:
        """Governance has said something new of this key, this party or the policy."""
        self._standings.pop(subject, None)
        self._keys.pop(subject, None)

    def participant(self, party: str) -> trust.Participant | None:
        """The participant of that id."""
        return self.standing(trust.party_subject(party)).participant

    def subject(self, subject: str) -> Subject:
        """The state of a subject of this partition's own domain, and its last position."""
        domain = self.governance if self.topic == trust.GOVERNANCE_TOPIC else self.domain
        assert domain is not None
        return self.subject_row(domain, subject)

    def subjects(self, subjects: Sequence[str]) -> list[Subject]:
        """The same of many, which are looked up at once."""
        domain = self.governance if self.topic == trust.GOVERNANCE_TOPIC else self.domain
        assert domain is not None
        prefix = self._prefix(domain)
        rows = self.rows.get_many([prefix + subject.encode() for subject in subjects])
        return [self._read(domain, row) for row in rows]

    def applied_command(self, command_id: bytes) -> AppliedCommand | None:
        """Where a command id was applied; None if it was not."""
        home = self.topic == trust.GOVERNANCE_TOPIC
        prefix = GOVERNANCE_PREFIX if home else SUBJECT_PREFIX
        key = APPLIED_PREFIX + prefix + command_id
        if (stored := self._row(key)) is None:
            return None
        known = self._known(key, stored)
        found: AppliedCommand = known or self.tools.unpack(stored, AppliedCommand)
        return found

    def closed(self, subject: str) -> Reason | None:
        """Why this subject, or the whole partition, is closed; None if it is open."""
        if self.head is not None and self.head.closed:
            return Reason.PARTITION_CLOSED
        if self.may_be_closed and self._row(CLOSED_PREFIX + subject.encode()) is not None:
            return Reason.METER_CLOSED
        return None

    @property
    def may_be_closed(self) -> bool:
        """Whether anything was held, for nothing else closes a subject: in records before, or in
        the one that is being folded.
        """
        return self._holds or self.head is None or self.head.counts.held > 0

    def decide_access(
        self, record: LogRecord, wanted: Collection[bytes] | None = None
    ) -> tuple[Decided, ...]:
        """Decide the requests of an access record at its own offset (rule 5).

        Call after `apply` of the same record and before the next. Only request ids in `wanted` are
        decided, all if None. A record that is not validly signed by a DSI server, or is out of
        place, decides nothing.
        """
        if self.head is None:
            return ()
        try:
            role = self.verified_role(record)
            value = None if record.value is None else self.decoded(record.value)
        except Void:
            return ()
        if role is not SignerRole.DSI or not isinstance(value, AccessRequests):
            return ()
        if (value.topic, value.partition) != (self.topic, self.partition):
            return ()
        entries = self.tools.entries(record.value or b"")
        if record.header(ENTRIES_ROOT_HEADER) != merkle.salted_root(value.salt_seed, entries):
            return ()
        sure, moment = self.clock_sure(record), self._moment(record.append_ms)
        return tuple(
            decided
            for index, request in enumerate(value.entries)
            if wanted is None or request.request_id in wanted
            for decided in self._judge_each(index, request, request.meters, moment, sure)
        )

    def judge(
        self,
        request: AccessRequest,
        member: str,
        at_ms: int,
        clock_sure: bool = True,
        seen: Callable[[MeterAccess], MeterAccess] = lambda access: access,
    ) -> Decided:
        """Judge one request for one meter, now or at `at_ms`, whichever is later.

        `seen` narrows what the judgement may rest on, where it is advice to somebody.
        """
        (decided,) = self._judge_each(0, request, (member,), self._moment(at_ms), clock_sure, seen)
        return decided

    def _judge_each(
        self,
        entry: int,
        request: AccessRequest,
        members: Sequence[str],
        moment: _Moment,
        clock_sure: bool,
        seen: Callable[[MeterAccess], MeterAccess] = lambda access: access,
    ) -> tuple[Decided, ...]:
        """Each of these meters by itself; what is the same for all of them is looked up once."""
        now_ms, now, version, equivalence = moment
        participant = self.participant(request.party)
        misplaced = self.each_misplaced([member.encode() for member in members])

        def judged(member: str, elsewhere: bool) -> Decided:
            if elsewhere or not version:
                why = Reason.METER_UNKNOWN if elsewhere else Reason.PARTITION_CLOSED
                return Decided(entry, request, member, Refuse(why), now_ms, 0)
            row = self.subject(member)
            known = row.offset != NO_PREDECESSOR
            assert isinstance(row.state, MeterAccess)
            situation = Situation(
                seen(row.state) if known else None,
                participant,
                now,
                self.closed(member),
                clock_sure,
                equivalence,
            )
            decision = POLICIES[version](request, situation)
            return Decided(entry, request, member, decision, now_ms, version, row.state)

        return tuple(map(judged, members, misplaced))

    def _moment(self, at_ms: int) -> _Moment:
        assert self.head is not None
        now_ms = max(self.head.now_ms, at_ms)
        return now_ms, from_epoch_ms(now_ms), self._policy(), self.equivalence()

    def _policy(self) -> int:
        """The version of the policy in force here; 0 if this build cannot judge by it."""
        policy = self.standing(trust.POLICY_SUBJECT).policy
        if policy is None or policy.version not in POLICIES:
            return 0
        if POLICY_HASHES[policy.version] != policy.data_hash:
            return 0
        return policy.version

    def subject_row(self, domain: Domain, subject: str) -> Subject:
        """The state of a subject of that domain; its initial state if nothing was applied."""
        return self._subject_at(domain, self._prefix(domain) + subject.encode())

    def _subject_at(self, domain: Domain, key: bytes) -> Subject:
        stored = self._row(key)
        found: Subject = self._known(key, stored) or self._read(domain, stored)
        if key in self._ahead and stored is not None:
            self._said_ahead[key] = stored, found
        return found

    def _known(self, key: bytes, stored: bytes | None) -> Any:
        """What a row says that was read or written before; None where it has to be read."""
        known = self._said_ahead.get(key)
        return known[1] if known is not None and known[0] is stored else None

    def _read(self, domain: Domain, row: bytes | None) -> Subject:
        if row is None:
            return Subject(NO_PREDECESSOR, NO_PREDECESSOR, domain.initial())
        return Subject(*self.tools.unpack(row, domain.row_type))

    def verified_role(self, record: LogRecord) -> SignerRole:
        """The role of the key that signed the record; quarantine if it is unknown here."""
        assert self.head is not None
        kid = record.header(KEY_ID_HEADER)
        if kid is None or record.header(SIGNATURE_HEADER) is None:
            raise Quarantine(Reason.RECORD_UNSIGNED)
        if kid == _root_id(self.head.root_key):
            if not self.signed_by(self.head.root_key, record):
                raise Quarantine(Reason.RECORD_BAD_SIGNATURE)
            return SignerRole.ROOT
        key = self.key(kid)
        if key is None or not self.signed_by(key.public_key, record):
            raise Quarantine(Reason.RECORD_BAD_SIGNATURE)
        if key.revoked:
            raise Void(Reason.VOID_SIGNER_REVOKED)
        try:
            return SignerRole(key.role)
        except ValueError:  # a role of a later build: what it may write is not ours to say
            raise Hold(Reason.RECORD_UNKNOWN_TYPE) from None

    def signed_by(self, public_key: bytes, record: LogRecord, log_id: bytes | None = None) -> bool:
        """Whether this key signed the record, for this log unless another is named.

        A record whose headers the signed form cannot express was never signed by anybody.
        """
        signature = record.header(SIGNATURE_HEADER)
        if signature is None:
            return False
        of = self.log_id if log_id is None else log_id
        place = (record.topic, record.partition, record.key)
        try:
            message = signed_bytes(of, *place, record.headers, record.value)
        except (struct.error, UnicodeEncodeError, TypeError):
            return False
        # A record of another topic is the home of a copy: every partition asks the same of it.
        reading = self.tools if record.topic == self.topic else self.tools.copied
        return reading.verify(public_key, message, signature)

    def decoded(self, framed: bytes, reading: Reading | None = None) -> object:
        """The record value in those bytes; held or quarantined if there is none."""
        try:
            return (reading or self.tools).decode(framed)
        except UnknownSchema:
            raise Hold(Reason.RECORD_UNKNOWN_TYPE) from None
        except Malformed:
            raise Quarantine(Reason.RECORD_MALFORMED) from None

    def misplaced(self, key: bytes) -> bool:
        """Whether the key hashes to another partition than this one."""
        return self.each_misplaced([key])[0]

    def each_misplaced(self, keys: Sequence[bytes]) -> list[bool]:
        """The same of many keys."""
        assert self.head is not None
        if self.topic not in trust.METER_KEYED:
            return [False] * len(keys)
        homes = murmur2_partitions(keys, self.head.partition_count)
        return [home != self.partition for home in homes]

    def clock_sure(self, record: LogRecord) -> bool:
        """Whether producer time and append time agree well enough (rule 11)."""
        produced = record.header(PRODUCED_AT_HEADER)
        if produced is None or len(produced) != 8:
            return False
        produced_ms: int = struct.unpack(">q", produced)[0]
        return abs(produced_ms - record.append_ms) <= CLOCK_TOLERANCE_MS
