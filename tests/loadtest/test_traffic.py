"""Calls that nobody answers: counted, waited for as long as their caller did, never held right."""

import asyncio

import grpc
import pytest

from loadtest.installation import WrongAnswer
from loadtest.mixing import GATES, SMALL_GATES, TARGETS, AfterRevoking
from loadtest.results import Bound, Result
from loadtest.traffic import Patience, Unanswered, answer_to, at_pace
from spine.errors import Bug, NotPermitted, Pushback, Reason, SpineError
from spine.server import STATUS_DETAILS, status_of

CUT = "RST_STREAM"


def ended(
    code: grpc.StatusCode, error: SpineError | None = None, said: str = CUT
) -> grpc.aio.AioRpcError:
    """How a call ends: with what the spine says of an error, or with what gRPC says by itself."""
    trailing = grpc.aio.Metadata()
    if error is not None:
        trailing.add(STATUS_DETAILS, status_of(error).SerializeToString())
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailing, said, said)


NOT_ANSWERED = [
    ended(grpc.StatusCode.DEADLINE_EXCEEDED),
    ended(grpc.StatusCode.UNAVAILABLE),
    ended(grpc.StatusCode.UNAVAILABLE, Pushback(Reason.FOLD_BEHIND, "later")),
    ended(grpc.StatusCode.RESOURCE_EXHAUSTED),
    ended(grpc.StatusCode.CANCELLED),
    ended(grpc.StatusCode.CANCELLED, said="CANCELLED"),
    ended(grpc.StatusCode.INTERNAL),
    ended(grpc.StatusCode.UNKNOWN),
]
WRONG = [
    ended(grpc.StatusCode.INTERNAL, Bug("an invariant is broken")),
    ended(grpc.StatusCode.INTERNAL, said="Failed to serialize response!"),
    ended(grpc.StatusCode.UNKNOWN, said="Unexpected <class 'ValueError'>"),
    ended(grpc.StatusCode.PERMISSION_DENIED, NotPermitted(Reason.NOT_PERMITTED, "no")),
    ended(grpc.StatusCode.PERMISSION_DENIED),
    ended(grpc.StatusCode.UNIMPLEMENTED),
]
REVOKED = ended(grpc.StatusCode.PERMISSION_DENIED, NotPermitted(Reason.CONSENT_REVOKED, "revoked"))


@pytest.mark.parametrize("error", NOT_ANSWERED, ids=lambda e: e.code().name)
async def test_a_pace_beyond_the_machine_ends_with_a_result(error: grpc.aio.AioRpcError) -> None:
    async def every_other(number: int) -> None:
        with answer_to("a call"):
            if number % 2:
                await asyncio.sleep(0.05)  # so long its caller waits
                raise error

    taken = await at_pace(every_other, per_s=1_000, seconds=0.1)
    assert (len(taken.latencies_ms), taken.unanswered) == (100, 50)
    assert taken.at(99) >= 50, "who gave up had waited by then"
    assert taken.per_s == pytest.approx(50 / taken.seconds), "and nobody had answered"


@pytest.mark.parametrize("error", WRONG, ids=lambda e: e.code().name)
async def test_a_wrong_end_is_no_missing_answer(error: grpc.aio.AioRpcError) -> None:
    async def wrong(_: int) -> None:
        with answer_to("a call"):
            raise error

    with pytest.raises(WrongAnswer):
        await at_pace(wrong, per_s=1_000, seconds=0.1)


async def _after_revoking(end: grpc.aio.AioRpcError | None) -> AfterRevoking:
    async def call(request: bytes, timeout: float) -> bytes:
        if end is not None:
            raise end
        return request

    after = AfterRevoking()
    await after.read(Patience(deadline_s=0.05), call, b"")
    return after


async def test_a_read_after_a_revocation_is_refused_or_late_or_a_stale_permit() -> None:
    assert await _after_revoking(REVOKED) == AfterRevoking(refused=1)
    for error in NOT_ANSWERED:
        with pytest.raises(Unanswered):
            await _after_revoking(error)
    for error in WRONG:
        with pytest.raises(WrongAnswer):
            await _after_revoking(error)
    assert await _after_revoking(None) == AfterRevoking(permitted=1)


async def test_every_stale_permit_is_counted_and_the_run_has_failed() -> None:
    """The naive server forgets each third revocation; the load goes on."""
    after = AfterRevoking()

    async def server(request: bytes, timeout: float) -> bytes:
        if int(request) % 3:
            raise REVOKED
        return request

    async def revoke(number: int) -> None:
        await after.read(Patience(), server, b"%d" % number)

    taken = await at_pace(revoke, per_s=1_000, seconds=0.03)
    assert (len(taken.latencies_ms), taken.unanswered) == (30, 0)
    assert after == AfterRevoking(refused=20, permitted=10)
    figures = {"stale_permits": float(after.permitted), "revocations_checked": 30.0}
    result = Result("mixed", 1, figures, TARGETS, GATES)
    assert not result.passed and "stale_permits ≤ 0" in map(str, result.missed())


def test_a_small_run_in_which_nothing_is_answered_does_not_pass() -> None:
    """The naive gate holds, for nobody had a stale permit."""
    answered = {
        "stale_permits": 0.0,
        "revocations_checked": 10.0,
        "revocations_checked_share": 1.0,
        "answered_share": 1.0,
    }
    silent = {**dict.fromkeys(answered, 0.0)}
    naive = Bound("stale_permits", most=0)
    assert Result("mixed", 1, answered, (), SMALL_GATES).passed
    assert not Result("mixed", 1, silent, (), SMALL_GATES).passed
    assert not Result("mixed", 1, silent, (), GATES).passed
    assert Result("mixed", 1, silent, (), (naive,)).passed
