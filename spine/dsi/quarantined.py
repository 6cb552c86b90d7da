"""What a readings process tells of the readings that its folds refused: it signs nothing, and so
keeps none of them in the log itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any, Final

from spine import trust
from spine.dsi.v1 import quarantined_pb2, quarantined_pb2_grpc
from spine.errors import Invalid, NotPermitted, Reason
from spine.fold import FaustFolds
from spine.policy import Role
from spine.quarantine import listed
from spine.server import Service, current_caller

ENTRIES_MAX: Final = 1_000


class QuarantinedService(quarantined_pb2_grpc.QuarantinedServicer):
    """Lists what the folds of this process have quarantined."""

    def __init__(self, log_id: bytes, folds: FaustFolds) -> None:
        self._log_id, self._folds = log_id, folds

    async def ListQuarantined(self, request: Any, context: Any) -> Any:
        """The entries after those that the caller has; for coordinators.

        Invalid(FIELD_INVALID)  an entry that can be none; NotPermitted(ROLE_NOT_ALLOWED)
        """
        if current_caller().role is not Role.COORDINATOR:
            raise NotPermitted(Reason.ROLE_NOT_ALLOWED, "only coordinators call here")
        if any(last.offset < 0 or last.entry < 0 for last in request.last):
            raise Invalid(Reason.FIELD_INVALID, "no entry stands below 0", field="last")
        last = {told.partition: told for told in request.last}
        return quarantined_pb2.ListQuarantinedResponse(
            log_id=self._log_id, entries=islice(self._entries(last), ENTRIES_MAX)
        )

    def _entries(self, last: dict[int, Any]) -> Iterator[Any]:
        """Of each partition that this process says it folds, what comes after the last entry."""
        for (topic, partition), since_ms in sorted(self._folds.claims.items()):
            live = self._folds.folds.get((topic, partition))
            if topic != trust.READINGS_TOPIC or live is None:
                continue
            told = last.get(partition)
            # What was told of an earlier fold of the partition says nothing of this one.
            after = None
            if told is not None and told.since_ms == since_ms:
                after = told.offset, told.entry
            for found in listed(live.stored.store, topic, partition, after):
                yield quarantined_pb2.QuarantinedEntry(
                    partition=partition,
                    since_ms=since_ms,
                    offset=found.offset,
                    entry=found.entry,
                    rule=found.rule,
                )


def quarantined(log_id: bytes, folds: FaustFolds) -> Service:
    """The service of a readings process."""
    return Service(
        quarantined_pb2.DESCRIPTOR.services_by_name["Quarantined"].full_name,
        quarantined_pb2_grpc.add_QuarantinedServicer_to_server,
        QuarantinedService(log_id, folds),
    )
