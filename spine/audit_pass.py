"""One partition's part of an audit: data and outcomes folded first, then every decision again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from spine import reducers, trust
from spine.answer import Release
from spine.audit_report import EVERYTHING, AuditReport, Balance, Line, Selection
from spine.audit_sight import Sight
from spine.audit_turns import AS_MOST_ARE, NO_HONEST_SERVER, Found, Turns, Waiting
from spine.domain import ReadableRows
from spine.errors import Reason
from spine.event import (
    TYPE_HEADER,
    AccessOutcome,
    AccessOutcomes,
    AccessRequests,
    DataPosition,
    LogRecord,
    RecordType,
    SignerRole,
    from_epoch_ms,
)
from spine.explain import Doubt, Oddities, explain_answer, explain_decisions
from spine.log import LogUnfit
from spine.policy import Permit
from spine.reducers import AtHand, Versions
from spine.replay import RangeReader, StoredFold
from spine.rows import Applied, Decided, Malformed, UnknownSchema
from spine.verdict import (
    Rebuild,
    Rebuilt,
    ToRebuild,
    Verdict,
    answered_otherwise,
    decided_otherwise,
    impossible,
    policy_missing,
    refused_blindly,
    unread,
)
from spine.view import Hold, Void

# Outcomes first: the log may grow meanwhile, and what they speak of is then found in the others.
AUDITED: Final = (trust.OUTCOMES_TOPIC, *trust.DATA_TOPICS, trust.CONSUMER_LOG)
VERSIONS_CONTRADICT: Final = "its records and the outcome name different reducer versions"

SaidAt = Callable[[Decided, Mapping[str, ReadableRows]], tuple[str, Iterable[int]]]


@dataclass(frozen=True, slots=True)
class Means:
    """What an audit works with, and which decisions it is to judge.

    `at_hand` says whose answers may be judged.
    `open_fold(path, topic, partition)` gives an empty fold over a throw-away store in `stores`;
    `rebuild` makes the answers to decisions; `said_at` gives the topic an answer is made from and
    the offsets at which something was said of what is asked.
    """

    reader: RangeReader
    stores: Path
    at_hand: AtHand
    open_fold: Callable[[Path, str, int], StoredFold]
    rebuild: Rebuild
    said_at: SaidAt
    selection: Selection = EVERYTHING


class _Told(Struct, frozen=True):
    """An outcome, when it was appended, and what its record says that it rests on."""

    outcome: AccessOutcome
    append_ms: int
    rests_on: Versions


class PartitionPass:
    """The four topics of one partition: data and outcomes first, then the decisions."""

    def __init__(
        self, means: Means, report: AuditReport, partition: int, on_line: Callable[[Line], None]
    ) -> None:
        self._means, self._report, self._partition = means, report, partition
        self._on_line = on_line
        self._folds: dict[str, StoredFold] = {}
        self._outcomes: dict[tuple[bytes, str], list[_Told]] = {}
        self._decided: set[tuple[bytes, str, int, int]] = set()
        self._inadmissible: set[int] = set()
        self._unread: set[int] = set()
        self._oddities = {t: Oddities(f"{t}-{partition}") for t in AUDITED}
        self._doubted: list[tuple[Line, Doubt]] = []
        self._sight: Sight | None = None
        self._turns = Turns(means.rebuild, self._compare_rebuilt, self._say)

    def fold(self, topic: str, progress: Callable[[int, int], None]) -> int:
        """Fold one topic from its first record; returns the offset after its last."""
        means = self._means
        stored = means.open_fold(means.stores, topic, self._partition)
        self._folds[topic] = stored
        listeners = {trust.OUTCOMES_TOPIC: self._on_outcomes, trust.CONSUMER_LOG: self._on_request}
        note, listener = self._oddities[topic].note, listeners.get(topic)

        def listen(record: LogRecord, applied: Applied) -> None:
            note(record, applied)
            if listener is not None:
                listener(record, applied)

        stored.catch_up(means.reader, progress=progress, on_record=listen)
        head = stored.fold.head
        if head is None:
            message = f"{topic}-{self._partition} does not begin with the opening of this log"
            raise LogUnfit(Reason.LOG_DIFFERS, message)
        if topic == trust.CONSUMER_LOG:
            self._turns.end()
            self._explain_decisions()
            self._leftovers()
        self._report.balances.append(
            Balance(topic, self._partition, head.next_offset, head.holes, head.closed, head.counts)
        )
        return head.next_offset

    def close(self) -> None:
        """Let go of the throw-away stores."""
        for stored in self._folds.values():
            stored.close()

    def _on_outcomes(self, record: LogRecord, applied: Applied) -> None:
        """Keep the outcomes of a record that the fold accepted: signed by a DSI, and in place."""
        if not applied.applied or record.header(TYPE_HEADER) != RecordType.OUTCOMES.encode():
            return
        assert record.value is not None
        value = self._folds[trust.OUTCOMES_TOPIC].fold.tools.decode(record.value)
        assert isinstance(value, AccessOutcomes)
        rests_on = reducers.read(record.header(reducers.REDUCERS_HEADER))
        for outcome in value.entries:
            key = (outcome.request_id, outcome.member)
            self._outcomes.setdefault(key, []).append(_Told(outcome, record.append_ms, rests_on))

    def _on_request(self, record: LogRecord, applied: Applied) -> None:
        if not applied.access:
            return
        decided = self._folds[trust.CONSUMER_LOG].fold.decide_access(record)
        if not decided:
            self._nothing_decided(record)
            return
        vectors = self._requests(record).vectors
        self._sight = None
        for each in decided:
            index = each.request.vector
            self._judge(record, each, vectors[index] if 0 <= index < len(vectors) else ())

    def _requests(self, record: LogRecord) -> AccessRequests:
        """The value of an access record; raises Malformed or UnknownSchema."""
        value = self._folds[trust.CONSUMER_LOG].fold.tools.decode(record.value or b"")
        if not isinstance(value, AccessRequests):
            raise Malformed("no access requests")
        return value

    def _nothing_decided(self, record: LogRecord) -> None:
        """A probe of a server whether its fold still moves, a record of a later build, or neither
        signed nor placed as it must be.
        """
        fold = self._folds[trust.CONSUMER_LOG].fold
        unknown = unread(fold)
        try:
            entries = self._requests(record).entries
            if fold.verified_role(record) is SignerRole.DSI and not any(e.meters for e in entries):
                return
        except (UnknownSchema, Hold):
            unknown = "this build cannot read the access record"
        except (Malformed, Void):
            pass
        if not unknown:
            self._report.inadmissible += 1
            self._inadmissible.add(record.offset)
            return
        self._unread.add(record.offset)
        at = from_epoch_ms(record.append_ms)
        place = (self._partition, record.offset, -1)
        self._turns.take(Line(Verdict.CANNOT_TELL, unknown, at, *place, b"", ""))

    def _judge(self, record: LogRecord, decided: Decided, vector: tuple[DataPosition, ...]) -> None:
        request, decision = decided.request, decided.decision
        recorded = self._outcomes.get((request.request_id, decided.member), [])
        place = (self._partition, record.offset, decided.entry)
        told = [each for each in recorded if _place(each.outcome) == place]
        here = [each.outcome for each in told]
        self._decided.add((request.request_id, decided.member, record.offset, decided.entry))
        at = from_epoch_ms(record.append_ms)
        if not self._means.selection.wants(decided, at, *place[:2]):
            return
        found: Found | Waiting
        if here:
            found = self._compare(decided, told, vector)
        else:
            found = *self._without_outcome(decided, bool(recorded)), ""
        waiting = found if isinstance(found, Waiting) else None
        verdict, why, because = AS_MOST_ARE if isinstance(found, Waiting) else found
        permit = decision if isinstance(decision, Permit) else None
        line = Line(
            verdict,
            why,
            at,
            *place,
            request.request_id,
            decided.member,
            request.party,
            request.role,
            request.method,
            request.purpose,
            request.basis,
            "PERMIT" if permit else "REFUSE",
            "" if isinstance(decision, Permit) else str(decision.reason),
            permit.consent_id if permit else "",
            here[0].release if here else "",
            here[0].rows if here else 0,
            because,
        )
        if verdict is Verdict.DIFFERENT and not because:
            sure = self._folds[trust.CONSUMER_LOG].fold.clock_sure(record)
            doubt = Doubt(record.offset, request, decided.member, record.append_ms, sure, here[0])
            self._doubted.append((line, doubt))
        else:
            self._turns.take(line, waiting)

    def _explain_decisions(self) -> None:
        """One more pass over the consumer log for all decisions recorded otherwise than made."""
        if not self._doubted:
            return
        means, topic = self._means, trust.CONSUMER_LOG
        again = means.open_fold(means.stores / "again", topic, self._partition)
        try:
            doubts = [doubt for _, doubt in self._doubted]
            told = explain_decisions(again, means.reader, doubts, self._oddities[topic])
        finally:
            again.close()
        for (line, _), because in zip(self._doubted, told, strict=True):
            self._say(replace(line, explained=because))

    def _without_outcome(self, decided: Decided, elsewhere: bool) -> tuple[Verdict, str]:
        unknown = unread(self._folds[trust.OUTCOMES_TOPIC].fold) or self._undecidable(decided)
        if unknown:
            return Verdict.CANNOT_TELL, unknown
        why = "permitted, no outcome: presume that it was disclosed"
        if not isinstance(decided.decision, Permit):
            why = "refused, no outcome"
        doubled = "; the outcome of this request names another place"
        return Verdict.UNCONFIRMED, why + doubled if elsewhere else why

    def _undecidable(self, decided: Decided) -> str:
        """Why another build may rightly have decided otherwise at the place just folded."""
        fold = self._folds[trust.CONSUMER_LOG].fold
        return unread(fold, decided.member) or policy_missing(fold)

    def _compare(
        self,
        decided: Decided,
        told: list[_Told],
        vector: tuple[DataPosition, ...],
    ) -> Found | Waiting:
        """The record itself first, then the decision, then the answer; and what explains it."""
        if difference := impossible(each.outcome for each in told):
            return Verdict.DIFFERENT, difference, NO_HONEST_SERVER
        outcome, stored = told[0].outcome, self._folds[trust.CONSUMER_LOG]
        rests_on = reducers.agreed((each.rests_on for each in told), outcome.reducer_version)
        if rests_on is None:
            return Verdict.DIFFERENT, VERSIONS_CONTRADICT, NO_HONEST_SERVER
        if never := reducers.never_released(rests_on, outcome.reducer_version):
            return Verdict.DIFFERENT, never, NO_HONEST_SERVER
        at_hand = self._means.at_hand
        if unknown := at_hand.unknown(trust.CONSUMER_LOG, outcome.reducer_version):
            return Verdict.CANNOT_TELL, unknown, ""
        if difference := decided_otherwise(decided, outcome):
            unknown = (
                self._undecidable(decided)
                or refused_blindly(outcome, stored.schema_set)
                or self._means.at_hand.missing(rests_on, (trust.CONSUMER_LOG,))
            )
            if unknown:
                return Verdict.CANNOT_TELL, unknown, ""
            return Verdict.DIFFERENT, difference, ""
        if outcome.release != Release.RELEASED:
            return Verdict.SAME, outcome.release_reason, ""
        return self._compare_answer(decided, outcome, vector, rests_on)

    def _compare_answer(
        self,
        decided: Decided,
        outcome: AccessOutcome,
        vector: tuple[DataPosition, ...],
        rests_on: Versions,
    ) -> Found | Waiting:
        """Rebuild the answer at the positions that the request named, now or with others.

        What comes out the same is the same, by whatever reducers; a difference is one only if
        those it rests on are at hand.
        """
        sight = self._sight
        if sight is None or sight.vector is not vector:
            sight = self._sight = Sight.of(vector, self._folds, self._partition)
        if sight.wrong is not None:
            return sight.wrong
        unread = sight.unread(self._folds, decided.member)
        rebuild, asked = self._means.rebuild, ToRebuild(decided, sight.rows, sight.below)
        half_hours = rebuild.half_hours(decided, sight.below)
        waiting = Waiting(asked, outcome, rests_on, unread, half_hours)
        if half_hours:
            return waiting
        try:
            rebuilt = rebuild(decided, sight.rows, sight.below)
        except LookupError:
            why = "the request names no positions for what it asks"
            return Verdict.DIFFERENT, why, NO_HONEST_SERVER
        return self._compare_rebuilt(waiting, rebuilt)

    def _compare_rebuilt(self, waiting: Waiting, rebuilt: Rebuilt) -> Found:
        difference = answered_otherwise(rebuilt, waiting.outcome)
        if not difference:
            cannot_tell = rebuilt.untold  # all but the texts was the same
            return (Verdict.CANNOT_TELL, cannot_tell, "") if cannot_tell else AS_MOST_ARE
        topics = (trust.CONSUMER_LOG, *waiting.asked.below)
        unknown = self._means.at_hand.missing(waiting.rests_on, topics)
        if unknown := unknown or waiting.unread:
            return Verdict.CANNOT_TELL, unknown, ""
        because = self._explain_answer(waiting.asked, waiting.outcome)
        return Verdict.DIFFERENT, difference, because

    def _explain_answer(self, asked: ToRebuild, outcome: AccessOutcome) -> str:
        decided, rows, below = asked.decided, asked.rows, asked.below
        topic, places = self._means.said_at(decided, rows)
        if topic not in below:
            return "nothing but the state it was decided on goes into it"
        return explain_answer(
            lambda offset: self._means.rebuild(decided, rows, {**below, topic: offset}),
            places,
            below[topic],
            outcome,
            self._oddities[topic],
        )

    def _leftovers(self) -> None:
        """Outcomes of what was never decided at the place they name."""
        decided = {(request_id, member) for request_id, member, _, _ in self._decided}
        for key, outcomes in self._outcomes.items():
            for told in outcomes:
                outcome = told.outcome
                partition, offset, entry = _place(outcome)
                here = partition == self._partition
                if here and (*key, offset, entry) in self._decided:
                    continue
                verdict, why = Verdict.DIFFERENT, "it names a decision that the log does not hold"
                if here and offset in self._unread:
                    verdict, why = Verdict.CANNOT_TELL, "this build cannot read its access record"
                elif here and offset in self._inadmissible:
                    why = "no DSI server validly signed the access record it names"
                elif key in decided:
                    why = "it names another place than that of the decision"
                at = from_epoch_ms(told.append_ms)
                if not self._means.selection.wants_outcome(*key, at, _place(outcome)):
                    continue
                self._say(
                    Line(
                        verdict,
                        f"an outcome without a decision: {why}",
                        at,
                        *_place(outcome),
                        *key,
                        decision=outcome.decision,
                        reason=outcome.reason,
                        consent_id=outcome.consent_id,
                        release=outcome.release,
                        rows=outcome.rows,
                    )
                )

    def _say(self, line: Line) -> None:
        self._report.counts[line.verdict] += 1
        if line.verdict is not Verdict.SAME:
            self._report.findings.append(line)
        self._on_line(line)


def _place(outcome: AccessOutcome) -> tuple[int, int, int]:
    return outcome.decided_partition, outcome.decided_offset, outcome.decided_entry
