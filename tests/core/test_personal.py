"""What is kept sealed about a consumer, asked for by itself, and what an audit can tell of it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec import structs

from domains.consumers import personal
from domains.consumers.decider import CONSUMERS
from domains.consumers.erasure import ERASURES, SubjectErased, SubjectRestricted
from domains.consumers.events import (
    ConsentRequested,
    ConsentTermsRecorded,
    TenancyEnded,
    TenancyStarted,
)
from domains.consumers.personal import FIELDS_MAX, Page, PersonalText, page_of, texts_of
from domains.consumers.record import RecordTerms
from spine import trust
from spine.answer import records_digest
from spine.codec import unpack
from spine.console.keys import KeysAtHand
from spine.dsi.again import Keys
from spine.errors import Invalid, Reason
from spine.event import LogRecord, Sealed
from spine.policy import Basis, Category, Permit, Refuse
from spine.rows import Subject, subject_history
from spine.sealing import VAULT_FILE, Opened, Vault, bare_digest
from tests.helpers.history import History, Read, audit, day
from tests.helpers.records import (
    BEGUN,
    EXPIRES,
    METER,
    MOVED_IN,
    MemoryLog,
    Scene,
    command,
    granted,
    moved_in,
)

ANNA, BEN = "c-1", "c-2"
PERSON = {"name": "Anna Marker", "contact": ""}
NOTICE, ASKED = "We read your half hours.", "May we read your half hours?"
DETAILS = {"purpose_text": "to advise you", "account_reference": "4711", "evidence_id": ""}
OWN: dict[str, Any] = {
    "party": ANNA,
    "role": "consumer",
    "basis": Basis.SUBJECT,
    "purpose": "OWN_USE",
    "category": Category.CONSENTS,
    "measurement_quantity": "",
    "method": "GetPersonalRecord",
}
HERE = (trust.CONSUMER_LOG,)


@pytest.fixture
def vault(tmp_path: Path) -> Iterator[Vault]:
    opened = Vault.open(tmp_path / VAULT_FILE)
    yield opened
    opened.close()


def person(vault: Vault, subject: str, tenancy_id: str, **said: str) -> Sealed:
    return vault.seal(subject, f"person/{tenancy_id}", json.dumps(PERSON | said).encode())


def notice(vault: Vault, text: str, consent_id: str = "consent-1") -> Sealed:
    return vault.seal(ANNA, f"notice/{consent_id}", text.encode())


def lived(vault: Vault) -> History:
    """Anna moves in, is asked, and grants with a notice of its own; then Ben lives there."""
    history = History()
    history.facts(structs.replace(moved_in(), person=person(vault, ANNA, "t-1")))
    grant = granted()
    history.facts(
        ConsentRequested(
            grant.consent_id,
            grant.data_user,
            grant.tenancy_id,
            ANNA,
            grant.purpose,
            grant.categories,
            grant.history_from,
            grant.valid_from,
            EXPIRES,
            EXPIRES,
            BEGUN - timedelta(days=1),
            notice=notice(vault, ASKED),
        )
    )
    details = vault.seal(ANNA, "record/consent-1", json.dumps(DETAILS).encode())
    terms = RecordTerms(details=details, details_digest=bytes(32))
    history.facts(
        structs.replace(grant, notice=notice(vault, NOTICE)),
        ConsentTermsRecorded(grant.consent_id, terms, grant.decided_at),
    )
    until = day(8, 1)
    history.facts(
        TenancyEnded("t-1", until),
        TenancyStarted("t-2", BEN, until, person(vault, BEN, "t-2", name="Ben Marker")),
    )
    return history


def opening(vault: Vault) -> Callable[[str, Sequence[Sealed]], Opened]:
    def open_(subject: str, sealed: Sequence[Sealed]) -> Opened:
        opened = vault.open_for(subject, sealed)
        assert opened is not None
        return opened

    return open_


def whatever_opens(vault: Vault) -> Callable[[str, Sequence[Sealed]], Opened]:
    """The naive opening: under the key that is there, whatever it was sealed with."""

    def open_(subject: str, sealed: Sequence[Sealed]) -> Opened:
        texts = [vault.unseal(each) for each in sealed]
        return Opened((), vault.keyed(subject, bare_digest(sealed, texts)), ())

    return open_


def read(history: History, vault: Vault, **changes: Any) -> Read:
    """The read as an honest server does it; `changes` of the outcome, or of the request."""
    wanted = {name: changes.pop(name) for name in tuple(changes) if name in {*OWN, "meters"}}
    vector = changes.pop("vector", history.positions(*HERE))
    asked = history.ask(history.asked(**(OWN | wanted)), vector=vector)
    (decided,) = asked.decided
    if isinstance(decided.decision, Permit) and vector:
        made = history.answer(asked.record, decided)
        digest = made.digest
        if made.sealed:
            digest = opening(vault)(decided.request.party, made.sealed).digest
        changes = {"digest": digest} | changes
    outcome = history.outcome(asked.record, decided, **changes)
    history.tell(outcome)
    return replace(asked, outcomes=(outcome,))


def shown(history: History, vault: Vault, asked: Read) -> list[tuple[str, str, str | None]]:
    (decided,) = asked.decided
    made = history.answer(asked.record, decided)
    if not made.sealed:
        return []
    texts = opening(vault)(decided.request.party, made.sealed).texts
    said = zip(made.sealed, texts, strict=True)
    return [(t.what, t.about, t.text) for s, text in said for t in texts_of(s, text)]


ANNAS = [
    ("name", "t-1", "Anna Marker"),
    ("notice", "consent-1", ASKED),
    ("notice", "consent-1", NOTICE),
    ("purpose_text", "consent-1", "to advise you"),
    ("account_reference", "consent-1", "4711"),
]


def test_a_consumer_is_shown_all_that_was_sealed_of_it_and_no_more(vault: Vault) -> None:
    history = lived(vault)
    assert shown(history, vault, read(history, vault)) == ANNAS, "the former occupier, its own"
    assert shown(history, vault, read(history, vault, party=BEN)) == [
        ("name", "t-2", "Ben Marker"),
    ]
    assert audit(history.records(), keys=opening(vault)).verdicts == {"SAME": 2}


def test_the_answer_shows_what_was_known_then(vault: Vault) -> None:
    history = History()
    history.facts(structs.replace(moved_in(), person=person(vault, ANNA, "t-1")))
    then = history.positions(*HERE)
    history.facts(structs.replace(granted(), notice=notice(vault, NOTICE)))
    assert len(shown(history, vault, read(history, vault))) == 2
    assert shown(history, vault, read(history, vault, vector=then)) == ANNAS[:1]
    assert audit(history.records(), keys=opening(vault)).verdicts == {"SAME": 2}


@pytest.mark.parametrize(
    ("who", "reason"),
    [
        ({"party": "c-3"}, Reason.NOT_THE_OCCUPIER),
        ({"party": "adviser", "role": "data_user"}, Reason.BASIS_NOT_FOR_ROLE),
        ({"party": "north", "role": "supplier"}, Reason.BASIS_NOT_FOR_ROLE),
        ({"party": "watch", "role": "auditor"}, Reason.BASIS_NOT_FOR_ROLE),
        ({"purpose": "RESEARCH"}, Reason.PURPOSE_UNKNOWN),
    ],
)
def test_nobody_else_is_permitted(vault: Vault, who: dict[str, str], reason: Reason) -> None:
    history = lived(vault)
    (decided,) = read(history, vault, **who).decided
    assert isinstance(decided.decision, Refuse) and decided.decision.reason is reason
    assert audit(history.records(), keys=opening(vault)).verdicts == {"SAME": 1}


def test_a_data_user_with_a_consent_is_shown_nothing_of_it_whatever_it_calls_itself(
    vault: Vault,
) -> None:
    """The fold permits it the category; a server that let it past the edge has nothing to show."""
    history = lived(vault)
    by_consent = {"basis": Basis.CONSENT, "purpose": "ENERGY_ADVICE", "role": "data_user"}
    asked = read(history, vault, party="adviser", **by_consent)
    assert isinstance(asked.decided[0].decision, Permit)
    assert shown(history, vault, asked) == []
    read(history, vault, party="adviser", rows=1, **by_consent)
    found = audit(history.records(), keys=opening(vault))
    assert found.verdicts == {"SAME": 1, "DIFFERENT": 1}


def test_a_data_user_that_is_called_as_a_consumer_is_shown_nothing_of_it(vault: Vault) -> None:
    history = History()
    sealed = person(vault, "adviser", "t-1")
    history.facts(structs.replace(moved_in(consumer_ref="adviser"), person=sealed))
    history.facts(granted())
    by_consent = {"basis": Basis.CONSENT, "purpose": "ENERGY_ADVICE", "role": "data_user"}
    asked = read(history, vault, party="adviser", **by_consent)
    assert isinstance(asked.decided[0].decision, Permit)
    assert shown(history, vault, asked) == []
    assert len(shown(history, vault, read(history, vault, party="adviser"))) == 1


def test_what_another_key_sealed_stays_shut_and_is_said_so(vault: Vault) -> None:
    history = History()
    strange = vault.seal(BEN, "notice/consent-1", NOTICE.encode())
    history.facts(structs.replace(moved_in(), person=person(vault, ANNA, "t-1")))
    history.facts(structs.replace(granted(), notice=strange))
    asked = read(history, vault)
    assert shown(history, vault, asked) == [ANNAS[0], ("notice", "consent-1", None)]
    assert audit(history.records(), keys=opening(vault)).verdicts == {"SAME": 1}


def many(vault: Vault, consents: int) -> History:
    """Anna moves in and consents that many times."""
    history = History()
    history.facts(structs.replace(moved_in(), person=person(vault, ANNA, "t-1")))
    for number in range(consents):
        consent = granted(f"consent-{number}")
        sealed = notice(vault, NOTICE, consent.consent_id)
        history.facts(structs.replace(consent, notice=sealed))
    return history


def pages(history: History, vault: Vault) -> list[Read]:
    """Every page, read one after the other."""
    found, begin = [], 0
    while True:
        found.append(read(history, vault, method=f"GetPersonalRecord/{begin}"))
        begin = history.answer(found[-1].record, found[-1].decided[0]).next_offset
        if not begin:
            return found


def test_many_fields_come_in_pages_and_each_is_judged_by_its_own(vault: Vault) -> None:
    history = many(vault, FIELDS_MAX)
    first, last = pages(history, vault)
    made = [history.answer(r.record, r.decided[0]) for r in (first, last)]
    assert [(one.rows, bool(one.next_offset)) for one in made] == [(32, True), (1, False)]
    assert not set(made[0].sealed) & set(made[1].sealed)
    over = read(history, vault, method=f"GetPersonalRecord/{10**18 - 1}")
    assert history.answer(over.record, over.decided[0]).rows == 0
    assert audit(history.records(), keys=opening(vault)).verdicts == {"SAME": 3}
    read(history, vault, digest=last.outcomes[0].digest, rows=1)
    assert audit(history.records(), keys=opening(vault)).verdicts == {"SAME": 3, "DIFFERENT": 1}


def test_a_page_is_the_same_whatever_was_recorded_since(vault: Vault) -> None:
    history = many(vault, FIELDS_MAX)
    begin = history.answer(*one_read(history, vault)).next_offset
    before = history.answer(*one_read(history, vault, begin)).sealed
    history.facts(structs.replace(granted("consent-later"), notice=notice(vault, NOTICE)))
    assert history.answer(*one_read(history, vault)).next_offset == begin
    assert history.answer(*one_read(history, vault, begin)).sealed[:-1] == before


def one_read(history: History, vault: Vault, begin: int = 0) -> tuple[Any, Any]:
    asked = read(history, vault, method=f"GetPersonalRecord/{begin}")
    return asked.record, asked.decided[0]


def states_of(history: History) -> list[Subject]:
    fold = history.folds[trust.CONSUMER_LOG]
    return list(subject_history(fold.rows, unpack, CONSUMERS, METER, 10**9))


def naive_page(known: Iterable[Subject], consumer_ref: str) -> Page:
    """All that was ever sealed, each once, out of every state there ever was."""
    found: dict[Sealed, None] = {}
    for state in known:
        found |= dict.fromkeys(personal._sealed_in(state.state, consumer_ref))
    return Page(tuple(found), 0)


def test_no_page_looks_at_more_than_it_may_and_all_of_them_show_everything(
    vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = states_of(many(vault, 60))
    looked_at = 0

    def counted(begin: int) -> Iterator[Subject]:
        nonlocal looked_at
        looked_at = 0
        for state in states:
            if state.offset >= begin:
                looked_at += 1 + len(state.state.tenancies) + len(state.state.consents)
                yield state

    whole = naive_page(counted(0), ANNA)
    assert looked_at > 1_900, "the naive page looks at every consent of every state"
    monkeypatch.setattr(personal, "LOOKED_AT_MAX", 100)
    found: list[Sealed] = []
    begin, count = 0, 0
    while True:
        page = page_of(counted(begin), ANNA, begin)
        found, count = [*found, *page.sealed], count + 1
        # The state before, the one that goes over, and the one that is not looked into any more.
        assert looked_at <= 100 + 3 * 62
        if not page.next_offset:
            break
        begin = page.next_offset
    assert tuple(found) == whole.sealed and len(found) == 61
    assert count > 10


def test_a_page_that_begins_anywhere_shows_no_more_than_one_does(vault: Vault) -> None:
    """Not even one that begins at the last state, in which everything stands."""
    states = states_of(many(vault, 60))
    (last,) = states[-1:]
    assert page_of([last], ANNA, last.offset - 1) == Page((), 0)
    assert len(naive_page([last], ANNA).sealed) == 61


def test_who_has_nothing_sealed_is_answered_without_a_key(vault: Vault) -> None:
    history = History()
    history.facts(moved_in())
    (outcome,) = read(history, vault).outcomes
    assert (outcome.rows, outcome.digest) == (0, records_digest(()))
    assert audit(history.records()).verdicts == {"SAME": 1}


# The audit


def test_the_digest_of_an_answer_gives_no_name_away(vault: Vault) -> None:
    history = lived(vault)
    asked = read(history, vault, party=BEN)
    (outcome,) = asked.outcomes
    (sealed,) = history.answer(asked.record, asked.decided[0]).sealed
    text = json.dumps(PERSON | {"name": "Ben Marker"}).encode()
    bare = bare_digest([sealed], [text])
    assert outcome.digest != bare
    assert outcome.digest == vault.keyed(BEN, bare)


def test_another_answer_is_different_with_the_keys_at_hand(vault: Vault) -> None:
    history = lived(vault)
    read(history, vault, digest=b"\x01" * 32)
    ((verdict, why),) = audit(history.records(), keys=opening(vault)).found
    assert (verdict, why) == ("DIFFERENT", "the answer rebuilt has another digest")


def test_how_many_fields_were_shown_is_told_without_any_key(vault: Vault) -> None:
    history = lived(vault)
    read(history, vault)
    assert audit(history.records()).found == [("CANNOT TELL", "keys not at hand")]
    read(history, vault, rows=5)
    assert audit(history.records()).found[1][0] == "DIFFERENT"


def test_a_request_that_names_no_position_of_the_consumer_log_is_no_honest_one(
    vault: Vault,
) -> None:
    history = lived(vault)
    asked = history.ask(history.asked(**OWN), vector=())
    full = history.ask(history.asked(**OWN), vector=history.positions(*HERE))
    honest = history.outcome(full.record, full.decided[0], digest=bytes(32))
    decided = asked.decided[0]
    history.tell(
        replace(honest, request_id=decided.request.request_id, decided_offset=asked.record.offset)
    )
    found = audit(history.records(), keys=opening(vault)).found
    assert ("DIFFERENT", "the request names no positions for what it asks") in found


# Which keys an audit has


class Auditor:
    """An installation as `KeysAtHand` sees it: a data folder, and the log of erasures."""

    def __init__(self, data_dir: Path) -> None:
        self.settings = SimpleNamespace(data_dir=data_dir)
        self.scene = Scene(topic=trust.ERASURES_TOPIC, partition=0, domain=ERASURES)

    def said(self, *events: object, subject: str = ANNA) -> None:
        row = self.scene.fold.subject(subject)
        one = command(subject, *events, previous=(row.offset, row.entry), domain=ERASURES)
        self.scene.facts(one)

    def memory_fold(self, topic: str, partition: int) -> Any:
        assert (topic, partition) == (trust.ERASURES_TOPIC, 0)
        return Scene(topic=topic, partition=0, domain=ERASURES).fold

    def reader(self) -> Any:
        def read(topic: str, partition: int, begin: int) -> Iterator[LogRecord]:
            return MemoryLog(*self.scene.log.records).read(topic, partition, begin)

        return SimpleNamespace(read=read, close=lambda: None)

    def keys(self, vault: Path | None = None) -> KeysAtHand:
        return KeysAtHand(self, vault)  # type: ignore[arg-type]


def told(history: History, keys: Keys) -> list[tuple[str, str]]:
    return audit(history.records(), keys=keys).found


def test_erased_is_what_the_log_says_and_an_old_vault_changes_nothing(
    vault: Vault, tmp_path: Path
) -> None:
    history, auditor = lived(vault), Auditor(tmp_path)
    read(history, vault)
    read(history, vault, party=BEN)
    old = tmp_path / "old.sqlite"
    old.write_bytes(vault.path.read_bytes())
    assert told(history, auditor.keys()) == []
    auditor.said(SubjectErased(MOVED_IN))
    vault.destroy(ANNA)
    erased = [("CANNOT TELL", "erased")]
    assert told(history, auditor.keys()) == erased
    assert told(history, auditor.keys(old)) == erased, "although it has the key"
    assert told(history, opening(Vault.look_into(old))) == [], "who asks the keys alone is fooled"


def test_a_destroyed_key_without_the_fact_is_a_key_that_is_missing(
    vault: Vault, tmp_path: Path
) -> None:
    history, auditor = lived(vault), Auditor(tmp_path)
    read(history, vault)
    keys = auditor.keys()
    vault.destroy(ANNA)
    assert told(history, keys) == [("CANNOT TELL", "keys not at hand")]
    auditor.said(SubjectErased(MOVED_IN))
    assert told(history, keys) == [("CANNOT TELL", "erased")], "it reads on before it says so"


def test_what_is_restricted_is_not_opened_for_an_audit(vault: Vault, tmp_path: Path) -> None:
    history, auditor = lived(vault), Auditor(tmp_path)
    read(history, vault)
    auditor.said(SubjectRestricted("TAX_RECORDS", EXPIRES, MOVED_IN))
    assert told(history, auditor.keys()) == [("CANNOT TELL", "restricted")]


def test_without_a_vault_no_key_is_at_hand_and_a_wrong_one_is_refused(
    vault: Vault, tmp_path: Path
) -> None:
    history = lived(vault)
    read(history, vault)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    auditor = Auditor(elsewhere)
    assert told(history, auditor.keys()) == [("CANNOT TELL", "keys not at hand")]
    assert told(history, auditor.keys(vault.path)) == []
    with pytest.raises(Invalid) as refused:
        auditor.keys(elsewhere / "none.sqlite")
    assert refused.value.reason is Reason.FILE_UNREADABLE


def test_an_erasure_during_an_audit_is_seen_whatever_vault_it_was_given(
    vault: Vault, tmp_path: Path
) -> None:
    history, auditor = lived(vault), Auditor(tmp_path)
    read(history, vault)
    old = tmp_path / "old.sqlite"
    old.write_bytes(vault.path.read_bytes())
    keys = auditor.keys(old)
    assert told(history, keys) == []
    auditor.said(SubjectErased(MOVED_IN))
    assert told(history, keys) == [("CANNOT TELL", "erased")]
    assert told(history, opening(Vault.look_into(old))) == [], "who looks once is fooled"


def test_a_subject_that_has_another_key_now_makes_no_server_different(
    vault: Vault, tmp_path: Path
) -> None:
    """A vault was lost, and something new was sealed for the same consumer."""
    history, elsewhere = lived(vault), tmp_path / "elsewhere"
    elsewhere.mkdir()
    read(history, vault)
    lost = Vault.open(elsewhere / VAULT_FILE)
    new = lost.seal(ANNA, "notice/consent-3", NOTICE.encode())
    history.facts(structs.replace(granted("consent-3"), notice=new))
    auditor = Auditor(elsewhere)
    not_at_hand = ("CANNOT TELL", "keys not at hand")
    assert told(history, auditor.keys()) == [not_at_hand]
    assert told(history, auditor.keys(vault.path)) == [], "the vault that it was read with"
    read(history, lost, vector=history.positions(*HERE))  # shows what the new key opens
    assert told(history, auditor.keys()) == [not_at_hand] * 2
    assert told(history, auditor.keys(vault.path)) == [not_at_hand]
    naive = told(history, whatever_opens(lost))
    assert [verdict for verdict, _ in naive] == ["DIFFERENT"], "it would accuse an honest server"
    lost.close()


def test_of_fields_of_which_none_opens_there_is_no_answer_to_be_judged(
    vault: Vault, tmp_path: Path
) -> None:
    """Nothing in it would say that its digest is under another key than theirs."""
    history, elsewhere = lived(vault), tmp_path / "elsewhere"
    elsewhere.mkdir()
    lost = Vault.open(elsewhere / VAULT_FILE)
    lost.seal(ANNA, "notice/consent-3", NOTICE.encode())
    asked = history.ask(history.asked(**OWN), vector=history.positions(*HERE))
    (decided,) = asked.decided
    sealed = history.answer(asked.record, decided).sealed
    assert lost.open_for(ANNA, sealed) is None
    naive = lost.keyed(ANNA, bare_digest(sealed, [None] * len(sealed)))
    history.tell(history.outcome(asked.record, decided, digest=naive))
    assert told(history, Auditor(elsewhere).keys()) == [("CANNOT TELL", "keys not at hand")]
    ((verdict, _),) = told(history, Auditor(tmp_path).keys())
    assert verdict == "DIFFERENT", "a naive answer accuses an honest server, once the vault is back"
    lost.close()


@pytest.mark.parametrize("content", [b"", b"garbage" * 1_000])
def test_a_vault_of_its_own_that_cannot_be_read_ends_no_audit(
    vault: Vault, tmp_path: Path, content: bytes
) -> None:
    history, elsewhere = lived(vault), tmp_path / "elsewhere"
    elsewhere.mkdir()
    read(history, vault)
    (elsewhere / VAULT_FILE).write_bytes(content)
    auditor = Auditor(elsewhere)
    assert told(history, auditor.keys()) == [("CANNOT TELL", "keys not at hand")]
    with pytest.raises(Invalid):
        auditor.keys(elsewhere / VAULT_FILE)


def test_a_vault_that_proves_damaged_on_the_way_has_no_key_at_hand(
    vault: Vault, tmp_path: Path
) -> None:
    history, damaged = lived(vault), tmp_path / "damaged.sqlite"
    read(history, vault)
    with closing(sqlite3.connect(damaged)) as db:
        db.execute("CREATE TABLE keys (key_id TEXT, subject TEXT, key BLOB)")
    with pytest.raises(sqlite3.Error):
        Vault.look_into(damaged).open_for(ANNA, [])
    assert told(history, Auditor(tmp_path).keys(damaged)) == [("CANNOT TELL", "keys not at hand")]


def test_a_text_is_in_no_repr(vault: Vault) -> None:
    assert "Anna" not in repr(PersonalText("name", "t-1", "Anna"))
    assert page_of((), ANNA) == page_of((), ANNA, 7) == Page((), 0)
