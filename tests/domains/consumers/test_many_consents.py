"""What is asked of all consents of a meter at once looks at each record a few times."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from msgspec.structs import replace

from domains.consumers import chain
from domains.consumers.chain import ConsentRecord, MeterRecord
from domains.consumers.changes import TOLD_AS, each_change
from domains.consumers.decider import CONSUMERS
from domains.consumers.events import ConsentTermsRecorded, ConsumersEvent
from domains.consumers.record import RecordTerms
from domains.consumers.views import as_it_stood, consents_for
from spine.domain import fold
from tests.domains.consumers.home import HOME, MAY, NOW, granted

METER = "1200000000003"
SHARED = RecordTerms(onward_sharing=True, recipients=("insurer", "partner"))


class Counted(tuple[ConsentRecord, ...]):
    """Records, and how often one of them was looked at."""

    looks = 0

    def __iter__(self) -> Iterator[ConsentRecord]:
        for each in super().__iter__():
            Counted.looks += 1
            yield each


def meter(consents: int) -> MeterRecord:
    """A meter of so many consents, each with its record."""
    events: list[ConsumersEvent] = []
    for number in range(consents):
        events.append(replace(granted(), consent_id=f"k-{number}"))
        events.append(ConsentTermsRecorded(f"k-{number}", SHARED, MAY))
    access = fold(CONSUMERS, (*HOME, *events))
    assert isinstance(access, MeterRecord)
    return replace(access, records=Counted(access.records))


def looks(work: Callable[[MeterRecord], Any], consents: int) -> int:
    access = meter(consents)
    Counted.looks = 0
    work(access)
    return Counted.looks


def listed(access: MeterRecord) -> None:
    assert len(consents_for(access, "consumer", "c-anna", NOW)) == len(access.consents)


def at_a_time(access: MeterRecord) -> None:
    assert len(as_it_stood([access], NOW).consents) == len(access.consents)


def told(access: MeterRecord) -> None:
    assert len(list(each_change(METER, access, NOW, TOLD_AS))) >= len(access.consents)


@pytest.mark.parametrize("work", [listed, at_a_time, told])
def test_each_record_is_looked_at_a_few_times(work: Callable[[MeterRecord], Any]) -> None:
    assert looks(work, 100) <= 200
    assert looks(work, 200) == 2 * looks(work, 100)


def test_one_by_one_they_are_looked_at_by_the_square() -> None:
    """As it was: each consent looked its record up among all."""

    def naive(access: MeterRecord) -> None:
        for consent in access.consents:
            assert chain.record_of(access, consent.consent_id) is not None

    assert looks(naive, 200) > 3.9 * looks(naive, 100) > 3.9 * 100 * 50
