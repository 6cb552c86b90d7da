"""Every method of every service, as a party with identifiers of its own meets it over TLS."""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2  # type: ignore[import-untyped]
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]

from spine.dsi.refusing import not_permitted
from spine.dsi.v1 import dsi_pb2, dsi_pb2_grpc
from spine.encoded import Encoded
from spine.errors import NEXT_CURSOR, Invalid, NotPermitted, Reason, Refused, SpineError
from spine.identifiers import Identifiers, Kind
from spine.identity import Authority, Caller
from spine.pairwise import SAME_TO_EVERYBODY, TREATED, Treatment
from spine.policy import Role
from spine.server import (
    STATUS_DETAILS,
    Failure,
    Service,
    SpineServer,
    act_for,
    build_server,
    connect,
    error_from,
    status_of,
)
from spine.services.pairwise import Pairwise, bare_status
from spine.services.translation import Party, rule_of
from spine.trust import Identifiers as Given
from tests.helpers.leaves import Value, filled, leaves

ROOT = Path(__file__).parents[2]
MADE = Identifiers(bytes(range(64)))
ONE, TWO, PLAIN = "p-one", "p-two", "plain"
MPAN, CONSENT = "2000027391990", "my-advice"
CALL_S = 5.0


def services() -> list[tuple[Any, Any]]:
    """The descriptor of every service that there is, with the module that registers it."""
    found = []
    for path in sorted((ROOT / "proto").rglob("*.proto")):
        name = ".".join(path.relative_to(ROOT / "proto").with_suffix("").parts)
        described = importlib.import_module(f"{name}_pb2").DESCRIPTOR.services_by_name
        wired = importlib.import_module(f"{name}_pb2_grpc")
        found += [(service, wired) for service in described.values()]
    return found


METHODS = {f"{s.full_name}/{m.name}": m for s, _ in services() for m in s.methods}


class Everything:
    """Answers every method of a service with every field set, and notes what it was asked."""

    def __init__(self, service: Any, world: World) -> None:
        for method in service.methods:
            handle = _streamed if method.server_streaming else _once
            setattr(self, method.name, handle(f"{service.full_name}/{method.name}", method, world))


