"""What a caller reads of a refused read: a sentence for each reason, telling no more than that."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from spine.errors import NotPermitted, Reason

WORDS: Final[Mapping[str, str]] = {
    Reason.CLOCK_UNSURE: "this server's clock was off when it logged the request",
    Reason.ROLE_UNKNOWN: "the policy in force knows no such role",
    Reason.PARTICIPANT_UNKNOWN: "your organisation is not admitted",
    Reason.PARTICIPANT_SUSPENDED: "your organisation is suspended",
    Reason.ACCREDITATION_MISSING: "your organisation does not hold this role for this purpose",
    Reason.ACCREDITATION_NOT_EQUIVALENT: (
        "your accreditation under another scheme does not count here for this purpose"
    ),
    Reason.PURPOSE_UNKNOWN: "this basis carries no such purpose",
    Reason.CATEGORY_UNKNOWN: "this basis carries no such category of data",
    Reason.QUANTITY_NOT_IN_CATEGORY: "the quantity is not one of that category",
    Reason.BASIS_UNKNOWN: "the policy in force knows no such basis",
    Reason.BASIS_NOT_FOR_ROLE: "your role may not claim this basis",
    Reason.METER_UNKNOWN: "nothing is recorded of this meter",
    Reason.METER_CLOSED: "a record of this meter cannot be read before an upgrade",
    Reason.PARTITION_CLOSED: "a record of this partition cannot be read before an upgrade",
    Reason.NOT_THE_OCCUPIER: "you never lived at this meter",
    Reason.NOT_THE_SUPPLIER: "you never supplied this meter",
    Reason.NOT_THE_AGENT: "you were never appointed to this meter in this role",
    Reason.NO_CONSENT: "there is no consent to you here, or none of the consent_id named",
    Reason.CONSENT_NOT_ANSWERED: "the request for consent is not answered",
    Reason.CONSENT_DECLINED: "the consent was declined",
    Reason.CONSENT_LAPSED: "the request for consent was not answered in time",
    Reason.CONSENT_SUSPENDED: "the consent is suspended",
    Reason.CONSENT_REVOKED: "the consent is revoked",
    Reason.CONSENT_WITHDRAWN: "the consent was given up by who held it",
    Reason.CONSENT_EXPIRED: "the consent has expired",
    Reason.CONSENT_NOT_YET_VALID: "the first day of the consent has not come",
    Reason.CONSENT_ENDED_WITH_TENANCY: "the tenancy it was made in has ended, or not begun",
    Reason.CONSENT_SCOPE: "no consent, or not the one named, is for this purpose and category",
    Reason.OPTED_OUT: "the occupier objects to this use",
    Reason.INTERVAL_NOT_COVERED: (
        "what permits the read covers nothing of this interval; each page is judged by itself"
    ),
}
# Each is said of the interval judged: another page of the same request may be permitted.
OF_ONE_PAGE: Final = frozenset({Reason.INTERVAL_NOT_COVERED, Reason.OPTED_OUT})
_OTHERWISE: Final = "the read is not permitted"


def not_permitted(reason: Reason, before: str = "") -> NotPermitted:
    """The refusal with the reason that the caller may know, and its sentence after `before`."""
    return NotPermitted(reason, before + WORDS.get(reason, _OTHERWISE))
