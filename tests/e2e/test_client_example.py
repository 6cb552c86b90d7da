"""What docs/clients.md says of history, and hands to developers, against a whole installation."""

from __future__ import annotations

import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from typer.testing import CliRunner

from spine.cli import command_line
from spine.console import ingesting
from spine.console.client import Client, interval, stamp
from spine.console.context import CONSENT_SERVICE
from spine.console.parties import issue
from spine.console.reading import absent
from spine.dsi.reads import TOPICS_OF_READINGS
from spine.dsi.v1 import dsi_pb2_grpc
from spine.errors import NEXT_CURSOR
from spine.gb import HALF_HOUR
from spine.policy import Basis, Role
from spine.server import error_from
from spine.whereabouts import reachable_target
from tests.e2e.conftest import Installation, advice_terms, as_of, grant
from tests.helpers.documented import documented
from tests.helpers.perse import perse

MPAN, LATER, GAP = "1900012346007", "1900012346016", "1900012346025"
DAY = (datetime(2024, 7, 1, tzinfo=UTC), datetime(2024, 7, 3, tzinfo=UTC))
ASKED = (datetime(2023, 1, 1, tzinfo=UTC), datetime(2023, 8, 1, tzinfo=UTC))
MOVED_IN = datetime(2023, 6, 15, tzinfo=UTC)
ADVICE: dict[str, Any] = {"purpose": "ENERGY_ADVICE", "basis": Basis.CONSENT}
WAIT_S = 60.0


def test_an_answer_of_ones_own_client_can_be_checked_by_whoever_is_handed_it(
    spine: Installation, tmp_path: Path
) -> None:
    names = documented("An answer as a file, and its digest")
    spine.meter(MPAN, "north-supply")
    file, answer, record = (tmp_path / name for name in ("day.json", "answer.json", "record.json"))
    file.write_bytes(perse(MPAN, [DAY[0].date()]))
    sent = ingesting.send(file, "north-supply")
    grant(spine.occupier(MPAN, "example-reader"), MPAN, "bright-advice")
    (page,) = spine.as_("bright-advice").readings(
        MPAN, **ADVICE, interval=interval(*DAY), at_least=as_of(sent)
    )
    assert Counter(row.WhichOneof("reading") for row in page.rows) == {"value_wh": 46, "absent": 50}
    assert names["digest_of"](MPAN, page.rows) == page.digest
    answer.write_text(names["answer_file"](page))
    got = ["provenance", "get", MPAN, str(answer), "--as", "bright-advice", "--out", str(record)]
    until = time.monotonic() + WAIT_S
    while (code := said(*got)) and time.monotonic() < until:  # no head covers it yet
        time.sleep(0.2)
    assert code == said("provenance", "verify", str(record), "--answer", str(answer)) == 0
    page.rows[0].value_wh += 1
    answer.write_text(names["answer_file"](page))
    assert said("provenance", "verify", str(record), "--answer", str(answer)) != 0


def said(*words: str) -> int:
    """The exit code of a command."""
    return CliRunner().invoke(command_line(words[0]), list(words)).exit_code


@pytest.fixture(scope="module")
def moved_in_later(spine: Installation) -> None:
    """A consent whose history begins before the tenancy in which it was given."""
    spine.meter(LATER, "north-supply")
    answer = spine.as_(CONSENT_SERVICE).consumers(
        "StartTenancy", mpxn=LATER, effective_from=stamp(MOVED_IN)
    )
    issue(spine.data_dir, Role.CONSUMER, answer.consumer_ref, "example-mover")
    terms = advice_terms() | {"history_from": stamp(ASKED[0])}
    grant(spine.as_("example-mover"), LATER, "bright-advice", terms=terms)