class World:
    """What handlers were asked, and how they are to fail."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Any]] = []
        self.fails_with: Exception | None = None
        self.aborts_with: bytes | None = None
        self.standings: list[tuple[Role, str]] = []
        self.given: dict[str, Given] = {}
        self.turns_to: Given | None = None
        self.vouches_for: Caller | None = None

    async def standing(self, role: Role, party: str) -> Given:
        self.standings.append((role, party))
        as_ever = Given.PAIRWISE if party.startswith("p-") else Given.MPXN
        return self.given.get(party, as_ever)

    async def handle(self, name: str, request: Any, context: Any) -> None:
        self.asked.append((name, request))
        if self.vouches_for is not None:
            act_for(self.vouches_for)
        if self.turns_to is not None:
            self.given = dict.fromkeys((ONE, PLAIN), self.turns_to)
        if self.fails_with is not None:
            raise self.fails_with
        if self.aborts_with is not None:
            details = ((STATUS_DETAILS, self.aborts_with),)
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, f"meter {MPAN}", details)


def _once(name: str, method: MethodDescriptor, world: World) -> Any:
    async def handle(request: Any, context: Any) -> Any:
        await world.handle(name, request, context)
        return filled(GetMessageClass(method.output_type)(), said)

    return handle


def _streamed(name: str, method: MethodDescriptor, world: World) -> Any:
    async def handle(request: Any, context: Any) -> AsyncIterator[Any]:
        yield filled(GetMessageClass(method.output_type)(), said)
        await world.handle(name, request, context)
        if world.turns_to is not None or world.vouches_for is not None:
            yield filled(GetMessageClass(method.output_type)(), said)

    return handle


def said(field: FieldDescriptor) -> Value:
    """What is said in a field: of every meter and consent the same."""
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_STRING if field.type == FieldDescriptor.TYPE_BYTES:
            return b"\x07" * 32
        case FieldDescriptor.CPPTYPE_STRING:
            return {"mpxn": MPAN, "consent_id": CONSENT}.get(field.name, f"s-{field.name}"[:16])
        case FieldDescriptor.CPPTYPE_BOOL:
            return True
        case FieldDescriptor.CPPTYPE_MESSAGE:
            return 1_700_000_000_123_456_789
        case FieldDescriptor.CPPTYPE_ENUM:
            return 1
        case _:
            return 7


def asking(name: str, by: str = ONE, **instead: str) -> Any:
    """A request of that method that names a meter, as `by` does: by its identifiers, or MPxN."""
    return request_of(name, by, instead, own=by != PLAIN)


def request_of(name: str, by: str, instead: dict[str, str], *, own: bool) -> Any:
    """The same, whoever it is."""

    def value(field: FieldDescriptor) -> Value:
        rule = rule_of(field)
        if rule is not None and rule.treatment is Treatment.REFUSED:
            return False
        if rule is None or rule.treatment not in (Treatment.NAMED, Treatment.HANDED_BACK):
            return said(field)
        assert rule.kind is not None
        plain = MPAN if rule.kind is Kind.METER else f"a-{field.name}"
        if field.name in instead:
            return instead[field.name]
        if not own:
            return plain
        if rule.treatment is Treatment.HANDED_BACK:
            return MADE.close_text(rule.kind, by, plain)
        return MADE.close(rule.kind, by, plain)

    request = filled(GetMessageClass(METHODS[name].input_type)(), value, 1)
    for field in request.DESCRIPTOR.fields:
        rule = rule_of(field)
        refused = rule is not None and rule.treatment is Treatment.REFUSED
        if refused or field.name == "at_least":
            request.ClearField(field.name)
        elif rule is not None and rule.treatment is Treatment.BY_SECOND:
            getattr(request, field.name).nanos = 0
    return request


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.open_or_create(tmp_path_factory.mktemp("spine") / "identities")


@pytest.fixture
async def world() -> World:
    return World()


@pytest.fixture
async def server(authority: Authority, world: World) -> AsyncIterator[SpineServer]:
    pairwise = Pairwise(world.standing, lambda: MADE)
    served = [
        pairwise.around(
            Service(
                service.full_name,
                getattr(wired, f"add_{service.name}Servicer_to_server"),
                Everything(service, world),
            )
        )
        for service, wired in services()
    ]
    built = build_server(authority.issue_server(Role.DSI, "dsi-1"), served)
    await built.start()
    yield built
    await built.stop(0)


class Client:
    """Calls of one party, of any method by its name."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel

    async def call(self, name: str, request: Any) -> list[Any]:
        """Every answer."""
        method = METHODS[name]
        shape = "stream" if method.client_streaming else "unary"
        shape += "_stream" if method.server_streaming else "_unary"
        of = getattr(self._channel, shape)(
            f"/{name}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=GetMessageClass(method.output_type).FromString,
        )
        sent = iter([request]) if method.client_streaming else request
        call = of(sent, timeout=CALL_S)
        return [each async for each in call] if method.server_streaming else [await call]

    async def failure(self, name: str, request: Any) -> tuple[Failure, Any]:
        """How it fails, and the error."""
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await self.call(name, request)
        return error_from(error.value), error.value


@pytest.fixture
async def clients(server: SpineServer, authority: Authority) -> AsyncIterator[dict[str, Client]]:
    channels = {}
    for role, party in ((Role.DATA_USER, ONE), (Role.DATA_USER, TWO), (Role.DATA_USER, PLAIN)):
        folder = authority.issue_client(role, party).folder
        channels[party] = connect(f"127.0.0.1:{server.port}", folder)
    for party, name in ((PLAIN, "supplier"), (ONE, "one-supplier")):
        folder = authority.issue_client(Role.SUPPLIER, party, name).folder
        channels[name] = connect(f"127.0.0.1:{server.port}", folder)
    folder = authority.issue_client(Role.DATA_SERVICE, ONE, "one-service").folder
    channels["service"] = connect(f"127.0.0.1:{server.port}", folder)
    folder = authority.issue_client(Role.DSI, "dsi-2").folder
    channels["server"] = connect(f"127.0.0.1:{server.port}", folder)
    yield {name: Client(channel) for name, channel in channels.items()}
    for channel in channels.values():
        await channel.close(None)


