"""Every fault that is tried, what must hold, and which tests try it: the table in DESIGN.md.

`make fault` runs the tests and writes the table anew; `tests/fault/test_table.py` holds it up.
Numbers beginning with F are kept for ever: results are compared by them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
DESIGN: Final = ROOT / "DESIGN.md"
LAST: Final = Path(__file__).with_name("last.json")
BEGIN, END = "<!-- faults: written by `make fault` -->\n", "<!-- /faults -->\n"
ONE, THREE = "tests/fault/one_broker.py", "tests/fault/three_brokers.py"
TWO, SERVERS = "tests/fault/two_servers.py", "tests/e2e/test_servers.py"
RACE, ROGUES = "tests/fault/test_race.py", "tests/fault/test_rogues.py"
POINTS, FENCE = "tests/fault/test_failpoints.py", "tests/broker/test_fence.py"
STORE, PARTITION = "tests/core/test_store.py", "tests/core/test_partition.py"
FLOODS = "tests/server/test_floods.py"
SERVER, IDENTITY = "tests/server/test_server.py", "tests/server/test_identity.py"
LOG, SURVIVAL = "tests/broker/test_log.py", "tests/e2e/test_survival.py"


@dataclass(frozen=True, slots=True)
class Fault:
    """One line of the table. `tests` are pytest's own names, without parameters."""

    number: str
    what: str
    holds: str
    tests: tuple[str, ...]


def _fault(number: str, what: str, holds: str, *tests: tuple[str, str]) -> Fault:
    return Fault(number, what, holds, tuple(f"{file}::test_{name}" for file, name in tests))


