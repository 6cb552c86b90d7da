"""Values taken back on their way from a call into the log: `Metering.WithdrawReadings`."""

from __future__ import annotations

from typing import Any

from domains.metering.decider import sender_may_send
from domains.metering.events import MeasurementQuantity
from domains.metering.readings import Delivery
from domains.metering.withdrawals import withdrawal
from spine import trust
from spine.errors import Invalid, NotPermitted, Reason
from spine.event import DataPosition
from spine.gb import Interval, on_the_grid, parse_mpxn
from spine.services import wire
from spine.services.recording import Amount, Recorder


async def withdraw(recorder: Recorder, party: str, request: Any) -> tuple[DataPosition, bool]:
    """Append the withdrawal unless that has been done; its place, and whether it is new.

    NotPermitted  NOT_PERMITTED: the party is not who may send for the meter in all of the interval,
                  or there is no such meter
    Invalid       FIELD_MISSING, FIELD_INVALID, CODE_UNKNOWN, INTERVAL_INVALID, REQUEST_TOO_LARGE
    Conflict      IDEMPOTENCY_CONFLICT: the key was used for another withdrawal
    """
    key, mpxn = wire.idempotency_key(request), str(parse_mpxn(request.mpxn))
    interval, quantity = _interval(request), request.measurement_quantity
    if quantity not in set(MeasurementQuantity):
        message = f"a quantity is one of {', '.join(MeasurementQuantity)}"
        raise Invalid(Reason.CODE_UNKNOWN, message, field="measurement_quantity")
    reason = wire.code(request.reason, "reason")
    if not sender_may_send(recorder.access(mpxn), party, interval):
        raise NotPermitted(Reason.NOT_PERMITTED, "the readings are not this sender's to withdraw")
    reference = f"withdrawal {key}"
    recorder.deliveries.claim(Delivery(party, reference, wire.request_digest(request)))
    partition = recorder.partition_of(mpxn)
    record = withdrawal(
        mpxn,
        quantity,
        interval,
        partition=partition,
        sender=party,
        sender_reference=reference,
        reason=reason,
        **recorder.checked_at(partition),
    )
    sent = await recorder.send(record, Amount(record.rows))
    return DataPosition(trust.READINGS_TOPIC, partition, await sent.offset), sent.new


def _interval(request: Any) -> Interval:
    given = request.interval
    if not given.HasField("start") or not given.HasField("end"):
        raise Invalid(Reason.FIELD_MISSING, "an interval has a start and an end", field="interval")
    interval = Interval(wire.instant(given.start, "interval"), wire.instant(given.end, "interval"))
    if not (on_the_grid(interval.start) and on_the_grid(interval.end)):
        message = "both ends must lie on a half hour"
        raise Invalid(Reason.INTERVAL_INVALID, message, field="interval")
    return interval
