"""What a caller reads of a refused read."""

from __future__ import annotations

import pytest

from spine.dsi.refusing import WORDS, not_permitted
from spine.errors import Reason

_ALL = list(Reason)
# As they stand in `Reason`, all that the fold may say of a read.
OF_READS = _ALL[_ALL.index(Reason.CLOCK_UNSURE) : _ALL.index(Reason.INTERVAL_NOT_COVERED) + 1]


def test_each_reason_has_a_sentence_of_its_own() -> None:
    assert set(WORDS) == set(OF_READS)
    assert len(set(WORDS.values())) == len(WORDS)


@pytest.mark.parametrize("reason", OF_READS)
def test_a_refusal_says_why(reason: Reason) -> None:
    refused = not_permitted(reason)
    assert (refused.reason, refused.message) == (reason, WORDS[reason])


def test_who_may_not_know_why_is_told_nothing_else() -> None:
    assert not_permitted(Reason.NOT_PERMITTED).message == "the read is not permitted"


def test_of_a_page_that_is_not_covered_it_is_said_that_pages_are_judged_one_by_one() -> None:
    assert "each page is judged by itself" in not_permitted(Reason.INTERVAL_NOT_COVERED).message
