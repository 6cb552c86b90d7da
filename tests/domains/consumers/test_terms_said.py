"""The terms of a consent are what its message says, whatever others said before."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domains.consumers.commands import ConsentTerms
from spine.consumers.v1 import consumers_pb2
from spine.errors import Invalid
from spine.services import terms

Terms = consumers_pb2.Terms
READ = terms._said.__wrapped__


def sent(purpose: str, categories: list[str], seconds: list[int]) -> Terms:
    """A message of terms; an instant of nought is left out."""
    made = Terms(purpose=purpose, categories=categories)
    for name, second in zip(("history_from", "valid_from", "expires"), seconds, strict=True):
        if second:
            getattr(made, name).seconds = second
    return made


SENT = st.builds(
    sent,
    st.sampled_from(["ENERGY_ADVICE", "FLEXIBILITY", "", "no code"]),
    st.lists(st.sampled_from(["HH_CONSUMPTION", "DAILY", "no code"]), max_size=3),
    st.lists(st.sampled_from([0, 1_700_000_000, 1_800_000_000, 2**60]), min_size=3, max_size=3),
)


def told(read: Callable[[Terms], object], message: Terms) -> object:
    """What is made of it, or why nothing is."""
    try:
        return read(message)
    except Invalid as refused:
        return refused.reason, refused.told


def agreed(message: Terms) -> ConsentTerms:
    return terms.agreed(consumers_pb2.GrantConsentRequest(terms=message), "adviser", "c-1")


def alone(message: Terms) -> ConsentTerms:
    """The oracle: read it each time."""
    return ConsentTerms("adviser", "c-1", *READ(message.SerializeToString()))


@settings(max_examples=200, deadline=None)
@given(st.lists(SENT, max_size=5))
def test_terms_are_read_as_if_nobody_had_said_any_before(messages: list[Terms]) -> None:
    for message in messages * 2:
        assert told(agreed, message) == told(alone, message)


def test_a_memory_of_their_purpose_alone_would_mix_them_up(monkeypatch: pytest.MonkeyPatch) -> None:
    first = sent("ENERGY_ADVICE", ["DAILY"], [1, 2, 3])
    second = sent("ENERGY_ADVICE", ["HH_CONSUMPTION"], [1, 2, 3])
    by_purpose = cache(lambda purpose: READ(first.SerializeToString()))
    monkeypatch.setattr(terms, "_said", lambda raw: by_purpose(Terms.FromString(raw).purpose))
    assert told(agreed, first) == told(alone, first)
    assert told(agreed, second) != told(alone, second)
