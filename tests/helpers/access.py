"""A request for data as a fold meets it, with everything a test does not care about filled in."""

from __future__ import annotations

from datetime import datetime

from spine.event import AccessRequest
from spine.gb import Interval

METER = "1200012345678"
QUANTITIES = {"HH_CONSUMPTION": "AI", "EXPORT": "AE"}


def access_request(
    interval: Interval | tuple[datetime, datetime],
    *,
    role: str = "data_user",
    party: str = "adviser",
    basis: str = "CONSENT",
    purpose: str = "ENERGY_ADVICE",
    category: str = "HH_CONSUMPTION",
    measurement_quantity: str | None = None,
    consent_id: str = "",
) -> AccessRequest:
    """One request for one meter over the interval."""
    start, end = (interval.start, interval.end) if isinstance(interval, Interval) else interval
    return AccessRequest(
        request_id=bytes(16),
        party=party,
        role=role,
        certificate_fingerprint=bytes(32),
        forwarded_by="",
        method="GetReadings",
        purpose=purpose,
        basis=basis,
        category=category,
        measurement_quantity=QUANTITIES.get(category, "")
        if measurement_quantity is None
        else measurement_quantity,
        consent_id=consent_id,
        meters=(METER,),
        interval_from=start,
        interval_to=end,
        as_of_valid=None,
        as_of_known=None,
        vector=0,
    )
