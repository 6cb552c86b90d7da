"""How a command that failed says what a service said."""

import grpc
import pytest
from grpc.aio import AioRpcError, Metadata

from spine.console.output import fail_rpc
from spine.errors import NotPermitted, Pushback, Reason, SpineError, Throttled
from spine.server import STATUS_DETAILS, status_of


def said_of(error: SpineError) -> AioRpcError:
    """The error as a client gets it."""
    status = status_of(error)
    trailing = Metadata((STATUS_DETAILS, status.SerializeToString()))
    return AioRpcError(grpc.StatusCode[error.grpc_code], Metadata(), trailing, status.message, "")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            Pushback(Reason.OVERLOADED, "too many calls", retry_after_s=0.321),
            "OVERLOADED  too many calls; again in 0.4 s\n",
        ),
        (
            Throttled(Reason.METERS_LIMITED, "too many meters", retry_after_s=1800),
            "METERS_LIMITED  too many meters; again in 1800 s\n",
        ),
        (NotPermitted(Reason.PARTY_HELD, "held"), "PARTY_HELD  held\n"),
    ],
)
def test_who_may_ask_again_is_told_when(
    error: SpineError, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    fail_rpc(said_of(error))
    assert capsys.readouterr().err == said
