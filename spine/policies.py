"""The versions of the policy that this build can judge by, each with its data in `policy_data`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from spine.event import AccessRequest
from spine.policy import Decision, Situation, decide_v1
from spine.policy_v2 import decide_v2

POLICIES: Final[Mapping[int, Callable[[AccessRequest, Situation], Decision]]] = {
    1: decide_v1,
    2: decide_v2,
}