async def test_every_method_is_opened_and_closed_or_the_same_or_refused(
    clients: dict[str, Client], world: World
) -> None:
    for name in METHODS:
        world.asked.clear()
        if name in TREATED:
            (told,) = await clients[ONE].call(name, asking(name))
            values = {value for _, value in leaves(told)}
            assert not {MPAN, CONSENT} & values, name
            ((_, meant),) = world.asked
            assert meant == asking(name, PLAIN), "the handler sees what is meant"
        elif name in SAME_TO_EVERYBODY:
            (told,) = await clients[ONE].call(name, asking(name, PLAIN))
            tokens = [value for path, value in leaves(told) if path.endswith("sealed")]
            as_it_is = filled(type(told)(), said)
            assert len(tokens) == 1, "what treated calls take as at_least"
            for each in (told, as_it_is):
                each.ClearField("positions")
            assert told == as_it_is
        else:
            failure, _ = await clients[ONE].failure(name, asking(name, PLAIN))
            assert (failure.code, failure.reason) == ("PERMISSION_DENIED", "IDENTIFIERS_PAIRWISE")
            assert not world.asked, "nothing of it was done"


async def test_what_two_are_told_of_the_same_has_no_name_in_common_and_the_naive_answers_do(
    clients: dict[str, Client],
) -> None:
    naive = 0
    for name in sorted(TREATED):
        one, two, plain = [
            set(leaves((await clients[party].call(name, asking(name, party)))[0]))
            for party in (ONE, TWO, PLAIN)
        ]
        names = {leaf for leaf in plain if leaf[1] in (MPAN, CONSENT)}
        assert not names & one & two
        naive += len(names)
    assert naive > 10, "or this test shows nothing"


async def test_a_supplier_of_the_same_party_is_told_nothing_by_mpxn(
    clients: dict[str, Client], world: World
) -> None:
    """It would be told of the data user's consents, and could read by them."""
    for name in sorted(METHODS.keys() - SAME_TO_EVERYBODY):
        failure, said_so = await clients["one-supplier"].failure(name, asking(name, PLAIN))
        refusal = (failure.code, failure.reason)
        assert refusal == ("PERMISSION_DENIED", "IDENTIFIERS_PAIRWISE"), (name, said_so)
    assert not world.asked, "nothing of it was done"
    for name in sorted(SAME_TO_EVERYBODY):
        assert len(await clients["one-supplier"].call(name, asking(name, PLAIN))) == 1


async def test_what_is_sent_to_a_supplier_is_named_as_to_the_data_user_of_its_party() -> None:
    pairwise = Pairwise(World().standing, lambda: MADE)
    assert await pairwise.of(Role.SUPPLIER, ONE) == await pairwise.of(Role.DATA_USER, ONE)
    assert await pairwise.of(Role.SUPPLIER, PLAIN) is None


STREAMED = sorted(name for name in TREATED if METHODS[name].server_streaming)


@pytest.mark.parametrize(("party", "then"), [(PLAIN, Given.PAIRWISE), (ONE, Given.MPXN)])
async def test_who_is_set_to_others_while_a_call_goes_on_is_told_no_more_by_the_old(
    clients: dict[str, Client], world: World, party: str, then: Given
) -> None:
    assert len(STREAMED) == 2
    for name in sorted(TREATED):
        world.given, world.turns_to = {}, then
        failure, _ = await clients[party].failure(name, asking(name, party))
        assert (failure.code, failure.reason) == ("UNAVAILABLE", "IDENTIFIERS_CHANGED")
        told = world.asked.pop()
        assert told[0] == name, "it was under way"
        world.turns_to = None
        again = request_of(name, party, {}, own=then is Given.PAIRWISE)
        assert len(await clients[party].call(name, again)) == 1


async def test_what_a_server_passes_on_for_such_a_party_is_no_change_of_its_own_standing(
    clients: dict[str, Client], world: World
) -> None:
    world.vouches_for = Caller(Role.DATA_USER, ONE, b"")
    for name, method in METHODS.items():
        if name.startswith("spine.dsi.v1.Members/"):
            answers = await clients["server"].call(name, asking(name, PLAIN))
            assert len(answers) == 1 + method.server_streaming
    assert world.asked


async def test_to_everybody_else_all_is_as_it_was_and_their_standing_is_not_asked(
    clients: dict[str, Client], world: World
) -> None:
    for name, method in METHODS.items():
        for party in (PLAIN, "supplier", "service"):
            (told,) = await clients[party].call(name, asking(name, PLAIN))
            assert told == filled(GetMessageClass(method.output_type)(), said)
    assert {role for role, _ in world.standings} == {Role.DATA_USER}


NAMES_A_METER = sorted(
    name
    for name in TREATED
    if any(path.endswith(("mpxn", "mpxns")) for path, _ in leaves(asking(name)))
)


