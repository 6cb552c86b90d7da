"""Which versions of the reducers the answers in a record rest on, and whose answers this build may
judge. Pure.

An answer is computed from what several folds have made of the log: the consumer log, on which it
was decided, and the data topics whose positions its request names. Each fold has a version of its
domain's reducers and one of governance's, whose keys and roles say which records count in it. Both
stand in the `rv` header of an outcomes record, so that the schema of an outcome stays what it is:
`c1.1,m2.1,r2.1`, sorted by letter. Records from before there was the header say nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Final

from spine import trust
from spine.domain import Domain

REDUCERS_HEADER: Final = "rv"
# One letter each, because it is paid for on every record. For ever.
LETTERS: Final[Mapping[str, str]] = {
    trust.BTM_ASSETS_TOPIC: "a",
    trust.CONSUMER_LOG: "c",
    trust.METERING_TOPIC: "m",
    trust.READINGS_TOPIC: "r",
}
_TOPICS: Final = {letter: topic for topic, letter in LETTERS.items()}
# All records of a build say the same; one that does not is at most as long as a record.
HEADERS_KEPT_MAX: Final = 16
_ONE: Final = re.compile(r"([a-z])([0-9]{1,9})\.([0-9]{1,9})", re.ASCII)

# How every sentence begins that says whose answers this build may not judge.
NOT_AT_HAND: Final = "reducer version"

# Version of the domain's reducers, version of governance's.
Folded = tuple[int, int]
# By topic.
Versions = Mapping[str, Folded]


def folded_by(domain: Domain | None, governance: Domain) -> Folded:
    """The versions of a fold of this build."""
    return domain.version if domain else 0, governance.version


def written(versions: Versions) -> bytes:
    """The header's value."""
    named = sorted((LETTERS[topic], *folded) for topic, folded in versions.items())
    return ",".join(f"{letter}{own}.{governed}" for letter, own, governed in named).encode()


def read(header: bytes | None) -> Versions:
    """What a header says; nothing if there is none, or none that was written here.

    Letters of a later build are passed over: it says the more to who knows them.
    """
    return _read(header or b"")


@lru_cache(HEADERS_KEPT_MAX)
def _read(header: bytes) -> Versions:
    found: dict[str, Folded] = {}
    for each in header.decode("ascii", "replace").split(","):
        said = _ONE.fullmatch(each)
        if said is None:
            return MappingProxyType({})
        if said[1] in _TOPICS:
            found[_TOPICS[said[1]]] = int(said[2]), int(said[3])
    return MappingProxyType(found)


def merged(one: Versions, other: Versions) -> Versions | None:
    """What both say; None if they contradict each other and must stand in records of their own."""
    if any(other.get(topic, folded) != folded for topic, folded in one.items()):
        return None
    return {**one, **other}


def agreed(said: Iterable[Versions], reducer_version: int) -> Versions | None:
    """What the records of one outcome say together; None if they contradict each other, or the
    version that the outcome itself names, of which they are written.
    """
    together: Versions = {}
    for each in said:
        more = merged(together, each) if together else each
        if more is None:
            return None
        together = more
    own, _ = together.get(trust.CONSUMER_LOG, (reducer_version, 0))
    return together if own == reducer_version else None


def never_released(said: Versions, reducer_version: int) -> str:
    """Which version none can be, whatever build this is: they are counted from 1. Empty if all may
    have been one.
    """
    for topic, folded in said.items():
        if min(folded) < 1:
            return f"{NOT_AT_HAND} {min(folded)} of {topic} was never one"
    return f"{NOT_AT_HAND} {reducer_version} was never one" if reducer_version < 1 else ""


class AtHand:
    """The versions whose answers this build may judge: its own, and those of an earlier one whose
    recorded histories it still folds to the same rows (`Domain.judges`).
    """

    def __init__(self, governance: Domain, by_topic: Mapping[str, Domain]) -> None:
        self._governance, self._by_topic = governance, by_topic

    def judges(self, topic: str, version: int) -> bool:
        """Whether an answer from a fold of this topic by that version can be judged."""
        domain = self._by_topic[topic]
        return version == domain.version or version in domain.judges

    def unknown(self, topic: str, version: int) -> str:
        """Why an answer from a fold of this topic by that version is not judged; empty if it is."""
        if self.judges(topic, version):
            return ""
        return _not_at_hand(version, topic, self._by_topic[topic].version)

    def missing(self, said: Versions, topics: Iterable[str]) -> str:
        """Which of the versions that an answer from these topics rests on is not at hand, if any is
        said and is not.
        """
        newest = self._governance.version
        governed = (newest, *self._governance.judges)
        for topic in topics:
            if topic not in said:
                continue
            version, governance = said[topic]
            if unknown := self.unknown(topic, version):
                return unknown
            if governance not in governed:
                return _not_at_hand(governance, self._governance.topic, newest)
        return ""


def _not_at_hand(version: int, topic: str, newest: int) -> str:
    """One that is later than any of this build was written by a later build, or by none."""
    later = f": later than {newest}, the newest of this build" if version > newest else ""
    return f"{NOT_AT_HAND} {version} of {topic} is not at hand{later}"