@pytest.mark.usefixtures("moved_in_later")
def test_a_page_or_chunk_of_which_nothing_is_covered_is_refused_and_a_larger_one_is_not(
    spine: Installation,
) -> None:
    adviser = spine.as_("bright-advice")
    asked = ADVICE | {"interval": interval(*ASKED)}
    with pytest.raises(grpc.RpcError) as refused:
        list(adviser.readings(LATER, **asked))
    assert error_from(refused.value)[:2] == ("PERMISSION_DENIED", "INTERVAL_NOT_COVERED")
    (page,) = adviser.readings(LATER, page_size=17_568, **asked)
    assert Counter(map(absent, page.rows)) == {
        "CONSENT_DOES_NOT_COVER": 7_920,
        "NEVER_RECORDED": 2_256,
    }
    chunks: list[tuple[int, str, int]] = []
    with adviser.stream([LATER], **asked) as call, pytest.raises(grpc.RpcError) as ended:
        chunks.extend((chunk.chunk, chunk.refused, len(chunk.rows)) for chunk in call)
    assert chunks == [(0, "INTERVAL_NOT_COVERED", 0)]
    assert error_from(ended.value).reason == "INTERVAL_NOT_COVERED"
    (tenancy,) = adviser.dsi("ListTenancies", mpxn=LATER, **ADVICE).tenancies
    (consent,) = adviser.dsi("ListConsents", mpxn=LATER, **ADVICE).consents
    begin = max(each.ToDatetime(UTC) for each in (tenancy.effective_from, consent.history_from))
    assert begin == MOVED_IN
    with adviser.stream([LATER], **ADVICE, interval=interval(begin, ASKED[1])) as call:
        assert sum(len(chunk.rows) for chunk in call) == 2_256


def page_of(client: Client, mpxn: str, **asked: Any) -> tuple[Any, str, str]:
    """A page of GetReadings if it is permitted, where the next begins, and why not."""
    try:
        page = client.dsi("GetReadings", mpxn=mpxn, **asked)
    except grpc.RpcError as error:
        failure = error_from(error)
        assert failure.facts.keys() <= {NEXT_CURSOR}
        return None, failure.facts.get(NEXT_CURSOR, ""), failure.reason
    return page, page.next_cursor, ""


@pytest.mark.usefixtures("moved_in_later")
def test_a_refused_page_says_where_the_next_begins_and_nothing_of_what_is_stored(
    spine: Installation, tmp_path: Path
) -> None:
    adviser = spine.as_("bright-advice")
    asked = ADVICE | {"interval": interval(*ASKED)}
    page, first, reason = page_of(adviser, LATER, **asked)
    cursor, refused = first, 0
    while page is None:
        assert (reason, bool(cursor)) == ("INTERVAL_NOT_COVERED", True)
        page, cursor, reason = page_of(adviser, LATER, cursor=cursor, **asked)
        refused += 1
    begun = page.rows[0].start.ToDatetime(UTC)
    assert (refused, begun) == (5, ASKED[0] + 5 * 1_488 * HALF_HOUR)
    file = tmp_path / "days.json"
    file.write_bytes(perse(LATER, [MOVED_IN.date()]))
    known = as_of(ingesting.send(file, "north-supply"))
    again = page_of(adviser, LATER, at_least=known, **asked)
    assert again == (None, first, "INTERVAL_NOT_COVERED"), "it is made of the request alone"
    before = ADVICE | {"interval": interval(ASKED[0], MOVED_IN)}
    last = page_of(adviser, LATER, page_size=17_568, **before)
    assert last == (None, "", "INTERVAL_NOT_COVERED"), "there is no next page"
    other = interval(ASKED[0], ASKED[1] - HALF_HOUR)
    bound = page_of(adviser, LATER, cursor=first, **(asked | {"interval": other}))
    assert bound == (None, "", "CURSOR_INVALID")


