"""The Consumers service of `proto/spine/consumers/v1`, and the process behind it.

A request becomes a command of the caller at a meter. Names, contacts and notice texts come in clear
over TLS and are sealed here, before there is a command. What the coordinator names itself (tenancy,
consumer reference, consent id) follows from the idempotency key, so a retry is given it again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final

from domains.consumers import commands, decider, erasure, fan_out, tightenings
from domains.consumers.actions import Action
from domains.consumers.commands import ConsumersCommand, check_role
from domains.consumers.fan_out import OrderFanOut
from domains.consumers.tightenings import OrderTightening
from spine import trust
from spine.admission import is_dry_run
from spine.claims import Claims
from spine.consumers.v1 import consumers_pb2, consumers_pb2_grpc
from spine.coordinator import Coordinator
from spine.domain import Actor
from spine.errors import Conflict, Reason, Refused
from spine.event import SignerRole
from spine.gb import parse_mpxn
from spine.policy import Role
from spine.runtime import Process, Runtime
from spine.sealing import VAULT_FILE, Vault
from spine.server import Service
from spine.services import bulk, objecting, terms, wire
from spine.services.background import every, keep_quarantined
from spine.services.consent_answers import ConsentAnswers
from spine.services.erasures import erasures
from spine.services.holds import watch_holds
from spine.services.lapses import Lapses
from spine.services.legs import FanOuts, LegDone
from spine.services.operations import operations
from spine.services.sealing_requests import NOBODY, RequestSealing
from spine.services.seals import seals
from spine.services.shared_trust import consent_trust
from spine.services.telling import telling

LAPSE_EVERY_S: Final = 1.0
SEND_MISSING_EVERY_S: Final = 3.0
FOLDED: Final = (
    trust.CONSUMER_LOG,
    trust.CONSUMERS_REFERENCE,
    trust.ERASURES_TOPIC,
    trust.ACKNOWLEDGEMENTS_TOPIC,
)


class ConsumersService(objecting.Objecting):
    """Takes the commands about tenancies, supply, agents and consents.

    The decider judges role and party. Errors are those of `Coordinator.handle`, Invalid for a
    malformed request, and, of a consent, the first leg's if every leg was refused.
    """

    def __init__(
        self, answers: ConsentAnswers, fan_outs: FanOuts, home: Coordinator, vault: Vault
    ) -> None:
        self._answers, self._fan_outs, self._home = answers, fan_outs, home
        self._meters, self._vault, self._log_id = answers.meters, vault, answers.log_id
        self._sealing = RequestSealing(vault, answers.meters)

    # -- occupancy ------------------------------------------------------------------------------

    async def StartTenancy(self, request: Any, context: Any) -> Any:
        """Somebody moved in; ids that were left out are made here and returned."""
        by, mpxn = wire.caller(), str(parse_mpxn(request.mpxn))
        check_role(commands.StartTenancy, by)
        scope = (by.role, by.party, "StartTenancy", wire.idempotency_key(request), mpxn)
        tenancy_id = request.tenancy_id or f"t-{self._vault.token('tenancy', *scope)}"
        consumer_ref = request.consumer_ref or f"c-{self._vault.token('consumer', *scope)}"
        wire.identifier(tenancy_id, "tenancy_id")
        wire.identifier(consumer_ref, "consumer_ref")
        since = wire.required_instant(request, "effective_from")
        person = await self._sealing.person(request, tenancy_id, consumer_ref)
        command = commands.StartTenancy(by, tenancy_id, consumer_ref, since, person)
        order = await self._sealing.order(request, "StartTenancy", mpxn, command, by, consumer_ref)
        handled = await self._meters.handle(order)
        return consumers_pb2.StartTenancyResponse(
            positions=wire.position_token(self._log_id, [wire.past(handled)]),
            record=wire.record_ref(handled),
            replayed=handled.replayed,
            tenancy_id=tenancy_id,
            consumer_ref=consumer_ref,
        )

    async def EndTenancy(self, request: Any, context: Any) -> Any:
        """The occupier moved out; every consent of the tenancy ends with it."""
        command = commands.EndTenancy(
            wire.caller(),
            wire.identifier(request.tenancy_id, "tenancy_id"),
            wire.required_instant(request, "effective_to"),
        )
        return await self._at_meter(request, "EndTenancy", command)

    async def StartSupply(self, request: Any, context: Any) -> Any:
        """A supplier takes the meter over."""
        command = commands.StartSupply(
            wire.caller(),
            wire.identifier(request.supplier, "supplier"),
            wire.required_instant(request, "effective_from"),
        )
        return await self._at_meter(request, "StartSupply", command)

    async def EndSupply(self, request: Any, context: Any) -> Any:
        """A supply ends."""
        command = commands.EndSupply(
            wire.caller(),
            wire.identifier(request.supplier, "supplier"),
            wire.required_instant(request, "effective_to"),
        )
        return await self._at_meter(request, "EndSupply", command)

    async def AppointAgent(self, request: Any, context: Any) -> Any:
        """An agent takes a role at the meter."""
        command = commands.AppointAgent(
            wire.caller(),
            wire.identifier(request.agent, "agent"),
            request.agent_role,
            wire.required_instant(request, "effective_from"),
        )
        return await self._at_meter(request, "AppointAgent", command)

    async def EndAgentAppointment(self, request: Any, context: Any) -> Any:
        """An appointment ends."""
        command = commands.EndAgentAppointment(
            wire.caller(),
            wire.identifier(request.agent, "agent"),
            request.agent_role,
            wire.required_instant(request, "effective_to"),
        )
        return await self._at_meter(request, "EndAgentAppointment", command)

    # -- consents -------------------------------------------------------------------------------

    async def RequestConsent(self, request: Any, context: Any) -> Any:
        """A data user asks whoever lives at the meters; that need not be told who it is."""
        by = wire.caller()
        check_role(commands.RequestConsent, by)
        consent_id = self._new_consent_id(request, "RequestConsent", by)
        data_user = terms.party(request, "data_user", by, (Role.DATA_USER, Role.SUPPLIER))
        consumer_ref = self._occupier(terms.mpxns(request))
        answer_by = wire.required_instant(request, "answer_by")
        agreed = await self._sealing.terms(request, consent_id, data_user, consumer_ref)
        record = await self._sealing.record(request, consent_id, agreed)
        order = OrderFanOut(
            by,
            consent_id,
            Action.REQUEST,
            terms.mpxns(request),
            agreed,
            answer_by=answer_by,
            record=record,
        )
        command = commands.RequestConsent(by, consent_id, agreed, answer_by, record)
        return await self._consent(request, order, command)

    async def DeclineConsent(self, request: Any, context: Any) -> Any:
        """The consumer says no to a request."""
        order = self._ending(request, Action.DECLINE)
        command = commands.DeclineConsent(order.by, order.consent_id)
        return await self._consent(request, order, command)

    async def GrantConsent(self, request: Any, context: Any) -> Any:
        """The consumer consents, unasked or in answer to a request."""
        by = wire.caller()
        check_role(commands.GrantConsent, by)
        consent_id = self._new_consent_id(request, "GrantConsent", by)
        data_user = wire.identifier(request.data_user, "data_user")
        consumer_ref = terms.party(request, "consumer_ref", by, (Role.CONSUMER,))
        agreed = await self._sealing.terms(request, consent_id, data_user, consumer_ref)
        record = await self._sealing.record(request, consent_id, agreed)
        channel, evidence = terms.channel(request), terms.evidence(request)
        order = OrderFanOut(
            by,
            consent_id,
            Action.GRANT,
            terms.mpxns(request),
            agreed,
            channel=channel,
            evidence=evidence,
            record=record,
        )
        command = commands.GrantConsent(by, consent_id, agreed, channel, evidence, record)
        return await self._consent(request, order, command)

    async def NarrowConsent(self, request: Any, context: Any) -> Any:
        """The consumer allows less from now on; what the request leaves out stays as it is."""
        order = self._ending(request, Action.NARROW)
        narrowed = terms.narrowed(request)
        leg = commands.NarrowConsent(order.by, order.consent_id, *terms.stated(request))

        def home(state: fan_out.FanOut) -> OrderFanOut:
            categories, history_from, expires = narrowed(state.terms)
            scope = replace(
                state.terms, categories=categories, history_from=history_from, expires=expires
            )
            return replace(order, terms=scope)

        return await self._consent(request, order, leg, home)

    async def SuspendConsent(self, request: Any, context: Any) -> Any:
        """Nothing is read under the consent until it is resumed."""
        order = self._ending(request, Action.SUSPEND, wire.code(request.reason, "reason"))
        command = commands.SuspendConsent(order.by, order.consent_id, order.reason)
        return await self._consent(request, order, command)

    async def ResumeConsent(self, request: Any, context: Any) -> Any:
        """A suspension is lifted by who imposed it."""
        order = self._ending(request, Action.RESUME, wire.optional_code(request.reason, "reason"))
        command = commands.ResumeConsent(order.by, order.consent_id)
        return await self._consent(request, order, command)

    async def RevokeConsent(self, request: Any, context: Any) -> Any:
        """The consumer ends the consent."""
        order = self._ending(request, Action.REVOKE, wire.optional_code(request.reason, "reason"))
        command = commands.RevokeConsent(order.by, order.consent_id)
        return await self._consent(request, order, command)

    async def WithdrawConsent(self, request: Any, context: Any) -> Any:
        """The data user gives the consent up."""
        order = self._ending(request, Action.WITHDRAW, wire.optional_code(request.reason, "reason"))
        command = commands.WithdrawConsent(order.by, order.consent_id)
        return await self._consent(request, order, command)

    async def GetReceipt(self, request: Any, context: Any) -> Any:
        """How a consent stands at a meter, for its consumer to keep."""
        return await self._answers.receipt(request)

    async def Bulk(self, request: Any, context: Any) -> Any:
        """Commands by the thousand, each as by a call of its own."""
        done = await bulk.carry_out(
            self._meters,
            self._log_id,
            request.commands,
            partial(bulk.consumers_order, self._meters),
        )
        return consumers_pb2.BulkResponse(**done)

    # -- how commands are carried out -----------------------------------------------------------

    async def _at_meter(self, request: Any, method: str, command: Any) -> Any:
        mpxn = str(parse_mpxn(request.mpxn))
        order = wire.order(request, method, mpxn, command, command.by)
        handled = await self._meters.handle(order)
        return consumers_pb2.CommandResponse(**wire.recorded(self._log_id, handled))

    async def _consent(
        self,
        request: Any,
        order: OrderFanOut,
        leg: ConsumersCommand,
        home: Callable[[fan_out.FanOut], OrderFanOut] | None = None,
    ) -> Any:
        """Order it at home or give it straight to the meters named; answer with every leg."""
        method = f"{order.action.title()}Consent"
        mpxns, by, consent_id = order.mpxns, order.by, order.consent_id
        positions = []
        command = await self._at_home(request, method, order, leg, home)
        if is_dry_run(request):
            if isinstance(command, OrderFanOut):
                legs_of = await self._fan_outs.rehearse(consent_id, command, by)
                return await self._answers.dry_run(consent_id, mpxns, legs_of, by)
            return await self._answers.dry_run(consent_id, mpxns, leg, by)
        if command is not None:
            about = "" if order.terms is None else order.terms.consumer_ref
            given = await self._sealing.order(request, method, consent_id, command, by, about)
            handled, found = await self._fan_outs.order(given, leg)
            named = {done.mpxn: done for done in found}
            legs = [named[mpxn] for mpxn in mpxns if mpxn in named]
            replayed = handled.replayed
            positions.append(wire.past(handled))
        else:
            held = await self._fan_outs.held_back(consent_id, leg, mpxns)
            given_to = mpxns if tightenings.tightens(leg) else [m for m in mpxns if m not in held]
            giving = (self._leg(request, method, mpxn, leg, by, len(mpxns)) for mpxn in given_to)
            legs = list(await asyncio.gather(*giving))
            for error in held.values():
                raise error
            replayed = all(done.handled is None or done.handled.replayed for done in legs)
        errors = [done.error for done in legs if done.error is not None]
        if len(errors) == len(legs):
            raise errors[0]
        positions += [wire.past(done.handled) for done in legs if done.handled is not None]
        return consumers_pb2.ConsentResponse(
            consent_id=consent_id,
            legs=[self._answers.leg(consent_id, done, by) for done in legs],
            positions=wire.position_token(self._log_id, positions),
            replayed=replayed,
        )

    async def _at_home(
        self,
        request: Any,
        method: str,
        order: OrderFanOut,
        leg: ConsumersCommand,
        home: Callable[[fan_out.FanOut], OrderFanOut] | None,
    ) -> OrderFanOut | OrderTightening | None:
        """What is ordered at home: the order of the whole consent, or one that only tightens, so
        that a crash leaves none of several meters out; None for what goes straight to its meters.
        """
        by, consent_id, mpxns = order.by, order.consent_id, order.mpxns
        if self._fan_outs.at_home(by, consent_id, Action(order.action), mpxns):
            return order if home is None else home(self._home.state(consent_id))
        if len(mpxns) == 1 or is_dry_run(request) or not tightenings.tightens(leg):
            return None
        tightening = OrderTightening(by, leg, mpxns)
        sent = wire.order(request, method, consent_id, tightening, by)
        return tightening if await self._fan_outs.takes_away(sent) else None

    async def _leg(
        self, request: Any, method: str, mpxn: str, command: Any, by: Actor, of: int
    ) -> LegDone:
        """One meter on its own. Beside others, a refusal or a lost race is this leg's answer."""
        try:
            await self._fan_outs.check_known(mpxn, command)
            agreed = getattr(command, "terms", None)
            about = "" if agreed is None else agreed.consumer_ref
            order = await self._sealing.order(request, method, mpxn, command, by, about)
            return LegDone(mpxn, await self._meters.handle(order))
        except (Refused, Conflict) as error:
            if of == 1 or error.reason is Reason.IDEMPOTENCY_CONFLICT:
                raise
            return LegDone(mpxn, error=error)

    # -- what requests say ----------------------------------------------------------------------

    def _ending(self, request: Any, action: Action, reason: str = "") -> OrderFanOut:
        """An order about a consent there is."""
        consent_id = wire.identifier(request.consent_id, "consent_id")
        return OrderFanOut(wire.caller(), consent_id, action, terms.mpxns(request), reason=reason)

    def _new_consent_id(self, request: Any, method: str, by: Actor) -> str:
        scope = (by.role, by.party, method, wire.idempotency_key(request))
        consent_id = request.consent_id or f"k-{self._vault.token('consent', *scope)}"
        return wire.identifier(consent_id, "consent_id")

    def _occupier(self, mpxns: Sequence[str]) -> str:
        """Who lives at the first of the meters where anybody does."""
        tenancies = (self._meters.state(mpxn).tenancy_at(wire.now()) for mpxn in mpxns)
        return next((str(one.consumer_ref) for one in tenancies if one is not None), NOBODY)


