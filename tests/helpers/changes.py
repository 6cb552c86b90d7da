"""What there is to tell of the consents of a meter, apart from notices."""

from __future__ import annotations

from datetime import datetime

from domains.consumers.changes import TOLD_AS, Change, each_change, in_order
from spine.policy import MeterAccess


def changes(mpxn: str, access: MeterAccess, now: datetime) -> tuple[Change, ...]:
    """Of a meter at `now` to whomever it may concern, to each the oldest first."""
    return in_order(each_change(mpxn, access, now, TOLD_AS))
