"""What a load test holds right of answers and stores, and what it must not."""

from datetime import date
from itertools import islice
from pathlib import Path
from unittest.mock import Mock

import pytest

from loadtest.auditing import SINGLE_FACTS, further_meters
from loadtest.checking import _furthest
from loadtest.country import Country
from loadtest.gb_day import _deliveries
from loadtest.installation import WrongAnswer
from loadtest.moving import taken_over
from loadtest.serving import Served
from spine import trust
from spine.dsi.v1 import dsi_pb2
from spine.store import Store, StorePosition

DAY = date(2024, 7, 1)
HALF_HOURS = [dsi_pb2.HalfHour(value_wh=wh) for wh in (1, 2)]


def answer(*rows: dsi_pb2.HalfHour) -> bytes:
    return dsi_pb2.GetReadingsResponse(rows=rows, digest=b"digest").SerializeToString()


def test_an_answer_with_a_row_too_many_is_wrong() -> None:
    """Its beginning, which is all that the naive comparison sees, is right."""
    known = dsi_pb2.GetReadingsResponse(rows=HALF_HOURS).SerializeToString()
    served = Served(Mock(), Country(100), [], [], {0: known})
    served.right(0, answer(*HALF_HOURS))
    served.right(0, known)
    more = answer(*HALF_HOURS, HALF_HOURS[0])
    assert more.startswith(known)
    for wrong in (more, answer(HALF_HOURS[0]), answer(*reversed(HALF_HOURS))):
        with pytest.raises(WrongAnswer):
            served.right(0, wrong)


def test_facts_are_registered_singly_of_meters_that_nobody_reads() -> None:
    country = Country(100)
    own = {mpan.decode() for mpan in country.block(0, 100).mpans.tolist()}
    asked = [request.mpxn for request in further_meters(country)]
    assert len(set(asked)) == len(asked) >= SINGLE_FACTS * 0.9
    assert own.isdisjoint(asked)


def test_of_a_store_that_two_members_had_the_one_that_went_on_counts(tmp_path: Path) -> None:
    name = f"{trust.READINGS_TOPIC}-0"
    for member, offset in (("readings", 7), ("readings-2", 9), ("readings-3", 8)):
        store = Store(tmp_path / member / name)
        store.put(b"at", b"%d" % offset)
        store.commit(StorePosition(b"log", trust.READINGS_TOPIC, 0, offset, b"digest"))
        store.close()
    spine = Mock()
    spine.runtime.stores = lambda member: tmp_path / member
    members = ["readings", "readings-2", "readings-3", "readings-4"]
    reader = _furthest(spine, 0, tmp_path / "look", members)
    assert list(reader.scan(b"a", b"b")) == [(b"at", b"9")]
    reader.close()
    with pytest.raises(WrongAnswer):
        _furthest(spine, 1, tmp_path / "look", members)
    assert [taken_over(tmp_path / member) for member in ("readings-2", "readings-4")] == [1, 0]


def test_every_run_repeats_a_delivery_however_small_it_is() -> None:
    country = Country(3_000)
    made = list(islice(_deliveries(country, (DAY,)), 7))
    assert [delivery.repeated for delivery in made] == [True, *[False] * 6]
    assert not any(country.repeated(number, DAY) for number in range(7))