# -- the process ----------------------------------------------------------------------------------


async def start_consumers(runtime: Runtime, name: str = "consumers") -> Process:
    """Start the consumers coordinator; returns once it answers.

    In the background it sends missing legs of consents and closes requests nobody answered in time.
    """
    process = Process(runtime, name)
    folds = await process.fold(FOLDED, holds=True)
    watch_holds(process)
    writer = runtime.writer(process.appender, SignerRole.CONSUMERS, name)
    await keep_quarantined(process, writer, FOLDED)
    claims = Claims(runtime.stores(name), runtime.identity.log_id)
    process.on_end(claims.close)
    of = runtime.domains.by_topic
    shared = (folds, writer, runtime.partitions)
    meters = Coordinator(of[trust.CONSUMER_LOG], *shared, decider.tightens, claims)
    home = Coordinator(of[trust.CONSUMERS_REFERENCE], *shared, fan_out.tightens, claims)
    answers = ConsentAnswers(meters, runtime.identity.log_id, writer.signer)
    fan_outs = FanOuts(meters, home, name)
    fan_outs.watch()
    lapses = Lapses(meters, [folds[trust.CONSUMER_LOG, p] for p in range(runtime.partitions)])
    await lapses.watch()
    vault = await asyncio.to_thread(Vault.open, runtime.settings.data_dir / VAULT_FILE)
    process.on_end(vault.close)
    erasing = Coordinator(of[trust.ERASURES_TOPIC], *shared, erasure.tightens, claims)
    every(process, SEND_MISSING_EVERY_S, fan_outs.send_missing)
    every(process, LAPSE_EVERY_S, lapses.lapse)
    await process.serve(
        Role.COORDINATOR,
        [
            Service(
                consumers_pb2.DESCRIPTOR.services_by_name["Consumers"].full_name,
                consumers_pb2_grpc.add_ConsumersServicer_to_server,
                ConsumersService(answers, fan_outs, home, vault),
            ),
            await erasures(process, erasing, vault),
            seals(process, erasing, vault),
            *consent_trust(meters, runtime.identity.log_id, writer.signer),
            *await telling(process, meters, writer, claims),
            operations(process, writer),
        ],
        runtime.settings.consumers_port,
        bulk.BULK_BYTES_MAX,
    )
    return process
