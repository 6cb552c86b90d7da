"""A rule of a domain as a sentence: given these events, when this command, then those events.

    given(CONSUMERS, moved_in).at(noon).when(RevokeConsent(...)).refused(Reason.CONSENT_NOT_YOURS)

No doubles and no broker: the domain's own `decide` and `evolve` are all there is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import pytest

from spine.domain import Domain, fold
from spine.errors import Reason, Refused

DEFAULT_NOW = datetime(2025, 6, 1, 12, tzinfo=UTC)


@dataclass(frozen=True)
class Specification:
    """What has happened, what is asked and when."""

    domain: Domain
    events: tuple[object, ...]
    now: datetime = DEFAULT_NOW
    command: object | None = None

    @property
    def state(self) -> Any:
        """What the given events come to."""
        return fold(self.domain, self.events)

    def at(self, now: datetime) -> Specification:
        """Decide at that instant."""
        return replace(self, now=now)

    def when(self, command: object) -> Specification:
        """Ask for this."""
        return replace(self, command=command)

    def then(self, *events: object) -> Specification:
        """Exactly these events follow; returns the specification with them given."""
        decided = self.domain.decide(self.state, self.command, self.now)
        assert decided == events
        after = replace(self, events=self.events + events, command=None)
        assert after.state is not None
        return after

    def nothing(self) -> Specification:
        """It is already so."""
        return self.then()

    def refused(self, reason: Reason) -> None:
        """A rule says no, for this reason."""
        with pytest.raises(Refused) as refusal:
            self.domain.decide(self.state, self.command, self.now)
        assert refusal.value.reason == reason


def given(domain: Domain, *events: object) -> Specification:
    """Start from these events of one subject."""
    return Specification(domain, events)