async def test_an_mpxn_is_refused_before_anything_is_done(
    clients: dict[str, Client], world: World
) -> None:
    assert len(NAMES_A_METER) > 12
    for name in NAMES_A_METER:
        instead = {"mpxn": MPAN, "mpxns": MPAN, "only_mpxn": MPAN}
        failure, _ = await clients[ONE].failure(name, asking(name, **instead))
        assert (failure.code, failure.reason) == ("INVALID_ARGUMENT", "IDENTIFIERS_PAIRWISE")
        assert failure.field in instead
    assert not world.asked


async def test_an_identifier_of_another_is_like_a_meter_that_does_not_concern_one(
    clients: dict[str, Client], world: World
) -> None:
    theirs = MADE.close(Kind.METER, TWO, MPAN)
    for name in NAMES_A_METER:
        instead = {"mpxn": theirs, "mpxns": theirs, "only_mpxn": theirs}
        failure, _ = await clients[ONE].failure(name, asking(name, **instead))
        assert (failure.code, failure.reason) == ("PERMISSION_DENIED", "NOT_PERMITTED")
    assert not world.asked


@pytest.mark.parametrize(
    ("field", "text", "reason"),
    [
        ("mpxn", "mtr_none", Reason.IDENTIFIER_UNKNOWN),
        ("mpxn", Identifiers(bytes(64)).close(Kind.METER, ONE, MPAN), Reason.IDENTIFIER_UNKNOWN),
        ("mpxn", MADE.close(Kind.CONSENT, ONE, CONSENT), Reason.IDENTIFIERS_PAIRWISE),
        ("consent_id", CONSENT, Reason.IDENTIFIERS_PAIRWISE),
        ("cursor", "7.1.2", Reason.CURSOR_INVALID),
        ("cursor", MADE.close_text(Kind.CURSOR, TWO, "a-cursor"), Reason.CURSOR_INVALID),
    ],
)
async def test_what_is_no_identifier_of_ours_is_told_so(
    clients: dict[str, Client], field: str, text: str, reason: Reason
) -> None:
    name = "spine.dsi.v1.Dsi/GetReadings"
    failure, _ = await clients[ONE].failure(name, asking(name, **{field: text}))
    assert (failure.reason, failure.field) == (reason, field)


async def test_positions_are_taken_back_as_they_were_given_and_in_no_other_way(
    clients: dict[str, Client], world: World
) -> None:
    name = "spine.dsi.v1.Dsi/GetReadings"
    (told,) = await clients[ONE].call(name, asking(name))
    assert told.positions.sealed and not told.positions.positions and not told.positions.log_id
    request = asking(name)
    request.at_least.CopyFrom(told.positions)
    (again,) = await clients[ONE].call(name, request)
    assert again.positions.sealed != told.positions.sealed, "not even equality shows"
    (_, meant) = world.asked[-1]
    assert meant.at_least.positions[0].topic == "s-topic"
    request = asking(name, TWO)
    request.at_least.CopyFrom(told.positions)
    failure, _ = await clients[TWO].failure(name, request)
    assert failure.reason == "POSITION_INVALID"
    request = asking(name)
    request.at_least.positions.add(topic="consumers.events.v1", offset=7)
    failure, _ = await clients[ONE].failure(name, request)
    assert failure.reason == "IDENTIFIERS_PAIRWISE", "it would ask which partition a meter is in"
    public = "spine.governance.v1.Governance/ListParticipants"
    request = asking(public, PLAIN)
    request.at_least.CopyFrom(told.positions)
    (told,) = await clients[ONE].call(public, request)
    assert world.asked[-1][1].at_least.positions[0].topic == "s-topic"
    request = asking(name)
    request.at_least.CopyFrom(told.positions)
    await clients[ONE].call(name, request)
    assert world.asked[-1][1].at_least.positions[0].topic == "s-topic"


async def test_no_proof_is_given_of_what_names_the_meter(clients: dict[str, Client]) -> None:
    name = "spine.ledger.v1.Ledger/ListReads"
    request = asking(name)
    (told,) = await clients[ONE].call(name, request)
    assert not any(read.proof for read in told.reads)
    request.with_proofs = True
    failure, _ = await clients[ONE].failure(name, request)
    assert (failure.reason, failure.field) == ("IDENTIFIERS_PAIRWISE", "with_proofs")