FAULTS: Final = (
    _fault(
        "F01",
        "coordinator killed before, during and after its append",
        "each acknowledged command has one effect",
        (ONE, "a_coordinator_that_dies_around_its_append_does_the_command_once"),
        (POINTS, "a_process_that_dies_at_its_worst_moment_costs_nothing"),
    ),
    _fault(
        "F02",
        "a fold killed at eight points, also while it catches up",
        "store equals replay, byte for byte",
        (ONE, "a_fold_that_dies_at_any_point_is_what_a_replay_makes_of_it"),
        (STORE, "a_kill_between_records_is_made_good"),
    ),
    _fault(
        "F03",
        "DSI killed between append, decision, answer and outcome",
        "no data without a fence; the audit finds every decision",
        (ONE, "a_server_that_dies_in_a_read_releases_nothing_that_was_revoked"),
        (SURVIVAL, "a_dsi_killed_under_load_leaves_every_decision_to_be_found"),
    ),
    _fault(
        "F07",
        "the only broker killed",
        "what was acknowledged is there",
        (ONE, "a_killed_broker_comes_back_with_all_it_acknowledged"),
        (SURVIVAL, "a_killed_broker_comes_back"),
    ),
    _fault(
        "F08",
        "the leader, one of three, lost",
        "the whole job goes on",
        (THREE, "a_broker_that_is_lost_for_good_is_not_missed"),
    ),
    _fault(
        "F09",
        "leader frozen, deposed, thawed",
        "no read begun after an acknowledged revocation returns data",
        (THREE, "two_thousand_rounds_against_a_frozen_leader_a_killed_server_and_a_killed_broker"),
        (THREE, "the_same_race_with_end_offsets_for_a_fence_is_lost_behind_a_frozen_leader"),
    ),
    _fault(
        "F10",
        "two of three brokers lost",
        "nothing acknowledged, nothing released; heals",
        (THREE, "with_two_of_three_lost_nothing_is_acknowledged_and_nothing_is_released"),
    ),
    _fault(
        "F11",
        "active controller lost",
        "the whole job goes on",
        (THREE, "a_controller_that_is_lost_is_not_missed"),
    ),
    _fault(
        "F12",
        "DSI cut off from its broker, or met with silence; others are not",
        "it answers nobody",
        (ONE, "a_server_that_cannot_reach_its_broker_answers_nobody"),
    ),
    _fault(
        "F17",
        "store without `CURRENT`, manifest cut, table bytes flipped",
        "rebuilt from the log, same digest",
        (STORE, "a_damaged_store_says_so_and_never_answers_less"),
        (STORE, "a_damaged_store_comes_back_by_itself"),
    ),
    _fault(
        "F18",
        "bytes of the store's write-ahead log flipped",
        "what follows is folded again, same digest",
        (STORE, "a_flipped_byte_of_the_write_ahead_log_costs_records_and_no_truth"),
    ),
    _fault(
        "F19",
        "log truncated, replaced or without its beginning (there is no changelog)",
        "store discarded and folded anew, or start refused",
        (STORE, "a_log_that_is_not_the_one_it_stands_on_is_folded_anew"),
        (STORE, "a_log_that_lost_its_beginning_is_refused"),
    ),
    _fault(
        "F21",
        "every record twice",
        "applied once, duplicates counted",
        (PARTITION, "every_record_sent_twice_applies_once"),
    ),
    _fault(
        "F22",
        "records in any order",
        "no fold stops, balance even",
        (PARTITION, "no_order_of_records_stops_a_fold_or_unbalances_it"),
    ),
    _fault(
        "F24",
        "poison: any byte of a record changed, garbage, trailing bytes",
        "quarantined; neighbours untouched",
        (ROGUES, "what_no_coordinator_wrote_is_counted_out_and_stops_nobody"),
        (PARTITION, "a_record_with_any_byte_changed_changes_nothing"),
        ("tests/core/test_codec.py", "no_bytes_end_in_anything_but_a_value_or_a_refusal"),
    ),
    _fault(
        "F25",
        "poison first, last and within a transaction",
        "no stall",
        (ROGUES, "what_no_coordinator_wrote_is_counted_out_and_stops_nobody"),
        (PARTITION, "what_comes_before_the_opening_is_in_the_balance_and_is_no_hole"),
    ),
    _fault(
        "F26",
        "null value, null key, empty value",
        "quarantined",
        (ROGUES, "what_no_coordinator_wrote_is_counted_out_and_stops_nobody"),
        (PARTITION, "a_record_without_value_or_type_is_quarantined"),
    ),
    _fault(
        "F27",
        "transactions aborted or left open; markers at the end",
        "folds and fences reach the end",
        (ROGUES, "what_no_coordinator_wrote_is_counted_out_and_stops_nobody"),
        (LOG, "a_hole_is_passed_over_wherever_it_is"),
        (LOG, "a_log_that_ends_in_a_hole_is_no_fold_that_stands_still"),
    ),
    _fault(
        "F32",
        "processes killed and started one after the other",
        "the job is done; store equals replay",
        (ONE, "processes_that_come_and_go_all_the_time_still_get_the_job_done"),
    ),
    _fault(
        "F33",
        "a process stopped for longer than its session, then continued",
        "fenced all the same, no second effect",
        (ONE, "a_process_that_was_stopped_for_longer_than_its_session_does_no_harm"),
    ),
    _fault(
        "F36",
        "64 readers against revocations",
        "no read begun after an acknowledged revocation returns data",
        (RACE, "no_read_begun_after_an_acknowledged_revocation_returns_data"),
        (RACE, "the_same_race_without_the_fence_is_lost"),
        (THREE, "two_thousand_rounds_against_a_frozen_leader_a_killed_server_and_a_killed_broker"),
        (THREE, "the_same_race_without_the_fence_is_lost"),
    ),
    _fault(
        "F37",
        "revoked during an open stream",
        "cut without a request",
        (FENCE, "an_open_stream_gets_new_versions_and_is_cut_without_a_request"),
    ),
    _fault(
        "F38",
        "revocation whose answer is lost, sent again",
        "one event, same place",
        (ONE, "a_revocation_whose_answer_was_lost_is_sent_again_and_happens_once"),
    ),
    _fault(
        "F39",
        "accreditation suspended with an open connection",
        "next read refused, streams cut",
        (FENCE, "a_suspension_cuts_streams_and_refuses_reads"),
    ),
    _fault(
        "F40",
        "bad certificates; one that runs out while connected",
        "nobody gets in or stays in",
        (IDENTITY, "a_bad_certificate_does_not"),
        (IDENTITY, "a_certificate_that_runs_out_on_an_open_connection_is_refused"),
    ),
    _fault(
        "F41",
        "oversize message or metadata, too many calls, no deadline",
        "refused",
        (SERVER, "an_oversize_message_is_refused"),
        (SERVER, "oversize_metadata_is_refused"),
        (SERVER, "more_calls_at_once_than_allowed_are_refused"),
        (SERVER, "a_call_without_a_deadline_or_with_one_far_off_is_refused"),
    ),
    _fault(
        "F42",
        "connections that never shake hands, or too many",
        "cut",
        (SERVER, "a_connection_that_does_not_shake_hands_is_cut"),
        (SERVER, "more_connections_than_allowed_are_cut"),
    ),
    _fault(
        "F43",
        "rapid reset; floods of pings, settings and header blocks; a stream that nobody reads",
        "hung up on or borne; little memory, neighbours served",
        (FLOODS, "a_flood_costs_little_room_and_no_neighbour"),
        (FLOODS, "who_only_pings_is_hung_up_on"),
        (FLOODS, "a_stream_that_nobody_reads_fills_no_memory"),
    ),
    _fault(
        "F46",
        "everything stopped, every store lost",
        "the log brings all back, same digests",
        (ONE, "all_is_stopped_all_stores_are_lost_and_the_log_brings_everything_back"),
    ),
    _fault(
        "F49",
        "two coordinators in two groups on one meter, commands of one and two facts",
        "each command whole or void, the chain unbroken",
        (ROGUES, "coordinators_of_two_groups_race_and_each_command_has_one_fate"),
        (PARTITION, "racing_coordinators_never_half_apply_and_one_wins_each_race"),
    ),
    _fault(
        "F50",
        "governance killed between two copies, raced by the opposite command",
        "all partitions end alike",
        (POINTS, "a_suspension_half_spread_and_its_opposite_end_alike_everywhere"),
    ),
    _fault(
        "F51",
        "older Kafka folder, or a new one, under kept stores",
        "folded anew; refused",
        (ONE, "an_older_kafka_folder_under_newer_stores_is_folded_anew"),
        (ONE, "a_new_kafka_folder_under_kept_stores_is_refused"),
    ),
    _fault(
        "F52",
        "a build that does not know a signed record's schema",
        "its meter or partition is closed, and no other",
        (PARTITION, "an_unknown_fact_closes_its_meter_and_no_other"),
        (PARTITION, "an_unknown_governance_fact_closes_the_partition"),
        (STORE, "another_build_folds_anew_only_if_something_is_held"),
    ),
    _fault(
        "F53",
        "a writer with the wrong partitioner",
        "void",
        (ROGUES, "a_writer_with_another_partitioner_changes_nothing"),
        (PARTITION, "a_record_keyed_to_another_partition_is_void"),
    ),
    _fault(
        "F54",
        "append times 30 minutes ahead and behind (given by the producer; no JVM's clock is moved)",
        "reads refused meanwhile; nothing ends early or opens",
        (ROGUES, "a_step_of_the_brokers_clock_opens_nothing_and_ends_nothing_early"),
    ),
    _fault(
        "F55",
        "an append doubled after a lost acknowledgement",
        "one effect, one answer",
        (ROGUES, "an_append_that_was_doubled_has_one_effect"),
    ),
    _fault(
        "F56",
        "a request appended, its acknowledgement lost",
        "no data; its outcome is recorded",
        (ROGUES, "a_request_whose_append_nobody_acknowledged_gets_its_outcome_all_the_same"),
    ),
    _fault(
        "F57",
        "a static member killed and started with 64 requests in flight",
        "as F36",
        (RACE, "no_read_begun_after_an_acknowledged_revocation_returns_data"),
    ),
    _fault(
        "F58",
        "one of two servers killed, twenty times",
        "the other answers for its partitions within 5 s",
        (TWO, "a_killed_server_is_answered_for_within_seconds"),
        (
            SERVERS,
            "a_killed_or_frozen_servers_partitions_are_answered_soon_and_it_takes_them_back",
        ),
    ),
    _fault(
        "F59",
        "a leader that was followed by another and answers on; one broker of three silent",
        "who reads the log asks another, within its time",
        (THREE, "a_reader_finds_a_leader_that_took_over"),
        (THREE, "a_reader_waits_for_no_silent_broker"),
    ),
)


