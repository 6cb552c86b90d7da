"""Objecting at the command line: asked first, said, listed, heeded by the DSI, taken back."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import grpc
import pytest
from typer.testing import CliRunner

from spine.cli import command_line
from spine.console.client import interval
from spine.policy import Basis
from spine.server import error_from
from tests.e2e.conftest import Installation

MPAN = "1900012346124"
USE = ("--basis", "LEGAL_OBLIGATION", "--purpose", "SETTLEMENT", "--as", "dunnock")


def said(*words: str) -> Any:
    ran = CliRunner().invoke(command_line(words[0]), [*words, "--json"])
    assert ran.exit_code == 0, (ran.output, ran.exception)
    return json.loads(ran.output)


@pytest.fixture(scope="module", autouse=True)
def occupied(spine: Installation) -> None:
    """A meter at which dunnock lives."""
    spine.meter(MPAN, "north-supply")
    spine.occupier(MPAN, "dunnock")


def settle(spine: Installation, **more: Any) -> Any:
    """A day of half hours, read by the supplier for settlement."""
    duty = {"purpose": "SETTLEMENT", "basis": Basis.LEGAL_OBLIGATION}
    day = interval(datetime(2024, 7, 1, tzinfo=UTC), datetime(2024, 7, 2, tzinfo=UTC))
    return spine.as_("north-supply").dsi("GetReadings", mpxn=MPAN, interval=day, **duty, **more)


def test_an_occupier_objects_and_takes_it_back(spine: Installation) -> None:
    assert settle(spine).decision.policy_version == 2
    (first, *_) = said("consent", "object", MPAN, *USE, "--dry-run")
    assert (first["reader"], first["category"]) == ("north-supply", "HH_CONSUMPTION")
    settle(spine)  # nothing was written
    assert not said("consent", "object", MPAN, *USE)["replayed"]
    with pytest.raises(grpc.RpcError) as refused:
        settle(spine)
    told = error_from(refused.value)
    assert (told.reason, told.facts) == ("OPTED_OUT", {}), "it is the last page"
    with pytest.raises(grpc.RpcError) as refused:
        settle(spine, page_size=24)
    (cursor,) = error_from(refused.value).facts.values()
    (listed,) = said("my", "objections", "--as", "dunnock")
    assert (listed["meter"], listed["purpose"]) == (MPAN, "SETTLEMENT")
    taken_back = listed["take it back with"].split()
    assert taken_back[0] == "spine"
    said(*taken_back[1:])
    assert said("my", "objections", "--as", "dunnock") == []
    settle(spine)
    second = settle(spine, page_size=24, cursor=cursor)
    assert (second.rows[0].start.ToDatetime(UTC).hour, second.next_cursor) == (12, "")


def test_the_policy_in_force_is_listed_and_stays_when_it_is_adopted_again(
    spine: Installation,
) -> None:
    listed = {row["basis"]: row for row in said("policy", "list", "2")}
    assert set(listed) == set(Basis)
    assert listed["OPT_OUT"]["finest"] == "DAY" and listed["OPT_OUT"]["source"]
    assert "partitions hold it" in said("policy", "adopt", "2")["done"]
    ran = CliRunner().invoke(command_line("policy"), ["policy", "adopt", "1"])
    assert isinstance(ran.exception, grpc.RpcError)
    assert error_from(ran.exception).reason == "POLICY_VERSION_STATE"
