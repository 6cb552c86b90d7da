"""Carries out the table of `spine.pairwise` at the edge, around every service of a process.

What a party with pairwise identifiers asks is opened before the handler sees it, and what it is
answered is closed, so nothing behind this knows of it: the log, the ledger and the audit name
things as ever. A data user or supplier costs a look at its standing before its request and before
each answer, as it may change while a call goes on; any other caller costs one at its role.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import Any, NoReturn

from google.protobuf import descriptor_pool
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo  # type: ignore[import-untyped]
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]

from spine import trust
from spine.errors import NotPermitted, Pushback, Reason, SpineError
from spine.identifiers import Identifiers
from spine.identity import Caller
from spine.pairwise import SAME_TO_EVERYBODY, TREATED
from spine.policy import Role
from spine.server import STATUS_DETAILS, Service, current_caller
from spine.services.singly import METHOD as SINGLY
from spine.services.singly import singly
from spine.services.translation import Party, closed, opened, sealed

# Tells what a party is given as identifiers in a role.
Standing = Callable[[Role, str], Awaitable[trust.Identifiers]]


def _bare_error(party: Party, error: SpineError) -> SpineError:
    """The error with nothing but its reason, for a text may name what the party is not told, and
    the cursor by which it goes on.
    """
    error.message = str(error.reason)
    error.facts = party.facts(error.facts)
    error.args = (error.message,)
    return error


def bare_status(party: Party, packed: bytes) -> bytes:
    """A google.rpc.Status with no text but reasons, and the cursor by which the party goes on."""
    status, info, bad = Status.FromString(packed), ErrorInfo(), BadRequest()
    status.message = ""
    for detail in status.details:
        if detail.Unpack(info):
            told = party.facts(info.metadata)
            info.metadata.clear()
            info.metadata.update(told)
            detail.Pack(info)
        elif detail.Unpack(bad):
            for violation in bad.field_violations:
                violation.description = ""
            detail.Pack(bad)
    return bytes(status.SerializeToString())


class _Discreet:
    """A call's context whose `abort` says no more than a reason: what another server said."""

    def __init__(self, party: Party, context: Any) -> None:
        self._party, self._context = party, context

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    async def abort(
        self, code: Any, details: str = "", trailing_metadata: Iterable[tuple[str, Any]] = ()
    ) -> NoReturn:
        bare = tuple(
            (name, bare_status(self._party, value))
            for name, value in trailing_metadata
            if name == STATUS_DETAILS
        )
        await self._context.abort(code, "", bare)
        raise AssertionError("an aborted call has ended")


# -- services -------------------------------------------------------------------------------------


class Pairwise:
    """Wraps the services of one process."""

    def __init__(self, standing: Standing, identifiers: Callable[[], Identifiers]) -> None:
        self._standing, self._identifiers = standing, identifiers

    def around(self, service: Service) -> Service:
        """The service, as each caller is to meet it."""
        return replace(service, servicer=self._Servicer(self, service))

    async def of(self, role: Role, party: str) -> Party | None:
        """The party, if it is given identifiers of its own in that role.

        A supplier is told what the data user of its party is told, so by the same ones.
        """
        told_as = Role.DATA_USER if role is Role.SUPPLIER else role
        if await self._standing(told_as, party) is not trust.Identifiers.PAIRWISE:
            return None
        return Party(party, self._identifiers())

    async def _party(self, caller: Caller) -> Party | None:
        if caller.role not in (Role.DATA_USER, Role.SUPPLIER):
            return None
        return await self.of(caller.role, caller.party)

    async def _check_standing(self, caller: Caller, before: Party | None) -> None:
        """Pushback(IDENTIFIERS_CHANGED) if the caller was set to others since its call began.

        The caller as it was then: a server that vouches for another goes on in its name.
        """
        if (await self._party(caller) is None) != (before is None):
            message = "you were set to other identifiers while this was answered; call again"
            raise Pushback(Reason.IDENTIFIERS_CHANGED, message)

    class _Servicer:
        """One attribute for each method of the service."""

        def __init__(self, pairwise: Pairwise, service: Service) -> None:
            known = descriptor_pool.Default().FindServiceByName(service.name)
            for method in known.methods:
                name = f"{service.name}/{method.name}"
                wrap = pairwise._stream if method.server_streaming else pairwise._unary
                setattr(self, method.name, wrap(name, getattr(service.servicer, method.name)))

    def _unary(self, name: str, behaviour: Callable[..., Awaitable[Any]]) -> Any:
        async def handle(request: Any, context: Any) -> Any:
            caller = current_caller()
            party = await self._party(caller)
            if party is None:
                answer = await behaviour(request, context)
                await self._check_standing(caller, party)
                return answer
            if name in SAME_TO_EVERYBODY:
                return sealed(party, await behaviour(opened(party, request), context))
            _check_treated(name, caller.role)
            meant = opened(party, request)
            try:
                answer = await behaviour(meant, _Discreet(party, context))
                await self._check_standing(caller, party)
                return closed(party, answer)
            except SpineError as error:
                raise _bare_error(party, error) from None

        return handle

    def _stream(self, name: str, behaviour: Callable[..., AsyncIterator[Any]]) -> Any:
        async def handle(request: Any, context: Any) -> AsyncIterator[Any]:
            caller = current_caller()
            party = await self._party(caller)
            if party is None:
                async with aclosing(behaviour(request, context)) as answers:  # type: ignore[type-var]
                    async for answer in answers:
                        await self._check_standing(caller, party)
                        yield answer
                return
            _check_treated(name, caller.role)
            meant, discreet = opened(party, request), _Discreet(party, context)
            told = partial(singly, behaviour) if name == SINGLY else behaviour
            try:
                async with aclosing(told(meant, discreet)) as answers:  # type: ignore[type-var]
                    async for answer in answers:
                        await self._check_standing(caller, party)
                        yield closed(party, answer)
            except SpineError as error:
                raise _bare_error(party, error) from None

        return handle


def _check_treated(name: str, role: Role) -> None:
    if role is Role.SUPPLIER:
        # Which reads by the data user's consents too, and names them by MPxN.
        message = "a party with pairwise identifiers is no supplier: that needs another party id"
        raise NotPermitted(Reason.IDENTIFIERS_PAIRWISE, message)
    if name not in TREATED:
        message = (
            "it would name things as every party knows them, and you have your own identifiers"
        )
        raise NotPermitted(Reason.IDENTIFIERS_PAIRWISE, message)