def to_run() -> list[list[str]]:
    """What `make fault` runs, one list for each pytest process: without broker, with one, with
    two servers, with three.

    What stands in tests/broker, tests/coordinators and tests/e2e is run by `make test` alone.
    """
    tests = list(dict.fromkeys(test for fault in FAULTS for test in fault.tests))
    plain = [t for t in tests if t.startswith(("tests/core", "tests/server"))]
    short = sorted({t.partition("::")[0] for t in tests if t.startswith("tests/fault/test_")})
    return [plain, [*short, ONE], [TWO], [THREE]]


@dataclass(frozen=True, slots=True)
class Result:
    """What the last run of a test came to, under which seed and on which day."""

    outcome: str
    seed: int
    date: str

    def __str__(self) -> str:
        return f"{self.outcome} {self.date}, seed {self.seed}"


def last_results() -> dict[str, Result]:
    """By test, without parameters; those that `make fault` does not run have none."""
    kept = json.loads(LAST.read_text()) if LAST.exists() else {}
    return {test: Result(**result) for test, result in kept.items()}


def keep(results: Mapping[str, Result]) -> None:
    """Keep these beside those of other tests, and write the table anew."""
    merged = dict(sorted((last_results() | dict(results)).items()))
    text = json.dumps({test: asdict(result) for test, result in merged.items()}, indent=1)
    LAST.write_text(text + "\n")
    rewrite()


def render() -> str:
    """The table as Markdown."""
    last = last_results()
    lines = ["| | fault | must hold | tests, last result |", "|---|---|---|---|"]
    for fault in FAULTS:
        tests = "<br>".join(f"`{test}`: {last.get(test, _elsewhere(test))}" for test in fault.tests)
        lines.append(f"| {fault.number} | {fault.what} | {fault.holds} | {tests} |")
    return "\n".join(lines) + "\n"


def _elsewhere(test: str) -> str:
    return "no result yet" if test.startswith((ONE, TWO, THREE)) else "in every `make test`"


def rewrite() -> None:
    """Put the table in its place."""
    text = DESIGN.read_text()
    before, rest = text.split(BEGIN)
    DESIGN.write_text(before + BEGIN + render() + END + rest.split(END)[1])
