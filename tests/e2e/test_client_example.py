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
from spine.console.client import interval, stamp
from spine.console.context import CONSENT_SERVICE
from spine.console.parties import issue
from spine.console.reading import absent
from spine.dsi.v1 import dsi_pb2_grpc
from spine.policy import Basis, Role
from spine.server import error_from
from spine.whereabouts import reachable_target
from tests.e2e.conftest import Installation, advice_terms, as_of, grant
from tests.helpers.documented import documented
from tests.helpers.perse import perse

MPAN, LATER = "1900012346007", "1900012346016"
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
