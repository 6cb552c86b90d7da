"""What governance says of a party, for a process that keeps no fold of it: read when asked."""

from __future__ import annotations

from spine import trust
from spine.log import LogReader
from spine.log_thread import ReaderThread
from spine.partition import PartitionFold
from spine.policy import Role


class Standings:
    """The home of governance, folded on to its end before each answer.

    `fold` is a fresh fold of it; it is touched on the reader's thread alone.
    """

    def __init__(self, fold: PartitionFold, log: ReaderThread) -> None:
        self._fold, self._log, self._next = fold, log, 0

    async def identifiers_of(self, role: Role, party: str) -> trust.Identifiers:
        """What the party is given as identifiers in that role."""

        def asked(log: LogReader) -> trust.Identifiers:
            end = log.bounds(trust.GOVERNANCE_TOPIC, 0)[1]
            for record in log.read(trust.GOVERNANCE_TOPIC, 0, self._next, end):
                self._fold.apply(record)
                self._next = record.offset + 1
            return self._fold.identifiers(role, party)

        return await self._log.run(asked)
