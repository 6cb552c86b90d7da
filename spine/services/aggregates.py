"""The Aggregates service of `proto/spine/metering/v1/aggregates.proto`.

Whoever publishes names a day and no figure. The coordinator makes the figures from the log, appends
a record for each GSP group, each naming the one before it, and waits until its own fold counts it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import closing
from datetime import date
from typing import Any, Final

import structlog

from domains.metering.catalogue import DISTRIBUTORS, GSP_GROUPS, LV_FEEDERS
from domains.metering.feeders import interval_of
from domains.metering.publications import (
    FIGURES_MAX,
    PublishedFigure,
    before_next,
    publication,
    published_at,
    published_figures,
)
from spine import trust
from spine.common.v1 import common_pb2
from spine.errors import Conflict, Invalid, NotPermitted, Pushback, Reason, Refused, SpineError
from spine.event import DataPosition, RecordType
from spine.gb import SettlementDate
from spine.live import LiveFold
from spine.metering.v1 import aggregates_pb2, aggregates_pb2_grpc
from spine.policy import Role
from spine.runtime import Process
from spine.server import Service
from spine.services import wire
from spine.services.evidence import Group, evidence
from spine.services.reference import StandingData
from spine.writer import LogWriter

STORES: Final = "aggregates"
REACH_TIMEOUT_S: Final = 5.0
FOLD_TIMEOUT_S: Final = 10.0
_log = structlog.get_logger()


class AggregatesService(aggregates_pb2_grpc.AggregatesServicer):
    """Publishes days, and shows what was published."""

    def __init__(self, process: Process, writer: LogWriter, standing: StandingData) -> None:
        assert process.folds is not None
        self._runtime, self._writer, self._standing = process.runtime, writer, standing
        self._folds = process.folds
        self._stores = process.runtime.stores(process.name) / STORES
        self._publishing = asyncio.Lock()
        self._under_way: set[asyncio.Task[list[Any]]] = set()

    async def PublishAggregates(self, request: Any, context: Any) -> Any:
        """Publish a day, GSP group by GSP group.

        NotPermitted  ROLE_NOT_ALLOWED: the caller is not governance
        Invalid       TIME_INVALID: not a day
        Refused       AGGREGATE_NOT_DUE: the day is not over
        Conflict      RACE_LOST: another coordinator publishes; call again
        Pushback      an append in doubt, or not possible now: call again

        A group that fails keeps no other from being published. The error is that of the first that
        failed, and its message names each.
        """
        if wire.caller().role != Role.GOVERNANCE:
            raise NotPermitted(Reason.ROLE_NOT_ALLOWED, "only governance publishes aggregates")
        day = _day(request.day)
        if interval_of(day).end > wire.now():
            message = "a UTC day is published once it is over"
            raise Refused(Reason.AGGREGATE_NOT_DUE, message, field="day")
        work = asyncio.create_task(self._publish_day(day))
        self._under_way.add(work)
        work.add_done_callback(self._ended)
        done = await asyncio.shield(work)  # a call that breaks off ends no thread of ours
        return aggregates_pb2.PublishAggregatesResponse(
            positions=self._positions(), publications=done
        )

    def _ended(self, work: asyncio.Task[list[Any]]) -> None:
        """Its caller may be gone, and nobody else would hear that it failed."""
        self._under_way.discard(work)
        if not work.cancelled() and (error := work.exception()) is not None:
            _log.warning("aggregates.not_published", reason=str(error))

    async def close(self) -> None:
        """Let what is under way come to its end, as long as a process waits for that."""
        if self._under_way:
            await asyncio.wait(self._under_way)

    async def _publish_day(self, day: date) -> list[Any]:
        """Every group of a day, one after the other; one day at a time."""
        async with self._publishing:
            await self._folds.level(FOLD_TIMEOUT_S)
            positions, groups = await asyncio.to_thread(self._made_from, day)
            done: list[Any] = []
            failed: dict[str, SpineError] = {}
            for name, group in groups.items():
                try:
                    done.append(await self._publish(day, name, group, positions))
                except SpineError as error:
                    failed[name] = error
                    place = {"day": str(day), "gsp_group": name}
                    _log.warning("aggregates.group_failed", **place, reason=str(error))
            if failed:
                raise _of_groups(failed, len(groups))
            return done

    def _made_from(self, day: date) -> tuple[tuple[DataPosition, ...], Mapping[str, Group]]:
        """The log as it is now, and the groups of that day in it. Blocking."""
        this = self._runtime
        with (
            closing(this.reader()) as reader,
            evidence(this.stored_fold, self._stores, reader, this.partitions) as found,
        ):
            positions = found.positions()
            return positions, found.groups(day, positions)

    async def _publish(
        self, day: date, gsp_group: str, group: Group, positions: tuple[DataPosition, ...]
    ) -> Any:
        self._check_key()
        rows = self._live.stored.fold.rows
        before = published_at(rows, gsp_group, day)
        if before is not None:
            return _publication(gsp_group, before, replayed=True)
        if len(group.feeders) > FIGURES_MAX:
            message = f"{gsp_group} has more than {FIGURES_MAX} feeders listed"
            raise Refused(Reason.REQUEST_TOO_LARGE, message)
        made_at = wire.now()
        record = await asyncio.to_thread(
            lambda: publication(
                before_next(rows, gsp_group, group.meters),
                gsp_group,
                day,
                group.feeders,
                group.meters,
                meters_min=self._runtime.settings.aggregate_meters_min,
                made_at=made_at,
                positions=positions,
            )
        )
        appended = await self._writer.write(RecordType.READINGS, trust.AGGREGATES_TOPIC, 0, record)
        await self._live.passed(appended.offset, FOLD_TIMEOUT_S)
        if published_at(rows, gsp_group, day) != appended.offset:
            message = "another publication came first; publish the day again"
            raise Conflict(Reason.RACE_LOST, message)
        said, unsaid = len(record.figures), len(record.suppressed)
        place = {"day": str(day), "gsp_group": gsp_group, "offset": appended.offset}
        _log.info("aggregates.published", **place, figures=said, suppressed=unsaid)
        return _publication(gsp_group, appended.offset)

    def _check_key(self) -> None:
        """A signer uses a key only where its own fold has seen it, and where nothing is closed."""
        fold = self._live.stored.fold
        key = fold.key(self._writer.signer.kid)
        if fold.head is None or key is None or key.revoked:
            raise Pushback(Reason.KEY_NOT_SEEN, "our key does not count in the partition")
        if (closed := fold.closed("")) is not None:
            raise Pushback(closed, "closed until a build understands what it holds")

    async def ListAggregates(self, request: Any, context: Any) -> Any:
        """The figures of a day and what is suppressed; none if it was not published."""
        day = _day(request.day)
        log_id, partitions = self._runtime.identity.log_id, self._runtime.partitions
        for wanted in wire.at_least(request, log_id, partitions):
            if wanted.topic == trust.AGGREGATES_TOPIC:
                await self._live.passed(wanted.offset - 1, REACH_TIMEOUT_S)
        found = published_figures(self._live.stored.fold.rows, day)
        chosen = [f for f in found if request.group in ("", f.gsp_group, f.group)]
        return aggregates_pb2.ListAggregatesResponse(
            aggregates=[self._shown(each) for each in _in_order(chosen)],
            positions=self._positions(),
        )

    @property
    def _live(self) -> LiveFold:
        return self._folds[trust.AGGREGATES_TOPIC, 0]

    def _positions(self) -> Any:
        place = DataPosition(trust.AGGREGATES_TOPIC, 0, self._live.next_offset)
        return wire.position_token(self._runtime.identity.log_id, [place])

    def _shown(self, figure: PublishedFigure) -> Any:
        day, codes = figure.day, self._standing.codes
        region = codes(GSP_GROUPS).find(figure.gsp_group, day)
        host = region and codes(DISTRIBUTORS).find(region.attribute("distributor"), day)
        feeder = codes(LV_FEEDERS).find(figure.group, day)
        named = ("secondary_substation_id", "secondary_substation_name", "lv_feeder_id")
        names = {} if feeder is None else {name: feeder.attribute(name) for name in named}
        return aggregates_pb2.Aggregate(
            gsp_group=figure.gsp_group,
            group=figure.group,
            day=day.isoformat(),
            devices=figure.devices,
            values_wh=figure.values_wh,
            suppressed=figure.suppressed,
            published_at=wire.stamp(figure.published_at),
            record=_record(figure.offset),
            dno_name=host.label if host else "",
            dno_alias=host.attribute("mpid") if host else "",
            lv_feeder_name="" if feeder is None else feeder.label,
            **names,
        )


def _of_groups(failed: Mapping[str, SpineError], groups: int) -> SpineError:
    """One error of all the groups of a day that failed."""
    first = next(iter(failed.values()))
    each = ", ".join(f"{name} {error.reason}" for name, error in failed.items())
    said = f"{len(failed)} of {groups} GSP groups not published: {each}"
    first.message = f"{said}; the first because {first.message}"
    return first


def aggregates(process: Process, writer: LogWriter, standing: StandingData) -> Service:
    """The service, of a process that folds the topic of the aggregates."""
    name = aggregates_pb2.DESCRIPTOR.services_by_name["Aggregates"].full_name
    add = aggregates_pb2_grpc.add_AggregatesServicer_to_server
    service = AggregatesService(process, writer, standing)
    process.on_end(service.close)
    return Service(name, add, service)


def _in_order(figures: Sequence[PublishedFigure]) -> list[PublishedFigure]:
    """By GSP group, its feeders first."""
    return sorted(figures, key=lambda f: (f.gsp_group, f.group == f.gsp_group, f.group))


def _publication(gsp_group: str, offset: int, *, replayed: bool = False) -> Any:
    return aggregates_pb2.AggregatePublication(
        gsp_group=gsp_group, record=_record(offset), replayed=replayed
    )


def _record(offset: int) -> Any:
    return common_pb2.RecordRef(topic=trust.AGGREGATES_TOPIC, partition=0, offset=offset)


def _day(text: str) -> date:
    try:
        return SettlementDate.parse(text).local
    except Invalid as error:
        raise Invalid(error.reason, error.message, field="day") from None
