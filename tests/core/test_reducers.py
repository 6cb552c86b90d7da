"""An answer rests on the reducers of every fold it came from, and is judged where they are known.

Where a later version of any of them would answer otherwise, nobody did wrong: an auditor who looks
at the consumers' version alone accuses an honest server.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domains.consumers.decider import CONSUMERS
from domains.governance.decider import GOVERNANCE
from domains.metering import METERING
from domains.metering.events import MeterCommunicationLost
from spine import reducers, trust
from spine.access import OutcomeLog
from spine.audit_pass import VERSIONS_CONTRADICT
from spine.domain import Domain
from spine.event import AccessOutcome, AccessOutcomes, RecordType
from spine.reducers import AtHand, Versions, merged, read, written
from spine.verdict import Verdict
from tests.core.test_audit import DIGEST, lived
from tests.helpers.history import BY_TOPIC, History, audit, day

SAME, DIFFERENT, CANNOT_TELL = Verdict.SAME, Verdict.DIFFERENT, Verdict.CANNOT_TELL
TODAY: Versions = {
    topic: (domain.version, GOVERNANCE.version) for topic, domain in BY_TOPIC.items()
}
FOLDED_FROM = (trust.CONSUMER_LOG, trust.READINGS_TOPIC, trust.METERING_TOPIC)


def earlier(domain: Domain) -> Domain:
    """The version before, which did not yet know that a meter can fall silent."""

    def evolve(state: Any, event: object) -> Any:
        return state if isinstance(event, MeterCommunicationLost) else domain.evolve(state, event)

    return replace(domain, version=domain.version - 1, evolve=evolve)


def answered_by_the_version_before(monkeypatch: pytest.MonkeyPatch, silent: bool = True) -> History:
    """One read, answered where metering's registry was folded by the reducers before these."""
    before = earlier(METERING)
    with monkeypatch.context() as then:
        then.setitem(BY_TOPIC, trust.METERING_TOPIC, before)
        history = lived()
        if silent:
            history.facts(MeterCommunicationLost(day(6, 2), day(6, 2)))
        asked = history.asked(interval_from=day(6, 1), interval_to=day(6, 4))
        answered = history.ask(asked)
        made = [history.outcome(answered.record, each) for each in answered.decided]
        rests_on = {**TODAY, trust.METERING_TOPIC: (before.version, GOVERNANCE.version)}
        history.tell(*made, rests_on={topic: rests_on[topic] for topic in FOLDED_FROM})
    return history


def test_an_answer_by_earlier_reducers_of_metering_is_not_held_against_the_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    history = answered_by_the_version_before(monkeypatch)
    done = audit(history.records())
    why = f"reducer version {METERING.version - 1} of metering.events.v1 is not at hand"
    assert done.found == [(CANNOT_TELL, why)]
    assert done.report.ok
    monkeypatch.setattr(reducers, "read", lambda header: {})
    naive = audit(history.records())
    assert naive.found == [(DIFFERENT, DIGEST)], "a naive audit looks at the consumers' version"


