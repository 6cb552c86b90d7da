"""Every trap of Faust that could touch the spine, every house rule, and the test that guards it.

The table names tests elsewhere; what it names must exist. Below it stand guards that had no other
place, and upstream's own behaviour where we rely on avoiding it: should one of those fail after an
upgrade, the trap has changed, and the house rule wants another look.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from faust.streams import Stream
from faust.transport.consumer import Consumer
from faust.types import TP

from spine import trust
from spine.fold import FaustFolds
from spine.log import Kafka

ROOT = Path(__file__).parents[2]
LINT = "tests/test_tidy.py::test_faust_is_used_as_the_house_allows"
BITES = "tests/test_tidy.py::test_the_rules_bite"
HERE = "tests/core/test_faust_guards.py::"
STORE, LOG = "tests/core/test_store.py::", "tests/broker/test_log.py::"

TRAPS: dict[str, tuple[str, ...]] = {
    "a gap at the head of the acknowledged is skipped": (
        HERE + "test_upstream_still_skips_a_gap_while_nothing_was_committed",
        LINT,
        LOG + "test_a_gap_in_delivery_is_read_from_the_log",
        STORE + "test_a_gap_is_read_from_the_log_before_going_on",
    ),
    "an exception in an agent acknowledges the event": (
        HERE + "test_upstream_still_acknowledges_what_an_agent_failed_on",
        LOG + "test_what_no_rule_foresaw_ends_the_process_and_is_never_passed_over",
    ),
    "take() acknowledges a whole batch": (LINT, BITES),
    "what does not decode is acknowledged and gone": (
        HERE + "test_the_app_is_set_up_as_the_house_wants_it",
        LOG + "test_what_faust_gives_is_the_record_that_the_log_holds",
        "tests/core/test_partition.py::test_what_breaks_schema_or_rules_is_quarantined",
    ),
    "exactly-once doubles": (
        LINT,
        "tests/core/test_partition.py::test_every_record_sent_twice_applies_once",
        STORE + "test_a_kill_between_records_is_made_good",
    ),
    "the persisted offset of a table lags a life behind": (
        LINT,
        STORE + "test_rows_and_position_are_written_together_or_not_at_all",
        STORE + "test_a_store_without_its_position_in_the_same_write_would_double",
    ),
    "a killed member holds its partitions for a minute": (
        HERE + "test_the_app_is_set_up_as_the_house_wants_it",
        "tests/e2e/test_survival.py::test_a_killed_process_comes_back",
    ),
    "a damaged RocksDB is a crash loop": (
        STORE + "test_a_damaged_store_comes_back_by_itself",
        STORE + "test_a_damaged_store_says_so_and_never_answers_less",
    ),
    "a RocksDB handle is never closed": (
        STORE + "test_a_store_in_use_is_sound_and_left_alone",
        "tests/e2e/test_survival.py::test_a_second_process_of_a_name_is_refused_and_harms_nothing",
    ),
    "the producer is not idempotent": (
        HERE + "test_nothing_is_produced_through_faust",
        "tests/core/test_partition.py::test_an_applied_id_is_a_duplicate_before_the_chain_is_looked_at",
    ),
    "windows lose their values and go by the wall clock": (LINT, BITES),
    "recovery applies events to another table": (
        LINT,
        HERE + "test_the_app_is_set_up_as_the_house_wants_it",
        STORE + "test_live_and_replayed_come_to_the_same_digest",
    ),
    "a topic added at run time waits for 45 seconds": (
        HERE + "test_the_app_is_set_up_as_the_house_wants_it",
        HERE + "test_every_topic_is_declared_before_the_start",
    ),
    "a consumer lives and consumes nothing": (
        LOG + "test_a_fold_that_stands_still_while_the_log_goes_on_ends_the_process",
        LOG + "test_a_log_that_ends_in_a_hole_is_no_fold_that_stands_still",
    ),
    "control records and aborted transactions stall it": (
        LOG + "test_a_transactions_end_is_a_hole_and_stops_nothing",
        LOG + "test_what_an_aborted_transaction_wrote_stands_in_the_log_for_every_reader",
    ),
}
RULES: dict[str, tuple[str, ...]] = {
    "at least once, one at a time, raw bytes; no take, windows, tables, group_by, ask": (
        LINT,
        BITES,
        HERE + "test_the_app_is_set_up_as_the_house_wants_it",
    ),
    "partition counts fixed, one partitioner": (
        LOG + "test_a_missing_topic_or_another_partition_count_is_refused",
        "tests/core/test_partition.py::test_a_record_keyed_to_another_partition_is_void",
    ),
    "rows and position in one write, no await in between": (
        STORE + "test_rows_and_position_are_written_together_or_not_at_all",
        HERE + "test_folding_a_record_awaits_nothing",
    ),
    "a watchdog ends the process": (
        LOG + "test_a_fold_that_stands_still_while_the_log_goes_on_ends_the_process",
        LOG + "test_what_no_rule_foresaw_ends_the_process_and_is_never_passed_over",
    ),
    "a supervisor starts it again, as the same member": (
        "tests/e2e/test_survival.py::test_a_killed_process_comes_back",
        HERE + "test_the_app_is_set_up_as_the_house_wants_it",
    ),
}
GUARDS = sorted({guard for table in (TRAPS, RULES) for row in table.values() for guard in row})


@cache
def names_in(path: str) -> frozenset[str]:
    tree = ast.parse((ROOT / path).read_text())
    kinds = ast.FunctionDef | ast.AsyncFunctionDef
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, kinds))


@pytest.mark.parametrize("guard", GUARDS)
def test_a_guard_that_is_named_is_there(guard: str) -> None:
    path, _, name = guard.partition("::")
    assert name in names_in(path)


def test_no_trap_and_no_rule_is_without_a_guard() -> None:
    assert len(TRAPS) >= 13 and len(RULES) == 5
    assert all(TRAPS.values()) and all(RULES.values())


# How the app is set up


@pytest.fixture
def app(tmp_path: Path) -> Any:
    """The app of a process that folds two topics; nothing is started."""
    places = [(trust.CONSUMER_LOG, 0), (trust.CONSUMER_LOG, 1), (trust.METERING_TOPIC, 0)]
    folds: Any = [SimpleNamespace(topic=t, partition=p, next_offset=0) for t, p in places]
    hosted = FaustFolds("spine-test", Kafka("127.0.0.1:9"), folds, datadir=tmp_path)
    return hosted._faust_app()


def test_the_app_is_set_up_as_the_house_wants_it(app: Any) -> None:
    conf = app.conf
    assert str(conf.processing_guarantee.value) == "at_least_once"
    assert conf.consumer_group_instance_id == "spine-test"
    assert conf.broker_session_timeout <= 10
    assert conf.broker_heartbeat_interval * 3 <= conf.broker_session_timeout
    assert (conf.web_enabled, conf.topic_disable_leader, conf.topic_allow_declare) == (
        False,
        True,
        False,
    )
    assert str(conf.store).startswith("memory:")
    assert not app.tables.data
    assert {str(agent.concurrency) for agent in app.agents.values()} == {"1"}
    for agent in app.agents.values():
        topic = agent.channel
        assert (topic.key_serializer, topic.value_serializer) == ("raw", "raw")
        assert (topic.key_type, topic.value_type) == (bytes, bytes)


def test_every_topic_is_declared_before_the_start(app: Any) -> None:
    declared = {name for agent in app.agents.values() for name in agent.channel.topics}
    assert declared == {trust.CONSUMER_LOG, trust.METERING_TOPIC}
    assert len(app.agents) == 2


def test_nothing_is_produced_through_faust() -> None:
    source = (ROOT / "spine/fold.py").read_text()
    called = {
        node.attr
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
    }
    assert called.isdisjoint({"send", "send_soon", "cast", "sink", "add_sink"})


def test_folding_a_record_awaits_nothing() -> None:
    for path, names in (
        ("spine/live.py", {"deliver"}),
        ("spine/replay.py", {"apply", "_commit"}),
        ("spine/partition.py", {"apply"}),
    ):
        tree = ast.parse((ROOT / path).read_text())
        found = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name in names]
        assert {n.name for n in found} == names
        assert not any(isinstance(n, ast.Await) for each in found for n in ast.walk(each))


# What upstream does


def test_upstream_still_skips_a_gap_while_nothing_was_committed() -> None:
    """Offsets 0 to 39 are under way or lost, and yet 42 would be committed."""
    place = TP("t", 0)
    consumer: Any = SimpleNamespace(
        _acked={place: [40, 41]},
        _committed_offset={place: 0},
        _acked_index={place: {40, 41}},
        _gap={place: None},
    )
    assert Consumer._new_offset(consumer, place) == 42


def test_upstream_still_acknowledges_what_an_agent_failed_on() -> None:
    """Why no exception ever reaches it: the event is acknowledged on the way out, come what may."""
    looping = ast.parse(textwrap.dedent(inspect.getsource(Stream._py_aiter)))
    finals = [
        ast.unparse(s) for n in ast.walk(looping) if isinstance(n, ast.Try) for s in n.finalbody
    ]
    assert any("event.ack()" in said for said in finals)
