"""Commands by the thousand: one request of many commands, each the same as in a call of its own.

What the single calls of a coordinator and these share is the order they give: the same method,
idempotency key and digest, so that a command sent again either way is found.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

from domains.consumers import commands
from domains.consumers.commands import check_role
from spine.common.v1 import common_pb2
from spine.coordinator import Coordinator
from spine.domain import Actor
from spine.errors import Invalid, Reason, SpineError
from spine.gb import parse_mpxn
from spine.in_force import policy_in_force
from spine.orders import Handled, Order
from spine.policy import Role
from spine.services import terms, wire
from spine.services.sealing_requests import tier_of

COMMANDS_MAX: Final = 1_000
# A consent with all its terms, a record and a few recipients takes less.
COMMAND_BYTES_MAX: Final = 1_024
BULK_BYTES_MAX: Final = COMMANDS_MAX * COMMAND_BYTES_MAX

GRANT: Final = "grant_consent"

OrderOf = Callable[[Any, Actor], Order]


def check_count(given: Sequence[Any]) -> None:
    """Invalid(REQUEST_TOO_LARGE) unless these are 1 to 1,000 commands."""
    if not 1 <= len(given) <= COMMANDS_MAX:
        message = f"1 to {COMMANDS_MAX} commands"
        raise Invalid(Reason.REQUEST_TOO_LARGE, message, field="commands")


async def carry_out(
    coordinator: Coordinator, log_id: bytes, given: Sequence[Any], order_of: OrderOf
) -> dict[str, Any]:
    """Each command's result and the positions after them all, as fields of the answer.

    A command that cannot be read is refused alone, like one that a rule refuses.
    """
    check_count(given)
    by = wire.caller()
    orders: list[Order] = []
    answers: list[Handled | SpineError | None] = []
    for command in given:
        try:
            orders.append(order_of(command, by))
            answers.append(None)
        except SpineError as error:
            answers.append(error)
    done = iter(await coordinator.handle_all(orders))
    found = [next(done) if answer is None else answer for answer in answers]
    one_of_each_record = {
        (each.topic, each.partition, each.offset): each
        for each in found
        if isinstance(each, Handled)
    }
    return {
        "results": [_result(each) for each in found],
        "positions": wire.position_token(log_id, map(wire.past, one_of_each_record.values())),
    }


def _result(answer: Handled | SpineError) -> Any:
    if isinstance(answer, SpineError):
        return common_pb2.BulkResult(refused=answer.reason, message=answer.told)
    return common_pb2.BulkResult(record=wire.record_ref(answer), replayed=answer.replayed)


# -- what the consumers coordinator takes ---------------------------------------------------------


def consumers_order(meters: Coordinator, given: Any, by: Actor) -> Order:
    """The order of one `BulkCommand`; Invalid for one that is malformed or needs its own call."""
    kind = given.WhichOneof("command")
    if kind is None:
        raise Invalid(Reason.FIELD_MISSING, "a command is required", field="command")
    request = getattr(given, kind)
    return _grant_consent(meters, request, by) if kind == GRANT else _CONSUMERS[kind](request, by)


def _start_tenancy(request: Any, by: Actor) -> Order:
    check_role(commands.StartTenancy, by)
    if request.HasField("person"):
        raise Invalid(Reason.FIELD_INVALID, "a person is named in a call alone", field="person")
    command = commands.StartTenancy(
        by,
        wire.identifier(request.tenancy_id, "tenancy_id"),
        wire.identifier(request.consumer_ref, "consumer_ref"),
        wire.required_instant(request, "effective_from"),
    )
    return _at_meter(request, "StartTenancy", command)


def _start_supply(request: Any, by: Actor) -> Order:
    command = commands.StartSupply(
        by,
        wire.identifier(request.supplier, "supplier"),
        wire.required_instant(request, "effective_from"),
    )
    return _at_meter(request, "StartSupply", command)


def _appoint_agent(request: Any, by: Actor) -> Order:
    command = commands.AppointAgent(
        by,
        wire.identifier(request.agent, "agent"),
        request.agent_role,
        wire.required_instant(request, "effective_from"),
    )
    return _at_meter(request, "AppointAgent", command)


def _grant_consent(meters: Coordinator, request: Any, by: Actor) -> Order:
    check_role(commands.GrantConsent, by)
    (mpxn, *others) = terms.mpxns(request)
    if others:
        raise Invalid(Reason.FIELD_INVALID, "a consent in bulk is of one meter", field="mpxns")
    if request.dry_run:
        raise Invalid(Reason.FIELD_INVALID, "a dry run is a call of its own", field="dry_run")
    if terms.notice_text(request):
        raise Invalid(Reason.FIELD_INVALID, "a notice is shown in a call alone", field="notice")
    if terms.details(request):
        raise Invalid(Reason.FIELD_INVALID, "nothing is sealed in bulk", field="record")
    agreed = terms.agreed(
        request,
        wire.identifier(request.data_user, "data_user"),
        terms.party(request, "consumer_ref", by, (Role.CONSUMER,)),
    )
    record = None
    if request.HasField("record"):  # a register is loaded without what nobody said
        tier = tier_of(meters, mpxn, agreed.data_user, agreed.purpose)
        record = replace(terms.record(request), tier=tier)
    command = commands.GrantConsent(
        by,
        wire.identifier(request.consent_id, "consent_id"),
        agreed,
        terms.channel(request),
        terms.evidence(request),
        record,
        policy_in_force(meters.live(mpxn).stored.fold),
    )
    return wire.order(request, "GrantConsent", mpxn, command, by)


def _at_meter(request: Any, method: str, command: Any) -> Order:
    return wire.order(request, method, str(parse_mpxn(request.mpxn)), command, command.by)


_CONSUMERS: Final = {
    "start_tenancy": _start_tenancy,
    "start_supply": _start_supply,
    "appoint_agent": _appoint_agent,
}