def test_it_is_judged_where_the_histories_of_those_reducers_still_fold_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As a version says of itself, which `tests/golden` holds it to."""
    history = answered_by_the_version_before(monkeypatch)
    knows = replace(METERING, judges=frozenset({METERING.version - 1}))
    at_hand = AtHand(GOVERNANCE, {**BY_TOPIC, trust.METERING_TOPIC: knows})
    assert audit(history.records(), at_hand=at_hand).found == [(DIFFERENT, DIGEST)]


def test_the_same_answer_is_the_same_by_whatever_reducers(monkeypatch: pytest.MonkeyPatch) -> None:
    history = answered_by_the_version_before(monkeypatch, silent=False)
    assert audit(history.records()).verdicts == {SAME: 1}


@pytest.mark.parametrize("topic", FOLDED_FROM)
@pytest.mark.parametrize("governance", [False, True], ids=["its own", "governance's"])
def test_each_fold_that_an_answer_came_from_is_named(topic: str, governance: bool) -> None:
    own, governed = TODAY[topic]
    other = (own, governed + 6) if governance else (own + 6, governed)
    history = lived()
    history.read()
    answered = history.ask()
    told = history.outcome(answered.record, answered.decided[0], digest=b"\x01" * 32)
    history.tell(told, rests_on={**TODAY, topic: other})
    if topic == trust.CONSUMER_LOG and not governance:
        assert audit(history.records()).found == [(DIFFERENT, VERSIONS_CONTRADICT)]
        return  # the outcome names it too
    named = "governance.events.v1" if governance else topic
    version = other[1] if governance else other[0]
    newest = GOVERNANCE.version if governance else BY_TOPIC[topic].version
    later = f"later than {newest}, the newest of this build"
    why = f"reducer version {version} of {named} is not at hand: {later}"
    done = audit(history.records())
    assert done.found == [(CANNOT_TELL, why)]
    assert done.report.not_at_hand == 1


LATER: Versions = {**TODAY, trust.CONSUMER_LOG: (999, GOVERNANCE.version)}


@pytest.mark.parametrize("headers", [[LATER], [TODAY, LATER], [LATER, TODAY], [None, LATER]])
def test_a_false_answer_does_not_hide_behind_a_version_its_outcome_does_not_name(
    headers: list[Versions | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    history = lived()
    answered = history.ask()
    told = history.outcome(answered.record, answered.decided[0], digest=b"\x01" * 32)
    for rests_on in headers:
        history.tell(told, rests_on=rests_on)
    done = audit(history.records())
    assert done.found == [(DIFFERENT, VERSIONS_CONTRADICT)]
    assert not done.report.ok and not done.report.not_at_hand
    if headers == [LATER]:
        monkeypatch.setattr(reducers, "agreed", lambda said, version: next(iter(said)))
        naive = audit(history.records())
        assert naive.report.ok, "a naive audit believes the header"


def test_an_outcome_told_twice_may_rest_on_what_either_record_says() -> None:
    """Records that share a header say more than the one outcome rests on."""
    history = lived()
    answered = history.ask()
    told = history.outcome(answered.record, answered.decided[0])
    for topic in (trust.READINGS_TOPIC, trust.METERING_TOPIC):
        named = (trust.CONSUMER_LOG, topic)
        history.tell(told, rests_on={each: TODAY[each] for each in named})
    assert audit(history.records()).verdicts == {SAME: 1}


@pytest.mark.parametrize(
    "rests_on",
    [None, TODAY, {**TODAY, trust.BTM_ASSETS_TOPIC: (9, 9)}],
    ids=["nothing said", "these", "another fold's are other ones"],
)
def test_a_difference_stays_one_where_the_reducers_are_these(rests_on: Versions | None) -> None:
    history = lived()
    answered = history.ask()
    told = history.outcome(answered.record, answered.decided[0], digest=b"\x01" * 32)
    history.tell(told, rests_on=rests_on)
    assert audit(history.records()).found == [(DIFFERENT, DIGEST)]


def test_a_decision_on_other_governance_reducers_is_not_judged_either() -> None:
    history = lived()
    answered = history.ask()
    told = history.outcome(answered.record, answered.decided[0], consent_id="consent-9")
    rests_on = {trust.CONSUMER_LOG: (CONSUMERS.version, GOVERNANCE.version + 1)}
    history.tell(told, rests_on=rests_on)
    ((verdict, why),) = audit(history.records()).found
    assert (verdict, why) == (
        CANNOT_TELL,
        f"reducer version {GOVERNANCE.version + 1} of governance.events.v1 is not at hand: "
        f"later than {GOVERNANCE.version}, the newest of this build",
    )


@pytest.mark.parametrize("topic", FOLDED_FROM)
@pytest.mark.parametrize("governance", [False, True], ids=["its own", "governance's"])
def test_a_version_that_no_release_can_have_had_hides_nothing(
    topic: str, governance: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, governed = TODAY[topic]
    history = lived()
    answered = history.ask()
    none = (own, 0) if governance else (0, governed)
    named = 0 if topic == trust.CONSUMER_LOG and not governance else CONSUMERS.version
    told = history.outcome(
        answered.record, answered.decided[0], digest=b"\x01" * 32, reducer_version=named
    )
    history.tell(told, rests_on={**TODAY, topic: none})
    done = audit(history.records())
    assert done.found == [(DIFFERENT, f"reducer version 0 of {topic} was never one")]
    assert not done.report.ok and not done.report.not_at_hand
    monkeypatch.setattr(reducers, "never_released", lambda *_: "")
    naive = audit(history.records())
    assert naive.report.ok and naive.report.not_at_hand == 1, "a naive audit cannot tell"


def test_an_outcome_of_no_version_hides_nothing_either() -> None:
    history = lived()
    history.read(reducer_version=0)
    assert audit(history.records()).found == [(DIFFERENT, "reducer version 0 was never one")]


# The header


@given(
    st.dictionaries(
        st.sampled_from(sorted(reducers.LETTERS)),
        st.tuples(st.integers(0, 999_999_999), st.integers(0, 999_999_999)),
        min_size=1,
    )
)
def test_what_is_written_is_read(versions: dict[str, tuple[int, int]]) -> None:
    assert read(written(versions)) == versions


def test_the_header_is_as_ever() -> None:
    said = {trust.READINGS_TOPIC: (2, 1), trust.CONSUMER_LOG: (1, 1), trust.METERING_TOPIC: (2, 1)}
    assert written(said) == b"c1.1,m2.1,r2.1"
    assert written({trust.BTM_ASSETS_TOPIC: (10, 3)}) == b"a10.3"
    assert read(b"c1.1,m2.1,r2.1") == said
    assert read(b"c1.1,z4.1") == {trust.CONSUMER_LOG: (1, 1)}, "what a later build folds from"


@pytest.mark.parametrize(
    "header",
    [None, b"", b"c", b"c1", b"c1.", b"c1.1,", b"c1.1;m2.1", b"c-1.1", b"C1.1", b"\xff", b"c1.1.1"],
)
def test_what_no_server_writes_says_nothing(header: bytes | None) -> None:
    assert read(header) == {}


def test_what_contradicts_itself_is_not_merged() -> None:
    one, other = {trust.CONSUMER_LOG: (1, 1)}, {trust.METERING_TOPIC: (2, 1)}
    assert merged(one, other) == {**one, **other}
    assert merged(one, {trust.CONSUMER_LOG: (1, 2)}) is None


# Recording


class Written:
    """A writer that keeps what it is given."""

    def __init__(self) -> None:
        self.records: list[tuple[tuple[bytes, ...], tuple[tuple[str, bytes], ...]]] = []

    async def write(
        self,
        record_type: RecordType,
        topic: str,
        partition: int,
        value: AccessOutcomes,
        headers: tuple[tuple[str, bytes], ...] = (),
    ) -> None:
        self.records.append((tuple(entry.request_id for entry in value.entries), headers))


async def test_outcomes_share_a_record_while_their_reducers_are_the_same_ones() -> None:
    """During a rolling upgrade a store may be of another build than the one beside it."""
    honest = outcome_of(lived())
    writer = Written()
    log = OutcomeLog(writer, "dsi-1")  # type: ignore[arg-type]
    decided = {trust.CONSUMER_LOG: (1, 1)}
    for number, data in enumerate(
        ({}, {trust.READINGS_TOPIC: (2, 1)}, {trust.METERING_TOPIC: (2, 1)})
    ):
        log.add(0, [replace(honest, request_id=bytes([number]))], {**decided, **data})
    log.add(0, [replace(honest, request_id=b"\x03")], {**decided, trust.READINGS_TOPIC: (3, 1)})
    await log.flush()
    await asyncio.sleep(0)
    assert writer.records == [
        ((b"\x00", b"\x01", b"\x02"), (("rv", b"c1.1,m2.1,r2.1"),)),
        ((b"\x03",), (("rv", b"c1.1,r3.1"),)),
    ]


def outcome_of(history: History) -> AccessOutcome:
    read_ = history.read()
    return read_.outcomes[0]
