"""What a coordinator asks the log before it opens anything: level with it, and of who is erased."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from domains.consumers.erasure import ERASURES, SubjectErased
from domains.consumers.personal import Page
from spine import trust
from spine.codec import Codec, tools
from spine.consumers.v1 import seals_pb2
from spine.errors import Pushback, Reason, Refused
from spine.event import Sealed
from spine.identity import Caller
from spine.partition import PartitionFold
from spine.policy import Role
from spine.rows import Tools
from spine.schemas import Schemas
from spine.sealing import VAULT_FILE, Vault
from spine.server import act_for
from spine.services.seals import SealsService
from spine.signing import verify
from tests.helpers.records import CODEC, DOMAINS, MOVED_IN, TOOLS, Scene, command

ANNA, BEN = "c-1", "c-2"


@pytest.fixture
def vault(tmp_path: Path) -> Iterator[Vault]:
    opened = Vault.open(tmp_path / VAULT_FILE)
    yield opened
    opened.close()


@dataclass
class Home:
    """The home of erasures as a coordinator has folded it; `level` folds what others wrote."""

    tools: Tools = TOOLS
    elsewhere: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.scene = Scene(PartitionFold, trust.ERASURES_TOPIC, 0, ERASURES, self.tools)

    def erases(self, subject: str) -> None:
        self.scene.facts(command(subject, SubjectErased(MOVED_IN), domain=ERASURES))

    def live(self, subject: str) -> Any:
        return SimpleNamespace(stored=SimpleNamespace(fold=self.scene.fold))

    def state(self, subject: str) -> Any:
        return self.scene.fold.subject(subject).state

    async def level(self, subject: str) -> None:
        while self.elsewhere:
            self.erases(self.elsewhere.pop())


class Reads:
    """A coordinator's reads: each place is Anna's, with one sealed field."""

    def __init__(self, *sealed: Sealed) -> None:
        self.page = Page(sealed, 0)

    async def take(self, place: Any, server: str) -> tuple[str, Page]:
        return ANNA, self.page


async def opened(home: Any, vault: Vault) -> Any:
    act_for(Caller(Role.DSI, "dsi", bytes(32)))
    reads: Any = Reads(vault.seal(ANNA, "notice/c", b"We read."))
    return await SealsService(reads, home, vault).OpenSeals(seals_pb2.OpenSealsRequest(), None)


async def test_who_is_not_erased_is_told(vault: Vault) -> None:
    home = Home()
    home.erases(BEN)
    said = await opened(home, vault)
    assert [one.text for one in said.opened] == ["We read."] and len(said.digest) == 32


async def test_an_erasure_that_another_coordinator_took_is_not_missed(vault: Vault) -> None:
    home = Home(elsewhere=[ANNA])
    with pytest.raises(Refused) as refused:
        await opened(home, vault)
    assert refused.value.reason is Reason.SUBJECT_ERASED

    class Behind(Home):
        async def level(self, subject: str) -> None:
            """The naive opening asks the fold as it is."""

    assert (await opened(Behind(elsewhere=[ANNA]), vault)).opened[0].text == "We read."


async def test_what_this_build_cannot_read_of_a_consumer_opens_nothing(vault: Vault) -> None:
    known = {i: s for i, s in CODEC.schemas.by_id.items() if s.name != "consumers.SubjectErased"}
    home = Home(tools(Codec(Schemas(known), DOMAINS), verify))
    home.erases(ANNA)
    assert home.state(ANNA).standing != "ERASED", "the state alone says nothing of it"
    with pytest.raises(Pushback) as refused:
        await opened(home, vault)
    assert refused.value.reason is Reason.METER_CLOSED


async def test_what_does_not_open_beside_what_does_is_said_why(
    vault: Vault, tmp_path: Path
) -> None:
    lost = Vault.open(tmp_path / "lost.sqlite")
    old = lost.seal(ANNA, "notice/c", b"We read.")
    lost.close()
    new = vault.seal(ANNA, "notice/d", b"We read on.")
    reads: Any = Reads(old, new, replace(new, context="notice/e"))
    act_for(Caller(Role.DSI, "dsi", bytes(32)))
    home: Any = Home()
    said = await SealsService(reads, home, vault).OpenSeals(seals_pb2.OpenSealsRequest(), None)
    assert [(one.text, one.reason) for one in said.opened] == [
        ("", Reason.KEYS_NOT_AT_HAND),
        ("We read on.", ""),
        ("", Reason.SEAL_DAMAGED),
    ]


async def test_a_page_of_which_no_key_is_left_is_no_answer(vault: Vault, tmp_path: Path) -> None:
    lost = Vault.open(tmp_path / "lost.sqlite")
    reads: Any = Reads(lost.seal(ANNA, "notice/c", b"We read."))
    lost.close()
    vault.seal(ANNA, "notice/d", b"new")
    act_for(Caller(Role.DSI, "dsi", bytes(32)))
    home: Any = Home()
    with pytest.raises(Pushback) as refused:
        await SealsService(reads, home, vault).OpenSeals(seals_pb2.OpenSealsRequest(), None)
    assert refused.value.reason is Reason.KEYS_NOT_AT_HAND