@pytest.mark.parametrize("kind", [Refused, Invalid])
async def test_an_error_says_its_reason_and_no_more(
    clients: dict[str, Client], world: World, kind: type[SpineError]
) -> None:
    for name in sorted(TREATED):
        world.fails_with = kind(Reason.CONSENT_UNKNOWN, f"{CONSENT} is not here", field="mpxn")
        failure, raised = await clients[ONE].failure(name, asking(name))
        assert (failure.reason, failure.message) == ("CONSENT_UNKNOWN", "CONSENT_UNKNOWN")
        assert CONSENT not in str(raised)
        world.fails_with = kind(Reason.CONSENT_UNKNOWN, f"{CONSENT} is not here")
        naive, _ = await clients[PLAIN].failure(name, asking(name, PLAIN))
        assert CONSENT in naive.message


async def test_so_does_one_that_another_server_passed_on(
    clients: dict[str, Client], world: World
) -> None:
    error = Invalid(Reason.INTERVAL_INVALID, f"not of {CONSENT}", field="interval")
    world.aborts_with = status_of(error).SerializeToString()
    for name in ("spine.dsi.v1.Dsi/GetReadings", "spine.dsi.v1.Dsi/StreamReadings"):
        failure, raised = await clients[ONE].failure(name, asking(name))
        assert (failure.reason, failure.field) == ("INTERVAL_INVALID", "interval")
        assert CONSENT not in str(raised) and MPAN not in str(raised)
        plain, _ = await clients[PLAIN].failure(name, asking(name, PLAIN))
        assert plain.reason == "INTERVAL_INVALID"


@pytest.mark.parametrize("passed_on", [False, True])
async def test_the_cursor_of_a_refused_page_is_sealed_and_taken_back(
    clients: dict[str, Client], world: World, passed_on: bool
) -> None:
    """It is bound to a request that names the meter, and may name places in the log."""
    name, error = "spine.dsi.v1.Dsi/GetReadings", not_permitted(Reason.INTERVAL_NOT_COVERED)
    error.facts |= {NEXT_CURSOR: f"of {MPAN}", "at_offset": "7"}
    if passed_on:
        world.aborts_with = status_of(error).SerializeToString()
    else:
        world.fails_with = error
    plain, _ = await clients[PLAIN].failure(name, asking(name, PLAIN))
    assert plain.facts == {NEXT_CURSOR: f"of {MPAN}", "at_offset": "7"}
    failure, raised = await clients[ONE].failure(name, asking(name))
    assert failure.facts.keys() == {NEXT_CURSOR} and failure.reason == "INTERVAL_NOT_COVERED"
    assert MPAN not in str(failure) and MPAN not in str(raised)
    world.fails_with = world.aborts_with = None
    request = asking(name)
    request.cursor = failure.facts[NEXT_CURSOR]
    await clients[ONE].call(name, request)
    assert world.asked[-1][1].cursor == f"of {MPAN}"


def test_a_status_keeps_its_reason_and_its_time_to_wait() -> None:
    retry = error_details_pb2.RetryInfo()
    retry.retry_delay.FromMilliseconds(250)
    status = status_of(Invalid(Reason.TIME_INVALID, f"of {MPAN}", field="since"))
    status.details.add().Pack(retry)
    bare = Status.FromString(bare_status(Party(ONE, MADE), status.SerializeToString()))
    assert MPAN.encode() not in bare.SerializeToString()
    assert [d.TypeName() for d in bare.details] == [d.TypeName() for d in status.details]
    assert bare.code == status.code


class InPartitions(dsi_pb2_grpc.DsiServicer):
    """Streams the meters of one partition after those of another, and refuses some."""

    def __init__(self, refused: set[str] | None = None, *, passed_on: bool = False) -> None:
        self.refused, self.passed_on = refused or set(), passed_on
        self.asked_at_once = 0

    async def StreamReadings(self, request: Any, context: Any) -> AsyncIterator[Any]:
        self.asked_at_once = len(request.mpxns)
        for mpxn in sorted(request.mpxns, key=lambda mpxn: (int(mpxn) % 4, mpxn)):
            refused = "CONSENT_REVOKED" if mpxn in self.refused else ""
            said = {"mpxn": mpxn, "refused": refused}
            if request.members_per_message:
                decision = dsi_pb2.Decision(request_id=bytes(16), partition=int(mpxn) % 4)
                answer = dsi_pb2.StreamReadingsResponse(members=[said | {"decision": decision}])
                yield Encoded(dsi_pb2.StreamReadingsResponse, answer.SerializeToString())
            else:
                yield dsi_pb2.StreamReadingsResponse(**said)
        if self.refused.issuperset(request.mpxns):
            error = NotPermitted(Reason.CONSENT_REVOKED, f"none is left of {request.mpxns}")
            if self.passed_on:
                details = ((STATUS_DETAILS, status_of(error).SerializeToString()),)
                await context.abort(grpc.StatusCode.PERMISSION_DENIED, error.message, details)
            raise error


