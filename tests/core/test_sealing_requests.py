"""What is personal in a request is sealed before there is a command, and so is its digest."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from domains.consumers.commands import ConsentTerms
from domains.governance.commands import GrantAccreditation
from domains.governance.decider import decide
from spine.consumers.v1 import consumers_pb2
from spine.domain import Actor
from spine.errors import Invalid, Reason, Refused
from spine.sealing import Vault
from spine.services import terms, wire
from spine.services.sealing_requests import NOBODY, RequestSealing
from spine.trust import Accreditation, Participant, Standing
from tests.domains.consumers.home import ANNA, day
from tests.domains.consumers.home import terms as agreed_terms
from tests.helpers.accredited import BOARD
from tests.helpers.records import METER

DETAILS: dict[str, Any] = {
    "purpose_text": "We look at your evenings",
    "account_reference": "A-4711",
    "evidence_id": "CALL-99",
}
SERVICE, ADVISER = Actor("consent_service", "ccs"), Actor("data_user", "adviser")


@pytest.fixture
def vault(tmp_path: Path) -> Iterator[Vault]:
    opened = Vault.open(tmp_path / "vault.sqlite")
    yield opened
    opened.close()


def sealing(vault: Vault, *held: Accreditation) -> RequestSealing:
    participant = Participant("Adviser", accreditations=held) if held else None
    fold = SimpleNamespace(participant=lambda party: participant)
    live = SimpleNamespace(stored=SimpleNamespace(fold=fold))
    meters: Any = SimpleNamespace(live=lambda mpxn: live)
    return RequestSealing(vault, meters)


def asked(dry_run: bool = False, **record: Any) -> Any:
    return consumers_pb2.GrantConsentRequest(
        idempotency_key="k",
        mpxns=[METER],
        data_user="adviser",
        dry_run=dry_run,
        record=consumers_pb2.RecordTerms(**record),
    )


def of(consumer_ref: str = "c-anna") -> ConsentTerms:
    return agreed_terms(consumer_ref=consumer_ref)


async def test_what_is_personal_is_sealed_and_nothing_else_says_it(vault: Vault) -> None:
    said = await sealing(vault).record(asked(relation="OCCUPIER", **DETAILS), "k-1", of())
    assert said.relation == "OCCUPIER" and said.details is not None
    plain = vault.unseal(said.details)
    assert plain is not None and json.loads(plain) == DETAILS
    assert not any(text in repr(said) for text in DETAILS.values())
    again = await sealing(vault).record(asked(relation="OCCUPIER", **DETAILS), "k-1", of())
    assert again.details != said.details and again.details_digest == said.details_digest
    other = await sealing(vault).record(asked(account_reference="A-4712"), "k-1", of())
    assert other.details_digest != said.details_digest
    theirs = await sealing(vault).record(asked(**DETAILS), "k-1", of("c-ben"))
    assert theirs.details_digest != said.details_digest, "it is not the digest of the text alone"
    vault.destroy("c-anna")
    assert vault.unseal(said.details) is None


@pytest.mark.parametrize("quiet", [asked(dry_run=True, **DETAILS), asked()])
async def test_a_dry_run_and_a_record_without_it_seal_nothing(vault: Vault, quiet: Any) -> None:
    said = await sealing(vault).record(quiet, "k-1", of())
    assert (said.details, said.details_digest) == (None, b"")
    nobody = await sealing(vault).record(asked(**DETAILS), "k-1", of(NOBODY))
    assert nobody.details is None


async def test_the_digest_of_such_a_request_tells_nobody_what_it_said(vault: Vault) -> None:
    """Who tries account numbers on the bare digest, which the log would keep, finds the one."""
    request, seal = asked(**DETAILS), sealing(vault)
    made = await seal.order(request, "GrantConsent", METER, None, ANNA, "c-anna")
    bare = wire.request_digest(asked(**DETAILS))
    assert made.digest != bare
    again = await seal.order(asked(**DETAILS), "GrantConsent", METER, None, ANNA, "c-anna")
    assert again.digest == made.digest, "a repeated request is known"
    open_one = asked(relation="OCCUPIER")
    plain = await seal.order(open_one, "GrantConsent", METER, None, ANNA, "c-anna")
    assert plain.digest == wire.request_digest(open_one)
    vault.destroy("c-anna")
    with pytest.raises(Refused) as refused:
        await seal.order(request, "GrantConsent", METER, None, ANNA, "c-anna")
    assert refused.value.reason is Reason.SUBJECT_ERASED


@pytest.mark.parametrize("naive", [False, True])
async def test_a_request_sent_again_after_a_move_is_the_same_one(vault: Vault, naive: bool) -> None:
    """Keyed by who lives there, it is another one, and that tells a data user of the move."""

    def request(account: str = "A-4711") -> Any:
        said = consumers_pb2.RecordTerms(granularity="DAY", account_reference=account)
        return consumers_pb2.RequestConsentRequest(idempotency_key="k", mpxns=[METER], record=said)

    async def digest(request: Any, about: str) -> bytes:
        if naive:
            return vault.keyed(about, wire.request_digest(request))
        order = sealing(vault).order(request, "RequestConsent", METER, None, ADVISER, about)
        return (await order).digest

    found = [await digest(request(), about) for about in (NOBODY, "c-anna", "c-ben")]
    assert (len(set(found)) == 1) is not naive
    assert vault.destroy(NOBODY) is naive, "nobody has no key"
    assert found[1] != wire.request_digest(request())
    other = request()
    other.record.granularity = "READING"
    assert await digest(other, "c-anna") != found[1]
    assert (await digest(request("A-4712"), "c-anna") == found[1]) is not naive


async def test_the_tier_is_what_the_data_user_holds_now_for_that_purpose(vault: Vault) -> None:
    def held(role: str, tier: str, *purposes: str, until: Any = None) -> Accreditation:
        return Accreditation(role, "REC", tier, purposes, day(1), until)

    for accreditations, tier in (
        ((held("data_user", "other user"),), "REC other user"),
        ((held("data_user", "1", "RESEARCH"), held("supplier", "2")), "REC 2"),
        ((held("data_service", "1"),), ""),
        ((held("data_user", "1", until=day(2)),), ""),
        ((), ""),
    ):
        said = await sealing(vault, *accreditations).record(asked(), "k-1", of())
        assert said.tier == tier


async def test_no_two_accreditations_are_recorded_alike(vault: Vault) -> None:
    """A scheme with a space would read as another scheme with a longer tier."""

    async def line(scheme: str, tier: str) -> str:
        held = Accreditation("data_user", scheme, tier, (), day(1), None)
        return (await sealing(vault, held).record(asked(), "k-1", of())).tier

    def admitted(scheme: str, tier: str) -> bool:
        command = GrantAccreditation(BOARD, "adviser", "data_user", scheme, tier, (), day(1))
        try:
            return bool(decide(Standing(participant=Participant("Adviser")), command, day(2)))
        except Refused:
            return False

    pairs = [("REC", "A B"), ("REC A", "B"), ("REC", "A"), ("REC A", ""), ("REC", "")]
    naive = [await line(*pair) for pair in pairs]
    assert len(set(naive)) < len(naive)
    found = [await line(*pair) for pair in pairs if admitted(*pair)]
    assert len(set(found)) == len(found) == 3


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("relation", "the lodger"),
        ("granularity", "half hour"),
        ("authentication_level", "high"),
        ("authentication_method", "a card"),
        ("evidence_method", "a card"),
        ("uprn", "1" * 13),
        ("uprn", "10a"),
        ("recipients", ["no such party!"]),
        ("processor", "x"),
        ("purpose_text", "x" * 2_001),
        ("account_reference", "a\nb"),
        ("evidence_id", "x" * 201),
    ],
)
def test_what_cannot_be_part_of_a_record_is_named_and_not_repeated(field: str, value: Any) -> None:
    request = asked(**{field: value})
    with pytest.raises(Invalid) as invalid:
        terms.record(request)
        terms.details(request)
    assert invalid.value.field == f"record.{field}"
    assert str(value) not in invalid.value.message
