"""How much one party may ask of one server: a token bucket, a ceiling of meters, and thresholds.

Pure: whoever asks says what time it is, in seconds on a clock that never goes back. Three measures,
each against another harm. The bucket keeps one party from taking everybody's share of a server; the
ceiling bounds how many different meters one party can go through in an hour; and an anomaly
threshold (after those of section G6 of the Smart Energy Code) notices that a party
does far more than it ever should, and has it held until two people let it go on (`holds` in the
governance domain).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from spine.errors import NotPermitted, Reason, Throttled

WINDOW_S: Final = 3_600.0
SLOTS: Final = 60
PARTIES_MAX: Final = 10_000


class Kind(StrEnum):
    """What is counted against a threshold of its own."""

    READS = "READS"
    COMMANDS = "COMMANDS"
    REFUSALS = "REFUSALS"


@dataclass(frozen=True, slots=True)
class PartyLimits:
    """What each party may ask of one server. A call costs one for each meter it names, at least 1.

    `reads`, `commands` and `refusals` are the anomaly thresholds: costs of calls, and refusals that
    told the caller nothing, within an hour.
    """

    cost_per_s: float = 2_000
    burst: float = 10_000
    meters_per_hour: int = 200_000
    reads_per_hour: int = 1_000_000
    commands_per_hour: int = 200_000
    refusals_per_hour: int = 10_000

    def threshold(self, kind: Kind) -> int:
        """The anomaly threshold of one kind."""
        match kind:
            case Kind.READS:
                return self.reads_per_hour
            case Kind.COMMANDS:
                return self.commands_per_hour
            case Kind.REFUSALS:
                return self.refusals_per_hour


@dataclass(slots=True)
class Bucket:
    """Fills by `per_s` up to `burst`; whoever takes out what is not there has to wait."""

    per_s: float
    burst: float
    level: float
    filled_at: float

    def wait_s(self, now: float, cost: float) -> float:
        """Take the cost and return 0, or take nothing and return how long it has to fill."""
        self.level = min(self.burst, self.level + (now - self.filled_at) * self.per_s)
        self.filled_at = now
        wanted = min(cost, self.burst)  # the dearest call there is passes when the bucket is full
        if self.level >= wanted:
            self.level -= wanted
            return 0.0
        return (wanted - self.level) / self.per_s


@dataclass(slots=True)
class DistinctMeters:
    """The different meters of the last hour, at most `limit`: last seen first out."""

    limit: int
    seen: dict[str, float] = field(default_factory=dict)

    def wait_s(self, now: float, meters: Collection[str]) -> float:
        """Note the meters and return 0, or note none and return how long until there is room."""
        while self.seen and (oldest := next(iter(self.seen.values()))) <= now - WINDOW_S:
            del self.seen[next(iter(self.seen))]
        new = sum(meter not in self.seen for meter in meters)
        if new and len(self.seen) + new > self.limit:
            oldest = next(iter(self.seen.values()), now)
            return max(1.0, oldest + WINDOW_S - now)
        for meter in meters:
            self.seen.pop(meter, None)
            self.seen[meter] = now
        return 0.0


@dataclass(slots=True)
class Tally:
    """A count over the last hour, a minute at a time."""

    slots: dict[int, int] = field(default_factory=dict)

    def add(self, now: float, count: int) -> int:
        """Count; the sum over the hour."""
        slot = int(now // (WINDOW_S / SLOTS))
        self.slots = {at: n for at, n in self.slots.items() if at > slot - SLOTS}
        self.slots[slot] = self.slots.get(slot, 0) + count
        return sum(self.slots.values())


@dataclass(slots=True)
class Usage:
    """What one party has asked of this server of late."""

    bucket: Bucket
    meters: DistinctMeters
    tallies: dict[Kind, Tally] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Excess:
    """A party went past a threshold: what, how much within the hour, and what it may."""

    party: str
    kind: Kind
    counted: int
    threshold: int


class PartyUsage:
    """The usage of every party at one server; the one not seen for longest goes when too many.

    A party is its id, whatever the role or certificate it comes with.
    """

    def __init__(self, limits: PartyLimits) -> None:
        self.limits = limits
        self._parties: dict[str, Usage] = {}

    def take(self, party: str, now: float, meters: Collection[str]) -> None:
        """Throttled(RATE_LIMITED or METERS_LIMITED) unless the party may make this call now."""
        usage = self._usage(party, now)
        wait_s = usage.bucket.wait_s(now, max(1, len(meters)))
        if wait_s:
            message = "this party calls faster than it may; slow down"
            raise Throttled(Reason.RATE_LIMITED, message, retry_after_s=wait_s)
        wait_s = usage.meters.wait_s(now, meters)
        if wait_s:
            message = "this party names more meters within the hour than it may"
            raise Throttled(Reason.METERS_LIMITED, message, retry_after_s=wait_s)

    def count(self, party: str, kind: Kind, now: float, count: int) -> Excess | None:
        """Count towards a threshold; what was exceeded, if it was."""
        threshold = self.limits.threshold(kind)
        total = self._usage(party, now).tallies.setdefault(kind, Tally()).add(now, count)
        return Excess(party, kind, total, threshold) if total > threshold else None

    def forgive(self, party: str) -> None:
        """Count afresh: whoever released the party has looked at what it did."""
        self._parties.pop(party, None)

    def _usage(self, party: str, now: float) -> Usage:
        usage = self._parties.pop(party, None)
        if usage is None:
            limits = self.limits
            usage = Usage(
                Bucket(limits.cost_per_s, limits.burst, limits.burst, now),
                DistinctMeters(limits.meters_per_hour),
            )
            if len(self._parties) >= PARTIES_MAX:
                del self._parties[next(iter(self._parties))]
        self._parties[party] = usage
        return usage


def refuse_held() -> NotPermitted:
    """What a party is told while it is held: nothing about why, which is for those who look."""
    message = "this party is held for what it asked; two people have to release it"
    return NotPermitted(Reason.PARTY_HELD, message)