STREAM = "spine.dsi.v1.Dsi/StreamReadings"
METERS = [f"12000000{n:05d}" for n in (7, 3, 12, 1, 9, 8, 2, 5)]


@asynccontextmanager
async def streaming(authority: Authority, servicer: InPartitions) -> AsyncIterator[Any]:
    """Asks a server of that servicer for a stream, as a party; what came, and how it failed."""
    around = Pairwise(World().standing, lambda: MADE).around
    name = STREAM.partition("/")[0]
    service = around(Service(name, dsi_pb2_grpc.add_DsiServicer_to_server, servicer))
    server = build_server(authority.issue_server(Role.DSI, "dsi-1"), [service])
    await server.start()

    async def ask(party: str, mpxns: list[str], **more: Any) -> tuple[list[str], list[str], str]:
        named = [MADE.close(Kind.METER, party, m) for m in mpxns] if party == ONE else mpxns
        folder = authority.issue_client(Role.DATA_USER, party).folder
        request = dsi_pb2.StreamReadingsRequest(mpxns=named, **more)
        came, reason = [], ""
        async with connect(f"127.0.0.1:{server.port}", folder) as channel:
            try:
                async for chunk in dsi_pb2_grpc.DsiStub(channel).StreamReadings(
                    request, timeout=20
                ):
                    came += [member.mpxn for member in chunk.members] or [chunk.mpxn]
                    if party == ONE:
                        assert not any(member.decision.partition for member in chunk.members)
            except grpc.aio.AioRpcError as error:
                reason = error_from(error).reason
                assert party != ONE or error_from(error).message in ("", reason)
        return named, came, reason

    yield ask
    await server.stop(0)


async def test_a_stream_does_not_show_which_meters_share_a_partition(authority: Authority) -> None:
    async with streaming(authority, InPartitions()) as ask:
        named, came, reason = await ask(ONE, METERS)
        assert came == named and not reason
        named, came, _ = await ask(PLAIN, METERS)
        assert came != named, "the naive stream is in the order of partitions"


async def test_members_of_a_message_are_named_as_chunks_are_and_no_two_come_together(
    authority: Authority,
) -> None:
    servicer = InPartitions()
    async with streaming(authority, servicer) as ask:
        named, came, reason = await ask(ONE, METERS, in_columns=True, members_per_message=8)
        assert came == named and not reason
        assert servicer.asked_at_once == 1
        _, came, _ = await ask(PLAIN, METERS, in_columns=True, members_per_message=8)
        assert sorted(came) == sorted(METERS), "the naive stream names them by MPxN"
        assert servicer.asked_at_once == len(METERS)


async def test_a_stream_follows_one_meter_or_one_decision_would_be_of_a_partition(
    authority: Authority,
) -> None:
    async with streaming(authority, InPartitions()) as ask:
        for mpxns in (METERS[:2], [METERS[0]] * 2):
            assert (await ask(ONE, mpxns, follow=True))[1:] == ([], "IDENTIFIERS_PAIRWISE")
        named, came, reason = await ask(ONE, METERS[:1], follow=True)
        assert (came, reason) == (named, "")
        named, came, _ = await ask(PLAIN, METERS, follow=True)
        assert sorted(came) == sorted(named) and came != named, "the naive one follows them all"


@pytest.mark.parametrize("passed_on", [True, False])
async def test_a_stream_goes_on_while_any_meter_is_left_and_ends_with_the_last_reason(
    authority: Authority, passed_on: bool
) -> None:
    async with streaming(authority, InPartitions(set(METERS[:7]), passed_on=passed_on)) as ask:
        named, came, reason = await ask(ONE, METERS)
        assert (came, reason) == (named, "")
    async with streaming(authority, InPartitions(set(METERS), passed_on=passed_on)) as ask:
        for party in (ONE, PLAIN):
            named, came, reason = await ask(party, METERS)
            assert (sorted(came), reason) == (sorted(named), "CONSENT_REVOKED")


async def test_what_a_stream_may_not_ask_is_for_the_service_to_say(authority: Authority) -> None:
    async with streaming(authority, InPartitions()) as ask:
        twice = [METERS[0], METERS[0]]
        named, came, _ = await ask(ONE, twice)
        assert came == named, "it is asked as it is"