@pytest.mark.usefixtures("moved_in_later")
def test_whom_a_meter_does_not_concern_is_given_no_cursor(spine: Installation) -> None:
    agent = spine.party("example-agent", Role.DATA_SERVICE)
    asked = {"purpose": "SETTLEMENT", "basis": Basis.LEGAL_OBLIGATION, "interval": interval(*ASKED)}
    stranger = page_of(agent, LATER, **asked)
    terms = {"agent": "example-agent", "agent_role": Role.DATA_SERVICE}
    spine.as_(CONSENT_SERVICE).consumers(
        "AppointAgent", mpxn=LATER, effective_from=stamp(ASKED[1]), **terms
    )
    known = spine.as_(CONSENT_SERVICE).consumers(
        "EndAgentAppointment", mpxn=LATER, effective_to=stamp(ASKED[1] + HALF_HOUR), **terms
    )
    outside = page_of(agent, LATER, at_least=known.positions, **asked)
    assert stranger == outside == (None, "", "NOT_PERMITTED")


def test_pages_behind_a_refused_one_are_of_the_data_of_those_before_it(
    spine: Installation, tmp_path: Path
) -> None:
    spine.meter(GAP, "north-supply")
    supply: dict[str, Any] = {"mpxn": GAP, "supplier": "example-energy"}
    supplier, portal = spine.party("example-energy", Role.SUPPLIER), spine.as_(CONSENT_SERVICE)
    ended = {"mpxn": GAP, "supplier": "north-supply", "effective_to": stamp(ASKED[0])}
    portal.consumers("EndSupply", **ended)
    first_days, later = ASKED[0] + timedelta(days=31), MOVED_IN
    portal.consumers("StartSupply", effective_from=stamp(ASKED[0]), **supply)
    portal.consumers("EndSupply", effective_to=stamp(first_days), **supply)
    known = portal.consumers("StartSupply", effective_from=stamp(later), **supply)
    asked = {"purpose": "SETTLEMENT", "basis": Basis.LEGAL_OBLIGATION, "interval": interval(*ASKED)}
    page, cursor, _ = page_of(supplier, GAP, at_least=known.positions, **asked)
    before = page.positions.positions
    file = tmp_path / "days.json"
    file.write_bytes(perse(GAP, [later.date()]))
    sent = as_of(ingesting.send(file, "example-energy"))
    told = []
    while cursor:
        page, cursor, reason = page_of(supplier, GAP, cursor=cursor, at_least=sent, **asked)
        told.append(reason)
    assert told == [*["INTERVAL_NOT_COVERED"] * 4, "", ""]
    data = [p for p in before if p.topic in TOPICS_OF_READINGS]
    assert [p for p in page.positions.positions if p.topic in TOPICS_OF_READINGS] == data
    fresh = interval(later, ASKED[1])
    page, *_ = page_of(supplier, GAP, at_least=sent, **(asked | {"interval": fresh}))
    assert [p for p in page.positions.positions if p.topic in TOPICS_OF_READINGS] != data


@pytest.mark.usefixtures("moved_in_later")
@pytest.mark.parametrize(("page", "found"), [(17_568, 10_176), (1_488, 2_736), (48, 2_256)])
def test_the_example_goes_on_behind_pages_of_which_nothing_is_covered(
    spine: Installation, page: int, found: int
) -> None:
    names = documented("An example")
    names["PAGE"] = page
    adviser = spine.as_("bright-advice")
    asked = (ASKED[0] if page > 48 else MOVED_IN - timedelta(days=2), ASKED[1])
    target = reachable_target(spine.data_dir, "dsi")
    with names["channel"](target, adviser.identity) as to_dsi:
        dsi = dsi_pb2_grpc.DsiStub(to_dsi)
        assert len(list(names["half_hours"](dsi, LATER, *asked))) == found
        with pytest.raises(grpc.RpcError) as refused:
            list(names["half_hours"](dsi, LATER, ASKED[0], MOVED_IN))
    assert names["told"](refused.value)[0] == "INTERVAL_NOT_COVERED"
