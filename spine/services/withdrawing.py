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
from spine.gb import parse_mpxn
from spine.services import wire
from spine.services.recording import Amount, Recorder


async def withdraw(recorder: Recorder, party: str, request: Any) -> tuple[DataPosition, bool]:
    """Append the withdrawal unless that has been done; its place, and whether it is new.

    NotPermitted  NOT_PERMITTED: the party is not who may send for the meter in all of the interval,
                  or there is no such meter
    Invalid       FIELD_MISSING, FIELD_INVALID, CODE_UNKNOWN, TIME_INVALID, INTERVAL_INVALID,
                  REQUEST_TOO_LARGE
    Conflict      IDEMPOTENCY_CONFLICT: the key was used for another withdrawal
    """
    key, mpxn = wire.idempotency_key(request), str(parse_mpxn(request.mpxn))
    interval, quantity = wire.half_hours(request.interval), request.measurement_quantity
    if quantity not in set(MeasurementQuantity):
        message = f"a quantity is one of {', '.join(MeasurementQuantity)}"
        raise Invalid(Reason.CODE_UNKNOWN, message, field="measurement_quantity")
    reason = wire.code(request.reason, "reason")
    if not sender_may_send(recorder.access(mpxn), party, interval):
        raise NotPermitted(Reason.NOT_PERMITTED, "the readings are not this sender's to withdraw")
    reference = f"withdrawal {key}"
    digest = wire.request_digest(request)
    recorder.deliveries.claim(
        Delivery(party, reference, digest), "this idempotency_key was used for another withdrawal"
    )
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
