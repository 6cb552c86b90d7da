"""One ordinary home in events, and the commands about it, for the tests of this folder."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from domains.consumers.commands import ConsentTerms, GrantConsent, RequestConsent
from domains.consumers.events import (
    ConsentGranted,
    ConsentRequested,
    SupplyStarted,
    TenancyStarted,
)
from spine.domain import Actor


def day(month: int, number: int = 1, year: int = 2025) -> datetime:
    """Midnight UTC of a day."""
    return datetime(year, month, number, tzinfo=UTC)


NOW = datetime(2025, 6, 1, 12, tzinfo=UTC)
MAY = day(5)
ANSWER_BY = day(7)
ANNA = Actor("consumer", "c-anna")
BEN = Actor("consumer", "c-ben")
SERVICE = Actor("consent_service", "ccs")
ADVISER = Actor("data_user", "adviser")
RIVAL = Actor("data_user", "rival")
SUPPLIER = Actor("supplier", "BRIT")
OTHER_SUPPLIER = Actor("supplier", "OCTO")
REGULATOR = Actor("governance", "recco")
COORDINATOR = Actor("coordinator", "consumers")

MOVED_IN = TenancyStarted("t-anna", "c-anna", day(1))
SUPPLIED = SupplyStarted("BRIT", day(1))
HOME = (MOVED_IN, SUPPLIED)

_TERMS: dict[str, Any] = {
    "data_user": "adviser",
    "consumer_ref": "c-anna",
    "purpose": "ENERGY_ADVICE",
    "categories": ("HH_CONSUMPTION", "TARIFF"),
    "history_from": day(3),
    "valid_from": day(5),
    "expires": day(12),
}


def terms(**changes: Any) -> ConsentTerms:
    """Anna's usual terms for the adviser."""
    return ConsentTerms(**(_TERMS | changes))


def request(by: Actor = ADVISER, answer_by: datetime = ANSWER_BY, **changes: Any) -> RequestConsent:
    """The adviser's usual request."""
    return RequestConsent(by, "k-1", terms(**changes), answer_by)


def grant(by: Actor = ANNA, **changes: Any) -> GrantConsent:
    """Anna's usual grant."""
    return GrantConsent(by, "k-1", terms(**changes))


def requested(
    at: datetime = MAY, answer_by: datetime = ANSWER_BY, **changes: Any
) -> ConsentRequested:
    """The adviser asked Anna."""
    return ConsentRequested(
        consent_id="k-1",
        tenancy_id="t-anna",
        answer_by=answer_by,
        decided_at=at,
        **(_TERMS | changes),
    )


def granted(at: datetime = MAY, **changes: Any) -> ConsentGranted:
    """Anna granted the adviser consent."""
    return ConsentGranted(
        consent_id="k-1", tenancy_id="t-anna", decided_at=at, **(_TERMS | changes)
    )
